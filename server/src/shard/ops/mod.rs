//! What operations mean, expressed on a backend: one file per kind of state.
//!
//! Reads fill answers; writes fill a batch and touch nothing else, so that a batch that is refused at
//! its last operation has had no effect.

mod list;
mod map;
mod reducing;
mod value;

use std::ops::ControlFlow;

use bytes::Bytes;
use forebay_proto::{
    key_group::KeyGroup,
    packed::{AnswersBuilder, Op},
    reason::Refused,
    v1,
};
use v1::{ErrorReason as Reason, OpKind, StateKind};

use super::{key, states::State};
use crate::storage::{self, Backend, Writes, row};

/// Most bytes that one operation answers; a longer list is paged.
pub const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Counters of the shard, stored with every write and never reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Number of the last list append.
    pub appends: u64,
    /// Number of the last value write; the version of values.
    pub writes: u64,
}

/// An operation with its state and place.
#[derive(Debug, Clone, Copy)]
pub struct Placed<'a> {
    /// The operation.
    pub op: Op<'a>,
    /// Its state.
    pub state: &'a State,
    /// Its key group.
    pub group: KeyGroup,
}

/// What a write works on.
pub struct WriteContext<'a> {
    /// The shard's rows as they were before the batch.
    pub backend: &'a dyn Backend,
    /// The batch.
    pub writes: &'a mut Writes,
    /// The shard's counters, as of this batch.
    pub counters: &'a mut Counters,
    /// The shard's processing clock.
    pub now_ms: i64,
    /// A buffer for row keys.
    pub row_key: &'a mut Vec<u8>,
}

impl WriteContext<'_> {
    fn header(&self) -> row::Header {
        row::Header { write_ms: self.now_ms, deadline_ms: None, version: None }
    }
}

/// Reads one operation.
pub fn read(
    placed: Placed<'_>,
    backend: &dyn Backend,
    row_key: &mut Vec<u8>,
    answers: &mut AnswersBuilder,
) -> Result<(), Refused> {
    let Placed { op, state, group } = placed;
    expect_kind(placed)?;
    key::prefix(row_key, group, op.key, op.namespace);
    match op.kind {
        OpKind::ValueGet => value::get(backend, state, row_key, answers),
        OpKind::ListGet => list::get(backend, state, row_key, op.limit, answers),
        OpKind::MapGet => map::get(backend, state, row_key, op.map_key, answers),
        OpKind::MapContains => map::contains(backend, state, row_key, op.map_key, answers),
        OpKind::MapEntries => map::entries(backend, state, row_key, op.limit, true, answers),
        OpKind::MapKeys => map::entries(backend, state, row_key, op.limit, false, answers),
        OpKind::ReducingGet => reducing::get(backend, state, row_key, answers),
        other if other.is_write() => Err(malformed(format!("{} in a read batch", other.as_str_name()))),
        other => Err(unsupported(other)),
    }
}

/// Adds one operation to a batch.
pub fn write(placed: Placed<'_>, context: &mut WriteContext<'_>) -> Result<(), Refused> {
    let Placed { op, state, group } = placed;
    expect_kind(placed)?;
    let mut row_key = std::mem::take(context.row_key);
    key::prefix(&mut row_key, group, op.key, op.namespace);
    let result = match op.kind {
        OpKind::ValuePut => value::put(context, state, &row_key, op.value),
        OpKind::ValueClear => value::clear(context, state, &row_key),
        OpKind::ListAppend => list::append(context, state, &mut row_key, op.value),
        OpKind::ListAppendAll => list::append_all(context, state, &mut row_key, op.value),
        OpKind::ListPut => list::put(context, state, &mut row_key, op.value),
        OpKind::ListClear | OpKind::MapClear => clear_run(context, state, &row_key),
        OpKind::MapPut => map::put(context, state, &mut row_key, op.map_key, op.value),
        OpKind::MapRemove => map::remove(context, state, &mut row_key, op.map_key),
        OpKind::ReducingAdd => reducing::add(context, state, &row_key, op.value),
        OpKind::ReducingClear => value::clear(context, state, &row_key),
        other if !other.is_write() => Err(malformed(format!("{} in a write batch", other.as_str_name()))),
        other => Err(unsupported(other)),
    };
    *context.row_key = row_key;
    result
}

