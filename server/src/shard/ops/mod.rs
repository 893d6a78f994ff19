//! What operations mean, expressed on rows: one file per kind of state.
//!
//! Reads fill answers; writes fill a batch and touch nothing else, so that a batch that is refused at
//! its last operation has had no effect. Rows that have expired by the moment of the batch are not there.

mod list;
mod map;
mod merging;
mod multimap;
mod page;
mod points;
mod reducing;
mod rows;
mod sorted_set;
#[cfg(test)]
mod tests;
mod touch;
mod value;

use forebay_proto::{
    key_group::KeyGroup,
    packed::{AnswersBuilder, Op},
    reason::Refused,
    v1,
};
use v1::{ErrorReason as Reason, OpKind, StateKind};

use super::{key, states::State};
use crate::storage::{self, Writes};

pub use crate::storage::row::Header;
pub use multimap::{entry as multimap_entry, unescape};
pub use page::{ANSWER_BYTES_MAX, check_bytes};
pub use points::{TOGETHER_MAX, read_together, together};
pub use rows::{Rows, decode};

/// Rows that a clear removes one by one; a range delete slows later scans, so it is for more.
const CLEARED_ROWS_MAX: usize = 1000;

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
    pub rows: Rows<'a>,
    /// The batch.
    pub writes: &'a mut Writes,
    /// The shard's counters, as of this batch.
    pub counters: &'a mut Counters,
    /// Index of the operation in its batch.
    pub index: usize,
    /// Verdicts of compare-and-sets so far, by index: 1 swapped, 2 not swapped.
    pub verdicts: &'a mut Vec<u8>,
    /// A buffer for row keys.
    pub row_key: &'a mut Vec<u8>,
}

impl WriteContext<'_> {
    fn header(&self, state: &State, op: &Op<'_>) -> Header {
        state.ttl().header(&self.rows.clocks, op.expires_at_ms)
    }

    fn verdict(&mut self, swapped: bool) {
        self.verdicts.resize(self.index, 0);
        self.verdicts.push(if swapped { 1 } else { 2 });
    }
}

/// Reads one operation.
pub fn read(
    placed: Placed<'_>,
    rows: &Rows<'_>,
    row_key: &mut Vec<u8>,
    answers: &mut AnswersBuilder,
) -> Result<(), Refused> {
    let Placed { op, state, .. } = placed;
    expect_kind(placed)?;
    address(row_key, &placed);
    match op.kind {
        OpKind::ValueGet => value::get(rows, state, row_key, answers),
        OpKind::ListGet => list::get(rows, state, row_key, &op, answers),
        OpKind::MapGet => map::get(rows, state, row_key, op.map_key, answers),
        OpKind::MapContains => map::contains(rows, state, row_key, op.map_key, answers),
        OpKind::MapEntries => map::entries(rows, state, row_key, &op, true, answers),
        OpKind::MapKeys | OpKind::SortedSetFirst => map::entries(rows, state, row_key, &op, false, answers),
        OpKind::MultimapGet => {
            multimap::entry(row_key, op.map_key);
            list::get(rows, state, row_key, &op, answers)
        }
        OpKind::MultimapKeys => multimap::keys(rows, state, row_key, &op, answers),
        OpKind::ReducingGet | OpKind::AggregatingGet => reducing::get(rows, state, row_key, answers),
        OpKind::SortedSetCount => sorted_set::count(rows, state, row_key, answers),
        other if other.is_write() => Err(malformed(format!("{} in a read batch", other.as_str_name()))),
        other => Err(unsupported(other)),
    }
}

