//! Value states: one row per key and namespace (Flink: ValueState).

use forebay_proto::{packed::AnswersBuilder, reason::Refused};

use super::{State, WriteContext};
use crate::storage::{Backend, row};

pub(super) fn get(
    backend: &dyn Backend,
    state: &State,
    row_key: &[u8],
    answers: &mut AnswersBuilder,
) -> Result<(), Refused> {
    match super::get(backend, state, row_key)? {
        Some((header, payload)) => answers.value(&payload, header.version, header.deadline_ms),
        None => answers.absent(),
    }
    Ok(())
}

pub(super) fn put(context: &mut WriteContext<'_>, state: &State, row_key: &[u8], value: &[u8]) -> Result<(), Refused> {
    context.counters.writes += 1;
    let header = row::Header { version: Some(context.counters.writes), ..context.header() };
    context.writes.put(state.table(), row_key, |out| row::encode(&header, value, out));
    Ok(())
}

pub(super) fn clear(context: &mut WriteContext<'_>, state: &State, row_key: &[u8]) -> Result<(), Refused> {
    context.writes.delete(state.table(), row_key);
    Ok(())
}
