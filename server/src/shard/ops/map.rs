//! Map states: an entry is a row, so entries come sorted by map key (Flink: MapState).

use std::ops::ControlFlow;

use forebay_proto::{packed::AnswersBuilder, reason::Refused, v1::ErrorReason as Reason};

use super::{ANSWER_BYTES_MAX, State, WriteContext};
use crate::{
    shard::key,
    storage::{Backend, row},
};

pub(super) fn get(
    backend: &dyn Backend,
    state: &State,
    row_key: &mut Vec<u8>,
    map_key: &[u8],
    answers: &mut AnswersBuilder,
) -> Result<(), Refused> {
    row_key.extend_from_slice(map_key);
    super::value::get(backend, state, row_key, answers)
}

pub(super) fn contains(
    backend: &dyn Backend,
    state: &State,
    row_key: &mut Vec<u8>,
    map_key: &[u8],
    answers: &mut AnswersBuilder,
) -> Result<(), Refused> {
    row_key.extend_from_slice(map_key);
    match super::get(backend, state, row_key)? {
        Some(_) => answers.value(&[], None, None),
        None => answers.absent(),
    }
    Ok(())
}

pub(super) fn entries(
    backend: &dyn Backend,
    state: &State,
    prefix: &[u8],
    limit: u32,
    with_values: bool,
    answers: &mut AnswersBuilder,
) -> Result<(), Refused> {
    let (mut entries, mut bytes, mut refused) = (0u32, 0, None);
    answers.begin_items();
    super::scan(backend, state, prefix, &key::successor(prefix), &mut |row_key, stored| {
        match super::decode(state, stored) {
            Ok((_, payload)) => {
                bytes += row_key.len() + payload.len();
                answers.push_item(&row_key[prefix.len()..]);
                if with_values {
                    answers.push_item(payload);
                }
            }
            Err(error) => refused = Some(error),
        }
        entries += 1;
        if bytes > ANSWER_BYTES_MAX {
            refused = Some(too_long(state));
        }
        if refused.is_some() || entries == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    answers.end_items();
    refused.map_or(Ok(()), Err)
}

pub(super) fn put(
    context: &mut WriteContext<'_>,
    state: &State,
    row_key: &mut Vec<u8>,
    map_key: &[u8],
    value: &[u8],
) -> Result<(), Refused> {
    row_key.extend_from_slice(map_key);
    let header = context.header();
    context.writes.put(state.table(), row_key, |out| row::encode(&header, value, out));
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

fn too_long(state: &State) -> Refused {
    let message = format!("a map of state {:?} is over {ANSWER_BYTES_MAX} bytes: read it in pages", state.name());
    Refused::new(Reason::ListTooLong, message)
}
