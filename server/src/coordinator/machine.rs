//! One job's control: a state machine of events in, actions out. Pure: no I/O, no clock, no task.
//!
//! What is true is the job head, as the store last confirmed it; everything is decided from it and from
//! what servers and workers have reported. A step plans the next head ([`plan`](super::plan)), and only
//! when the store has confirmed that head does anybody hear of it. One head write is in flight at a
//! time. See checkpoints.md and semantics.md, sections 4, 5 and 8.

pub mod collect;
mod external;
mod moving;
mod pins;
mod rounds;
mod stopping;
mod tell;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use forebay_proto::{reason::Refused, v1};
use v1::{ErrorReason as Reason, join_response::Message as ToWorker, link_response::Message as ToServer};

use super::{
    assign::Loads,
    cuts::Cut,
    external::Wish,
    members::Members,
    plan::{self, Observed},
    restore,
    round::{self, Cause, Id, Kind, Round},
};

/// Checkpoint ids that are reserved in one head write.
pub const IDS_RESERVED: u64 = 1000;
/// How often a server that has not brought a shard up is asked again.
const ASK_AGAIN_MS: i64 = 2_000;
/// Failed rounds that are remembered.
const FAILED_MAX: usize = 20;

/// The moment of a step.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Monotonic milliseconds, suspend included.
    pub mono_ms: i64,
    /// Wall-clock milliseconds since 1970; recorded, never decided by.
    pub wall_ms: i64,
}

/// A caller that waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// A worker's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connection(pub u64);

