//! The coordinator node: the real [`Machine`], its connections, and the head that it writes. What the
//! machine asks for is done as `server/src/coordinator/{coordinator,job,servers}.rs` do it.

use std::collections::BTreeMap;

use forebay_proto::{reason::Refused, v1};
use forebay_server::{
    checkpoint::manifest,
    coordinator::{
        machine::{Action, Connection, Event, Machine, Now, Token},
        round::{self, Id},
        wanted,
    },
    seeded::{self, Bug},
};
use v1::{
    ErrorReason as Reason, join_request::Message as FromWorker, join_response::Message as ToWorker,
    link_request::Message as FromServer, link_response::Message as ToServer,
};

use super::{
    env::Env,
    faults::Moment,
    garbage,
    head::{HeadFile, Settled},
    network::{ConnectionId, Message, Side},
    schedule::{Life, NodeId, Timer as AnyTimer},
    store::PutAnswer,
};

const TICK_US: i64 = 50_000;

/// What the coordinator's process waits for.
#[derive(Debug)]
pub enum Timer {
    /// It reads the head and begins.
    TakeUp,
    /// Time goes by.
    Tick,
    /// An attempt to write the head is answered.
    HeadAnswer(u64, PutAnswer),
    /// An attempt to write the head is made again.
    HeadAgain(u64),
    /// The head on top is read.
    HeadRead(u64),
    /// A manifest is stored, or could not be.
    Manifest(Id, Box<v1::Manifest>),
    /// The worker state of a checkpoint is read.
    WorkerState(Box<v1::CompletedCheckpoint>),
    /// A step of a collection of garbage is done.
    Collection(Box<Action>),
}

/// A server as its links show it.
#[derive(Debug, Default)]
struct Known {
    link: Option<ConnectionId>,
    away_since_ms: i64,
}

/// The coordinator's process.
pub struct Coordinator {
    /// Which process it is.
    pub life: Life,
    epoch: u64,
    /// True once another has taken office: what it says to servers and workers is not said any more.
    silent: bool,
    /// The head, while this coordinator writes its epoch into it.
    claim: Option<(v1::JobHead, HeadFile)>,
    job: Option<(Machine, HeadFile)>,
    servers: BTreeMap<String, Known>,
    links: BTreeMap<ConnectionId, String>,
    workers: BTreeMap<ConnectionId, Connection>,
    connections: u64,
}

impl Coordinator {
    /// Starts a process: it takes office, and soon takes up the job.
    pub fn start(env: &mut Env) -> Self {
        let life = env.new_life();
        env.store.office += 1;
        let coordinator = Self {
            life,
            epoch: env.store.office,
            silent: false,
            claim: None,
            job: None,
            servers: BTreeMap::new(),
            links: BTreeMap::new(),
            workers: BTreeMap::new(),
            connections: 0,
        };
        coordinator.wake(env, 20_000, Timer::TakeUp);
        coordinator
    }

    /// Takes note that its term of office is over; the process may not know it yet, and goes on.
    pub fn end_mandate(&mut self) {
        self.silent = !seeded::is(Bug::SpeaksBehindItsMandate);
    }

    fn wake(&self, env: &mut Env, delay_us: i64, timer: Timer) {
        env.timer(NodeId::Coordinator, self.life, delay_us, AnyTimer::Coordinator(timer));
    }

    /// Somebody wants a shard to go to a server; false if nobody can be asked.
    pub fn move_shard(&mut self, env: &mut Env, to: usize) -> bool {
        let Some((machine, _)) = &self.job else { return false };
        let to = NodeId::Server(to).name();
        let elsewhere: Vec<_> = machine.head().shards.iter().filter(|entry| entry.server != to).collect();
        if elsewhere.is_empty() {
            return false;
        }
        let place = round::place(elsewhere[env.rng.index(elsewhere.len())]);
        self.step(env, Event::Move { token: Token(0), place, to, dry_run: false });
        true
    }

    /// What the routing says; `None` before the job is taken up.
    pub fn routing(&self) -> Option<v1::Routing> {
        let (machine, _) = self.job.as_ref()?;
        let head = machine.head();
        Some(v1::Routing {
            job_uid: head.job_uid.clone(),
            generation: head.generation,
            version: head.version,
            routes: head.shards.iter().map(|entry| wanted::route(entry, machine.servers())).collect(),
            ..Default::default()
        })
    }

