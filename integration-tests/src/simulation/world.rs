//! One world: its nodes, and how what happens reaches them.

use std::collections::BTreeMap;

use forebay_proto::v1;
use forebay_server::coordinator::spec;

use super::{
    coordinator::Coordinator,
    disk::{ShardDisk, lock},
    env::Env,
    network::{ConnectionId, Message, Side},
    schedule::{Happening, Life, NodeId, Timer},
    server::{Place, Server},
    worker::Worker,
};

/// Longest virtual time from the last fault to the end of all work.
const LIVENESS_US: i64 = 180_000_000;

/// A server with what survives its processes.
#[derive(Default)]
pub struct ServerNode {
    /// The process, while there is one.
    pub process: Option<Server>,
    /// The disk.
    pub disk: BTreeMap<Place, ShardDisk>,
}

/// A world.
pub struct World {
    /// What all nodes share.
    pub env: Env,
    /// The coordinator's process.
    pub coordinator: Option<Coordinator>,
    /// An earlier process of the coordinator that does not know yet that it is over.
    pub former: Option<Coordinator>,
    /// The servers.
    pub servers: Vec<ServerNode>,
    /// The workers' processes.
    pub workers: Vec<Option<Worker>>,
    /// What waits for processes that stand still.
    pub paused: BTreeMap<NodeId, Vec<Happening>>,
    healed_us: i64,
}

impl World {
    /// Makes a world: a job whose head is stored, and processes that are about to start.
    pub fn new(mut env: Env) -> Self {
        let spec = env.settings.spec();
        env.store.head = v1::JobHead {
            version: 1,
            job_uid: "job-uid".into(),
            generation: 1,
            shards: spec::shards(&spec),
            next_state_id: 1,
            next_checkpoint_id: 1,
            spec: Some(spec),
            ..Default::default()
        };
        env.store.version = 1;
        let (servers, workers) = (env.settings.servers, env.settings.workers);
        env.later(0, Happening::Start(NodeId::Coordinator));
        for index in 0..servers {
            let delay = env.rng.within(0..50_000);
            env.later(delay, Happening::Start(NodeId::Server(index)));
        }
        for index in 0..workers {
            let delay = if index == 0 { 0 } else { env.rng.within(0..4_000_000) };
            env.later(delay, Happening::Start(NodeId::Worker(index)));
        }
        env.later(500_000, Happening::Fault);
        let healed_us = env.settings.faults_us;
        env.later(healed_us, Happening::Heal);
        Self {
            env,
            coordinator: None,
            former: None,
            servers: (0..servers).map(|_| ServerNode::default()).collect(),
            workers: (0..workers).map(|_| None).collect(),
            paused: BTreeMap::new(),
            healed_us,
        }
    }

    /// Runs until a checkpoint holds the whole input, or something is wrong.
    pub fn run(&mut self) {
        while self.env.oracle.violation.is_none() && !self.env.oracle.done {
            let Some(happening) = self.env.next() else {
                return self.env.oracle.wrong("nothing happens any more".into());
            };
            if self.env.now_us > self.healed_us + LIVENESS_US {
                let what = format!("no end within {} virtual seconds of the last fault", LIVENESS_US / 1_000_000);
                return self.env.oracle.wrong(what);
            }
            self.happen(happening);
            self.bury();
            self.strike_moments();
        }
    }

    fn happen(&mut self, happening: Happening) {
        if let Some(node) = self.meant_for(&happening)
            && let Some(deferred) = self.paused.get_mut(&node)
        {
            return deferred.push(happening);
        }
        match happening {
            Happening::Deliver(id, side, message) => self.deliver(id, side, *message),
            Happening::Closed(id, side) => self.closed(id, side),
            Happening::Timer(node, life, timer) => self.timer(node, life, timer),
            Happening::Landed(put) => self.env.land(*put),
            Happening::Start(node) => self.start(node),
            Happening::Resume(node) => self.resume(node),
            Happening::Retire => self.retire(),
            Happening::Fault => self.next_fault(),
            Happening::Heal => self.heal(),
        }
    }

    fn meant_for(&self, happening: &Happening) -> Option<NodeId> {
        match happening {
            Happening::Deliver(id, side, _) | Happening::Closed(id, side) => self.env.net.node(*id, *side),
            Happening::Timer(node, ..) => Some(*node),
            _ => None,
        }
    }

    fn life(&self, node: NodeId) -> Option<Life> {
        match node {
            NodeId::Coordinator => self.coordinator.as_ref().map(|it| it.life),
            NodeId::Server(index) => self.servers[index].process.as_ref().map(|it| it.life),
            NodeId::Worker(index) => self.workers[index].as_ref().map(|it| it.life),
        }
    }

    fn lives(&self, node: NodeId, life: Life) -> bool {
        let former = self.former.as_ref().is_some_and(|former| node == NodeId::Coordinator && former.life == life);
        former || self.life(node) == Some(life)
    }

    fn coordinator_does(&mut self, life: Life, what: impl FnOnce(&mut Coordinator, &mut Env)) {
        let coordinator = self.former.iter_mut().chain(&mut self.coordinator).find(|it| it.life == life);
        if let Some(coordinator) = coordinator {
            what(coordinator, &mut self.env);
        }
    }

    /// Ends the former coordinator's process.
    pub fn retire(&mut self) {
        if let Some(former) = self.former.take() {
            self.env.note(format_args!("the former coordinator dies"));
            self.env.process_died(NodeId::Coordinator, former.life);
        }
    }

