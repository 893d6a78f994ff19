//! `make bench`, last part: which threads do the work of shards. docs/performance/server.md tells what came of it.
//!
//! The data plane alone, without a network: the server's own [`Core`](forebay_server::shard::core::Core) takes batches
//! from tasks of a runtime with as many threads as a server of this machine has. All ways are measured one after the
//! other within a run, in an order that turns.

mod ways;

use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use forebay_integration_tests::{
    bench::{
        arguments::Common,
        data::Data,
        machine::Machine,
        rows::{NO_TARGET, Rows, percentile},
    },
    conformance::Kind,
};

use self::ways::{Ready, Way};

/// Measures which threads do the work of shards best.
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Number of keys of all shards together [default: 320000, or 10000 with --quick].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    keys: Option<u32>,
    /// Time of one measurement [default: 1000, or 20 with --quick].
    #[arg(long)]
    millis: Option<u64>,
    /// Numbers of shards.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=256), value_delimiter = ',', default_value = "2,16,64")]
    shards: Vec<u32>,
}

/// What one measurement found.
struct Found {
    ops_per_second: f64,
    /// Of a batch, from its sending to its answer; the 99th of a hundred, in microseconds.
    p99_us: f64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let keys = args.keys.unwrap_or(args.common.or_quick(320_000, 10_000));
    let duration = Duration::from_millis(args.millis.unwrap_or(args.common.or_quick(1_000, 20)));
    let mut machine = Machine::look();
    println!("{machine}");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut rows = Rows::default();
    for (kind, backend) in [(Kind::Memory, "memory"), (Kind::Rocks, "rocks")] {
        for &count in &args.shards {
            let ready = Ready::make(kind, count, &Data::new(keys / count))?;
            let mut found = Way::ALL.map(|_| Vec::new());
            for run in 0..args.common.runs {
                for turn in 0..Way::ALL.len() {
                    let way = (run + turn) % Way::ALL.len();
                    if !args.common.quick {
                        machine.settle(&[]);
                    }
                    found[way].push(measure(&runtime, &ready, Way::ALL[way], duration)?);
                }
            }
            let [own, others @ ..] = &found;
            for (way, other) in Way::ALL[1..].iter().zip(others) {
                let pairs = |of: fn(&Found) -> f64| own.iter().map(of).zip(other.iter().map(of)).collect::<Vec<_>>();
                let name = format!("{backend}_{count}_shards_vs_{}", way.name());
                rows.ratio(format!("threads_{name}"), "ops/s", NO_TARGET, &pairs(|found| found.ops_per_second));
                rows.ratio(format!("threads_p99_{name}"), "µs", NO_TARGET, &pairs(|found| found.p99_us));
            }
        }
    }
    machine.look_again();
    print!("{}", rows.table());
    let ratios = rows.write(&args.common.out()?)?;
    println!("bench-threads: runs {}, rows {}, {}", args.common.runs, rows.len(), ratios.display());
    Ok(())
}

fn measure(runtime: &tokio::runtime::Runtime, ready: &Ready, way: Way, duration: Duration) -> Result<Found> {
    let (operations, seconds, latencies) = runtime.block_on(ready.run(way, duration))?;
    let microseconds: Vec<_> = latencies.into_iter().map(|latency| latency.as_secs_f64() * 1e6).collect();
    Ok(Found { ops_per_second: operations as f64 / seconds, p99_us: percentile(&microseconds, 99) })
}
