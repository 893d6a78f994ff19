//! A server node: its link to the coordinator, its lease, and how it takes up what is wanted of it. A twin
//! of `server/src/{shard/job,grpc/dial}.rs` around the real [`Core`](forebay_server::shard::core::Core)s.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
};

use forebay_proto::{reason::Refused, v1};
use forebay_server::shard::{core::Core, gate::Rights, states::States};
use v1::{link_request::Message as Up, link_response::Message as Down};

use super::{
    disk::{Control, ShardDisk, lock},
    env::Env,
    faults::Moment,
    network::{ConnectionId, Message, Side},
    reports::Upload,
    schedule::{Life, NodeId, Timer as AnyTimer},
    streams::ClientStream,
};

/// A shard's place.
pub type Place = (String, u32, u32);

/// Returns a shard's place.
pub fn place(entry: &v1::ShardEntry) -> Place {
    (entry.operator.clone(), entry.start, entry.end)
}

/// What a server's process waits for.
#[derive(Debug)]
pub enum Timer {
    /// It dials the coordinator.
    Dial,
    /// It sends a heartbeat.
    Beat(ConnectionId),
    /// The shards that are to be made are made now.
    Make,
    /// A snapshot's upload ends.
    Uploaded(Box<Upload>),
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
    /// This instance serves.
    Serving(u64),
    /// It is being made.
    Restoring,
    /// It cannot serve.
    Unavailable(Refused),
}

/// The link to the coordinator.
pub struct Link {
    /// Its connection.
    pub id: ConnectionId,
    sent_us: VecDeque<(u64, i64)>,
    sequence: u64,
}

/// A server's process.
pub struct Server {
    /// Which server it is.
    pub index: usize,
    /// Which process it is.
    pub life: Life,
    /// What happens to its write calls.
    pub control: Arc<Mutex<Control>>,
    /// Cores that serve, by instance.
    pub cores: BTreeMap<u64, Core>,
    /// The newest assignment taken up; `None` before the first.
    pub view: Option<v1::JobAssignment>,
    /// Its shards.
    pub slots: Vec<Slot>,
    /// Streams from workers.
    pub streams: BTreeMap<ConnectionId, ClientStream>,
    /// Streams so far.
    pub streams_made: u64,
    pub(super) completed: BTreeMap<u64, v1::CompletedCheckpoint>,
    pub(super) instances: u64,
    lease_until_us: i64,
    /// How often the lease was renewed after it had run out.
    lapses: u64,
    /// The lapse up to which an assignment has been taken up since.
    confirmed: u64,
    pub(super) link: Option<Link>,
    applied: u64,
    applying: Option<(v1::JobAssignment, ConnectionId)>,
    waiting: VecDeque<(v1::JobAssignment, ConnectionId)>,
    pub(super) reports: Vec<Up>,
}

impl Server {
    /// Starts a process.
    pub fn start(env: &mut Env, index: usize) -> Self {
        let life = env.new_life();
        let server = Self {
            index,
            life,
            control: Arc::default(),
            cores: BTreeMap::new(),
            view: None,
            slots: Vec::new(),
            streams: BTreeMap::new(),
            streams_made: 0,
            completed: BTreeMap::new(),
            instances: 0,
            lease_until_us: 0,
            lapses: 0,
            confirmed: 0,
            link: None,
            applied: 0,
            applying: None,
            waiting: VecDeque::new(),
            reports: Vec::new(),
        };
        server.wake(env, 1_000, Timer::Dial);
        server
    }

    pub(super) fn wake(&self, env: &mut Env, delay_us: i64, timer: Timer) {
        env.timer(NodeId::Server(self.index), self.life, delay_us, AnyTimer::Server(timer));
    }

    /// True while the server's own lease is valid. After a lapse its shards may be elsewhere, so a renewed
    /// lease counts only once the server was told anew what it holds.
    pub fn lease_valid(&self, env: &Env) -> bool {
        env.now_us < self.lease_until_us && self.confirmed == self.lapses
    }

    /// Takes what was waited for.
    pub fn woken(&mut self, env: &mut Env, disk: &mut BTreeMap<Place, ShardDisk>, timer: Timer) {
        match timer {
            Timer::Dial => self.dial(env),
            Timer::Beat(id) => self.beat(env, id),
            Timer::Make => self.make_all(env, disk),
            Timer::Uploaded(upload) => self.uploaded(env, *upload),
        }
    }

