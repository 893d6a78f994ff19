//! `make bench`, last part: the memory of a server that takes all it can get. docs/performance/server.md tells how to read it.

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use bytesize::ByteSize;
use clap::Parser;
use forebay_integration_tests::bench::{
    machine::Machine,
    rows::{Rows, default_folder},
    soak,
};

/// Measures the memory of a server under writes as fast as it takes them.
#[derive(Debug, Parser)]
struct Args {
    /// Number of runs; the figure is the median over them.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// The server's memory budget.
    #[arg(long, default_value = "512MiB")]
    budget: ByteSize,
    /// Seconds of one run.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Folder for ratios.json, which is added to [default: bench, beside the folder of this binary].
    #[arg(long)]
    out: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.runs > 0, "--runs 0: at least one");
    let out = args.out.map_or_else(default_folder, Ok)?;
    println!("{}", Machine::look());
    let mut pairs = Vec::new();
    for run in 1..=args.runs {
        let soak = soak::run(args.budget, Duration::from_secs(args.seconds)).await?;
        let soak::Soak { budget, peak, written, rate, checked } = &soak;
        eprintln!(
            "run {run}/{}: peak {peak} of {budget}, {written} written, {rate:.0} writes/s, {checked} keys checked",
            args.runs
        );
        pairs.push((peak.0 as f64, budget.0 as f64));
    }
    let mut rows = Rows::default();
    rows.ratio("resident_vs_budget", "bytes", "≤ 1.15", &pairs);
    print!("{}", rows.table());
    println!("bench-soak: runs {}, {}", args.runs, rows.write(&out)?.display());
    Ok(())
}
