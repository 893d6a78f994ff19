//! What a worker holds in one generation: lanes to its shards, the cache over them, and the lease they
//! depend on.
//!
//! State handles are bound to a [`Session`]: once it has ended, every operation fails with the reason, so
//! that a task left over from before a rewind cannot touch what came after. Invariant: the cache is locked
//! while batches are handed to lanes, so that lanes see writes and reads in the order of the cache.

mod direct;
mod reads;
#[cfg(test)]
mod tests;
mod time;
mod watermarks;
mod whole;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, Weak},
    time::Duration,
};

use forebay_proto::{
    KeyGroup,
    packed::{AnswerRef, Answers, Op, OpsBuilder},
    reason::Refused,
    v1::{self, ErrorReason},
};
use futures::future::{join_all, select_all};
use tokio::{sync::Notify, task::yield_now, time::sleep};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    attention::Attention,
    backlog::Backlog,
    cache::{At, BatchLimits, Cache, Reading},
    clock::coarse_ms,
    error::{Error, Result},
    expiry::Touches,
    lane::Write,
    lease::Lease,
    routing::Table,
    shard_lane::LaneHandle,
    timers::Queue,
};
pub(crate) use direct::Wanted;
use reads::{Reads, answers};
use watermarks::Watermarks;
use whole::Kept;

/// Bytes that may be flushed and not yet acknowledged before operations wait.
const BACKLOG_BYTES_MAX: usize = 32 << 20;
const BATCH_LIMITS: BatchLimits = BatchLimits { ops_max: 1024, bytes: 256 << 10, batches_max: usize::MAX };
/// What is old is sent so many batches at a time, for nobody may use the cache meanwhile.
const PORTION: BatchLimits = BatchLimits { batches_max: 1, ..BATCH_LIMITS };
/// Keys, namespaces and map keys have at most so many bytes.
pub(crate) const KEY_BYTES_MAX: usize = 65_535;

/// What a session is made of.
pub(crate) struct Parts {
    pub(crate) table: Table,
    pub(crate) explicit: bool,
    /// One per shard of the table.
    pub(crate) lanes: Vec<LaneHandle>,
    pub(crate) states: Vec<v1::RegisteredState>,
    pub(crate) cache: Cache,
    pub(crate) lease: Arc<Lease>,
    pub(crate) attention: Arc<Attention>,
    pub(crate) value_bytes_max: usize,
    pub(crate) write_delay_max: Duration,
    /// How often all shards are told all positions, if positions are kept in the shards (`recovery: shard`).
    pub(crate) positions_interval: Option<Duration>,
}

#[derive(Debug)]
pub(crate) struct Session {
    table: Table,
    explicit: bool,
    me: Weak<Self>,
    lanes: Arc<Vec<LaneHandle>>,
    /// One per lane.
    reads: Vec<Reads>,
    states: HashMap<String, v1::RegisteredState>,
    cache: Mutex<Cache>,
    watermarks: Mutex<Watermarks>,
    touches: Mutex<Touches>,
    /// The next timers, by state.
    timers: Mutex<HashMap<u32, Queue>>,
    /// One read of timers at a time.
    pub(crate) reading_timers: tokio::sync::Mutex<()>,
    lease: Arc<Lease>,
    backlog: Arc<Backlog>,
    attention: Arc<Attention>,
    value_bytes_max: usize,
    /// Set if positions are kept in the shards.
    kept: Option<Kept>,
    end: OnceLock<Error>,
    ended: CancellationToken,
    /// Told when a read has ended.
    read_ended: Notify,
    tasks: OnceLock<[AbortOnDropHandle<()>; 2]>,
}

impl Session {
    pub(crate) fn start(parts: Parts) -> Arc<Self> {
        let named = |registered: v1::RegisteredState| {
            let name = registered.descriptor.as_ref().map(|descriptor| descriptor.name.clone());
            (name.unwrap_or_default(), registered)
        };
        let watermarks = Mutex::new(Watermarks::new(parts.lanes.len()));
        let delay_ms = parts.write_delay_max.as_millis() as u64;
        let kept = parts.positions_interval.map(|interval| Kept::new(interval.as_millis() as u64, delay_ms));
        let session = Arc::new_cyclic(|me| Self {
            me: me.clone(),
            reads: parts.lanes.iter().map(|_| Reads::default()).collect(),
            watermarks,
            touches: Mutex::default(),
            timers: Mutex::default(),
            reading_timers: tokio::sync::Mutex::default(),
            table: parts.table,
            explicit: parts.explicit,
            lanes: Arc::new(parts.lanes),
            states: parts.states.into_iter().map(named).collect(),
            cache: Mutex::new(parts.cache),
            lease: parts.lease,
            backlog: Arc::default(),
            attention: parts.attention,
            value_bytes_max: parts.value_bytes_max,
            kept,
            end: OnceLock::new(),
            ended: CancellationToken::new(),
            read_ended: Notify::new(),
            tasks: OnceLock::new(),
        });
        let flusher = tokio::spawn(flush_by_age(Arc::downgrade(&session), parts.write_delay_max));
        let watcher = tokio::spawn(watch_lanes(Arc::downgrade(&session), session.lanes.clone()));
        let _ = session.tasks.set([flusher, watcher].map(AbortOnDropHandle::new));
        session
    }

