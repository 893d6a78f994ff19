//! Shards go from server to server while their writer works. docs/placement.md.

#![cfg(feature = "rocksdb")]

use std::time::Duration;

use forebay_integration_tests::harness::{Cluster, JobBuilder, Setup, binary, eventually, reason, within};
use forebay_proto::v1::{self, ErrorReason};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{process::Command, task::JoinHandle};
use tonic::Status;

use crate::counting::Counting;

const SHARDS: u32 = 4;

fn job() -> JobBuilder {
    JobBuilder::leased("job", SHARDS).with(|spec| spec.checkpoints.get_or_insert_default().interval_ms = Some(1_000))
}

/// The job's shards, by their first key groups.
async fn placed(cluster: &Cluster) -> Vec<v1::ShardEntry> {
    let job = cluster.api().describe("job").await.unwrap();
    job.shards.into_iter().filter_map(|shard| shard.entry).collect()
}

fn request(entry: &v1::ShardEntry, server: &str) -> v1::MoveShardRequest {
    let v1::ShardEntry { operator, start, end, .. } = entry.clone();
    v1::MoveShardRequest { job: "job".into(), operator, start, end, server: server.into(), dry_run: false }
}

/// Asks for a move, and returns what is told of it.
fn begin(cluster: &Cluster, request: v1::MoveShardRequest) -> JoinHandle<Result<Vec<v1::ShardProgress>, Status>> {
    let api = cluster.api();
    tokio::spawn(async move {
        let mut told = api.coordinator().move_shard(request).await?.into_inner();
        let mut steps = Vec::new();
        while let Some(step) = told.message().await? {
            steps.extend(step.progress);
        }
        Ok(steps)
    })
}

/// Moves a shard.
async fn moves(cluster: &Cluster, request: v1::MoveShardRequest) -> Result<Vec<v1::ShardProgress>, Status> {
    within("the shard moves", begin(cluster, request)).await.unwrap()
}

fn other(server: &str, servers: usize) -> String {
    let index: usize = server.trim_start_matches("server-").parse().unwrap();
    format!("server-{}", (index + 1) % servers)
}

async fn every_shard_moves_back_and_forth(spec: v1::JobSpec) {
    let cluster = Cluster::start(2).await;
    let is_on_disk = spec.backend() != v1::Backend::Memory;
    cluster.api().create(spec).await.unwrap();
    let counting = Counting::start(&cluster.coordinator.url()).await;
    let mut pauses = Vec::new();
    for _ in 0..3 {
        for entry in placed(&cluster).await {
            let to = other(&entry.server, 2);
            counting.longest();
            let steps = moves(&cluster, request(&entry, &to)).await.unwrap();
            assert_eq!(steps.last().map(|last| (last.step.as_str(), last.to.as_str())), Some(("done", to.as_str())));
            counting.goes_on("it counts behind the move").await;
            pauses.push(counting.longest());
        }
    }
    pauses.sort();
    println!("pauses: median {:?}, longest {:?}", pauses[pauses.len() / 2], pauses[pauses.len() - 1]);
    if is_on_disk {
        let checkpoint = cluster.api().checkpoint("job").await.unwrap();
        assert!(checkpoint.new_bytes < checkpoint.full_bytes, "a shard that moved is uploaded anew: {checkpoint:?}");
    }
    assert_eq!(counting.ends().await, 1, "the worker's session has not ended");
    let job = cluster.api().describe("job").await.unwrap();
    assert_eq!((job.rewinds, job.generation), (0, 1));
    for entry in placed(&cluster).await {
        assert_eq!((entry.incarnation, entry.handover), (1, None));
    }
    let request = v1::VerifyCheckpointRequest { job: "job".into(), checkpoint: 0 };
    let verified = cluster.api().coordinator().verify_checkpoint(request).await.unwrap().into_inner();
    assert!(verified.missing.is_empty() && verified.damaged.is_empty(), "{verified:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_on_rocksdb_move_while_their_writer_works() {
    every_shard_moves_back_and_forth(job().build()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_in_memory_move_while_their_writer_works() {
    every_shard_moves_back_and_forth(job().in_memory().build()).await;
}

/// What was moved is also what a later failure finds: the new server's log is the shard's.
#[tokio::test(flavor = "multi_thread")]
async fn servers_that_die_during_and_behind_a_move_lose_nothing() {
    let mut cluster = Cluster::start(2).await;
    cluster.api().create(job().build()).await.unwrap();
    let counting = Counting::start(&cluster.coordinator.url()).await;
    let mut rng = StdRng::seed_from_u64(6);
    let mut given_up = 0;
    for round in 0..8 {
        let entry = placed(&cluster).await.swap_remove(round % SHARDS as usize);
        let (server, to) = (entry.server.clone(), other(&entry.server, 2));
        let moving = begin(&cluster, request(&entry, &to));
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..120))).await;
        let dies = if round % 2 == 0 { &server } else { &to };
        let index: usize = dies.trim_start_matches("server-").parse().unwrap();
        cluster.servers[index].kill_and_restart().await;
        match within("the move ends", moving).await.unwrap() {
            Ok(_) => {}
            Err(status) => {
                assert_eq!(reason(&status), ErrorReason::MoveAborted, "{status}");
                assert!(status.message().contains("stays on"), "{status}");
                given_up += 1;
            }
        }
        cluster.linked().await;
        cluster.api().serving("job").await;
        counting.goes_on("it counts behind the fault").await;
    }
    println!("moves given up: {given_up} of 8");
    assert_eq!(counting.ends().await, 1, "both servers came back with their disks");
    assert_eq!(cluster.api().describe("job").await.unwrap().rewinds, 0);
}

