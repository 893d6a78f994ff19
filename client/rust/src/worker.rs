//! A worker: a process that reads a source and keeps its state in Forebay, exactly once.
//!
//! The worker's loop is the user's own. It calls [`Worker::assigned`] at first and [`Worker::boundary`] between two
//! records; an [`Error::Rewound`] from anywhere leads back to [`Worker::assigned`]: the job went back, or the worker's
//! share of the shards changed. Invariant: worker state is asked for only while no record is in progress, and
//! reported only after every shard has accepted the barrier behind everything before it.

mod builder;

use std::{
    collections::HashSet,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use forebay_proto::{
    reason::Refused,
    v1::{self, ErrorReason},
};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    assigned::Assigned,
    backoff::backoff,
    cache::Cache,
    client::Client,
    error::{Error, Result},
    hooks::{HookResult, Hooks},
    inputs::Barrier,
    lane::Target,
    membership::{Command, Shared},
    records::{RecordGuard, Records},
    routing::{Router, Table, range},
    session::{Parts, Session},
    shard_lane::LaneHandle,
    stream::Streams,
    worker_state::WorkerState,
};

pub use builder::WorkerBuilder;

const VALUE_BYTES_MAX_DEFAULT: u64 = 8 << 20;
const LEAVE_MAX: Duration = Duration::from_secs(5);
/// How many checkpoints back a barrier may be reported.
const CUTS_MAX: u64 = 64;

/// A member of an operator's group. Dropping it without [`Worker::finish`] is a failure, as a crash is.
pub struct Worker {
    client: Client,
    job: String,
    job_uid: String,
    operator: String,
    id: String,
    cache_bytes_max: usize,
    write_delay_max: Duration,
    positions_interval: Duration,
    barrier_timeout: Duration,
    /// How long a lost session waits for the coordinator's word before the worker joins anew.
    patience: Duration,
    hooks: Box<dyn Hooks>,
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    records: Arc<Records>,
    session: Option<Arc<Session>>,
    index: u32,
    /// The first checkpoint whose barrier was reported since this was last cleared.
    first_barrier: Option<u64>,
    /// Barriers that came with the records, and the worker state at each, until they are reported.
    cuts: Vec<(v1::Barrier, WorkerState)>,
    /// True if the next call of `assigned` joins anew.
    fenced: bool,
    _task: AbortOnDropHandle<()>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("job", &self.job).field("id", &self.id).finish_non_exhaustive()
    }
}

impl Worker {
    /// Waits for the worker's shards and returns them with its share of the worker state of the checkpoint
    /// that they stand at. Called first, and again after every [`Error::Rewound`].
    ///
    /// After an [`Error::Fenced`] it joins anew, as somebody who holds nothing.
    pub async fn assigned(&mut self) -> Result<Assigned> {
        // A session that the worker itself gave up is over for the others, too.
        let given_up = |session: Arc<Session>| session.end_reason().is_none_or(|reason| !reason.is_rewound());
        let given_up = self.session.take().is_some_and(given_up);
        if std::mem::take(&mut self.fenced) || given_up {
            self.shared.inbox(|inbox| inbox.take_ended());
            self.command(Command::Rejoin).await?;
        }
        let mut waiting = Instant::now();
        loop {
            self.shared.attention.clear();
            if let Some(ended) = self.shared.inbox(|inbox| inbox.take_ended()) {
                if !ended.is_rewound() && !matches!(ended, Error::Unavailable(_)) {
                    // Somebody else may have our place: whether to take it back is for the caller to say.
                    self.fenced = true;
                    return Err(ended);
                }
                self.command(Command::Rejoin).await?;
            }
            if let Some(assignment) = self.shared.inbox(|inbox| inbox.take_assignment()) {
                return self.enter(assignment).await;
            }
            let silent = timeout(self.patience, self.shared.attention.called()).await.is_err();
            let announced = self.shared.inbox(|inbox| inbox.rewinding || inbox.is_spare());
            if silent && !announced && waiting.elapsed() >= self.patience {
                tracing::warn!("no word from the coordinator about a lost session; joining anew");
                self.command(Command::Rejoin).await?;
                waiting = Instant::now();
            }
        }
    }

