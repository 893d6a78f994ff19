//! The processes of a cluster, and what befalls them.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use forebay_proto::v1;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use rustix::process::Signal;
use tokio::{task::JoinHandle, time::timeout};

use super::{
    COORDINATORS, Faults, Plan, SERVERS, WORKERS, Workload, bank,
    network::{Host, Network},
};
use crate::{
    harness::{Api, Forebay, PATIENCE, Process, Setup, binary, eventually},
    orders::{JOB, Log, job, reaches},
    s3::{Fault, Rule, S3Server, When},
};

/// Of servers and workers; a coordinator's is a third.
const LEASE: Duration = Duration::from_secs(3);
/// Lines that each partition grows by with each fault.
const LINES: u64 = 1_250;
/// Of a worker.
const LINES_PER_SECOND: u32 = 2_500;
/// Faults from one comparison of two checkpoints to the next: each fetches them from the store.
const COMPARED_EVERY: usize = 6;
/// Longer than any attempt at a call of the store may take.
const STORE_STALL: Duration = Duration::from_millis(2_500);

#[derive(Debug, Clone, Copy)]
enum Kind {
    Kill,
    Pause,
    Part,
    Rescale,
    Move,
}

#[derive(Debug, Clone, Copy)]
enum Victim {
    Coordinator(usize),
    Server(usize),
    Worker(usize),
}

/// All of it. Dropping it ends every process.
pub(super) struct Cluster {
    plan: Plan,
    seed: u64,
    coordinators: Vec<Forebay>,
    servers: Vec<Forebay>,
    workers: Vec<Option<Process>>,
    s3: S3Server,
    log: Log,
    rng: StdRng,
    /// So far: pairs that have lost each other, coordinators that were struck.
    partitions: usize,
    struck: usize,
    // Last: processes are gone before their hosts.
    network: Network,
}

/// What the leader tells.
pub(super) struct Seen {
    leader: usize,
    pub(super) job: v1::JobInfo,
    pub(super) status: v1::GetStatusResponse,
}

impl Cluster {
    pub(super) async fn start(network: Network, seed: u64, plan: Plan) -> Result<Self> {
        let s3 = network.store("state").await?;
        let with = |host: Host, setup: Setup| {
            let setup = setup.set("coordinator.server_lease", "3s").set("checkpoint.s3.attempts_max", "3");
            let setup = setup.set("checkpoint.s3.attempt_timeout", "2s").s3(&s3, "s3://state/chaos");
            network.place(host, setup)
        };
        let (first, second) = (Host::Coordinator(0), Host::Coordinator(1));
        let leader = with(first, Setup::coordinator().set("server.name", "c0")).start().await;
        network.is_at(first, leader.address());
        let standby = with(second, Setup::standby("c1", &leader)).start().await;
        network.is_at(second, standby.address());
        let coordinators = vec![leader, standby];
        let mut servers = Vec::new();
        for index in 0..SERVERS {
            let host = Host::Server(index);
            servers.push(with(host, Setup::server(&format!("s{index}"), &coordinators[0])).start().await);
            network.is_at(host, servers[index].address());
        }
        let api = coordinators[0].api();
        api.linked(SERVERS).await;
        let mut spec = job(LEASE, v1::Backend::Rocksdb);
        spec.set_recovery(plan.recovery);
        let checkpoints = spec.checkpoints.get_or_insert_default();
        (checkpoints.interval_ms, checkpoints.retained) = (Some(500), 10);
        api.create(spec).await?;
        let (log, rng) = (Log::of(LINES), StdRng::seed_from_u64(seed));
        // From here on one call in thirty fails, half of them behind their effect.
        s3.faults().seed(seed);
        let (one, half) = (When::Probability(1.0 / 120.0), When::Probability(1.0 / 240.0));
        s3.faults().add(Rule::new(Fault::SlowDown503).when(one));
        s3.faults().add(Rule::new(Fault::Status(500, "InternalError")).when(half));
        s3.faults().add(Rule::new(Fault::DropBefore).when(half));
        s3.faults().add(Rule::new(Fault::DropAfter).when(one));
        s3.faults().add(Rule::new(Fault::StallAfter(STORE_STALL)).when(one));
        let mut cluster = Self {
            plan,
            seed,
            coordinators,
            servers,
            workers: Vec::new(),
            s3,
            log,
            rng,
            partitions: 0,
            struck: 0,
            network,
        };
        cluster.workers = (0..WORKERS).map(|index| Some(cluster.worker(index))).collect();
        Ok(cluster)
    }

