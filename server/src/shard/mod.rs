//! The data plane: shards, each one key-group range of one operator with a backend of its own.
//!
//! [`Shards`] knows which shards this server holds. A request finds its [`Shard`](thread::Shard), whose
//! thread runs it through the [`Core`](core::Core): gate (may it?), ops (what does it mean?), storage
//! (bytes). Knows neither gRPC nor the coordinator; the desired state comes in as
//! [`v1::JobAssignment`], reports go out as [`v1::LinkRequest`].
//!
//! Invariant: a shard serves only what the coordinator established in the job head, under the rights
//! of the newest assignment this server has taken up.

pub mod core;
pub mod disk;
mod durable;
pub mod gate;
mod job;
pub mod key;
pub mod lanes;
mod meta;
pub mod open;
pub mod ops;
mod place;
pub mod portable;
mod positions;
pub mod requests;
pub mod rescale;
pub mod snapshot;
pub mod states;
pub mod thread;
pub mod ttl;

use std::{path::PathBuf, sync::Arc, time::Duration};

use dashmap::DashMap;
use forebay_proto::{key_group::KeyGroup, reason::Refused, v1};
use tokio::sync::mpsc;
use tracing::{info, warn};
use v1::ErrorReason as Reason;

use self::{gate::Caller, job::Job, open::Backends, thread::Shard};
use crate::{
    checkpoint::{
        frame::{self, ObjectKind},
        layout,
        stores::Stores,
    },
    lease::Lease,
};

pub use job::{AtCheckpoint, Slot, Status, View};

/// When to ask again for a shard that is served within moments.
const SOON: Duration = Duration::from_millis(10);

/// The refusal of a shard that is served within moments.
fn soon(message: impl Into<String>) -> Refused {
    Refused { retry_after: Some(SOON), ..Refused::new(Reason::ShardRestoring, message) }
}

/// What all shards of a server share.
#[derive(Debug)]
pub struct Environment {
    /// Name of the server.
    pub server: String,
    /// Boot id of the machine.
    pub boot_id: String,
    /// Where shards keep their files.
    pub data: PathBuf,
    /// The object stores.
    pub stores: Arc<Stores>,
    /// Paths in it.
    pub cluster: layout::Cluster,
    /// What all uploads share.
    pub uploads: Arc<snapshot::Uploads>,
    /// Opens backends.
    pub backends: Backends,
    /// The server's own lease.
    pub lease: Arc<Lease>,
    /// Reports to the coordinator.
    pub reports: mpsc::UnboundedSender<v1::LinkRequest>,
}

/// The shards that this server holds.
#[derive(Debug, Clone)]
pub struct Shards {
    environment: Arc<Environment>,
    jobs: Arc<DashMap<String, Arc<Job>>>,
    names: Arc<DashMap<String, String>>,
}

impl Shards {
    /// A server that holds nothing yet.
    pub fn new(environment: Environment) -> Self {
        Self { environment: Arc::new(environment), jobs: Arc::default(), names: Arc::default() }
    }

    /// Removes the files of jobs that were deleted while this server was away: their heads say so. Where a
    /// head does not, or cannot be read, the files stay.
    pub async fn discard_deleted(&self) {
        let environment = &self.environment;
        for (name, uid, dir) in disk::jobs(&environment.data).unwrap_or_default() {
            let head = environment.cluster.job(&name, &uid).head();
            let Ok((bytes, _)) = environment.stores.own().get(&head).await else { continue };
            let Ok(read) = frame::decode::<v1::JobHead>(ObjectKind::Head, &head, &bytes) else { continue };
            if read.deleted {
                match disk::remove_dir(&dir) {
                    Ok(()) => info!(job = name, uid, "files of a job that was deleted meanwhile are removed"),
                    Err(error) => warn!(%error, path = %dir.display(), "files of a deleted job cannot be removed"),
                }
            }
        }
    }

    /// What all shards share.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Makes the server hold what the coordinator wants of a job, and tells what came of it. An older
    /// version than one taken up before changes nothing and is `None`.
    ///
    /// `lapses` is the lease's count when the assignment arrived: shards serve only while the lease has not
    /// run out since they were last wanted here.
    pub async fn apply(&self, wanted: v1::JobAssignment, lapses: u64) -> Option<v1::JobApplied> {
        let Some(spec) = &wanted.spec else { return None };
        let (uid, name) = (wanted.job_uid.clone(), spec.name.clone());
        let job = self.jobs.entry(uid.clone()).or_insert_with(|| Job::new(&self.environment, &name, &uid)).clone();
        if wanted.deleted {
            job.delete().await;
            self.jobs.remove(&uid);
            self.names.remove_if(&name, |_, named| *named == uid);
            return Some(v1::JobApplied { job_uid: uid, version: wanted.version, shards: Vec::new() });
        }
        self.names.insert(name, uid);
        job.apply(wanted, lapses).await
    }

