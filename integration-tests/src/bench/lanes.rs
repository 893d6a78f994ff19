//! The packed stream of a bench: batches over one lane per shard, on one connection.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use forebay_client::{
    Client,
    raw::{LaneHandle, Reply, StreamClient, Write},
    routing::Table,
};
use forebay_proto::{
    packed::{Answers, Op, OpsBuilder},
    v1::OpKind,
};
use futures::{StreamExt as _, stream::FuturesUnordered};

use super::data::{Data, KEY_BYTES, VALUE_BYTES};

/// The state that lanes are used with, of the operator that [`crate::harness::JobBuilder`] makes.
pub const STATE: &str = "state";
const OPERATOR: &str = "op";
/// Operations of a batch that fills, and batches in flight.
const FILL_BATCH: usize = 1024;
const FILL_IN_FLIGHT: usize = 8;
/// Time for the last messages, which close the lanes, to leave.
const CLOSE: Duration = Duration::from_millis(5);

/// Lanes to all shards of a job.
pub struct Lanes {
    lanes: Vec<LaneHandle>,
    table: Table,
    state: u32,
}

/// A batch that is being filled, and the keys in it. It reads, or it writes.
pub struct Batch {
    ops: OpsBuilder,
    /// Indexes of the keys, in the order of the operations.
    pub keys: Vec<u32>,
}

impl Batch {
    /// An empty batch with room for so many operations.
    pub fn new(ops: usize) -> Self {
        let bytes = ops * (KEY_BYTES + VALUE_BYTES);
        Self { ops: OpsBuilder::with_capacity(ops, bytes), keys: Vec::with_capacity(ops) }
    }
}

impl Lanes {
    /// Opens a lane to every shard of a job, over a connection of their own.
    pub async fn open(url: &str, job: &str) -> Result<Self> {
        let stream = StreamClient::connect(&Client::connect(url).await?, job).await?;
        let (table, state) = (stream.table(OPERATOR)?, stream.state_id(OPERATOR, STATE)?);
        Ok(Self { lanes: stream.lanes(OPERATOR).await?, table, state })
    }

    /// Number of shards.
    pub fn len(&self) -> usize {
        self.lanes.len()
    }

    /// True if there is no shard.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// The shard that holds a key.
    pub fn shard(&self, key: &[u8]) -> Result<usize> {
        Ok(self.table.shard(self.table.key_group(key, None)?)?)
    }

    /// Adds a read to a batch.
    pub fn read(&self, batch: &mut Batch, kind: OpKind, data: &Data, index: u32) {
        batch.ops.push(&Op::new(kind, self.state, data.key(index)));
        batch.keys.push(index);
    }

    /// Adds a write of the value with this stamp to a batch.
    pub fn write(&self, batch: &mut Batch, kind: OpKind, data: &Data, index: u32, stamp: u64) {
        batch.ops.push(&Op::new(kind, self.state, data.key(index)).with_value(&data.value(index, stamp)));
        batch.keys.push(index);
    }

    /// Sends a batch of writes; the answer is awaited and checked by what is returned.
    pub fn send_writes(&self, shard: usize, batch: Batch) -> impl Future<Output = Result<()>> + use<> {
        let sent = self.lanes[shard].write(Write { ops: Some(batch.ops.finish()), ..Write::default() });
        written(sent)
    }

    /// Sends a batch of reads of values; the answers are awaited and checked by what is returned.
    pub fn send_reads<'a>(
        &self,
        shard: usize,
        batch: Batch,
        data: &'a Data,
    ) -> impl Future<Output = Result<()>> + use<'a> {
        read(self.lanes[shard].read(batch.ops.finish()), batch.keys, data)
    }

    /// Puts every key with stamp 0.
    pub async fn fill(&self, data: &Data) -> Result<()> {
        let mut filling: Vec<_> = (0..self.len()).map(|_| Batch::new(FILL_BATCH)).collect();
        let mut flying = FuturesUnordered::new();
        for index in 0..data.len() {
            let shard = self.shard(data.key(index))?;
            self.write(&mut filling[shard], OpKind::ValuePut, data, index, 0);
            if filling[shard].keys.len() == FILL_BATCH {
                if flying.len() == FILL_IN_FLIGHT {
                    flying.next().await.context("batches are in flight")??;
                }
                let full = std::mem::replace(&mut filling[shard], Batch::new(FILL_BATCH));
                flying.push(self.send_writes(shard, full));
            }
        }
        let rest = filling.into_iter().enumerate().filter(|(_, rest)| !rest.keys.is_empty());
        flying.extend(rest.map(|(shard, rest)| self.send_writes(shard, rest)));
        while let Some(done) = flying.next().await {
            done?;
        }
        Ok(())
    }

    /// Reads one key: its value, or its elements.
    pub async fn items(&self, kind: OpKind, key: &[u8]) -> Result<Vec<bytes::Bytes>> {
        let mut ops = OpsBuilder::new();
        ops.push(&Op::new(kind, self.state, key));
        let answer = self.lanes[self.shard(key)?].read(ops.finish()).await?;
        Ok(Answers::decode(answer.answers.unwrap_or_default())?.answer(0).items().collect())
    }

    /// Closes the lanes.
    pub async fn close(self) {
        drop(self);
        tokio::time::sleep(CLOSE).await;
    }
}

async fn written(sent: Reply) -> Result<()> {
    ensure!(!sent.await?.duplicate, "a batch that was sent once is called a duplicate");
    Ok(())
}

async fn read(sent: Reply, keys: Vec<u32>, data: &Data) -> Result<()> {
    let answers = Answers::decode(sent.await?.answers.unwrap_or_default())?;
    ensure!(answers.len() == keys.len(), "{} answers to {} reads", answers.len(), keys.len());
    for (index, answer) in keys.into_iter().zip(answers.iter()) {
        data.check(index, answer.value().as_deref())?;
    }
    Ok(())
}
