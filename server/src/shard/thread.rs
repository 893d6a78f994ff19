//! The bridge: a thread per shard, which owns the shard's [`Core`] and does its requests one after the
//! other. Async above, blocking below; RocksDB never holds up another task of the runtime.

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use forebay_proto::{key_group::KeyGroupRange, reason::Refused, v1};
use tokio::sync::{mpsc, oneshot};
use tracing::error;
use v1::ErrorReason as Reason;

use super::{
    core::{Batch, Core, Done, Frozen, Moment, Snapshot},
    gate::{self, Caller, Rights},
    lanes::LaneId,
    states::States,
};
use crate::{
    lease::{Lease, wall_ms},
    storage::View,
};

/// Requests that may wait for a shard.
const QUEUE: usize = 256;
/// Batches that share one sync of the log.
const SYNCED_TOGETHER: usize = 256;
/// Writers that may wait for a checkpoint of a shard.
const WAITING_MAX: usize = 1024;
/// How the process ends when a write failed halfway: only a new start that reads the log knows more.
const EXIT_STORAGE_FAILED: i32 = 74;

/// Where an answer goes.
pub type Reply<T> = Box<dyn FnOnce(Result<T, Refused>) + Send>;

#[expect(clippy::large_enum_variant, reason = "a batch is the usual message: boxing it would allocate on the hot path")]
enum Message {
    OpenLane { caller: Caller, open: v1::OpenLane, principal: String, reply: Reply<v1::LaneOpened> },
    CloseLane(LaneId),
    Batch { batch: Batch, reply: Reply<Done> },
    View { state: u32, committed: bool, reply: Reply<Frozen> },
    Estimate { state: u32, reply: Reply<u64> },
    Lose(String),
    Opened(Result<(u64, Arc<dyn View>), Refused>),
    Snapshot(v1::BarrierOp),
    FreezeAt { lane: LaneId, after: u64, reply: Reply<Snapshot> },
    Completed(u64),
    Aborted(u64),
    Flush,
    AwaitDurable { lane: LaneId, seq: u64, reply: Reply<u64> },
    Update { rights: Rights, states: States, lapses: u64, done: oneshot::Sender<()> },
    Detach(u64),
    Stop,
}

/// What a shard has to say of its own accord.
#[derive(Debug)]
pub enum Said {
    /// A barrier froze it.
    Snapshot(Box<Snapshot>),
    /// Somebody wants to read the last completed checkpoint: [`Shard::opened`] is to bring it.
    CommittedWanted,
    /// What it acknowledged is not there any more, for this cause; it serves nothing from now on.
    Lost(String),
}