    /// Ends the session; the first reason stays.
    pub(crate) fn end(&self, reason: Error) {
        if self.end.set(reason).is_ok() {
            self.ended.cancel();
            self.attention.call();
        }
    }

    /// Returns why the session has ended; `None` while it lasts.
    pub(crate) fn end_reason(&self) -> Option<&Error> {
        self.end.get()
    }

    /// Returns a registered state.
    pub(crate) fn state(&self, name: &str) -> Option<&v1::RegisteredState> {
        self.states.get(name)
    }

    /// Returns the key groups that the session holds, in order.
    pub(crate) fn groups(&self) -> impl Iterator<Item = u16> {
        let groups = self.table.routes().iter().flat_map(|route| route.start..route.end);
        groups.filter_map(|group| u16::try_from(group).ok())
    }

    /// Finds the shard of a key group.
    pub(crate) fn shard_of(&self, group: u16) -> Result<usize> {
        let group = KeyGroup::new(group.into(), self.table.max_parallelism());
        self.table.shard(group.map_err(|error| Error::call(ErrorReason::KeyGroupOutOfRange, error.to_string()))?)
    }

    /// Finds the key group of a key.
    pub(crate) fn group_of(&self, key: &[u8], key_group: Option<u32>) -> Result<u16> {
        Ok(self.table.key_group(key, key_group)?.get())
    }

    /// Looks at the next timers of a state.
    pub(crate) fn timers<T>(&self, state: u32, look: impl FnOnce(&mut Queue) -> T) -> T {
        look(self.timers.lock().expect("no panic while locked").entry(state).or_default())
    }