    /// Lets all of the faults happen, and returns how often checkpoints were compared.
    pub(super) async fn suffer(&mut self, faults: Faults) -> Result<u64> {
        let mut kinds = [
            vec![Kind::Kill; faults.kills],
            vec![Kind::Pause; faults.pauses],
            vec![Kind::Part; faults.partitions],
            vec![Kind::Rescale; faults.rescales],
            vec![Kind::Move; faults.moves],
        ]
        .concat();
        kinds.shuffle(&mut self.rng);
        let mut compared = 0;
        for (number, kind) in (1..).zip(kinds) {
            let (before, struck) = (self.log.total(), Instant::now());
            self.log.grow(LINES);
            let moving = if self.rng.random_bool(0.7) { Some(self.begin_move().await) } else { None };
            let what = self.strike(kind).await?;
            let healed = struck.elapsed();
            reaches(&self.server_apis(), before).await;
            if let Some(moving) = moving {
                // Done or given up: what counts is where the head says that the shard is.
                moving.await.ok();
            }
            let later = struck.elapsed() - healed;
            println!("cluster {}: {what} for {healed:.1?}, caught up {later:.1?} later", self.seed);
            for worker in self.workers.iter_mut().flatten() {
                ensure!(!worker.has_ended(), "a worker has ended by itself: {}", worker.stderr());
            }
            if self.plan.workload == Workload::Bank && number % COMPARED_EVERY == 0 {
                compared += self.compare().await?;
            }
        }
        Ok(compared)
    }

    /// Lines of the log.
    pub(super) fn lines(&self) -> u64 {
        self.log.total()
    }

    /// Calls of the store that have failed.
    pub(super) fn store_faults(&self) -> u64 {
        self.s3.faults().fired()
    }

