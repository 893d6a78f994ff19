//! Shards and snapshots that another engine owns: what it asks for, one call at a time. What Flink does with it over
//! many checkpoints and attempts is in `flink.rs`.

mod flink;

use forebay_integration_tests::harness::{
    Cluster, Engine, Forebay, JobBuilder, KEY_GROUPS, Setup, Subtask, Worker, eventually, key_group, list, reason,
};
use forebay_proto::v1::{self, Backend, ErrorReason};

const ALL: (u32, u32) = (0, KEY_GROUPS);
const HALVES: [(u32, u32); 2] = [(0, 64), (64, 128)];

fn on(backend: Backend) -> impl FnOnce(&mut v1::JobSpec) {
    move |spec| spec.set_backend(backend)
}

fn backends() -> Vec<Backend> {
    if cfg!(feature = "rocksdb") { vec![Backend::Rocksdb, Backend::Memory] } else { vec![Backend::Memory] }
}

async fn fill(subtask: &mut Subtask, keys: std::ops::Range<u32>, value: &str) {
    for key in keys.map(|key| format!("key-{key}")) {
        if subtask.holds(&key) {
            subtask.put(&key, value).await;
        }
    }
}

async fn values(subtask: &mut Subtask, keys: std::ops::Range<u32>) -> Vec<Option<String>> {
    let mut values = Vec::new();
    for key in keys.map(|key| format!("key-{key}")) {
        if subtask.holds(&key) {
            values.push(subtask.get(&key).await);
        }
    }
    values
}

