//! Orders per customer over the partitions of a log, exactly once: kill any worker, start more, nothing is taken back.
//!
//! ```sh
//! forebay dev &
//! cargo run --release -p forebay-client --example partitions -- --log orders --worker-id a &
//! cargo run --release -p forebay-client --example partitions -- --log orders --worker-id b
//! ```
//!
//! The log is a folder with a file per partition, `0.log` to `7.log`, a customer a line; it may grow meanwhile. A
//! partition is a key group, as with a broker that has partitioned by its own hash. How far each is read is kept in its
//! shard, in one atomic write with what was counted (`recovery: shard`), so whoever gets a partition goes on exactly
//! where the state is.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Parser;
use forebay_client::{
    Assigned, Client, Error, List, MergeFunction, Reducing, Source, Worker, WorkerState,
    codec::{I64, U64, Utf8},
    v1::{JobSpec, Operator, Partitioner, Recovery},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{sleep, sleep_until},
};

const PARTITIONS: u32 = 8;
/// Per customer: number of orders.
const COUNTS: Reducing<Utf8, I64> = Reducing::new("counts", MergeFunction::SumI64);
/// Per customer: the lines they stand on, in order.
const ORDERS: List<Utf8, U64> = List::new("orders");
/// Lines of a partition before the next one has its turn.
const TURN: usize = 256;
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Orders per customer, kept in Forebay.
#[derive(Debug, Parser)]
struct Args {
    /// Address of the coordinator; several are separated by commas.
    #[arg(long, default_value = "http://127.0.0.1:7400")]
    server: String,
    /// Folder of the partitions.
    #[arg(long)]
    log: PathBuf,
    /// Name of the job; it is created if there is none.
    #[arg(long, default_value = "orders")]
    job: String,
    /// Name of this worker; a later one of the same name takes its place.
    #[arg(long, default_value = "worker-1")]
    worker_id: String,
    /// Most lines a second.
    #[arg(long)]
    throttle: Option<u32>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let client = Client::connect(&args.server).await?;
    let count = Operator { name: "count".into(), shards: PARTITIONS, source: true, ..Operator::default() };
    let mut spec =
        JobSpec { name: args.job.clone(), max_parallelism: PARTITIONS, operators: vec![count], ..JobSpec::default() };
    spec.set_partitioner(Partitioner::Explicit);
    spec.set_recovery(Recovery::Shard);
    client.ensure_job(spec).await?;
    let worker = client.worker(&args.job, "count").id(&args.worker_id);
    let mut worker = worker.state(&COUNTS).state(&ORDERS).join().await?;
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        let run = async {
            let assigned = worker.assigned().await?;
            process(&args, &mut worker, &assigned).await
        };
        let ended = tokio::select! { ended = run => ended, _ = terminate.recv() => break };
        match ended {
            // Another share of the partitions: some were taken away or given.
            Err(error) if error.downcast_ref().is_some_and(Error::is_rewound) => {}
            ended => return ended,
        }
    }
    // What is counted and not sent goes with this; nobody reads it again.
    Ok(worker.leave().await?)
}

/// Reads the partitions that the worker holds, until it is given others.
async fn process(args: &Args, worker: &mut Worker, assigned: &Assigned) -> Result<()> {
    let groups = assigned.shards().flat_map(|shard| shard.start..shard.end);
    let mut partitions = groups.map(|group| Partition::open(assigned, &args.log, group)).collect::<Result<Vec<_>>>()?;
    let groups: Vec<_> = partitions.iter().map(|partition| partition.group).collect();
    println!("partitions: {groups:?}");
    let (counts, orders) = (assigned.open(&COUNTS)?, assigned.open(&ORDERS)?);
    let (started, mut before) = (Instant::now(), 0);
    loop {
        let mut read = 0;
        for partition in &mut partitions {
            let (counts, orders) = (counts.key_group(partition.group), orders.key_group(partition.group));
            for _ in 0..TURN {
                let Some(customer) = partition.next()? else { break };
                // Between two records: flushes and checkpoints go through here.
                worker.boundary(WorkerState::new).await?;
                counts.add(&customer, &1).await?;
                orders.add(&customer, &partition.line).await?;
                partition.source.advance(&partition.line)?;
                read += 1;
            }
        }
        if read == 0 {
            worker.idle(WorkerState::new, sleep(LOOK_AGAIN)).await?;
        }
        before += read;
        if let Some(throttle) = args.throttle {
            let due = started + Duration::from_secs_f64(f64::from(before) / f64::from(throttle));
            worker.idle(WorkerState::new, sleep_until(due.into())).await?;
        }
    }
}

/// A partition that is being read.
struct Partition {
    group: u32,
    source: Source<U64>,
    lines: BufReader<File>,
    /// What there is of the next line.
    part: String,
    /// Number of the line that was read last, from 1.
    line: u64,
}

impl Partition {
    /// Opens a partition behind the lines that its shard contains.
    fn open(assigned: &Assigned, log: &Path, group: u32) -> Result<Self> {
        let path = log.join(format!("{group}.log"));
        let lines = BufReader::new(File::open(&path).with_context(|| path.display().to_string())?);
        let source = assigned.source_in::<U64>(group, &format!("partition-{group}"))?;
        let contained = source.position().unwrap_or(0);
        let mut partition = Self { group, source, lines, part: String::new(), line: 0 };
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
