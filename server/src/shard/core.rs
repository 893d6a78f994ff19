//! One shard: its rights, lanes, states and rows, and what a request does to them.
//!
//! Synchronous and used by one thread at a time (`thread.rs` gives it one); knows no clock, no network
//! and no object store, so the simulation runs exactly this code.

mod freezing;
mod opening;
mod storing;
mod sweep;
mod views;
mod writing;

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use forebay_proto::{
    key_group::{KeyGroupRange, MaxParallelism},
    packed::{AnswersBuilder, Ops},
    reason::Refused,
    v1,
};
use v1::ErrorReason as Reason;

pub use self::{
    freezing::Snapshot,
    views::{Frozen, none_completed},
};
use self::{sweep::Sweep, views::Views, writing::with_verdicts};
use super::{
    durable::Durable,
    gate::{self, Ask, Caller, Pass, Rights},
    lanes::{LaneId, Lanes},
    meta::{self, Loaded, Meta},
    ops::{self, Rows},
    place,
    positions::Positions,
    requests::RequestIds,
    states::States,
    ttl::Clocks,
};
use crate::{
    seeded::{self, Bug},
    storage::{self, Backend, Logging, Read, TableId, Writes},
};

/// What stays the same for the life of a shard.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The operator.
    pub operator: String,
    /// The range.
    pub range: KeyGroupRange,
    /// The job's number of key groups.
    pub max_parallelism: MaxParallelism,
    /// True if requests name their key group and keys are not hashed.
    pub explicit: bool,
    /// What a failure takes back: under [`v1::Recovery::Shard`] the shard keeps source positions.
    pub recovery: v1::Recovery,
    /// The job's durability.
    pub durability: v1::Durability,
    /// Largest value, in bytes.
    pub max_value_bytes: usize,
    /// Most lanes.
    pub max_lanes: usize,
    /// Where the bytes are.
    pub backend: v1::Backend,
}

/// The moment at which a request is handled.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Wall-clock time, milliseconds since 1970.
    pub wall_ms: i64,
    /// True if the server's own lease is valid.
    pub lease: bool,
}

/// Where a batch stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// A write batch of a lane.
    Write(LaneId, u64),
    /// A read batch of a lane, to be served once the mark is reached.
    Read(LaneId, u64),
    /// A write outside any lane; with a request id, a retry is answered and not applied again.
    PlainWrite(Option<String>),
    /// A read outside any lane.
    PlainRead,
}

/// Operations for the shard.
#[derive(Debug)]
pub struct Batch {
    /// Who asks.
    pub caller: Caller,
    /// Where the batch stands.
    pub order: Order,
    /// The operations.
    pub ops: v1::PackedOps,
    /// A barrier behind them.
    pub barrier: Option<v1::BarrierOp>,
    /// Asks for more than the job's durability.
    pub durability: v1::Durability,
    /// The caller's time, milliseconds since 1970; 0 is unknown.
    pub now_ms: i64,
    /// A watermark behind the operations; only of a lease holder.
    pub watermark_ms: Option<i64>,
    /// Source positions that are stored with the operations.
    pub positions: HashMap<String, Bytes>,
    /// True if the reads are of the last completed checkpoint.
    pub committed: bool,
}

/// A batch was done.
#[derive(Debug, Default)]
pub struct Done {
    /// True if it had been applied before.
    pub duplicate: bool,
    /// Answers of reads.
    pub answers: v1::PackedAnswers,
    /// How far the lane is.
    pub progress: v1::Progress,
    /// What its barrier froze.
    pub snapshot: Option<Snapshot>,
    /// Version of the value written last.
    pub version: u64,
}

/// One shard.
pub struct Core {
    identity: Identity,
    rights: Rights,
    states: States,
    lanes: Lanes,
    meta: Meta,
    requests: RequestIds,
    positions: Positions,
    durable: Durable,
    tables: HashSet<TableId>,
    backend: Box<dyn Backend>,
    writes: Writes,
    row_key: Vec<u8>,
    views: Views,
    sweep: Sweep,
    /// True if what was applied last survives the process, but not yet the machine, as it should.
    unsynced: bool,
    failed: Option<String>,
    lost: Option<String>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("identity", &self.identity).field("rights", &self.rights).finish_non_exhaustive()
    }
}

impl Core {
    /// Takes up a shard whose backend is open: reads its lanes, counters and clocks.
    pub fn load(
        identity: Identity,
        rights: Rights,
        states: States,
        backend: Box<dyn Backend>,
    ) -> storage::Result<Self> {
        let Loaded { meta, lanes, requests, positions } = Loaded::read(backend.as_ref())?;
        let mut core = Self {
            identity,
            rights,
            states,
            lanes,
            meta,
            requests,
            positions,
            durable: Durable::default(),
            tables: backend.tables().into_iter().map(|table| table.id).collect(),
            backend,
            writes: Writes::default(),
            row_key: Vec::new(),
            views: Views::default(),
            sweep: Sweep::default(),
            unsynced: false,
            failed: None,
            lost: None,
        };
        core.ensure_table(storage::Table { id: TableId::SHARD, merge: None })?;
        core.set_compaction_ages();
        Ok(core)
    }

