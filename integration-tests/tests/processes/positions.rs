//! `recovery: shard`: positions are kept in the shards beside what they count for. Workers die, come and go, shards are
//! lost, and every record counts once, without a rewind.

#![cfg(feature = "rocksdb")]

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use forebay_client::{
    Aggregating, Assigned, Client, Error, List, MergeFunction, Reducing, Timers, Worker, WorkerState,
    aggregate::AvgI64,
    codec::{I64, U64, Utf8},
};
use forebay_integration_tests::{
    harness::{Api, Cluster, Forebay, JobBuilder, Process, eventually},
    orders::{self, Log, PARTITIONS, reaches},
};
use forebay_proto::v1::{self, ErrorReason};
use rustix::process::Signal;

const LEASE: Duration = Duration::from_millis(1_500);
const LINES: u64 = 40_000;

async fn create(api: &Api, backend: v1::Backend) {
    api.create(orders::job(LEASE, backend)).await.unwrap();
}

fn worker(url: &str, log: &Log, id: &str) -> Process {
    log.worker(url, id, 10_000)
}

async fn rewinds(api: &Api) -> u64 {
    api.describe("orders").await.unwrap().rewinds
}

/// A checkpoint; one that comes while shares change is taken again.
async fn checkpoint(api: &Api) -> v1::CompletedCheckpoint {
    eventually("a checkpoint", || async { api.checkpoint("orders").await.ok() }).await
}

/// What each worker holds, by its id.
async fn held(api: &Api) -> Vec<(String, u32)> {
    let workers = api.describe("orders").await.unwrap().workers;
    workers.into_iter().map(|worker| (worker.worker, worker.shards)).collect()
}

