//! A job's part in checkpoints: what its shards have frozen goes to the store.

use std::sync::Arc;

use forebay_proto::v1;
use tracing::{info, warn};
use v1::link_request::Message as Up;

use super::{
    super::{
        core::Snapshot,
        disk::{self, ShardDir},
        portable::Portable,
        snapshot::{self, Failed, Known, Names, Target},
    },
    Job, Status,
};
use crate::{
    checkpoint::{layout, manifest},
    storage::Frozen,
};

impl Job {
    /// Takes note that a round begins.
    pub fn round_started(self: &Arc<Self>, started: v1::RoundStarted) {
        let Some(savepoint) = started.savepoint.clone() else {
            return self.rounds.started(&started, self.target());
        };
        // To open another store takes time; the shards wait until it is known.
        let job = self.clone();
        tokio::spawn(async move {
            match job.savepoint_target(&savepoint).await {
                Ok(target) => job.rounds.started(&started, target),
                Err(cause) => job.rounds.refused(&started, job.target(), cause),
            }
        });
    }

    async fn savepoint_target(&self, savepoint: &v1::SavepointTarget) -> Result<Target, String> {
        let store = self.environment.stores.at(&savepoint.location).await.map_err(|error| error.to_string())?;
        let Some(folder) = layout::Job::at(&savepoint.prefix) else {
            return Err(format!("the savepoint's folder {:?} leaves its store", savepoint.prefix));
        };
        Ok(Target { store, job: folder, names: Names::Savepoint, uploads: self.environment.uploads.clone() })
    }

    /// Takes note that a round has ended.
    pub async fn round_ended(&self, ended: v1::RoundEnded) {
        self.rounds.ended(&ended);
        let retained = ended.retained;
        if let Some(checkpoint) = ended.checkpoint_entry {
            let mut completed = self.completed.lock().expect("no panics under this lock");
            completed.insert(checkpoint.id, checkpoint);
            completed.retain(|id, _| retained.contains(id));
        }
        self.news.notify_waiters();
        // What is still uploaded is of use to a later round.
        let keep = |id: u64| {
            retained.contains(&id)
                || id > ended.checkpoint
                || self.rounds.is_under_way(id)
                || self.prepared.is_brought(id)
        };
        for slot in &self.view().slots {
            match &slot.status {
                Status::Serving(shard) if ended.completed => shard.completed(ended.checkpoint).await,
                Status::Serving(shard) => shard.aborted(ended.checkpoint).await,
                _ => {}
            }
            if let Err(error) = self.shard_dir(&slot.entry).remove_copies(keep) {
                warn!(%error, "local copies of old checkpoints cannot be removed");
            }
        }
        let _tidying = self.tidying.lock().expect("no panics under this lock");
        let view = self.view();
        self.remove_others(view.slots.iter().map(|slot| &slot.entry), keep);
    }