    async fn enter(&mut self, assignment: v1::Assignment) -> Result<Assigned> {
        let spec = assignment.spec.clone().unwrap_or_default();
        let generation = assignment.generation;
        let routes: Vec<_> = assignment.shards.iter().filter_map(|leased| leased.route.clone()).collect();
        let table = Table::new(spec.max_parallelism, spec.partitioner(), routes.clone())?;
        let (client, job, uid) = (&self.client, &self.job, &self.job_uid);
        let streams = Arc::new(Streams::new(client.channels().clone(), &self.id, job, uid, generation));
        let router = Arc::new(Router::new(client.clone(), job, uid, generation, &routes));
        let writer_epoch = |route: &v1::Route| {
            let leased = assignment.shards.iter().find(|leased| leased.route.as_ref() == Some(route));
            leased.map_or(0, |leased| leased.writer_epoch)
        };
        let target = |route: &v1::Route| Target {
            operator: route.operator.clone(),
            range: range(route),
            shard_epoch: route.epoch,
            writer_epoch: writer_epoch(route),
        };
        let lanes = table.routes().iter().map(|route| LaneHandle::open(target(route), streams.clone(), router.clone()));
        let lanes = lanes.collect();
        let uncached: HashSet<_> =
            assignment.states.iter().filter(|state| is_uncached(state)).map(|it| it.id).collect();
        let value_bytes_max = spec.limits.as_ref().map_or(0, |limits| limits.max_value_bytes);
        let value_bytes_max = if value_bytes_max == 0 { VALUE_BYTES_MAX_DEFAULT } else { value_bytes_max };
        let session = Session::start(Parts {
            explicit: spec.partitioner() == v1::Partitioner::Explicit,
            table,
            lanes,
            states: assignment.states.clone(),
            cache: Cache::new(self.cache_bytes_max, uncached),
            lease: self.shared.lease.clone(),
            attention: self.shared.attention.clone(),
            value_bytes_max: usize::try_from(value_bytes_max).unwrap_or(usize::MAX),
            write_delay_max: self.write_delay_max,
            positions_interval: (spec.recovery() == v1::Recovery::Shard).then_some(self.positions_interval),
        });
        *self.shared.session.lock().expect("no panic while locked") = Arc::downgrade(&session);
        // A newer word may have come while nobody could be told.
        self.shared.attention.call();
        self.session = Some(session.clone());
        self.index = assignment.index;
        // Records and barriers of the generation before are nobody's business any more.
        self.records = Arc::default();
        self.cuts.clear();
        session.find_positions().await?;
        let checkpoint = assignment.restored_checkpoint;
        hook("on_restore", self.hooks.on_restore(checkpoint)).await?;
        Ok(Assigned::new(session, assignment))
    }

    /// Returns the last checkpoint of this generation known to be complete; 0 if there is none.
    pub fn last_completed(&self) -> u64 {
        self.shared.inbox(|inbox| inbox.last_completed())
    }

    /// Marks a record as in progress, for loops that process several at a time. A barrier waits until the
    /// guard is dropped.
    pub fn record(&self) -> RecordGuard {
        self.records.admit()
    }

    /// Serves what the coordinator asks for; called between two records. Costs next to nothing while nothing
    /// is asked.
    ///
    /// At a barrier it waits for the records in progress, flushes, asks `state` for the worker state, and
    /// returns once every shard has accepted the barrier.
    pub async fn boundary(&mut self, state: impl Fn() -> WorkerState + Sync) -> Result<()> {
        if let Some(session) = self.session.as_ref().filter(|session| session.keeps_positions())
            && self.records.is_empty()
        {
            session.between_records();
        }
        if !self.shared.attention.is_called() {
            return Ok(());
        }
        self.attend(&state).await
    }

