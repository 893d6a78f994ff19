//! A cluster under faults: two coordinators, three servers, three workers and a bucket that fails now and then, each a
//! process on a host of its own. Processes are killed and stand still beyond their leases, pairs of them lose each other,
//! in both directions or in one, workers come and go, shards move. Behind each fault what was in the log before it has to
//! be counted in time; at the end every line was counted once, in order, and what a bank's accounts hold together is what
//! they held at first.
//!
//! [`cluster`] is the driver, [`network`] is how hosts reach and lose each other, the workloads are [`crate::orders`] and
//! [`bank`]; the worker is the binary `chaos-worker`.

pub mod bank;
mod cluster;
mod network;

use std::{
    fmt, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use forebay_proto::v1;

use self::{
    cluster::{Cluster, Seen},
    network::Network,
};
use crate::harness::namespace;

const COORDINATORS: usize = 2;
const SERVERS: usize = 3;
const WORKERS: usize = 3;
/// Fewer lines a second than this, over a whole run, are a failure: that a cluster is exact because it stands still
/// proves nothing. Less than a quarter of what a bank under `recovery: job` has shown (3,642) on two cores that others used
/// as well.
const LINES_PER_SECOND_MIN: f64 = 800.0;

/// What the workers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// They count orders and keep them in lists.
    Orders,
    /// Orders are paid, too: two accounts are read and written.
    Bank,
}

/// What is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// What the workers do.
    pub workload: Workload,
    /// What a failure takes back.
    pub recovery: v1::Recovery,
}

impl Plan {
    /// The plan of a seed: four that follow each other have all.
    pub fn of(seed: u64) -> Self {
        let (workload, recovery) = match seed % 4 {
            0 => (Workload::Orders, v1::Recovery::Shard),
            1 => (Workload::Bank, v1::Recovery::Job),
            2 => (Workload::Bank, v1::Recovery::Shard),
            _ => (Workload::Orders, v1::Recovery::Job),
        };
        Self { workload, recovery }
    }
}

/// How many faults of each kind.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Processes killed with SIGKILL and started again.
    pub kills: usize,
    /// Processes stopped, most of them for longer than their lease.
    pub pauses: usize,
    /// Pairs that lose each other for a while, every other one in one direction only.
    pub partitions: usize,
    /// Workers that leave, or come.
    pub rescales: usize,
    /// Shards that go to another server while nothing else happens. Most faults have one on its way, too.
    pub moves: usize,
}

/// Those of every run that is counted.
pub const FAULTS: Faults = Faults { kills: 12, pauses: 4, partitions: 4, rescales: 2, moves: 2 };

/// What a run did.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    /// What was run.
    pub plan: Plan,
    /// Whether each process had a network namespace of its own; else all were on loopback, behind proxies.
    pub namespaces: bool,
    /// Lines that were counted, each once.
    pub lines: u64,
    /// How long it took.
    pub took: Duration,
    /// Coordinators that followed another.
    pub takeovers: u64,
    /// Times that the job went back to a checkpoint.
    pub rewinds: u64,
    /// Calls of the object store that failed.
    pub store_faults: u64,
    /// Shards that went to another server.
    pub moves: u64,
    /// Times that what all accounts hold together was compared between two completed checkpoints.
    pub compared: u64,
}

impl Done {
    /// Lines a second.
    pub fn rate(&self) -> f64 {
        self.lines as f64 / self.took.as_secs_f64()
    }

    /// What the processes reached each other by.
    pub fn network(&self) -> &'static str {
        if self.namespaces { "network namespaces" } else { "proxies on loopback" }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let workload = match self.workload {
            Workload::Orders => "orders",
            Workload::Bank => "bank",
        };
        let recovery = if self.recovery == v1::Recovery::Shard { "shard" } else { "job" };
        write!(f, "{workload} under recovery: {recovery}")
    }
}

/// Runs a cluster under faults, with the plan and in the order that the seed says. Blocks the calling thread.
///
/// # Panics
/// If something does not go on in time.
pub fn run(seed: u64, faults: Faults) -> Result<Done> {
    let plan = Plan::of(seed);
    let refused = namespace::try_out().err();
    match &refused {
        None => println!("cluster {seed}: {plan}, in network namespaces"),
        Some(why) => {
            println!("cluster {seed}: {plan}, behind proxies on loopback, for network namespaces need root: {why}")
        }
    }
    let isolated = refused.is_none();
    // A thread of its own, for its namespace; its runtime's threads come from it, and so does every process.
    let running = thread::spawn(move || {
        if isolated {
            namespace::unshare()?;
        }
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(async {
            let network = if isolated { Network::of_namespaces()? } else { Network::of_proxies().await };
            on(network, seed, plan, faults).await
        })
    });
    let done = running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    done.with_context(|| format!("cluster {seed}, {plan}; once more: make chaos FIRST={seed} ROUNDS=0 CLUSTERS=1"))
}

async fn on(network: Network, seed: u64, plan: Plan, faults: Faults) -> Result<Done> {
    let namespaces = matches!(network, Network::Namespaces(_));
    let started = Instant::now();
    let mut cluster = Cluster::start(network, seed, plan).await?;
    let compared = cluster.suffer(faults).await?;
    cluster.is_exact().await?;
    let Seen { job, status, .. } = cluster.seen().await;
    let entries = job.shards.iter().filter_map(|shard| shard.entry.as_ref());
    if plan.recovery == v1::Recovery::Shard {
        ensure!(job.rewinds == 0, "{} rewinds", job.rewinds);
        for shard in entries.clone() {
            ensure!(shard.incarnation == 1, "shard {} was restored: its disk was there", shard.start);
        }
    }
    let done = Done {
        plan,
        namespaces,
        lines: cluster.lines(),
        took: started.elapsed(),
        takeovers: status.coordinator_epoch - 1,
        rewinds: job.rewinds,
        store_faults: cluster.store_faults(),
        moves: entries.map(|entry| entry.epoch - 1).sum(),
        compared,
    };
    println!("cluster {seed}: {done:?}, {:.0} lines a second", done.rate());
    ensure!(
        done.rate() >= LINES_PER_SECOND_MIN,
        "{:.0} lines a second, the floor is {LINES_PER_SECOND_MIN}: it is exact and stands still",
        done.rate()
    );
    ensure!(compared > 0 || plan.workload == Workload::Orders, "no two checkpoints could be compared");
    Ok(done)
}
