//! `make bench`, third part: remote state beside local state. docs/performance/local.md tells how to read it.
//!
//! Read-modify-write by one worker: of the SDK, whose state is on a server of its own; and by loops whose state is in
//! a RocksDB within the process, as a Flink task has it, without and with the SDK's cache before it, or in a hash map,
//! which is lost with the process. All sides of a scene are measured one after the other within a run, in an order that
//! turns.

mod delay;
mod echo;
mod local;
mod map;
mod remote;
mod work;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Parser;
use forebay_integration_tests::bench::{
    arguments::Common,
    data::{Data, Random},
    machine::Machine,
    plot,
    rows::Rows,
};

use self::{
    local::Local,
    map::Map,
    remote::{Remote, Stand},
    work::{Keys, Work},
};

const SEED: u64 = 2_013;

/// Measures remote state beside local state.
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Number of keys [default: 1000000, or 20000 with --quick]. The hot scene takes a tenth of them.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1_000..=100_000_000))]
    keys: Option<u32>,
    /// Time of one measurement [default: 3000, or 30 with --quick].
    #[arg(long)]
    millis: Option<u64>,
    /// Only the scenes whose name contains this: hot, zipf, cold, unary.
    #[arg(long, default_value = "")]
    only: String,
    /// Only sides whose name contains this: remote, far, uncached, embedded, twin, map. Rows need both of their sides.
    #[arg(long, default_value = "")]
    side: String,
    /// Folder for plots.
    #[arg(long)]
    plots: Option<PathBuf>,
}

fn main() -> Result<()> {
    if std::env::args().nth(1).is_some_and(|first| first == echo::SERVE) {
        return echo::serve();
    }
    let args = Args::parse();
    let keys = args.keys.unwrap_or(args.common.or_quick(1_000_000, 20_000));
    let duration = Duration::from_millis(args.millis.unwrap_or(args.common.or_quick(3_000, 30)));
    let out = args.common.out()?;
    let (started, mut machine) = (Instant::now(), Machine::look());
    println!("{machine}");
    let data = Data::new(keys);
    let mut random = Random::new(SEED);
    let mut rows = Rows::default();
    for keys in Keys::ALL.into_iter().filter(|keys| keys.name().contains(&args.only)) {
        let work = Work::new(keys, &data, &mut random, duration);
        scene(&args, &work, &mut rows, &machine).with_context(|| keys.name())?;
    }
    if "unary".contains(&args.only) {
        echo::measure(args.common.forebay(), &data, args.common.runs, args.common.or_quick(5_000, 200), &mut rows)?;
    }
    machine.look_again();
    print!("{}", rows.table());
    let ratios = rows.write(&out)?;
    if let Some(folder) = &args.plots {
        plot::save(folder, "local", &plot::ratios(&rows.ratios()))?;
    }
    println!("load average after: {}", machine.load_after());
    let seconds = started.elapsed().as_secs();
    println!(
        "bench-local: runs {}, rows {}, keys {keys}, {seconds} s, {}",
        args.common.runs,
        rows.len(),
        ratios.display()
    );
    Ok(())
}

/// One side of a scene.
trait Side {
    /// Returns records per second.
    fn measure(&mut self, work: &Work<'_>) -> Result<f64>;
}

/// Measures all sides with one distribution of keys.
fn scene(args: &Args, work: &Work<'_>, rows: &mut Rows, machine: &Machine) -> Result<()> {
    let wanted = |name: &str| name.contains(&args.side);
    let start = |far| Stand::start(args.common.forebay(), far);
    let (near, far) = (start(false)?, start(true)?);
    let mut sides: Vec<(&str, Box<dyn Side + '_>, Vec<f64>)> = Vec::new();
    if wanted("remote") {
        sides.push(("remote", Box::new(Remote::join(&near, "cached", work, work.cache_bytes())?), Vec::new()));
    }
    if wanted("far") {
        sides.push(("far", Box::new(Remote::join(&far, "cached", work, work.cache_bytes())?), Vec::new()));
    }
    if wanted("uncached") && work.keys == Keys::Hot {
        sides.push(("uncached", Box::new(Remote::join(&near, "uncached", work, 1)?), Vec::new()));
    }
    if wanted("embedded") {
        sides.push(("embedded", Box::new(Local::open(work, None)?), Vec::new()));
    }
    if wanted("twin") && work.keys == Keys::Hot {
        sides.push(("twin", Box::new(Local::open(work, Some(work.cache_bytes()))?), Vec::new()));
    }
    if wanted("map") {
        sides.push(("map", Box::new(Map::fill(work)), Vec::new()));
    }
    let processes = [near.process_id(), far.process_id()];
    for run in 0..args.common.runs {
        let len = sides.len();
        for turn in 0..len {
            let (name, side, rates) = &mut sides[(run + turn) % len];
            if !args.common.quick {
                machine.settle(&processes);
            }
            let rate = side.measure(work).with_context(|| format!("{name}, run {}", run + 1))?;
            eprintln!("run {}/{}: {} {name}: {rate:.0} records/s", run + 1, args.common.runs, work.keys.name());
            rates.push(rate);
        }
    }
    let rates = |name: &str| sides.iter().find(|(known, ..)| *known == name).map(|(.., rates)| rates.clone());
    for (id, ours, theirs, target) in work.keys.comparisons() {
        if let (Some(ours), Some(theirs)) = (rates(ours), rates(theirs)) {
            let pairs: Vec<_> = ours.into_iter().zip(theirs).collect();
            rows.ratio(*id, "records/s", target, &pairs);
        }
    }
    Ok(())
}