    /// Takes the cut at a barrier that has come with the records, for workers of operators that are no sources
    /// ([`Inputs`](crate::Inputs) says when). What was written before is in the checkpoint, what is written later is
    /// not. One of a former generation changes nothing.
    ///
    /// Fails with [`Error::Rewound`] like any other call. A round that is late or refused is declined.
    pub async fn cut(&mut self, barrier: &Barrier, state: impl Fn() -> WorkerState + Sync) -> Result<()> {
        let session = self.session.clone().ok_or_else(not_assigned)?;
        let barrier = barrier.0.clone();
        if barrier.generation == self.shared.inbox(|inbox| inbox.generation())
            && let Some(state) = self.take_cut(&session, &barrier, &state).await?
        {
            // Rounds that came to nothing are never reported.
            self.cuts.retain(|(known, _)| known.checkpoint + CUTS_MAX > barrier.checkpoint);
            self.cuts.push((barrier, state));
        }
        Ok(())
    }

    /// Reports a barrier that has come on all inputs, with the records that were in flight: they are handed back at a
    /// restore ([`Assigned::in_flight`]). One that was not cut here changes nothing.
    pub async fn report(&mut self, barrier: &Barrier, in_flight: impl IntoIterator<Item = Bytes>) -> Result<()> {
        let Some(at) = self.cuts.iter().position(|(known, _)| known.round == barrier.0.round) else { return Ok(()) };
        let (barrier, state) = self.cuts.remove(at);
        self.first_barrier.get_or_insert(barrier.checkpoint);
        let session = self.session.clone().ok_or_else(not_assigned)?;
        self.report_cut(&session, &barrier, state.with_in_flight(in_flight)).await
    }

    /// Declines a barrier that did not come on all inputs.
    pub async fn decline(&mut self, barrier: &Barrier, cause: &str) -> Result<()> {
        self.cuts.retain(|(known, _)| known.round != barrier.0.round);
        let (checkpoint, round, cause) = (barrier.0.checkpoint, barrier.0.round.clone(), cause.to_owned());
        self.command(Command::Decline(v1::Decline { checkpoint, round, cause })).await
    }

    /// Says how far event time has come, milliseconds since 1970: a promise that no earlier record follows.
    /// One that goes back changes nothing.
    ///
    /// The shards hear of it with the next writes, or on its own within [`WorkerBuilder::write_delay_max`];
    /// they measure deadlines on event time by it. Said again after a rewind.
    pub fn watermark(&self, watermark_ms: i64) -> Result<()> {
        self.session.as_ref().ok_or_else(not_assigned)?.watermark(watermark_ms);
        Ok(())
    }

    /// Sends everything that is unsent and waits until every shard has acknowledged it, for readers outside.
    /// A checkpoint does so by itself. Where positions are kept in the shards it is called between two records.
    pub async fn flush(&self) -> Result<()> {
        let session = self.session.as_ref().ok_or_else(not_assigned)?;
        if session.keeps_positions() {
            self.records.finished().await;
        }
        session.flushed().await
    }

    /// Waits for something, and serves what the coordinator asks for meanwhile.
    pub async fn idle<T>(
        &mut self,
        state: impl Fn() -> WorkerState + Sync,
        until: impl Future<Output = T>,
    ) -> Result<T> {
        let mut until = std::pin::pin!(until);
        loop {
            self.boundary(&state).await?;
            let attention = self.shared.attention.clone();
            tokio::select! {
                biased;
                value = &mut until => return Ok(value),
                () = attention.called() => {}
            }
        }
    }

    /// Works up to here and no further: waits for a checkpoint that contains everything up to now, and leaves the group.
    /// Returns the checkpoint. Others of the group go on from there, nothing goes back.
    ///
    /// Fails with [`Error::Rewound`] like any other call, and then nothing is finished.
    pub async fn finish(&mut self, state: impl Fn() -> WorkerState + Sync) -> Result<u64> {
        let session = self.session.clone().ok_or_else(not_assigned)?;
        if session.keeps_positions() {
            // Others need not stop for it: what it has done is in the shards.
            let checkpoint = self.checkpointed(&state).await?;
            self.depart(v1::Leave { checkpoint, after_stop: false }).await?;
            return Ok(checkpoint);
        }
        self.command(Command::Leave(v1::Leave { checkpoint: 0, after_stop: true })).await?;
        loop {
            self.boundary(&state).await?;
            if self.shared.inbox(|inbox| inbox.has_left()) {
                // What it leaves behind is complete, and its hooks may have yet to hear of it.
                self.boundary(&state).await?;
                self.session = None;
                return Ok(self.shared.inbox(|inbox| inbox.last_completed()));
            }
            self.shared.attention.called().await;
        }
    }