    fn dial(&mut self, env: &mut Env) {
        let id = env.connect(NodeId::Server(self.index), self.life, NodeId::Coordinator);
        let name = NodeId::Server(self.index).name();
        let register = v1::Register { address: name.clone(), name, ..Default::default() };
        env.send(id, Side::Client, Message::LinkUp(Up::Register(register)));
        self.link = Some(Link { id, sent_us: VecDeque::from([(0, env.now_us)]), sequence: 0 });
        self.report(env);
        self.wake(env, 1_000, Timer::Beat(id));
    }

    fn beat(&mut self, env: &mut Env, id: ConnectionId) {
        let Some(link) = self.link.as_mut().filter(|link| link.id == id) else { return };
        let patience_us = env.settings.server_lease_ms * 750;
        if link.sent_us.front().is_some_and(|(_, sent_us)| env.now_us - sent_us > patience_us) {
            env.faults.hit("link given up");
            env.close(id, Side::Client);
            return self.link_closed(env, id);
        }
        link.sequence += 1;
        link.sent_us.push_back((link.sequence, env.now_us));
        let heartbeat = v1::ServerHeartbeat { sequence: link.sequence, ..Default::default() };
        env.send(id, Side::Client, Message::LinkUp(Up::Heartbeat(heartbeat)));
        self.wake(env, env.settings.server_lease_ms * 200, Timer::Beat(id));
    }

    /// Takes a message of the coordinator.
    pub fn heard(&mut self, env: &mut Env, disk: &BTreeMap<Place, ShardDisk>, id: ConnectionId, message: Down) {
        match message {
            Down::Lease(lease) => {
                let Some(link) = self.link.as_mut().filter(|link| link.id == id) else { return };
                if let Some((sequence, sent_us)) = link.sent_us.iter().find(|sent| sent.0 == lease.sequence).copied() {
                    let until_us = sent_us + lease.lease_ms.cast_signed() * 1000;
                    link.sent_us.retain(|(known, _)| *known > sequence);
                    let lapsed = self.lease_until_us <= env.now_us;
                    self.lapses += u64::from(lapsed);
                    self.lease_until_us = self.lease_until_us.max(until_us);
                    if lapsed && sequence > 0 {
                        // Only a new link makes the coordinator say what this server holds.
                        env.close(id, Side::Client);
                        self.link_closed(env, id);
                    }
                }
            }
            Down::Job(wanted) => {
                // Of those that wait from the same link only the newest counts.
                self.waiting.retain(|(_, from)| *from != id);
                self.waiting.push_back((wanted, id));
                self.take_up(env);
            }
            Down::Ended(ended) => {
                for core in self.cores.values_mut() {
                    if ended.completed {
                        core.checkpoint_completed(ended.checkpoint);
                    } else {
                        core.checkpoint_aborted(ended.checkpoint);
                    }
                }
                if let Some(entry) = ended.checkpoint_entry {
                    self.completed.insert(entry.id, entry);
                    self.completed.retain(|id, _| ended.retained.contains(id));
                }
            }
            Down::Snapshot(command) => self.freeze(env, disk, &command),
            Down::Prepare(wanted) => {
                // What a checkpoint holds is in the store, and here in no time.
                self.reports.push(Up::Prepared(v1::ShardPrepared {
                    job_uid: wanted.job_uid,
                    operator: wanted.operator,
                    start: wanted.start,
                    end: wanted.end,
                    checkpoint: wanted.checkpoint.map_or(0, |checkpoint| checkpoint.id),
                    done: true,
                    ..Default::default()
                }));
                self.report(env);
            }
            // What is in the log is in the simulated disk's one file.
            Down::Refused(_) | Down::Started(_) | Down::Flush(_) => {}
        }
    }

    /// Freezes a shard by command.
    fn freeze(&mut self, env: &mut Env, disk: &BTreeMap<Place, ShardDisk>, command: &v1::SnapshotCommand) {
        let at = (command.operator.clone(), command.start, command.end);
        let Some(slot) = self.slots.iter().find(|slot| place(&slot.entry) == at) else { return };
        let Status::Serving(instance) = slot.status else { return };
        let Some(core) = self.cores.get_mut(&instance) else { return };
        let snapshot = core.snapshot(v1::BarrierOp {
            checkpoint: command.checkpoint,
            round: command.round.clone(),
            base: command.base,
            coordinator_epoch: command.coordinator_epoch,
        });
        let image = disk.get(&at).and_then(ShardDisk::take_frozen).unwrap_or_default();
        env.faults.moment(Moment::Frozen);
        self.upload(env, snapshot, image);
    }

