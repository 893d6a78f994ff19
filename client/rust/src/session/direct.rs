//! Operations past the cache: behind the unsent writes of what they are about, and ahead of later ones.

use std::collections::VecDeque;

use forebay_proto::{
    packed::{AnswerRef, Answers, Op, OpsBuilder},
    v1::{self, ErrorReason},
};

use super::{BATCH_LIMITS, Outstanding, Session, malformed, reads::answers};
use crate::{
    cache::{At, Cache, Reading},
    error::{Error, Result},
    lane::Write,
    shard_lane::Reply,
};

/// Operations of one prefetch or read that go into one batch.
const READS_MAX: usize = 512;

/// An address that is read, and the operation that reads it.
pub(crate) type Wanted<'a> = (At<'a>, Op<'a>);

impl Session {
    /// Reads from the shard what the cache will not hold. `begin` marks the read in the cache, so that no
    /// write of that address overtakes it.
    pub(crate) async fn read_direct<T>(
        &self,
        at: At<'_>,
        op: Op<'_>,
        begin: impl Fn(&mut Cache, At<'_>) -> Reading,
        decode: impl FnOnce(AnswerRef<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut decode = Some(decode);
        let mut decoded = None;
        self.read_all(&[(at, op)], &begin, |_, answer| {
            decoded = decode.take().map(|decode| decode(answer));
        })
        .await?;
        decoded.unwrap_or_else(|| Err(malformed(&"no answer to the operation")))
    }

    /// Reads several addresses, a batch or a few per shard, all of which are in flight together.
    pub(crate) async fn read_all(
        &self,
        wanted: &[Wanted<'_>],
        begin: &impl Fn(&mut Cache, At<'_>) -> Reading,
        mut each: impl FnMut(usize, AnswerRef<'_>),
    ) -> Result<()> {
        self.ready().await?;
        let addresses: Vec<_> = wanted.iter().map(|(at, _)| *at).collect();
        self.sent(&addresses).await?;
        self.batched(wanted, begin, |session, indexes, outstanding, answers| {
            drop(outstanding);
            for (index, answer) in indexes.iter().zip(answers.iter()) {
                each(*index, answer);
            }
            session.read_ended.notify_waiters();
        })
        .await
    }

    /// Reads several addresses into the cache; those that are known need not be among them.
    pub(crate) async fn fill_all(
        &self,
        wanted: &[Wanted<'_>],
        begin: &impl Fn(&mut Cache, At<'_>) -> Reading,
        fill: impl Fn(&mut Cache, Reading, usize, AnswerRef<'_>),
    ) -> Result<()> {
        self.ready().await?;
        self.batched(wanted, begin, |session, indexes, outstanding, answers| {
            let mut cache = session.lock();
            for ((index, mut one), answer) in indexes.iter().zip(outstanding).zip(answers.iter()) {
                if let Some(reading) = one.reading.take() {
                    fill(&mut cache, reading, *index, answer);
                }
            }
            drop(cache);
            session.read_ended.notify_waiters();
        })
        .await
    }

    async fn batched<'s>(
        &'s self,
        wanted: &[Wanted<'_>],
        begin: &impl Fn(&mut Cache, At<'_>) -> Reading,
        mut done: impl FnMut(&Self, &[usize], Vec<Outstanding<'s>>, &Answers),
    ) -> Result<()> {
        let mut by_shard: Vec<Vec<usize>> = vec![Vec::new(); self.lanes.len()];
        for (index, (at, _)) in wanted.iter().enumerate() {
            by_shard[at.shard].push(index);
        }
        let ops_of = |indexes: &[usize]| {
            let mut ops = OpsBuilder::new();
            indexes.iter().for_each(|index| ops.push(&wanted[*index].1));
            ops.finish()
        };
        let mut batches: VecDeque<(Vec<usize>, Vec<Outstanding<'s>>, Reply)> = VecDeque::new();
        for indexes in by_shard.iter().flat_map(|indexes| indexes.chunks(READS_MAX)) {
            let ops = ops_of(indexes);
            let mut cache = self.lock();
            let reading =
                |index: &usize| Outstanding { session: self, reading: Some(begin(&mut cache, wanted[*index].0)) };
            let outstanding = indexes.iter().map(reading).collect();
            let shard = wanted[indexes[0]].0.shard;
            self.send_watermark(shard);
            batches.push_back((indexes.to_vec(), outstanding, self.lanes[shard].read(ops)));
            drop(cache);
        }
        while let Some((mut indexes, mut outstanding, reply)) = batches.pop_front() {
            let answers = match self.unless_ended(answers(reply)).await? {
                Err(Error::Call(refused)) if refused.reason == ErrorReason::BatchTooMany && indexes.len() > 1 => {
                    // Values are larger than usual: half of them fit into an answer, or a half of that.
                    let lane = &self.lanes[wanted[indexes[0]].0.shard];
                    let half = indexes.len() / 2;
                    let behind = (indexes.split_off(half), outstanding.split_off(half));
                    for (indexes, outstanding) in [behind, (indexes, outstanding)] {
                        let reply = lane.read(ops_of(&indexes));
                        batches.push_front((indexes, outstanding, reply));
                    }
                    continue;
                }
                answers => answers.map_err(|error| self.failed(error))?,
            };
            if answers.len() != indexes.len() {
                return Err(malformed(&"there is not an answer per operation"));
            }
            done(self, &indexes, outstanding, &answers);
        }
        Ok(())
    }

    /// Hands to the lanes what is unsent of some addresses; waits for reads of them that are outstanding.
    pub(crate) async fn sent(&self, addresses: &[At<'_>]) -> Result<()> {
        if self.keeps_positions() {
            return self.sent_whole(addresses).await;
        }
        let taken = async {
            loop {
                let read_ended = self.read_ended.notified();
                if !self.send_unsent_of(&mut self.lock(), addresses) {
                    return;
                }
                read_ended.await;
            }
        };
        self.unless_ended(taken).await
    }

    fn send_unsent_of(&self, cache: &mut Cache, addresses: &[At<'_>]) -> bool {
        let unsent = cache.take_unsent_of(addresses, BATCH_LIMITS);
        for (shard, ops) in unsent.batches {
            self.lanes[shard].write_behind(Write { ops: Some(ops), ..Write::default() }, &self.backlog);
        }
        unsent.blocked
    }

    /// Sends an operation that changes several addresses of one shard: behind what is unsent of them and
    /// every read of them, and forgets what was known of them. Nobody waits for the answer.
    pub(crate) async fn write_over(&self, addresses: &[At<'_>], op: Op<'_>) -> Result<()> {
        self.not_past_the_cache("a write that merges namespaces, or gives elements deadlines of their own,")?;
        self.ready().await?;
        let Some(shard) = addresses.first().map(|at| at.shard) else { return Ok(()) };
        let mut ops = Some(packed(&op));
        let sent = async {
            loop {
                let read_ended = self.read_ended.notified();
                let free = {
                    let mut cache = self.lock();
                    let free = !addresses.iter().any(|at| cache.is_being_read(*at));
                    if free && let Some(ops) = ops.take() {
                        self.send_unsent_of(&mut cache, addresses);
                        addresses.iter().for_each(|at| cache.forget_known(*at));
                        self.lanes[shard].write_behind(Write { ops: Some(ops), ..Write::default() }, &self.backlog);
                    }
                    free
                };
                if free {
                    return;
                }
                read_ended.await;
            }
        };
        self.unless_ended(sent).await?;
        self.unless_ended(self.backlog.below(super::BACKLOG_BYTES_MAX)).await
    }

    /// Sends a compare-and-set and waits for its verdict; for states of which the cache keeps nothing.
    pub(crate) async fn verdict(&self, at: At<'_>, op: Op<'_>) -> Result<bool> {
        self.not_past_the_cache("a compare-and-set of a state that is not cached")?;
        self.ready().await?;
        self.sent(&[at]).await?;
        let write = Write { ops: Some(packed(&op)), now_ms: crate::clock::now_ms(), ..Default::default() };
        let reply = self.lanes[at.shard].write(write);
        let answer = self.unless_ended(reply).await?.map_err(|error| self.failed(error))?;
        let answers = Answers::decode(answer.answers.unwrap_or_default()).map_err(|error| malformed(&error))?;
        let verdict = answers.get(0).and_then(|answer| answer.verdict);
        verdict.ok_or_else(|| malformed(&"no verdict of the compare-and-set"))
    }
}

fn packed(op: &Op<'_>) -> v1::PackedOps {
    let mut ops = OpsBuilder::with_capacity(1, op.key.len() + op.namespace.len() + op.value.len());
    ops.push(op);
    ops.finish()
}