    /// Removes the files of shards that are not among these, but for local copies that `keep` says.
    pub(super) fn remove_others<'a>(
        &self,
        here: impl Iterator<Item = &'a v1::ShardEntry> + Clone,
        keep: impl Fn(u64) -> bool + Copy,
    ) {
        let is_here = |operator: &str, start, end| {
            here.clone().any(|entry| (&entry.operator[..], entry.start, entry.end) == (operator, start, end))
        };
        if let Err(error) = disk::remove_others(&self.dir, is_here, keep) {
            warn!(%error, "files of shards that are not here any more cannot be removed");
        }
    }

    fn target(&self) -> Target {
        Target {
            store: self.environment.stores.own().clone(),
            job: self.paths.clone(),
            names: Names::Shared(self.environment.server.clone()),
            uploads: self.environment.uploads.clone(),
        }
    }

    /// What the store holds of a base; read once for all shards.
    async fn base(&self, base: u64) -> Arc<Known> {
        let mut known = self.base.lock().await;
        if let Some((id, known)) = &*known
            && *id == base
        {
            return known.clone();
        }
        let entry = self.completed.lock().expect("no panics under this lock").get(&base).cloned();
        // Files elsewhere are only read: the first checkpoint of one's own holds everything.
        let elsewhere = entry.is_some_and(|entry| !entry.location.is_empty() || !entry.prefix.is_empty());
        if base == 0 || elsewhere {
            return Arc::default();
        }
        match self.manifest(base).await {
            Ok((manifest, _)) => known.insert((base, Arc::new(Known::of(&manifest)))).1.clone(),
            Err(error) => {
                warn!(%error, base, "the base cannot be read: everything is uploaded");
                Arc::default()
            }
        }
    }

    /// What the store holds of snapshots of another engine.
    async fn external_bases(&self, bases: &[v1::ExternalSnapshot]) -> Vec<Arc<Known>> {
        let mut known = Vec::new();
        for base in bases {
            match manifest::open(&self.environment.stores, &self.paths, &manifest::of_external(base)).await {
                Ok((manifest, _)) => known.push(Arc::new(Known::of(&manifest))),
                Err(error) => warn!(%error, base = base.manifest, "a base cannot be read: everything is uploaded"),
            }
        }
        known
    }

    /// Uploads what a shard has frozen, and tells what came of it.
    pub(super) async fn upload(&self, taken: Snapshot, dir: &ShardDir) -> Up {
        let Snapshot { barrier, generation, writer_epoch, frozen, mut record, bases } = taken;
        let (operator, start, end) = (record.operator.clone(), record.start, record.end);
        let serving = self.view().slots.iter().filter(|slot| matches!(slot.status, Status::Serving(_))).count();
        let shards = u32::try_from(serving).unwrap_or(u32::MAX);
        self.rounds.heard(barrier.checkpoint, &barrier.round).await;
        let under_way = self.rounds.begin(barrier.checkpoint, &barrier.round, shards, self.target());
        let copy = dir.copy(barrier.checkpoint, &barrier.round);
        // A savepoint stands alone: it refers to nothing that is there already.
        let mut bases = self.external_bases(&bases).await;
        if under_way.savepoint.is_none() {
            bases.push(self.base(barrier.base).await);
        }
        let known: Vec<&Known> = bases.iter().map(Arc::as_ref).chain([&under_way.left]).collect();
        let frozen = match under_way.savepoint {
            Some(v1::SavepointFormat::Canonical) => {
                record.canonical = true;
                frozen.map(|frozen| self.portable(frozen, &record, barrier.checkpoint))
            }
            _ => frozen,
        };
        let uploaded = match &under_way.refused {
            Some(cause) => Err(Failed::local(&copy, cause)),
            None => {
                let (target, packer) = (&under_way.target, &under_way.packer);
                snapshot::upload(frozen, record, copy.clone(), &known, target, packer).await
            }
        };
        let slices = match &uploaded {
            _ if under_way.savepoint.is_some() => &Vec::new(),
            Ok(snapshot) => &snapshot.files,
            Err(failed) => &failed.uploaded,
        };
        let is_kept = || self.completed.lock().expect("no panics under this lock").contains_key(&barrier.checkpoint);
        if (under_way.reported(slices) && !is_kept() || under_way.savepoint.is_some())
            && let Err(error) = disk::remove_dir(&copy)
        {
            warn!(%error, "the local copy of an aborted checkpoint or a savepoint cannot be removed");
        }
        match uploaded {
            Ok(snapshot) => {
                info!(
                    checkpoint = barrier.checkpoint,
                    operator,
                    start,
                    files = snapshot.files.len(),
                    new_bytes = snapshot.new_bytes,
                    puts = snapshot.puts,
                    "shard snapshot uploaded"
                );
                Up::Snapshot(v1::SnapshotReport {
                    job_uid: self.uid.clone(),
                    checkpoint: barrier.checkpoint,
                    round: barrier.round,
                    coordinator_epoch: barrier.coordinator_epoch,
                    generation,
                    writer_epoch,
                    snapshot: Some(snapshot),
                })
            }
            Err(failed) => {
                warn!(error = %failed.error, checkpoint = barrier.checkpoint, operator, start, "shard snapshot failed");
                Up::Failed(v1::SnapshotFailed {
                    job_uid: self.uid.clone(),
                    checkpoint: barrier.checkpoint,
                    round: barrier.round,
                    operator,
                    start,
                    end,
                    cause: failed.error.to_string(),
                    uploaded: failed.uploaded,
                })
            }
        }
    }

    /// What is frozen, as rows that every backend reads.
    fn portable(&self, frozen: Box<dyn Frozen>, record: &v1::ShardSnapshot, checkpoint: u64) -> Box<dyn Frozen> {
        let view = self.view();
        let of_operator = view.states.iter().filter(|state| state.operator == record.operator);
        Box::new(Portable {
            frozen,
            backends: self.environment.backends.clone(),
            kind: record.backend(),
            durability: view.spec.durability(),
            head: v1::CanonicalHead {
                job_uid: self.uid.clone(),
                checkpoint,
                operator: record.operator.clone(),
                start: record.start,
                end: record.end,
                states: of_operator.cloned().collect(),
            },
        })
    }
}
