//! Keys, values, and a way to write many of them quickly: packed batches over one lane per shard.

use anyhow::{Context as _, Result};
use forebay_client::{
    Client,
    raw::{LaneHandle, StreamClient, Write},
    routing::Table,
};
use forebay_proto::{
    packed::{Op, OpsBuilder},
    v1::OpKind,
};
use futures::{StreamExt as _, stream::FuturesUnordered};

pub const VALUE_BYTES: usize = 1_000;
pub const STATE: &str = "state";
const OPERATOR: &str = "op";
/// Operations of a batch, and batches in flight per shard.
const BATCH: usize = 128;
const IN_FLIGHT: usize = 8;

/// The key of a number: spread over all key groups by its hash, and in no order.
pub fn key(number: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&mixed(number).to_be_bytes());
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

/// A value that does not compress, another one for every write.
pub fn value(write: u64) -> Vec<u8> {
    let mut value = Vec::with_capacity(VALUE_BYTES + 8);
    let mut word = write;
    while value.len() < VALUE_BYTES {
        word = mixed(word);
        value.extend_from_slice(&word.to_le_bytes());
    }
    value.truncate(VALUE_BYTES);
    value
}

/// The key number of the n-th write: each once in a round, then anew, in an order that looks random.
pub fn spread(write: u64, keys: u64) -> u64 {
    if write < keys { write } else { mixed(write) % keys }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Lanes to all shards of a job.
pub struct Loader {
    lanes: Vec<LaneHandle>,
    table: Table,
    states: Vec<u32>,
    /// Writes so far; each has a value of its own.
    pub writes: u64,
}

impl Loader {
    pub async fn open(url: &str, job: &str, states: &[String]) -> Result<Self> {
        let stream = StreamClient::connect(&Client::connect(url).await?, job).await?;
        let states = states.iter().map(|state| stream.state_id(OPERATOR, state)).collect::<Result<_, _>>()?;
        let table = stream.table(OPERATOR)?;
        Ok(Self { lanes: stream.lanes(OPERATOR).await?, table, states, writes: 0 })
    }

    /// Writes the values of these keys, into each state in turn; returns once all are acknowledged.
    pub async fn write(&mut self, keys: impl IntoIterator<Item = u64>) -> Result<u64> {
        let mut filling: Vec<_> = self.lanes.iter().map(|_| (OpsBuilder::new(), 0)).collect();
        let (mut flying, mut written) = (FuturesUnordered::new(), 0);
        for number in keys {
            let key = key(number);
            let shard = self.table.shard(self.table.key_group(&key, None)?)?;
            let state = self.states[usize::try_from(number)? % self.states.len()];
            self.writes += 1;
            written += 1;
            let full = &mut filling[shard];
            full.0.push(&Op::new(OpKind::ValuePut, state, &key).with_value(&value(self.writes)));
            full.1 += 1;
            if full.1 == BATCH {
                if flying.len() == IN_FLIGHT * self.lanes.len() {
                    flying.next().await.context("batches are in flight")??;
                }
                let (ops, _) = std::mem::replace(full, (OpsBuilder::new(), 0));
                flying.push(self.lanes[shard].write(Write { ops: Some(ops.finish()), ..Write::default() }));
            }
        }
        for (shard, (ops, _)) in filling.into_iter().enumerate().filter(|(_, (_, count))| *count > 0) {
            flying.push(self.lanes[shard].write(Write { ops: Some(ops.finish()), ..Write::default() }));
        }
        while let Some(done) = flying.next().await {
            done?;
        }
        Ok(written)
    }
}
