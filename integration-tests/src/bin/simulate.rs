//! Runs seeds of the simulation. The last line says how many, and whether anything was wrong.

use std::{collections::BTreeMap, fmt, process::ExitCode, time::Instant};

use clap::Parser;
use forebay_integration_tests::simulation::{self, Bug, Kind, Options, Run};

/// Simulates worlds of a coordinator, servers and workers under faults, one per seed.
#[derive(Parser)]
struct Args {
    /// Number of seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// A deliberate bug that should be found, such as partial-rewind; a wrong name is answered with all. Needs the cargo
    /// feature seeded-bugs.
    #[arg(long, value_parser = bug)]
    bug: Option<Bug>,
    /// A kind of fault to choose from, such as server-crash; may be given several times. All, if none is.
    #[arg(long, value_parser = kind)]
    kind: Vec<Kind>,
    /// Only one worker, so that no rewind comes from workers who join.
    #[arg(long)]
    one_worker: bool,
    /// Prints everything that happens.
    #[arg(long)]
    print: bool,
}

fn bug(name: &str) -> Result<Bug, String> {
    find(&Bug::ALL, name)
}

fn kind(name: &str) -> Result<Kind, String> {
    find(&Kind::ALL, name)
}

fn find<T: Copy + fmt::Debug>(all: &[T], name: &str) -> Result<T, String> {
    let plain = |text: &str| text.replace(['-', '_'], "").to_lowercase();
    let found = all.iter().find(|one| plain(&format!("{one:?}")) == plain(name));
    found.copied().ok_or_else(|| format!("there is {all:?}"))
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut options = Options { bug: args.bug, one_worker: args.one_worker, print: args.print, ..Options::default() };
    if !args.kind.is_empty() {
        options.kinds.clone_from(&args.kind);
    }
    let started = Instant::now();
    let (mut violations, mut sum) = (0, Sum::default());
    for seed in args.first..args.first.saturating_add(args.seeds) {
        let run = simulation::run(seed, &options);
        sum.add(&run);
        if let Some(what) = &run.violation {
            violations += 1;
            println!("seed {seed}: {what}\n  again: {}", again(&run, &args));
        } else if args.seeds == 1 {
            println!("{run:#?}");
        }
    }
    println!("{sum}");
    let rate = args.seeds as f64 / started.elapsed().as_secs_f64();
    println!("simulate: seeds {}, violations {violations}, {rate:.1} seeds/s", args.seeds);
    if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What all seeds came to.
#[derive(Default)]
struct Sum {
    virtual_ms: i64,
    applied: u64,
    checkpoints: u64,
    rewinds: u64,
    hits: BTreeMap<String, u64>,
}

impl Sum {
    fn add(&mut self, run: &Run) {
        self.virtual_ms += run.virtual_ms;
        self.applied += run.applied;
        self.checkpoints += run.checkpoints;
        self.rewinds += run.generation.saturating_sub(1);
        for (what, count) in &run.hits {
            *self.hits.entry(what.clone()).or_default() += count;
        }
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { virtual_ms, applied, checkpoints, rewinds, hits } = self;
        let seconds = virtual_ms / 1000;
        writeln!(f, "virtual seconds {seconds}, batches {applied}, checkpoints {checkpoints}, rewinds {rewinds}")?;
        write!(f, "hit: {hits:?}")
    }
}

fn again(run: &Run, args: &Args) -> String {
    let bug = args.bug.map(|bug| format!(" (with --bug {bug:?})"));
    format!("{}{}", run.again(), bug.unwrap_or_default())
}