    /// Begins a new incarnation on restored rows: its lanes end (semantics.md, section 3).
    pub fn end_lanes(&mut self) -> storage::Result<()> {
        self.lanes = Lanes::default();
        let mut writes = Writes::default();
        for (first, behind) in [meta::LANES, meta::VERDICTS] {
            writes.delete_range(TableId::SHARD, first, behind);
        }
        self.backend.write(&writes, self.logging(v1::Durability::Unspecified))
    }

    /// Takes up new rights and states.
    pub fn update(&mut self, rights: Rights, states: States) {
        self.rights = rights;
        self.states = states;
        self.set_compaction_ages();
    }

    /// What the shard may do.
    pub fn rights(&self) -> &Rights {
        &self.rights
    }

    /// Approximate size in bytes.
    pub fn bytes(&self) -> u64 {
        self.backend.bytes()
    }

    /// Set once a write failed in a way that leaves the outcome open: the process must end.
    pub fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// Set once the shard has found that what it acknowledged is not there, or cannot be read: it serves nothing more.
    pub fn lost(&self) -> Option<&str> {
        self.lost.as_deref()
    }

    /// Does a batch: all of it, or nothing.
    pub fn batch(&mut self, batch: &Batch, moment: Moment) -> Result<Done, Refused> {
        let done = self.apply_batch(batch, moment);
        self.sync()?;
        done
    }

    /// Does a batch as [`Core::batch`] does, but for the sync; several of them can share one.
    pub fn apply_batch(&mut self, batch: &Batch, moment: Moment) -> Result<Done, Refused> {
        if let Some(cause) = &self.failed {
            return Err(Refused::new(Reason::Io, format!("the shard has failed: {cause}")));
        }
        self.is_whole()?;
        let done = self.try_batch(batch, moment);
        self.note_loss(done)
    }

    fn try_batch(&mut self, batch: &Batch, moment: Moment) -> Result<Done, Refused> {
        let ask = ask(batch);
        match gate::check(&self.rights, &self.lanes, moment.lease, &batch.caller, ask)? {
            Pass::Go => {}
            Pass::Duplicate => return Ok(self.duplicate(batch)),
        }
        self.advance_clock(moment);
        let ops = Ops::decode(&batch.ops).map_err(|error| Refused::new(Reason::Malformed, error.to_string()))?;
        match &batch.order {
            Order::Write(lane, seq) => self.write(batch, ops, Some((*lane, *seq, digest_of(ask)))),
            Order::PlainWrite(Some(id)) if self.requests.applied_with(id).is_some() => Ok(self.duplicate(batch)),
            Order::PlainWrite(_) => self.write(batch, ops, None),
            Order::Read(..) | Order::PlainRead => self.read(batch, ops),
        }
    }

    /// Takes note that a checkpoint is complete.
    pub fn checkpoint_completed(&mut self, checkpoint: u64) {
        self.durable.completed(checkpoint);
        self.views.completed(checkpoint);
    }

    /// The completed checkpoint that contains a batch of a lane, if there is one yet.
    pub fn durable(&self, lane: LaneId, seq: u64) -> Result<Option<u64>, Refused> {
        if self.rights.access == v1::Access::External {
            let message =
                "the shard is another engine's, and so are its checkpoints: that engine knows what is durable";
            return Err(Refused::new(Reason::Unsupported, message));
        }
        self.lanes.get(lane).ok_or_else(gate::lane_expired)?;
        Ok((self.durable.mark(lane) >= seq).then(|| self.durable.checkpoint()))
    }

    fn read(&mut self, batch: &Batch, ops: Ops<'_>) -> Result<Done, Refused> {
        let mut answers = AnswersBuilder::new();
        let mut row_key = std::mem::take(&mut self.row_key);
        let committed = if batch.committed { Some(self.views.committed()?) } else { None };
        let read: &dyn Read = match &committed {
            Some(view) => view.as_ref(),
            None => self.backend.as_ref(),
        };
        let rows = Rows { read, clocks: self.clocks(batch.now_ms) };
        let placed = |(index, op)| place::place(&self.identity, &self.states, op).map_err(|refused| at(refused, index));
        let placed = ops.iter().enumerate().map(placed).collect::<Result<Vec<_>, _>>()?;
        let mut index = 0;
        for run in placed.chunk_by(ops::together).flat_map(|run| run.chunks(ops::TOGETHER_MAX)) {
            let read = match run {
                [alone] => ops::read(*alone, &rows, &mut row_key, &mut answers)
                    .and_then(|()| ops::check_bytes(&answers))
                    .map_err(|refused| (0, refused)),
                run => ops::read_together(run, &rows, &mut row_key, &mut answers),
            };
            read.map_err(|(place, refused)| at(refused, index + place))?;
            index += run.len();
        }
        self.row_key = row_key;
        Ok(Done { answers: answers.finish(), ..self.done(&batch.order) })
    }

