//! `make bench`, fourth part: the state access of Nexmark's queries. docs/performance/nexmark.md tells how to read it.
//!
//! Each query is written once, and its states are kept by a worker of the SDK on a server of its own, by RocksDB within
//! the process, by the same behind the SDK's cache, and by maps in memory. All sides of a query run one after the other
//! within a run, in an order that turns; all must come to the same results.

mod events;
mod local;
mod memory;
mod queries;
mod remote;
mod states;
mod twin;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use forebay_integration_tests::bench::{
    arguments::Common,
    machine::Machine,
    plot::{self, Group},
    rows::{NO_TARGET, Rows, median},
};
use futures::executor::block_on;

use self::{
    events::Event,
    local::Local,
    queries::{Name, Results},
    remote::Stand,
};

/// Measures the state access of Nexmark's queries.
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Number of events of a query [default: 1000000, or 20000 with --quick].
    #[arg(long)]
    events: Option<usize>,
    /// Only the queries whose name contains this: q3, q4, q5, q7, q8, q11.
    #[arg(long, default_value = "")]
    only: String,
    /// Only sides whose name contains this: remote, embedded, twin, memory. Rows need both of their sides.
    #[arg(long, default_value = "")]
    side: String,
    /// Folder for plots.
    #[arg(long)]
    plots: Option<PathBuf>,
}

/// Who keeps the states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Remote,
    Embedded,
    Twin,
    Memory,
}

impl Side {
    const ALL: [Self; 4] = [Self::Remote, Self::Embedded, Self::Twin, Self::Memory];

    fn name(self) -> &'static str {
        match self {
            Self::Remote => "remote",
            Self::Embedded => "embedded",
            Self::Twin => "twin",
            Self::Memory => "memory",
        }
    }

    /// What it is called in plots.
    fn label(self) -> &'static str {
        match self {
            Self::Remote => "Forebay's SDK",
            Self::Embedded => "embedded RocksDB",
            Self::Twin => "embedded, same cache",
            Self::Memory => "maps in memory",
        }
    }

    /// What its rows end with, as the peer.
    fn suffix(self) -> &'static str {
        match self {
            Self::Twin => "embedded_cached",
            other => other.name(),
        }
    }
}

/// What plots show; maps in memory would dwarf the others.
const DRAWN: [Side; 3] = [Side::Remote, Side::Embedded, Side::Twin];

fn main() -> Result<()> {
    let args = Args::parse();
    let count = args.events.unwrap_or(args.common.or_quick(1_000_000, 20_000));
    ensure!((1_000..=10_000_000).contains(&count), "--events {count}: 1000 to 10000000");
    let out = args.common.out()?;
    let (started, mut machine) = (Instant::now(), Machine::look());
    println!("{machine}");
    let events = events::generate(count);
    let stand = Stand::start(args.common.forebay())?;
    let (mut rows, mut groups) = (Rows::default(), Vec::new());
    for name in Name::ALL.into_iter().filter(|name| name.to_string().contains(&args.only)) {
        let rates = query(name, &args, &events, &stand, &machine).with_context(|| name.to_string())?;
        let of = |side: Side| rates.iter().find(|(known, _)| *known == side).map(|(_, rates)| rates);
        for peer in [Side::Embedded, Side::Twin, Side::Memory] {
            if let (Some(ours), Some(theirs)) = (of(Side::Remote), of(peer)) {
                let pairs: Vec<_> = ours.iter().copied().zip(theirs.iter().copied()).collect();
                rows.ratio(format!("nexmark_{name}_vs_{}", peer.suffix()), "records/s", NO_TARGET, &pairs);
            }
        }
        let values = DRAWN.iter().map(|side| of(*side).map_or(0.0, |rates| median(rates)));
        groups.push(Group { name: name.to_string(), values: values.collect() });
    }
    machine.look_again();
    print!("{}", rows.table());
    let ratios = rows.write(&out)?;
    if let Some(folder) = &args.plots {
        plot::save(folder, "nexmark", &plot::groups("records/s", &DRAWN.map(Side::label), &groups))?;
    }
    println!("load average after: {}", machine.load_after());
    let seconds = started.elapsed().as_secs();
    println!(
        "bench-nexmark: runs {}, rows {}, events {count}, {seconds} s, {}",
        args.common.runs,
        rows.len(),
        ratios.display()
    );
    Ok(())
}

/// Records per second by run.
type Rates = (Side, Vec<f64>);

/// Measures all sides of a query.
fn query(name: Name, args: &Args, events: &[Event], stand: &Stand, machine: &Machine) -> Result<Vec<Rates>> {
    let (_, expected) = in_memory(name, events)?;
    ensure!(expected.count > 0, "no result");
    eprintln!("{name}: {} results", expected.count);
    let mut sides: Vec<_> = Side::ALL.into_iter().filter(|side| side.name().contains(&args.side)).collect();
    let mut rates: Vec<Rates> = sides.iter().map(|side| (*side, Vec::new())).collect();
    for run in 0..args.common.runs {
        for side in &sides {
            if !args.common.quick {
                machine.settle(&[stand.process_id()]);
            }
            let (took, results) = match side {
                Side::Remote => stand.run(name, &format!("{name}-{run}"), events),
                Side::Embedded => in_rocksdb(name, events),
                Side::Twin => behind_cache(name, events),
                Side::Memory => in_memory(name, events),
            }
            .with_context(|| format!("{}, run {}", side.name(), run + 1))?;
            ensure!(results == expected, "{} comes to {results:?}, not {expected:?}", side.name());
            let rate = events.len() as f64 / took.as_secs_f64();
            eprintln!("run {}/{}: {name} {}: {rate:.0} records/s", run + 1, args.common.runs, side.name());
            rates.iter_mut().filter(|(known, _)| known == side).for_each(|(_, rates)| rates.push(rate));
        }
        if !sides.is_empty() {
            sides.rotate_left(1);
        }
    }
    Ok(rates)
}

fn in_memory(name: Name, events: &[Event]) -> Result<(Duration, Results)> {
    let (begun, states) = (Instant::now(), memory::states());
    let results = block_on(queries::run(name, &states, events, async |_| Ok(())))?;
    Ok((begun.elapsed(), results))
}

fn in_rocksdb(name: Name, events: &[Event]) -> Result<(Duration, Results)> {
    let embedded = local::open()?;
    let states = Local::states(&embedded)?;
    let begun = Instant::now();
    let results = block_on(queries::run(name, &states, events, async |_| Ok(())))?;
    Ok((begun.elapsed(), results))
}

fn behind_cache(name: Name, events: &[Event]) -> Result<(Duration, Results)> {
    let embedded = local::open()?;
    let store = twin::Store::new(&embedded)?;
    let begun = Instant::now();
    let results = block_on(queries::run(name, &store.states(), events, async |_| store.flush_old()))?;
    store.flush(u64::MAX)?;
    Ok((begun.elapsed(), results))
}
