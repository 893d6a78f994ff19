//! One job on this server: brings its shards to what the coordinator wants.

mod external;
mod make;
mod prepare;
mod readback;
mod rounds;
mod upload;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, RwLock},
};

use forebay_proto::{
    key_group::{KeyGroupRange, MaxParallelism},
    reason::Refused,
    v1,
};
use futures::{StreamExt as _, future::join, stream};
use tokio::sync::{Notify, mpsc};
use tracing::warn;
use v1::{ErrorReason as Reason, link_request::Message as Up};

use super::{
    Environment,
    core::Identity,
    disk::{self, ShardDir},
    gate::Rights,
    snapshot::Known,
    states::States,
    thread::{Said, Shard},
};
use crate::checkpoint::layout;
use external::Engines;
use prepare::Prepared;
pub use readback::AtCheckpoint;
use readback::OpenSnapshots;
use rounds::Rounds;

/// Shards that are restored at a time.
const PARALLEL: usize = 4;

/// A job as this server knows it at one moment.
#[derive(Debug, Clone)]
pub struct View {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its settings.
    pub spec: v1::JobSpec,
    /// Its generation.
    pub generation: u64,
    /// Checkpoint that the generation started from.
    pub restored_checkpoint: u64,
    /// Its registered states.
    pub states: Vec<v1::RegisteredState>,
    /// Its shards on this server.
    pub slots: Vec<Slot>,
}

/// A shard and what it is doing.
#[derive(Debug, Clone)]
pub struct Slot {
    /// What the coordinator wants of it.
    pub entry: v1::ShardEntry,
    /// What it is doing.
    pub status: Status,
}

/// What a shard is doing.
#[derive(Debug, Clone)]
pub enum Status {
    /// It serves.
    Serving(Arc<Shard>),
    /// It is being made.
    Restoring,
    /// It is lost, or its checkpoint is damaged; requests are told so.
    Unavailable(Refused),
}

/// One job on this server.
#[derive(Debug)]
pub struct Job {
    environment: Arc<Environment>,
    paths: layout::Job,
    dir: PathBuf,
    uid: String,
    view: RwLock<Arc<View>>,
    /// Held while files of shards that are not here are removed: none of them may come to be here meanwhile.
    tidying: Mutex<()>,
    applied: tokio::sync::Mutex<u64>,
    completed: Mutex<BTreeMap<u64, v1::CompletedCheckpoint>>,
    /// Called when `completed` has changed.
    news: Notify,
    rounds: Rounds,
    engines: Engines,
    prepared: Prepared,
    snapshots: OpenSnapshots,
    /// What the store holds of the checkpoint that others build on.
    base: tokio::sync::Mutex<Option<(u64, Arc<Known>)>>,
}

impl Job {
    /// A job of which nothing is here yet.
    pub fn new(environment: &Arc<Environment>, name: &str, uid: &str) -> Arc<Self> {
        Arc::new(Self {
            environment: environment.clone(),
            paths: environment.cluster.job(name, uid),
            dir: environment.data.join("jobs").join(format!("{name}-{uid}")),
            uid: uid.to_owned(),
            view: RwLock::new(Arc::new(View {
                name: name.to_owned(),
                uid: uid.to_owned(),
                spec: v1::JobSpec::default(),
                generation: 0,
                restored_checkpoint: 0,
                states: Vec::new(),
                slots: Vec::new(),
            })),
            tidying: Mutex::default(),
            applied: tokio::sync::Mutex::new(0),
            completed: Mutex::default(),
            news: Notify::new(),
            rounds: Rounds::default(),
            engines: Engines::default(),
            prepared: Prepared::default(),
            snapshots: OpenSnapshots::default(),
            base: tokio::sync::Mutex::default(),
        })
    }

    /// The job as it is now.
    pub fn view(&self) -> Arc<View> {
        self.view.read().expect("no panics under this lock").clone()
    }