    /// Takes note that the link is over.
    pub fn link_closed(&mut self, env: &mut Env, id: ConnectionId) {
        if self.link.take_if(|link| link.id == id).is_some() {
            self.wake(env, 250_000, Timer::Dial);
        }
    }

    /// Begins with the next wanted state: what stays gets its new rights, the rest is to be made.
    fn take_up(&mut self, env: &mut Env) {
        while self.applying.is_none() {
            let Some((wanted, from)) = self.waiting.pop_front() else { return };
            if wanted.version < self.applied {
                continue;
            }
            self.applied = wanted.version;
            if self.link.as_ref().is_some_and(|link| link.id == from) {
                self.confirmed = self.lapses;
            }
            self.completed.extend(wanted.checkpoints.iter().map(|entry| (entry.id, entry.clone())));
            let kept: Vec<_> = wanted.shards.iter().map(|entry| self.keep(entry)).collect();
            self.cores.retain(|instance, _| kept.contains(&Some(*instance)));
            self.slots.clear();
            for (entry, kept) in wanted.shards.iter().zip(&kept) {
                let status = kept.map_or(Status::Restoring, Status::Serving);
                self.slots.push(Slot { entry: entry.clone(), status });
                if let Some(core) = kept.and_then(|instance| self.cores.get_mut(&instance)) {
                    core.update(rights(&wanted, entry), States::of_operator(&wanted.states, &entry.operator));
                }
            }
            let delay = if kept.iter().all(Option::is_some) {
                0
            } else {
                // Now and then there is much to bring here.
                let most = if env.rng.one_in(4) { 1_500_000 } else { 80_000 };
                env.rng.within(500..most)
            };
            if wanted.shards.iter().zip(&kept).any(|(entry, kept)| kept.is_none() && entry.is_arriving()) {
                env.faults.moment(Moment::Arrival);
            }
            self.view = Some(wanted.clone());
            self.applying = Some((wanted, from));
            self.wake(env, delay, Timer::Make);
        }
    }

    fn keep(&self, wanted: &v1::ShardEntry) -> Option<u64> {
        let same = |slot: &&Slot| {
            place(&slot.entry) == place(wanted)
                && (slot.entry.epoch, slot.entry.incarnation) == (wanted.epoch, wanted.incarnation)
        };
        match self.slots.iter().find(same)?.status {
            Status::Serving(instance) => Some(instance),
            _ => None,
        }
    }

    fn make_all(&mut self, env: &mut Env, disk: &mut BTreeMap<Place, ShardDisk>) {
        let Some((wanted, from)) = self.applying.take() else { return };
        for index in 0..self.slots.len() {
            let Slot { entry, status: Status::Restoring } = self.slots[index].clone() else { continue };
            self.slots[index].status = match self.make(env, disk, &wanted, &entry) {
                Ok(core) => {
                    self.instances += 1;
                    self.cores.insert(self.instances, core);
                    Status::Serving(self.instances)
                }
                Err(refused) => {
                    env.note(format_args!("s{} cannot serve {}: {}", self.index, entry.start, refused.message));
                    Status::Unavailable(refused)
                }
            };
        }
        if lock(&self.control).crashed {
            return;
        }
        let applied = self.applied_report(&wanted);
        env.send(from, Side::Client, Message::LinkUp(Up::Applied(applied)));
        self.take_up(env);
    }
}

/// The rights that an assignment gives to a shard.
pub fn rights(wanted: &v1::JobAssignment, entry: &v1::ShardEntry) -> Rights {
    Rights {
        access: v1::Access::Leased,
        generation: wanted.generation,
        restored_checkpoint: wanted.restored_checkpoint,
        shard_epoch: entry.epoch,
        incarnation: entry.incarnation,
        writer_epoch: entry.writer_epoch,
        leased: entry.writer.is_some(),
        established: entry.established,
        leaving: entry.is_leaving(),
    }
}
