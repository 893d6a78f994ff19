//! Shards are split and merged, and workers come and go, while others work: nothing goes back. docs/placement.md.

#![cfg(feature = "rocksdb")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use forebay_client::{
    Client, Error, MergeFunction, Reducing, WorkerState,
    codec::{I64, U64, Utf8},
};
use forebay_integration_tests::harness::{
    Api, Cluster, Forebay, Job, JobBuilder, binary, eventually, raw, reason, value, within,
};
use forebay_proto::v1::{self, ErrorReason, Redistribution};
use tokio::{process::Command, task::JoinHandle};
use tonic::Status;

use crate::counting::Counting;

fn job() -> JobBuilder {
    JobBuilder::leased("job", 2).with(|spec| spec.checkpoints.get_or_insert_default().interval_ms = Some(1_000))
}

async fn split(api: &Api, start: u32, end: u32, at: &[u32]) -> Result<Vec<v1::ShardProgress>, Status> {
    let (job, operator, at) = ("job".into(), "op".into(), at.to_vec());
    let request = v1::SplitShardRequest { job, operator, start, end, at, dry_run: false };
    let mut told = api.coordinator().split_shard(request).await?.into_inner();
    let mut steps = Vec::new();
    while let Some(step) = within("the split goes on", told.message()).await? {
        steps.extend(step.progress);
    }
    Ok(steps)
}

async fn merge(api: &Api, start: u32, end: u32) -> Result<Vec<v1::ShardProgress>, Status> {
    let (job, operator) = ("job".into(), "op".into());
    let request = v1::MergeShardsRequest { job, operator, start, end, dry_run: false };
    let mut told = api.coordinator().merge_shards(request).await?.into_inner();
    let mut steps = Vec::new();
    while let Some(step) = within("the merge goes on", told.message()).await? {
        steps.extend(step.progress);
    }
    Ok(steps)
}

async fn ranges(api: &Api) -> Vec<(u32, u32)> {
    let job = api.describe("job").await.unwrap();
    job.shards.into_iter().filter_map(|shard| shard.entry).map(|entry| (entry.start, entry.end)).collect()
}