/// What happened.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the variants say what their fields are")]
pub enum Event {
    /// Time went by.
    Tick,
    /// A server's link stands, at this address.
    ServerUp { server: String, address: String },
    /// A server's link is broken; it may come back with its disk.
    ServerDown { server: String },
    /// A server has not come back in time: what it held is lost.
    ServerGone { server: String },
    /// What the servers of the cluster have to bear.
    Loads(Arc<Loads>),
    /// A server has taken up a desired state.
    Applied { server: String, applied: v1::JobApplied },
    /// A shard's snapshot is stored.
    Snapshot(v1::SnapshotReport),
    /// A shard's snapshot failed.
    SnapshotFailed(v1::SnapshotFailed),
    /// A worker connected.
    Joined { connection: Connection, hello: v1::JoinHello },
    /// A worker said something.
    Worker { connection: Connection, message: v1::join_request::Message },
    /// A worker's connection broke.
    Disconnected { connection: Connection },
    /// Somebody made the job and waits until servers know it.
    Created { token: Token },
    /// Somebody wants a checkpoint now.
    Trigger { token: Token, full: bool },
    /// Somebody wants a savepoint now, in a folder of this id below the target's.
    Savepoint { token: Token, target: v1::SavepointTarget, id: String },
    /// Somebody wants to know what is garbage, and to have it deleted unless it is a dry run.
    Collect { token: Token, dry_run: bool },
    /// A step of a collection was done.
    Collection { run: u64, done: Result<collect::Done, String> },
    /// Somebody wants a completed checkpoint to keep its files, and goes on once the head says so.
    Pin { token: Token, pin: v1::Pin },
    /// A pin is not needed any more.
    Unpin { holder: String },
    /// The folder of a claimed checkpoint was deleted, or could not be.
    ClaimedDeleted { entry: Box<v1::CompletedCheckpoint>, done: Result<(), String> },
    /// Somebody registers states.
    Register { token: Token, operator: String, descriptors: Vec<v1::StateDescriptor> },
    /// Somebody replaces a descriptor.
    Replace { token: Token, request: v1::ReplaceDescriptorRequest },
    /// Somebody wants the job to go to a checkpoint; its id in the job is given here.
    Restore { token: Token, target: Box<restore::Target> },
    /// Somebody wants a shard to go to another server: its operator, first key group and their end, and that server.
    Move { token: Token, place: round::Place, to: String, dry_run: bool },
    /// Somebody wants shards to be cut.
    Cut { token: Token, cut: Cut, dry_run: bool },
    /// A server brings here what a checkpoint holds of a shard that is to come.
    Prepared { server: String, prepared: v1::ShardPrepared },
    /// Another engine wants something of its shards and snapshots.
    External { token: Token, wish: Box<Wish> },
    /// Somebody deletes the job.
    Delete { token: Token },
    /// The head in flight is in force.
    HeadWritten,
    /// Another coordinator changed the head: this one is deposed.
    Deposed,
    /// A manifest is stored: its checksum and length.
    ManifestWritten { id: Id, stored: Result<(u32, u64), String> },
    /// A savepoint is whole: its entry.
    SavepointWritten { id: Id, stored: Result<v1::CompletedCheckpoint, String> },
    /// The worker state of a checkpoint was read.
    WorkerState { checkpoint: u64, state: Result<Vec<v1::WorkerState>, Refused> },
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Write this head on top of the last confirmed one.
    WriteHead(Box<v1::JobHead>),
    /// Store a manifest.
    WriteManifest(Id, Box<v1::Manifest>),
    /// Store a savepoint's manifest, and then what makes it whole, where its entry says.
    WriteSavepoint(Id, Box<v1::Manifest>, Box<v1::CompletedCheckpoint>),
    /// Read the worker state of a completed checkpoint.
    ReadWorkerState(v1::CompletedCheckpoint),
    /// List the job's objects, after writing one that tells the store's time if so said.
    ListObjects(u64, bool),
    /// Read what manifests name.
    ReadNames(u64, Vec<collect::Reference>),
    /// Store a tombstone.
    WriteTombstone(u64, String, v1::Tombstone),
    /// Read a tombstone.
    ReadTombstone(u64, String),
    /// Delete objects, of so many bytes.
    DeleteObjects(u64, Vec<String>, u64),
    /// Delete the folder of a checkpoint that was claimed and is not kept any more.
    DeleteClaimed(Box<v1::CompletedCheckpoint>),
    /// Tell a server.
    ToServer(String, ToServer),
    /// Tell a worker.
    ToWorker(Connection, ToWorker),
    /// Answer who waits.
    Answer(Token, Result<Answer, Refused>),
    /// The routing changed.
    Routing,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// A checkpoint is complete.
    Checkpoint(v1::CompletedCheckpoint),
    /// States are registered.
    States(Vec<v1::RegisteredState>),
    /// Objects that were collected, or would be, with their lengths.
    Collected(Vec<(String, u64)>),
    /// Another engine's shard is in the head, under this writer epoch.
    Opening(u64),
    /// Another engine's shard stands and can be written.
    Opened(Box<v1::OpenShardResponse>),
    /// Another engine's snapshot is registered.
    Snapshot(Box<v1::ExternalSnapshot>),
    /// What was to go was there.
    Was(bool),
    /// Done.
    Done,
}

/// What is known of a server.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Server {
    /// Its address; empty while its link is broken.
    pub address: String,
    /// True once it did not come back in time.
    pub gone: bool,
    /// What it has taken up.
    pub applied: v1::JobApplied,
    sent: Option<v1::JobAssignment>,
    asked_ms: i64,
}

/// Worker state of the checkpoint that the generation started from.
#[derive(Debug, Clone, PartialEq)]
enum Restored {
    Unread,
    Reading(u64),
    Known(u64, Vec<v1::WorkerState>),
    /// Cannot be read; asked again after a while, for somebody may put the right bytes back.
    Broken {
        checkpoint: u64,
        refused: Refused,
        asked_ms: i64,
    },
}

