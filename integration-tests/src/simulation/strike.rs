//! How faults strike a world, and how it heals.

use super::{
    disk::{Crash, lock},
    faults::Kind,
    schedule::{Happening, NodeId},
    store::PutFault,
    world::World,
};

impl World {
    pub(super) fn next_fault(&mut self) {
        if !self.env.faults.active {
            return;
        }
        // Whatever else happens is to meet shards on their way, too.
        if self.env.faults.may(Kind::Move) && self.env.rng.one_in(2) {
            self.strike(Kind::Move);
        }
        if let Some(kind) = self.env.faults.next(&mut self.env.rng) {
            self.strike(kind);
        }
        let delay = self.env.rng.within(1_000..self.env.settings.fault_gap_us);
        self.env.later(delay, Happening::Fault);
    }

    pub(super) fn strike_moments(&mut self) {
        for moment in self.env.faults.take_moments() {
            if let Some(kind) = self.env.faults.next_at(moment, &mut self.env.rng) {
                self.env.note(format_args!("at {moment:?}"));
                self.strike(kind);
            }
        }
    }

    fn strike(&mut self, kind: Kind) {
        self.env.note(format_args!("fault {kind:?}"));
        let server = self.env.rng.index(self.servers.len());
        let worker = NodeId::Worker(self.env.rng.index(self.workers.len()));
        let hit = match kind {
            Kind::WorkerCrash => self.crash(worker, 1_500_000),
            Kind::WorkerPause => self.pause(worker, 3 * self.env.settings.lease_ms.cast_signed() * 1000),
            Kind::WorkerLeave | Kind::WorkerFinish => self.leave(worker, kind == Kind::WorkerFinish),
            Kind::ServerCrash => self.crash(NodeId::Server(server), 400_000),
            Kind::ServerLost => {
                let patience_ms = self.env.settings.server_lease_ms + self.env.settings.return_wait_ms;
                self.crash(NodeId::Server(server), 1_500 * patience_ms) && {
                    self.servers[server].disk.clear();
                    true
                }
            }
            Kind::WriteCrash => self.arm_crash(server),
            Kind::ServerPause => self.pause(NodeId::Server(server), 2 * self.env.settings.server_lease_ms * 1000),
            Kind::Move => {
                let env = &mut self.env;
                let paused = self.paused.contains_key(&NodeId::Coordinator);
                self.coordinator.as_mut().filter(|_| !paused).is_some_and(|it| it.move_shard(env, server))
            }
            Kind::CoordinatorCrash => self.crash(NodeId::Coordinator, 1_000_000),
            Kind::CoordinatorRival => self.rival(),
            Kind::Break | Kind::Stall => self.disturb(kind),
            Kind::Part => self.part(),
            Kind::DiskFull => self.fill(server),
            Kind::BatchRefused => {
                self.env.faults.refuse_batch();
                return;
            }
            Kind::PutAnswerLost => self.spoil_put(PutFault::AnswerLost),
            Kind::PutRequestLost => self.spoil_put(PutFault::RequestLost),
            Kind::PutLate => self.spoil_put(PutFault::Late),
            Kind::StoreDown => {
                self.env.store.down_until_us = self.env.now_us + self.env.rng.within(10_000..1_500_000);
                true
            }
            Kind::ClockJump => {
                self.env.wall_off_ms += self.env.rng.within(-7_200_000..7_200_000);
                self.env.oracle.clock_jumped = true;
                true
            }
        };
        if hit {
            self.env.faults.hit(&kind.name());
        }
    }

    fn crash(&mut self, node: NodeId, away_us_max: i64) -> bool {
        let alive = self.is_alive(node);
        if alive {
            let away = self.env.rng.within(1_000..away_us_max);
            self.kill(node, away);
        }
        alive
    }

    fn is_alive(&self, node: NodeId) -> bool {
        match node {
            NodeId::Coordinator => self.coordinator.is_some(),
            NodeId::Server(index) => self.servers[index].process.is_some(),
            NodeId::Worker(index) => self.workers[index].is_some(),
        }
    }

    fn pause(&mut self, node: NodeId, us_max: i64) -> bool {
        if !self.is_alive(node) || self.paused.contains_key(&node) {
            return false;
        }
        self.paused.insert(node, Vec::new());
        let length = self.env.rng.within(10_000..us_max);
        self.env.later(length, Happening::Resume(node));
        true
    }

    fn leave(&mut self, worker: NodeId, finish: bool) -> bool {
        let NodeId::Worker(index) = worker else { return false };
        if self.paused.contains_key(&worker) {
            return false;
        }
        let Some(worker) = &mut self.workers[index] else { return false };
        if finish {
            worker.finish(&mut self.env);
        } else {
            worker.leave(&mut self.env);
        }
        true
    }

    fn rival(&mut self) -> bool {
        if self.former.is_some() || self.coordinator.is_none() || self.paused.contains_key(&NodeId::Coordinator) {
            return false;
        }
        self.former = self.coordinator.take();
        // It may stand still for long, and then go on as if nothing had happened.
        let start = self.env.rng.within(0..200_000);
        let end = start + self.env.rng.within(0..8_000_000);
        self.env.later(start, Happening::Start(NodeId::Coordinator));
        self.env.later(end, Happening::Retire);
        true
    }

    fn arm_crash(&mut self, server: usize) -> bool {
        let Some(process) = &self.servers[server].process else { return false };
        let crash = if self.env.rng.one_in(2) { Crash::Before } else { Crash::Behind };
        let calls = self.env.rng.below(6) as u32;
        lock(&process.control).crash.get_or_insert((calls, crash));
        true
    }

    fn fill(&mut self, server: usize) -> bool {
        let all = self.env.rng.one_in(2);
        let struck = self.servers.iter().enumerate().filter(|(index, _)| all || *index == server);
        let struck: Vec<_> = struck.filter_map(|(_, server)| server.process.as_ref()).collect();
        for process in &struck {
            lock(&process.control).full = 1 + self.env.rng.below(3) as u32;
        }
        !struck.is_empty()
    }

    fn disturb(&mut self, kind: Kind) -> bool {
        let standing = self.env.net.standing();
        let Some(id) = self.env.rng.pick(&standing) else { return false };
        if kind == Kind::Break {
            self.env.break_connection(id);
        } else {
            let length = self.env.rng.within(10_000..2_000_000);
            self.env.stall(id, length);
        }
        true
    }

    fn part(&mut self) -> bool {
        let mut nodes = vec![NodeId::Coordinator];
        nodes.extend((0..self.servers.len()).map(NodeId::Server));
        nodes.extend((0..self.workers.len()).map(NodeId::Worker));
        let one = nodes.swap_remove(self.env.rng.index(nodes.len()));
        let Some(other) = self.env.rng.pick(&nodes) else { return false };
        let length = self.env.rng.within(10_000..4_000_000);
        self.env.part(one, other, length);
        true
    }

    fn spoil_put(&mut self, fault: PutFault) -> bool {
        self.env.store.put_fault = Some(fault);
        true
    }

    /// From here on nothing fails: what is armed is disarmed, what stands still goes on.
    pub(super) fn heal(&mut self) {
        self.env.note(format_args!("everything heals"));
        self.env.faults.active = false;
        self.env.net.heal();
        self.env.store.down_until_us = 0;
        self.env.store.put_fault = None;
        for server in self.servers.iter().filter_map(|server| server.process.as_ref()) {
            let mut control = lock(&server.control);
            (control.crash, control.full) = (None, 0);
        }
        self.retire();
        let paused: Vec<_> = self.paused.keys().copied().collect();
        paused.into_iter().for_each(|node| self.resume(node));
    }
}
