//! One attempt at a checkpoint. Pure.
//!
//! `collecting → storing → done`: a round collects the snapshots of all shards and the worker state of
//! all workers, each of which must come from exactly the grants the round was started under. Anything
//! else is dropped; what counts as a failure agrees with Flink's CheckpointFailureManager.

use std::collections::BTreeMap;

use forebay_proto::v1;

use super::{external, machine::Token};
use crate::checkpoint::layout;

/// Who wants a checkpoint. Later ones come first (Flink: CheckpointRequestDecider).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The clock.
    #[default]
    Periodic,
    /// Somebody who asked for a checkpoint.
    Manual,
    /// Leases or shards that are to change: the workers stand still behind its barrier.
    Stop,
    /// Somebody who asked for a savepoint: it stands alone, so it neither subsumes nor is subsumed.
    Savepoint,
    /// Another engine, of one shard that it has opened; the job's own rounds take no notice of it.
    External,
    /// A shard that goes to another server: what its former one held goes along.
    Handover,
}

impl Kind {
    /// True for a round that is one of the job's series of checkpoints.
    pub fn in_series(self) -> bool {
        matches!(self, Self::Periodic | Self::Manual | Self::Stop)
    }

    /// True for a round of a single shard, which has nothing to do with the job's checkpoints.
    pub fn is_of_one_shard(self) -> bool {
        matches!(self, Self::External | Self::Handover)
    }
}

/// What another engine wants of a round.
#[derive(Debug, Clone, PartialEq)]
pub struct External {
    /// What its manifest says.
    pub record: v1::ExternalRecord,
    /// What may build on it.
    pub policy: v1::BasePolicy,
}

/// A shard's place: operator, first key group, end of the key groups.
pub type Place = (String, u32, u32);

/// Returns a shard's place.
pub fn place(entry: &v1::ShardEntry) -> Place {
    (entry.operator.clone(), entry.start, entry.end)
}

/// What a shard's report must carry to count.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Expected {
    epoch: u64,
    incarnation: u64,
    writer_epoch: u64,
    /// The move that the shard is on; 0 for none.
    handover: u64,
    snapshot: Option<v1::ShardSnapshot>,
}

impl Expected {
    fn of(entry: &v1::ShardEntry) -> Self {
        Self {
            epoch: entry.epoch,
            incarnation: entry.incarnation,
            writer_epoch: entry.writer.as_ref().map_or(0, |writer| writer.epoch),
            handover: entry.move_number(),
            snapshot: None,
        }
    }

    /// True if the shard is granted as it was.
    fn is(&self, entry: &v1::ShardEntry) -> bool {
        Self { snapshot: self.snapshot.clone(), ..Self::of(entry) } == *self
    }
}

/// A round.
#[derive(Debug, Clone, PartialEq)]
pub struct Round {
    /// The checkpoint.
    pub checkpoint: u64,
    /// The attempt.
    pub id: String,
    /// The completed checkpoint it builds on; 0 for none.
    pub base: u64,
    /// When it was triggered, monotonic.
    pub triggered_ms: i64,
    /// When it was triggered, milliseconds since 1970.
    pub triggered_wall_ms: i64,
    /// The job's generation.
    pub generation: u64,
    /// The coordinator's epoch.
    pub coordinator_epoch: u64,
    pub(super) shards: BTreeMap<Place, Expected>,
    /// By operator and worker: groups name their workers independently of each other.
    pub(super) workers: BTreeMap<(String, String), Option<v1::WorkerState>>,
    /// True once the manifest is being written.
    pub storing: bool,
    /// Who wanted it.
    pub kind: Kind,
    /// Counts this coordinator's rounds.
    pub number: u64,
    /// Who waits for it.
    pub callers: Vec<Token>,
    /// Aborted rounds whose uploads it may use: the head pins them.
    pub reusable: Vec<String>,
    /// Its entry, once the manifest is stored: it waits to be committed.
    pub stored: Option<v1::CompletedCheckpoint>,
    /// True while the head that commits it is being written.
    pub committing: bool,
    /// Where it goes, if it is a savepoint.
    pub savepoint: Option<v1::SavepointTarget>,
    /// Set for a snapshot that another engine takes.
    pub external: Option<External>,
}