    /// Finds the shard of a key.
    #[inline]
    pub(crate) fn locate<'a>(
        &self,
        state: u32,
        key: &'a [u8],
        namespace: &'a [u8],
        key_group: Option<u32>,
    ) -> Result<At<'a>> {
        if key.is_empty() {
            return Err(Error::call(ErrorReason::KeyEmpty, "key is empty: 1 to 65535 bytes allowed"));
        }
        check_length("key", key)?;
        check_length("namespace", namespace)?;
        let group = self.table.key_group(key, key_group)?;
        let shard = self.table.shard(group)?;
        Ok(At { state, key, namespace, shard, key_group: self.explicit.then_some(group.get()) })
    }

    /// Refuses a value that the server would refuse, while the caller can still do something about it.
    #[inline]
    pub(crate) fn check_value(&self, value: &[u8]) -> Result<()> {
        if value.len() <= self.value_bytes_max {
            return Ok(());
        }
        let message = format!(
            "value is {} bytes: at most {} allowed (limits.max_value_bytes)",
            value.len(),
            self.value_bytes_max
        );
        Err(Error::call(ErrorReason::ValueTooLarge, message))
    }

    /// Waits until the lease is valid; fails once the session has ended.
    /// Returns the time of its look ([`coarse_ms`]).
    #[inline]
    pub(crate) async fn ready(&self) -> Result<u64> {
        if let Some(error) = self.end.get() {
            return Err(error.clone());
        }
        let now_ms = coarse_ms();
        if self.lease.is_valid(now_ms) {
            return Ok(now_ms);
        }
        self.unless_ended(self.lease.valid()).await?;
        Ok(coarse_ms())
    }

    async fn unless_ended<T>(&self, future: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            value = future => Ok(value),
            () = self.ended.cancelled() => Err(self.end.get().cloned().unwrap_or_else(unknown_end)),
        }
    }

    /// Looks into the cache.
    pub(crate) fn cached<T>(&self, look: impl FnOnce(&mut Cache) -> T) -> T {
        look(&mut self.lock())
    }

    #[inline]
    fn lock(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().expect("no panic while locked")
    }

    /// Writes into the cache, and flushes if so much is unsent.
    pub(crate) async fn write(&self, state: u32, write: impl FnOnce(&mut Cache, u64)) -> Result<()> {
        let now_ms = self.ready().await?;
        self.written(self.write_now(state, now_ms, write)).await
    }

    /// Writes into the cache at a time when the session was ready, and hands what is oldest to the lanes if too much is
    /// unsent: never all at once, for reads of other keys would have to wait behind it. To be followed by
    /// [`Session::written`].
    pub(crate) fn write_now(&self, state: u32, now_ms: u64, write: impl FnOnce(&mut Cache, u64)) -> Written {
        let mut cache = self.lock();
        write(&mut cache, now_ms);
        if let Some(kept) = &self.kept {
            self.wrote(kept, &cache);
            return Written { flushed: false };
        }
        let flushed = cache.wants_flush() || cache.is_uncached(state);
        if cache.is_uncached(state) {
            self.send_unsent(&mut cache, u64::MAX);
        } else if flushed {
            self.send_portion(&mut cache, u64::MAX);
        }
        Written { flushed }
    }

    /// Waits behind a write while too much is on its way.
    #[inline]
    pub(crate) async fn written(&self, written: Written) -> Result<()> {
        if written.flushed {
            self.unless_ended(self.backlog.below(BACKLOG_BYTES_MAX)).await?;
        }
        Ok(())
    }

    /// Reads from the shard: `begin` marks the read in the cache; `fill` puts the answer there and takes out
    /// what the caller is told, `None` never. Both under one lock, for a full cache may evict it right after.
    pub(crate) async fn read<T>(
        &self,
        shard: usize,
        op: Op<'_>,
        begin: impl FnOnce(&mut Cache) -> Reading,
        fill: impl FnOnce(&mut Cache, Reading, AnswerRef<'_>) -> Option<Result<T>>,
    ) -> Result<T> {
        let (mut outstanding, (joint, mut place)) = {
            let mut cache = self.lock();
            let reading = begin(&mut cache);
            self.send_watermark(shard);
            (Outstanding { session: self, reading: Some(reading) }, self.join_read(shard, &op))
        };
        let answers = match self.unless_ended(joint).await? {
            // What others have read with it may be the cause, or that it was too much for one answer.
            Err(Error::Call(_) | Error::State(_)) => {
                place = 0;
                Arc::new(self.read_alone(shard, &op).await?)
            }
            answers => answers.map_err(|error| self.failed(error))?,
        };
        let answer = answers.get(place).ok_or_else(|| malformed(&"no answer to the operation"))?;
        let reading = outstanding.reading.take().ok_or_else(|| malformed(&"it was read twice"))?;
        let known = fill(&mut self.lock(), reading, answer);
        self.read_ended.notify_waiters();
        known.unwrap_or_else(|| Err(malformed(&"the cache did not take it")))
    }

    async fn read_alone(&self, shard: usize, op: &Op<'_>) -> Result<Answers> {
        let mut ops = OpsBuilder::new();
        ops.push(op);
        let answers = self.unless_ended(answers(self.lanes[shard].read(ops.finish()))).await?;
        answers.map_err(|error| self.failed(error))
    }

    /// A lane that ends because of a rewind or a fence ends the session, and its word stands for theirs.
    fn failed(&self, error: Error) -> Error {
        match error {
            Error::Rewound { .. } | Error::Fenced(_) => {
                self.end(as_rewound(error));
                self.end.get().cloned().unwrap_or_else(unknown_end)
            }
            other => other,
        }
    }

    /// Hands to the lanes what has been unsent since `until_ms`; true if something must wait for a read.
    fn send_unsent(&self, cache: &mut Cache, until_ms: u64) -> bool {
        let unsent = cache.take_unsent(until_ms, BATCH_LIMITS);
        self.send(unsent.batches);
        unsent.blocked
    }

    /// Hands a portion of it to the lanes; true if there is more.
    fn send_portion(&self, cache: &mut Cache, until_ms: u64) -> bool {
        let unsent = cache.take_unsent(until_ms, PORTION);
        self.send(unsent.batches);
        unsent.more
    }

    fn send(&self, mut batches: Vec<(usize, v1::PackedOps)>) {
        batches.sort_by_key(|(shard, _)| *shard);
        let mut batches = batches.into_iter().peekable();
        while let Some((shard, ops)) = batches.next() {
            // Behind the last operations of the shard.
            let last = batches.peek().is_none_or(|(next, _)| *next != shard);
            let watermark_ms = if last { self.take_watermark(shard) } else { None };
            let write = Write { ops: Some(ops), watermark_ms, ..Write::default() };
            self.lanes[shard].write_behind(write, &self.backlog);
        }
    }

    /// Hands everything unsent to the lanes.
    async fn flush(&self) -> Result<()> {
        if self.keeps_positions() {
            return self.flush_whole(true).await;
        }
        loop {
            let read_ended = self.read_ended.notified();
            if !self.send_unsent(&mut self.lock(), u64::MAX) {
                self.send_watermarks();
                return Ok(());
            }
            read_ended.await;
        }
    }

    /// Flushes everything and sends the barrier to every shard; returns when all have accepted it.
    pub(crate) async fn barrier(&self, barrier: &v1::Barrier) -> Result<()> {
        let accepted = async {
            self.flush().await?;
            let op = v1::BarrierOp {
                checkpoint: barrier.checkpoint,
                round: barrier.round.clone(),
                base: barrier.base,
                coordinator_epoch: barrier.coordinator_epoch,
            };
            let replies: Vec<_> = self.lanes.iter().map(|lane| lane.barrier(op.clone())).collect();
            let mut refused = None;
            for answer in join_all(replies).await {
                if let Err(error) = answer {
                    refused = refused.or(Some(error));
                }
            }
            self.check_backlog()?;
            refused.map_or(Ok(()), |error| Err(self.failed(error)))
        };
        self.unless_ended(accepted).await?
    }

    /// Flushes everything and waits until every shard has acknowledged it.
    pub(crate) async fn flushed(&self) -> Result<()> {
        self.unless_ended(async {
            self.flush().await?;
            self.backlog.drained().await;
            Ok::<_, Error>(())
        })
        .await??;
        self.check_backlog()
    }

    /// A flushed batch that was refused is lost, and with it the state that the worker believes in.
    fn check_backlog(&self) -> Result<()> {
        let Some(refused) = self.backlog.failure() else { return Ok(()) };
        let error = Error::from(refused.clone());
        self.end(error.clone());
        Err(error)
    }
}