/// A coordinator that follows finds the move in the head.
#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_dies_during_a_move_leaves_no_shard_without_a_server() {
    let mut cluster = Cluster::start(2).await;
    cluster.api().create(job().build()).await.unwrap();
    let counting = Counting::start(&cluster.coordinator.url()).await;
    let mut rng = StdRng::seed_from_u64(7);
    for round in 0..4 {
        let entry = placed(&cluster).await.swap_remove(round);
        let moving = begin(&cluster, request(&entry, &other(&entry.server, 2)));
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..250))).await;
        cluster.coordinator.kill_and_restart().await;
        within("the call ends", moving).await.unwrap().ok();
        cluster.linked().await;
        eventually("no shard is on its way any more", || async {
            let placed = placed(&cluster).await;
            placed.iter().all(|entry| entry.established && entry.handover.is_none()).then_some(())
        })
        .await;
        counting.goes_on("it counts behind the new coordinator").await;
    }
    assert_eq!(counting.ends().await, 1);
    assert_eq!(cluster.api().describe("job").await.unwrap().rewinds, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_drained_and_gets_no_more_until_it_is_started_anew() {
    let mut cluster = Cluster::start(3).await;
    cluster.api().create(job().build()).await.unwrap();
    let counting = Counting::start(&cluster.coordinator.url()).await;
    let url = cluster.coordinator.url();
    let forebayctl = async |arguments: &[&str]| {
        let mut command = Command::new(binary("forebayctl"));
        let output = command.args(["--server", &url, "-o", "json"]).args(arguments).output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let on = async |server: &str| placed(&cluster).await.iter().filter(|entry| entry.server == server).count();
    let before = on("server-0").await;
    assert!(before > 0);
    let would = forebayctl(&["servers", "drain", "server-0", "--dry-run"]).await;
    assert_eq!(would["moves"].as_array().unwrap().len(), before);
    assert_eq!((on("server-0").await, &would["moves"][0]["status"]), (before, &"would move".into()));

    let drained = forebayctl(&["servers", "drain", "server-0"]).await;
    assert_eq!(drained["moves"].as_array().unwrap().len(), before);
    assert_eq!((on("server-0").await, &drained["moves"][0]["status"]), (0, &"done".into()));
    let held = [on("server-1").await, on("server-2").await];
    assert_eq!(held, [2, 2], "spread evenly over the others");
    let servers = cluster.api().servers().await.unwrap();
    assert!(servers.iter().all(|server| server.draining == (server.name == "server-0")), "{servers:?}");
    let created = cluster.api().create(JobBuilder::leased("second", 6).build()).await.unwrap();
    let entries = created.shards.iter().filter_map(|shard| shard.entry.as_ref());
    assert!(entries.clone().count() == 6 && entries.clone().all(|entry| entry.server != "server-0"));

    cluster.servers[0].terminate().await;
    cluster.servers[0].restart().await;
    cluster.linked().await;
    let created = cluster.api().create(JobBuilder::leased("third", 6).build()).await.unwrap();
    let entries = created.shards.iter().filter_map(|shard| shard.entry.as_ref());
    assert_eq!(entries.filter(|entry| entry.server == "server-0").count(), 2);
    counting.goes_on("it counts").await;
    assert_eq!(counting.ends().await, 1);
    assert_eq!(cluster.api().describe("job").await.unwrap().rewinds, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_moved_is_told_and_stays() {
    let mut cluster = Cluster::with(2, |setup| setup.set("coordinator.server_lease", "3s")).await;
    cluster.api().create(job().build()).await.unwrap();
    cluster.api().serving("job").await;
    let entry = placed(&cluster).await.swap_remove(0);
    let (server, to) = (entry.server.clone(), other(&entry.server, 2));
    let refused = async |request| {
        let status = moves(&cluster, request).await.unwrap_err();
        (reason(&status), status.message().to_owned())
    };
    let (told, message) = refused(v1::MoveShardRequest { end: entry.end + 1, ..request(&entry, &to) }).await;
    assert_eq!(told, ErrorReason::ShardUnknown, "{message}");
    let (told, message) = refused(request(&entry, "nobody")).await;
    assert_eq!(told, ErrorReason::ServerUnknown, "{message}");
    assert!(message.contains("\"nobody\" is not connected"), "{message}");
    let (told, _) = refused(v1::MoveShardRequest { job: "none".into(), ..request(&entry, &to) }).await;
    assert_eq!(told, ErrorReason::JobUnknown);
    // It is there, or would be.
    moves(&cluster, request(&entry, &server)).await.unwrap();
    let would = moves(&cluster, v1::MoveShardRequest { dry_run: true, ..request(&entry, &to) }).await.unwrap();
    assert_eq!(would.last().map(|last| last.step.as_str()), Some("would move"));
    assert_eq!(placed(&cluster).await[0].server, server);

    let drain = |server: &str| v1::DrainServerRequest { server: server.into(), ..Default::default() };
    let unknown = cluster.api().coordinator().drain_server(drain("nobody")).await.unwrap();
    assert_eq!(reason(&unknown.into_inner().message().await.unwrap_err()), ErrorReason::ServerUnknown);
    cluster.servers[to.trim_start_matches("server-").parse::<usize>().unwrap()].kill().await;
    eventually("the other one is away", || async {
        let servers = cluster.api().servers().await.ok()?;
        servers.iter().any(|known| known.name == to && !known.connected).then_some(())
    })
    .await;
    let mut alone = cluster.api().coordinator().drain_server(drain(&server)).await.unwrap().into_inner();
    let status = alone.message().await.unwrap_err();
    assert!(reason(&status) == ErrorReason::ServerUnknown && status.message().contains("start one"), "{status}");
}

#[cfg(feature = "s3")]
#[tokio::test(flavor = "multi_thread")]
async fn a_shard_stays_and_is_served_while_the_bucket_is_away() {
    use forebay_integration_tests::s3::{Fault, Rule, S3Server};

    let s3 = S3Server::start("state").await.unwrap();
    let s3_at = |setup: Setup| setup.s3(&s3, "s3://state/a").set("checkpoint.s3.attempts_max", "2");
    let cluster = Cluster::with(2, s3_at).await;
    cluster.api().create(job().build()).await.unwrap();
    let counting = Counting::start(&cluster.coordinator.url()).await;
    let entry = placed(&cluster).await.swap_remove(0);
    let (server, to) = (entry.server.clone(), other(&entry.server, 2));
    // Whatever the server that has the shard stores last fails: it serves on.
    s3.faults().add(Rule::new(Fault::SlowDown503).on(&format!("shared/{server}/")));
    let status = moves(&cluster, request(&entry, &to)).await.unwrap_err();
    assert_eq!(reason(&status), ErrorReason::MoveAborted, "{status}");
    assert!(status.message().contains(&format!("stays on {server:?}")), "{status}");
    counting.goes_on("it counts without the bucket").await;
    s3.faults().clear();
    moves(&cluster, request(&entry, &to)).await.unwrap();
    assert_eq!(placed(&cluster).await[0].server, to);
    counting.goes_on("it counts on the other server").await;
    assert_eq!(counting.ends().await, 1);
    assert_eq!(cluster.api().describe("job").await.unwrap().rewinds, 0);
}
