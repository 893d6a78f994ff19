//! The handle to the control plane: what the edge calls.

mod cutting;
mod external;
mod placing;
pub(super) mod restoring;
mod savepoints;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use dashmap::DashMap;
use forebay_proto::{reason::Refused, v1};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};
use uuid::Uuid;
use v1::{
    ErrorReason as Reason, join_response::Message as ToWorker, link_request::Message as FromServer,
    link_response::Message as ToServer,
};

use super::{
    assign, deleted,
    election::Candidate,
    garbage,
    head::{HeadFile, OpenError},
    job::{self, Job, Seen},
    machine::{Answer, Connection, Event},
    mandate::Mandate,
    servers::{Link, Servers},
    settings::Config,
    spec,
};
use crate::{
    checkpoint::{
        frame::{self, ObjectKind},
        layout, manifest,
        objects::{self, Condition, SharedStore},
        stores::Stores,
    },
    lease::wall_ms,
};

/// Why a coordinator could not start, or its cluster not be found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A head cannot be read.
    #[error(transparent)]
    Head(#[from] OpenError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] objects::Error),
    /// A record is damaged or of a newer format.
    #[error(transparent)]
    Damaged(#[from] frame::Error),
}

/// The control plane.
#[derive(Debug)]
pub struct Coordinator {
    pub(super) store: SharedStore,
    pub(super) stores: Arc<Stores>,
    pub(super) cluster: layout::Cluster,
    garbage: garbage::Settings,
    name: String,
    address: String,
    epoch: u64,
    mandate: Mandate,
    pub(super) jobs: DashMap<String, Arc<Job>>,
    servers: Servers,
    creating: tokio::sync::Mutex<()>,
    connections: AtomicU64,
    to_servers: mpsc::UnboundedSender<(String, ToServer)>,
}

impl Coordinator {
    /// Takes up all jobs, for a term of office.
    pub async fn start(
        stores: Arc<Stores>,
        cluster: layout::Cluster,
        me: &Candidate,
        epoch: u64,
        mandate: Mandate,
        config: &Config,
    ) -> Result<Arc<Self>, Error> {
        let store = stores.own().clone();
        let (to_servers, outbox) = mpsc::unbounded_channel();
        let coordinator = Arc::new(Self {
            store,
            stores,
            cluster,
            garbage: garbage::Settings {
                interval_ms: config.collect_interval.as_millis() as i64,
                min_age_ms: config.collect_min_age.as_millis() as i64,
            },
            name: me.name.clone(),
            address: me.address.clone(),
            epoch,
            mandate,
            jobs: DashMap::new(),
            servers: Servers::new(config.server_lease, config.server_return_wait),
            creating: tokio::sync::Mutex::default(),
            connections: AtomicU64::new(1),
            to_servers,
        });
        coordinator.take_up_jobs().await?;
        for (job, uid) in deleted::recorded(&coordinator.store, &coordinator.cluster).await? {
            coordinator.collect_deleted(job, uid, coordinator.servers.lease() + config.server_return_wait);
        }
        tokio::spawn(Self::run(Arc::downgrade(&coordinator), outbox));
        info!(epoch, jobs = coordinator.jobs.len(), "coordinator leads");
        Ok(coordinator)
    }

    /// The cluster's id.
    pub fn cluster_id(&self) -> &str {
        self.cluster.id()
    }

    /// This coordinator's epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Its term of office.
    pub fn mandate(&self) -> &Mandate {
        &self.mandate
    }

    /// Ends it: all streams of servers and workers end, and whoever waits is told to ask another.
    pub fn end(&self) {
        self.mandate.end();
        self.jobs.iter().for_each(|job| job.end());
        self.servers.end();
    }

    /// Creates a job; true if it was not there before.
    pub async fn create_job(&self, spec: v1::JobSpec, validate_only: bool) -> Result<(v1::JobInfo, bool), Refused> {
        let spec = spec::complete(spec)?;
        let creating = self.creating.lock().await;
        if let Some(job) = self.jobs.get(&spec.name) {
            let known = job.seen();
            return if known.head.spec.as_ref() == Some(&spec) {
                Ok((known.info(), false))
            } else {
                let message = format!("job {:?} exists with other settings: describe it, or delete it", spec.name);
                Err(Refused::new(Reason::AlreadyExists, message))
            };
        }
        let mut shards = spec::shards(&spec);
        // Before the job hears of its servers, one after the other: the first would get everything.
        let loads = self.loads();
        let up = assign::may_get(self.servers.up().into_iter().map(|(name, _)| name), &loads);
        assign::place_shards(&mut shards, &up, &loads);
        let head = v1::JobHead {
            version: 1,
            coordinator_epoch: self.epoch,
            job_uid: Uuid::new_v4().simple().to_string(),
            generation: 1,
            shards,
            next_state_id: 1,
            next_checkpoint_id: 1,
            created_ms: wall_ms(),
            spec: Some(spec.clone()),
            ..Default::default()
        };
        if validate_only {
            let info = v1::JobInfo { spec: Some(spec), ..Default::default() };
            return Ok((info, false));
        }
        let job = self.store_new_job(&spec.name, head).await?;
        drop(creating);
        job.ask(|token| Event::Created { token }).await?;
        Ok((job.seen().info(), true))
    }

    /// Deletes a job.
    pub async fn delete_job(self: &Arc<Self>, name: &str, uid: &str) -> Result<(), Refused> {
        let job = self.job(name)?;
        let seen = job.seen();
        let known = &seen.head.job_uid;
        if !uid.is_empty() && uid != known {
            let message = format!("job {name:?} has uid {known}, the request says {uid}: it was made anew");
            return Err(Refused::new(Reason::JobUnknown, message));
        }
        job.ask(|token| Event::Delete { token }).await.map(drop)?;
        let _creating = self.creating.lock().await;
        if deleted::goes(&seen.head) {
            if let Err(error) = deleted::record(&self.store, &self.cluster, name, known).await {
                // The name record is still there: the next start finds the deleted head by it.
                self.jobs.remove(name);
                let message = format!("the job is deleted, its checkpoints go when the store is back: {error}");
                return Err(Refused::new(Reason::StoreUnavailable, message));
            }
            let job_lease = Duration::from_millis(seen.head.spec.as_ref().map_or(0, |spec| spec.lease_ms));
            self.collect_deleted(name.to_owned(), known.clone(), self.servers.lease().max(job_lease));
        }
        // A lost answer leaves the name record; the deleted head tells the next start that it is stale.
        if let Err(error) = self.store.delete(&self.cluster.job_name(name)).await {
            warn!(%error, job = name, "the name record of a deleted job could not be removed");
        }
        self.jobs.remove(name);
        info!(job = name, "job deleted");
        Ok(())
    }

    /// A job as it is now.
    pub fn seen(&self, name: &str) -> Result<Arc<Seen>, Refused> {
        self.job(name).map(|job| job.seen())
    }

    /// All jobs as they are now, by name.
    pub fn all(&self) -> Vec<Arc<Seen>> {
        let mut all: Vec<_> = self.jobs.iter().map(|job| (job.key().clone(), job.seen())).collect();
        all.sort_by(|one, other| one.0.cmp(&other.0));
        all.into_iter().map(|(_, seen)| seen).collect()
    }

    /// A job, and every change of it.
    pub fn watch(&self, name: &str) -> Result<watch::Receiver<Arc<Seen>>, Refused> {
        self.job(name).map(|job| job.watch())
    }

    /// Registers states.
    pub async fn register(
        &self,
        name: &str,
        operator: String,
        descriptors: Vec<v1::StateDescriptor>,
    ) -> Result<Vec<v1::RegisteredState>, Refused> {
        let job = self.job(name)?;
        match job.ask(|token| Event::Register { token, operator, descriptors }).await? {
            Answer::States(states) => Ok(states),
            _ => Err(wrong_answer()),
        }
    }

    /// Replaces TTL and schema of a registered state.
    pub async fn replace(&self, request: v1::ReplaceDescriptorRequest) -> Result<v1::RegisteredState, Refused> {
        let job = self.job(&request.job)?;
        match job.ask(|token| Event::Replace { token, request }).await? {
            Answer::States(mut states) => states.pop().ok_or_else(wrong_answer),
            _ => Err(wrong_answer()),
        }
    }

    /// Takes a checkpoint and waits until it is complete.
    pub async fn trigger(&self, name: &str, full: bool) -> Result<v1::CompletedCheckpoint, Refused> {
        match self.job(name)?.ask(|token| Event::Trigger { token, full }).await? {
            Answer::Checkpoint(checkpoint) => Ok(checkpoint),
            _ => Err(wrong_answer()),
        }
    }

    /// Reads the manifest of a completed checkpoint; 0 means the last one.
    pub async fn manifest(&self, name: &str, id: u64) -> Result<(v1::CompletedCheckpoint, v1::Manifest), Refused> {
        let seen = self.seen(name)?;
        let Some(entry) = restoring::entry_of(name, &seen.head, id)? else {
            let message = format!("job {name:?} has no completed checkpoint yet: trigger one");
            return Err(Refused::new(Reason::CheckpointUnknown, message));
        };
        let paths = self.cluster.job(name, &seen.head.job_uid);
        let opened = manifest::open(&self.stores, &paths, &entry).await;
        let (manifest, _) = opened.map_err(|error| restoring::refused(&error.into()))?;
        Ok((entry, manifest))
    }

    /// Connects a worker: what it says goes to the job through the returned [`Worker`].
    pub async fn join(&self, hello: v1::JoinHello, to_worker: mpsc::Sender<ToWorker>) -> Result<Worker, Refused> {
        let job = self.job(&hello.job)?;
        let connection = Connection(self.connections.fetch_add(1, Ordering::Relaxed));
        job.connect(connection, hello, to_worker).await;
        Ok(Worker { job, connection })
    }

    /// Takes up a server's link.
    pub async fn link(&self, register: v1::Register, to_server: mpsc::Sender<ToServer>) -> Result<Link, Refused> {
        if !register.cluster_id.is_empty() && register.cluster_id != self.cluster.id() {
            let message = format!(
                "server {:?} belongs to cluster {}, this is {}: give it an empty data directory",
                register.name,
                register.cluster_id,
                self.cluster.id()
            );
            return Err(Refused::new(Reason::SettingsConflict, message));
        }
        let (name, address) = (register.name.clone(), register.address.clone());
        let link = self.servers.link(register, to_server);
        self.renew(&name, 0);
        info!(server = name, address, "server linked");
        self.tell_all(|| Event::ServerUp { server: name.clone(), address: address.clone() }).await;
        Ok(link)
    }

    /// Takes a message from a server.
    pub async fn from_server(&self, server: &str, message: FromServer) {
        match message {
            FromServer::Register(_) => {}
            FromServer::Heartbeat(heartbeat) => {
                self.servers.heartbeat(server, &heartbeat);
                self.renew(server, heartbeat.sequence);
            }
            FromServer::Applied(applied) => {
                let (server, uid) = (server.to_owned(), applied.job_uid.clone());
                self.tell_job(&uid, Event::Applied { server, applied }).await;
            }
            FromServer::Snapshot(report) => {
                let uid = report.job_uid.clone();
                self.tell_job(&uid, Event::Snapshot(report)).await;
            }
            FromServer::Prepared(prepared) => {
                let (server, uid) = (server.to_owned(), prepared.job_uid.clone());
                self.tell_job(&uid, Event::Prepared { server, prepared }).await;
            }
            FromServer::Failed(failed) => {
                let uid = failed.job_uid.clone();
                self.tell_job(&uid, Event::SnapshotFailed(failed)).await;
            }
        }
    }

    /// Takes note of a broken link.
    pub async fn unlink(&self, server: &str, link: Link) {
        if self.servers.unlink(server, link) {
            warn!(server, "server lost its link");
            self.tell_all(|| Event::ServerDown { server: server.to_owned() }).await;
        }
    }

    /// How the cluster is.
    pub fn status(&self) -> v1::GetStatusResponse {
        v1::GetStatusResponse {
            cluster_id: self.cluster.id().to_owned(),
            coordinator: self.name.clone(),
            coordinator_address: self.address.clone(),
            coordinator_epoch: self.epoch,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            servers: self.list_servers(),
            jobs: self.all().iter().map(|seen| seen.info()).collect(),
            checkpoint_dir: self.store.url().to_owned(),
            standbys: Vec::new(),
        }
    }

    pub(super) fn job(&self, name: &str) -> Result<Arc<Job>, Refused> {
        self.jobs.get(name).map(|job| job.clone()).ok_or_else(|| {
            let message = format!("there is no job {name:?}: create it first");
            Refused::new(Reason::JobUnknown, message)
        })
    }

    async fn tell_job(&self, uid: &str, event: Event) {
        let job = self.jobs.iter().find(|job| job.seen().head.job_uid == uid).map(|job| job.clone());
        if let Some(job) = job {
            job.tell(event).await;
        }
    }

    async fn tell_all(&self, event: impl Fn() -> Event) {
        let jobs: Vec<_> = self.jobs.iter().map(|job| job.clone()).collect();
        for job in jobs {
            job.tell(event()).await;
        }
    }

    /// Renews a server's lease.
    fn renew(&self, server: &str, sequence: u64) {
        let lease = ToServer::Lease(self.server_lease(sequence));
        if self.mandate.is_valid() {
            self.servers.send(server, lease);
        }
    }

    fn server_lease(&self, sequence: u64) -> v1::ServerLease {
        let last = |seen: &Arc<Seen>| Some((seen.head.job_uid.clone(), seen.head.completed.last()?.id));
        v1::ServerLease {
            sequence,
            lease_ms: self.servers.lease().as_millis() as u64,
            cluster_id: self.cluster.id().to_owned(),
            coordinator_epoch: self.epoch,
            completed: self.all().iter().filter_map(last).collect(),
        }
    }

    fn collect_deleted(self: &Arc<Self>, job: String, uid: String, wait: Duration) {
        tokio::spawn(deleted::collect(Arc::downgrade(self), job, uid, wait));
    }

    async fn store_new_job(&self, name: &str, head: v1::JobHead) -> Result<Arc<Job>, Refused> {
        let away = |error: &dyn std::fmt::Display| {
            Refused::new(Reason::StoreUnavailable, format!("the job cannot be stored: {error}"))
        };
        let paths = self.cluster.job(name, &head.job_uid);
        let file = HeadFile::create(self.store.clone(), paths.head(), &head).await.map_err(|error| away(&error))?;
        // The head exists before the name does: a name always leads to a head.
        let record = v1::JobName { job_uid: head.job_uid.clone() };
        let bytes = frame::encode(ObjectKind::JobName, &record);
        match self.store.put_if(&self.cluster.job_name(name), bytes, &Condition::Absent).await {
            Ok(_) => {}
            Err(objects::Error::Conflict { .. }) => {
                let message = format!("job {name:?} was created by somebody else at the same time: describe it");
                return Err(Refused::new(Reason::AlreadyExists, message));
            }
            Err(error) => return Err(away(&error)),
        }
        let job = self.start_job(head, file, paths);
        for (server, address) in self.servers.up() {
            job.tell(Event::ServerUp { server, address }).await;
        }
        job.tell(Event::Loads(Arc::new(self.loads()))).await;
        self.jobs.insert(name.to_owned(), job.clone());
        Ok(job)
    }

    fn start_job(&self, head: v1::JobHead, file: HeadFile, paths: layout::Job) -> Arc<Job> {
        let (store, stores, servers) = (self.store.clone(), self.stores.clone(), self.to_servers.clone());
        let mandate = self.mandate.clone();
        let environment = job::Environment { store, stores, paths, garbage: self.garbage, servers, mandate };
        Arc::new(Job::start(head, file, self.epoch, environment))
    }

    async fn take_up_jobs(&self) -> Result<(), Error> {
        for object in self.store.list(&self.cluster.job_names()).await? {
            let (bytes, _) = self.store.get(&object.path).await?;
            let record: v1::JobName = frame::decode(ObjectKind::JobName, &object.path, &bytes)?;
            let name = object.path.rsplit('/').next().unwrap_or_default().to_owned();
            let paths = self.cluster.job(&name, &record.job_uid);
            let (head, file) = HeadFile::claim(self.store.clone(), paths.head(), &record.job_uid, self.epoch).await?;
            if head.deleted {
                if deleted::goes(&head) {
                    deleted::record(&self.store, &self.cluster, &name, &record.job_uid).await?;
                }
                self.store.delete(&object.path).await?;
                continue;
            }
            head.shards
                .iter()
                .filter(|entry| !entry.server.is_empty())
                .for_each(|entry| self.servers.expect(&entry.server));
            let job = self.start_job(head, file, paths);
            self.jobs.insert(name, job);
        }
        Ok(())
    }

    async fn run(coordinator: std::sync::Weak<Self>, mut outbox: mpsc::UnboundedReceiver<(String, ToServer)>) {
        let mut ticks = tokio::time::interval(Duration::from_millis(200));
        let mut looks = tokio::time::interval(Duration::from_secs(1));
        let mut told = assign::Loads::new();
        loop {
            tokio::select! {
                message = outbox.recv() => {
                    let (Some(coordinator), Some((server, message))) = (coordinator.upgrade(), message) else { return };
                    coordinator.servers.send(&server, message);
                }
                _ = looks.tick() => {
                    let Some(coordinator) = coordinator.upgrade() else { return };
                    coordinator.unpin_branches().await;
                    if told != coordinator.loads() {
                        told = coordinator.tell_loads().await;
                    }
                }
                _ = ticks.tick() => {
                    let Some(coordinator) = coordinator.upgrade() else { return };
                    for server in coordinator.servers.gone() {
                        coordinator.tell_all(|| Event::ServerGone { server: server.clone() }).await;
                    }
                }
            }
        }
    }
}

/// A worker's connection, for the edge.
#[derive(Debug)]
pub struct Worker {
    job: Arc<Job>,
    connection: Connection,
}

impl Worker {
    /// Passes on what the worker says.
    pub async fn say(&self, message: v1::join_request::Message) {
        self.job.tell(Event::Worker { connection: self.connection, message }).await;
    }

    /// Takes note that the connection is broken.
    pub async fn disconnected(&self) {
        self.job.tell(Event::Disconnected { connection: self.connection }).await;
    }
}

pub(super) fn wrong_answer() -> Refused {
    Refused::new(Reason::Internal, "the job answered something else: please report this")
}
