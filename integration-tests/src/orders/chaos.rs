//! A cluster under faults: two coordinators, three servers, three workers and a bucket that fails now and then, each a
//! process, all that they say to each other through proxies on loopback. Processes are killed and stand still beyond
//! their leases, pairs of them lose each other, in both directions or in one, workers come and go. Behind each fault what
//! was in the log before it has to be counted in time; at the end every line was counted once, in order, and nothing
//! went back.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use forebay_proto::v1;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use rustix::process::Signal;
use tokio::{task::JoinHandle, time::timeout};

use super::{JOB, Log, job, reaches};
use crate::{
    harness::{Api, Forebay, Process, Proxy, Setup, eventually},
    s3::{Fault, Rule, S3Server, When},
};

const SERVERS: usize = 3;
const WORKERS: usize = 3;
/// Of servers and workers; a coordinator's is a third.
const LEASE: Duration = Duration::from_secs(3);
/// Lines that each partition grows by with each fault.
const LINES: u64 = 2_000;
const LINES_PER_SECOND: u32 = 2_500;

/// How many faults of each kind.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Processes killed with SIGKILL and started again.
    pub kills: usize,
    /// Processes stopped, most of them for longer than their lease.
    pub pauses: usize,
    /// Pairs that lose each other for a while.
    pub partitions: usize,
    /// Workers that leave, or come.
    pub rescales: usize,
    /// Shards that go to another server while nothing else happens. Most faults have one on its way, too.
    pub moves: usize,
}

/// What a run did.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    /// Lines that were counted, each once.
    pub lines: u64,
    /// Coordinators that followed another.
    pub takeovers: u64,
    /// How long it took.
    pub took: Duration,
    /// Calls of the object store that failed.
    pub store_faults: u64,
    /// Shards that went to another server.
    pub moves: u64,
}

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

/// A way that a pair of processes speaks on.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// Workers to a server.
    Streams(usize),
    /// Servers to a coordinator.
    Links(usize),
    /// Workers to a coordinator.
    Joins(usize),
    /// One coordinator to the other.
    Peer(usize),
    /// A coordinator to the object store.
    Store(usize),
}

struct Cluster {
    s3: S3Server,
    coordinators: Vec<Forebay>,
    servers: Vec<Forebay>,
    workers: Vec<Option<Process>>,
    streams: Vec<Proxy>,
    links: Vec<Proxy>,
    joins: Vec<Proxy>,
    peers: Vec<Proxy>,
    stores: Vec<Proxy>,
    log: Log,
    rng: StdRng,
}

/// Runs a cluster under faults, in an order that the seed says.
///
/// # Panics
/// If the state is not exact, or something does not go on in time.
pub async fn run(seed: u64, faults: Faults, backend: v1::Backend) -> Result<Done> {
    let started = Instant::now();
    let mut cluster = Cluster::start(seed, backend).await?;
    let mut kinds = [
        vec![Kind::Kill; faults.kills],
        vec![Kind::Pause; faults.pauses],
        vec![Kind::Part; faults.partitions],
        vec![Kind::Rescale; faults.rescales],
        vec![Kind::Move; faults.moves],
    ]
    .concat();
    kinds.shuffle(&mut cluster.rng);
    for kind in kinds {
        let (before, struck) = (cluster.log.total(), Instant::now());
        cluster.log.grow(LINES);
        let moving = if cluster.rng.random_bool(0.7) { Some(cluster.begin_move().await) } else { None };
        let what = cluster.strike(kind).await;
        let healed = struck.elapsed();
        reaches(&cluster.server_apis(), before).await;
        if let Some(moving) = moving {
            // Done or given up: what counts is where the head says that the shard is.
            moving.await.ok();
        }
        println!("cluster {seed}: {what} for {healed:.1?}, caught up {:.1?} later", struck.elapsed() - healed);
        for worker in cluster.workers.iter_mut().flatten() {
            ensure!(!worker.has_ended(), "seed {seed}: a worker has ended by itself: {}", worker.stderr());
        }
    }
    cluster.log.is_exact(&cluster.server_apis()).await;
    let (job, status) = cluster.seen().await;
    ensure!(job.rewinds == 0, "seed {seed}: {} rewinds", job.rewinds);
    let entries = job.shards.iter().filter_map(|shard| shard.entry.as_ref());
    let moves = entries.clone().map(|entry| entry.epoch - 1).sum();
    for shard in entries {
        ensure!(shard.incarnation == 1, "seed {seed}: shard {} was restored: its disk was there", shard.start);
    }
    Ok(Done {
        lines: cluster.log.total(),
        takeovers: status.coordinator_epoch - 1,
        took: started.elapsed(),
        store_faults: cluster.s3.faults().fired(),
        moves,
    })
}