async fn shared_out(api: &Api, shares: &[(&str, u32)]) {
    let wanted: Vec<_> = shares.iter().map(|(worker, shards)| ((*worker).to_owned(), *shards)).collect();
    eventually("shards are shared out", || async { (held(api).await == wanted).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_killed_come_and_go_and_every_record_counts_once_without_a_rewind() {
    let (forebay, log) = (Forebay::dev().await, Log::of(LINES));
    let (api, url) = (forebay.api(), forebay.url());
    create(&api, v1::Backend::Rocksdb).await;
    let total = log.total();
    let mut a = worker(&url, &log, "a");
    let mut b = worker(&url, &log, "b");
    shared_out(&api, &[("a", 4), ("b", 4)]).await;
    reaches(&[forebay.api()], total / 20).await;
    checkpoint(&api).await;
    // Two become three.
    let mut c = worker(&url, &log, "c");
    shared_out(&api, &[("a", 3), ("b", 3), ("c", 2)]).await;
    reaches(&[forebay.api()], total / 5).await;
    // One dies with what it had in its cache; its keys go to the others once its lease is over.
    let killed = Instant::now();
    b.kill().await;
    shared_out(&api, &[("a", 4), ("c", 4)]).await;
    let moved = killed.elapsed();
    assert!(moved < LEASE + Duration::from_secs(2), "the keys of the dead worker moved on after {moved:?}");
    reaches(&[forebay.api()], total / 3).await;
    // It is back under the same name, and another one under its own takes the place of one that is running.
    b = worker(&url, &log, "b");
    c.signal(Signal::KILL);
    c.ended().await;
    c = worker(&url, &log, "c");
    // Who is there first keeps more: each has two or three.
    eventually("shards are shared out", || async {
        let held = held(&api).await;
        let even = held.len() == 3 && held.iter().all(|(_, shards)| (2..=3).contains(shards));
        (even && held.iter().map(|(_, shards)| shards).sum::<u32>() == 8).then_some(())
    })
    .await;
    reaches(&[forebay.api()], total / 2).await;
    // One leaves in peace: what it has done is not done again.
    a.signal(Signal::TERM);
    let exit = a.ended().await;
    assert_eq!(exit.code, Some(0), "{exit:?}");
    shared_out(&api, &[("b", 4), ("c", 4)]).await;
    log.is_exact(&[forebay.api()]).await;
    assert_eq!(rewinds(&api).await, 0);
    b.kill().await;
    c.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_is_back_and_its_shards_go_on_where_they_were() {
    let (mut forebay, log) = (Forebay::dev().await, Log::of(LINES));
    create(&forebay.api(), v1::Backend::Rocksdb).await;
    let total = log.total();
    let workers = ["a", "b"].map(|id| worker(&forebay.url(), &log, id));
    for share in [10, 4, 2] {
        reaches(&[forebay.api()], total / share).await;
        forebay.kill_and_restart().await;
    }
    log.is_exact(&[forebay.api()]).await;
    assert_eq!(rewinds(&forebay.api()).await, 0);
    for mut worker in workers {
        worker.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_takes_the_positions_along() {
    for backend in [v1::Backend::Rocksdb, v1::Backend::Memory] {
        let (forebay, log) = (Forebay::dev().await, Log::of(LINES));
        let api = forebay.api();
        create(&api, backend).await;
        let total = log.total();
        let workers = ["a", "b"].map(|id| worker(&forebay.url(), &log, id));
        reaches(&[forebay.api()], total / 10).await;
        let completed = checkpoint(&api).await;
        reaches(&[forebay.api()], total / 4).await;
        let shards = HashMap::from([("count".to_owned(), 3)]);
        let request =
            v1::RestoreJobRequest { job: "orders".into(), checkpoint: completed.id, shards, ..Default::default() };
        api.coordinator().restore_job(request).await.unwrap();
        log.is_exact(&[forebay.api()]).await;
        assert_eq!((rewinds(&api).await, api.describe("orders").await.unwrap().shards.len()), (1, 3));
        for mut worker in workers {
            worker.kill().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_shards_of_a_lost_disk_go_back_and_read_again_what_they_lack() {
    let with = |setup: forebay_integration_tests::harness::Setup| {
        setup.set("coordinator.server_return_wait", "0s").set("coordinator.server_lease", "1s")
    };
    let (mut cluster, log) = (Cluster::with(2, with).await, Log::of(LINES));
    let api = cluster.api();
    let mut servers: Vec<_> = cluster.servers.iter().map(Forebay::api).collect();
    create(&api, v1::Backend::Rocksdb).await;
    let total = log.total();
    let workers = ["a", "b"].map(|id| worker(&cluster.coordinator.url(), &log, id));
    reaches(&servers, total / 10).await;
    let completed = checkpoint(&api).await;
    reaches(&servers, total / 4).await;
    let on = |job: &v1::JobInfo, server: &str| {
        let entries = job.shards.iter().filter_map(|shard| shard.entry.clone());
        entries.filter(|entry| entry.server == server).collect::<Vec<_>>()
    };
    let before = api.describe("orders").await.unwrap();
    assert_eq!((on(&before, "server-0").len(), on(&before, "server-1").len()), (4, 4));
    cluster.servers[1].kill().await;
    cluster.servers[1].delete_data();
    servers.truncate(1);
    let after = eventually("the shards of the lost disk stand elsewhere", || async {
        let job = api.describe("orders").await.ok()?;
        let all = on(&job, "server-0");
        (all.len() as u32 == PARTITIONS && all.iter().all(|entry| entry.established)).then_some(job)
    })
    .await;
    for entry in on(&after, "server-0") {
        let was = before.shards.iter().filter_map(|shard| shard.entry.as_ref()).find(|was| was.start == entry.start);
        let was = was.unwrap();
        if was.server == "server-0" {
            assert_eq!((entry.incarnation, entry.epoch), (was.incarnation, was.epoch), "it has not gone back");
        } else {
            assert_eq!((entry.incarnation, entry.restored_from), (was.incarnation + 1, completed.id));
        }
    }
    log.is_exact(&servers).await;
    assert_eq!(rewinds(&api).await, 0);
    for mut worker in workers {
        worker.kill().await;
    }
}

const SUM: Reducing<Utf8, I64> = Reducing::new("sum", MergeFunction::SumI64);
const MEAN: Aggregating<Utf8, AvgI64> = Aggregating::avg_i64("mean");
const LEGS: List<Utf8, Utf8> = List::new("legs");
const DUE: Timers<Utf8, Utf8> = Timers::new("due");

async fn joined(forebay: &Forebay, recovery: v1::Recovery) -> (Worker, Assigned) {
    let spec = JobBuilder::leased("job", 2).with(|spec| spec.set_recovery(recovery)).build();
    forebay.api().create(spec).await.unwrap();
    let client = Client::connect(&forebay.url()).await.unwrap();
    let worker = client.worker("job", "op").state(&SUM).state(&MEAN).state(&LEGS).state(&DUE);
    let mut worker = worker.write_delay_max(Duration::from_secs(3_600)).join().await.unwrap();
    let assigned = worker.assigned().await.unwrap();
    (worker, assigned)
}

fn refused(error: &Error, reason: ErrorReason, what: &str) {
    let text = error.to_string();
    assert!(error.refused().is_some_and(|refused| refused.reason == reason) && text.contains(what), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_a_record_is_never_sent_and_what_would_need_it_is_refused() {
    let forebay = Forebay::dev().await;
    let (mut worker, assigned) = joined(&forebay, v1::Recovery::Shard).await;
    let (sum, mean) = (assigned.open(&SUM).unwrap(), assigned.open(&MEAN).unwrap());
    let (legs, due) = (assigned.open(&LEGS).unwrap(), assigned.open(&DUE).unwrap());
    let source = assigned.source::<U64>("file").unwrap();
    assert_eq!(source.position(), None);
    // The shard knows an average, the cache only what was added to it.
    mean.add("a", &1).await.unwrap();
    refused(&mean.get("a").await.unwrap_err(), ErrorReason::Unsupported, "behind a boundary");
    due.register("a", "", 5).await.unwrap();
    refused(&due.due(10, 10).await.unwrap_err(), ErrorReason::Unsupported, "behind a boundary");
    legs.add("a", "x").await.unwrap();
    let merged = legs.merge_namespaces("a", ["w"], "").await.unwrap_err();
    refused(&merged, ErrorReason::Unsupported, "use recovery: job");
    assert_eq!(sum.get("a").await.unwrap(), None, "what is not cached is read as ever");
    source.advance(&1).unwrap();
    // The record is done.
    worker.boundary(WorkerState::new).await.unwrap();
    assert_eq!(mean.get("a").await.unwrap(), Some(1.0));
    assert_eq!(due.due(10, 10).await.unwrap().len(), 1);
    let scanned = forebay.api().scan("job", "op", "legs").await.unwrap();
    assert_eq!(scanned.len(), 1, "it went with the rest of its record");
    // What somebody else is leased begins where that is.
    worker.leave().await.unwrap();
    let client = Client::connect(&forebay.url()).await.unwrap();
    let mut next = client.worker("job", "op").state(&SUM).join().await.unwrap();
    let assigned = next.assigned().await.unwrap();
    let source = assigned.source::<U64>("file").unwrap();
    assert_eq!(source.position(), Some(1));
    assert!(source.contains(b"a", &1).unwrap() && !source.contains(b"a", &2).unwrap());
    assert_eq!(assigned.source::<U64>("other").unwrap().position(), None);
    refused(&assigned.source_in::<U64>(3, "file").unwrap_err(), ErrorReason::FieldInvalid, "for all of them");
    assigned.open(&SUM).unwrap().add("a", &1).await.unwrap();
    source.advance(&2).unwrap();
    assert!(next.finish(WorkerState::new).await.unwrap() > 0);
    assert_eq!(forebay.api().describe("job").await.unwrap().rewinds, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_keeps_no_positions_or_state_of_its_own_is_told() {
    let forebay = Forebay::dev().await;
    let (mut worker, assigned) = joined(&forebay, v1::Recovery::Shard).await;
    assigned.open(&SUM).unwrap().add("a", &1).await.unwrap();
    refused(&worker.flush().await.unwrap_err(), ErrorReason::FieldMissing, "Source::advance");
    worker.leave().await.unwrap();
    let client = Client::connect(&forebay.url()).await.unwrap();
    let mut worker = client.worker("job", "op").id("other").state(&SUM).join().await.unwrap();
    worker.assigned().await.unwrap();
    let api = forebay.api();
    let triggered = tokio::spawn(async move { api.checkpoint("job").await.map(drop).map_err(drop) });
    let state = || WorkerState::of::<U64, _>("position", &7);
    let told = worker.idle(state, std::future::pending::<()>()).await.unwrap_err();
    refused(&told, ErrorReason::SettingsConflict, "recovery is shard");
    drop(worker);
    triggered.abort();
    forebay.api().delete("job").await.unwrap();
    let (_worker, assigned) = joined(&forebay, v1::Recovery::Job).await;
    let told = assigned.source::<U64>("file").unwrap_err();
    refused(&told, ErrorReason::SettingsConflict, "recovery is job");
}