/// Adds one operation to a batch.
pub fn write(placed: Placed<'_>, context: &mut WriteContext<'_>) -> Result<(), Refused> {
    let Placed { op, state, .. } = placed;
    expect_kind(placed)?;
    let mut row_key = std::mem::take(context.row_key);
    address(&mut row_key, &placed);
    let result = match op.kind {
        OpKind::ValuePut => value::put(context, state, &row_key, &op),
        OpKind::ValueClear | OpKind::ReducingClear | OpKind::AggregatingClear => {
            value::clear(context, state, &row_key);
            Ok(())
        }
        OpKind::ValueCas | OpKind::ValueCasVersion | OpKind::ValueCasClear | OpKind::ValueCasVersionClear => {
            value::compare_and_set(context, state, &row_key, &op)
        }
        OpKind::ListAppend => list::append(context, state, &mut row_key, &op, op.value),
        OpKind::ListAppendAll => list::append_all(context, state, &mut row_key, &op),
        OpKind::ListPut => list::put(context, state, &mut row_key, &op),
        OpKind::ListClear | OpKind::MapClear | OpKind::MultimapClear => clear_run(context, state, &row_key),
        OpKind::MapPut | OpKind::SortedSetAdd => map::put(context, state, &mut row_key, &op),
        OpKind::MapRemove | OpKind::SortedSetRemove => map::remove(context, state, &mut row_key, op.map_key),
        OpKind::MapClearRange => map::clear_range(context, state, &row_key, &op),
        OpKind::MultimapAppend => {
            multimap::entry(&mut row_key, op.map_key);
            list::append(context, state, &mut row_key, &op, op.value)
        }
        OpKind::MultimapRemove => {
            multimap::entry(&mut row_key, op.map_key);
            clear_run(context, state, &row_key)
        }
        OpKind::ReducingAdd | OpKind::AggregatingAdd => reducing::add(context, state, &row_key, &op),
        OpKind::MergeNamespaces => merging::merge_namespaces(context, &placed, &row_key),
        OpKind::Touch => touch::touch(context, &placed, &mut row_key),
        other if !other.is_write() => Err(malformed(format!("{} in a write batch", other.as_str_name()))),
        other => Err(unsupported(other)),
    };
    *context.row_key = row_key;
    result
}

/// Writes the row key, or the prefix of row keys, that an operation is on.
fn address(row_key: &mut Vec<u8>, placed: &Placed<'_>) {
    if placed.state.kind() == StateKind::SortedSet {
        key::group_prefix(row_key, placed.group);
    } else {
        key::prefix(row_key, placed.group, placed.op.key, placed.op.namespace);
    }
}

/// Removes all rows under a prefix.
fn clear_run(context: &mut WriteContext<'_>, state: &State, prefix: &[u8]) -> Result<(), Refused> {
    clear_between(context, state, prefix, &key::successor(prefix))
}

fn clear_between(context: &mut WriteContext<'_>, state: &State, start: &[u8], end: &[u8]) -> Result<(), Refused> {
    match context.rows.keys_until(context.writes, state, (start, end), CLEARED_ROWS_MAX)? {
        Some(keys) => keys.iter().for_each(|row_key| context.writes.delete(state.table(), row_key)),
        None => context.writes.delete_range(state.table(), start, end),
    }
    Ok(())
}

fn expect_kind(placed: Placed<'_>) -> Result<(), Refused> {
    let Some(wanted) = placed.op.kind.state_kind() else { return Ok(()) };
    let state = placed.state;
    if wanted == state.kind() { Ok(()) } else { Err(wrong_kind(placed.op.kind, state)) }
}

fn wrong_kind(kind: OpKind, state: &State) -> Refused {
    let message = format!(
        "state {:?} is a {}, the operation is {}: use an operation of its kind",
        state.name(),
        state.kind().as_str_name().trim_start_matches("STATE_KIND_").to_lowercase(),
        kind.as_str_name()
    );
    Refused::new(Reason::WrongKind, message)
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
        storage::Error::MemoryFull { .. } => Reason::Quota,
        // What was acknowledged cannot be read any more: the shard goes back to its checkpoint.
        storage::Error::Corrupt { .. } => Reason::ShardLost,
        storage::Error::NoTable(_) | storage::Error::Refused { .. } => Reason::Internal,
        storage::Error::Io { .. } => Reason::Io,
    };
    Refused::new(reason, error.to_string())
}