    /// Brings the shards to what is wanted.
    pub async fn apply(self: &Arc<Self>, wanted: v1::JobAssignment, lapses: u64) -> Option<v1::JobApplied> {
        let mut applied = self.applied.lock().await;
        if wanted.version < *applied {
            return None;
        }
        *applied = wanted.version;
        for checkpoint in &wanted.checkpoints {
            self.completed.lock().expect("no panics under this lock").insert(checkpoint.id, checkpoint.clone());
        }
        self.news.notify_waiters();
        let before = self.view();
        let kept: Vec<_> = wanted.shards.iter().map(|entry| keep(&before, entry)).collect();
        for slot in &before.slots {
            if let Status::Serving(shard) = &slot.status
                && !kept.iter().flatten().any(|kept| Arc::ptr_eq(kept, shard))
            {
                shard.stop().await;
            }
        }
        let status = |kept: &Option<Arc<Shard>>| kept.clone().map_or(Status::Restoring, Status::Serving);
        {
            let _tidying = self.tidying.lock().expect("no panics under this lock");
            self.publish(&wanted, kept.iter().map(status).collect());
        }
        self.drop_closed(&before, &wanted);
        for (entry, shard) in wanted.shards.iter().zip(&kept) {
            if let Some(shard) = shard {
                let states = States::of_operator(&wanted.states, &entry.operator);
                shard.update(rights(&wanted, entry), states, lapses).await;
            }
        }
        let mut making = Vec::new();
        for (entry, kept) in wanted.shards.iter().cloned().zip(kept) {
            let (job, wanted) = (self.clone(), wanted.clone());
            making.push(async move {
                match kept {
                    Some(shard) => Status::Serving(shard),
                    None => job.make(&wanted, &entry, lapses).await,
                }
            });
        }
        let statuses: Vec<Status> = stream::iter(making).buffered(PARALLEL).collect().await;
        self.publish(&wanted, statuses);
        Some(self.report(wanted.version))
    }

    /// Stops all shards.
    pub async fn stop(&self) {
        for slot in &self.view().slots {
            if let Status::Serving(shard) = &slot.status {
                shard.stop().await;
            }
        }
    }

    /// Stops all shards and removes their files.
    pub async fn delete(&self) {
        let _applied = self.applied.lock().await;
        self.stop().await;
        if let Err(error) = disk::remove_dir(&self.dir) {
            warn!(%error, path = %self.dir.display(), "files of a deleted job cannot be removed");
        }
    }

    /// Takes a shard out of service that has found itself lost, and tells the coordinator.
    async fn lose(&self, entry: &v1::ShardEntry, cause: String) {
        let applied = self.applied.lock().await;
        let view = self.view();
        let Some(shard) = keep(&view, entry) else { return };
        warn!(job = self.uid, operator = entry.operator, start = entry.start, cause, "shard is lost");
        // Neither a new start nor the local copies may take these files for whole: the store has better ones.
        let dir = self.shard_dir(entry);
        if let Err(error) = dir.distrust().and_then(|()| dir.remove_copies(|_| false)) {
            warn!(%error, "the files of a lost shard cannot be set aside");
        }
        let refused = Refused::new(Reason::ShardLost, cause);
        let status = |slot: &Slot| match &slot.status {
            Status::Serving(serving) if Arc::ptr_eq(serving, &shard) => Status::Unavailable(refused.clone()),
            status => status.clone(),
        };
        let slots = view.slots.iter().map(|slot| Slot { entry: slot.entry.clone(), status: status(slot) }).collect();
        self.show(View { slots, ..(*view).clone() });
        shard.stop().await;
        self.say(Up::Applied(self.report(*applied)));
    }

    fn say(&self, message: Up) {
        // An error means that the server is shutting down: the coordinator sees its link end.
        self.environment.reports.send(v1::LinkRequest { message: Some(message) }).ok();
    }

    fn shard_dir(&self, entry: &v1::ShardEntry) -> ShardDir {
        ShardDir::new(&self.dir, &entry.operator, entry.start, entry.end)
    }

    fn publish(&self, wanted: &v1::JobAssignment, statuses: Vec<Status>) {
        let slots = wanted.shards.iter().cloned().zip(statuses).map(|(entry, status)| Slot { entry, status }).collect();
        let spec = wanted.spec.clone().unwrap_or_default();
        let view = View {
            name: spec.name.clone(),
            uid: self.uid.clone(),
            spec,
            generation: wanted.generation,
            restored_checkpoint: wanted.restored_checkpoint,
            states: wanted.states.clone(),
            slots,
        };
        self.show(view);
    }

    fn show(&self, view: View) {
        *self.view.write().expect("no panics under this lock") = Arc::new(view);
    }

