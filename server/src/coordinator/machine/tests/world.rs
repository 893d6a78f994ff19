//! A job of two shards on one server with one worker, in virtual time: does what the machine says as a world
//! without faults would, but for what a test holds back.

use super::*;

/// The world.
pub struct World {
    pub machine: Machine,
    pub now: Now,
    /// Messages to the worker.
    pub to_worker: Vec<ToWorker>,
    /// Messages to the server but desired states.
    pub to_server: Vec<ToServer>,
    pub answers: BTreeMap<Token, Result<Answer, Refused>>,
    /// Steps of collections, in their order; the test does them.
    pub steps: VecDeque<Action>,
    /// True to hold heads back until [`World::write_heads`].
    pub hold_heads: bool,
    held: u32,
}

impl World {
    /// A job with these settings, which nobody has taken a checkpoint of since number 7.
    pub fn new(settings: v1::CheckpointSettings) -> Self {
        let mut head = head();
        head.spec.as_mut().unwrap().checkpoints = Some(settings);
        head.completed[0].manifest = "chk/7/r/manifest".into();
        Self::with(head, 2)
    }

    /// A job with this head under a coordinator of this epoch.
    pub fn with(head: v1::JobHead, epoch: u64) -> Self {
        let mut world = Self {
            machine: Machine::new(head, epoch, format!("n{epoch}"), NOW),
            now: NOW,
            to_worker: Vec::new(),
            to_server: Vec::new(),
            answers: BTreeMap::new(),
            steps: VecDeque::new(),
            hold_heads: false,
            held: 0,
        };
        world.step(Event::ServerUp { server: "s".into(), address: "a".into() });
        world.step(Event::Joined { connection: Connection(1), hello: join("first", "j1") });
        world
    }

    pub fn step(&mut self, event: Event) {
        let mut actions = VecDeque::from(self.machine.step(event, self.now));
        while let Some(action) = actions.pop_front() {
            let event = match action {
                Action::WriteHead(_) if self.hold_heads => {
                    self.held += 1;
                    continue;
                }
                Action::WriteHead(_) => Event::HeadWritten,
                Action::WriteManifest(id, _) => Event::ManifestWritten { id, stored: Ok((1, 2)) },
                Action::WriteSavepoint(id, _, entry) => Event::SavepointWritten { id, stored: Ok(*entry) },
                Action::ReadWorkerState(entry) => Event::WorkerState { checkpoint: entry.id, state: Ok(state()) },
                Action::ToServer(server, ToServer::Job(wanted)) => Event::Applied { server, applied: serving(&wanted) },
                Action::ToServer(_, message) => {
                    self.to_server.push(message);
                    continue;
                }
                Action::ToWorker(_, message) => {
                    self.to_worker.push(message);
                    continue;
                }
                Action::Answer(token, answer) => {
                    self.answers.insert(token, answer);
                    continue;
                }
                Action::Routing => continue,
                step => {
                    self.steps.push_back(step);
                    continue;
                }
            };
            actions.extend(self.machine.step(event, self.now));
        }
    }

    /// Lets the heads that were held back come into force.
    pub fn write_heads(&mut self) {
        self.hold_heads = false;
        for _ in 0..std::mem::take(&mut self.held) {
            self.step(Event::HeadWritten);
        }
    }

    /// Lets time go by until then; the worker says that it is there.
    pub fn until(&mut self, mono_ms: i64) {
        while self.now.mono_ms < mono_ms {
            self.now.mono_ms = (self.now.mono_ms + 50).min(mono_ms);
            self.now.wall_ms = self.now.mono_ms;
            let message = v1::join_request::Message::Heartbeat(v1::Heartbeat::default());
            self.step(Event::Worker { connection: Connection(1), message });
            self.step(Event::Tick);
        }
    }

    /// The checkpoints on their way.
    pub fn on_their_way(&self) -> Vec<u64> {
        self.machine.rounds().iter().map(|round| round.checkpoint).collect()
    }

