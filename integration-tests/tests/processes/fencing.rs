//! A writer that was replaced changes nothing any more, however late it speaks.

#![cfg(feature = "rocksdb")]

use std::time::Duration;

use forebay_integration_tests::harness::{
    Answered, Api, Forebay, Job, JobBuilder, Lane, Stream, Worker, append, list, put, raw, reason, value,
};
use forebay_proto::{
    KeyGroup, MaxParallelism,
    v1::{self, ErrorReason, join_response::Message as Down},
};

const LEASE: Duration = Duration::from_millis(1500);

/// A worker with a stream and a lane to each of its shards, all by hand.
struct Writer {
    worker: Worker,
    stream: Stream,
    lanes: Vec<Lane>,
    generation: u64,
}

async fn leased(api: &Api, shards: u32) -> Job {
    let short = |spec: &mut v1::JobSpec| spec.lease_ms = LEASE.as_millis() as u64;
    let spec = JobBuilder::leased("job", shards).with(short).build();
    Job::create(api, spec, &[list("legs"), value("count")]).await
}

async fn writer(api: &Api, job: &Job, worker: &str) -> Writer {
    let mut worker = Worker::join(api, &job.info, worker).await.unwrap();
    worker.beat(LEASE / 5);
    take_up(api, job, worker).await
}

async fn take_up(api: &Api, job: &Job, mut worker: Worker) -> Writer {
    let assignment = worker.assignment().await;
    let info = v1::JobInfo { generation: assignment.generation, ..job.info.clone() };
    let mut stream = Stream::open(api, &info).await.unwrap();
    let mut lanes = Vec::new();
    for shard in &assignment.shards {
        lanes.push(stream.lane(shard.route.as_ref().unwrap(), shard.writer_epoch).await.unwrap());
    }
    Writer { worker, stream, lanes, generation: assignment.generation }
}

impl Writer {
    /// Writes to the shard that holds the key.
    async fn write(&mut self, job: &Job, seq: u64, element: &str) -> Answered<v1::BatchAnswer> {
        let lane = self.lane().clone();
        self.stream.write(&lane, seq, append(&job.states[0], KEY, element.as_bytes())).await.unwrap()
    }

    fn lane(&self) -> &Lane {
        let group = u32::from(KeyGroup::of(KEY, MaxParallelism::DEFAULT).get());
        self.lanes.iter().find(|lane| (lane.start..lane.end).contains(&group)).expect("the worker holds the shard")
    }
}

const KEY: &[u8] = b"N1";

async fn legs(api: &Api, job: &Job) -> Vec<String> {
    job.stored(api, "legs", "N1").await
}