impl Cluster {
    async fn start(seed: u64, backend: v1::Backend) -> Result<Self> {
        let s3 = S3Server::start("state").await?;
        let (streams, links) = (proxies(SERVERS).await, proxies(2).await);
        let (joins, peers, stores) = (proxies(2).await, proxies(2).await, proxies(2).await);
        stores.iter().for_each(|proxy| proxy.retarget(s3.address().port()));
        let with = |setup: Setup| {
            let setup = setup.set("coordinator.server_lease", "3s").set("checkpoint.s3.attempts_max", "3");
            setup.s3(&s3, "s3://state/chaos")
        };
        let coordinator = |index: usize, setup: Setup| {
            let setup = with(setup).set("server.advertise", &peers[index].url());
            setup.set("checkpoint.s3.endpoint", &stores[index].url())
        };
        let first = coordinator(0, Setup::coordinator().set("server.name", "c0")).start().await;
        let second = coordinator(1, Setup::standby("c1", &first)).start().await;
        let coordinators = vec![first, second];
        for (index, coordinator) in coordinators.iter().enumerate() {
            [&links, &joins, &peers].iter().for_each(|proxies| proxies[index].retarget(coordinator.port()));
        }
        let mut servers = Vec::new();
        for (index, proxy) in streams.iter().enumerate() {
            let setup = with(Setup::server(&format!("s{index}"), &coordinators[0]));
            let setup = setup.set("server.coordinators", &urls(&links)).set("server.advertise", &proxy.url());
            servers.push(setup.set("checkpoint.s3.endpoint", &s3.endpoint()).start().await);
            proxy.retarget(servers[index].port());
        }
        let api = coordinators[0].api();
        api.linked(SERVERS).await;
        let mut spec = job(LEASE, backend);
        spec.checkpoints.get_or_insert_default().interval_ms = Some(500);
        api.create(spec).await?;
        let log = Log::of(LINES);
        let workers = (0..WORKERS).map(|index| Some(worker(&log, &joins, index))).collect();
        let rng = StdRng::seed_from_u64(seed);
        // From here on one call in thirty fails, half of them behind their effect.
        s3.faults().seed(seed);
        s3.faults().add(Rule::new(Fault::SlowDown503).when(When::Probability(1.0 / 60.0)));
        s3.faults().add(Rule::new(Fault::DropAfter).when(When::Probability(1.0 / 60.0)));
        Ok(Self { s3, coordinators, servers, workers, streams, links, joins, peers, stores, log, rng })
    }

    /// Lets something fail and be well again, and tells what it was.
    async fn strike(&mut self, kind: Kind) -> String {
        match kind {
            Kind::Kill => {
                let victim = self.victim();
                let away = Duration::from_millis(self.rng.random_range(0..1500));
                self.kill(victim, away).await;
                format!("{victim:?} killed")
            }
            Kind::Pause => {
                let victim = self.victim();
                let still = LEASE.mul_f64(self.rng.random_range(0.5..1.6));
                self.signal(victim, Signal::STOP);
                tokio::time::sleep(still).await;
                self.signal(victim, Signal::CONT);
                format!("{victim:?} stood still")
            }
            Kind::Part => self.part().await,
            Kind::Rescale => {
                self.rescale().await;
                "a worker came or left".to_owned()
            }
            Kind::Move => {
                self.begin_move().await.await.ok();
                "a shard moved".to_owned()
            }
        }
    }

