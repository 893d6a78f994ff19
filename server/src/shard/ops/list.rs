//! List states: a row per append under a shard-wide append number, so that an append never reads
//! (Flink: ListState). An emptied list is absent.

use std::ops::ControlFlow;

use forebay_proto::{packed::AnswersBuilder, packed_list, reason::Refused, v1::ErrorReason as Reason};

use super::{ANSWER_BYTES_MAX, State, WriteContext, clear_run};
use crate::{
    shard::key,
    storage::{Backend, row},
};

pub(super) fn get(
    backend: &dyn Backend,
    state: &State,
    prefix: &[u8],
    limit: u32,
    answers: &mut AnswersBuilder,
) -> Result<(), Refused> {
    let (mut elements, mut bytes, mut refused) = (0u32, 0, None);
    answers.begin_items();
    super::scan(backend, state, prefix, &key::successor(prefix), &mut |_, stored| {
        match super::decode(state, stored) {
            Ok((_, payload)) => {
                bytes += payload.len();
                answers.push_item(payload);
            }
            Err(error) => refused = Some(error),
        }
        elements += 1;
        if bytes > ANSWER_BYTES_MAX {
            refused = Some(too_long(state));
        }
        if refused.is_some() || elements == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    answers.end_items();
    refused.map_or(Ok(()), Err)
}

pub(super) fn append(
    context: &mut WriteContext<'_>,
    state: &State,
    row_key: &mut Vec<u8>,
    element: &[u8],
) -> Result<(), Refused> {
    context.counters.appends += 1;
    let prefix = row_key.len();
    row_key.extend_from_slice(&context.counters.appends.to_be_bytes());
    let header = context.header();
    context.writes.put(state.table(), row_key, |out| row::encode(&header, element, out));
    row_key.truncate(prefix);
    Ok(())
}

pub(super) fn append_all(
    context: &mut WriteContext<'_>,
    state: &State,
    row_key: &mut Vec<u8>,
    elements: &[u8],
) -> Result<(), Refused> {
    packed_list::validate(elements).map_err(|error| super::malformed(error.to_string()))?;
    packed_list::iter(elements).try_for_each(|element| append(context, state, row_key, element))
}

pub(super) fn put(
    context: &mut WriteContext<'_>,
    state: &State,
    row_key: &mut Vec<u8>,
    elements: &[u8],
) -> Result<(), Refused> {
    clear_run(context, state, row_key)?;
    append_all(context, state, row_key, elements)
}

fn too_long(state: &State) -> Refused {
    let message =
        format!("a list of state {:?} is over {ANSWER_BYTES_MAX} bytes: read it in pages (limit)", state.name());
    Refused::new(Reason::ListTooLong, message)
}
