//! Reads of many tasks, put together.
//!
//! A read goes at once while few batches of reads are under way to its shard. Else it waits for one of them to be
//! answered, and goes with all others that wait: the more is in flight, the larger the batches become, and a
//! single reader never waits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use forebay_proto::packed::{Answers, Op, OpsBuilder};
use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use tokio::sync::oneshot;

use super::{Session, malformed, unknown_end};
use crate::{error::Result, shard_lane::Reply};

/// Batches of reads that may be under way to a shard before others wait.
const UNDER_WAY_MAX: usize = 2;
/// Most operations of a batch, and most bytes of keys after which it goes.
const READS_MAX: usize = 512;
const KEY_BYTES_MAX: usize = 256 << 10;

/// The answers to a batch, for all who read with it.
pub(super) type Joint = Shared<BoxFuture<'static, Result<Arc<Answers>>>>;

/// The reads of one shard.
#[derive(Default)]
pub(super) struct Reads(Mutex<State>);

#[derive(Default)]
struct State {
    under_way: usize,
    waiting: Option<Waiting>,
}

/// A batch that has not been sent.
struct Waiting {
    ops: OpsBuilder,
    send: oneshot::Sender<(Reply, UnderWay)>,
    answers: Joint,
}

/// A batch that has been sent; its end lets the next one go.
struct UnderWay {
    session: Weak<Session>,
    shard: usize,
}

impl std::fmt::Debug for Reads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reads").finish_non_exhaustive()
    }
}

impl Reads {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A batch is put there or taken whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn new() -> Self {
        let (send, sent) = oneshot::channel::<(Reply, UnderWay)>();
        let answered = async move {
            let (reply, _under_way) = sent.await.map_err(|_| unknown_end())?;
            Ok(Arc::new(answers(reply).await?))
        };
        Self { ops: OpsBuilder::new(), send, answers: answered.boxed().shared() }
    }
}

/// Waits for the answers to a batch of reads.
pub(super) async fn answers(reply: Reply) -> Result<Answers> {
    Answers::decode(reply.await?.answers.unwrap_or_default()).map_err(|error| malformed(&error))
}

impl Session {
    /// Adds an operation to the next batch of reads of a shard; returns what will be its answers, and its place among
    /// them. The caller holds the lock of the cache.
    pub(super) fn join_read(&self, shard: usize, op: &Op<'_>) -> (Joint, usize) {
        let mut reads = self.reads[shard].lock();
        let waiting = reads.waiting.get_or_insert_with(Waiting::new);
        let (place, answers) = (waiting.ops.len(), waiting.answers.clone());
        waiting.ops.push(op);
        let full = waiting.ops.len() >= READS_MAX || waiting.ops.bytes() >= KEY_BYTES_MAX;
        if full || reads.under_way < UNDER_WAY_MAX {
            // The caller has another clone: this one is not the last.
            drop(self.send_waiting(shard, &mut reads));
        }
        (answers, place)
    }

    /// Sends what waits. What is returned is to be dropped once the lock is free: with it the end of the batch may come.
    #[must_use]
    fn send_waiting(&self, shard: usize, reads: &mut State) -> Option<Joint> {
        let Waiting { ops, send, answers } = reads.waiting.take()?;
        reads.under_way += 1;
        let under_way = UnderWay { session: self.me.clone(), shard };
        send.send((self.lanes[shard].read(ops.finish()), under_way)).ok();
        Some(answers)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let Some(session) = self.session.upgrade() else { return };
        let mut reads = session.reads[self.shard].lock();
        reads.under_way -= 1;
        let answers = session.send_waiting(self.shard, &mut reads);
        drop(reads);
        drop(answers);
    }
}
