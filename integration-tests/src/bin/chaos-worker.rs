//! The worker of a cluster under faults: counts the orders of the log's partitions whose shards it holds
//! ([`forebay_integration_tests::orders`]), and as a bank pays them, too.
//!
//! How far a partition is read is in its shard under `recovery: shard`, as in the sample worker, and worker state under
//! `recovery: job`. There every worker is handed all positions and goes on from those of the shards it is given.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Parser;
use forebay_client::{
    Assigned, Client, Error, List, MergeFunction, Reducing, Source, Value, Worker, WorkerState,
    codec::{I64, U64, Utf8},
    v1::Redistribution,
};
use forebay_integration_tests::{
    chaos::bank::{Payment, Payments},
    orders::JOB,
};
use forebay_proto::codec::Codec as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{sleep, sleep_until},
};

/// Per customer: number of orders.
const COUNTS: Reducing<Utf8, I64> = Reducing::new("counts", MergeFunction::SumI64);
/// Per customer: the lines they stand on, in order.
const ORDERS: List<Utf8, U64> = List::new("orders");
/// Per customer: what is on the account.
const BALANCES: Value<Utf8, I64> = Value::new("balances");
/// Per customer: the payments that came in, by number.
const RECEIVED: List<Utf8, U64> = List::new("received");
/// Name of the positions in the worker state: each is a partition and a line.
const POSITIONS: &str = "positions";
/// Lines of a partition before the next one has its turn.
const TURN: usize = 256;
const LOOK_AGAIN: Duration = Duration::from_millis(20);

#[derive(Debug, Parser)]
struct Args {
    /// Addresses of the coordinators, separated by commas.
    #[arg(long)]
    server: String,
    /// Folder of the partitions.
    #[arg(long)]
    log: PathBuf,
    /// Name of this worker.
    #[arg(long)]
    worker_id: String,
    /// Most lines a second.
    #[arg(long)]
    throttle: u32,
    /// Positions are worker state: `recovery: job`.
    #[arg(long)]
    rewinds: bool,
    /// Orders are paid.
    #[arg(long)]
    bank: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let client = Client::connect(&args.server).await?;
    let worker = client.worker(JOB, "count").id(&args.worker_id).state(&COUNTS).state(&ORDERS);
    let mut worker = worker.state(&BALANCES).state(&RECEIVED).join().await?;
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        let run = async {
            let assigned = worker.assigned().await?;
            process(&args, &mut worker, &assigned).await
        };
        let ended = tokio::select! { ended = run => ended, _ = terminate.recv() => break };
        match ended {
            // Back to a checkpoint, or another share of the partitions.
            Err(error) if error.downcast_ref().is_some_and(Error::is_rewound) => {}
            ended => return ended,
        }
    }
    Ok(worker.leave().await?)
}