    fn deliver(&mut self, id: ConnectionId, side: Side, message: Message) {
        let Some(node) = self.env.net.node(id, side) else { return };
        let Some(wanted) = self.env.net.arrives(id, side, false) else { return };
        let life = match (wanted, self.life(node)) {
            (Some(wanted), _) if self.lives(node, wanted) => wanted,
            (None, Some(life)) => {
                self.env.net.accepted(id, life);
                life
            }
            (Some(_), _) => return,
            (None, None) => return self.env.close(id, side),
        };
        self.env.note(format_args!("{} < {} {}", node.name(), id.0, message.name()));
        let env = &mut self.env;
        match node {
            NodeId::Coordinator => self.coordinator_does(life, |coordinator, env| coordinator.heard(env, id, message)),
            NodeId::Server(index) => {
                let ServerNode { process: Some(server), disk } = &mut self.servers[index] else { return };
                match message {
                    Message::LinkDown(message) => server.heard(env, disk, id, message),
                    Message::StreamUp(message) => server.stream_heard(env, disk, id, message),
                    _ => {}
                }
            }
            NodeId::Worker(index) => {
                if let Some(worker) = &mut self.workers[index] {
                    worker.heard(env, id, message);
                }
            }
        }
    }

    fn closed(&mut self, id: ConnectionId, side: Side) {
        let Some(node) = self.env.net.node(id, side) else { return };
        let Some(Some(life)) = self.env.net.arrives(id, side, true) else { return };
        if !self.lives(node, life) {
            return;
        }
        self.env.note(format_args!("{} connection {} ends", node.name(), id.0));
        let env = &mut self.env;
        match node {
            NodeId::Coordinator => self.coordinator_does(life, |coordinator, env| coordinator.closed(env, id)),
            NodeId::Server(index) => {
                if let Some(server) = &mut self.servers[index].process {
                    match side {
                        Side::Client => server.link_closed(env, id),
                        Side::Server => server.stream_closed(id),
                    }
                }
            }
            NodeId::Worker(index) => {
                if let Some(worker) = &mut self.workers[index] {
                    worker.closed(env, id);
                }
            }
        }
    }

    fn timer(&mut self, node: NodeId, life: Life, timer: Timer) {
        if !self.lives(node, life) {
            return;
        }
        let env = &mut self.env;
        match (node, timer) {
            (NodeId::Coordinator, Timer::Coordinator(timer)) => {
                self.coordinator_does(life, |coordinator, env| coordinator.woken(env, timer));
            }
            (NodeId::Server(index), Timer::Server(timer)) => {
                let ServerNode { process, disk } = &mut self.servers[index];
                if let Some(server) = process {
                    server.woken(env, disk, timer);
                }
            }
            (NodeId::Worker(index), Timer::Worker(timer)) => {
                let coordinator = self.coordinator.as_ref().filter(|_| !self.paused.contains_key(&NodeId::Coordinator));
                if let Some(worker) = &mut self.workers[index] {
                    worker.woken(env, coordinator, timer);
                }
            }
            _ => {}
        }
    }

    fn start(&mut self, node: NodeId) {
        if self.life(node).is_some() {
            return;
        }
        self.env.note(format_args!("{} starts", node.name()));
        let env = &mut self.env;
        match node {
            NodeId::Coordinator => {
                // The election lets nobody take office under another's mandate.
                self.former.iter_mut().for_each(Coordinator::end_mandate);
                self.coordinator = Some(Coordinator::start(env));
            }
            NodeId::Server(index) => self.servers[index].process = Some(Server::start(env, index)),
            NodeId::Worker(index) => self.workers[index] = Some(Worker::start(env, index)),
        }
    }

    /// Ends a node's process, and starts another after a while.
    pub fn kill(&mut self, node: NodeId, away_us: i64) {
        let Some(life) = self.life(node) else { return };
        self.env.note(format_args!("{} dies", node.name()));
        match node {
            NodeId::Coordinator => self.coordinator = None,
            NodeId::Server(index) => self.servers[index].process = None,
            NodeId::Worker(index) => self.workers[index] = None,
        }
        self.env.process_died(node, life);
        // Connections that it had not taken up die with it.
        for happening in self.paused.remove(&node).into_iter().flatten() {
            if let Happening::Deliver(id, side, _) = happening {
                self.env.close(id, side);
            }
        }
        self.env.later(away_us, Happening::Start(node));
    }

    /// Lets a process that stood still go on, with all that has come for it meanwhile.
    pub fn resume(&mut self, node: NodeId) {
        let Some(deferred) = self.paused.remove(&node) else { return };
        self.env.note(format_args!("{} goes on", node.name()));
        for happening in deferred {
            self.happen(happening);
        }
    }

    /// Ends processes that have ended themselves.
    fn bury(&mut self) {
        for index in 0..self.servers.len() {
            let died = |server: &Server| {
                lock(&server.control).crashed || server.cores.values().any(|it| it.failed().is_some())
            };
            if self.servers[index].process.as_ref().is_some_and(died) {
                self.env.faults.hit("died in a write call");
                let away = self.env.rng.within(1_000..500_000);
                self.kill(NodeId::Server(index), away);
            }
        }
        for index in 0..self.workers.len() {
            if self.workers[index].as_ref().is_some_and(|worker| worker.gone) {
                let away = self.env.rng.within(100_000..3_000_000);
                self.kill(NodeId::Worker(index), away);
            }
        }
    }
}