/// What a write into the cache has led to.
#[derive(Debug)]
#[must_use]
pub(crate) struct Written {
    flushed: bool,
}

/// A read whose caller may go away before it is answered.
struct Outstanding<'a> {
    session: &'a Session,
    reading: Option<Reading>,
}

impl Drop for Outstanding<'_> {
    fn drop(&mut self) {
        if let Some(reading) = self.reading.take() {
            self.session.lock().cancel(reading);
            self.session.read_ended.notify_waiters();
        }
    }
}

async fn flush_by_age(session: Weak<Session>, delay_max: Duration) {
    let tick = (delay_max / 4).clamp(Duration::from_millis(5), Duration::from_secs(1));
    let delay_ms = delay_max.as_millis() as u64;
    loop {
        sleep(tick).await;
        let Some(session) = session.upgrade() else { return };
        if session.end.get().is_some() || session.check_backlog().is_err() {
            return;
        }
        if session.keeps_positions() {
            // The worker's loop knows when no record is in progress.
            if session.flush_is_due() {
                session.attention.call();
            }
            continue;
        }
        if let Some(until_ms) = coarse_ms().checked_sub(delay_ms) {
            while session.send_portion(&mut session.lock(), until_ms) {
                yield_now().await;
            }
        }
        session.send_watermarks();
    }
}

async fn watch_lanes(session: Weak<Session>, lanes: Arc<Vec<LaneHandle>>) {
    if lanes.is_empty() {
        return;
    }
    let (reason, _, _) = select_all(lanes.iter().map(|lane| Box::pin(lane.ended()))).await;
    if let Some(session) = session.upgrade() {
        session.end(as_rewound(reason.into()));
    }
}

/// Whatever a lane says, where to go on is for the coordinator to say.
fn as_rewound(error: Error) -> Error {
    match error {
        Error::Fenced(cause) => Error::Rewound { generation: 0, checkpoint: 0, cause },
        other => other,
    }
}

fn unknown_end() -> Error {
    Error::Rewound { generation: 0, checkpoint: 0, cause: "the session has ended".into() }
}

fn malformed(what: &dyn std::fmt::Display) -> Error {
    Refused::new(ErrorReason::Internal, format!("the server's answer cannot be read: {what}")).into()
}

/// Refuses a key, namespace or map key that is too long.
#[inline]
pub(crate) fn check_length(what: &str, bytes: &[u8]) -> Result<()> {
    if bytes.len() <= KEY_BYTES_MAX {
        return Ok(());
    }
    let message = format!("{what} is {} bytes: at most {KEY_BYTES_MAX} allowed", bytes.len());
    Err(Error::call(ErrorReason::KeyTooLong, message))
}