    /// Ends the shard's service: somebody has found that it cannot be read.
    pub fn lose(&mut self, cause: String) {
        self.lost.get_or_insert(cause);
    }

    fn is_whole(&self) -> Result<(), Refused> {
        self.lost.as_ref().map_or(Ok(()), |cause| Err(Refused::new(Reason::ShardLost, cause)))
    }

    /// Whatever answers SHARD_LOST ends the shard's service, whoever asked.
    fn note_loss<T>(&mut self, result: Result<T, Refused>) -> Result<T, Refused> {
        if let Err(refused) = &result
            && refused.reason == Reason::ShardLost
        {
            self.lost = Some(refused.message.clone());
        }
        result
    }

    fn ensure_table(&mut self, table: storage::Table) -> storage::Result<()> {
        if self.tables.insert(table.id) {
            self.backend.create_table(table)?;
            self.set_compaction_ages();
        }
        Ok(())
    }

    fn advance_clock(&mut self, moment: Moment) {
        self.meta.clock_ms = self.meta.clock_ms.max(moment.wall_ms);
    }

    /// Answers a batch that was applied before, with the verdicts it had then.
    fn duplicate(&self, batch: &Batch) -> Done {
        let verdicts = match &batch.order {
            Order::Write(..) if seeded::is(Bug::VerdictLost) => &[],
            Order::Write(lane, seq) => self.lanes.verdicts(*lane, *seq),
            Order::PlainWrite(Some(id)) => self.requests.applied_with(id).unwrap_or_default(),
            _ => &[],
        };
        Done { duplicate: true, answers: with_verdicts(verdicts), ..self.done(&batch.order) }
    }

    /// The shard's clocks, for a caller whose own says `now_ms`.
    fn clocks(&self, now_ms: i64) -> Clocks {
        let processing_ms = self.meta.clock_ms;
        let writer_ms = if now_ms == 0 { processing_ms } else { now_ms };
        Clocks { processing_ms, watermark_ms: self.meta.watermark_ms, writer_ms }
    }

    fn done(&self, order: &Order) -> Done {
        let lane = match order {
            Order::Write(lane, _) | Order::Read(lane, _) => Some(*lane),
            Order::PlainWrite(_) | Order::PlainRead => None,
        };
        Done { progress: self.progress(lane), ..Done::default() }
    }

    fn progress(&self, lane: Option<LaneId>) -> v1::Progress {
        let applied = lane.and_then(|lane| self.lanes.get(lane)).map_or(0, |lane| lane.mark);
        let synced = self.logging(v1::Durability::Unspecified) == Logging::Synced;
        v1::Progress {
            generation: self.rights.generation,
            incarnation: self.rights.incarnation,
            applied,
            synced: if synced { applied } else { 0 },
            checkpointed: lane.map_or(0, |lane| self.durable.mark(lane)),
            clock_ms: self.meta.clock_ms,
            watermark_ms: self.meta.watermark_ms,
        }
    }
}

fn ask(batch: &Batch) -> Ask {
    match &batch.order {
        Order::Write(lane, seq) => {
            Ask::Write { lane: *lane, seq: *seq, digest: digest(batch), barrier: batch.barrier.is_some() }
        }
        Order::Read(lane, after) => Ask::Read { lane: *lane, after: *after },
        Order::PlainWrite(_) => Ask::PlainWrite,
        Order::PlainRead => Ask::PlainRead,
    }
}

fn digest_of(ask: Ask) -> u64 {
    match ask {
        Ask::Write { digest, .. } => digest,
        _ => 0,
    }
}

/// A digest of what a write batch does, to tell a resend from another batch under the same number.
fn digest(batch: &Batch) -> u64 {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    hasher.update(&batch.ops.kinds);
    hasher.update(&batch.ops.arena);
    let ops = &batch.ops;
    let lens = [&ops.key_lens, &ops.namespace_lens, &ops.map_key_lens, &ops.value_lens];
    for column in [&ops.state_ids, &ops.key_groups, &ops.limits].into_iter().chain(lens) {
        // Columns may be left empty, so their lengths tell them apart.
        hasher.update(&(column.len() as u64).to_le_bytes());
        column.iter().for_each(|entry| hasher.update(&entry.to_le_bytes()));
    }
    for column in [ops.versions.len() as u64, ops.expires_at_ms.len() as u64] {
        hasher.update(&column.to_le_bytes());
    }
    ops.versions.iter().for_each(|entry| hasher.update(&entry.to_le_bytes()));
    ops.expires_at_ms.iter().for_each(|entry| hasher.update(&entry.to_le_bytes()));
    let mut positions: Vec<_> = batch.positions.iter().collect();
    positions.sort_unstable();
    for text in positions.iter().flat_map(|(source, position)| [source.as_bytes(), position]) {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text);
    }
    if let Some(barrier) = &batch.barrier {
        hasher.update(&barrier.checkpoint.to_le_bytes());
        hasher.update(barrier.round.as_bytes());
    }
    hasher.digest()
}

fn at(mut refused: Refused, index: usize) -> Refused {
    refused.message = format!("ops[{index}]: {}", refused.message);
    refused.with("op", index)
}
