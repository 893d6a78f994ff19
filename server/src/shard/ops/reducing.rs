//! Reducing and aggregating states: an add is a merge operand, folded by the storage, and never reads
//! (Flink: ReducingState, AggregatingState).

use forebay_proto::{
    merge::MergeFunction,
    packed::{AnswersBuilder, Op},
    reason::Refused,
    v1::ErrorReason as Reason,
};

use super::{Rows, State, WriteContext};
use crate::storage::row;

/// Answers the result; an accumulator without an operand has none.
pub(super) fn get(rows: &Rows<'_>, state: &State, row_key: &[u8], answers: &mut AnswersBuilder) -> Result<(), Refused> {
    match rows.get(state, row_key)? {
        Some((header, payload)) => answer(state, &header, &payload, answers),
        None => answers.absent(),
    }
    Ok(())
}

/// Answers with the result of an accumulator.
pub(super) fn answer(state: &State, header: &row::Header, accumulator: &[u8], answers: &mut AnswersBuilder) {
    match function(state).ok().and_then(|function| function.result(accumulator)) {
        Some(result) => answers.value(&result, None, header.deadline_ms),
        None => answers.absent(),
    }
}

pub(super) fn add(context: &mut WriteContext<'_>, state: &State, row_key: &[u8], op: &Op<'_>) -> Result<(), Refused> {
    let function = function(state)?;
    if !function.valid_operand(op.value) {
        let message = format!(
            "an operand of state {:?} has {} bytes: {function} takes {}",
            state.name(),
            op.value.len(),
            function.operand()
        );
        return Err(Refused::new(Reason::FieldInvalid, message));
    }
    let header = context.header(state, op);
    context.writes.merge(state.table(), row_key, |out| row::encode(&header, op.value, out));
    Ok(())
}

/// The state's function; registration makes sure that there is one.
pub(super) fn function(state: &State) -> Result<MergeFunction, Refused> {
    state.merge().ok_or_else(|| {
        Refused::new(Reason::Internal, format!("state {:?} has no merge function: please report this", state.name()))
    })
}
