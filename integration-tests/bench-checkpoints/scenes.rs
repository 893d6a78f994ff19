//! What is measured over real processes.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use forebay_integration_tests::{
    bench::rows::{NO_TARGET, Rows, Series, median},
    harness::{Cluster, Setup},
    s3::{ACCESS_KEY_ID, Operation, REGION, S3Server, SECRET_ACCESS_KEY},
};
use forebay_proto::v1;
use forebay_server::checkpoint::{
    objects::ObjectStore as _,
    s3::{S3Config, S3Store},
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio_util::sync::CancellationToken;

use crate::{
    Scale,
    load::{Loader, VALUE_BYTES},
    stand::{JOB, Stand, bytes_below, create},
};

/// Bytes that change between two checkpoints of one duration.
const CHANGED: u64 = 10;
const SIZES: [(u64, &str); 3] = [(100, "0g1"), (1_000, "1g"), (5_000, "5g")];

/// Checkpoints that build on another: bytes after one key in a hundred has changed, and how long it takes as the
/// state grows and the changes do not.
pub async fn incremental(scale: Scale, rows: &mut Rows) -> Result<()> {
    let (mut durations, mut points) = (Vec::new(), Vec::new());
    for (size, name) in SIZES {
        let stand = Stand::start(Setup::dev(), 2, scale.bytes(size)).await?;
        stand.settle().await?;
        let mut loader = stand.loader().await?;
        let (mut took, mut bytes) = (Vec::new(), Vec::new());
        for run in 0..scale.runs as u64 {
            let keys = scale.bytes(CHANGED) / VALUE_BYTES as u64;
            loader.write((0..keys).map(|key| (key * 7_919 + run) % stand.keys)).await?;
            let begun = Instant::now();
            stand.checkpoint().await?;
            took.push(begun.elapsed().as_secs_f64() * 1e3);
            stand.settle().await?;
            if name == "5g" {
                loader.write((0..stand.keys / 100).map(|key| (key * 7_907 + run) % stand.keys)).await?;
                let changed = stand.checkpoint().await?;
                bytes.push((changed.new_bytes as f64, changed.full_bytes as f64));
                stand.settle().await?;
            }
        }
        points.push((size as f64 / 1e3, median(&took)));
        rows.absolute(format!("incremental_ms_{name}"), "ms", NO_TARGET, took.clone());
        durations.push(took);
        if name == "5g" {
            rows.ratio("incremental_bytes", "bytes", "≤ 0.10", &bytes);
        }
    }
    let pairs: Vec<_> = durations[2].iter().copied().zip(durations[0].iter().copied()).collect();
    rows.ratio("incremental_ms_5g_vs_0g1", "ms", "≤ 1.5", &pairs);
    let axes = ("state, GB", "ms");
    let name = "10 MB changed".to_owned();
    rows.series.push(Series { plot: "incremental", name, axes, points });
    Ok(())
}

/// Writes a second while checkpoints follow each other, their uploads held to 50 MB a second, and without any. Each from
/// a settled state and after the same seconds of load, so that flushes and compactions are as far behind; which one
/// comes first alternates, for the state grows older.
pub async fn throughput(scale: Scale, rows: &mut Rows) -> Result<()> {
    let setup = Setup::dev().set("checkpoint.upload_bytes_per_second", "50MB");
    let stand = Stand::start(setup, 2, scale.bytes(300)).await?;
    let mut loader = stand.loader().await?;
    let mut pairs = Vec::new();
    for run in 0..scale.runs {
        let with_first = run % 2 == 1;
        let first = loaded(&stand, &mut loader, scale, with_first).await?;
        let second = loaded(&stand, &mut loader, scale, !with_first).await?;
        pairs.push(if with_first { (first, second) } else { (second, first) });
    }
    rows.ratio("throughput_while_checkpointing", "ops/s", "≥ 0.85", &pairs);
    Ok(())
}

async fn loaded(stand: &Stand, loader: &mut Loader, scale: Scale, checkpoints: bool) -> Result<f64> {
    stand.settle().await?;
    rate(loader, stand.keys, scale.seconds(4.0)).await?;
    let stop = CancellationToken::new();
    let taking = tokio::spawn({
        let (api, stop) = (stand.api(), stop.clone());
        async move {
            let mut taken = 0;
            while checkpoints && !stop.is_cancelled() {
                api.checkpoint(JOB).await?;
                taken += 1;
            }
            anyhow::Ok(taken)
        }
    });
    let written = rate(loader, stand.keys, scale.seconds(5.0)).await?;
    stop.cancel();
    ensure!(taking.await?? > 0 || !checkpoints, "no checkpoint was taken meanwhile");
    Ok(written)
}

async fn rate(loader: &mut Loader, keys: u64, duration: Duration) -> Result<f64> {
    let (begun, mut drawn) = (Instant::now(), loader.writes);
    let next = std::iter::from_fn(|| {
        drawn += 1;
        (begun.elapsed() < duration).then(|| drawn.wrapping_mul(0x9e37_79b9) % keys)
    });
    let written = loader.write(next).await?;
    Ok(written as f64 / begun.elapsed().as_secs_f64())
}

/// Bytes that reach the store while a job goes on, beside those that are new on its disk.
pub async fn amplification(scale: Scale, rows: &mut Rows) -> Result<()> {
    let setup = Setup::dev().set("coordinator.collect_interval", "0s");
    let stand = Stand::start(setup, 2, scale.bytes(500)).await?;
    stand.settle().await?;
    let mut loader = stand.loader().await?;
    let store = std::path::PathBuf::from(stand.forebay.setup().checkpoints());
    let mut seen = New::default();
    seen.of(&stand.api().manifest(JOB, 0).await?);
    let mut pairs = Vec::new();
    for _ in 0..scale.runs {
        let before = bytes_below(&store)?;
        let mut new = 0;
        for _ in 0..10 {
            let keys = scale.bytes(20) / VALUE_BYTES as u64;
            let first = loader.writes;
            loader.write((first..first + keys).map(|key| key.wrapping_mul(0x9e37_79b9) % stand.keys)).await?;
            let checkpoint = stand.checkpoint().await?;
            new += seen.of(&stand.api().manifest(JOB, checkpoint.id).await?);
        }
        pairs.push(((bytes_below(&store)? - before) as f64, new as f64));
    }
    rows.ratio("upload_amplification", "bytes", "≤ 1.3", &pairs);
    Ok(())
}

/// What manifests have named so far: by identity of a file the bytes that are known of it.
#[derive(Default)]
struct New(HashMap<String, u64>);

impl New {
    /// Bytes of SSTs that are new, and bytes that logs have grown by.
    fn of(&mut self, manifest: &v1::Manifest) -> u64 {
        let mut new = 0;
        for file in manifest.shards.iter().flat_map(|shard| &shard.files) {
            let id = if file.sst_id.is_empty() { &file.log_id } else { &file.sst_id };
            if !id.is_empty() {
                let known = self.0.entry(id.clone()).or_default();
                new += (file.at + file.length).saturating_sub(*known);
                *known = (*known).max(file.at + file.length);
            }
        }
        new
    }
}

/// Requests that write to an S3 server for one checkpoint of 64 shards with 10 states on 3 servers.
pub async fn puts(scale: Scale, rows: &mut Rows) -> Result<()> {
    let s3 = S3Server::start("puts").await?;
    let cluster = Cluster::with(3, |setup| setup.s3(&s3, "s3://puts/cluster").set("telemetry.log", "warn")).await;
    let states: Vec<String> = (0..10).map(|state| format!("state-{state}")).collect();
    create(&cluster.api(), 64, &states).await?;
    let mut loader = Loader::open(&cluster.coordinator.url(), JOB, &states).await?;
    let keys = scale.bytes(100) / VALUE_BYTES as u64;
    loader.write(0..keys).await?;
    cluster.api().checkpoint(JOB).await?;
    let (mut counted, mut told) = (Vec::new(), Vec::new());
    for run in 0..scale.runs as u64 {
        let changed = scale.bytes(20) / VALUE_BYTES as u64;
        loader.write((0..changed).map(|key| (key * 7 + run) % keys)).await?;
        s3.clear_log();
        let checkpoint = cluster.api().checkpoint(JOB).await?;
        let writes = s3.log().iter().filter(|call| is_write(call.operation) && !call.key.ends_with("leader")).count();
        counted.push(writes as f64);
        told.push(checkpoint.puts as f64);
    }
    rows.absolute("puts_per_checkpoint", "requests", "≤ 8", counted);
    rows.absolute("puts_per_checkpoint_told", "requests", NO_TARGET, told);
    Ok(())
}

fn is_write(operation: Operation) -> bool {
    use Operation::{CompleteUpload, CreateUpload, Put, PutIfAbsent, PutIfMatch, UploadPart};
    matches!(operation, Put | PutIfAbsent | PutIfMatch | CreateUpload | UploadPart | CompleteUpload)
}

/// A restore of 2 GB from an S3 server onto an empty disk, beside plain GETs of the same objects to the same disk.
pub async fn download(scale: Scale, rows: &mut Rows) -> Result<()> {
    let s3 = S3Server::start("download").await?;
    let mut stand = Stand::start(Setup::dev().s3(&s3, "s3://download/cluster"), 4, scale.bytes(2_000)).await?;
    let checkpoint = stand.settle().await?;
    let raw = open_raw(&s3).await?;
    let mut pairs = Vec::new();
    for _ in 0..scale.runs {
        stand.forebay.kill().await;
        stand.forebay.delete_data();
        let begun = Instant::now();
        stand.forebay.restart().await;
        stand.api().serving(JOB).await;
        let ours = begun.elapsed().as_secs_f64();
        let (bytes, theirs) = fetch_all(&raw, stand.forebay.setup().home()).await?;
        ensure!(bytes >= checkpoint.full_bytes, "{bytes} of {} bytes were fetched", checkpoint.full_bytes);
        pairs.push((checkpoint.full_bytes as f64 / ours, bytes as f64 / theirs));
    }
    rows.ratio("restore_vs_raw_get", "bytes/s", "≥ 0.8", &pairs);
    Ok(())
}

async fn open_raw(s3: &S3Server) -> Result<S3Store> {
    let (endpoint, region) = (Some(s3.endpoint()), Some(REGION.to_owned()));
    let config = S3Config { endpoint, region, path_style: true, ..S3Config::default() };
    Ok(S3Store::open_with_key("s3://download/cluster", &config, ACCESS_KEY_ID, SECRET_ACCESS_KEY).await?)
}

/// Fetches all shared objects, 16 ranges of 8 MB at a time, and writes them; returns bytes and seconds.
async fn fetch_all(store: &S3Store, home: &std::path::Path) -> Result<(u64, f64)> {
    const RANGE: u64 = 8 << 20;
    let dir = tempfile::tempdir_in(home)?;
    let begun = Instant::now();
    let mut ranges = Vec::new();
    for (index, object) in store.list("").await?.into_iter().filter(|it| it.path.contains("/shared/")).enumerate() {
        let file = Arc::new(std::fs::File::create(dir.path().join(index.to_string()))?);
        for start in (0..object.length).step_by(usize::try_from(RANGE)?) {
            ranges.push((object.path.clone(), start..object.length.min(start + RANGE), file.clone()));
        }
    }
    let fetched = stream::iter(ranges).map(async |(path, range, file)| {
        use std::os::unix::fs::FileExt as _;
        let bytes = store.get_range(&path, range.clone()).await?;
        let length = bytes.len() as u64;
        tokio::task::spawn_blocking(move || file.write_all_at(&bytes, range.start)).await??;
        anyhow::Ok(length)
    });
    let bytes = fetched.buffer_unordered(16).try_fold(0, async |sum, length| Ok(sum + length)).await?;
    Ok((bytes, begun.elapsed().as_secs_f64()))
}

/// 5 GB taken back to a checkpoint by hard links, and split in four.
pub async fn split(scale: Scale, rows: &mut Rows) -> Result<()> {
    let stand = Stand::start(Setup::dev(), 1, scale.bytes(5_000)).await?;
    let checkpoint = stand.settle().await?.id;
    let (mut same, mut four) = (Vec::new(), Vec::new());
    for _ in 0..scale.runs {
        same.push(stand.restore(checkpoint, 1).await?);
        four.push(stand.restore(checkpoint, 4).await?);
    }
    rows.absolute("local_restore_s", "s", "≤ 3", same);
    rows.absolute("split_s", "s", "≤ 5", four);
    Ok(())
}
