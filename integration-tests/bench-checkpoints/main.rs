//! `make bench`, second part: what checkpoints and restores cost. docs/performance/checkpoints.md tells how to read it.
//!
//! Each scene measures one thing as often as runs were asked for, and checks that the state is what it should be.
//! Figures of two sides are taken one after the other within a run.

mod load;
mod pause;
mod scenes;
mod stand;

use std::{path::PathBuf, time::Instant};

use anyhow::{Context as _, Result};
use clap::Parser;

use forebay_integration_tests::bench::{arguments::Common, plot, rows::Rows};

/// Measures checkpoints and restores.
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Only the scenes whose name contains this: pause, incremental, throughput, amplification, puts, download, split.
    #[arg(long, default_value = "")]
    only: String,
    /// Folder for plots.
    #[arg(long)]
    plots: Option<PathBuf>,
}

/// How large the scenes are.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Times that each figure is taken.
    pub runs: usize,
    quick: bool,
}

impl Scale {
    /// Bytes of a state of so many thousandths of a gigabyte.
    pub fn bytes(self, thousandths: u64) -> u64 {
        thousandths * if self.quick { 1_000 } else { 1_000_000 }
    }

    /// Seconds of a measurement under load.
    pub fn seconds(self, seconds: f64) -> std::time::Duration {
        std::time::Duration::from_secs_f64(if self.quick { seconds / 20.0 } else { seconds })
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let out = args.common.out()?;
    let scale = Scale { runs: args.common.runs, quick: args.common.quick };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (started, mut rows) = (Instant::now(), Rows::default());
    let wanted = |name: &str| name.contains(&args.only);
    if wanted("pause") {
        pause::measure(scale, &mut rows)?;
    }
    runtime.block_on(async {
        if wanted("incremental") {
            scenes::incremental(scale, &mut rows).await.context("incremental")?;
        }
        if wanted("throughput") {
            scenes::throughput(scale, &mut rows).await.context("throughput")?;
        }
        if wanted("amplification") {
            scenes::amplification(scale, &mut rows).await.context("amplification")?;
        }
        if wanted("puts") {
            scenes::puts(scale, &mut rows).await.context("puts")?;
        }
        if wanted("download") {
            scenes::download(scale, &mut rows).await.context("download")?;
        }
        if wanted("split") {
            scenes::split(scale, &mut rows).await.context("split")?;
        }
        anyhow::Ok(())
    })?;
    print!("{}", rows.table());
    let ratios = rows.write(&out)?;
    if let Some(folder) = &args.plots {
        plot::write(&rows, folder)?;
    }
    let seconds = started.elapsed().as_secs();
    println!("bench-checkpoints: runs {}, rows {}, {seconds} s, {}", args.common.runs, rows.len(), ratios.display());
    Ok(())
}
