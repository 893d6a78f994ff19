//! `make bench`, last part: the memory of a server that takes all it can get. docs/performance/server.md tells how to read it.

use std::time::Duration;

use anyhow::Result;
use bytesize::ByteSize;
use clap::Parser;
use forebay_integration_tests::bench::{arguments::Common, machine::Machine, rows::Rows, soak};

/// Measures the memory of a server under writes as fast as it takes them.
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    common: Common,
    /// The server's memory budget.
    #[arg(long, default_value = "512MiB")]
    budget: ByteSize,
    /// Seconds of one run [default: 60, or 2 with --quick].
    #[arg(long)]
    seconds: Option<u64>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let out = args.common.out()?;
    println!("{}", Machine::look());
    let duration = Duration::from_secs(args.seconds.unwrap_or(args.common.or_quick(60, 2)));
    let mut pairs = Vec::new();
    for run in 1..=args.common.runs {
        let soak = soak::run(args.budget, duration).await?;
        let soak::Soak { budget, peak, written, rate, checked } = &soak;
        eprintln!(
            "run {run}/{}: peak {peak} of {budget}, {written} written, {rate:.0} writes/s, {checked} keys checked",
            args.common.runs
        );
        pairs.push((peak.0 as f64, budget.0 as f64));
    }
    let mut rows = Rows::default();
    rows.ratio("resident_vs_budget", "bytes", "≤ 1.15", &pairs);
    print!("{}", rows.table());
    println!("bench-soak: runs {}, {}", args.common.runs, rows.write(&out)?.display());
    Ok(())
}