    /// Brings here what a checkpoint holds of a shard that is to come from another server, and reports it.
    pub fn prepare(&self, wanted: v1::PrepareShard) {
        let (uid, name) = (&wanted.job_uid, &wanted.job);
        let job = self.jobs.entry(uid.clone()).or_insert_with(|| Job::new(&self.environment, name, uid)).clone();
        tokio::spawn(job.prepare(wanted));
    }

    /// Begins to bring what only the log of a shard holds into files, for it is to leave.
    pub async fn begin_flush(&self, wanted: &v1::FlushShard) {
        if let Some(shard) = self.serving(&wanted.job_uid, &wanted.operator, wanted.start, wanted.end) {
            shard.begin_flush().await;
        }
    }

    fn serving(&self, job_uid: &str, operator: &str, start: u32, end: u32) -> Option<Arc<Shard>> {
        let view = self.jobs.get(job_uid)?.view();
        let same =
            |slot: &&Slot| (&slot.entry.operator[..], slot.entry.start, slot.entry.end) == (operator, start, end);
        match &view.slots.iter().find(same)?.status {
            Status::Serving(shard) => Some(shard.clone()),
            _ => None,
        }
    }

    /// Takes note that a round begins.
    pub fn round_started(&self, started: v1::RoundStarted) {
        if let Some(job) = self.jobs.get(&started.job_uid) {
            job.round_started(started);
        }
    }

    /// Takes note that a round has ended: local copies that nobody needs go away.
    pub async fn round_ended(&self, ended: v1::RoundEnded) {
        let job = self.jobs.get(&ended.job_uid).map(|job| job.clone());
        if let Some(job) = job {
            job.round_ended(ended).await;
        }
    }

    /// Freezes a shared shard for a round; uploads an external one, which is frozen already.
    pub async fn freeze(&self, command: v1::SnapshotCommand) {
        if !command.external_id.is_empty() {
            let job = self.jobs.get(&command.job_uid).map(|job| job.clone());
            return job.iter().for_each(|job| job.upload_frozen(command.clone()));
        }
        if let Some(shard) = self.serving(&command.job_uid, &command.operator, command.start, command.end) {
            let v1::SnapshotCommand { checkpoint, round, base, coordinator_epoch, .. } = command;
            shard.snapshot(v1::BarrierOp { checkpoint, round, base, coordinator_epoch }).await;
        }
    }

    /// The job of a name, as this server knows it.
    pub fn job(&self, name: &str) -> Result<Arc<View>, Refused> {
        let uid = self.names.get(name).map(|uid| uid.clone());
        let job = uid.and_then(|uid| self.jobs.get(&uid).map(|job| job.view()));
        job.ok_or_else(|| {
            if !self.environment.lease.valid() {
                let message = "this server has no lease yet, and was told of no jobs: retry until it is linked";
                return Refused::new(Reason::LeaseExpired, message);
            }
            let message = format!("there is no job {name:?} on this server: create it, or ask the coordinator");
            Refused::new(Reason::JobUnknown, message)
        })
    }

    /// The shard that held a key group in a completed checkpoint, opened for reading; 0 for the last one.
    pub async fn at_checkpoint(
        &self,
        name: &str,
        checkpoint: u64,
        operator: &str,
        group: KeyGroup,
    ) -> Result<Arc<AtCheckpoint>, Refused> {
        let uid = self.job(name)?.uid.clone();
        let job = self.jobs.get(&uid).map(|job| job.clone());
        let job = job.ok_or_else(|| Refused::new(Reason::JobUnknown, format!("job {name:?} is gone")))?;
        job.at_checkpoint(checkpoint, operator, group).await
    }

    /// Freezes a shard for the engine that has opened it, exactly at a batch, and returns when that was. It stays frozen
    /// until the coordinator asks for it or [`Shards::thaw`] gives it up.
    pub async fn freeze_at(&self, request: &v1::TakeSnapshotRequest) -> Result<i64, Refused> {
        self.job_of(&request.shard)?.freeze_at(request).await
    }

    /// Takes note that what was frozen for an engine is registered.
    pub fn taken(&self, request: &v1::TakeSnapshotRequest) {
        if let Ok(job) = self.job_of(&request.shard) {
            job.taken(request);
        }
    }

    /// Waits until a shard is frozen for the engine that has opened it, and returns when that was.
    pub async fn frozen(&self, request: &v1::AwaitFrozenRequest) -> Result<i64, Refused> {
        self.job_of(&request.shard)?.frozen(request).await
    }

    /// Gives up what is frozen for the engine that has opened a shard, for this cause.
    pub fn thaw(&self, shard: &Option<v1::ExternalShard>, token: u64, external_id: &str, cause: Refused) {
        if let Ok(job) = self.job_of(shard) {
            job.thaw(shard, token, external_id, cause);
        }
    }

