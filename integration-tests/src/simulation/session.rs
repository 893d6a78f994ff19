//! What a worker holds in one generation: lanes to its shards, and the real [`Cache`] over them or none. A twin of `client/rust/src/session.rs` and of a user's loop.

use std::collections::BTreeMap;

use forebay_client::{
    Error,
    cache::{BatchLimits, Cache, Reading},
    lane::{Outcome, Write},
    routing::Table,
};
use forebay_proto::{reason::Refused, v1};
use v1::ErrorReason as Reason;

use super::{
    barrier::Barrier,
    coordinator::Coordinator,
    env::Env,
    inbox::Inbox,
    input::{self, Record},
    kept::Kept,
    lanes::Lanes,
    network::{ConnectionId, Message},
    schedule::{Life, NodeId, Timer as AnyTimer},
    worker,
};

const CACHE_BYTES: usize = 64 << 10;

/// What a session waits for; lanes by their index.
#[derive(Debug)]
pub enum Timer {
    /// It processes some records.
    Step,
    /// It flushes what is old.
    Flush,
    /// A lane has waited.
    Retry(usize),
    /// The routing is looked up for a lane.
    Route(usize),
    /// A lane tries again to attach.
    Attach(usize),
    /// A lane has waited long for its opening.
    OpeningLate(usize, ConnectionId, u32),
    /// A barrier takes too long.
    BarrierLate(String),
}

/// What a session has to say to the coordinator.
#[derive(Debug)]
pub enum Said {
    /// Every shard has accepted the barrier.
    Report(v1::BarrierReport),
    /// It could not be done.
    Decline(v1::Decline),
}

/// Who waits for a batch.
#[derive(Debug)]
pub enum Waiter {
    /// Nobody; the session is told of a refusal.
    Behind,
    /// A record.
    Read(Record, Option<Reading>),
    /// The barrier of this round.
    Barrier(String),
}

/// A worker's session.
pub struct Session {
    /// Its number.
    pub number: u64,
    pub(super) lanes: Lanes,
    pub(super) positions: BTreeMap<u32, u64>,
    pub(super) worker_index: u32,
    pub(super) barrier: Option<Barrier>,
    pub(super) failure: Option<Refused>,
    node: NodeId,
    life: Life,
    pub(super) table: Table,
    pub(super) states: BTreeMap<String, u32>,
    pub(super) cache: Option<Cache>,
    pub(super) waiters: BTreeMap<(usize, u64), Waiter>,
    /// Set once the shards have told the positions that they keep, if they do.
    pub(super) kept: Option<Kept>,
    /// Records in progress, by partition.
    pub(super) in_progress: BTreeMap<u32, Record>,
    end: Option<Error>,
}

impl Session {
    /// Begins with an assignment: positions are those of the checkpoint that the state stands at.
    pub fn enter(env: &mut Env, node: NodeId, life: Life, number: u64, assignment: &v1::Assignment) -> Self {
        let spec = assignment.spec.clone().unwrap_or_default();
        let routes = assignment.shards.iter().filter_map(|leased| leased.route.clone()).collect();
        let table =
            Table::new(spec.max_parallelism, spec.partitioner(), routes).expect("the job's parallelism is right");
        let named = |state: &v1::RegisteredState| Some((state.descriptor.as_ref()?.name.clone(), state.id));
        let lanes = Lanes::new(env, node, life, number, assignment);
        let positions = positions(env, &lanes, assignment);
        env.note(format_args!(
            "{} enters generation {} at checkpoint {} with {positions:?}",
            node.name(),
            assignment.generation,
            assignment.restored_checkpoint
        ));
        let mut session = Self {
            number,
            lanes,
            positions,
            worker_index: assignment.index,
            barrier: None,
            failure: None,
            node,
            life,
            table,
            states: assignment.states.iter().filter_map(named).collect(),
            cache: env.settings.cached.then(|| Cache::new(CACHE_BYTES, Default::default())),
            waiters: BTreeMap::new(),
            kept: None,
            in_progress: BTreeMap::new(),
            end: None,
        };
        (0..session.lanes.all.len()).for_each(|index| session.lanes.drive(env, index));
        session.wake(env, 1_000, Timer::Step);
        session.wake(env, 10_000, Timer::Flush);
        session
    }