    /// Takes what was waited for.
    pub fn woken(&mut self, env: &mut Env, timer: Timer) {
        match timer {
            Timer::TakeUp => self.take_up(env),
            Timer::Tick => self.tick(env),
            Timer::HeadAnswer(number, answer) => {
                let settled = self.file().and_then(|file| file.answered(env, number, answer));
                self.settled(env, settled);
            }
            Timer::HeadRead(number) => {
                let settled = self.file().and_then(|file| file.settle(env, number));
                self.settled(env, settled);
            }
            Timer::HeadAgain(number) => {
                if let Some(file) = self.file() {
                    file.again(env, number);
                }
            }
            Timer::Manifest(id, manifest) => self.store_manifest(env, id, *manifest),
            Timer::WorkerState(entry) => self.worker_state(env, &entry),
            Timer::Collection(action) => {
                if let Some((run, done)) = garbage::act(env, *action) {
                    self.step(env, Event::Collection { run, done });
                }
            }
        }
    }

    fn file(&mut self) -> Option<&mut HeadFile> {
        let claim = self.claim.as_mut().map(|(_, file)| file);
        claim.or(self.job.as_mut().map(|(_, file)| file))
    }

    /// Writes its epoch into the head. What a former coordinator had sent and lands only now is taken
    /// up; a later coordinator's head ends this one.
    fn take_up(&mut self, env: &mut Env) {
        if !env.store_up() {
            return self.wake(env, 200_000, Timer::TakeUp);
        }
        let found = env.store.head.clone();
        if found.coordinator_epoch > self.epoch {
            return;
        }
        let mut file = HeadFile::new(self.life, env.store.version, &found);
        let head = v1::JobHead { coordinator_epoch: self.epoch, version: found.version + 1, ..found };
        file.write(env, head.clone());
        self.claim = Some((head, file));
    }

    fn claimed(&mut self, env: &mut Env, settled: Settled) {
        let Some((head, file)) = self.claim.take() else { return };
        if settled == Settled::Foreign {
            return self.take_up(env);
        }
        for entry in head.shards.iter().filter(|entry| !entry.server.is_empty()) {
            self.servers.insert(entry.server.clone(), Known { link: None, away_since_ms: env.now_ms() });
        }
        let mut machine = Machine::new(head, self.epoch, format!("c{}", self.life.0), now(env));
        machine.collect_garbage(env.settings.garbage, now(env));
        self.job = Some((machine, file));
        self.wake(env, TICK_US, Timer::Tick);
    }

    fn tick(&mut self, env: &mut Env) {
        let patience = env.settings.server_lease_ms + env.settings.return_wait_ms;
        let gone = |known: &Known| known.link.is_none() && env.now_ms() - known.away_since_ms > patience;
        let gone: Vec<_> = self.servers.iter().filter(|(_, known)| gone(known)).map(|(name, _)| name.clone()).collect();
        for server in gone {
            self.step(env, Event::ServerGone { server });
        }
        self.step(env, Event::Tick);
        self.wake(env, TICK_US, Timer::Tick);
    }

    fn settled(&mut self, env: &mut Env, settled: Option<Settled>) {
        match settled {
            Some(settled) if self.claim.is_some() => self.claimed(env, settled),
            Some(Settled::InForce) => self.step(env, Event::HeadWritten),
            Some(Settled::Foreign) => self.step(env, Event::Deposed),
            None => {}
        }
    }

    /// Lets the machine decide, and does what it says.
    fn step(&mut self, env: &mut Env, event: Event) {
        let Some((machine, _)) = &mut self.job else { return };
        for action in machine.step(event, now(env)) {
            self.act(env, action);
        }
    }

    fn act(&mut self, env: &mut Env, action: Action) {
        match action {
            Action::WriteHead(head) => {
                env.faults.moment(Moment::HeadWrite);
                if let Some((_, file)) = &mut self.job {
                    file.write(env, *head);
                }
            }
            Action::WriteManifest(id, manifest) => {
                env.faults.moment(Moment::Manifest);
                let delay = env.rng.within(500..20_000);
                self.wake(env, delay, Timer::Manifest(id, manifest));
            }
            Action::ReadWorkerState(entry) => {
                let delay = env.rng.within(500..10_000);
                self.wake(env, delay, Timer::WorkerState(Box::new(entry)));
            }
            Action::ToServer(..) | Action::ToWorker(..) if self.silent => {}
            Action::ToServer(server, message) => {
                if let ToServer::Job(wanted) = &message {
                    env.oracle.told_server(&env.store, wanted);
                }
                if let Some(link) = self.servers.get(&server).and_then(|known| known.link) {
                    env.send(link, Side::Server, Message::LinkDown(message));
                }
            }
            Action::ToWorker(connection, message) => self.tell_worker(env, connection, message),
            Action::Answer(..) | Action::Routing => {}
            collecting => {
                let delay = env.rng.within(300..10_000);
                self.wake(env, delay, Timer::Collection(Box::new(collecting)));
            }
        }
    }

