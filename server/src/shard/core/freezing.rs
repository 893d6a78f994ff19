//! Freezing: at a writer's barrier, by command, or exactly at a batch of a lane.

use forebay_proto::{reason::Refused, v1};
use v1::ErrorReason as Reason;

use super::{
    super::{gate, lanes::LaneId, ops},
    Core, Moment,
};
use crate::storage::{self, NoFiles, TableId};

/// What a barrier froze, before it is uploaded.
pub struct Snapshot {
    /// The barrier.
    pub barrier: v1::BarrierOp,
    /// Generation of the job at the barrier.
    pub generation: u64,
    /// Epoch of the writer that sent it.
    pub writer_epoch: u64,
    /// The rows; an error if they could not be frozen.
    pub frozen: storage::Result<Box<dyn storage::Frozen>>,
    /// What the manifest says of the shard, without files.
    pub record: v1::ShardSnapshot,
    /// What it may build on besides the barrier's base.
    pub bases: Vec<v1::ExternalSnapshot>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("barrier", &self.barrier).finish_non_exhaustive()
    }
}

impl Core {
    /// Freezes the shard by command, not by a writer's barrier; for shared operators.
    pub fn snapshot(&mut self, barrier: v1::BarrierOp) -> Snapshot {
        self.durable.frozen(barrier.checkpoint, self.lanes.marks());
        self.keep_view(barrier.checkpoint);
        let frozen = self.backend.freeze();
        self.frozen(barrier, frozen)
    }

    /// Freezes the shard if a batch is the last one of its lane that was applied; `None` if it is not applied yet. A
    /// shard without rows needs no files.
    pub fn freeze_at(&mut self, lane: LaneId, after: u64, moment: Moment) -> Result<Option<Snapshot>, Refused> {
        self.is_whole()?;
        gate::own_right(moment.lease)?;
        let mark = self.lanes.get(lane).ok_or_else(gate::lane_expired)?.mark;
        if mark < after {
            return Ok(None);
        }
        if mark > after {
            let message = format!("the lane is at batch {mark}, past {after}: ask before the next batch is sent");
            return Err(Refused::new(Reason::CheckpointAborted, message).with("mark", mark));
        }
        let frozen = if self.has_rows().map_err(|error| ops::failed(&error))? {
            self.backend.freeze()
        } else {
            Ok(Box::new(NoFiles) as Box<dyn storage::Frozen>)
        };
        let mut snapshot = self.frozen(v1::BarrierOp::default(), frozen);
        snapshot.record.frozen_ms = moment.wall_ms;
        Ok(Some(snapshot))
    }

    fn frozen(&self, barrier: v1::BarrierOp, frozen: storage::Result<Box<dyn storage::Frozen>>) -> Snapshot {
        let (generation, record) = (self.rights.generation, self.record());
        Snapshot { barrier, generation, writer_epoch: 0, frozen, record, bases: Vec::new() }
    }

    /// True if a state has a row, expired or not.
    fn has_rows(&self) -> storage::Result<bool> {
        let (start, end) = self.identity.range.row_bounds();
        for table in self.tables.iter().filter(|table| **table != TableId::SHARD) {
            let mut found = false;
            self.backend.scan(*table, &start, &end, &mut |_, _| {
                found = true;
                std::ops::ControlFlow::Break(())
            })?;
            if found {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn record(&self) -> v1::ShardSnapshot {
        v1::ShardSnapshot {
            operator: self.identity.operator.clone(),
            start: self.identity.range.start(),
            end: self.identity.range.end(),
            epoch: self.rights.shard_epoch,
            incarnation: self.rights.incarnation,
            backend: self.identity.backend as i32,
            state_ids: self.state_ids(),
            lanes: self.lanes.records(),
            clock_ms: self.meta.clock_ms,
            watermark_ms: self.meta.watermark_ms,
            positions: self.positions.to_wire(),
            ..Default::default()
        }
    }

    fn state_ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self.tables.iter().map(|table| table.0).filter(|id| *id != 0).collect();
        ids.sort_unstable();
        ids
    }
}