    pub(super) fn wake(&self, env: &mut Env, delay_us: i64, timer: Timer) {
        wake(env, self.node, self.life, self.number, delay_us, timer);
    }

    /// The worker's name.
    pub(super) fn name(&self) -> String {
        self.node.name()
    }

    /// Ends the session; the first reason stays.
    pub fn end(&mut self, reason: Error) {
        self.end.get_or_insert(reason);
    }

    /// Why the session has ended.
    pub fn ended(&self) -> Option<&Error> {
        self.end.as_ref()
    }

    /// Closes its lanes and streams.
    pub fn close(mut self, env: &mut Env) {
        self.lanes.close(env);
    }

    /// Takes what was waited for.
    pub fn woken(&mut self, env: &mut Env, timer: Timer, lease: bool, coordinator: Option<&Coordinator>) {
        match timer {
            Timer::Step => self.step(env, lease),
            Timer::Flush => self.flush_old(env),
            Timer::Retry(index) => self.lanes.retry(env, index),
            Timer::Route(index) => self.lanes.routed(env, index, coordinator),
            Timer::Attach(index) => self.lanes.attach_again(env, index),
            Timer::OpeningLate(index, id, channel) => self.lanes.opening_late(env, index, id, channel),
            Timer::BarrierLate(round) => self.barrier_late(&round),
        }
        self.complete(env);
    }

    /// Takes a message of a stream.
    pub fn heard(&mut self, env: &mut Env, id: ConnectionId, message: Message) {
        self.lanes.heard(env, id, message);
        self.complete(env);
    }

    /// Takes note of a stream's end.
    pub fn stream_broken(&mut self, env: &mut Env, id: ConnectionId) {
        self.lanes.over(env, id, &Refused::new(Reason::Draining, "the stream broke"));
        self.complete(env);
    }

    /// Attends to barriers, and to lanes that have ended.
    pub fn attend(&mut self, env: &mut Env, inbox: &mut Inbox, worker: usize) -> Option<Said> {
        if self.end.is_some() {
            return None;
        }
        if !self.has_sources(env) {
            return None;
        }
        if self.barrier.is_none()
            && let Some(barrier) = inbox.take_barrier()
        {
            self.begin_barrier(env, barrier);
        }
        if self.in_progress.is_empty() {
            self.send_barrier(env);
        }
        self.complete(env);
        self.finish_barrier(worker)
    }

    /// Hands to the lanes what has been unsent since then; true if something must wait for a read.
    pub(super) fn send_unsent(&mut self, env: &mut Env, until_ms: u64) -> bool {
        if env.settings.keeps_positions {
            // Only when no record is in progress, for it goes whole.
            if self.in_progress.is_empty() {
                let everywhere = until_ms == u64::MAX || env.rng.one_in(8);
                self.flush_whole(env, everywhere);
            }
            return false;
        }
        let limits = BatchLimits { ops_max: env.settings.batch_ops, bytes: 256 << 10, batches_max: usize::MAX };
        let Some(unsent) = self.cache.as_mut().map(|cache| cache.take_unsent(until_ms, limits)) else { return false };
        for (shard, ops) in unsent.batches {
            self.write_behind(shard, ops);
            self.settle(env, shard);
        }
        unsent.blocked
    }

    fn flush_old(&mut self, env: &mut Env) {
        if let Some(refused) = self.failure.clone() {
            return self.end(refused.into());
        }
        let until_ms = env.now_ms().cast_unsigned().saturating_sub(env.settings.write_delay_ms);
        self.send_unsent(env, until_ms);
        let delay = env.rng.within(5_000..20_000);
        self.wake(env, delay, Timer::Flush);
    }

