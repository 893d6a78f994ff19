//! The stream: packed batches over one lane per shard, several in flight.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use forebay_client::{
    Client,
    raw::{LaneHandle, Reply, StreamClient, Write},
    routing::Table,
};
use forebay_integration_tests::bench::data::{Data, KEY_BYTES, Ledger, VALUE_BYTES};
use forebay_proto::{
    packed::{self, Answers, OpsBuilder},
    v1::OpKind,
};
use futures::{StreamExt as _, stream::FuturesUnordered};

use super::STATE;
use crate::{
    load::{APPENDS_MAX, Books, Load},
    plan::{IN_FLIGHT, Op},
};

const OPERATOR: &str = "op";
const FILL_BATCH: usize = 1024;
/// Time for the last messages, which close the lanes, to leave.
const CLOSE: Duration = Duration::from_millis(5);

/// Lanes to all shards of a job, over one connection.
pub struct Lanes {
    lanes: Vec<LaneHandle>,
    table: Table,
    state: u32,
}

/// A batch that is being filled, and the keys in it.
struct Batch {
    ops: OpsBuilder,
    keys: Vec<u32>,
}

impl Lanes {
    pub async fn open(url: &str, job: &str) -> Result<Self> {
        let stream = StreamClient::connect(&Client::connect(url).await?, job).await?;
        let (table, state) = (stream.table(OPERATOR)?, stream.state_id(OPERATOR, STATE)?);
        Ok(Self { lanes: stream.lanes(OPERATOR).await?, table, state })
    }

    /// Puts every key with stamp 0.
    pub async fn fill(self, data: &Data) -> Result<()> {
        let mut keys = 0..data.len();
        let mut next = || keys.next().map(|key| (key, Op::Put));
        self.pipeline(Op::Put, FILL_BATCH, data, &mut next, &mut |_| 0).await?;
        self.close().await;
        Ok(())
    }

    pub async fn measure(self, op: Op, batch: usize, load: &mut Load<'_>) -> Result<f64> {
        let (data, ledger) = (load.data, load.books.of(op));
        let mut draw = || load.random.below(data.len());
        self.timed(op, batch, load.duration / 10, data, ledger, &mut draw).await?;
        let started = Instant::now();
        let ops = self.timed(op, batch, load.duration, data, ledger, &mut draw).await?;
        let rate = ops as f64 / started.elapsed().as_secs_f64();
        self.check(op, load.data, load.books).await?;
        self.close().await;
        Ok(rate)
    }

    async fn timed(
        &self,
        op: Op,
        batch: usize,
        duration: Duration,
        data: &Data,
        ledger: &mut Ledger,
        draw: &mut impl FnMut() -> u32,
    ) -> Result<u64> {
        let (started, mut drawn) = (Instant::now(), 0_u64);
        let mut next = || {
            // The clock is not asked for every operation of a large batch.
            let over = drawn.is_multiple_of(batch as u64)
                && (started.elapsed() >= duration || (op == Op::Append && drawn >= APPENDS_MAX));
            drawn += 1;
            let which = match op {
                Op::Mixed if drawn.is_multiple_of(2) => Op::Get,
                Op::Mixed => Op::Put,
                op => op,
            };
            (!over).then(|| (draw(), which))
        };
        self.pipeline(op, batch, data, &mut next, &mut |index| ledger.write(index)).await
    }

