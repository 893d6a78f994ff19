//! The load: packed batches of reads or writes, so many on their way at a time.

use std::time::{Duration, Instant};

use forebay_client::{
    raw::{LaneHandle, Reply, Write},
    routing::Table,
};
use forebay_proto::{
    packed::{Answers, Op, OpsBuilder},
    v1::{ErrorReason, OpKind},
};
use futures::{StreamExt as _, stream::FuturesUnordered};
use hdrhistogram::Histogram;
use rand::{Rng as _, RngCore as _, rngs::StdRng};

use super::Work;
use crate::failure::Failure;

/// The least number of operations of a batch that fills.
const FILL_BATCH: usize = 1024;
/// What a latency may be, in nanoseconds.
const LATENCY_MAX: u64 = 600_000_000_000;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// As much as can be done in that time.
    Time(Duration),
    /// So many operations.
    Ops(u64),
}

/// What has come of one kind of operation.
#[derive(Debug)]
pub struct Part {
    /// Operations that were answered.
    pub ops: u64,
    /// Latencies of their batches, in nanoseconds.
    pub latencies: Histogram<u64>,
}

/// What has come of it.
#[derive(Debug)]
pub struct Measured {
    /// From the first batch to the last answer.
    pub took: Duration,
    /// Writes.
    pub puts: Part,
    /// Reads.
    pub gets: Part,
}

/// Lanes to a state, and what is sent over them.
#[derive(Debug)]
pub struct Load {
    /// The shards.
    pub table: Table,
    /// A lane to each.
    pub lanes: Vec<LaneHandle>,
    /// Number of the state.
    pub state: u32,
    /// Number of keys.
    pub keys: u64,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Operations of a batch.
    pub batch: usize,
    /// Batches on their way at a time.
    pub in_flight: usize,
    /// Draws keys and values.
    pub random: StdRng,
}

/// A batch that was answered.
struct Answered {
    reads: bool,
    ops: u64,
    latency: Duration,
}

impl Load {
    /// Gives every key a value.
    pub async fn fill(&mut self) -> Result<(), Failure> {
        let mut keys = 0..self.keys;
        let batch = self.batch.max(FILL_BATCH);
        self.pipeline(batch, |_| keys.next().map(|key| (key, false)), |_| {}).await
    }

    /// Measures.
    pub async fn measure(&mut self, work: Work, until: Until) -> Result<Measured, Failure> {
        let part = || -> Result<Part, Failure> {
            let latencies = Histogram::new_with_bounds(1, LATENCY_MAX, 3);
            Ok(Part { ops: 0, latencies: latencies.map_err(|error| Failure::Local(error.to_string()))? })
        };
        let (mut puts, mut gets) = (part()?, part()?);
        let (begun, keys, batch, mut drawn) = (Instant::now(), self.keys, self.batch, 0);
        let next = |random: &mut StdRng| {
            let over = match until {
                Until::Ops(ops) => drawn >= ops,
                // The clock is not asked for every operation of a large batch.
                Until::Time(time) => drawn.is_multiple_of(batch as u64) && begun.elapsed() >= time,
            };
            drawn += 1;
            let reads = match work {
                Work::Get => true,
                Work::Put => false,
                Work::Mixed => drawn.is_multiple_of(2),
            };
            (!over).then(|| (random.random_range(0..keys), reads))
        };
        let answered = |answered: Answered| {
            let part = if answered.reads { &mut gets } else { &mut puts };
            part.ops += answered.ops;
            part.latencies.saturating_record(u64::try_from(answered.latency.as_nanos()).unwrap_or(u64::MAX));
        };
        self.pipeline(batch, next, answered).await?;
        Ok(Measured { took: begun.elapsed(), puts, gets })
    }

    /// Sends operations until there is no next one, and waits for all answers. `next` gives a key and whether it is read.
    async fn pipeline(
        &mut self,
        batch: usize,
        mut next: impl FnMut(&mut StdRng) -> Option<(u64, bool)>,
        mut answered: impl FnMut(Answered),
    ) -> Result<(), Failure> {
        // Of each shard a batch of writes and one of reads are in the making.
        let mut filling: Vec<_> = (0..2 * self.lanes.len()).map(|_| OpsBuilder::new()).collect();
        let mut flying = FuturesUnordered::new();
        let mut value = vec![0; self.value_bytes];
        while let Some((key, reads)) = next(&mut self.random) {
            let key = format!("bench-{key:010}").into_bytes();
            let place = 2 * self.table.shard(self.table.key_group(&key, None)?)? + usize::from(reads);
            let full = &mut filling[place];
            if reads {
                full.push(&Op::new(OpKind::ValueGet, self.state, &key));
            } else {
                self.random.fill_bytes(&mut value);
                full.push(&Op::new(OpKind::ValuePut, self.state, &key).with_value(&value));
            }
            if full.len() == batch {
                if flying.len() >= self.in_flight
                    && let Some(done) = flying.next().await
                {
                    answered(done?);
                }
                flying.push(self.send(place, std::mem::take(&mut filling[place])));
            }
        }
        for (place, rest) in filling.into_iter().enumerate().filter(|(_, rest)| !rest.is_empty()) {
            flying.push(self.send(place, rest));
        }
        while let Some(done) = flying.next().await {
            answered(done?);
        }
        Ok(())
    }

    fn send(&self, place: usize, batch: OpsBuilder) -> impl Future<Output = Result<Answered, Failure>> + use<> {
        let (lane, reads, sent) = (&self.lanes[place / 2], place % 2 == 1, Instant::now());
        let (len, ops) = (batch.len(), batch.finish());
        let reply = if reads { lane.read(ops) } else { lane.write(Write { ops: Some(ops), ..Write::default() }) };
        let expected = if reads { Some((len, self.value_bytes)) } else { None };
        async move {
            check(reply, expected).await?;
            Ok(Answered { reads, ops: len as u64, latency: sent.elapsed() })
        }
    }
}

/// Waits for an answer; to reads it must have so many values of so many bytes.
async fn check(reply: Reply, expected: Option<(usize, usize)>) -> Result<(), Failure> {
    let answer = reply.await?;
    let Some((len, value_bytes)) = expected else { return Ok(()) };
    let wrong = |message: String| Failure::refused(ErrorReason::Internal, message);
    let answers = Answers::decode(answer.answers.unwrap_or_default()).map_err(|error| wrong(error.to_string()))?;
    if answers.len() != len {
        return Err(wrong(format!("{} answers to {len} reads", answers.len())));
    }
    match answers.iter().map(|answer| answer.value().map(|value| value.len())).find(|it| *it != Some(value_bytes)) {
        Some(Some(found)) => Err(wrong(format!("a value of {found} bytes was read, {value_bytes} were written"))),
        Some(None) => Err(wrong("a key is absent that was written".to_owned())),
        None => Ok(()),
    }
}