    /// Sends a barrier on a lane.
    pub(super) fn write_barrier(&mut self, env: &mut Env, shard: usize, barrier: v1::BarrierOp) {
        let round = barrier.round.clone();
        let ticket = self.lanes.all[shard].lane.write(Write { barrier: Some(barrier), ..Write::default() });
        self.waiters.insert((shard, ticket), Waiter::Barrier(round));
        self.settle(env, shard);
    }

    pub(super) fn settle(&mut self, env: &mut Env, shard: usize) {
        let completions = self.lanes.all[shard].lane.settle_if_ended();
        self.lanes.completions.extend(completions.into_iter().map(|completion| (shard, completion)));
        self.lanes.drive(env, shard);
    }

    /// Tells those who wait what became of their batches.
    fn complete(&mut self, env: &mut Env) {
        while !self.lanes.completions.is_empty() {
            for (shard, completion) in std::mem::take(&mut self.lanes.completions) {
                if let Outcome::Written { seq, .. } = completion.outcome {
                    let driven = &self.lanes.all[shard];
                    let (incarnation, lane) = (driven.lane.incarnation(), driven.lane.id());
                    env.oracle.acknowledged(driven.place.clone(), incarnation, lane, seq);
                }
                match self.waiters.remove(&(shard, completion.ticket)) {
                    Some(Waiter::Behind) => {
                        if let Outcome::Refused(refused) = completion.outcome {
                            self.failure.get_or_insert(refused);
                        }
                    }
                    Some(Waiter::Barrier(round)) => self.barrier_answered(&round, completion.outcome),
                    Some(Waiter::Read(record, reading)) => self.chain_read(env, record, reading, completion.outcome),
                    None => {}
                }
            }
        }
        let ended = self.lanes.all.iter().find_map(|driven| match driven.lane.status() {
            forebay_client::lane::Status::Ended(reason) => Some(Error::from(reason.clone())),
            _ => None,
        });
        match ended {
            // Whatever a lane says, where to go on is for the coordinator to say.
            Some(Error::Fenced(cause)) => self.end(Error::Rewound { generation: 0, checkpoint: 0, cause }),
            Some(other) => self.end(other),
            None => {}
        }
    }
}

/// Each worker reads the partitions that belong to its shards, or, if they go everywhere, all.
fn positions(env: &mut Env, lanes: &Lanes, assignment: &v1::Assignment) -> BTreeMap<u32, u64> {
    let mine = |partition: &u32| {
        let home = home(env, *partition);
        lanes.all.iter().any(|driven| env.settings.spread || Some(driven.place.1) == home)
    };
    let elements = assignment.state.iter().flat_map(|list| &list.elements);
    let known: BTreeMap<u32, u64> = elements.filter_map(|element| input::parse_element(element)).collect();
    let positions: BTreeMap<_, _> =
        env.oracle.input.partitions().filter(mine).map(|it| (it, known.get(&it).copied())).collect();
    if assignment.restored_checkpoint != 0 && !env.settings.keeps_positions && positions.values().any(Option::is_none) {
        env.oracle.wrong(format!("checkpoint {} has lost positions", assignment.restored_checkpoint));
    }
    positions.into_iter().map(|(partition, offset)| (partition, offset.unwrap_or(0))).collect()
}

/// Start of the range that a partition belongs to.
pub fn home(env: &Env, partition: u32) -> Option<u32> {
    let mut starts: Vec<_> = env.store.head.shards.iter().map(|entry| entry.start).collect();
    starts.sort_unstable();
    starts.get(partition as usize).copied()
}

/// Wakes a session after a while.
pub fn wake(env: &mut Env, node: NodeId, life: Life, session: u64, delay_us: i64, timer: Timer) {
    env.timer(node, life, delay_us, AnyTimer::Worker(worker::Timer::Session(session, timer)));
}

/// The wait before the next of several tries: from 5 ms to a second, with jitter.
pub fn backoff(env: &mut Env, tries: u32) -> i64 {
    let base = 5_000 << tries.clamp(1, 9).saturating_sub(1);
    base.min(1_000_000) + env.rng.within(0..base.min(1_000_000))
}