    /// Waits until the state is that of the whole log, each line once. A rewind for the last fault may still be to come
    /// when all is counted; what is counted twice or lost stays so.
    pub(super) async fn is_exact(&self) -> Result<()> {
        let servers = self.server_apis();
        reaches(&servers, self.log.total()).await;
        let until = Instant::now() + PATIENCE;
        loop {
            let wrong = match self.log.check(&servers).await {
                Ok(()) if self.plan.workload == Workload::Bank => bank::check(&self.log, &servers).await,
                checked => checked,
            };
            match wrong {
                Ok(()) => return Ok(()),
                Err(wrong) if Instant::now() > until => bail!("the state is not exact: {wrong}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Compares what the accounts hold together at two completed checkpoints, and returns how often that could be done.
    async fn compare(&self) -> Result<u64> {
        let Seen { job, .. } = self.seen().await;
        let newest = self.coordinators.iter().map(Forebay::api);
        let mut completed = Vec::new();
        for api in newest {
            completed = api.checkpoints(JOB).await.map_or(completed, |listed| listed.completed);
        }
        completed.sort_by_key(|checkpoint| checkpoint.id);
        let [.., from, to] = &completed[..] else { return Ok(0) };
        let ids = [from.id, to.id];
        let gained = timeout(PATIENCE, bank::gained(&job, ids, &self.server_apis())).await.ok().flatten();
        let Some(gained) = gained else { return Ok(0) };
        ensure!(gained == 0, "from checkpoint {} to {} all accounts together gained {gained}", ids[0], ids[1]);
        Ok(1)
    }

    /// Lets something fail and be well again, and tells what it was.
    async fn strike(&mut self, kind: Kind) -> Result<String> {
        Ok(match kind {
            Kind::Kill => {
                let victim = self.victim().await;
                let away = Duration::from_millis(self.rng.random_range(0..1500));
                self.kill(victim, away).await;
                format!("{victim:?} killed")
            }
            Kind::Pause => {
                let victim = self.victim().await;
                let still = LEASE.mul_f64(self.rng.random_range(0.5..1.6));
                self.signal(victim, Signal::STOP);
                tokio::time::sleep(still).await;
                self.signal(victim, Signal::CONT);
                format!("{victim:?} stood still")
            }
            Kind::Part => self.part().await?,
            Kind::Rescale => {
                self.rescale().await;
                "a worker came or left".to_owned()
            }
            Kind::Move => {
                self.begin_move().await.await.ok();
                "a shard moved".to_owned()
            }
        })
    }

    async fn victim(&mut self) -> Victim {
        let index = self.rng.random_range(0..WORKERS);
        match self.rng.random_range(0..3) {
            0 => {
                // The one that leads, then the other one, and so on.
                let Seen { leader, .. } = self.seen().await;
                self.struck += 1;
                Victim::Coordinator((leader + self.struck + 1) % COORDINATORS)
            }
            1 => Victim::Server(index % SERVERS),
            // The last one may have left.
            _ if self.workers[index].is_none() => Victim::Worker(0),
            _ => Victim::Worker(index),
        }
    }

    async fn kill(&mut self, victim: Victim, away: Duration) {
        match victim {
            Victim::Coordinator(index) => {
                self.coordinators[index].kill().await;
                tokio::time::sleep(away).await;
                self.coordinators[index].restart().await;
            }
            Victim::Server(index) => {
                self.servers[index].kill().await;
                tokio::time::sleep(away).await;
                self.servers[index].restart().await;
            }
            Victim::Worker(index) => {
                if let Some(worker) = &mut self.workers[index] {
                    worker.kill().await;
                }
                tokio::time::sleep(away).await;
                self.workers[index] = Some(self.worker(index));
            }
        }
    }

    fn signal(&self, victim: Victim, signal: Signal) {
        match victim {
            Victim::Coordinator(index) => self.coordinators[index].process().signal(signal),
            Victim::Server(index) => self.servers[index].process().signal(signal),
            Victim::Worker(index) => self.workers[index].iter().for_each(|worker| worker.signal(signal)),
        }
    }

    async fn part(&mut self) -> Result<String> {
        self.partitions += 1;
        let what = self.network.part(self.partitions.is_multiple_of(2), &mut self.rng)?;
        tokio::time::sleep(LEASE.mul_f64(self.rng.random_range(0.3..1.6))).await;
        self.network.heal()?;
        Ok(what)
    }

    /// The last worker leaves in peace, or comes back.
    async fn rescale(&mut self) {
        let last = WORKERS - 1;
        self.workers[last] = match self.workers[last].take() {
            Some(mut leaving) => {
                leaving.signal(Signal::TERM);
                leaving.ended().await;
                None
            }
            None => Some(self.worker(last)),
        };
    }

    /// Asks whoever leads for a shard to go to another server.
    async fn begin_move(&mut self) -> JoinHandle<()> {
        let Seen { job, .. } = self.seen().await;
        let entries: Vec<_> = job.shards.into_iter().filter_map(|shard| shard.entry).collect();
        let entry = entries[self.rng.random_range(0..entries.len())].clone();
        let others: Vec<_> =
            (0..SERVERS).map(|index| format!("s{index}")).filter(|name| *name != entry.server).collect();
        let server = others[self.rng.random_range(0..others.len())].clone();
        let v1::ShardEntry { operator, start, end, .. } = entry;
        let request = v1::MoveShardRequest { job: JOB.into(), operator, start, end, server, dry_run: false };
        let apis: Vec<_> = self.coordinators.iter().map(Forebay::api).collect();
        tokio::spawn(async move {
            for api in apis {
                let Ok(told) = api.coordinator().move_shard(request.clone()).await else { continue };
                let mut told = told.into_inner();
                // A coordinator that stands still answers nothing.
                while let Ok(Ok(Some(_))) = timeout(3 * LEASE, told.message()).await {}
            }
        })
    }

    fn worker(&self, index: usize) -> Process {
        let (host, id) = (Host::Worker(index), format!("w{index}"));
        let mut command = self.network.command(host, &binary("chaos-worker"));
        command.args(["--server", &self.network.coordinators(host), "--worker-id", &id]);
        command.args(["--throttle", &LINES_PER_SECOND.to_string()]).arg("--log").arg(self.log.path());
        if self.plan.recovery == v1::Recovery::Job {
            command.arg("--rewinds");
        }
        if self.plan.workload == Workload::Bank {
            command.arg("--bank");
        }
        Process::start(command, self.log.path(), &id)
    }

    fn server_apis(&self) -> Vec<Api> {
        self.servers.iter().map(Forebay::api).collect()
    }

    /// The job and the cluster, as the leader sees them.
    pub(super) async fn seen(&self) -> Seen {
        eventually("one coordinator leads", || async {
            for (leader, coordinator) in self.coordinators.iter().enumerate() {
                let api = coordinator.api();
                if let (Ok(job), Ok(status)) = (api.describe(JOB).await, api.status().await) {
                    return Some(Seen { leader, job, status });
                }
            }
            None
        })
        .await
    }
}