    /// A snapshot that another engine has taken, opened for reading.
    pub async fn at_snapshot(&self, handle: &v1::SnapshotHandle) -> Result<Arc<AtCheckpoint>, Refused> {
        let view = self.job_of_uid(&handle.job, &handle.job_uid)?;
        let job = self.jobs.get(&view.uid).map(|job| job.clone());
        let job = job.ok_or_else(|| Refused::new(Reason::JobUnknown, format!("job {:?} is gone", handle.job)))?;
        job.at_snapshot(handle).await
    }

    fn job_of(&self, shard: &Option<v1::ExternalShard>) -> Result<Arc<Job>, Refused> {
        let shard = shard.clone().unwrap_or_default();
        let view = match &shard.job_uid[..] {
            "" => self.job(&shard.job)?,
            uid => self.job_of_uid(&shard.job, uid)?,
        };
        let job = self.jobs.get(&view.uid).map(|job| job.clone());
        job.ok_or_else(|| Refused::new(Reason::JobUnknown, format!("job {:?} is gone", shard.job)))
    }

    /// The job of a uid; a job of the same name made anew is another job.
    pub fn job_of_uid(&self, name: &str, uid: &str) -> Result<Arc<View>, Refused> {
        let view = self.job(name)?;
        if view.uid == uid {
            return Ok(view);
        }
        let message = format!("job {name:?} has uid {}, the request says {uid}: it was made anew", view.uid);
        Err(Refused::new(Reason::JobUnknown, message))
    }

    /// All shards that serve, for health and metrics.
    pub fn views(&self) -> Vec<Arc<View>> {
        self.jobs.iter().map(|job| job.view()).collect()
    }

    /// Ends all shards' threads and closes their backends.
    pub async fn stop(&self) {
        let jobs: Vec<_> = self.jobs.iter().map(|job| job.clone()).collect();
        for job in jobs {
            job.stop().await;
        }
    }
}

impl View {
    /// Approximate size of the job's state on this server, in bytes.
    pub fn bytes(&self) -> u64 {
        let bytes = |slot: &Slot| match &slot.status {
            Status::Serving(shard) => shard.bytes(),
            _ => 0,
        };
        self.slots.iter().map(bytes).sum()
    }

    /// Finds the shard of a range, exactly.
    pub fn shard(&self, operator: &str, start: u32, end: u32, caller: &Caller) -> Result<Arc<Shard>, Refused> {
        self.find(operator, caller, |entry| (entry.start, entry.end) == (start, end), || format!("[{start},{end})"))
    }

    /// Finds the shard of a key group.
    pub fn shard_of(&self, operator: &str, group: KeyGroup, caller: &Caller) -> Result<Arc<Shard>, Refused> {
        let group = u32::from(group.get());
        self.find(operator, caller, |entry| (entry.start..entry.end).contains(&group), || format!("of {group}"))
    }

    /// The registered state of a name.
    pub fn state(&self, operator: &str, name: &str) -> Result<&v1::RegisteredState, Refused> {
        self.operator(operator)?;
        let named = |state: &&v1::RegisteredState| {
            state.operator == operator && state.descriptor.as_ref().is_some_and(|descriptor| descriptor.name == name)
        };
        self.states.iter().find(named).ok_or_else(|| {
            let message = format!("operator {operator:?} of job {:?} has no state {name:?}: register it", self.name);
            Refused::new(Reason::StateUnknown, message)
        })
    }

    fn operator(&self, name: &str) -> Result<&v1::Operator, Refused> {
        self.spec.operators.iter().find(|known| known.name == name).ok_or_else(|| {
            Refused::new(Reason::OperatorUnknown, format!("job {:?} has no operator {name:?}", self.name))
        })
    }

    fn find(
        &self,
        operator: &str,
        caller: &Caller,
        is_it: impl Fn(&v1::ShardEntry) -> bool,
        name: impl Fn() -> String,
    ) -> Result<Arc<Shard>, Refused> {
        let known = self.operator(operator)?;
        let goes_back = !matches!(known.access(), v1::Access::Shared | v1::Access::External);
        if goes_back && caller.generation != 0 && caller.generation < self.generation {
            let message = format!("the job went back to checkpoint {}: join again", self.restored_checkpoint);
            return Err(Refused::new(Reason::Rewound, message)
                .with("generation", self.generation)
                .with("checkpoint", self.restored_checkpoint));
        }
        match self.slots.iter().find(|slot| slot.entry.operator == operator && is_it(&slot.entry)) {
            Some(Slot { status: Status::Serving(shard), .. }) => Ok(shard.clone()),
            Some(Slot { status: Status::Restoring, entry }) if entry.handover.is_some() => {
                Err(soon(format!("shard {operator} {} arrives here: retry in a moment", name())))
            }
            Some(Slot { status: Status::Restoring, .. }) => {
                let message = format!("shard {operator} {} is being restored: retry in a moment", name());
                Err(Refused::new(Reason::ShardRestoring, message))
            }
            Some(Slot { status: Status::Unavailable(refused), .. }) => Err(refused.clone()),
            None => {
                let message = format!("shard {operator} {} is not on this server: look up the routing", name());
                Err(Refused::new(Reason::ShardMoved, message))
            }
        }
    }
}