/// One job's control.
#[derive(Debug)]
pub struct Machine {
    epoch: u64,
    head: v1::JobHead,
    in_flight: Option<v1::JobHead>,
    granted_version: u64,
    servers: BTreeMap<String, Server>,
    loads: Arc<Loads>,
    members: Members,
    /// The rounds in flight, oldest first.
    rounds: Vec<Round>,
    /// Rounds that were aborted, as long as their uploads may still be used.
    dead: VecDeque<Id>,
    collector: collect::Collector,
    restored: Restored,
    next_id: u64,
    next_round_ms: i64,
    /// When the next periodic round may start, for `min_pause`.
    pause_until_ms: i64,
    rounds_started: u64,
    /// Completed checkpoints in a row that built on another.
    since_full: u32,
    /// True if the next round is to upload everything.
    avoid_base: bool,
    wishes: plan::Wishes,
    triggers: Vec<rounds::Trigger>,
    /// Answers for what servers may have yet to hear of.
    until_known: Vec<(Token, Answer)>,
    engines: external::Engines,
    moving: moving::Moving,
    stopping: stopping::Stopping,
    failed: VecDeque<v1::FailedRound>,
    notice: Option<String>,
    deposed: bool,
    /// Makes round ids that no other coordinator makes.
    nonce: String,
    /// Until when no folder of a claimed checkpoint is deleted; `None` while one is.
    delete_claimed_ms: Option<i64>,
}

impl Machine {
    /// Takes up a job from its head. `epoch` is this coordinator's, `nonce` makes its round ids unique.
    pub fn new(head: v1::JobHead, epoch: u64, nonce: String, now: Now) -> Self {
        let lease = lease_ms(&head);
        let mut members = Members::new(lease);
        for writer in head.shards.iter().filter_map(|entry| Some((&entry.operator, entry.writer.as_ref()?))) {
            members.expect(writer.0, &writer.1.worker, &writer.1.join_id, now.mono_ms);
        }
        let interval = rounds::settings(&head).interval_ms().cast_signed();
        Self {
            epoch,
            in_flight: None,
            granted_version: head.version,
            servers: BTreeMap::new(),
            loads: Arc::default(),
            members,
            rounds: Vec::new(),
            dead: VecDeque::new(),
            collector: collect::Collector::default(),
            restored: Restored::Unread,
            next_id: head.next_checkpoint_id,
            next_round_ms: now.mono_ms + interval,
            pause_until_ms: now.mono_ms,
            rounds_started: 0,
            since_full: rounds::since_full(&head),
            avoid_base: false,
            wishes: plan::Wishes::default(),
            triggers: Vec::new(),
            until_known: Vec::new(),
            engines: external::Engines::default(),
            moving: moving::Moving::default(),
            stopping: stopping::Stopping::default(),
            failed: VecDeque::new(),
            notice: None,
            deposed: false,
            nonce,
            delete_claimed_ms: Some(now.mono_ms),
            head,
        }
    }

    /// The head as the store last confirmed it.
    pub fn head(&self) -> &v1::JobHead {
        &self.head
    }

    /// The servers as this job sees them.
    pub fn servers(&self) -> &BTreeMap<String, Server> {
        &self.servers
    }

    /// The workers.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// Rounds that failed, oldest first.
    pub fn failed(&self) -> impl Iterator<Item = &v1::FailedRound> {
        self.failed.iter()
    }

    /// The rounds in flight, oldest first.
    pub fn rounds(&self) -> &[Round] {
        &self.rounds
    }

    /// Why the job cannot go on, if it cannot.
    pub fn broken(&self) -> Option<String> {
        if let Restored::Broken { refused, .. } = &self.restored {
            return Some(refused.message.clone());
        }
        let shards = self.servers.values().flat_map(|server| &server.applied.shards);
        shards.filter(|shard| shard.corrupt).map(|shard| shard.cause.clone()).next()
    }

    /// Takes an event and tells what is to be done.
    pub fn step(&mut self, event: Event, now: Now) -> Vec<Action> {
        let mut actions = Vec::new();
        if !self.deposed {
            self.take(event, now, &mut actions);
            self.advance(now, &mut actions);
        }
        actions
    }

