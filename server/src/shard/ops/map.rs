//! Map states: an entry is a row, so entries come sorted by map key (Flink: MapState).

use forebay_proto::{
    packed::{AnswersBuilder, Op},
    reason::Refused,
    v1::OpKind,
};

use super::{Rows, State, WriteContext, clear_between, page::Page};
use crate::{
    seeded::{self, Bug},
    shard::key,
    storage::row,
};

pub(super) fn get(
    rows: &Rows<'_>,
    state: &State,
    row_key: &mut Vec<u8>,
    map_key: &[u8],
    answers: &mut AnswersBuilder,
) -> Result<(), Refused> {
    row_key.extend_from_slice(map_key);
    super::value::get(rows, state, row_key, answers)
}

pub(super) fn contains(
    rows: &Rows<'_>,
    state: &State,
    row_key: &mut Vec<u8>,
    map_key: &[u8],
    answers: &mut AnswersBuilder,
) -> Result<(), Refused> {
    row_key.extend_from_slice(map_key);
    match rows.get(state, row_key)? {
        Some(_) => answers.value(&[], None, None),
        None => answers.absent(),
    }
    Ok(())
}

/// Reads entries from the operation's map key to its value, exclusive, each of which may be empty.
pub(super) fn entries(
    rows: &Rows<'_>,
    state: &State,
    prefix: &[u8],
    op: &Op<'_>,
    with_values: bool,
    answers: &mut AnswersBuilder,
) -> Result<(), Refused> {
    let mut page = Page::begin(state, op.limit, answers);
    let (start, end) = bounds(prefix, op);
    rows.scan(state, &start, &end, &mut |row_key, _, payload| {
        let map_key = &row_key[prefix.len()..];
        if seeded::is(Bug::TimerTwice) && op.kind == OpKind::SortedSetFirst {
            let _ = page.push(&[map_key], answers)?;
        }
        if with_values { page.push(&[map_key, payload], answers) } else { page.push(&[map_key], answers) }
    })
}

pub(super) fn put(
    context: &mut WriteContext<'_>,
    state: &State,
    row_key: &mut Vec<u8>,
    op: &Op<'_>,
) -> Result<(), Refused> {
    row_key.extend_from_slice(op.map_key);
    let header = context.header(state, op);
    context.writes.put(state.table(), row_key, |out| row::encode(&header, op.value, out));
    Ok(())
}

pub(super) fn remove(
    context: &mut WriteContext<'_>,
    state: &State,
    row_key: &mut Vec<u8>,
    map_key: &[u8],
) -> Result<(), Refused> {
    row_key.extend_from_slice(map_key);
    context.writes.delete(state.table(), row_key);
    Ok(())
}

/// Removes entries from the operation's map key to its value, exclusive, each of which may be empty.
pub(super) fn clear_range(
    context: &mut WriteContext<'_>,
    state: &State,
    prefix: &[u8],
    op: &Op<'_>,
) -> Result<(), Refused> {
    let (start, end) = bounds(prefix, op);
    if start < end { clear_between(context, state, &start, &end) } else { Ok(()) }
}

fn bounds(prefix: &[u8], op: &Op<'_>) -> (Vec<u8>, Vec<u8>) {
    let mut end = if op.value.is_empty() { key::successor(prefix) } else { [prefix, op.value].concat() };
    if seeded::is(Bug::MapRangeOffByOne) {
        end.push(0);
    }
    ([prefix, op.map_key].concat(), end)
}
