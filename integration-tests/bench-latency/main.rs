//! `make bench`, fifth part: latency at fixed rates. docs/performance/latency.md tells how to read it.
//!
//! Puts and gets in equal parts, of single keys, come at fixed moments to Forebay's packed stream and to redis-server,
//! each with and without a log. All sides of a rate take turns within a run, in an order that turns.

mod forebay;
mod pace;
mod redis;

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Parser;
use forebay_integration_tests::{
    bench::{
        arguments::Common,
        data::{Data, Ledger, Random},
        machine::Machine,
        plot::{self, Curve},
        redis::RedisServer,
        rows::{NO_TARGET, Rows, median},
    },
    harness::Setup,
};
use hdrhistogram::Histogram;

use self::pace::{Measured, Pace};

const SEED: u64 = 2_013;
/// Operations per second.
const RATES: [u32; 4] = [1_000, 10_000, 50_000, 100_000];
/// What is told of a distribution, and how it is called in an id.
const PERCENTILES: [(f64, &str); 5] = [(50.0, "p50"), (90.0, "p90"), (99.0, "p99"), (99.9, "p999"), (100.0, "max")];

/// Measures latency at fixed rates.
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Number of keys [default: 1000000, or 20000 with --quick].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1_000..=100_000_000))]
    keys: Option<u32>,
    /// Time of one measurement [default: 5000, or 100 with --quick].
    #[arg(long)]
    millis: Option<u64>,
    /// Only sides whose name contains this: memory, rocks, redis, redis_aof.
    #[arg(long, default_value = "")]
    only: String,
    /// Only this rate, in operations per second; say it again for more [default: 1000, 10000, 50000 and 100000].
    #[arg(long = "rate", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rates: Vec<u32>,
    /// Folder for plots.
    #[arg(long)]
    plots: Option<PathBuf>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// Forebay, state in memory.
    Memory,
    /// Forebay, state in RocksDB, durability `wal`.
    Rocks,
    /// redis-server that keeps nothing on disk.
    Redis,
    /// redis-server with an append-only file, synced every second.
    RedisAof,
}

impl Side {
    const ALL: [Self; 4] = [Self::Memory, Self::Rocks, Self::Redis, Self::RedisAof];

    /// Its name in an id, and that of its job.
    fn id(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Rocks => "rocks",
            Self::Redis => "redis",
            Self::RedisAof => "redis_aof",
        }
    }

    /// What it is called by people, with the durability of an acknowledged write.
    fn label(self) -> &'static str {
        match self {
            Self::Memory => "Forebay, memory (none)",
            Self::Rocks => "Forebay, RocksDB (wal)",
            Self::Redis => "redis-server (none)",
            Self::RedisAof => "redis-server (everysec)",
        }
    }
}

/// The operation of a number: its key, drawn from all, and whether it reads.
fn draw(number: u64, data: &Data, random: &mut Random) -> (u32, bool) {
    (random.below(data.len()), number % 2 == 1)
}

fn main() -> Result<()> {
    let args = Args::parse();
    let keys = args.keys.unwrap_or(args.common.or_quick(1_000_000, 20_000));
    let duration = Duration::from_millis(args.millis.unwrap_or(args.common.or_quick(5_000, 100)));
    let out = args.common.out()?;
    let rates = if args.rates.is_empty() { RATES.to_vec() } else { args.rates.clone() };
    let sides: Vec<_> = Side::ALL.into_iter().filter(|side| side.id().contains(&args.only)).collect();
    let (started, mut machine) = (Instant::now(), Machine::look());
    println!("{machine}");
    let data = Data::new(keys);
    let mut peers = Peers::start(args.common.forebay(), &data)?;
    let (mut rows, mut table) = (Rows::default(), String::from(HEAD));
    for rate in rates {
        let scene = scene(&args, Pace { rate, duration }, &sides, &mut peers, &machine)?;
        scene.add_to(&mut rows);
        table += &scene.table();
        if let Some(folder) = &args.plots {
            scene.plot(folder)?;
        }
    }
    machine.look_again();
    print!("{table}");
    let ratios = rows.write(&out)?;
    println!("load average after: {}", machine.load_after());
    let seconds = started.elapsed().as_secs();
    println!(
        "bench-latency: runs {}, rows {}, keys {keys}, {seconds} s, {}",
        args.common.runs,
        rows.len(),
        ratios.display()
    );
    Ok(())
}

/// All servers, and what must be found in each.
struct Peers<'a> {
    data: &'a Data,
    forebay: forebay::Server,
    redis: RedisServer,
    redis_aof: RedisServer,
    ledgers: [Ledger; 4],
    random: Random,
}

impl<'a> Peers<'a> {
    /// Starts the servers and puts every key into each.
    fn start(setup: Setup, data: &'a Data) -> Result<Self> {
        Ok(Self {
            data,
            forebay: forebay::Server::start(setup, data, &[Side::Memory.id(), Side::Rocks.id()])?,
            redis: redis::start(data, false)?,
            redis_aof: redis::start(data, true)?,
            ledgers: Side::ALL.map(|_| Ledger::new(data.len())),
            random: Random::new(SEED),
        })
    }

    fn processes(&self) -> [u32; 3] {
        [self.forebay.process_id(), self.redis.process_id(), self.redis_aof.process_id()]
    }

