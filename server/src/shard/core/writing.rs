//! A write batch: its operations become rows, and the rows one atomic write together with the lane's mark.

use forebay_proto::{packed::Ops, reason::Refused, v1};
use prost::Message as _;
use v1::ErrorReason as Reason;

use super::{
    super::{
        lanes::{LaneId, Lanes},
        meta::{self, Meta},
        ops::{self, Rows, WriteContext},
        place,
        positions::Positions,
    },
    Batch, Core, Done, Order, Snapshot, at,
};
use crate::{
    seeded::{self, Bug},
    storage::{self, TableId, Writes},
};

impl Core {
    /// Does a write batch: all of it, or nothing.
    pub(super) fn write(
        &mut self,
        batch: &Batch,
        ops: Ops<'_>,
        lane: Option<(LaneId, u64, u64)>,
    ) -> Result<Done, Refused> {
        self.durable_enough(batch.durability)?;
        if batch.watermark_ms.is_some() && self.rights.access == v1::Access::Shared {
            let message = "a watermark is of a writer: the shard is shared, it has none";
            return Err(Refused::new(Reason::FieldInvalid, message));
        }
        if !batch.positions.is_empty() {
            self.keeps_positions()?;
            self.positions.check(&batch.positions)?;
        }
        let mut writes = std::mem::take(&mut self.writes);
        writes.clear();
        let result = self.try_write(batch, ops, lane, &mut writes);
        self.writes = writes;
        let verdicts = result?;
        let snapshot = batch
            .barrier
            .clone()
            .map(|barrier| Snapshot { writer_epoch: batch.caller.writer_epoch, ..self.snapshot(barrier) });
        let version = self.meta.counters.writes;
        Ok(Done { snapshot, version, answers: with_verdicts(&verdicts), ..self.done(&batch.order) })
    }

    fn try_write(
        &mut self,
        batch: &Batch,
        ops: Ops<'_>,
        lane: Option<(LaneId, u64, u64)>,
        writes: &mut Writes,
    ) -> Result<Vec<u8>, Refused> {
        let mut meta = self.meta.clone();
        self.sweep(batch.now_ms, writes)?;
        if self.backend.is_full() && !writes.is_empty() {
            // The batch may be refused, and what has expired is to make room all the same.
            self.store(writes, batch.durability)?;
            writes.clear();
        }
        let mut row_key = std::mem::take(&mut self.row_key);
        let mut tables = Vec::new();
        let mut verdicts = Vec::new();
        let planned = self.plan(
            ops,
            &mut WriteContext {
                rows: Rows { read: self.backend.as_ref(), clocks: self.clocks(batch.now_ms) },
                writes,
                counters: &mut meta.counters,
                index: 0,
                verdicts: &mut verdicts,
                row_key: &mut row_key,
            },
            &mut tables,
        );
        self.row_key = row_key;
        planned?;
        if !verdicts.is_empty() {
            verdicts.resize(ops.len(), 0);
        }
        meta.watermark_ms = meta.watermark_ms.max(batch.watermark_ms);
        self.apply(batch, writes, meta, tables, lane, &verdicts)?;
        self.give_up_expired(batch.now_ms);
        Ok(verdicts)
    }

    fn keeps_positions(&self) -> Result<(), Refused> {
        if self.identity.recovery == v1::Recovery::Shard && self.rights.access == v1::Access::Leased {
            return Ok(());
        }
        let message = "the shard keeps no source positions: the job's recovery is not shard, or the operator is not \
                       leased; positions are worker state then";
        Err(Refused::new(Reason::FieldInvalid, message))
    }

    /// Turns operations into rows; has no effect on the shard.
    fn plan(
        &self,
        ops: Ops<'_>,
        context: &mut WriteContext<'_>,
        tables: &mut Vec<storage::Table>,
    ) -> Result<(), Refused> {
        for (index, op) in ops.iter().enumerate() {
            let placed = place::place(&self.identity, &self.states, op).map_err(|refused| at(refused, index))?;
            context.index = index;
            ops::write(placed, context).map_err(|refused| at(refused, index))?;
            let table = placed.state.spec();
            if !self.tables.contains(&table.id) && !tables.contains(&table) {
                tables.push(table);
            }
        }
        Ok(())
    }

    /// Stores rows, lane mark and counters in one atomic write, and only then counts them as there.
    fn apply(
        &mut self,
        batch: &Batch,
        writes: &mut Writes,
        meta: Meta,
        tables: Vec<storage::Table>,
        lane: Option<(LaneId, u64, u64)>,
        verdicts: &[u8],
    ) -> Result<(), Refused> {
        for table in tables {
            self.ensure_table(table).map_err(|error| ops::failed(&error))?;
        }
        if let Some((lane, seq, digest)) = lane
            && seeded::is(Bug::DuplicateBeforeDurable)
        {
            self.lanes.applied(lane, seq, digest, verdicts, meta.clock_ms);
        }
        if seeded::is(Bug::MarkOutsideTheWrite) {
            self.store(writes, batch.durability)?;
            writes.clear();
        }
        if let Some((lane, seq, _)) = lane {
            let record = self.lanes.record(lane, seq, meta.clock_ms);
            writes.put(TableId::SHARD, &meta::lane_key(lane), |out| out.extend(record.encode_to_vec()));
            for old in self.lanes.with_verdicts(lane).filter(|old| Lanes::outside_window(*old, seq)) {
                writes.delete(TableId::SHARD, &meta::verdict_key(lane, old));
            }
            if !verdicts.is_empty() {
                writes.put(TableId::SHARD, &meta::verdict_key(lane, seq), |out| out.extend_from_slice(verdicts));
            }
        }
        if let Order::PlainWrite(Some(id)) = &batch.order {
            self.requests.store(id, meta.clock_ms, verdicts, writes);
        }
        Positions::store(&batch.positions, writes);
        meta.store(writes);
        self.store(writes, batch.durability)?;
        self.meta = meta;
        if !seeded::is(Bug::StalePositions) {
            self.positions.moved(&batch.positions);
        }
        match (&batch.order, lane) {
            (_, Some((lane, seq, digest))) => self.lanes.applied(lane, seq, digest, verdicts, self.meta.clock_ms),
            (Order::PlainWrite(Some(id)), None) => self.requests.applied(id, self.meta.clock_ms, verdicts),
            _ => {}
        }
        Ok(())
    }
}

/// Answers of a write batch: nothing but verdicts.
pub(super) fn with_verdicts(verdicts: &[u8]) -> v1::PackedAnswers {
    v1::PackedAnswers {
        counts: vec![0; verdicts.len()],
        verdicts: bytes::Bytes::copy_from_slice(verdicts),
        ..Default::default()
    }
}