/// Reads the partitions that the worker holds, until it is given others or goes back.
async fn process(args: &Args, worker: &mut Worker, assigned: &Assigned) -> Result<()> {
    let groups: Vec<_> = assigned.shards().flat_map(|shard| shard.start..shard.end).collect();
    let positions = assigned.worker_state().elements(POSITIONS).iter();
    let positions = positions.map(|bytes| position(bytes)).collect::<Result<HashMap<_, _>>>()?;
    let mut partitions = Vec::new();
    for group in &groups {
        let at = if args.rewinds {
            Position::OfWorker(positions.get(group).copied().unwrap_or(0))
        } else {
            Position::InShard(assigned.source_in::<U64>(*group, &format!("partition-{group}"))?)
        };
        partitions.push(Partition::open(&args.log, *group, at)?);
    }
    let payments = if args.rewinds { Payments::Across(groups) } else { Payments::Within };
    let (counts, orders) = (assigned.open(&COUNTS)?, assigned.open(&ORDERS)?);
    let (balances, received) = (assigned.open(&BALANCES)?, assigned.open(&RECEIVED)?);
    let (started, mut before) = (Instant::now(), 0);
    loop {
        let mut read = 0;
        for index in 0..partitions.len() {
            for _ in 0..TURN {
                // Between two records: flushes and checkpoints go through here.
                worker.boundary(|| worker_state(&partitions)).await?;
                let partition = &mut partitions[index];
                let Some(customer) = partition.next()? else { break };
                let (group, line) = (partition.group, partition.line);
                counts.key_group(group).add(&customer, &1).await?;
                orders.key_group(group).add(&customer, &line).await?;
                if args.bank {
                    let Payment { number, amount, to_group, to } = payments.of(group, line);
                    let account = balances.key_group(group);
                    let balance = account.get(&customer).await?.unwrap_or(0);
                    account.put(&customer, &(balance - amount)).await?;
                    let account = balances.key_group(to_group);
                    let balance = account.get(&to).await?.unwrap_or(0);
                    account.put(&to, &(balance + amount)).await?;
                    received.key_group(to_group).add(&to, &number).await?;
                }
                partitions[index].at.advance(line)?;
                read += 1;
            }
        }
        if read == 0 {
            worker.idle(|| worker_state(&partitions), sleep(LOOK_AGAIN)).await?;
        }
        before += read;
        let due = started + Duration::from_secs_f64(f64::from(before) / f64::from(args.throttle));
        worker.idle(|| worker_state(&partitions), sleep_until(due.into())).await?;
    }
}

/// What goes with a barrier: the positions that are not in the shards.
fn worker_state(partitions: &[Partition]) -> WorkerState {
    let positions = partitions.iter().filter_map(|partition| match partition.at {
        Position::OfWorker(line) => Some([partition.group.to_be_bytes().as_slice(), &line.to_be_bytes()].concat()),
        Position::InShard(_) => None,
    });
    let mut positions = positions.peekable();
    let state = WorkerState::new();
    if positions.peek().is_none() { state } else { state.list(POSITIONS, Redistribution::Union, positions) }
}

fn position(bytes: &[u8]) -> Result<(u32, u64)> {
    let (group, line) = bytes.split_at_checked(4).context("a position is a partition and a line")?;
    Ok((u32::from_be_bytes(group.try_into()?), U64::decode(line)?))
}

/// How far a partition is read.
enum Position {
    OfWorker(u64),
    InShard(Source<U64>),
}

impl Position {
    fn line(&self) -> u64 {
        match self {
            Self::OfWorker(line) => *line,
            Self::InShard(source) => source.position().unwrap_or(0),
        }
    }

    fn advance(&mut self, to: u64) -> Result<()> {
        match self {
            Self::OfWorker(line) => *line = to,
            Self::InShard(source) => source.advance(&to)?,
        }
        Ok(())
    }
}

/// A partition that is being read.
struct Partition {
    group: u32,
    at: Position,
    lines: BufReader<File>,
    /// What there is of the next line.
    part: String,
    /// Number of the line that was read last, from 1.
    line: u64,
}

impl Partition {
    /// Opens a partition behind the lines that are in the state.
    fn open(log: &Path, group: u32, at: Position) -> Result<Self> {
        let path = log.join(format!("{group}.log"));
        let lines = BufReader::new(File::open(&path).with_context(|| path.display().to_string())?);
        let (contained, mut partition) = (at.line(), Self { group, at, lines, part: String::new(), line: 0 });
        while partition.line < contained {
            partition.next()?.with_context(|| format!("{} is shorter than it was", path.display()))?;
        }
        Ok(partition)
    }

    fn next(&mut self) -> Result<Option<String>> {
        self.lines.read_line(&mut self.part)?;
        // The log grows meanwhile: half a line is none yet.
        let Some(customer) = self.part.strip_suffix('\n').map(str::to_owned) else { return Ok(None) };
        self.part.clear();
        self.line += 1;
        Ok(Some(customer))
    }
}