/// Names a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Id {
    /// The checkpoint.
    pub checkpoint: u64,
    /// The attempt.
    pub round: String,
}

impl Round {
    /// Starts a round over the job's own shards as they are granted now, on top of a completed checkpoint; 0 for none.
    pub fn start(head: &v1::JobHead, id: Id, now_ms: i64, wall_ms: i64, base: u64) -> Self {
        let own: Vec<_> = head.shards.iter().filter(|entry| external::is_own(entry)).collect();
        Self::over(head, &own, id, now_ms, wall_ms, base)
    }

    /// Starts a round over one shard that another engine has opened and frozen.
    pub fn external(
        head: &v1::JobHead,
        entry: &v1::ShardEntry,
        id: Id,
        now_ms: i64,
        wall_ms: i64,
        external: External,
    ) -> Self {
        let round = Self::over(head, &[entry], id, now_ms, wall_ms, 0);
        Self { kind: Kind::External, external: Some(external), ..round }
    }

    /// Starts a round over one shard that leaves its server.
    pub fn handover(head: &v1::JobHead, entry: &v1::ShardEntry, id: Id, now_ms: i64, wall_ms: i64, base: u64) -> Self {
        let round = Self::over(head, &[entry], id, now_ms, wall_ms, base);
        // Its workers have nothing to say: no barrier reaches a shard that serves nothing.
        Self { kind: Kind::Handover, workers: BTreeMap::new(), ..round }
    }

    fn over(head: &v1::JobHead, shards: &[&v1::ShardEntry], id: Id, now_ms: i64, wall_ms: i64, base: u64) -> Self {
        let writer = |entry: &v1::ShardEntry| Some((entry.operator.clone(), entry.writer.as_ref()?.worker.clone()));
        Self {
            checkpoint: id.checkpoint,
            id: id.round,
            base,
            triggered_ms: now_ms,
            triggered_wall_ms: wall_ms,
            generation: head.generation,
            coordinator_epoch: head.coordinator_epoch,
            shards: shards.iter().map(|entry| (place(entry), Expected::of(entry))).collect(),
            workers: shards.iter().filter_map(|entry| writer(entry)).map(|worker| (worker, None)).collect(),
            storing: false,
            kind: Kind::Periodic,
            number: 0,
            callers: Vec::new(),
            reusable: Vec::new(),
            stored: None,
            committing: false,
            savepoint: None,
            external: None,
        }
    }

    /// Names the round.
    pub fn id(&self) -> Id {
        Id { checkpoint: self.checkpoint, round: self.id.clone() }
    }

    /// True if a message is of this round.
    pub fn is(&self, checkpoint: u64, round: &str) -> bool {
        self.checkpoint == checkpoint && self.id == round
    }

    /// Takes a worker's report; false if it does not belong to the round.
    pub fn worker_reported(&mut self, operator: &str, worker: &str, report: v1::BarrierReport) -> bool {
        let belongs = self.is(report.checkpoint, &report.round)
            && (report.stopped || self.kind != Kind::Stop)
            && report.generation == self.generation
            && report.coordinator_epoch == self.coordinator_epoch;
        match self.workers.get_mut(&(operator.to_owned(), worker.to_owned())) {
            Some(state) if belongs => {
                *state = Some(report.state.unwrap_or_default());
                true
            }
            _ => false,
        }
    }

    /// Takes a shard's report; false if it does not belong to the round.
    pub fn shard_reported(&mut self, report: v1::SnapshotReport) -> bool {
        let Some(snapshot) = report.snapshot else { return false };
        // Generations are of the job's own shards: an external one stays when the job goes back.
        let of_round = self.is(report.checkpoint, &report.round)
            && (report.generation == self.generation || self.external.is_some())
            && report.coordinator_epoch == self.coordinator_epoch;
        let place = (snapshot.operator.clone(), snapshot.start, snapshot.end);
        let by_barrier = self.kind != Kind::Handover;
        match self.shards.get_mut(&place) {
            Some(expected)
                if of_round
                    && expected.epoch == snapshot.epoch
                    && expected.incarnation == snapshot.incarnation
                    && (expected.writer_epoch == report.writer_epoch || !by_barrier) =>
            {
                expected.snapshot = Some(snapshot);
                true
            }
            _ => false,
        }
    }

