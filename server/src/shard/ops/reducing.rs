//! Reducing states: an add is a merge operand, folded by the storage, and never reads
//! (Flink: ReducingState).

use forebay_proto::{packed::AnswersBuilder, reason::Refused, v1::ErrorReason as Reason};

use super::{State, WriteContext};
use crate::storage::{Backend, row};

pub(super) fn get(
    backend: &dyn Backend,
    state: &State,
    row_key: &[u8],
    answers: &mut AnswersBuilder,
) -> Result<(), Refused> {
    match super::get(backend, state, row_key)? {
        Some((header, payload)) => answers.value(&payload, None, header.deadline_ms),
        None => answers.absent(),
    }
    Ok(())
}

pub(super) fn add(
    context: &mut WriteContext<'_>,
    state: &State,
    row_key: &[u8],
    operand: &[u8],
) -> Result<(), Refused> {
    if let Some(function) = state.merge()
        && !function.valid_operand(operand)
    {
        let message = format!(
            "an operand of state {:?} has {} bytes, {} takes 8: encode it with the state's codec",
            state.name(),
            operand.len(),
            function.name()
        );
        return Err(Refused::new(Reason::FieldInvalid, message));
    }
    let header = context.header();
    context.writes.merge(state.table(), row_key, |out| row::encode(&header, operand, out));
    Ok(())
}