fn all_are(values: &[Option<String>], expected: Option<&str>) -> bool {
    !values.is_empty() && values.iter().all(|value| value.as_deref() == expected)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_exactly_what_its_lane_had_written_and_waits_for_it() {
    for backend in backends() {
        let forebay = Forebay::dev().await;
        let engine = Engine::create(&forebay.api(), on(backend)).await;
        let mut task = engine.open(ALL, 1, &[]).await.unwrap();
        task.put("a", "1").await;
        // Asked for before the batch is there, and answered behind it, whatever comes after.
        let early = v1::TakeSnapshotRequest { after: 2, ..task.request("early") };
        let api = engine.api.clone();
        let early = tokio::spawn(async move { api.snapshots().take_snapshot(early).await });
        let waits = task.frozen("early");
        let writes = async {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        };
        tokio::select! {
            frozen = waits => panic!("frozen before its batch came: {frozen:?}"),
            () = writes => {}
        }
        task.put("a", "2").await;
        assert!(task.frozen("early").await.unwrap() > 0);
        task.put("a", "3").await;
        let handle = early.await.unwrap().unwrap().into_inner().handle.unwrap();
        let rows = task.rows(v1::ReadSnapshotRequest { handle: Some(handle), ..Default::default() }).await.unwrap();
        assert_eq!(rows, [(key_group("a"), "a".into(), "2".into())], "{backend:?}");
        let past = v1::TakeSnapshotRequest { after: 2, ..task.request("past") };
        let past = task.take_by(past).await.unwrap_err();
        assert_eq!(reason(&past), ErrorReason::CheckpointAborted);
        assert!(past.message().contains("at batch 3, past 2"), "{past:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_id_again_is_the_first_handle_even_after_the_server_was_started_anew() {
    let mut forebay = Forebay::dev().await;
    let engine = Engine::create(&forebay.api(), |_| {}).await;
    let mut task = engine.open(ALL, 1, &[]).await.unwrap();
    task.put("a", "1").await;
    let (one, other) = tokio::join!(task.take("1"), task.take("1"));
    let first = one.unwrap();
    assert_eq!(first, other.unwrap());
    assert_eq!((&first.user_bytes[..], first.empty, first.frozen_ms > 0), (&b"1"[..], false, true));
    task.put("a", "2").await;
    assert_eq!(task.take_by(task.request("1")).await.unwrap(), first, "not what is there now");
    forebay.kill_and_restart().await;
    let (request, again) = (task.request("1"), Engine { api: forebay.api(), ..engine });
    let found = eventually("the server serves again", || async {
        let found = again.api.snapshots().take_snapshot(request.clone()).await;
        found.ok().and_then(|found| found.into_inner().handle)
    });
    assert_eq!(found.await, first);
    assert_eq!(again.list().await.unwrap(), [first]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_is_restored_whole_split_merged_and_in_part() {
    for backend in backends() {
        let forebay = Forebay::dev().await;
        let engine = Engine::create(&forebay.api(), on(backend)).await;
        let mut task = engine.open(ALL, 1, &[]).await.unwrap();
        fill(&mut task, 0..200, "first").await;
        let whole = task.take("1").await.unwrap();
        fill(&mut task, 0..200, "lost").await;

        let mut handles = Vec::new();
        for range in HALVES {
            let mut half = engine.open(range, 2, std::slice::from_ref(&whole)).await.unwrap();
            assert!(all_are(&values(&mut half, 0..200).await, Some("first")), "{backend:?} {range:?}");
            fill(&mut half, 0..100, "second").await;
            handles.push(half.take("2").await.unwrap());
        }
        let fenced = task.try_put("key-1", "late").await.unwrap_err();
        assert!(
            matches!(fenced, ErrorReason::ShardMoved | ErrorReason::LaneExpired | ErrorReason::WriterFenced),
            "{fenced:?}"
        );
        let mut merged = engine.open(ALL, 3, &handles).await.unwrap();
        assert!(all_are(&values(&mut merged, 0..100).await, Some("second")));
        assert!(all_are(&values(&mut merged, 100..200).await, Some("first")));
        let three = merged.take("3").await.unwrap();
        // What is in the middle of both halves, and nothing of the rest.
        let part =
            |handle: &v1::SnapshotHandle, start, end| v1::RestorePart { handle: Some(handle.clone()), start, end };
        let parts = vec![part(&handles[0], 32, 64), part(&handles[1], 64, 80)];
        let mut middle = engine.open_parts((16, 96), 4, parts).await.unwrap();
        for key in (0..100).map(|key| format!("key-{key}")).filter(|key| (16..96).contains(&key_group(key))) {
            let expected = (32..80).contains(&key_group(&key)).then(|| "second".to_owned());
            assert_eq!(middle.get(&key).await, expected, "{key} in {}", key_group(&key));
        }
        // One handle in part: the rest begins empty.
        let mut left = engine.open_parts(ALL, 5, vec![part(&three, 0, 10)]).await.unwrap();
        for key in (0..100).map(|key| format!("key-{key}")) {
            let expected = (key_group(&key) < 10).then(|| "second".to_owned());
            assert_eq!(left.get(&key).await, expected, "{key} in {}", key_group(&key));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_attempt_can_do_nothing() {
    let forebay = Forebay::dev().await;
    let engine = Engine::create(&forebay.api(), |_| {}).await;
    let mut old = engine.open(HALVES[0], 1, &[]).await.unwrap();
    let key = (0..).map(|key| format!("key-{key}")).find(|key| old.holds(key)).unwrap();
    old.put(&key, "1").await;
    let again = engine.open(HALVES[0], 1, &[]).await.unwrap();
    assert_eq!(again.opened.writer_epoch, old.opened.writer_epoch, "the same token is the same opening");
    let mut new = engine.open(ALL, 2, &[]).await.unwrap();
    new.put(&key, "2").await;
    assert_eq!(reason(&engine.open(HALVES[0], 1, &[]).await.unwrap_err()), ErrorReason::WriterFenced);
    assert_eq!(reason(&engine.open(HALVES[1], 1, &[]).await.unwrap_err()), ErrorReason::WriterFenced);
    assert_eq!(reason(&engine.open(HALVES[0], 2, &[]).await.unwrap_err()), ErrorReason::AlreadyExists);
    let late = old.take("late").await.unwrap_err();
    assert!(matches!(reason(&late), ErrorReason::ShardMoved | ErrorReason::WriterFenced), "{late:?}");
    let stale = v1::TakeSnapshotRequest { token: 1, ..new.request("late") };
    assert_eq!(reason(&new.take_by(stale).await.unwrap_err()), ErrorReason::WriterFenced);
    old.close().await.unwrap();
    let stale = v1::CloseShardRequest { shard: Some(new.shard.clone()), token: 1 };
    let refused = engine.api.snapshots().close_shard(stale).await.unwrap_err();
    assert_eq!(reason(&refused), ErrorReason::WriterFenced);
    assert_eq!(new.get(&key).await.as_deref(), Some("2"), "it stands as it was");
    new.close().await.unwrap();
    assert_eq!(reason(&engine.open(HALVES[0], 1, &[]).await.unwrap_err()), ErrorReason::WriterFenced, "closed, too");
    let mut next = engine.open(HALVES[0], 3, &[]).await.unwrap();
    assert_eq!(next.get(&key).await, None, "a closed shard leaves nothing behind");
}

#[cfg(feature = "rocksdb")]
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_sends_what_its_base_lacks_as_far_as_its_policy_says() {
    let forebay = Forebay::dev().await;
    let engine = Engine::create(&forebay.api(), |_| {}).await;
    let mut task = engine.open(ALL, 1, &[]).await.unwrap();
    fill(&mut task, 0..300, "first").await;
    let first = task.take("1").await.unwrap();
    assert_eq!(first.new_bytes, first.snapshot.as_ref().unwrap().full_bytes);
    task.put("key-1", "second").await;
    // The notification is lost.
    let second = task.take("2").await.unwrap();
    assert!(second.new_bytes >= first.new_bytes, "nobody has called the first complete");
    task.completed("2").await.unwrap();
    task.put("key-1", "third").await;
    let third = task.take("3").await.unwrap();
    assert!(third.new_bytes * 3 < first.new_bytes, "{} of {}", third.new_bytes, first.new_bytes);
    task.aborted("3").await.unwrap();
    for (id, policy, shares) in [
        ("4", v1::BasePolicy::NoSharing, false),
        ("5", v1::BasePolicy::Forward, false),
        ("6", v1::BasePolicy::ForwardBackward, true),
    ] {
        let request = v1::TakeSnapshotRequest { base_policy: policy.into(), ..task.request(id) };
        let taken = task.take_by(request).await.unwrap();
        task.completed(id).await.unwrap();
        assert_eq!(taken.new_bytes * 3 < first.new_bytes, shares, "{policy:?}: {} bytes", taken.new_bytes);
    }
    // A restored shard knows what it was restored from.
    let mut next = engine.open(ALL, 2, std::slice::from_ref(&third)).await.unwrap();
    next.put("key-1", "fourth").await;
    let taken = next.take("7").await.unwrap();
    assert!(taken.new_bytes * 2 < first.new_bytes, "{} of {}", taken.new_bytes, first.new_bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_snapshot_goes_and_what_others_share_with_it_stays() {
    for backend in backends() {
        let forebay = Setup::dev().set("coordinator.collect_min_age", "0s").start().await;
        let engine = Engine::create(&forebay.api(), on(backend)).await;
        let mut task = engine.open(ALL, 1, &[]).await.unwrap();
        fill(&mut task, 0..100, "first").await;
        let first = task.take("1").await.unwrap();
        task.completed("1").await.unwrap();
        task.put("key-1", "second").await;
        let second = task.take("2").await.unwrap();
        // Anybody may, and as often as they like.
        let stranger = Engine { api: forebay.api(), ..engine.clone() };
        assert!(stranger.discard(&first).await.unwrap());
        assert!(!engine.discard(&first).await.unwrap());
        let unknown = v1::SnapshotHandle { job: "no such job".into(), ..first.clone() };
        assert!(!engine.discard(&unknown).await.unwrap());
        assert_eq!(engine.list().await.unwrap(), std::slice::from_ref(&second));
        let request = v1::CollectGarbageRequest { job: "job".into(), ..Default::default() };
        let gone = engine.api.coordinator().collect_garbage(request).await.unwrap().into_inner().objects;
        let manifest = |handle: &v1::SnapshotHandle| handle.snapshot.clone().unwrap().manifest;
        assert!(gone.contains(&manifest(&first)) && !gone.contains(&manifest(&second)), "{gone:?}");
        let read = |handle: &v1::SnapshotHandle| v1::ReadSnapshotRequest {
            handle: Some(handle.clone()),
            ..Default::default()
        };
        assert_eq!(reason(&task.rows(read(&first)).await.unwrap_err()), ErrorReason::CheckpointUnknown);
        let gone = engine.open(ALL, 2, std::slice::from_ref(&first)).await.unwrap_err();
        assert_eq!(reason(&gone), ErrorReason::CheckpointUnknown);
        assert_eq!(task.rows(read(&second)).await.unwrap().len(), 100);
        let mut next = engine.open(ALL, 2, &[second]).await.unwrap();
        assert_eq!(next.get("key-1").await.as_deref(), Some("second"));
        assert_eq!(next.get("key-2").await.as_deref(), Some("first"), "{backend:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_snapshot_is_none_and_those_beside_it_are_taken() {
    let forebay = Forebay::dev().await;
    let engine = Engine::create(&forebay.api(), |_| {}).await;
    let mut task = engine.open(ALL, 1, &[]).await.unwrap();
    task.put("a", "1").await;
    let (one, three) = (task.begin("1").await, task.begin("3").await);
    // Still waiting for a batch that never comes.
    let waiting = v1::TakeSnapshotRequest { after: 100, ..task.request("2") };
    let api = engine.api.clone();
    let two = tokio::spawn(async move { api.snapshots().take_snapshot(waiting).await });
    assert!(tokio::time::timeout(std::time::Duration::from_millis(200), task.frozen("2")).await.is_err());
    task.cancel("2").await.unwrap();
    assert_eq!(reason(&two.await.unwrap().unwrap_err()), ErrorReason::CheckpointAborted);
    assert_eq!(reason(&task.frozen("2").await.unwrap_err()), ErrorReason::CheckpointAborted);
    let (one, three) = (one.await.unwrap().unwrap(), three.await.unwrap().unwrap());
    assert_eq!(engine.list().await.unwrap(), [one, three]);
    assert!(!task.cancel("1").await.unwrap(), "it is taken: discard it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_durable_is_for_the_engine_to_know() {
    let forebay = Forebay::dev().await;
    let engine = Engine::create(&forebay.api(), |_| {}).await;
    let mut task = engine.open(ALL, 1, &[]).await.unwrap();
    task.put("a", "1").await;
    let request = v1::AwaitDurableRequest {
        job: "job".into(),
        operator: "op".into(),
        start: 0,
        end: KEY_GROUPS,
        lane: task.lane.id.clone().into(),
        seq: 1,
    };
    let refused = engine.api.state().await_durable(request).await.unwrap_err();
    assert_eq!(reason(&refused), ErrorReason::Unsupported);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_without_rows_has_an_empty_snapshot() {
    for backend in backends() {
        let forebay = Forebay::dev().await;
        let engine = Engine::create(&forebay.api(), on(backend)).await;
        let task = engine.open(ALL, 1, &[]).await.unwrap();
        let empty = task.take("1").await.unwrap();
        assert_eq!((empty.empty, empty.new_bytes), (true, 0));
        let read = v1::ReadSnapshotRequest { handle: Some(empty.clone()), ..Default::default() };
        assert_eq!(task.rows(read).await.unwrap(), []);
        let mut next = engine.open(ALL, 2, &[empty]).await.unwrap();
        assert_eq!(next.get("a").await, None);
        next.put("a", "1").await;
        assert!(!next.take("2").await.unwrap().empty);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_read_by_key_group_of_the_groups_and_states_that_are_asked_for() {
    let forebay = Forebay::dev().await;
    let engine = Engine::create(&forebay.api(), |_| {}).await;
    let mut task = engine.open(ALL, 1, &[]).await.unwrap();
    fill(&mut task, 0..300, "x").await;
    let handle = Some(task.take("1").await.unwrap());
    let all = task.rows(v1::ReadSnapshotRequest { handle: handle.clone(), ..Default::default() }).await.unwrap();
    assert_eq!(all.len(), 300);
    assert!(all.is_sorted_by_key(|(group, key, _)| (*group, key.len(), key.clone())));
    let some = v1::ReadSnapshotRequest { handle: handle.clone(), start: 10, end: 20, ..Default::default() };
    let some = task.rows(some).await.unwrap();
    assert_eq!(some, all.into_iter().filter(|(group, ..)| (10..20).contains(group)).collect::<Vec<_>>());
    let states = vec!["unknown".to_owned()];
    let unknown = task.rows(v1::ReadSnapshotRequest { handle, states, ..Default::default() }).await.unwrap_err();
    assert_eq!(reason(&unknown), ErrorReason::StateUnknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_own_workers_and_checkpoints_go_on_beside_it() {
    let forebay = Forebay::dev().await;
    let api = forebay.api();
    let engine = Engine::create(&api, |spec| {
        let own = JobBuilder::leased("job", 2).build().operators.remove(0);
        spec.operators.push(v1::Operator { name: "own".into(), ..own });
    })
    .await;
    api.register("job", "own", vec![list("legs")]).await.unwrap();
    let mut task = engine.open(ALL, 1, &[]).await.unwrap();
    task.put("a", "1").await;
    let hello = |join_id: &str| v1::JoinHello {
        job: "job".into(),
        operator: "own".into(),
        worker: "w".into(),
        join_id: join_id.into(),
        ..Default::default()
    };
    let mut worker = Worker::hello(&api, hello("j1")).await.unwrap();
    let first = worker.assignment().await;
    assert_eq!(first.shards.len(), 2, "none of the engine's");
    let epoch = task.opened.epoch;
    // The worker is started anew: the job goes back.
    let mut worker = Worker::hello(&api, hello("j2")).await.unwrap();
    let second = worker.assignment().await;
    assert!(second.generation > first.generation);
    task.put("a", "2").await;
    let handle = task.take("1").await.unwrap();
    assert_eq!(handle.snapshot.unwrap().token, 1);
    let routes = api.routing("job").await.unwrap().routes;
    assert!(routes.iter().any(|route| route.operator == "op" && route.epoch == epoch), "it stayed as it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_shard_says_so_until_its_engine_restores_it() {
    let mut forebay = Forebay::dev().await;
    let engine = Engine::create(&forebay.api(), on(Backend::Memory)).await;
    let mut task = engine.open(ALL, 1, &[]).await.unwrap();
    task.put("a", "1").await;
    let handle = task.take("1").await.unwrap();
    task.put("a", "2").await;
    forebay.kill_and_restart().await;
    let engine = Engine { api: forebay.api(), ..engine };
    let lost = eventually("the server is back", || async {
        let again = engine.open(ALL, 1, &[]).await.unwrap_err();
        (reason(&again) == ErrorReason::ShardLost).then_some(again)
    });
    assert!(lost.await.message().contains("higher token"));
    let request = task.request("2");
    let refused = engine.api.snapshots().take_snapshot(request).await.unwrap_err();
    assert_eq!(reason(&refused), ErrorReason::ShardLost);
    let mut restored = engine.open(ALL, 2, &[handle]).await.unwrap();
    assert_eq!(restored.get("a").await.as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn any_process_is_asked_and_a_server_that_is_gone_takes_its_shards_along() {
    let mut cluster = Cluster::with(2, |setup| {
        setup.set("coordinator.server_lease", "1s").set("coordinator.server_return_wait", "1s")
    })
    .await;
    let engine = Engine::create(&cluster.api(), on(Backend::Memory)).await;
    // By a server, which passes it on.
    let by_server = Engine { api: cluster.servers[0].api(), ..engine.clone() };
    let mut tasks = Vec::new();
    for range in HALVES {
        tasks.push(by_server.open(range, 1, &[]).await.unwrap());
    }
    let mut handles = Vec::new();
    for task in &mut tasks {
        fill(task, 0..100, "first").await;
        handles.push(task.take("1").await.unwrap());
    }
    let elsewhere = engine.api.snapshots().take_snapshot(tasks[0].request("2")).await.unwrap_err();
    assert_eq!(reason(&elsewhere), ErrorReason::CheckpointAborted);
    assert!(elsewhere.message().contains("shard's own server"), "{elsewhere:?}");
    assert_eq!(by_server.list().await.unwrap(), handles);
    let gone = tasks.iter().position(|task| task.opened.address == cluster.servers[1].url());
    let Some(gone) = gone else {
        panic!("shards are spread: {:?}", tasks.iter().map(|it| &it.opened.address).collect::<Vec<_>>())
    };
    cluster.servers[1].kill().await;
    let (start, end) = (tasks[gone].shard.start, tasks[gone].shard.end);
    let lost = eventually("the server is given up", || async {
        let again = engine.open((start, end), 1, &[]).await.err()?;
        (reason(&again) == ErrorReason::ShardLost).then_some(again)
    });
    lost.await;
    let mut restored = engine.open((start, end), 2, &handles).await.unwrap();
    assert!(all_are(&values(&mut restored, 0..100).await, Some("first")));
    tasks[1 - gone].put("key-1", "it goes on").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_opened_is_refused_with_the_reason() {
    let forebay = Forebay::dev().await;
    let api = forebay.api();
    let engine = Engine::create(&api, |_| {}).await;
    let open = |change: fn(&mut v1::OpenShardRequest)| {
        let shard = engine.shard(0, 64);
        let mut request = v1::OpenShardRequest { shard: Some(shard), token: 1, ..Default::default() };
        change(&mut request);
        let api = api.clone();
        async move { reason(&api.snapshots().open_shard(request).await.unwrap_err()) }
    };
    assert_eq!(open(|request| request.shard = None).await, ErrorReason::FieldMissing);
    let change: fn(&mut v1::OpenShardRequest) = |request| request.shard.as_mut().unwrap().job = "none".into();
    assert_eq!(open(change).await, ErrorReason::JobUnknown);
    let change: fn(&mut v1::OpenShardRequest) = |request| request.shard.as_mut().unwrap().job_uid = "before".into();
    assert_eq!(open(change).await, ErrorReason::JobUnknown);
    let change: fn(&mut v1::OpenShardRequest) = |request| request.shard.as_mut().unwrap().end = 129;
    assert_eq!(open(change).await, ErrorReason::KeyGroupOutOfRange);
    let change: fn(&mut v1::OpenShardRequest) = |request| request.shard.as_mut().unwrap().operator = "x".into();
    assert_eq!(open(change).await, ErrorReason::OperatorUnknown);
    let wrong = JobBuilder::external("other").with(|spec| spec.operators[0].shards = 4).build();
    assert_eq!(reason(&api.create(wrong).await.unwrap_err()), ErrorReason::SettingsConflict);
    let own = JobBuilder::shared("own", 1).build();
    api.create(own).await.unwrap();
    let shard = v1::ExternalShard { job: "own".into(), operator: "op".into(), end: 128, ..Default::default() };
    let request = v1::OpenShardRequest { shard: Some(shard), ..Default::default() };
    let refused = api.snapshots().open_shard(request).await.unwrap_err();
    assert_eq!(reason(&refused), ErrorReason::OperatorUnknown);
    assert!(refused.message().contains("access external"), "{refused:?}");
    let shards = std::collections::HashMap::from([("op".to_owned(), 2)]);
    let request = v1::RestoreJobRequest { job: "job".into(), shards, ..Default::default() };
    let refused = api.coordinator().restore_job(request).await.unwrap_err();
    assert_eq!(reason(&refused), ErrorReason::SettingsConflict);
}