    fn tell_worker(&mut self, env: &mut Env, connection: Connection, message: ToWorker) {
        let found = self.workers.iter().find(|(_, known)| **known == connection).map(|(id, _)| *id);
        let Some(id) = found else { return };
        if matches!(message, ToWorker::Assignment(_)) {
            env.faults.moment(Moment::Assignment);
        }
        env.oracle.told_worker(&env.store, &message);
        let ends = matches!(message, ToWorker::Ended(_));
        env.send(id, Side::Server, Message::JoinDown(message));
        if ends {
            self.workers.remove(&id);
            env.close(id, Side::Server);
        }
    }

    fn store_manifest(&mut self, env: &mut Env, id: Id, manifest: v1::Manifest) {
        let lost = env.store.put_fault.is_some() && env.rng.one_in(4);
        let stored = if env.store_up() {
            let (bytes, crc) = manifest::encode(&manifest);
            let path = forebay_server::checkpoint::layout::manifest(id.checkpoint, &id.round);
            let now_ms = env.now_ms();
            env.store.wrote(&path, now_ms);
            env.store.manifests.insert(path, manifest);
            if lost { Err("the answer was lost".to_owned()) } else { Ok((crc, bytes.len() as u64)) }
        } else {
            Err("the store is away".to_owned())
        };
        env.note(format_args!("manifest {} {}: {}", id.checkpoint, id.round, stored.is_ok()));
        self.step(env, Event::ManifestWritten { id, stored });
    }

    fn worker_state(&mut self, env: &mut Env, entry: &v1::CompletedCheckpoint) {
        let state = if !env.store_up() {
            Err(Refused::new(Reason::StoreUnavailable, "the store is away"))
        } else if let Some(manifest) = env.store.manifests.get(&entry.manifest) {
            Ok(manifest.workers.clone())
        } else {
            Err(Refused::new(Reason::CheckpointCorrupt, "the manifest is missing"))
        };
        self.step(env, Event::WorkerState { checkpoint: entry.id, state });
    }

    /// Takes a message.
    pub fn heard(&mut self, env: &mut Env, id: ConnectionId, message: Message) {
        if self.job.is_none() {
            // It serves nobody before it has taken up its jobs.
            return env.close(id, Side::Server);
        }
        match message {
            Message::LinkUp(message) => self.server_says(env, id, message),
            Message::JoinUp(FromWorker::Hello(hello)) => {
                self.connections += 1;
                let connection = Connection(self.connections);
                self.workers.insert(id, connection);
                self.step(env, Event::Joined { connection, hello });
            }
            Message::JoinUp(message) => {
                if let Some(connection) = self.workers.get(&id).copied() {
                    self.step(env, Event::Worker { connection, message });
                }
            }
            _ => {}
        }
    }

    fn server_says(&mut self, env: &mut Env, id: ConnectionId, message: FromServer) {
        if let FromServer::Register(register) = &message {
            let known = Known { link: Some(id), away_since_ms: 0 };
            // What a former link still brings counts as the server's, as it does in the edge.
            if let Some(former) = self.servers.insert(register.name.clone(), known).and_then(|former| former.link) {
                env.hang_up(former);
            }
            self.links.insert(id, register.name.clone());
            self.lease(env, &register.name, 0);
            let (server, address) = (register.name.clone(), register.address.clone());
            return self.step(env, Event::ServerUp { server, address });
        }
        let Some(server) = self.links.get(&id).cloned() else { return };
        match message {
            FromServer::Register(_) => {}
            FromServer::Heartbeat(heartbeat) => self.lease(env, &server, heartbeat.sequence),
            FromServer::Applied(applied) => self.step(env, Event::Applied { server, applied }),
            FromServer::Prepared(prepared) => self.step(env, Event::Prepared { server, prepared }),
            FromServer::Snapshot(report) => self.step(env, Event::Snapshot(report)),
            FromServer::Failed(failed) => self.step(env, Event::SnapshotFailed(failed)),
        }
    }

    fn lease(&self, env: &mut Env, server: &str, sequence: u64) {
        let Some(link) = self.servers.get(server).and_then(|known| known.link).filter(|_| !self.silent) else { return };
        let lease_ms = env.settings.server_lease_ms.cast_unsigned();
        let lease = v1::ServerLease { sequence, lease_ms, coordinator_epoch: self.epoch, ..Default::default() };
        env.send(link, Side::Server, Message::LinkDown(ToServer::Lease(lease)));
    }

    /// Takes note of a connection's end.
    pub fn closed(&mut self, env: &mut Env, id: ConnectionId) {
        if let Some(server) = self.links.remove(&id) {
            if let Some(known) = self.servers.get_mut(&server).filter(|known| known.link == Some(id)) {
                (known.link, known.away_since_ms) = (None, env.now_ms());
                self.step(env, Event::ServerDown { server });
            }
        } else if let Some(connection) = self.workers.remove(&id) {
            self.step(env, Event::Disconnected { connection });
        }
    }
}

fn now(env: &Env) -> Now {
    Now { mono_ms: env.now_ms(), wall_ms: env.wall_ms() }
}
