//! Writes as fast as a server takes them, to many shards and states, and looks at the memory it takes.

use std::{
    collections::HashMap,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bytesize::ByteSize;
use forebay_client::{
    Client,
    raw::{LaneHandle, Reply, StreamClient, Write},
};
use forebay_proto::{
    packed::{self, Answers, OpsBuilder},
    v1::{self, OpKind},
};
use futures::{StreamExt as _, stream::FuturesUnordered};

use super::data::Random;
use crate::harness::{Forebay, Job, JobBuilder, Setup, value};

const SHARDS: u32 = 64;
const STATES: usize = 20;
/// Keys of each state.
const KEYS: u32 = 500_000;
/// Operations of a batch, and batches on their way: more than the server has threads for.
const BATCH: usize = 128;
const IN_FLIGHT: usize = 64;
/// One key in so many is read back at the end.
const SAMPLED: u32 = 997;
/// Time between two checkpoints.
const CHECKPOINTS: Duration = Duration::from_secs(2);
const OPERATOR: &str = "op";
const SEED: u64 = 64_020;

/// What came of it.
#[derive(Debug)]
pub struct Soak {
    /// The memory budget.
    pub budget: ByteSize,
    /// Most memory that the process had at any time, as the kernel tells it (`VmHWM`).
    pub peak: ByteSize,
    /// Bytes of keys and values that were acknowledged.
    pub written: ByteSize,
    /// Writes per second.
    pub rate: f64,
    /// Keys that were read back.
    pub checked: usize,
}

impl Soak {
    /// The peak divided by the budget.
    pub fn ratio(&self) -> f64 {
        self.peak.0 as f64 / self.budget.0 as f64
    }
}

/// Starts a server with a memory budget, writes to its RocksDB backends for so long, and reads a sample back.
pub async fn run(budget: ByteSize, duration: Duration) -> Result<Soak> {
    let setup = Setup::dev().set("memory.budget", &budget.to_string()).set("telemetry.log", "warn");
    let forebay = setup.start().await;
    let names: Vec<_> = (0..STATES).map(|state| format!("s{state:02}")).collect();
    let states: Vec<_> = names.iter().map(|name| value(name)).collect();
    let spec = JobBuilder::shared("soak", SHARDS).with(|spec| {
        spec.checkpoints.get_or_insert_default().interval_ms = Some(CHECKPOINTS.as_millis() as u64);
    });
    Job::create(&forebay.api(), spec.build(), &states).await;
    let stream = StreamClient::connect(&Client::connect(&forebay.url()).await?, "soak").await?;
    let states = names.iter().map(|name| stream.state_id(OPERATOR, name)).collect::<Result<Vec<_>, _>>()?;
    let (lanes, table) = (stream.lanes(OPERATOR).await?, stream.table(OPERATOR)?);
    let shard_of = |key: &[u8]| anyhow::Ok(table.shard(table.key_group(key, None)?)?);

    // Every table is made before the clock runs: RocksDB syncs its list of tables with each.
    for (shard, lane) in lanes.iter().enumerate() {
        let key =
            (0..).map(|number| format!("first-{number}")).find(|key| shard_of(key.as_bytes()).ok() == Some(shard));
        let key = key.context("every shard has keys")?;
        let mut ops = OpsBuilder::new();
        for state in &states {
            ops.push(&packed::Op::new(OpKind::ValuePut, *state, key.as_bytes()).with_value(b"first"));
        }
        write(lane, &mut ops).await?;
    }

    let (mut random, mut expected, mut stamp) = (Random::new(SEED), HashMap::new(), 0_u64);
    let mut filling: Vec<_> = lanes.iter().map(|_| OpsBuilder::new()).collect();
    let mut flying: FuturesUnordered<Reply> = FuturesUnordered::new();
    let (mut written, mut writes, begun) = (0, 0_u64, Instant::now());
    while writes % BATCH as u64 != 0 || begun.elapsed() < duration {
        let (state, index) = (random.below(STATES as u32) as usize, random.below(KEYS));
        let key = format!("key-{index:012}");
        stamp += 1;
        let value = value_of(stamp, &mut random);
        if index % SAMPLED == 0 {
            expected.insert((state, index), stamp);
        }
        let shard = shard_of(key.as_bytes())?;
        let put = packed::Op::new(OpKind::ValuePut, states[state], key.as_bytes());
        filling[shard].push(&put.with_value(&value));
        (written, writes) = (written + key.len() + value.len(), writes + 1);
        if filling[shard].len() == BATCH {
            if flying.len() == IN_FLIGHT {
                flying.next().await.context("batches are on their way")??;
            }
            flying.push(write(&lanes[shard], &mut filling[shard]));
        }
    }
    for (lane, ops) in lanes.iter().zip(&mut filling).filter(|(_, ops)| !ops.is_empty()) {
        flying.push(write(lane, ops));
    }
    while let Some(done) = flying.next().await {
        done?;
    }
    let rate = writes as f64 / begun.elapsed().as_secs_f64();
    for (&(state, index), &stamp) in &expected {
        let key = format!("key-{index:012}");
        let mut ops = OpsBuilder::new();
        ops.push(&packed::Op::new(OpKind::ValueGet, states[state], key.as_bytes()));
        let answer = lanes[shard_of(key.as_bytes())?].read(ops.finish()).await?;
        let answers = Answers::decode(answer.answers.unwrap_or_default())?;
        let found = answers.answer(0).value().context("a key that was written is there")?;
        let read = found.first_chunk().map(|stamp| u64::from_le_bytes(*stamp));
        ensure!(read == Some(stamp), "key {index} of state {state} holds write {read:?}, not {stamp}");
    }
    let completed = forebay.api().checkpoints("soak").await?.completed;
    ensure!(!completed.is_empty(), "no checkpoint was completed meanwhile");
    let peak = peak(&forebay)?;
    Ok(Soak { budget, peak, written: ByteSize(written as u64), rate, checked: expected.len() })
}

/// Most memory that a process had at any time.
pub fn peak(forebay: &Forebay) -> Result<ByteSize> {
    let status = fs::read_to_string(format!("/proc/{}/status", forebay.process().id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("the kernel tells the peak")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(ByteSize::kib(kib))
}

fn write(lane: &LaneHandle, ops: &mut OpsBuilder) -> Reply {
    let ops: v1::PackedOps = std::mem::take(ops).finish();
    lane.write(Write { ops: Some(ops), ..Write::default() })
}

/// 100 to 355 bytes that begin with the stamp and do not compress.
fn value_of(stamp: u64, random: &mut Random) -> Vec<u8> {
    let length = 100 + random.below(256) as usize;
    let mut value = stamp.to_le_bytes().to_vec();
    while value.len() < length {
        value.extend(random.draw().to_le_bytes());
    }
    value.truncate(length);
    value
}
