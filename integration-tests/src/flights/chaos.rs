//! Kills at random: one round is a whole run of the sample worker beside a coordinator and a server in
//! processes of their own, each killed with SIGKILL at random moments, and compared at its end.

use std::{path::Path, time::Duration};

use anyhow::{Result, bail};
use forebay_proto::v1;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{FlightsRun, Worker};
use crate::harness::{Api, Cluster};

/// Time between two checkpoints: short, so that many kills hit a round.
const INTERVAL: Duration = Duration::from_millis(150);
/// Kills of one round.
const KILLS: std::ops::RangeInclusive<u32> = 3..=5;
/// Records a second, so that a round lasts a few seconds.
const RECORDS_PER_SECOND: u32 = 12_000;

/// What one round did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Round {
    /// Processes killed.
    pub kills: u32,
    /// Kills that hit a checkpoint behind its barrier that never committed.
    pub between_barrier_and_commit: u32,
    /// Rewinds of the job.
    pub rewinds: u64,
}

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Worker,
    Server,
    ServerAndDisk,
    Coordinator,
}

/// Runs one round over a file of flights; an error tells what is not exact.
pub async fn round(input: &Path, backend: v1::Backend, seed: u64) -> Result<Round> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::with(1, |setup| setup.set("coordinator.server_lease", "2s")).await;
    let home = cluster.coordinator.setup().home().to_owned();
    let mut run = FlightsRun::prepare(&cluster.coordinator.url(), input, &home, backend, INTERVAL).await?;
    let mut worker = run.worker(RECORDS_PER_SECOND);
    let (mut done, mut last) = (Round::default(), 0);
    for _ in 0..rng.random_range(KILLS) {
        let Some(next) = run.checkpoint_after(last, &worker).await? else { break };
        last = next;
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..150))).await;
        let victim = match rng.random_range(0..8) {
            0..3 => Victim::Worker,
            3..5 => Victim::Server,
            5 => Victim::ServerAndDisk,
            _ => Victim::Coordinator,
        };
        let in_round = if rng.random_bool(0.7) { round_in_progress(&run).await } else { None };
        kill(victim, &mut cluster, &mut run, &mut worker).await;
        done.kills += 1;
        if let Some(checkpoint) = in_round {
            let Some(next) = run.checkpoint_after(last, &worker).await? else { break };
            let completed = run.checkpoints().await?.completed;
            done.between_barrier_and_commit += u32::from(completed.iter().all(|entry| entry.id != checkpoint));
            last = next;
        }
    }
    worker.finished().await?;
    let stored = run.stored(&servers(&cluster)).await?;
    if stored != *run.expected() {
        bail!("seed {seed}: the state is not exact: {:#?}", stored.differences(run.expected()));
    }
    done.rewinds = run.job().await?.rewinds;
    Ok(done)
}

async fn kill(victim: Victim, cluster: &mut Cluster, run: &mut FlightsRun, worker: &mut Worker) {
    match victim {
        Victim::Worker => {
            worker.kill().await;
            *worker = run.worker(RECORDS_PER_SECOND);
        }
        Victim::Server => cluster.servers[0].kill_and_restart().await,
        Victim::ServerAndDisk => {
            cluster.servers[0].kill().await;
            cluster.servers[0].delete_data();
            cluster.servers[0].restart().await;
        }
        Victim::Coordinator => cluster.coordinator.kill_and_restart().await,
    }
}

/// Looks for a round in progress for a while, so that the kill comes between its barrier and its commit.
async fn round_in_progress(run: &FlightsRun) -> Option<u64> {
    for _ in 0..400 {
        let rounds = run.checkpoints().await.ok()?.in_progress;
        if let Some(round) = rounds.first() {
            return Some(round.checkpoint);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    None
}

fn servers(cluster: &Cluster) -> Vec<Api> {
    cluster.servers.iter().map(crate::harness::Forebay::api).collect()
}
