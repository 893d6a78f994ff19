//! Gives a job's [`Machine`] a task, a clock and the object store: does what it says, and tells it what
//! came of it.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use forebay_proto::{reason::Refused, v1};
use tokio::{
    sync::{Mutex, mpsc, oneshot, watch},
    task::JoinHandle,
};
use tracing::{error, info};
use v1::{ErrorReason as Reason, ShardStatus, join_response::Message as ToWorker};

use super::{
    collect::Collector,
    garbage,
    head::{Deposed, HeadFile},
    machine::{Action, Answer, Connection, Event, Machine, Now, Token},
    mandate::Mandate,
    wanted,
};
use crate::{
    checkpoint::{copy, found, layout, manifest, objects::SharedStore, stores::Stores},
    lease::{boot_ms, wall_ms},
};

/// Time between two looks at the clock.
const TICK: Duration = Duration::from_millis(50);
/// Events that may wait for a job.
const QUEUE: usize = 1024;

/// What a job's task needs of the world.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The cluster's own object store.
    pub store: SharedStore,
    /// All stores.
    pub stores: Arc<Stores>,
    /// The job's paths.
    pub paths: layout::Job,
    /// When garbage is collected.
    pub garbage: garbage::Settings,
    /// Sends a message to a server.
    pub servers: mpsc::UnboundedSender<(String, v1::link_response::Message)>,
    /// The coordinator's term of office.
    pub mandate: Mandate,
}

/// A job, from outside.
#[derive(Debug)]
pub struct Job {
    events: mpsc::Sender<Input>,
    seen: watch::Receiver<Arc<Seen>>,
    tokens: AtomicU64,
    mandate: Mandate,
    task: JoinHandle<()>,
}

/// A job as it is at one moment.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Its head.
    pub head: v1::JobHead,
    /// Where its shards are.
    pub routing: v1::Routing,
    /// Its shards.
    pub shards: Vec<v1::ShardInfo>,
    /// Its workers.
    pub workers: Vec<v1::WorkerInfo>,
    /// Rounds that failed.
    pub failed: Vec<v1::FailedRound>,
    /// Rounds in progress.
    pub in_progress: Vec<v1::RoundProgress>,
    /// Shards on their way to other servers, as far as somebody waits for them.
    pub moves: Vec<v1::ShardProgress>,
    /// Why it cannot go on, if it cannot.
    pub broken: Option<String>,
}

#[derive(Debug)]
enum Input {
    Event(Event),
    Ask(Event, Token, oneshot::Sender<Result<Answer, Refused>>),
    Connect(Connection, v1::JoinHello, mpsc::Sender<ToWorker>),
}

impl Job {
    /// Starts the task of a job.
    pub fn start(head: v1::JobHead, file: HeadFile, epoch: u64, environment: Environment) -> Self {
        let (events, inputs) = mpsc::channel(QUEUE);
        let nonce = uuid::Uuid::new_v4().simple().to_string();
        let name = head.spec.as_ref().map(|spec| spec.name.clone()).unwrap_or_default();
        let mut machine = Machine::new(head, epoch, nonce, now());
        machine.collect_garbage(environment.garbage, now());
        let collector = Collector::new(environment.store.clone(), environment.paths.clone(), name);
        let (publish, seen) = watch::channel(Arc::new(Seen::of(&machine)));
        let mandate = environment.mandate.clone();
        let task = Task {
            machine,
            file: Arc::new(Mutex::new(file)),
            collector: Arc::new(collector),
            environment,
            events: events.clone(),
            waiting: HashMap::new(),
            connections: HashMap::new(),
            publish,
        };
        let task = tokio::spawn(task.run(inputs));
        Self { events, seen, tokens: AtomicU64::new(1), mandate, task }
    }

    /// Tells the job what happened.
    pub async fn tell(&self, event: Event) {
        // An error means that the job's task has ended, and with it everything it could have decided.
        self.events.send(Input::Event(event)).await.ok();
    }

    /// Asks the job and waits for the answer.
    pub async fn ask(&self, event: impl FnOnce(Token) -> Event) -> Result<Answer, Refused> {
        let token = Token(self.tokens.fetch_add(1, Ordering::Relaxed));
        let (sender, answer) = oneshot::channel();
        self.events.send(Input::Ask(event(token), token, sender)).await.map_err(|_| self.ended())?;
        answer.await.map_err(|_| self.ended())?
    }

    /// Connects a worker.
    pub async fn connect(&self, connection: Connection, hello: v1::JoinHello, to_worker: mpsc::Sender<ToWorker>) {
        self.events.send(Input::Connect(connection, hello, to_worker)).await.ok();
    }

    /// Ends its task, and with it the streams of its workers.
    pub fn end(&self) {
        self.task.abort();
    }

    fn ended(&self) -> Refused {
        if self.mandate.is_valid() {
            return Refused::new(Reason::JobUnknown, "the job was deleted");
        }
        Refused::new(Reason::NoCoordinator, "this coordinator leads no more: ask another")
    }

    /// The job as it is now.
    pub fn seen(&self) -> Arc<Seen> {
        self.seen.borrow().clone()
    }

