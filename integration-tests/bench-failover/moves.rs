//! How long a writer waits while its shard goes to another server.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use forebay_client::{Client, Value, WorkerState, codec};
use forebay_integration_tests::{
    harness::{Cluster, JobBuilder, Setup, eventually},
    s3::S3Server,
};
use forebay_proto::v1;
use rand::{Rng as _, RngCore as _, SeedableRng as _, rngs::SmallRng};
use tokio::task::JoinHandle;

const VALUES: Value<codec::U64, codec::Bytes> = Value::new("values");
const VALUE_BYTES: usize = 1 << 10;
/// Of the writer beside the move.
const GAP: Duration = Duration::from_millis(1);

/// A shard of so many MiB, its writer, and two servers that it goes to and fro between.
pub struct Moves {
    cluster: Cluster,
    writer: Writer,
    /// The object store that the servers share.
    _s3: S3Server,
}

struct Writer {
    latest: Arc<std::sync::Mutex<Vec<(Instant, Duration)>>>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<()>>,
}

impl Moves {
    /// Fills the shard and lets its writer go on.
    pub async fn start(mib: u64) -> Result<Self> {
        let s3 = S3Server::start("state").await?;
        let cluster = Cluster::with(2, |setup: Setup| setup.s3(&s3, "s3://state/moves")).await;
        let spec = JobBuilder::leased("job", 1).with(|spec| {
            spec.checkpoints.get_or_insert_default().interval_ms = Some(10_000);
        });
        cluster.api().create(spec.build()).await?;
        let (latest, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (filled, is_filled) = tokio::sync::oneshot::channel();
        let client = Client::connect(&cluster.coordinator.url()).await?;
        let keys = (mib << 20) / VALUE_BYTES as u64;
        let task = tokio::spawn(write(client, keys, filled, Arc::clone(&latest), stop.clone()));
        is_filled.await.context("the writer has failed")?;
        cluster.api().checkpoint("job").await?;
        Ok(Self { cluster, writer: Writer { latest, stop, task }, _s3: s3 })
    }

    /// Moves the shard to the other server. Returns how long the longest write took meanwhile, and the whole move.
    pub async fn once(&self) -> Result<(Duration, Duration)> {
        let api = self.cluster.api();
        let shard = api.describe("job").await?.shards.pop().and_then(|shard| shard.entry).context("no shard")?;
        let server = if shard.server == "server-0" { "server-1" } else { "server-0" }.to_owned();
        let v1::ShardEntry { operator, start, end, .. } = shard;
        let request = v1::MoveShardRequest { job: "job".into(), operator, start, end, server, dry_run: false };
        let began = Instant::now();
        let mut told = api.coordinator().move_shard(request).await?.into_inner();
        while told.message().await?.is_some() {}
        let took = began.elapsed();
        // The write that waited has to be heard of, too: until one is that began behind the move.
        let ended = Instant::now();
        eventually("the writer goes on", || async {
            let latest = self.writer.latest.lock().expect("no panics under this lock");
            latest.iter().any(|(at, took)| *at - *took > ended).then_some(())
        })
        .await;
        let latest = self.writer.latest.lock().expect("no panics under this lock");
        let meanwhile = latest.iter().filter(|(at, _)| *at >= began).map(|(_, took)| *took);
        Ok((meanwhile.max().context("nothing was written")?, took))
    }

    /// Ends the writer, which must not have noticed anything.
    pub async fn end(self) -> Result<()> {
        self.writer.stop.store(true, Ordering::Relaxed);
        self.writer.task.await??;
        let job = self.cluster.api().describe("job").await?;
        ensure!(job.rewinds == 0, "the job went back");
        Ok(())
    }
}

async fn write(
    client: Client,
    keys: u64,
    filled: tokio::sync::oneshot::Sender<()>,
    latest: Arc<std::sync::Mutex<Vec<(Instant, Duration)>>>,
    stop: Arc<AtomicBool>,
) -> Result<()> {
    let mut worker = client.worker("job", "op").id("writer").state(&VALUES).join().await?;
    let assigned = worker.assigned().await?;
    let values = assigned.open(&VALUES)?;
    let mut rng = SmallRng::seed_from_u64(1);
    let mut value = vec![0; VALUE_BYTES];
    for key in 0..keys {
        // Bytes that no compression makes fewer of.
        rng.fill_bytes(&mut value);
        values.put(&key, &Bytes::copy_from_slice(&value)).await?;
        worker.boundary(WorkerState::new).await?;
    }
    worker.flush().await?;
    filled.send(()).ok();
    while !stop.load(Ordering::Relaxed) {
        rng.fill_bytes(&mut value);
        let began = Instant::now();
        worker.boundary(WorkerState::new).await?;
        values.put(&rng.random_range(0..keys), &Bytes::copy_from_slice(&value)).await?;
        worker.flush().await?;
        let took = began.elapsed();
        latest.lock().expect("no panics under this lock").push((Instant::now(), took));
        tokio::time::sleep(GAP).await;
    }
    Ok(())
}