    /// True once everything has been reported.
    pub fn complete(&self) -> bool {
        self.workers.values().all(Option::is_some) && self.shards.values().all(|shard| shard.snapshot.is_some())
    }

    /// True if the grants are still those the round was started under.
    pub fn agrees_with(&self, head: &v1::JobHead) -> bool {
        let same = |entry: &v1::ShardEntry| self.shards.get(&place(entry)).is_some_and(|expected| expected.is(entry));
        if self.kind.is_of_one_shard() {
            return head.shards.iter().any(|entry| external::is_own(entry) != self.external.is_some() && same(entry));
        }
        let mut own = head.shards.iter().filter(|entry| external::is_own(entry));
        head.generation == self.generation && own.clone().count() == self.shards.len() && own.all(same)
    }

    /// True if a head holds what the round was for.
    pub fn is_in(&self, head: &v1::JobHead) -> bool {
        match self.kind {
            Kind::External => head.external_snapshots.iter().any(|snapshot| snapshot.checkpoint == self.checkpoint),
            Kind::Handover => {
                head.shards.iter().filter_map(v1::ShardEntry::handed_over).any(|stored| stored.id == self.checkpoint)
            }
            _ => head.completed.iter().any(|entry| entry.id == self.checkpoint),
        }
    }

    /// The shards that take part.
    pub fn shards(&self) -> impl Iterator<Item = &Place> {
        self.shards.keys()
    }

    /// The manifest of a complete round.
    pub fn manifest(&self, head: &v1::JobHead) -> v1::Manifest {
        v1::Manifest {
            checkpoint: self.checkpoint,
            round: self.id.clone(),
            job_uid: head.job_uid.clone(),
            generation: self.generation,
            coordinator_epoch: self.coordinator_epoch,
            base: self.base,
            spec: head.spec.clone(),
            states: head.states.clone(),
            shards: self.shards.values().filter_map(|shard| shard.snapshot.clone()).collect(),
            workers: self.workers.values().flatten().cloned().collect(),
            triggered_ms: self.triggered_wall_ms,
            written_by: concat!("forebay ", env!("CARGO_PKG_VERSION")).to_owned(),
            external: self.external_record(),
        }
    }

    fn external_record(&self) -> Option<v1::ExternalRecord> {
        let frozen_ms = self.shards.values().filter_map(|shard| Some(shard.snapshot.as_ref()?.frozen_ms)).max();
        let record = self.external.as_ref()?.record.clone();
        Some(v1::ExternalRecord { frozen_ms: frozen_ms.unwrap_or_default(), ..record })
    }

    /// What tells a shard's server to take part; shards of workers hear it by their barriers.
    pub fn command(&self, head: &v1::JobHead, entry: &v1::ShardEntry) -> v1::SnapshotCommand {
        v1::SnapshotCommand {
            job_uid: head.job_uid.clone(),
            operator: entry.operator.clone(),
            start: entry.start,
            end: entry.end,
            checkpoint: self.checkpoint,
            round: self.id.clone(),
            base: self.base,
            coordinator_epoch: self.coordinator_epoch,
            ..Default::default()
        }
    }

    /// True if shards of a server have not been reported yet.
    pub fn awaits(&self, head: &v1::JobHead, server: &str) -> bool {
        let of_server = head.shards.iter().filter(|entry| entry.server == server);
        of_server.filter_map(|entry| self.shards.get(&place(entry))).any(|expected| expected.snapshot.is_none())
    }

    /// How far the round is.
    pub fn progress(&self) -> v1::RoundProgress {
        let reported = self.shards.values().filter(|shard| shard.snapshot.is_some()).count();
        v1::RoundProgress {
            checkpoint: self.checkpoint,
            round: self.id.clone(),
            triggered_ms: self.triggered_wall_ms,
            shards_done: reported as u32,
            shards: self.shards.len() as u32,
            workers_done: self.workers.values().flatten().count() as u32,
            workers: self.workers.len() as u32,
            savepoint: self.savepoint.is_some(),
        }
    }