    fn take(&mut self, event: Event, now: Now, actions: &mut Vec<Action>) {
        match event {
            Event::Tick => {}
            Event::ServerUp { server, address } => {
                self.server_lost(&server, now, actions);
                self.servers.insert(server, Server { address, ..Server::default() });
                actions.push(Action::Routing);
            }
            Event::ServerDown { server } => {
                self.server_lost(&server, now, actions);
                if let Some(server) = self.servers.get_mut(&server) {
                    *server = Server::default();
                }
                actions.push(Action::Routing);
            }
            Event::ServerGone { server } => self.servers.entry(server).or_default().gone = true,
            Event::Loads(loads) => self.loads = loads,
            Event::Applied { server, applied } => {
                if let Some(server) = self.servers.get_mut(&server)
                    && applied.version >= server.applied.version
                {
                    server.applied = applied;
                }
            }
            Event::Snapshot(report) => self.shard_reported(report, now, actions),
            Event::SnapshotFailed(failed) => self.snapshot_failed(failed, now, actions),
            Event::Joined { connection, hello } => self.joined(connection, &hello, now, actions),
            Event::Worker { connection, message } => self.worker(connection, message, now, actions),
            Event::Disconnected { connection } => self.members.disconnected(connection),
            Event::Created { token } => self.until_known.push((token, Answer::Done)),
            Event::Trigger { token, full } => {
                let token = Some(token);
                self.triggers.push(rounds::Trigger { token, kind: Kind::Manual, full, savepoint: None });
            }
            Event::Savepoint { token, target, id } => {
                let (token, savepoint) = (Some(token), Some((target, id)));
                self.triggers.push(rounds::Trigger { token, kind: Kind::Savepoint, full: true, savepoint });
            }
            Event::Collect { token, dry_run } => self.collector.ask(token, dry_run),
            Event::Collection { run, done } => self.collection_step(run, done, now, actions),
            Event::Pin { token, pin } => self.pin(token, pin, actions),
            Event::Unpin { holder } => self.wishes.unpin.push(holder),
            Event::ClaimedDeleted { entry, done } => self.claimed_deleted(*entry, done.is_ok(), now),
            Event::Register { token, operator, descriptors } => {
                self.wishes.register.push((token, operator, descriptors));
            }
            Event::Replace { token, request } => self.wishes.replace.push((token, request)),
            Event::Restore { token, target } => {
                let id = self.next_id;
                self.next_id += 1;
                self.wishes.restore.push((token, restore::Target { id, ..*target }));
            }
            Event::Move { token, place, to, dry_run } => self.wants_move(token, place, to, dry_run, now, actions),
            Event::Cut { token, cut, dry_run } => self.wants_cut(token, cut, dry_run, now, actions),
            Event::Prepared { server, prepared } => self.prepared(&server, &prepared, now),
            Event::External { token, wish } => self.wished(token, *wish, now, actions),
            Event::Delete { token } => self.wishes.delete.push(token),
            Event::HeadWritten => self.head_written(now, actions),
            Event::Deposed => self.depose(actions),
            Event::ManifestWritten { id, stored } => self.manifest_written(&id, stored, now, actions),
            Event::SavepointWritten { id, stored } => self.savepoint_written(&id, stored, now, actions),
            Event::WorkerState { checkpoint, state } => self.worker_state_read(checkpoint, state, now),
        }
    }

    fn advance(&mut self, now: Now, actions: &mut Vec<Action>) {
        self.expire(now, actions);
        self.read_worker_state(now, actions);
        self.abort_condemned(now, actions);
        self.store_complete_rounds(now, actions);
        self.move_on(now, actions);
        self.cut_on(now, actions);
        if self.in_flight.is_none() {
            self.write_head(now, actions);
        }
        self.tell_servers(now, actions);
        self.tell_workers(actions);
        self.answer_once_known(actions);
        self.answer_once_open(actions);
        self.start_rounds(now, actions);
        self.start_external_rounds(now, actions);
        self.start_handovers(now, actions);
        self.collect(now, actions);
        self.delete_claimed(now, actions);
    }