    fn report(&self, version: u64) -> v1::JobApplied {
        let view = self.view();
        let shards = view.slots.iter().map(|slot| {
            let (status, cause, corrupt, bytes) = match &slot.status {
                Status::Serving(shard) => (v1::ShardStatus::Serving, String::new(), false, shard.bytes()),
                Status::Restoring => (v1::ShardStatus::Restoring, String::new(), false, 0),
                Status::Unavailable(refused) => {
                    let status = match refused.reason {
                        Reason::ShardLost => v1::ShardStatus::Lost,
                        _ => v1::ShardStatus::Restoring,
                    };
                    (status, refused.message.clone(), refused.reason == Reason::CheckpointCorrupt, 0)
                }
            };
            v1::AppliedShard {
                operator: slot.entry.operator.clone(),
                start: slot.entry.start,
                end: slot.entry.end,
                epoch: slot.entry.epoch,
                incarnation: slot.entry.incarnation,
                status: status.into(),
                cause,
                bytes,
                corrupt,
            }
        });
        v1::JobApplied { job_uid: self.uid.clone(), version, shards: shards.collect() }
    }
}

/// Does what a shard says that is to be done for it.
async fn attend(job: Arc<Job>, entry: v1::ShardEntry, mut heard: mpsc::UnboundedReceiver<Said>) {
    let dir = job.shard_dir(&entry);
    // One snapshot after the other; what else the shard says does not wait for them.
    let (frozen, mut snapshots) = mpsc::unbounded_channel();
    let uploads = async {
        while let Some(snapshot) = snapshots.recv().await {
            job.say(job.upload(snapshot, &dir).await);
        }
    };
    let rest = async {
        let frozen = frozen;
        while let Some(said) = heard.recv().await {
            match said {
                Said::Snapshot(snapshot) => drop(frozen.send(*snapshot)),
                Said::CommittedWanted => drop(tokio::spawn(job.clone().open_committed(entry.clone()))),
                Said::Lost(cause) => job.lose(&entry, cause).await,
            }
        }
    };
    join(uploads, rest).await;
}

/// The serving shard that already is what is wanted.
fn keep(view: &View, wanted: &v1::ShardEntry) -> Option<Arc<Shard>> {
    let same = |slot: &&Slot| {
        let entry = &slot.entry;
        (&entry.operator, entry.start, entry.end, entry.epoch, entry.incarnation)
            == (&wanted.operator, wanted.start, wanted.end, wanted.epoch, wanted.incarnation)
    };
    match &view.slots.iter().find(same)?.status {
        Status::Serving(shard) => Some(shard.clone()),
        _ => None,
    }
}

fn rights(wanted: &v1::JobAssignment, entry: &v1::ShardEntry) -> Rights {
    let access = wanted.spec.iter().flat_map(|spec| &spec.operators).find(|known| known.name == entry.operator);
    let access = match access.map(v1::Operator::access) {
        Some(access @ (v1::Access::Shared | v1::Access::External)) => access,
        _ => v1::Access::Leased,
    };
    Rights {
        access,
        generation: wanted.generation,
        restored_checkpoint: wanted.restored_checkpoint,
        shard_epoch: entry.epoch,
        incarnation: entry.incarnation,
        writer_epoch: entry.writer_epoch,
        leased: entry.writer.is_some() || entry.external.is_some(),
        established: entry.established,
        leaving: entry.is_leaving(),
    }
}

fn identity(spec: &v1::JobSpec, entry: &v1::ShardEntry) -> Result<Identity, Refused> {
    let invalid = |error: forebay_proto::key_group::Error| Refused::new(Reason::FieldInvalid, error.to_string());
    let limits = spec.limits.unwrap_or_default();
    Ok(Identity {
        operator: entry.operator.clone(),
        range: KeyGroupRange::new(entry.start, entry.end).map_err(invalid)?,
        max_parallelism: MaxParallelism::new(spec.max_parallelism).map_err(invalid)?,
        explicit: spec.partitioner() == v1::Partitioner::Explicit,
        recovery: spec.recovery(),
        durability: spec.durability(),
        max_value_bytes: usize::try_from(limits.max_value_bytes).unwrap_or(usize::MAX),
        max_lanes: limits.max_lanes as usize,
        backend: spec.backend(),
    })
}

fn io(error: std::io::Error) -> Refused {
    let reason = match error.kind() {
        std::io::ErrorKind::StorageFull => Reason::DiskFull,
        _ => Reason::Io,
    };
    Refused::new(reason, format!("the shard's directory: {error}"))
}

fn lost(error: &crate::storage::Error) -> Refused {
    Refused::new(Reason::ShardLost, error.to_string())
}