    fn victim(&mut self) -> Victim {
        let index = self.rng.random_range(0..WORKERS);
        match self.rng.random_range(0..3) {
            0 => Victim::Coordinator(index % 2),
            1 => Victim::Server(index % SERVERS),
            _ => Victim::Worker(index),
        }
    }

    async fn kill(&mut self, victim: Victim, away: Duration) {
        match victim {
            Victim::Coordinator(index) => {
                self.coordinators[index].kill().await;
                tokio::time::sleep(away).await;
                self.coordinators[index].restart().await;
                let port = self.coordinators[index].port();
                [&self.links, &self.joins, &self.peers].iter().for_each(|proxies| proxies[index].retarget(port));
            }
            Victim::Server(index) => {
                self.servers[index].kill().await;
                tokio::time::sleep(away).await;
                self.servers[index].restart().await;
                self.streams[index].retarget(self.servers[index].port());
            }
            Victim::Worker(index) => {
                if let Some(mut worker) = self.workers[index].take() {
                    worker.kill().await;
                    tokio::time::sleep(away).await;
                }
                self.workers[index] = Some(worker(&self.log, &self.joins, index));
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

    async fn part(&mut self) -> String {
        let (one, server) = (self.rng.random_range(0..2), self.rng.random_range(0..SERVERS));
        let way = match self.rng.random_range(0..5) {
            0 => Way::Streams(server),
            1 => Way::Links(one),
            2 => Way::Joins(one),
            3 => Way::Peer(one),
            _ => Way::Store(one),
        };
        let proxy = match way {
            Way::Streams(index) => &self.streams[index],
            Way::Links(index) => &self.links[index],
            Way::Joins(index) => &self.joins[index],
            Way::Peer(index) => &self.peers[index],
            Way::Store(index) => &self.stores[index],
        };
        let how = match self.rng.random_range(0..4) {
            0 => {
                proxy.hold_requests();
                "without requests"
            }
            1 => {
                proxy.hold_answers();
                "without answers"
            }
            2 => {
                proxy.stall();
                "silent"
            }
            _ => {
                proxy.refuse();
                proxy.cut();
                "cut"
            }
        };
        let length = LEASE.mul_f64(self.rng.random_range(0.3..1.6));
        tokio::time::sleep(length).await;
        proxy.pass();
        format!("{way:?} {how}")
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
            None => Some(worker(&self.log, &self.joins, last)),
        };
    }

    /// Asks whoever leads for a shard to go to another server.
    async fn begin_move(&mut self) -> JoinHandle<()> {
        let (job, _) = self.seen().await;
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

    fn server_apis(&self) -> Vec<Api> {
        self.servers.iter().map(Forebay::api).collect()
    }

    /// The job and the cluster, as the leader sees them.
    async fn seen(&self) -> (v1::JobInfo, v1::GetStatusResponse) {
        eventually("one coordinator leads", || async {
            for api in self.coordinators.iter().map(Forebay::api) {
                if let (Ok(job), Ok(status)) = (api.describe(JOB).await, api.status().await) {
                    return Some((job, status));
                }
            }
            None
        })
        .await
    }
}

fn worker(log: &Log, coordinators: &[Proxy], index: usize) -> Process {
    log.worker(&urls(coordinators), &format!("w{index}"), LINES_PER_SECOND)
}

async fn proxies(count: usize) -> Vec<Proxy> {
    let mut proxies = Vec::new();
    for _ in 0..count {
        // To nowhere, until it is known where.
        proxies.push(Proxy::to(0).await);
    }
    proxies
}

fn urls(proxies: &[Proxy]) -> String {
    proxies.iter().map(Proxy::url).collect::<Vec<_>>().join(",")
}
