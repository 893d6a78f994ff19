//! The deterministic simulation: one seed is one world of a coordinator, servers and workers, in one
//! thread and in virtual time.
//!
//! What decides is the real code: the job's machine, the shards' cores, the lanes and the cache of the
//! SDK. What carries it (network, disks, object store, processes) is simulated, and fails as the seed
//! says. First there are faults, then there are none and everything has to come to its end.
//! A violation prints its seed; the seed alone brings it back.
//!
//! Invariant: nothing here reads a clock, draws a number that is not the seed's, or walks a hash map.

mod barrier;
mod check;
mod coordinator;
mod disk;
mod env;
mod faults;
mod garbage;
mod head;
mod inbox;
mod input;
mod kept;
mod lanes;
mod making;
mod network;
mod oracle;
mod records;
mod reports;
mod rng;
mod schedule;
mod server;
mod session;
mod settings;
mod store;
mod streams;
mod strike;
mod trace;
mod worker;
mod world;

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

pub use faults::Kind;
pub use forebay_server::seeded::Bug;

use self::{
    env::Env, faults::Faults, input::Input, oracle::Oracle, rng::Rng, settings::Settings, trace::Trace, world::World,
};

/// What faults are to lead to, among the hits of a run.
pub const EFFECTS: [&str; 8] = [
    "a shard arrived",
    "ambiguous head settled",
    "died in a write call",
    "duplicate answered",
    "foreign head found",
    "garbage collected",
    "left at a stop",
    "stood still",
];

/// What is to be simulated.
#[derive(Debug, Clone)]
pub struct Options {
    /// The kinds of faults to choose from.
    pub kinds: Vec<Kind>,
    /// True for one worker only: no rewind comes from workers who join and leave.
    pub one_worker: bool,
    /// A deliberate bug; needs the feature `seeded-bugs`.
    pub bug: Option<Bug>,
    /// Prints what happens.
    pub print: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { kinds: Kind::ALL.to_vec(), one_worker: false, bug: None, print: false }
    }
}

/// What came of a seed.
#[derive(Debug, Clone)]
pub struct Run {
    /// The seed.
    pub seed: u64,
    /// What was wrong, if anything was.
    pub violation: Option<String>,
    /// Hash of everything that happened.
    pub trace: u64,
    /// Events.
    pub events: u64,
    /// Virtual milliseconds.
    pub virtual_ms: i64,
    /// Write batches that were applied.
    pub applied: u64,
    /// Checkpoints that completed.
    pub checkpoints: u64,
    /// The job's generation at the end; the first is 1.
    pub generation: u64,
    /// What was hit, and how often.
    pub hits: BTreeMap<String, u64>,
}

impl Run {
    /// How to see the run again.
    pub fn again(&self) -> String {
        format!("make simulate SEEDS=1 FIRST={}", self.seed)
    }
}

/// Simulates a seed.
pub fn run(seed: u64, options: &Options) -> Run {
    choose(options.bug);
    let mut world = world(seed, options);
    let ran = catch_unwind(AssertUnwindSafe(|| world.run()));
    choose(None);
    if let Err(panic) = ran {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        world.env.oracle.wrong(format!("it panicked: {}", text.unwrap_or_default()));
    }
    let env = &world.env;
    Run {
        seed,
        violation: env.oracle.violation.clone(),
        trace: env.trace.digest(),
        events: env.trace.lines(),
        virtual_ms: env.now_ms(),
        applied: env.oracle.applied,
        checkpoints: env.oracle.checkpoints,
        generation: env.store.head.generation,
        hits: env.faults.hits().clone(),
    }
}

fn world(seed: u64, options: &Options) -> World {
    let mut rng = Rng::new(rng::mix(seed));
    let settings = Settings::choose(&mut rng, options.one_worker);
    let shards = forebay_server::coordinator::spec::shards(&settings.spec());
    let ranges: Vec<_> = shards.iter().map(|entry| (entry.start, entry.end)).collect();
    let input = Input::new(seed, settings.partitions, settings.records, settings.keys, &ranges, settings.spread);
    let faults = Faults::choose(&mut rng, &options.kinds);
    let mut trace = Trace::new(options.print);
    trace.line(0, format_args!("{settings:?} {faults:?}"));
    World::new(Env::new(rng, trace, faults, settings, Oracle::new(input)))
}

#[cfg(feature = "seeded-bugs")]
fn choose(bug: Option<Bug>) {
    forebay_server::seeded::choose(bug);
}

#[cfg(not(feature = "seeded-bugs"))]
fn choose(bug: Option<Bug>) {
    assert!(bug.is_none(), "build with the feature seeded-bugs to choose {bug:?}");
}
