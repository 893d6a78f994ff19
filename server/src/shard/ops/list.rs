//! List states: a row per append under a shard-wide append number, so that an append never reads
//! (Flink: ListState). An emptied list is absent.

use forebay_proto::{
    packed::{AnswersBuilder, Op},
    packed_list,
    reason::Refused,
};

use super::{Rows, State, WriteContext, clear_run, page::Page};
use crate::{
    seeded::{self, Bug},
    shard::key,
    storage::row,
};

/// Reads the elements behind the number in the operation's value, if there is one.
pub(super) fn get(
    rows: &Rows<'_>,
    state: &State,
    prefix: &[u8],
    op: &Op<'_>,
    answers: &mut AnswersBuilder,
) -> Result<(), Refused> {
    let mut page = Page::begin(state, op.limit, answers);
    let start = match op.value.len() {
        0 => prefix.to_vec(),
        8 => [prefix, op.value, &[0]].concat(),
        other => return Err(super::malformed(format!("the number of a list element has {other} bytes: 8 are needed"))),
    };
    rows.scan(state, &start, &key::successor(prefix), &mut |row_key, _, payload| {
        let pushed = page.push(&[payload], answers)?;
        if pushed.is_continue()
            && let Ok(number) = row_key[prefix.len()..].try_into()
        {
            answers.last_number(u64::from_be_bytes(number));
        }
        Ok(pushed)
    })
}

pub(super) fn append(
    context: &mut WriteContext<'_>,
    state: &State,
    row_key: &mut Vec<u8>,
    op: &Op<'_>,
    element: &[u8],
) -> Result<(), Refused> {
    let header = context.header(state, op);
    push(context, state, row_key, &header, element);
    Ok(())
}

pub(super) fn append_all(
    context: &mut WriteContext<'_>,
    state: &State,
    row_key: &mut Vec<u8>,
    op: &Op<'_>,
) -> Result<(), Refused> {
    packed_list::validate(op.value).map_err(|error| super::malformed(error.to_string()))?;
    let header = context.header(state, op);
    if seeded::is(Bug::ListOrderSwapped) {
        let mut elements: Vec<&[u8]> = packed_list::iter(op.value).collect();
        elements.reverse();
        elements.iter().for_each(|element| push(context, state, row_key, &header, element));
        return Ok(());
    }
    packed_list::iter(op.value).for_each(|element| push(context, state, row_key, &header, element));
    Ok(())
}

pub(super) fn put(
    context: &mut WriteContext<'_>,
    state: &State,
    row_key: &mut Vec<u8>,
    op: &Op<'_>,
) -> Result<(), Refused> {
    clear_run(context, state, row_key)?;
    append_all(context, state, row_key, op)
}

/// Adds an element with a header of its own.
pub(super) fn push(
    context: &mut WriteContext<'_>,
    state: &State,
    row_key: &mut Vec<u8>,
    header: &row::Header,
    element: &[u8],
) {
    context.counters.appends += 1;
    let prefix = row_key.len();
    row_key.extend_from_slice(&context.counters.appends.to_be_bytes());
    context.writes.put(state.table(), row_key, |out| row::encode(header, element, out));
    row_key.truncate(prefix);
}
