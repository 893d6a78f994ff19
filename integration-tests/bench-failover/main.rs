//! `make bench`, last part: how long it takes until another coordinator leads, what callers notice of it, and until a server
//! that died serves again. docs/performance/failover.md tells how to read it.

mod moves;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use forebay_integration_tests::{
    bench::{arguments::Common, machine::Machine, rows::Rows},
    harness::{Api, Job, JobBuilder, Pair, raw, value},
};
use moves::Moves;
use tokio::{task::JoinSet, time::sleep};
use tonic::Code;

/// A third of it is the coordinators' lease.
const SERVER_LEASE: Duration = Duration::from_secs(6);
const LEASE: Duration = Duration::from_secs(2);
const CALLERS: u64 = 4;
const SHARDS: u32 = 8;
const VALUE_BYTES: usize = 1 << 10;
/// What a server that comes back has to read of its log takes this much longer, per MiB.
const PER_MIB: Duration = Duration::from_millis(25);

/// Measures what failures cost.
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    common: Common,
    /// MiB of unflushed log that a server comes back with [default: 64, or 1 with --quick].
    #[arg(long)]
    log: Option<u64>,
    /// MiB of the shard that is moved [default: 1024, or 16 with --quick].
    #[arg(long)]
    shard: Option<u64>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let out = args.common.out()?;
    println!("{}", Machine::look());
    let log = args.log.unwrap_or(args.common.or_quick(64, 1));
    let (mut takeovers, mut latencies) = (Vec::new(), Vec::new());
    let (mut first_writes, mut last_shards) = (Vec::new(), Vec::new());
    let mut pair = Pair::with(1, |_, setup| setup.set("coordinator.server_lease", "6s")).await;
    let job = job(&pair).await;
    let server = pair.servers[0].api();
    for run in 1..=args.common.runs {
        let (takeover, during, before) = takeover(&mut pair, &server, &job).await?;
        takeovers.push((takeover.as_secs_f64(), LEASE.as_secs_f64()));
        latencies.push((during, before));
        let (first, last) = server_back(&mut pair, &server, &job, log).await?;
        let allowed = Duration::from_secs(2) + PER_MIB * log as u32;
        first_writes.push((first.as_secs_f64(), 2.0));
        last_shards.push((last.as_secs_f64(), allowed.as_secs_f64()));
        eprintln!(
            "run {run}/{}: another leads after {takeover:.2?}, p99 {during:.2} ms beside {before:.2} ms; the server's first \
             write after {first:.2?}, its last shard after {last:.2?} of {allowed:.2?}",
            args.common.runs
        );
    }
    drop(pair);
    let shard = args.shard.unwrap_or(args.common.or_quick(1024, 16));
    let (moves, mut pauses) = (Moves::start(shard).await?, Vec::new());
    for run in 1..=args.common.runs {
        let (pause, took) = moves.once().await?;
        pauses.push((pause.as_secs_f64() * 1e3, 500.0));
        eprintln!(
            "run {run}/{}: a shard of {shard} MiB moved in {took:.2?}, its writer waited {pause:.2?}",
            args.common.runs
        );
    }
    moves.end().await?;
    let mut rows = Rows::default();
    rows.ratio("takeover_vs_lease", "s", "≤ 2", &takeovers);
    rows.ratio("takeover_p99_vs_before", "ms", "≤ 1.2", &latencies);
    rows.ratio("server_back_first_write_vs_2s", "s", "≤ 1", &first_writes);
    rows.ratio("server_back_last_shard_vs_allowed", "s", "≤ 1", &last_shards);
    rows.ratio("move_pause_vs_500ms", "ms", "≤ 1", &pauses);
    print!("{}", rows.table());
    println!(
        "bench-failover: runs {}, {log} MiB of log, {shard} MiB in the shard that moves, {}",
        args.common.runs,
        rows.write(&out)?.display()
    );
    Ok(())
}

