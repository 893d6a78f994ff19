//! Two coordinators: one leads, the other follows, and state is served meanwhile. docs/coordinators.md.

#![cfg(feature = "rocksdb")]

use std::time::{Duration, Instant};

use forebay_integration_tests::harness::{Forebay, JobBuilder, Pair, Setup, eventually, reason};
use forebay_proto::v1::{self, ErrorReason};

use crate::counting::Counting;

/// A third of it is the coordinators' lease.
const SERVER_LEASE: Duration = Duration::from_secs(6);
const LEASE: Duration = Duration::from_secs(2);

/// Short leases, so that a test sees them run out.
fn brief(setup: Setup) -> Setup {
    setup.set("coordinator.server_lease", &format!("{}s", SERVER_LEASE.as_secs()))
}

fn job(checkpoints_ms: u64) -> v1::JobSpec {
    let spec = JobBuilder::leased("job", 4).with(|spec| {
        spec.lease_ms = SERVER_LEASE.as_millis() as u64;
        let checkpoints = spec.checkpoints.get_or_insert_default();
        checkpoints.interval_ms = Some(checkpoints_ms);
        checkpoints.timeout_ms = 3_000;
    });
    spec.build()
}

async fn stands_by(coordinator: &Forebay) {
    eventually("it stands by", || async {
        let status = coordinator.api().servers().await.err()?;
        (reason(&status) == ErrorReason::NoCoordinator).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_dies_is_followed_within_two_leases_and_no_worker_notices() {
    let mut pair = Pair::with(2, |_, setup| brief(setup)).await;
    pair.coordinators[0].api().create(job(300)).await.unwrap();
    let counting = Counting::start(&pair.addresses()).await;
    for (dies, follows) in [(0, 1), (1, 0)] {
        let (leader, before) = pair.leader().await;
        assert_eq!(leader, dies);
        let completed = before.jobs[0].last_checkpoint;
        pair.coordinators[dies].kill().await;
        let died = Instant::now();
        counting.goes_on("it counts while nobody leads").await;
        let (leader, status) = pair.leader().await;
        let took = died.elapsed();
        println!("followed after {took:?}, a lease is {LEASE:?}");
        assert!(leader == follows && status.coordinator_epoch > before.coordinator_epoch);
        // A busy machine is given another lease.
        assert!(took < 3 * LEASE, "{took:?}");
        pair.linked(follows).await;
        counting.goes_on("it counts behind the new one").await;
        let api = pair.coordinators[follows].api();
        eventually("checkpoints complete again", || async {
            (api.describe("job").await.ok()?.last_checkpoint > completed + 1).then_some(())
        })
        .await;
        pair.coordinators[dies].restart().await;
        stands_by(&pair.coordinators[dies]).await;
        let name = format!("c{dies}");
        pair.standing_by(&name, follows).await;
    }
    let api = pair.coordinators[0].api();
    assert_eq!(counting.ends().await, 1, "the worker's session has not ended");
    let job = api.describe("job").await.unwrap();
    assert_eq!((job.rewinds, job.generation), (0, 1));
    let request = v1::VerifyCheckpointRequest { job: "job".into(), checkpoint: 0 };
    let verified = api.coordinator().verify_checkpoint(request).await.unwrap().into_inner();
    assert!(verified.missing.is_empty() && verified.damaged.is_empty(), "{verified:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_stood_still_beyond_its_lease_can_do_nothing_when_it_goes_on() {
    let pair = Pair::with(1, |_, setup| brief(setup)).await;
    pair.coordinators[0].api().create(job(300)).await.unwrap();
    let counting = Counting::start(&pair.addresses()).await;
    pair.coordinators[0].pause();
    assert_eq!(pair.leader().await.0, 1);
    counting.goes_on("it counts behind the new one").await;
    pair.coordinators[0].resume();
    stands_by(&pair.coordinators[0]).await;
    pair.standing_by("c0", 1).await;
    pair.linked(1).await;
    counting.goes_on("it counts with both").await;
    assert_eq!(pair.leader().await.0, 1, "it did not take office again");
    let created = pair.coordinators[0].api().create(JobBuilder::leased("another", 1).build()).await.unwrap_err();
    assert_eq!(reason(&created), ErrorReason::NoCoordinator);
    assert_eq!(counting.ends().await, 1);
    assert_eq!(pair.coordinators[1].api().describe("job").await.unwrap().rewinds, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_told_to_end_is_followed_at_once() {
    let lease = |setup: Setup| setup.set("coordinator.server_lease", "60s").set("coordinator.lease", "20s");
    let mut pair = Pair::with(1, |_, setup| lease(setup)).await;
    pair.coordinators[0].api().create(job(0)).await.unwrap();
    let ended = Instant::now();
    pair.coordinators[0].terminate().await;
    let (leader, _) = pair.leader().await;
    assert!(leader == 1 && ended.elapsed() < Duration::from_secs(15), "{:?}", ended.elapsed());
    pair.linked(1).await;
    pair.coordinators[1].api().serving("job").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_stood_by_is_told_what_to_do_about_a_leader_that_is_gone() {
    let mut first = Setup::coordinator().set("server.name", "first").start().await;
    first.kill().await;
    let other = Setup::standby("other", &first).start().await;
    let told = other.api().servers().await.unwrap_err();
    assert_eq!(reason(&told), ErrorReason::NoCoordinator);
    assert!(told.message().contains("coordinator.succeeds=first"), "{}", told.message());
    drop(other);
    let brief = brief(Setup::standby("another", &first));
    let other = brief.set("coordinator.succeeds", "first").start().await;
    let status = eventually("it follows", || async { other.api().status().await.ok() }).await;
    assert_eq!((status.coordinator.as_str(), status.coordinator_epoch), ("another", 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_one_name_are_told() {
    let first = brief(Setup::coordinator().set("server.name", "same")).start().await;
    let second = brief(Setup::standby("second", &first)).set("server.name", "same").start().await;
    eventually("it is told", || async {
        second.process().stderr().contains("give each its own server.name").then_some(())
    })
    .await;
    first.api().servers().await.expect("the first one leads on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_servers_would_not_outlive_is_told() {
    let setup = Setup::coordinator().set("coordinator.server_lease", "6s").set("coordinator.lease", "3s");
    let exit = setup.fails().await;
    assert_eq!(exit.code, Some(2));
    assert!(exit.stderr.contains("coordinator.lease is 3s: at least 20ms, and at most a third of"), "{}", exit.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn forebayctl_finds_the_one_that_leads() {
    let pair = Pair::with(1, |_, setup| brief(setup)).await;
    // The first one that it asks stands by.
    let addresses = format!("{},{}", pair.coordinators[1].url(), pair.coordinators[0].url());
    let mut command = tokio::process::Command::new(forebay_integration_tests::harness::binary("forebayctl"));
    let output = command.args(["--server", &addresses, "status", "-o", "json"]).output().await.unwrap();
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&status["coordinator"], &status["standbys"][0]), (&"c0".into(), &"c1".into()), "{status}");
}

#[cfg(feature = "s3")]
mod bucket {
    use forebay_integration_tests::{
        harness::Proxy,
        s3::{Fault, Rule, S3Server},
    };

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn while_the_bucket_is_away_for_all_the_leader_leads_on_and_state_is_served() {
        let s3 = S3Server::start("state").await.unwrap();
        let pair =
            Pair::with(1, |_, setup| brief(setup).s3(&s3, "s3://state/a").set("checkpoint.s3.attempts_max", "2"));
        let pair = pair.await;
        let api = pair.coordinators[0].api();
        api.create(job(300)).await.unwrap();
        let counting = Counting::start(&pair.addresses()).await;
        let before = eventually("a checkpoint completes", || async {
            Some(api.describe("job").await.ok()?).filter(|job| job.last_checkpoint > 0)
        })
        .await;
        s3.faults().add(Rule::new(Fault::SlowDown503));
        // Longer than the leases of coordinators, servers and workers together.
        let away = Instant::now();
        while away.elapsed() < LEASE + 2 * SERVER_LEASE {
            counting.goes_on("it counts without the bucket").await;
            api.servers().await.expect("the leader leads on");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let meanwhile = api.describe("job").await.unwrap();
        let request = v1::ListCheckpointsRequest { job: "job".into() };
        let failed = api.coordinator().list_checkpoints(request).await.unwrap().into_inner().failed;
        assert!(!failed.is_empty(), "checkpoints fail, and are counted: {failed:?}");
        s3.faults().clear();
        eventually("checkpoints complete again", || async {
            (api.describe("job").await.ok()?.last_checkpoint > meanwhile.last_checkpoint).then_some(())
        })
        .await;
        assert_eq!(pair.leader().await.0, 0);
        assert_eq!(counting.ends().await, 1);
        assert_eq!(api.describe("job").await.unwrap().rewinds, before.rewinds);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_leader_that_alone_has_lost_the_bucket_yields_to_one_that_reaches_it() {
        let s3 = S3Server::start("state").await.unwrap();
        let proxy = Proxy::to(s3.address().port()).await;
        let pair = Pair::with(1, |name, setup| {
            let setup = brief(setup).s3(&s3, "s3://state/a").set("checkpoint.s3.attempts_max", "2");
            let endpoint = if name == "c0" { proxy.url() } else { s3.endpoint() };
            setup.set("checkpoint.s3.endpoint", &endpoint)
        });
        let pair = pair.await;
        pair.coordinators[0].api().create(job(300)).await.unwrap();
        let counting = Counting::start(&pair.addresses()).await;
        proxy.refuse();
        proxy.cut();
        eventually("the other one leads", || async { (pair.leader().await.0 == 1).then_some(()) }).await;
        pair.linked(1).await;
        counting.goes_on("it counts behind the new one").await;
        proxy.pass();
        stands_by(&pair.coordinators[0]).await;
        pair.standing_by("c0", 1).await;
        assert_eq!(counting.ends().await, 1);
        assert_eq!(pair.coordinators[1].api().describe("job").await.unwrap().rewinds, 0);
    }
}