/// Splits and merges across both servers, with faults between, and counts every record once.
async fn shards_are_cut_under_load(spec: v1::JobSpec) {
    let mut cluster = Cluster::start(2).await;
    let api = cluster.api();
    let is_on_disk = spec.backend() != v1::Backend::Memory;
    api.create(spec).await.unwrap();
    let counting = Counting::start(&cluster.coordinator.url()).await;
    let mut pauses = Vec::new();
    counting.longest();
    let steps = split(&api, 0, 64, &[16, 40]).await.unwrap();
    let done: Vec<_> = steps.iter().filter(|it| it.step == "done").map(|it| (it.start, it.end)).collect();
    assert_eq!(done, [(0, 16), (16, 40), (40, 64)]);
    counting.goes_on("it counts in the parts").await;
    pauses.push(counting.longest());
    assert_eq!(ranges(&api).await, [(0, 16), (16, 40), (40, 64), (64, 128)]);
    merge(&api, 16, 64).await.unwrap();
    counting.goes_on("it counts in the whole").await;
    pauses.push(counting.longest());
    // The last one is on the other server: it moves first.
    let steps = merge(&api, 16, 128).await.unwrap();
    assert!(steps.iter().any(|it| (it.start, it.end, it.step.as_str()) == (64, 128, "hand over")), "{steps:?}");
    counting.goes_on("it counts in what was brought together").await;
    pauses.push(counting.longest());
    assert_eq!(ranges(&api).await, [(0, 16), (16, 128)]);
    let job = api.describe("job").await.unwrap();
    assert_eq!((job.generation, job.rewinds), (1, 0), "nothing went back");
    println!("longest times of a write around a cut: {pauses:?}");
    if is_on_disk {
        let checkpoint = api.checkpoint("job").await.unwrap();
        assert!(checkpoint.new_bytes < checkpoint.full_bytes, "what was cut is uploaded anew: {checkpoint:?}");
        // What was cut is there when its server comes back.
        for server in &mut cluster.servers {
            server.kill_and_restart().await;
        }
        cluster.linked().await;
        api.serving("job").await;
        counting.goes_on("it counts behind the restart").await;
        assert_eq!(api.describe("job").await.unwrap().rewinds, 0);
    }
    split(&api, 16, 128, &[64]).await.unwrap();
    counting.ends().await;
    let request = v1::VerifyCheckpointRequest { job: "job".into(), checkpoint: 0 };
    let verified = api.coordinator().verify_checkpoint(request).await.unwrap().into_inner();
    assert!(verified.missing.is_empty() && verified.damaged.is_empty(), "{verified:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_on_rocksdb_are_split_and_merged_while_their_writer_works() {
    shards_are_cut_under_load(job().build()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_in_memory_are_split_and_merged_while_their_writer_works() {
    shards_are_cut_under_load(job().in_memory().build()).await;
}

/// A shared operator has no writer that could stop: its shards serve nothing for moments, and callers try again.
#[tokio::test(flavor = "multi_thread")]
async fn shards_of_a_shared_operator_are_split_and_merged_between_two_writes() {
    let forebay = Forebay::dev().await;
    let api = forebay.api();
    let job = Job::create(&api, JobBuilder::shared("job", 2).build(), &[value("last")]).await;
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writing = {
        let (api, stop, all) = (forebay.api(), stop.clone(), written.clone());
        let at: Vec<_> = (0..40).map(|key| job.at("last", &format!("key-{key}"))).collect();
        tokio::spawn(async move {
            let mut written = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let key = usize::try_from(written % 40).unwrap();
                match api.put(at[key].clone(), raw(written.to_string())).await {
                    Ok(_) => {
                        written += 1;
                        all.store(written, Ordering::Relaxed);
                    }
                    Err(status) => {
                        let again = [ErrorReason::ShardRestoring, ErrorReason::ShardMoved, ErrorReason::ServerBehind];
                        assert!(again.contains(&reason(&status)), "{status}");
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            }
            written
        })
    };
    split(&api, 0, 64, &[32]).await.unwrap();
    merge(&api, 32, 128).await.unwrap();
    assert_eq!(ranges(&api).await, [(0, 32), (32, 128)]);
    let before = written.load(Ordering::Relaxed);
    eventually("it writes in the new ranges", || async {
        (written.load(Ordering::Relaxed) > before + 40).then_some(())
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    let written = writing.await.unwrap();
    for key in 0..40 {
        let last = (0..written).rev().find(|number| number % 40 == key).unwrap();
        let stored = job.stored(&api, "last", &format!("key-{key}")).await;
        assert_eq!(stored, [last.to_string()], "an acknowledged write is gone");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forebayctl_splits_and_merges_and_a_dry_run_does_not() {
    let forebay = Forebay::dev().await;
    let (api, url) = (forebay.api(), forebay.url());
    api.create(JobBuilder::shared("job", 2).build()).await.unwrap();
    api.serving("job").await;
    let forebayctl = async |arguments: &[&str]| {
        let mut command = Command::new(binary("forebayctl"));
        let output = command.args(["--server", &url, "-o", "json", "shards"]).args(arguments).output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let row = |it: &serde_json::Value| (it["start"].clone(), it["end"].clone(), it["status"].clone());
        told["moves"].as_array().unwrap().iter().map(row).collect::<Vec<_>>()
    };
    let rows = |ranges: &[(u32, u32)], status: &str| {
        ranges.iter().map(|(start, end)| ((*start).into(), (*end).into(), status.into())).collect::<Vec<_>>()
    };
    let would = forebayctl(&["split", "job", "op", "0-64", "--at", "16,40", "--dry-run"]).await;
    assert_eq!(
        (would, ranges(&api).await),
        (rows(&[(0, 16), (16, 40), (40, 64)], "would be"), vec![(0, 64), (64, 128)])
    );
    let split = forebayctl(&["split", "job", "op", "0-64", "--at", "16,40"]).await;
    assert_eq!(split, rows(&[(0, 16), (16, 40), (40, 64)], "done"));
    assert_eq!(forebayctl(&["merge", "job", "op", "0-40"]).await, rows(&[(0, 40)], "done"));
    assert_eq!(ranges(&api).await, [(0, 40), (40, 64), (64, 128)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_cut_is_told() {
    let forebay = Forebay::dev().await;
    let api = forebay.api();
    api.create(job().build()).await.unwrap();
    api.serving("job").await;
    let cases = [
        (split(&api, 0, 64, &[]).await, ErrorReason::FieldInvalid, "cannot be split at []"),
        (split(&api, 0, 64, &[64]).await, ErrorReason::FieldInvalid, "cannot be split at [64]"),
        (split(&api, 0, 60, &[8]).await, ErrorReason::ShardUnknown, "there is no shard op [0,60)"),
        (merge(&api, 0, 100).await, ErrorReason::ShardUnknown, "from 0 to 100"),
        (split(&api, 0, 64, &[8]).await, ErrorReason::CheckpointAborted, "has no workers: start them first"),
    ];
    for (told, expected, message) in cases {
        let status = told.unwrap_err();
        assert_eq!(reason(&status), expected, "{status}");
        assert!(status.message().contains(message), "{status}");
    }
    assert_eq!(ranges(&api).await, [(0, 64), (64, 128)]);
}

const SUM: Reducing<Utf8, I64> = Reducing::new("sum", MergeFunction::SumI64);

/// A worker that counts in whatever it holds; how much is worker state, handed on as elements of a list.
struct Member {
    stop: Arc<AtomicBool>,
    counted: Arc<AtomicU64>,
    sessions: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Member {
    async fn join(url: &str, id: &'static str) -> Self {
        let client = Client::connect(url).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (counted, sessions) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let task = tokio::spawn(count(client, id, stop.clone(), counted.clone(), sessions.clone()));
        let member = Self { stop, counted, sessions, task };
        member.goes_on().await;
        member
    }

    async fn goes_on(&self) {
        let before = self.counted.load(Ordering::Relaxed);
        eventually("the worker counts", || async {
            (self.counted.load(Ordering::Relaxed) > before + 50).then_some(())
        })
        .await;
    }

    async fn finishes(self) {
        self.stop.store(true, Ordering::Relaxed);
        within("the worker leaves", self.task).await.unwrap();
    }
}

async fn count(client: Client, id: &str, stop: Arc<AtomicBool>, counted: Arc<AtomicU64>, sessions: Arc<AtomicU64>) {
    let mut worker = client.worker("job", "op").id(id).state(&SUM).join().await.unwrap();
    'session: loop {
        let assigned = worker.assigned().await.unwrap();
        sessions.fetch_add(1, Ordering::Relaxed);
        let sums = assigned.open(&SUM).unwrap();
        let mine: Vec<_> =
            (0..60).map(|key| format!("key-{key}")).filter(|key| assigned.holds(key.as_bytes())).collect();
        let mut all: u64 = assigned.worker_state().values::<U64, u64>("counted").unwrap().iter().sum();
        let state = |all: &u64| WorkerState::new().list("counted", Redistribution::Split, [all.to_be_bytes().to_vec()]);
        loop {
            match worker.boundary(|| state(&all)).await {
                Err(Error::Rewound { .. }) => continue 'session,
                other => other.unwrap(),
            }
            if stop.load(Ordering::Relaxed) {
                match worker.finish(|| state(&all)).await {
                    Err(Error::Rewound { .. }) => continue 'session,
                    other => drop(other.unwrap()),
                }
                return;
            }
            let key = &mine[usize::try_from(all).unwrap() % mine.len()];
            match sums.add(key, &1).await {
                Err(Error::Rewound { .. }) => continue 'session,
                other => other.unwrap(),
            }
            all += 1;
            if counted.fetch_add(1, Ordering::Relaxed).is_multiple_of(64) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

/// `recovery: job`: a stop takes the place of the rewind.
#[tokio::test(flavor = "multi_thread")]
async fn workers_that_join_and_finish_take_nothing_back_and_every_record_counts_once() {
    let forebay = Forebay::dev().await;
    let api = forebay.api();
    api.create(JobBuilder::leased("job", 4).build()).await.unwrap();
    let url = forebay.url();
    let first = Member::join(&url, "first").await;
    let second = Member::join(&url, "second").await;
    first.goes_on().await;
    let third = Member::join(&url, "third").await;
    second.finishes().await;
    first.goes_on().await;
    third.goes_on().await;
    assert!(first.sessions.load(Ordering::Relaxed) >= 4, "it was not given other shares");
    let job = api.describe("job").await.unwrap();
    assert_eq!((job.generation, job.rewinds), (1, 0), "nothing went back");
    third.finishes().await;
    first.finishes().await;
    let job = api.describe("job").await.unwrap();
    assert_eq!((job.generation, job.rewinds), (1, 0));

    let client = Client::connect(&url).await.unwrap();
    let mut last = client.worker("job", "op").id("last").state(&SUM).join().await.unwrap();
    let assigned = last.assigned().await.unwrap();
    let all: u64 = assigned.worker_state().values::<U64, u64>("counted").unwrap().iter().sum();
    let (sums, mut sum) = (assigned.open(&SUM).unwrap(), 0);
    for key in 0..60 {
        sum += sums.get(&format!("key-{key}")).await.unwrap().unwrap_or(0);
    }
    assert_eq!(u64::try_from(sum).unwrap(), all);
}
