//! What goes into a lane, and what comes out of it.

use std::collections::HashMap;

use bytes::Bytes;
use forebay_proto::{KeyGroupRange, reason::Refused, v1};

/// What a lane leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The operator.
    pub operator: String,
    /// The shard's key groups.
    pub range: KeyGroupRange,
    /// The shard's epoch, as the routing says.
    pub shard_epoch: u64,
    /// Epoch of the writer's lease; 0 for shared operators and for reading.
    pub writer_epoch: u64,
}

/// What a write batch does; all of it or nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Write {
    /// The operations.
    pub ops: Option<v1::PackedOps>,
    /// A barrier behind the operations.
    pub barrier: Option<v1::BarrierOp>,
    /// A watermark behind the operations, milliseconds since 1970.
    pub watermark_ms: Option<i64>,
    /// Source positions stored with the operations (`recovery: shard`).
    pub positions: HashMap<String, Bytes>,
    /// Raises the durability of this batch. One that waits for a checkpoint stays in flight until then, so
    /// leave room in the window for the barrier that the checkpoint needs.
    pub durability: v1::Durability,
    /// When the batch was made, milliseconds since 1970; sent again unchanged.
    pub now_ms: i64,
}

impl Write {
    /// Returns true if taking the batch out would lose something.
    pub(super) fn has_effect(&self) -> bool {
        self.ops.as_ref().is_some_and(|ops| !ops.kinds.is_empty())
            || self.watermark_ms.is_some()
            || !self.positions.is_empty()
    }
}

/// What a lane is waiting for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// A stream: its owner calls [`Lane::attach`] when it has one.
    Detached,
    /// The answer to its OpenLane.
    Opening,
    /// Nothing: batches may be sent.
    Open,
    /// Time: its owner calls [`Lane::retry`] after a while, not before the refusal's `retry_after`.
    Waiting(Refused),
    /// The shard's new place: its owner looks it up, calls [`Lane::moved`] and attaches it there.
    Moved(Refused),
    /// Nothing any more: every pending batch has been completed with this reason.
    Ended(Refused),
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// The batch, as [`Lane::write`] or [`Lane::read`] named it.
    pub ticket: u64,
    /// Its outcome.
    pub outcome: Outcome,
}

/// The outcomes of a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// A write batch was applied, now or before, and is as durable as asked for.
    Written {
        /// The number under which it was applied.
        seq: u64,
        /// The answer.
        answer: v1::BatchAnswer,
    },
    /// A read batch was answered.
    Read(v1::BatchAnswer),
    /// Nothing of it was or will be applied; the lane goes on without it.
    Refused(Refused),
    /// A barrier that stood behind a refused batch; it was not and will not be applied.
    Withdrawn,
    /// The lane has ended. Whether a write batch was applied is not known.
    Ended(Refused),
}