    /// Keeps batches in flight until there is no next key and returns how many operations were answered.
    async fn pipeline(
        &self,
        op: Op,
        batch: usize,
        data: &Data,
        next: &mut impl FnMut() -> Option<(u32, Op)>,
        stamp: &mut impl FnMut(u32) -> u64,
    ) -> Result<u64> {
        // A batch reads or writes; of a mix each shard has one of both in the making.
        let parts = if op == Op::Mixed { 2 } else { 1 };
        let mut filling: Vec<_> = (0..self.lanes.len() * parts).map(|_| Batch::new(batch)).collect();
        let mut flying = FuturesUnordered::new();
        let mut sent = 0;
        while let Some((index, op)) = next() {
            let key = data.key(index);
            let shard = self.table.shard(self.table.key_group(key, None)?)?;
            let kind = match op {
                Op::Put | Op::Mixed => OpKind::ValuePut,
                Op::Get => OpKind::ValueGet,
                Op::Append => OpKind::ListAppend,
            };
            let operation = packed::Op::new(kind, self.state, key);
            let part = if op == Op::Get { parts - 1 } else { 0 };
            let full = &mut filling[shard * parts + part];
            match op {
                Op::Get => full.ops.push(&operation),
                _ => full.ops.push(&operation.with_value(&data.value(index, stamp(index)))),
            }
            full.keys.push(index);
            if full.keys.len() == batch {
                if flying.len() == IN_FLIGHT {
                    flying.next().await.context("batches are in flight")??;
                }
                let full = std::mem::replace(full, Batch::new(batch));
                sent += batch as u64;
                flying.push(answered(self.send(shard, op, full.ops), op, data, full.keys));
            }
        }
        for (place, rest) in filling.into_iter().enumerate().filter(|(_, rest)| !rest.keys.is_empty()) {
            let op = if op == Op::Mixed && place % parts == 0 { Op::Put } else { op };
            let op = if op == Op::Mixed { Op::Get } else { op };
            sent += rest.keys.len() as u64;
            flying.push(answered(self.send(place / parts, op, rest.ops), op, data, rest.keys));
        }
        while let Some(done) = flying.next().await {
            done?;
        }
        Ok(sent)
    }

    fn send(&self, shard: usize, op: Op, ops: OpsBuilder) -> Reply {
        let (lane, ops) = (&self.lanes[shard], ops.finish());
        if op == Op::Get { lane.read(ops) } else { lane.write(Write { ops: Some(ops), ..Write::default() }) }
    }

    /// Reads the sampled keys back.
    async fn check(&self, op: Op, data: &Data, books: &mut Books) -> Result<()> {
        let ledger = books.of(op);
        let kind = if op == Op::Append { OpKind::ListGet } else { OpKind::ValueGet };
        for (index, _) in ledger.sample() {
            let key = data.key(index);
            let mut batch = Batch::new(1);
            batch.ops.push(&packed::Op::new(kind, self.state, key));
            let shard = self.table.shard(self.table.key_group(key, None)?)?;
            let answer = self.lanes[shard].read(batch.ops.finish()).await?;
            let answers = Answers::decode(answer.answers.unwrap_or_default())?;
            let items: Vec<_> = answers.answer(0).items().collect();
            let last = items.last().map(|item| &item[..]);
            match op {
                Op::Append => ledger.check_list(data, index, items.len() as u64, last)?,
                _ => ledger.check(data, index, last)?,
            }
        }
        Ok(())
    }

    async fn close(self) {
        drop(self);
        tokio::time::sleep(CLOSE).await;
    }
}

impl Batch {
    fn new(ops: usize) -> Self {
        let bytes = ops * (KEY_BYTES + VALUE_BYTES);
        Self { ops: OpsBuilder::with_capacity(ops, bytes), keys: Vec::with_capacity(ops) }
    }
}

/// Waits for the answer to a batch and checks it.
async fn answered(reply: Reply, op: Op, data: &Data, keys: Vec<u32>) -> Result<()> {
    let answer = reply.await?;
    ensure!(!answer.duplicate, "a batch that was sent once is called a duplicate");
    if op != Op::Get {
        return Ok(());
    }
    let answers = Answers::decode(answer.answers.unwrap_or_default())?;
    ensure!(answers.len() == keys.len(), "{} answers to {} reads", answers.len(), keys.len());
    for (index, answer) in keys.into_iter().zip(answers.iter()) {
        data.check(index, answer.value().as_deref())?;
    }
    Ok(())
}