    /// The job, and every change of it.
    pub fn watch(&self) -> watch::Receiver<Arc<Seen>> {
        self.seen.clone()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Task {
    machine: Machine,
    file: Arc<Mutex<HeadFile>>,
    collector: Arc<Collector>,
    environment: Environment,
    events: mpsc::Sender<Input>,
    waiting: HashMap<Token, oneshot::Sender<Result<Answer, Refused>>>,
    connections: HashMap<Connection, mpsc::Sender<ToWorker>>,
    publish: watch::Sender<Arc<Seen>>,
}

impl Task {
    async fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                input = inputs.recv() => match input {
                    Some(input) => self.receive(input),
                    None => return,
                },
                _ = ticks.tick() => Event::Tick,
            };
            // What servers and workers report is seen by people even if nothing follows from it.
            let reported = !matches!(event, Event::Tick);
            let actions = self.machine.step(event, now());
            let changed = reported || !actions.is_empty();
            // Before the answers: who was answered sees what came of it.
            if changed {
                self.publish.send_replace(Arc::new(Seen::of(&self.machine)));
            }
            for action in actions {
                self.act(action);
            }
        }
    }

    fn receive(&mut self, input: Input) -> Event {
        match input {
            Input::Event(event) => {
                if let Event::Disconnected { connection } = &event {
                    self.connections.remove(connection);
                }
                event
            }
            Input::Ask(event, token, sender) => {
                self.waiting.insert(token, sender);
                event
            }
            Input::Connect(connection, hello, to_worker) => {
                self.connections.insert(connection, to_worker);
                Event::Joined { connection, hello }
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::WriteHead(head) => self.write_head(*head),
            Action::WriteManifest(id, manifest) => self.write_manifest(id, *manifest),
            Action::WriteSavepoint(id, manifest, entry) => self.write_savepoint(id, *manifest, *entry),
            Action::ReadWorkerState(entry) => self.read_worker_state(entry),
            // Whoever leads by now says something else.
            Action::ToServer(..) | Action::ToWorker(..) if !self.environment.mandate.is_valid() => {}
            Action::ToServer(server, message) => drop(self.environment.servers.send((server, message))),
            Action::ToWorker(connection, message) => self.tell_worker(connection, message),
            Action::Answer(token, answer) => {
                if let Some(waiting) = self.waiting.remove(&token) {
                    // An error means that the caller has gone away.
                    waiting.send(answer).ok();
                }
            }
            Action::DeleteClaimed(entry) => self.delete_claimed(entry),
            Action::Routing => {}
            collecting => self.collect(collecting),
        }
    }

    fn collect(&self, action: Action) {
        let (collector, events) = (self.collector.clone(), self.events.clone());
        tokio::spawn(async move {
            if let Some((run, done)) = collector.act(action).await {
                events.send(Input::Event(Event::Collection { run, done })).await.ok();
            }
        });
    }

    fn tell_worker(&mut self, connection: Connection, message: ToWorker) {
        let ends = matches!(message, ToWorker::Ended(_));
        let Some(worker) = self.connections.get(&connection) else { return };
        // A worker that does not read its messages is cut off; it will connect again and be told anew.
        if worker.try_send(message).is_err() || ends {
            self.connections.remove(&connection);
        }
    }

    fn write_head(&self, head: v1::JobHead) {
        let (file, events) = (self.file.clone(), self.events.clone());
        tokio::spawn(async move {
            let event = match file.lock().await.write(&head).await {
                Ok(()) => Event::HeadWritten,
                Err(Deposed) => {
                    error!(job = head.job_uid, "another coordinator changed the job head: this one is deposed");
                    Event::Deposed
                }
            };
            events.send(Input::Event(event)).await.ok();
        });
    }

    fn write_manifest(&self, id: super::round::Id, manifest: v1::Manifest) {
        let (environment, events) = (self.environment.clone(), self.events.clone());
        tokio::spawn(async move {
            let (bytes, crc) = manifest::encode(&manifest);
            let length = bytes.len() as u64;
            let name = layout::manifest(id.checkpoint, &id.round);
            let path = environment.paths.resolve(&name).expect("fresh names are confined");
            let stored = environment.store.put(&path, bytes).await.map(|()| (crc, length));
            if stored.is_ok() {
                info!(job = manifest.job_uid, checkpoint = id.checkpoint, bytes = length, "manifest stored");
            }
            let stored = stored.map_err(|error| error.to_string());
            events.send(Input::Event(Event::ManifestWritten { id, stored })).await.ok();
        });
    }

    fn write_savepoint(&self, id: super::round::Id, manifest: v1::Manifest, entry: v1::CompletedCheckpoint) {
        let (environment, events) = (self.environment.clone(), self.events.clone());
        tokio::spawn(async move {
            let stored = finish(&environment.stores, &entry, &manifest).await;
            if let Ok(entry) = &stored {
                let (location, prefix) = (&entry.location, &entry.prefix);
                info!(job = entry.job, checkpoint = entry.id, location, prefix, "savepoint taken");
            }
            events.send(Input::Event(Event::SavepointWritten { id, stored })).await.ok();
        });
    }

    fn delete_claimed(&self, entry: Box<v1::CompletedCheckpoint>) {
        let (environment, events) = (self.environment.clone(), self.events.clone());
        tokio::spawn(async move {
            let done = found::remove(&environment.stores, &entry.location, &entry.prefix).await;
            let (location, prefix) = (&entry.location, &entry.prefix);
            match &done {
                Ok(()) => info!(location, prefix, "claimed checkpoint deleted"),
                Err(error) => error!(%error, location, prefix, "a claimed checkpoint cannot be deleted"),
            }
            // Somebody has deleted it by hand, or put something of theirs there: that is not ours to delete.
            let done = match done {
                Err(found::Error::Nothing { .. }) => Ok(()),
                done => done.map_err(|error| error.to_string()),
            };
            events.send(Input::Event(Event::ClaimedDeleted { entry, done })).await.ok();
        });
    }

    fn read_worker_state(&self, entry: v1::CompletedCheckpoint) {
        let (environment, events) = (self.environment.clone(), self.events.clone());
        tokio::spawn(async move {
            let read = manifest::open(&environment.stores, &environment.paths, &entry).await;
            let state = read.map(|(manifest, _)| manifest.workers).map_err(|error| {
                error!(%error, checkpoint = entry.id, "the worker state of a checkpoint cannot be read");
                let (reason, object) = match &error {
                    manifest::Error::Damaged { object, .. } => (Reason::CheckpointCorrupt, object.clone()),
                    manifest::Error::Store(_) => (Reason::StoreUnavailable, String::new()),
                };
                Refused::new(reason, error.to_string()).with("object", object)
            });
            if matches!(&state, Err(refused) if refused.reason == Reason::StoreUnavailable) {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            events.send(Input::Event(Event::WorkerState { checkpoint: entry.id, state })).await.ok();
        });
    }
}

/// Makes a savepoint whole, of which all files are there.
async fn finish(
    stores: &Stores,
    entry: &v1::CompletedCheckpoint,
    manifest: &v1::Manifest,
) -> Result<v1::CompletedCheckpoint, String> {
    let store = stores.at(&entry.location).await.map_err(|error| error.to_string())?;
    let folder = layout::Job::at(&entry.prefix).ok_or_else(|| format!("{:?} leaves its store", entry.prefix))?;
    let written = copy::finish(entry, manifest, &store, &folder).await.map_err(|error| error.to_string())?;
    let (location, prefix) = (entry.location.clone(), entry.prefix.clone());
    Ok(v1::CompletedCheckpoint { location, prefix, ..written })
}

impl Seen {
    fn of(machine: &Machine) -> Self {
        let head = machine.head().clone();
        let routes = head.shards.iter().map(|entry| wanted::route(entry, machine.servers())).collect();
        let spec = head.spec.clone().unwrap_or_default();
        let routing = v1::Routing {
            job_uid: head.job_uid.clone(),
            generation: head.generation,
            version: head.version,
            max_parallelism: spec.max_parallelism,
            partitioner: spec.partitioner,
            routes,
        };
        let info = |entry: &v1::ShardEntry| {
            let server = machine.servers().get(&entry.server);
            let said = server.and_then(|server| wanted::applied(server, entry));
            v1::ShardInfo {
                entry: Some(entry.clone()),
                address: server.map(|server| server.address.clone()).unwrap_or_default(),
                status: said.map_or(ShardStatus::Unspecified, v1::AppliedShard::status).into(),
                bytes: said.map_or(0, |said| said.bytes),
                job: spec.name.clone(),
            }
        };
        let worker = |member: &super::members::Member| v1::WorkerInfo {
            worker: member.worker.clone(),
            join_id: member.join_id.clone(),
            operator: member.operator.clone(),
            shards: head
                .shards
                .iter()
                .filter(|entry| entry.writer.as_ref().is_some_and(|writer| writer.join_id == member.join_id))
                .count() as u32,
            connected: member.connection.is_some(),
        };
        Self {
            routing,
            shards: head.shards.iter().map(info).collect(),
            workers: machine.members().all().map(worker).collect(),
            failed: machine.failed().cloned().collect(),
            in_progress: machine.rounds().iter().map(super::round::Round::progress).collect(),
            moves: machine.moves(),
            broken: machine.broken(),
            head,
        }
    }

    /// What callers are told of the job.
    pub fn info(&self) -> v1::JobInfo {
        v1::JobInfo {
            spec: self.head.spec.clone(),
            job_uid: self.head.job_uid.clone(),
            generation: self.head.generation,
            last_checkpoint: self.head.completed.last().map_or(0, |completed| completed.id),
            restored_checkpoint: self.head.restored_checkpoint,
            created_ms: self.head.created_ms,
            shards: self.shards.clone(),
            workers: self.workers.clone(),
            failures: self.head.failures,
            rewinds: self.head.generation.saturating_sub(1),
        }
    }
}

fn now() -> Now {
    Now { mono_ms: boot_ms(), wall_ms: wall_ms() }
}