    /// Waits for a checkpoint that contains everything up to now.
    async fn checkpointed(&mut self, state: &(impl Fn() -> WorkerState + Sync)) -> Result<u64> {
        self.first_barrier = None;
        let mut waits = backoff();
        loop {
            let (client, job) = (self.client.clone(), self.job.clone());
            let triggered = self.idle(state, async move { client.trigger_checkpoint(&job).await }).await?;
            match triggered {
                Ok(completed) => self.shared.inbox(|inbox| inbox.completed(completed.id)),
                Err(Error::Unavailable(refused)) => {
                    let wait = waits.next().unwrap_or_default().min(refused.retry_after.unwrap_or(Duration::MAX));
                    self.idle(state, sleep(wait)).await?;
                }
                Err(error) => return Err(error),
            }
            let last = self.shared.inbox(|inbox| inbox.last_completed());
            if self.first_barrier.is_some_and(|first| first <= last) {
                self.shared.attention.call();
                self.boundary(state).await?;
                return Ok(last);
            }
        }
    }

    /// Leaves the group at once, without a checkpoint: whoever comes next goes on from the last one, or, where
    /// positions are kept in the shards, from what is flushed by this.
    pub async fn leave(&mut self) -> Result<()> {
        if let Some(session) = self.session.as_ref().filter(|session| session.keeps_positions()) {
            self.records.finished().await;
            if let Err(error) = session.flushed().await {
                tracing::debug!(%error, "what is unsent is read again by whoever comes next");
            }
        }
        self.depart(v1::Leave::default()).await
    }

    async fn depart(&mut self, leave: v1::Leave) -> Result<()> {
        self.shared.attention.clear();
        self.command(Command::Leave(leave)).await?;
        let ended = async {
            while !self.shared.inbox(|inbox| inbox.has_left() || inbox.take_ended().is_some()) {
                self.shared.attention.called().await;
                self.shared.attention.clear();
            }
        };
        // A coordinator that does not answer will find out by the lease.
        let _ = timeout(LEAVE_MAX, ended).await;
        self.session = None;
        Ok(())
    }

    async fn attend(&mut self, state: &(dyn Fn() -> WorkerState + Sync)) -> Result<()> {
        self.shared.attention.clear();
        let attended = self.attend_to_all(state).await;
        if attended.is_err() {
            // It stays so until the next assignment, or something is left.
            self.shared.attention.call();
        }
        attended
    }

    async fn attend_to_all(&mut self, state: &(dyn Fn() -> WorkerState + Sync)) -> Result<()> {
        let session = self.session.clone().ok_or_else(not_assigned)?;
        if let Some(reason) = session.end_reason() {
            return Err(reason.clone());
        }
        if session.flush_is_due() {
            self.records.finished().await;
            session.flush_due().await?;
        }
        while let Some(checkpoint) = self.shared.inbox(|inbox| inbox.take_completed()) {
            hook("on_completed", self.hooks.on_completed(checkpoint)).await?;
        }
        while let Some(barrier) = self.shared.inbox(|inbox| inbox.take_barrier()) {
            self.serve(&session, barrier, state).await?;
        }
        Ok(())
    }

    async fn serve(
        &mut self,
        session: &Session,
        barrier: v1::Barrier,
        state: &(dyn Fn() -> WorkerState + Sync),
    ) -> Result<()> {
        let Some(state) = self.take_cut(session, &barrier, state).await? else { return Ok(()) };
        self.first_barrier.get_or_insert(barrier.checkpoint);
        self.report_cut(session, &barrier, state).await
    }