/// Everything that a fenced writer may still try changes nothing.
async fn changes_nothing(api: &Api, job: &Job, former: &mut Writer, next_seq: u64) {
    let before = api.digest(&job.name).await.unwrap();
    let allowed = [ErrorReason::WriterFenced, ErrorReason::Rewound, ErrorReason::LaneExpired];
    let mut reasons = Vec::new();
    for seq in [next_seq, next_seq + 1, 1] {
        reasons.push(former.write(job, seq, "late").await.expect_err("it is fenced").reason());
    }
    let lane = former.lane().clone();
    let open = v1::OpenLane {
        operator: "op".into(),
        start: lane.start,
        end: lane.end,
        shard_epoch: lane.shard_epoch,
        writer_epoch: lane.writer_epoch,
        ..Default::default()
    };
    reasons.push(former.stream.open_lane(open).await.unwrap().expect_err("it is fenced").reason());
    let ops = put(&job.states[1], KEY, b"late");
    let barrier =
        v1::Barrier { checkpoint: 1, round: "made up".into(), generation: former.generation, ..Default::default() };
    reasons.push(
        former
            .stream
            .batch(v1::Batch { ops: Some(ops), ..lane.barrier(next_seq, &barrier) })
            .await
            .unwrap()
            .expect_err("it is fenced")
            .reason(),
    );
    assert!(reasons.iter().all(|reason| allowed.contains(reason)), "{reasons:?}");
    assert_eq!(api.digest(&job.name).await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_joining_of_a_worker_ends_the_first_whose_late_batches_change_nothing() {
    let forebay = Forebay::dev().await;
    let api = forebay.api();
    let job = leased(&api, 2).await;
    let mut first = writer(&api, &job, "w1").await;
    first.write(&job, 1, "lost with the first joining").await.unwrap();

    let mut second = writer(&api, &job, "w1").await;
    let ended = first.worker.ended().await;
    assert_eq!(ended.reason(), ErrorReason::WriterFenced, "{}", ended.message);
    assert!(second.generation > first.generation);
    second.write(&job, 1, "kept").await.unwrap();
    changes_nothing(&api, &job, &mut first, 2).await;
    second.write(&job, 2, "kept, too").await.unwrap();
    assert_eq!(legs(&api, &job).await, ["kept", "kept, too"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lower_writer_epoch_is_fenced_in_the_same_generation() {
    let forebay = Forebay::dev().await;
    let api = forebay.api();
    let job = leased(&api, 2).await;
    drop(writer(&api, &job, "w1").await);
    let mut second = writer(&api, &job, "w1").await;
    let lane = second.lane().clone();
    assert!(lane.writer_epoch > 1);
    second.write(&job, 1, "a").await.unwrap();

    let former = Lane { writer_epoch: lane.writer_epoch - 1, ..lane.clone() };
    let ops = || append(&job.states[0], KEY, b"b");
    let refusal = second.stream.write(&former, 2, ops()).await.unwrap().unwrap_err();
    assert_eq!(
        (refusal.reason(), refusal.metadata["epoch"].clone()),
        (ErrorReason::WriterFenced, lane.writer_epoch.to_string())
    );
    let first = append(&job.states[0], KEY, b"a");
    let resent = second
        .stream
        .write(&former, 1, first)
        .await
        .unwrap()
        .expect("what was applied is told so, even to a fenced writer");
    assert!(resent.duplicate);
    let ahead = Lane { writer_epoch: lane.writer_epoch + 1, ..lane };
    let refusal = second.stream.write(&ahead, 2, ops()).await.unwrap().unwrap_err();
    assert_eq!(refusal.reason(), ErrorReason::ServerBehind);
    assert_eq!(legs(&api, &job).await, ["a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_silent_beyond_its_lease_is_replaced_and_changes_nothing_when_it_wakes() {
    let forebay = Forebay::dev().await;
    let api = forebay.api();
    let job = leased(&api, 1).await;
    let mut asleep = writer(&api, &job, "w1").await;
    asleep.write(&job, 1, "lost with its lease").await.unwrap();
    asleep.worker.silent();
    // There is but one shard: the other one waits until it is free.
    let mut other = Worker::join(&api, &job.info, "w2").await.unwrap();
    other.beat(LEASE / 5);
    let mut other = take_up(&api, &job, other).await;
    assert!(other.generation > asleep.generation);
    other.write(&job, 1, "kept").await.unwrap();

    changes_nothing(&api, &job, &mut asleep, 2).await;
    // Its heartbeat renews nothing, and when it comes back it hears of the rewind first.
    asleep.worker.heartbeat(asleep.generation);
    assert_eq!(asleep.worker.ended().await.reason(), ErrorReason::LeaseExpired);
    let hello = v1::JoinHello { generation: asleep.generation, ..asleep.worker.hello.clone() };
    let mut again = Worker::hello(&api, hello).await.unwrap();
    let rewinding = again.wait("word of the rewind", |message| match message {
        Down::Rewinding(rewinding) => Some(rewinding),
        other => panic!("before the rewind it was told {other:?}"),
    });
    assert_eq!(rewinding.await.generation, other.generation);
    changes_nothing(&api, &job, &mut asleep, 2).await;
    assert_eq!(legs(&api, &job).await, ["kept"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_lease_nobody_writes_to_a_leased_shard() {
    let forebay = Forebay::dev().await;
    let api = forebay.api();
    let job = leased(&api, 2).await;
    let status = api.put(job.at("count", "N1"), raw("1")).await.unwrap_err();
    assert_eq!(reason(&status), ErrorReason::NotLeased);
    let mut stream = Stream::open(&api, &job.info).await.unwrap();
    let route = &job.routes[0];
    for writer_epoch in [0, 1] {
        let open = v1::OpenLane {
            operator: "op".into(),
            start: route.start,
            end: route.end,
            shard_epoch: route.epoch,
            writer_epoch,
            ..Default::default()
        };
        let refusal = stream.open_lane(open).await.unwrap().unwrap_err();
        let wanted = if writer_epoch == 0 { ErrorReason::NotLeased } else { ErrorReason::ServerBehind };
        assert_eq!(refusal.reason(), wanted, "{}", refusal.message);
    }
}