    fn measure(&mut self, side: Side, pace: Pace) -> Result<Measured> {
        let (data, ledger, random) = (self.data, &mut self.ledgers[side as usize], &mut self.random);
        match side {
            Side::Memory | Side::Rocks => self.forebay.measure(side.id(), pace, data, ledger, random),
            Side::Redis => redis::measure(&self.redis, pace, data, ledger, random),
            Side::RedisAof => redis::measure(&self.redis_aof, pace, data, ledger, random),
        }
    }
}

/// What was measured at one rate: the runs of each side.
struct Scene {
    rate: u32,
    sides: Vec<(Side, Vec<Measured>)>,
}

fn scene(args: &Args, pace: Pace, sides: &[Side], peers: &mut Peers<'_>, machine: &Machine) -> Result<Scene> {
    let mut measured: Vec<(Side, Vec<Measured>)> = sides.iter().map(|side| (*side, Vec::new())).collect();
    let len = measured.len();
    for run in 0..args.common.runs {
        for turn in 0..len {
            let (side, runs) = &mut measured[(run + turn) % len];
            if !args.common.quick {
                machine.settle(&peers.processes());
            }
            let of_run = peers.measure(*side, pace).with_context(|| format!("{} at {}/s", side.id(), pace.rate))?;
            let p99 = of_run.latencies.value_at_quantile(0.99) as f64 / 1e3;
            let (id, rate, kept) = (side.id(), of_run.rate, if of_run.kept_up { "" } else { ", not kept up" });
            eprintln!("run {}/{}: {}/s {id}: p99 {p99:.0} µs, {rate:.0}/s{kept}", run + 1, args.common.runs, pace.rate);
            runs.push(of_run);
        }
    }
    Ok(Scene { rate: pace.rate, sides: measured })
}

const HEAD: &str = "\
| rate, ops/s | side (durability) | p50, µs | p90 | p99 | p99.9 | max |\n|--:|---|--:|--:|--:|--:|--:|\n";

impl Scene {
    /// True if a side kept up in most of its runs; otherwise its latencies say nothing but how long the run was.
    fn kept_up(runs: &[Measured]) -> bool {
        2 * runs.iter().filter(|run| run.kept_up).count() > runs.len()
    }

    fn kept(&self) -> impl Iterator<Item = (Side, &[Measured])> {
        let sides = self.sides.iter().map(|(side, runs)| (*side, runs.as_slice()));
        sides.filter(|(_, runs)| Self::kept_up(runs))
    }

    fn add_to(&self, rows: &mut Rows) {
        let thousands = self.rate as f64 / 1e3;
        for (side, runs) in self.kept() {
            for (percentile, name) in PERCENTILES {
                let id = format!("latency_{thousands}k_{}_{name}", side.id());
                rows.absolute(id, "µs", "", runs.iter().map(|run| micros(&run.latencies, percentile)).collect());
            }
        }
        for (ours, theirs) in [(Side::Memory, Side::Redis), (Side::Rocks, Side::RedisAof)] {
            let of = |side| self.kept().find(|(known, _)| *known == side);
            let (Some((_, our_runs)), Some((_, their_runs))) = (of(ours), of(theirs)) else { continue };
            for (percentile, name) in &PERCENTILES[..4] {
                let pair = |(ours, theirs): (&Measured, &Measured)| {
                    (micros(&ours.latencies, *percentile), micros(&theirs.latencies, *percentile))
                };
                let pairs: Vec<_> = our_runs.iter().zip(their_runs).map(pair).collect();
                let id = format!("latency_{thousands}k_{}_vs_{}_{name}", ours.id(), theirs.id());
                rows.ratio(id, "µs", NO_TARGET, &pairs);
            }
        }
    }

    fn table(&self) -> String {
        let mut table = String::new();
        for (side, runs) in &self.sides {
            let _ = write!(table, "| {} | {} |", self.rate, side.label());
            if Self::kept_up(runs) {
                for (percentile, _) in PERCENTILES {
                    let of_runs: Vec<_> = runs.iter().map(|run| micros(&run.latencies, percentile)).collect();
                    let _ = write!(table, " {:.0} |", median(&of_runs));
                }
            } else {
                let rates: Vec<_> = runs.iter().map(|run| run.rate).collect();
                let _ = write!(table, " not kept up: {:.0}/s | | | | |", median(&rates));
            }
            table.push('\n');
        }
        table
    }

    /// A curve per side that kept up, through the latencies of all its runs.
    fn plot(&self, folder: &Path) -> Result<()> {
        let mut curves = Vec::new();
        for (side, runs) in &self.sides {
            let mut all = Histogram::<u64>::new_from(&runs[0].latencies);
            runs.iter().try_for_each(|run| all.add(&run.latencies))?;
            let points = all.iter_quantiles(10).map(|at| (at.percentile(), at.value_iterated_to() as f64 / 1e3));
            // The colours stay with the sides.
            curves.push(match Self::kept_up(runs) {
                true => Curve { name: side.label().into(), points: points.collect() },
                false => Curve { name: format!("{} –", side.label()), points: Vec::new() },
            });
        }
        let unit = format!("latency at {} operations a second, µs", self.rate);
        plot::save(folder, &format!("latency-{}k", self.rate as f64 / 1e3), &plot::curves(&unit, &curves))
    }
}

fn micros(latencies: &Histogram<u64>, percentile: f64) -> f64 {
    latencies.value_at_percentile(percentile) as f64 / 1e3
}
