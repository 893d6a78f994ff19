//! Value states: one row per key and namespace (Flink: ValueState), and compare-and-set on them.

use bytes::Bytes;
use forebay_proto::{
    packed::{AnswersBuilder, Op},
    packed_list,
    reason::Refused,
    v1::{ErrorReason as Reason, OpKind},
};

use super::{Rows, State, WriteContext};
use crate::storage::row;

pub(super) fn get(rows: &Rows<'_>, state: &State, row_key: &[u8], answers: &mut AnswersBuilder) -> Result<(), Refused> {
    match rows.get(state, row_key)? {
        Some((header, payload)) => answers.value(&payload, header.version, header.deadline_ms),
        None => answers.absent(),
    }
    Ok(())
}

pub(super) fn put(context: &mut WriteContext<'_>, state: &State, row_key: &[u8], op: &Op<'_>) -> Result<(), Refused> {
    replace(context, state, row_key, op, op.value);
    Ok(())
}

pub(super) fn clear(context: &mut WriteContext<'_>, state: &State, row_key: &[u8]) {
    context.writes.delete(state.table(), row_key);
}

/// Replaces or removes a value if it is as expected. One that is not changes nothing, and the rest of the
/// batch applies.
pub(super) fn compare_and_set(
    context: &mut WriteContext<'_>,
    state: &State,
    row_key: &[u8],
    op: &Op<'_>,
) -> Result<(), Refused> {
    let present = context.rows.get_after(context.writes, state, row_key)?;
    let as_expected = match op.kind {
        OpKind::ValueCas => {
            let (expected, _) = pair(op.value)?;
            value_is(present.as_ref(), expected)
        }
        OpKind::ValueCasClear => value_is(present.as_ref(), op.value),
        _ => {
            let expected = op.expected_version.ok_or_else(|| {
                Refused::new(Reason::FieldMissing, "a compare-and-set by version names the version; 0 is absent")
            })?;
            present.as_ref().map_or(0, |(header, _)| header.version.unwrap_or(0)) == expected
        }
    };
    context.verdict(as_expected);
    if as_expected {
        match op.kind {
            OpKind::ValueCas => replace(context, state, row_key, op, pair(op.value)?.1),
            OpKind::ValueCasVersion => replace(context, state, row_key, op, op.value),
            _ => clear(context, state, row_key),
        }
    }
    Ok(())
}

fn replace(context: &mut WriteContext<'_>, state: &State, row_key: &[u8], op: &Op<'_>, value: &[u8]) {
    context.counters.writes += 1;
    let header = row::Header { version: Some(context.counters.writes), ..context.header(state, op) };
    context.writes.put(state.table(), row_key, |out| row::encode(&header, value, out));
}

fn value_is(present: Option<&(row::Header, Bytes)>, expected: &[u8]) -> bool {
    present.is_some_and(|(_, value)| value == expected)
}

fn pair(value: &[u8]) -> Result<(&[u8], &[u8]), Refused> {
    packed_list::split_cas(value).map_err(|error| super::malformed(error.to_string()))
}
