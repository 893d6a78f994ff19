//! A job's part in checkpoints: what its shards have frozen goes to the store.

use std::sync::Arc;

use forebay_proto::v1;
use tracing::{info, warn};
use v1::link_request::Message as Up;

use super::{
    super::{
        core::Snapshot,
        disk::{self, ShardDir},
        snapshot::{self, Known, Target},
    },
    Job, Status,
};

impl Job {
    /// Takes note that a round begins.
    pub fn round_started(&self, started: &v1::RoundStarted) {
        self.rounds.started(started, self.target());
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
        // What is still uploaded is of use to a later round.
        let keep = |id: u64| retained.contains(&id) || id > ended.checkpoint || self.rounds.is_under_way(id);
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
        let view = self.view();
        let here = |operator: &str, start, end| {
            let same = |slot: &super::Slot| {
                (&slot.entry.operator[..], slot.entry.start, slot.entry.end) == (operator, start, end)
            };
            view.slots.iter().any(same)
        };
        if let Err(error) = disk::remove_others(&self.dir, here, keep) {
            warn!(%error, "files of shards that are not here any more cannot be removed");
        }
    }

    fn target(&self) -> Target {
        Target {
            store: self.environment.stores.own().clone(),
            job: self.paths.clone(),
            server: self.environment.server.clone(),
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

    /// Uploads what a shard has frozen, and tells what came of it.
    pub(super) async fn upload(&self, taken: Snapshot, dir: &ShardDir) -> Up {
        let Snapshot { barrier, generation, writer_epoch, frozen, record } = taken;
        let (operator, start, end) = (record.operator.clone(), record.start, record.end);
        let serving = self.view().slots.iter().filter(|slot| matches!(slot.status, Status::Serving(_))).count();
        let target = self.target();
        let shards = u32::try_from(serving).unwrap_or(u32::MAX);
        let under_way = self.rounds.begin(barrier.checkpoint, &barrier.round, shards, target.clone());
        let base = self.base(barrier.base).await;
        let known = [&*base, &under_way.left];
        let copy = dir.copy(barrier.checkpoint, &barrier.round);
        let uploaded = snapshot::upload(frozen, record, copy.clone(), &known, &target, &under_way.packer).await;
        let slices = match &uploaded {
            Ok(snapshot) => &snapshot.files,
            Err(failed) => &failed.uploaded,
        };
        let is_kept = || self.completed.lock().expect("no panics under this lock").contains_key(&barrier.checkpoint);
        if under_way.reported(slices)
            && !is_kept()
            && let Err(error) = disk::remove_dir(&copy)
        {
            warn!(%error, "the local copy of an aborted checkpoint cannot be removed");
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
}