/// A serving shard.
#[derive(Debug)]
pub struct Shard {
    range: KeyGroupRange,
    queue: mpsc::Sender<Message>,
    bytes: Arc<AtomicU64>,
    thread: std::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Shard {
    /// Gives a core its thread. What the shard has to say of its own accord goes to `said`.
    pub fn start(
        range: KeyGroupRange,
        core: Core,
        (lease, lapses): (Arc<Lease>, u64),
        said: mpsc::UnboundedSender<Said>,
    ) -> std::io::Result<Self> {
        let (queue, requests) = mpsc::channel(QUEUE);
        let bytes = Arc::new(AtomicU64::new(core.bytes()));
        let size = bytes.clone();
        let thread = std::thread::Builder::new().name(format!("shard-{}", range.start())).spawn(move || {
            let (waiting, freezing, reading, held) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            Worker { core, lease, lapses, said, size, waiting, freezing, reading, held, lost: false }.run(requests)
        })?;
        Ok(Self { range, queue, bytes, thread: std::sync::Mutex::new(Some(thread)) })
    }

    /// The shard's range.
    pub fn range(&self) -> KeyGroupRange {
        self.range
    }

    /// Approximate size in bytes, as of the last snapshot.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Opens or attaches a lane.
    pub async fn open_lane(&self, caller: Caller, open: v1::OpenLane, principal: String, reply: Reply<v1::LaneOpened>) {
        self.send(Message::OpenLane { caller, open, principal, reply }).await;
    }

    /// Ends a lane.
    pub async fn close_lane(&self, lane: LaneId) {
        self.send(Message::CloseLane(lane)).await;
    }

    /// Does a batch; waits only for room in the queue, not for the answer.
    pub async fn batch(&self, batch: Batch, reply: Reply<Done>) {
        self.send(Message::Batch { batch, reply }).await;
    }

    /// Does a batch and waits for the answer.
    pub async fn ask(&self, batch: Batch) -> Result<Done, Refused> {
        let (reply, answer) = reply();
        self.batch(batch, reply).await;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Freezes a state for a reader, as it is now or as of the last completed checkpoint.
    pub async fn view(&self, state: u32, committed: bool) -> Result<Frozen, Refused> {
        let (reply, answer) = reply();
        self.send(Message::View { state, committed, reply }).await;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Approximate number of rows of a state.
    pub async fn estimate(&self, state: u32) -> Result<u64, Refused> {
        let (reply, answer) = reply();
        self.send(Message::Estimate { state, reply }).await;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Tells that rows of a view could not be read: the shard is lost.
    pub async fn lose(&self, cause: String) {
        self.send(Message::Lose(cause)).await;
    }

    /// Brings the last completed checkpoint and its number, or says why it cannot be read.
    pub async fn opened(&self, checkpoint: Result<(u64, Arc<dyn View>), Refused>) {
        self.send(Message::Opened(checkpoint)).await;
    }

    /// Tells that a checkpoint is complete.
    pub async fn completed(&self, checkpoint: u64) {
        self.send(Message::Completed(checkpoint)).await;
    }

    /// Tells that a round was aborted.
    pub async fn aborted(&self, checkpoint: u64) {
        self.send(Message::Aborted(checkpoint)).await;
    }

    /// Begins to bring what only its log holds into files.
    pub async fn begin_flush(&self) {
        self.send(Message::Flush).await;
    }

    /// Waits until a batch of a lane is in a completed checkpoint, and returns the checkpoint.
    pub async fn await_durable(&self, lane: LaneId, seq: u64) -> Result<u64, Refused> {
        let (reply, answer) = reply();
        self.send(Message::AwaitDurable { lane, seq, reply }).await;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Freezes the shard by command.
    pub async fn snapshot(&self, barrier: v1::BarrierOp) {
        self.send(Message::Snapshot(barrier)).await;
    }

    /// Waits until a batch of a lane is applied, and freezes the shard before the next one. Refused if that is past.
    pub async fn freeze_at(&self, lane: LaneId, after: u64) -> Result<Snapshot, Refused> {
        let (reply, answer) = reply();
        self.send(Message::FreezeAt { lane, after, reply }).await;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Takes up new rights and states; they are in force when this returns.
    pub async fn update(&self, rights: Rights, states: States, lapses: u64) {
        let (done, taken_up) = oneshot::channel();
        self.send(Message::Update { rights, states, lapses, done }).await;
        // An error means that the thread has stopped, and then no request is served under any rights.
        taken_up.await.ok();
    }

    /// Tells that a stream has ended.
    pub async fn detach(&self, stream: u64) {
        self.send(Message::Detach(stream)).await;
    }

    /// Ends the thread and waits until the backend is closed.
    pub async fn stop(&self) {
        self.send(Message::Stop).await;
        let thread = self.thread.lock().expect("no panics under this lock").take();
        if let Some(thread) = thread {
            tokio::task::spawn_blocking(move || thread.join().ok()).await.ok();
        }
    }

    async fn send(&self, message: Message) {
        if let Err(mpsc::error::SendError(message)) = self.queue.send(message).await {
            message.refuse(stopped());
        }
    }
}

impl Message {
    fn refuse(self, refused: Refused) {
        match self {
            Self::OpenLane { reply, .. } => reply(Err(refused)),
            Self::Batch { reply, .. } => reply(Err(refused)),
            Self::View { reply, .. } => reply(Err(refused)),
            Self::Estimate { reply, .. } => reply(Err(refused)),
            Self::AwaitDurable { reply, .. } => reply(Err(refused)),
            Self::FreezeAt { reply, .. } => reply(Err(refused)),
            Self::CloseLane(_)
            | Self::Snapshot(_)
            | Self::Completed(_)
            | Self::Aborted(_)
            | Self::Flush
            | Self::Update { .. }
            | Self::Detach(_)
            | Self::Lose(_)
            | Self::Opened(_)
            | Self::Stop => {}
        }
    }

    /// True if it reads the last completed checkpoint.
    fn is_committed(&self) -> bool {
        match self {
            Self::Batch { batch, .. } => batch.committed,
            Self::View { committed, .. } => *committed,
            _ => false,
        }
    }
}

/// A reply that a caller can wait for.
fn reply<T: Send + 'static>() -> (Reply<T>, oneshot::Receiver<Result<T, Refused>>) {
    let (sender, receiver) = oneshot::channel();
    (Box::new(move |result| drop(sender.send(result))), receiver)
}

fn stopped() -> Refused {
    Refused::new(Reason::ShardMoved, "the shard has left this server: look up the routing again")
}

struct Worker {
    core: Core,
    lease: Arc<Lease>,
    /// The lease's count when the shard was last wanted here.
    lapses: u64,
    said: mpsc::UnboundedSender<Said>,
    size: Arc<AtomicU64>,
    /// Writers that wait for a checkpoint.
    waiting: Vec<(LaneId, u64, Reply<u64>)>,
    /// Engines that wait for a batch, to have the shard frozen behind it.
    freezing: Vec<(LaneId, u64, Reply<Snapshot>)>,
    /// Readers of the last completed checkpoint that wait until it is opened.
    reading: Vec<Message>,
    /// Batches that are done and wait for the sync of the log, in order.
    held: Vec<(Reply<Done>, Result<Done, Refused>)>,
    /// True once it has said that the shard is lost.
    lost: bool,
}

impl Worker {
    fn run(mut self, mut requests: mpsc::Receiver<Message>) {
        while let Some(message) = self.next(&mut requests) {
            match message {
                Message::Stop => {
                    requests.close();
                    while let Ok(late) = requests.try_recv() {
                        late.refuse(stopped());
                    }
                    self.reading.into_iter().for_each(|reader| reader.refuse(stopped()));
                    return;
                }
                message => self.handle(message),
            }
            self.end_if_failed();
            if let Some(cause) = self.core.lost()
                && !std::mem::replace(&mut self.lost, true)
            {
                self.say(Said::Lost(cause.to_owned()));
            }
        }
    }

    /// The next request. While batches wait for the sync, others may join them, but nothing else comes between.
    fn next(&mut self, requests: &mut mpsc::Receiver<Message>) -> Option<Message> {
        if !self.held.is_empty() && self.held.len() < SYNCED_TOGETHER {
            match requests.try_recv() {
                Ok(batch @ Message::Batch { .. }) => return Some(batch),
                Ok(other) => {
                    self.release();
                    return Some(other);
                }
                Err(_) => {}
            }
        }
        self.release();
        requests.blocking_recv()
    }

    /// Syncs the log once for all batches that wait for it, and answers them.
    fn release(&mut self) {
        if self.held.is_empty() {
            return;
        }
        // A failure is noted in the core.
        self.core.sync().ok();
        self.end_if_failed();
        for (reply, result) in self.held.drain(..) {
            let right = gate::own_right(self.lease.valid_since(self.lapses));
            reply(result.and_then(|done| right.map(|()| done)));
        }
    }

    /// A write that failed halfway is not answered.
    fn end_if_failed(&self) {
        if let Some(cause) = self.core.failed() {
            error!(cause, "a write failed and its outcome is open: ending the process");
            std::process::exit(EXIT_STORAGE_FAILED);
        }
    }

    fn handle(&mut self, message: Message) {
        let moment = Moment { wall_ms: wall_ms(), lease: self.lease.valid_since(self.lapses) };
        match message {
            reader if reader.is_committed() && self.core.wants_committed(moment) => self.await_committed(reader),
            Message::OpenLane { caller, open, principal, reply } => {
                let fresh = LaneId(*uuid::Uuid::new_v4().as_bytes());
                reply(self.core.open_lane(&caller, &open, &principal, fresh, moment));
            }
            Message::CloseLane(lane) => drop(self.core.close_lane(lane)),
            Message::Batch { batch, reply } => {
                let mut result = self.core.apply_batch(&batch, moment);
                if let Ok(done) = &mut result
                    && let Some(snapshot) = done.snapshot.take()
                {
                    self.take_snapshot(snapshot);
                }
                // Nothing comes between a batch and what is to be frozen behind it.
                self.freeze_due(moment);
                self.held.push((reply, result));
                if !self.core.is_unsynced() {
                    self.end_if_failed();
                    self.release();
                }
            }
            Message::View { state, committed, reply } => {
                reply(self.may_look(moment).and_then(|()| self.core.view(state, committed, moment)));
            }
            Message::Estimate { state, reply } => {
                reply(self.may_look(moment).and_then(|()| self.core.estimate(state)));
            }
            Message::Snapshot(barrier) => {
                let snapshot = self.core.snapshot(barrier);
                self.take_snapshot(snapshot);
            }
            Message::FreezeAt { reply, .. } if self.freezing.len() >= WAITING_MAX => {
                let message = format!("{WAITING_MAX} snapshots of the shard wait for their batch already");
                reply(Err(Refused::new(Reason::Overloaded, message)));
            }
            Message::FreezeAt { lane, after, reply } => {
                self.freezing.push((lane, after, reply));
                self.freeze_due(moment);
            }
            Message::Completed(checkpoint) => {
                self.core.checkpoint_completed(checkpoint);
                self.answer_waiting();
            }
            Message::Flush => self.core.begin_flush(),
            Message::Aborted(checkpoint) => self.core.checkpoint_aborted(checkpoint),
            Message::AwaitDurable { reply, .. } if self.waiting.len() >= WAITING_MAX => {
                let message = format!("{WAITING_MAX} writers of the shard wait for a checkpoint already");
                reply(Err(Refused::new(Reason::Overloaded, message)));
            }
            Message::AwaitDurable { lane, seq, reply } => {
                self.waiting.push((lane, seq, reply));
                self.answer_waiting();
            }
            Message::Update { rights, states, lapses, done } => {
                self.lapses = lapses;
                self.core.update(rights, states);
                done.send(()).ok();
            }
            Message::Detach(stream) => self.core.detach(stream),
            Message::Lose(cause) => self.core.lose(cause),
            Message::Opened(Ok((checkpoint, view))) => {
                self.core.opened(checkpoint, view);
                std::mem::take(&mut self.reading).into_iter().for_each(|reader| self.handle(reader));
                self.core.opened_was_read();
            }
            Message::Opened(Err(refused)) => {
                self.reading.drain(..).for_each(|reader| reader.refuse(refused.clone()));
            }
            Message::Stop => {}
        }
    }

    /// Whether readers from outside may look at the shard as it is here.
    fn may_look(&self, moment: Moment) -> Result<(), Refused> {
        gate::own_right(moment.lease).and_then(|()| gate::in_service(self.core.rights()))
    }

    fn await_committed(&mut self, reader: Message) {
        if self.reading.len() >= WAITING_MAX {
            let message = format!("{WAITING_MAX} readers of the shard wait for its last checkpoint already");
            return reader.refuse(Refused::new(Reason::Overloaded, message));
        }
        if self.reading.is_empty() {
            self.say(Said::CommittedWanted);
        }
        self.reading.push(reader);
    }

    fn answer_waiting(&mut self) {
        for (lane, seq, reply) in std::mem::take(&mut self.waiting) {
            match self.core.durable(lane, seq).transpose() {
                Some(answer) => reply(answer),
                None => self.waiting.push((lane, seq, reply)),
            }
        }
    }

    fn freeze_due(&mut self, moment: Moment) {
        for (lane, after, reply) in std::mem::take(&mut self.freezing) {
            match self.core.freeze_at(lane, after, moment).transpose() {
                Some(frozen) => {
                    self.size.store(self.core.bytes(), Ordering::Relaxed);
                    reply(frozen);
                }
                None => self.freezing.push((lane, after, reply)),
            }
        }
    }

    fn take_snapshot(&self, snapshot: Snapshot) {
        self.size.store(self.core.bytes(), Ordering::Relaxed);
        self.say(Said::Snapshot(Box::new(snapshot)));
    }

    fn say(&self, said: Said) {
        // An error means that the server is shutting down: what is to be known of the shard, its next start finds out.
        self.said.send(said).ok();
    }
}