    /// The entry of a savepoint that all have reported, as its folder is to tell it.
    pub fn savepoint_entry(&self, head: &v1::JobHead, completed_ms: i64) -> v1::CompletedCheckpoint {
        let target = self.savepoint.clone().unwrap_or_default();
        let job = head.spec.as_ref().map(|spec| spec.name.clone()).unwrap_or_default();
        v1::CompletedCheckpoint {
            location: target.location.clone(),
            prefix: target.prefix.clone(),
            format: target.format,
            savepoint: true,
            job,
            ..self.entry(0, 0, completed_ms)
        }
    }

    /// True if a snapshot's files are where the round's are to be: a server that has not heard that it is a savepoint
    /// puts them elsewhere.
    pub fn is_in_place(&self, snapshot: &v1::ShardSnapshot) -> bool {
        self.savepoint.is_none() || snapshot.files.iter().all(|file| layout::is_of_savepoint(&file.object))
    }

    /// The round's entry in the head, once its manifest is stored.
    pub fn entry(&self, manifest_crc32c: u32, manifest_bytes: u64, completed_ms: i64) -> v1::CompletedCheckpoint {
        let (new_bytes, full_bytes, files) = self.bytes();
        let snapshots = self.shards.values().filter_map(|shard| shard.snapshot.as_ref());
        v1::CompletedCheckpoint {
            id: self.checkpoint,
            manifest: layout::manifest(self.checkpoint, &self.id),
            manifest_crc32c,
            manifest_bytes,
            triggered_ms: self.triggered_wall_ms,
            completed_ms,
            full_bytes,
            new_bytes,
            files,
            generation: self.generation,
            // Manifest and head are one request each.
            puts: snapshots.map(|snapshot| snapshot.puts).sum::<u64>() + 2,
            ..Default::default()
        }
    }

    /// The job's objects that the reported snapshots name.
    pub fn objects(&self) -> impl Iterator<Item = &str> {
        let snapshots = self.shards.values().filter_map(|shard| shard.snapshot.as_ref());
        snapshots.flat_map(|snapshot| &snapshot.files).filter(|file| file.origin == 0).map(|file| file.object.as_str())
    }

    /// The objects that the round uploaded and a later one may use: those whose content has an identity.
    pub fn uploads(&self) -> impl Iterator<Item = &v1::SnapshotFile> {
        let snapshots = self.shards.values().filter_map(|shard| shard.snapshot.as_ref());
        snapshots.flat_map(|snapshot| &snapshot.files).filter(|file| reusable(file))
    }

    /// The shards that take part on a server.
    pub fn shards_on(&self, head: &v1::JobHead, server: &str) -> usize {
        let of_server = head.shards.iter().filter(|entry| entry.server == server);
        of_server.filter(|entry| self.shards.contains_key(&place(entry))).count()
    }

    /// The bytes the round uploaded, and those it refers to.
    fn bytes(&self) -> (u64, u64, u64) {
        let snapshots = || self.shards.values().filter_map(|shard| shard.snapshot.as_ref());
        (
            snapshots().map(|snapshot| snapshot.new_bytes).sum(),
            snapshots().map(|snapshot| snapshot.full_bytes).sum(),
            snapshots().map(|snapshot| snapshot.files.len() as u64).sum(),
        )
    }
}

/// True for a file that a round uploaded and that a later round may name instead of uploading it again.
pub fn reusable(file: &v1::SnapshotFile) -> bool {
    file.uploaded && file.origin == 0 && (!file.sst_id.is_empty() || !file.log_id.is_empty())
}

/// Why a round was aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It took too long.
    Expired,
    /// A worker declined its barrier.
    Declined,
    /// A shard could not be stored.
    Io,
    /// The manifest or the head could not be written.
    Finalize,
    /// The job was rewound, or a grant changed.
    Changed,
    /// A later one has completed.
    Subsumed,
    /// It names an object that is being deleted: the next round uploads anew.
    Collected,
}

impl Cause {
    /// True if it counts as a failure of the job (Flink: IO_EXCEPTION, CHECKPOINT_ASYNC_EXCEPTION,
    /// CHECKPOINT_DECLINED, CHECKPOINT_EXPIRED, FINALIZE_CHECKPOINT_FAILURE).
    pub fn counted(self) -> bool {
        !matches!(self, Self::Changed | Self::Subsumed | Self::Collected)
    }
}

#[cfg(test)]
mod tests;