async fn job(pair: &Pair) -> Job {
    let spec = JobBuilder::shared("job", SHARDS).with(|spec| spec.lease_ms = SERVER_LEASE.as_millis() as u64);
    let api = pair.coordinators[0].api();
    Job::create(&api, spec.build(), &[value("value")]).await
}

/// Kills the leader under traffic. Returns how long until the other one leads, and callers' p99 in milliseconds in that
/// time and in as long a time before.
async fn takeover(pair: &mut Pair, server: &Api, job: &Job) -> Result<(Duration, f64, f64)> {
    let (leader, _) = pair.leader().await;
    pair.standing_by(&format!("c{}", 1 - leader), leader).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        callers.spawn(call(server.clone(), job.clone(), caller, stop.clone()));
    }
    sleep(2 * LEASE).await;
    let killed = Instant::now();
    pair.coordinators[leader].kill().await;
    let (follows, _) = pair.leader().await;
    let took = killed.elapsed();
    ensure!(follows != leader, "a dead coordinator leads");
    stop.store(true, Ordering::Relaxed);
    let (mut during, mut before) = (Vec::new(), Vec::new());
    for calls in callers.join_all().await {
        for (began, latency) in calls? {
            if began >= killed {
                during.push(latency);
            } else if killed - began <= took {
                before.push(latency);
            }
        }
    }
    pair.coordinators[leader].restart().await;
    pair.linked(follows).await;
    Ok((took, p99(during)?, p99(before)?))
}

/// Reads and writes until it is stopped; every call has to succeed at once.
async fn call(server: Api, job: Job, caller: u64, stop: Arc<AtomicBool>) -> Result<Vec<(Instant, f64)>> {
    let mut calls = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let at = job.at("value", &format!("caller-{caller}-{}", number % 1000));
        let began = Instant::now();
        if number % 2 == 0 {
            server.put(at, raw(vec![1; 100])).await.context("a write while nobody leads")?;
        } else {
            server.get(at).await.context("a read while nobody leads")?;
        }
        calls.push((began, began.elapsed().as_secs_f64() * 1e3));
        sleep(Duration::from_millis(1)).await;
    }
    Ok(calls)
}

fn p99(mut latencies: Vec<f64>) -> Result<f64> {
    latencies.sort_by(f64::total_cmp);
    latencies.get(latencies.len() * 99 / 100).copied().context("nobody has called")
}

/// Kills the server with so many MiB of unflushed log. Returns how long after its start the first write was acknowledged,
/// and one on its last shard.
async fn server_back(pair: &mut Pair, server: &Api, job: &Job, log_mib: u64) -> Result<(Duration, Duration)> {
    let mut writers = JoinSet::new();
    for writer in 0..CALLERS {
        let (server, job) = (server.clone(), job.clone());
        writers.spawn(async move {
            for number in 0..(log_mib << 20) / VALUE_BYTES as u64 / CALLERS {
                let at = job.at("value", &format!("log-{writer}-{number}"));
                server.put(at, raw(vec![number as u8; VALUE_BYTES])).await?;
            }
            Ok::<_, tonic::Status>(())
        });
    }
    for written in writers.join_all().await {
        written?;
    }
    pair.servers[0].kill().await;
    let started = Instant::now();
    pair.servers[0].restart().await;
    let mut probes = JoinSet::new();
    // Enough keys that every shard has one.
    for number in 0..u64::from(SHARDS) * 8 {
        let (server, at) = (server.clone(), job.at("value", &format!("probe-{number}")));
        probes.spawn(async move {
            loop {
                match server.put(at.clone(), raw("there")).await {
                    Ok(_) => return Ok(started.elapsed()),
                    Err(status) if matches!(status.code(), Code::Unavailable | Code::NotFound | Code::Unknown) => {
                        sleep(Duration::from_millis(5)).await;
                    }
                    Err(status) => return Err(status),
                }
            }
        });
    }
    let back = probes.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let (first, last) = (back.iter().min(), back.iter().max());
    Ok((*first.context("no probe")?, *last.context("no probe")?))
}
