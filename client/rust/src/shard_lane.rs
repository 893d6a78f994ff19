//! A lane on its way: [`Lane`] with the stream it is attached to and the callers who wait.
//!
//! Batches and answers pass without a task between them: a caller puts its batch on the wire itself, and
//! the stream's reader completes it. Only what takes time (connecting, waiting, looking up a moved shard)
//! is done by a task of the lane's own. Invariant: what the lane decides is decided in [`Lane`] alone.

mod task;

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll},
    time::Instant,
};

use forebay_proto::{
    reason::Refused,
    v1::{self, ErrorReason, stream_request::Message as Request},
};
use tokio::sync::{Notify, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    backlog::Backlog,
    clock::now_ms,
    error::{Error, Result},
    lane::{Completion, Lane, Outcome, Status, Target, Write},
    routing::Router,
    shard_clock::ShardClock,
    stream::{Shared, Streams},
};

/// A read that the server has not begun within this time is refused by it and sent again.
const READ_WAIT_MS: u64 = 30_000;

/// Where a lane is, for those who wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// It is not open at the moment; batches wait.
    Connecting,
    /// Batches are sent.
    Open,
    /// It has ended for this reason.
    Ended(Refused),
}

/// A lane to one shard. Batches are taken at the call, in the order of the calls; dropping a [`Reply`] takes
/// nothing back. Dropping the handle closes the lane.
#[derive(Debug)]
pub struct LaneHandle {
    cell: Arc<Cell>,
    _task: AbortOnDropHandle<()>,
}

impl LaneHandle {
    pub(crate) fn open(target: Target, streams: Arc<Streams>, router: Arc<Router>) -> Self {
        let state = State {
            lane: Lane::new(target),
            waiters: HashMap::new(),
            stream: None,
            charges: HashMap::new(),
            stalled: None,
            clock: ShardClock::default(),
        };
        let (phase, _) = watch::channel(Phase::Connecting);
        let cell = Arc::new(Cell { state: Mutex::new(state), wake: Notify::new(), phase });
        let task = AbortOnDropHandle::new(tokio::spawn(task::run(cell.clone(), streams, router)));
        Self { cell, _task: task }
    }

    /// Sends a write batch.
    pub fn write(&self, write: Write) -> Reply {
        let (reply, outcome) = oneshot::channel();
        self.cell.change(|state| {
            let ticket = state.lane.write(write);
            state.waiters.insert(ticket, Waiter::Reply(reply));
            state.lane.settle_if_ended()
        });
        Reply(outcome)
    }

    /// Sends a barrier as the next write batch.
    pub fn barrier(&self, barrier: v1::BarrierOp) -> Reply {
        self.write(Write { barrier: Some(barrier), now_ms: now_ms(), ..Write::default() })
    }

    /// Sends a read batch; it sees every write before it.
    pub fn read(&self, ops: v1::PackedOps) -> Reply {
        let (reply, outcome) = oneshot::channel();
        self.cell.change(|state| {
            let ticket = state.lane.read_at(ops, READ_WAIT_MS, now_ms());
            state.waiters.insert(ticket, Waiter::Reply(reply));
            state.lane.settle_if_ended()
        });
        Reply(outcome)
    }

    /// Sends a write batch of this moment for which nobody waits; the backlog is told of its end.
    pub(crate) fn write_behind(&self, write: Write, backlog: &Arc<Backlog>) {
        let bytes = write.ops.as_ref().map_or(0, |ops| ops.arena.len());
        backlog.add(bytes);
        self.cell.change(|state| {
            let ticket = state.lane.write(Write { now_ms: now_ms(), ..write });
            state.waiters.insert(ticket, Waiter::Behind(backlog.clone(), bytes));
            state.lane.settle_if_ended()
        });
    }

    /// Returns where the lane is.
    pub fn phase(&self) -> Phase {
        self.cell.phase.borrow().clone()
    }

    /// Waits until the lane is open, or tells why it never will be.
    pub async fn opened(&self) -> Result<()> {
        let mut phase = self.cell.phase.subscribe();
        let phase = phase.wait_for(|phase| *phase != Phase::Connecting).await;
        match phase.as_deref() {
            Ok(Phase::Ended(reason)) => Err(reason.clone().into()),
            _ => Ok(()),
        }
    }

    /// Waits until the lane has ended, and tells why.
    pub async fn ended(&self) -> Refused {
        let mut phase = self.cell.phase.subscribe();
        match phase.wait_for(|phase| matches!(phase, Phase::Ended(_))).await.as_deref() {
            Ok(Phase::Ended(reason)) => reason.clone(),
            _ => closed(),
        }
    }

    /// Returns the shard's processing clock, as far as is known; `None` before the lane was first open.
    pub(crate) fn clock_ms(&self, now: Instant) -> Option<i64> {
        self.cell.lock().clock.now_ms(now)
    }

    /// Returns the shard's watermark as last heard; `None` if it has none.
    pub(crate) fn watermark_ms(&self) -> Option<i64> {
        self.cell.lock().lane.progress().watermark_ms
    }

    /// Returns the source positions that the shard held when the lane was first opened.
    pub(crate) fn positions(&self) -> HashMap<String, bytes::Bytes> {
        self.cell.lock().lane.positions().clone()
    }

    /// Returns the lane's id, empty before it was first open, and how far it is.
    pub fn progress(&self) -> (bytes::Bytes, v1::Progress) {
        let state = self.cell.lock();
        (state.lane.id().clone(), *state.lane.progress())
    }
}