    /// The completed checkpoints.
    pub fn completed(&self) -> Vec<u64> {
        self.machine.head().completed.iter().map(|completed| completed.id).collect()
    }

    /// The last barrier that was sent.
    pub fn barrier(&self) -> v1::Barrier {
        let mut barriers = self.to_worker.iter().filter_map(|message| match message {
            ToWorker::Barrier(barrier) => Some(barrier.clone()),
            _ => None,
        });
        barriers.next_back().expect("a barrier was sent")
    }

    /// A shard's report, of a file that was uploaded as this object.
    pub fn shard_report(&self, round: &Round, start: u32, object: &str) -> v1::SnapshotReport {
        let object = object.to_owned();
        let file = v1::SnapshotFile { object, sst_id: "id".into(), uploaded: true, length: 10, ..Default::default() };
        v1::SnapshotReport {
            checkpoint: round.checkpoint,
            round: round.id.clone(),
            coordinator_epoch: round.coordinator_epoch,
            generation: round.generation,
            writer_epoch: 1,
            snapshot: Some(v1::ShardSnapshot {
                operator: "op".into(),
                start,
                end: start + 64,
                epoch: 1,
                incarnation: 1,
                files: vec![file],
                full_bytes: 10,
                new_bytes: if round.base == 0 { 10 } else { 1 },
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// Reports everything of a checkpoint on its way.
    pub fn report(&mut self, checkpoint: u64) {
        let round = self.round(checkpoint);
        self.report_round(&round);
    }

    pub fn round(&self, checkpoint: u64) -> Round {
        let of = |round: &&Round| round.checkpoint == checkpoint;
        self.machine.rounds().iter().find(of).cloned().unwrap_or_else(|| panic!("{checkpoint} is not on its way"))
    }

    pub fn report_round(&mut self, round: &Round) {
        let report = v1::BarrierReport {
            checkpoint: round.checkpoint,
            round: round.id.clone(),
            coordinator_epoch: round.coordinator_epoch,
            generation: round.generation,
            state: None,
            stopped: round.kind == Kind::Stop,
        };
        let message = v1::join_request::Message::Report(report);
        self.step(Event::Worker { connection: Connection(1), message });
        for start in [0, 64] {
            let folder = if round.savepoint.is_some() { "files" } else { "shared/s" };
            let object = format!("{folder}/{}-{start}", round.checkpoint);
            self.step(Event::Snapshot(self.shard_report(round, start, &object)));
        }
    }

    /// Lets a checkpoint on its way fail as one does whose shard cannot be stored.
    pub fn fail(&mut self, checkpoint: u64) {
        let round = self.round(checkpoint).id;
        let failed = v1::SnapshotFailed { checkpoint, round, operator: "op".into(), end: 64, ..Default::default() };
        self.step(Event::SnapshotFailed(failed));
    }

    /// Asks for a checkpoint.
    pub fn trigger(&mut self, token: u64, kind: Kind, full: bool) {
        let token = Token(token);
        self.step(match kind {
            Kind::Savepoint => {
                let target = v1::SavepointTarget { prefix: "savepoints/".into(), ..Default::default() };
                Event::Savepoint { token, target, id: "id".into() }
            }
            _ => Event::Trigger { token, full },
        });
    }
}

fn serving(wanted: &v1::JobAssignment) -> v1::JobApplied {
    let serving = |entry: &v1::ShardEntry| v1::AppliedShard {
        operator: entry.operator.clone(),
        start: entry.start,
        end: entry.end,
        epoch: entry.epoch,
        incarnation: entry.incarnation,
        status: v1::ShardStatus::Serving.into(),
        ..Default::default()
    };
    v1::JobApplied {
        version: wanted.version,
        shards: wanted.shards.iter().map(serving).collect(),
        ..Default::default()
    }
}

/// Checkpoints every second, ten of them kept.
pub fn settings() -> v1::CheckpointSettings {
    v1::CheckpointSettings {
        interval_ms: Some(1_000),
        timeout_ms: 10_000,
        retained: 10,
        incremental: Some(true),
        ..Default::default()
    }
}