/// Removes all rows under a prefix: row by row while they are few, since a range delete slows later
/// scans, and as a range beyond that.
fn clear_run(context: &mut WriteContext<'_>, state: &State, prefix: &[u8]) -> Result<(), Refused> {
    const ROWS_MAX: usize = 1000;
    let end = key::successor(prefix);
    // A list or map may have grown in this very batch, where the backend does not show it yet.
    if !context.writes.is_empty() {
        context.writes.delete_range(state.table(), prefix, &end);
        return Ok(());
    }
    let mut rows = Vec::new();
    let mut visit = |row_key: &[u8], _: &[u8]| {
        rows.push(row_key.to_vec());
        if rows.len() > ROWS_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    scan(context.backend, state, prefix, &end, &mut visit)?;
    if rows.len() > ROWS_MAX {
        context.writes.delete_range(state.table(), prefix, &end);
    } else {
        rows.iter().for_each(|row_key| context.writes.delete(state.table(), row_key));
    }
    Ok(())
}

/// Reads a row's payload; absent if its table was never written.
fn get(backend: &dyn Backend, state: &State, row_key: &[u8]) -> Result<Option<(row::Header, Bytes)>, Refused> {
    match backend.get(state.table(), row_key) {
        Ok(None) | Err(storage::Error::NoTable(_)) => Ok(None),
        Ok(Some(stored)) => {
            let (header, payload) = decode(state, &stored)?;
            let payload = stored.slice_ref(payload);
            Ok(Some((header, payload)))
        }
        Err(error) => Err(failed(&error)),
    }
}

fn scan(
    backend: &dyn Backend,
    state: &State,
    start: &[u8],
    end: &[u8],
    visit: storage::Visitor<'_>,
) -> Result<(), Refused> {
    match backend.scan(state.table(), start, end, visit) {
        Ok(()) | Err(storage::Error::NoTable(_)) => Ok(()),
        Err(error) => Err(failed(&error)),
    }
}

fn decode<'a>(state: &State, stored: &'a [u8]) -> Result<(row::Header, &'a [u8]), Refused> {
    row::decode(stored).map_err(|error| {
        let message = format!("a row of state {:?} cannot be read: {error}", state.name());
        Refused::new(Reason::RowCorrupt, message)
    })
}

fn expect_kind(placed: Placed<'_>) -> Result<(), Refused> {
    let Some(wanted) = placed.op.kind.state_kind() else { return Ok(()) };
    let state = placed.state;
    if wanted == state.kind() {
        return Ok(());
    }
    let message = format!(
        "state {:?} is a {}, the operation is {}: use an operation of its kind",
        state.name(),
        name(state.kind()),
        placed.op.kind.as_str_name()
    );
    Err(Refused::new(Reason::WrongKind, message))
}

fn name(kind: StateKind) -> String {
    kind.as_str_name().trim_start_matches("STATE_KIND_").to_lowercase()
}

fn unsupported(kind: OpKind) -> Refused {
    let message = format!("{} is not served by this build", kind.as_str_name());
    Refused::new(Reason::Unsupported, message)
}

fn malformed(message: String) -> Refused {
    Refused::new(Reason::Malformed, message)
}

/// Turns a failure of the storage into what a caller can act on.
pub fn failed(error: &storage::Error) -> Refused {
    let reason = match error {
        storage::Error::DiskFull { .. } => Reason::DiskFull,
        // What was acknowledged cannot be read any more: the shard goes back to its checkpoint.
        storage::Error::Corrupt { .. } => Reason::ShardLost,
        storage::Error::NoTable(_) | storage::Error::Refused { .. } => Reason::Internal,
        storage::Error::Io { .. } => Reason::Io,
    };
    Refused::new(reason, error.to_string())
}

/// Returns up to `limit` rows with `start <= key < end`: row key and payload.
pub fn rows(
    backend: &dyn Backend,
    state: &State,
    start: &[u8],
    end: &[u8],
    limit: usize,
) -> Result<Vec<(Vec<u8>, Bytes)>, Refused> {
    let (mut rows, mut refused) = (Vec::new(), None);
    scan(backend, state, start, end, &mut |row_key, stored| {
        match decode(state, stored) {
            Ok((_, payload)) => rows.push((row_key.to_vec(), Bytes::copy_from_slice(payload))),
            Err(error) => refused = Some(error),
        }
        if refused.is_some() || rows.len() >= limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    refused.map_or(Ok(rows), Err)
}