impl Drop for LaneHandle {
    fn drop(&mut self) {
        self.cell.change(|state| {
            if let Some((stream, channel)) = state.stream.take() {
                stream.send(Request::CloseLane(v1::CloseLane { channel }));
                stream.unregister(channel);
            }
            state.lane.end(closed())
        });
    }
}

fn closed() -> Refused {
    Refused::new(ErrorReason::LaneExpired, "the lane was closed by its owner")
}

/// The answer to a batch, once it is there.
#[derive(Debug)]
pub struct Reply(oneshot::Receiver<Outcome>);

impl Future for Reply {
    type Output = Result<v1::BatchAnswer>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|outcome| match outcome {
            Ok(Outcome::Written { answer, .. } | Outcome::Read(answer)) => Ok(answer),
            Ok(Outcome::Refused(refused) | Outcome::Ended(refused)) => Err(refused.into()),
            Ok(Outcome::Withdrawn) => Err(Error::Unavailable(Refused::new(
                ErrorReason::CheckpointAborted,
                "the barrier was withdrawn: a batch before it was refused",
            ))),
            Err(_) => Err(closed().into()),
        })
    }
}

#[derive(Debug)]
enum Waiter {
    Reply(oneshot::Sender<Outcome>),
    Behind(Arc<Backlog>, usize),
}

/// What a lane's handle, its stream's reader and its task share.
#[derive(Debug)]
pub(crate) struct Cell {
    state: Mutex<State>,
    /// Wakes the task.
    wake: Notify,
    phase: watch::Sender<Phase>,
}

#[derive(Debug)]
struct State {
    lane: Lane,
    /// By ticket.
    waiters: HashMap<u64, Waiter>,
    /// The stream that the lane is attached to, and its number there.
    stream: Option<(Arc<Shared>, u32)>,
    /// Credit taken per batch id.
    charges: HashMap<u64, u32>,
    /// Credit that the next batch waits for.
    stalled: Option<u32>,
    clock: ShardClock,
}

impl Cell {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while locked")
    }

    /// Changes the lane, completes callers and sends what may be sent.
    fn change(&self, event: impl FnOnce(&mut State) -> Vec<Completion>) {
        let mut state = self.lock();
        let completions = event(&mut state);
        for Completion { ticket, outcome } in completions {
            match state.waiters.remove(&ticket) {
                // The caller may have gone; the batch has its outcome all the same.
                Some(Waiter::Reply(reply)) => drop(reply.send(outcome)),
                Some(Waiter::Behind(backlog, bytes)) => backlog.done(bytes, outcome),
                None => {}
            }
        }
        let sent = state.send();
        if !sent || state.stalled.is_some() || *state.lane.status() != Status::Open {
            self.wake.notify_one();
        }
    }

    pub(crate) fn opened(&self, opened: &v1::LaneOpened) {
        self.change(|state| {
            let completions = state.lane.opened(opened);
            state.hear_clock();
            completions
        });
        self.wake.notify_one();
    }

    pub(crate) fn answered(&self, answer: v1::BatchAnswer) {
        self.change(|state| {
            state.landed(answer.id);
            let completions = state.lane.answered(answer);
            state.hear_clock();
            completions
        });
    }

    pub(crate) fn refused(&self, refusal: &v1::Refusal) {
        self.change(|state| {
            state.landed(refusal.id);
            state.lane.refused(refusal)
        });
    }

    pub(crate) fn stream_broken(&self, channel: u32, reason: &Refused) {
        self.change(|state| {
            if state.stream.as_ref().is_none_or(|(_, attached)| *attached != channel) {
                return Vec::new();
            }
            state.detach();
            if ends_lanes(reason) { state.lane.end(reason.clone()) } else { Vec::new() }
        });
    }
}

impl State {
    /// Puts on the wire what may be sent; false if the stream is broken.
    fn send(&mut self) -> bool {
        let Some((stream, _)) = self.stream.clone() else { return true };
        while self.stalled.is_none()
            && let Some(bytes) = self.lane.poll_bytes()
        {
            let charge = stream.charge(bytes);
            match stream.credit.try_acquire_many(charge) {
                Ok(permit) => permit.forget(),
                Err(_) => {
                    self.stalled = Some(charge);
                    break;
                }
            }
            let Some(batch) = self.lane.poll_send() else { break };
            self.charges.insert(batch.id, charge);
            if !stream.send(Request::Batch(batch)) {
                self.detach();
                return false;
            }
        }
        true
    }

    fn hear_clock(&mut self) {
        self.clock.heard(self.lane.progress().clock_ms, Instant::now());
    }

    /// Gives back the credit of a batch.
    fn landed(&mut self, batch: u64) {
        if let (Some(charge), Some((stream, _))) = (self.charges.remove(&batch), &self.stream) {
            stream.credit.add_permits(charge as usize);
        }
    }

    fn detach(&mut self) {
        if let Some((stream, channel)) = self.stream.take() {
            stream.unregister(channel);
            let held: u32 = self.charges.drain().map(|(_, charge)| charge).sum();
            stream.credit.add_permits(held as usize);
        }
        self.stalled = None;
        self.lane.disconnected();
    }
}

/// True if a stream that ends for this reason cannot be made anew for the same job and generation.
fn ends_lanes(reason: &Refused) -> bool {
    use ErrorReason as R;
    matches!(
        reason.reason,
        R::Rewound
            | R::WriterFenced
            | R::LaneExpired
            | R::ShardLost
            | R::OperatorUnknown
            | R::Unauthenticated
            | R::PermissionDenied
            | R::FormatTooNew
    )
}