    /// Reports a barrier, and waits behind that of a stop until the round is aborted, or something else is assigned. What
    /// was written meanwhile would be in the state, and not in the positions that whoever comes next goes on from.
    async fn report_cut(&self, session: &Session, barrier: &v1::Barrier, state: WorkerState) -> Result<()> {
        // Before it is reported, or an answer could be missed.
        self.shared.inbox(|inbox| inbox.stop_at(barrier));
        self.command(Command::Report(self.reported(barrier, state))).await?;
        loop {
            self.shared.attention.clear();
            if let Some(reason) = session.end_reason() {
                return Err(reason.clone());
            }
            if !self.shared.inbox(|inbox| inbox.is_stopped()) {
                // Completions may have come meanwhile.
                self.shared.attention.call();
                return Ok(());
            }
            self.shared.attention.called().await;
        }
    }

    /// Has every shard accept a barrier, and returns the worker state at it; `None` if it was declined.
    async fn take_cut(
        &mut self,
        session: &Session,
        barrier: &v1::Barrier,
        state: &(dyn Fn() -> WorkerState + Sync),
    ) -> Result<Option<WorkerState>> {
        let served = timeout(self.barrier_timeout, async {
            self.records.finished().await;
            hook("before_barrier", self.hooks.before_barrier(barrier.checkpoint)).await?;
            hook("forward", self.hooks.forward(&Barrier(barrier.clone()))).await?;
            let state = state();
            if session.keeps_positions() && !state.is_empty() {
                return Ok(None);
            }
            session.barrier(barrier).await?;
            Ok::<_, Error>(Some(state))
        });
        let refused = match served.await {
            Ok(Ok(Some(state))) => return Ok(Some(state)),
            Ok(Ok(None)) => return Err(no_worker_state()),
            Ok(Err(error)) => error,
            Err(_) => {
                let message = format!("barrier {} took over {:?}", barrier.checkpoint, self.barrier_timeout);
                Refused::new(ErrorReason::CheckpointAborted, message).into()
            }
        };
        if let Some(reason) = session.end_reason() {
            return Err(reason.clone());
        }
        self.decline(&Barrier(barrier.clone()), &refused.to_string()).await?;
        // A round that was refused or is late is the coordinator's concern; a hook's failure is the user's.
        if matches!(refused, Error::Hook { .. }) { Err(refused) } else { Ok(None) }
    }

    fn reported(&self, barrier: &v1::Barrier, state: WorkerState) -> v1::BarrierReport {
        let state = v1::WorkerState {
            worker: self.id.clone(),
            operator: self.operator.clone(),
            index: self.index,
            lists: state.into_lists(),
        };
        v1::BarrierReport {
            checkpoint: barrier.checkpoint,
            round: barrier.round.clone(),
            coordinator_epoch: barrier.coordinator_epoch,
            generation: barrier.generation,
            state: Some(state),
            stopped: barrier.stop,
        }
    }

    async fn command(&self, command: Command) -> Result<()> {
        let gone = || Error::Fenced("the membership has ended".into());
        self.commands.send(command).await.map_err(|_| gone())
    }
}

/// True if the cache cannot tell when what it holds of a state expires: answers name the deadlines of values
/// and single map entries only, and the writer clock is each batch's own.
fn is_uncached(state: &v1::RegisteredState) -> bool {
    let Some(descriptor) = &state.descriptor else { return false };
    let named = matches!(descriptor.kind(), v1::StateKind::Value | v1::StateKind::Map);
    descriptor.ttl.is_some_and(|ttl| !named || ttl.clock() == v1::TtlClock::Writer)
}

fn no_worker_state() -> Error {
    let message = "the worker has state of its own, and the job's recovery is shard: a shard that is leased anew brings \
                   only its own positions and states (use WorkerState::new, or recovery: job)";
    Error::call(ErrorReason::SettingsConflict, message)
}

fn not_assigned() -> Error {
    Refused::new(ErrorReason::NotLeased, "no shards are held: call assigned() first").into()
}

async fn hook(hook: &'static str, run: impl Future<Output = HookResult>) -> Result<()> {
    run.await.map_err(|error| Error::Hook { hook, message: error.to_string() })
}