    fn write_head(&mut self, now: Now, actions: &mut Vec<Action>) {
        self.serve_what_nobody_cuts();
        let cuts = self.stopping.ready();
        let observed = Observed {
            epoch: self.epoch,
            servers: &self.servers,
            loads: &self.loads,
            members: &self.members,
            rounds: &self.rounds,
            may_commit: self.collector.knows(&self.head),
            tombstone: self.wanted_tombstone(),
            store_ms: self.collector.store_ms(),
            worker_state_known: matches!(&self.restored, Restored::Known(id, _) if *id == self.head.restored_checkpoint),
            ids_low: self.next_id + 1 >= self.head.next_checkpoint_id,
            cuts: &cuts,
            without_stops: self.stopping.is_given_up(),
        };
        let planned = plan::next_head(&self.head, &observed, &mut self.wishes);
        actions.extend(planned.answers.into_iter().map(|(token, answer)| Action::Answer(token, answer)));
        if let Some(cause) = planned.rewind {
            self.notice = Some(cause);
        }
        let Some(mut head) = planned.head else {
            // What was wished for is so already.
            self.keep_promises(actions);
            return;
        };
        // A head that completes a round may change grants in the same write: the round was whole before.
        for round in &mut self.rounds {
            round.committing = round.stored.is_some() && round.is_in(&head);
        }
        let changed = |round: &&Round| !round.committing && !round.agrees_with(&head);
        let changed: Vec<String> = self.rounds.iter().filter(changed).map(|round| round.id.clone()).collect();
        for id in changed {
            self.abort(&id, Cause::Changed, "the job's grants changed", now, actions);
        }
        head.version = self.head.version + 1;
        self.in_flight = Some(head.clone());
        actions.push(Action::WriteHead(Box::new(head)));
    }

    fn head_written(&mut self, now: Now, actions: &mut Vec<Action>) {
        let Some(head) = self.in_flight.take() else { return };
        let before = std::mem::replace(&mut self.head, head);
        if self.head.generation != before.generation {
            self.tell_rewinding(actions);
            self.stop_forgotten();
        }
        self.tombstone_named();
        self.completed(now, actions);
        let writers = |head: &v1::JobHead| head.shards.iter().map(|entry| entry.writer.clone()).collect::<Vec<_>>();
        if writers(&self.head) != writers(&before) {
            self.granted_version = self.head.version;
        }
        self.keep_promises(actions);
        actions.push(Action::Routing);
    }

    /// Answers for the wishes that the present head fulfils.
    fn keep_promises(&mut self, actions: &mut Vec<Action>) {
        for (token, answer) in self.wishes.written(&self.head) {
            match answer {
                Answer::States(_) => self.until_known.push((token, answer)),
                Answer::Opening(writer_epoch) => self.engines.until_open.push((token, writer_epoch)),
                answer => actions.push(Action::Answer(token, Ok(answer))),
            }
        }
    }

    fn depose(&mut self, actions: &mut Vec<Action>) {
        self.deposed = true;
        let message = "another coordinator leads the job: ask it";
        let waiting = self.rounds.drain(..).flat_map(|round| round.callers);
        let triggers = self.triggers.drain(..).filter_map(|trigger| trigger.token);
        let until_known = self.until_known.drain(..).map(|(token, _)| token);
        let waiting = waiting.chain(triggers).chain(until_known).chain(self.collector.callers());
        let waiting = waiting.chain(self.engines.callers()).chain(self.moving.callers()).chain(self.stopping.callers());
        for token in waiting.chain(self.wishes.tokens()) {
            actions.push(Action::Answer(token, Err(Refused::new(Reason::NoCoordinator, message))));
        }
    }
}

/// Answers all who wait for the same.
fn answer_all(callers: &[Token], answer: &Result<Answer, Refused>, actions: &mut Vec<Action>) {
    actions.extend(callers.iter().map(|token| Action::Answer(*token, answer.clone())));
}

fn lease_ms(head: &v1::JobHead) -> u64 {
    head.spec.as_ref().map_or(15_000, |spec| spec.lease_ms)
}
