//! The sample worker with real processes: killed at random, exact each time.

use std::{path::Path, time::Duration};

use forebay_integration_tests::{
    flights::{FlightsRun, Worker, chaos, cut},
    harness::{Forebay, eventually},
};
use forebay_proto::v1;

/// Tests run in their package's folder.
const INPUT: &str = "data/flights-2013.csv.zst";

#[tokio::test(flavor = "multi_thread")]
async fn five_rounds_of_kills_at_random_moments_are_exact() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("flights.csv");
    cut(Path::new(INPUT), &input, 30_000).unwrap();
    let (mut kills, mut between) = (0, 0);
    for seed in 1..=5 {
        let backend = if seed == 5 { v1::Backend::Memory } else { v1::Backend::Rocksdb };
        let round = chaos::round(&input, backend, seed).await.unwrap();
        kills += round.kills;
        between += round.between_barrier_and_commit;
    }
    assert!(kills >= 10, "only {kills} kills: the rounds were too short to prove anything");
    assert!(between > 0, "no kill came between a barrier and its commit");
}

/// A run of a few seconds beside a Forebay of its own.
async fn short_run(backend: v1::Backend) -> (Forebay, FlightsRun) {
    let forebay = Forebay::dev().await;
    let home = forebay.setup().home().to_owned();
    let input = home.join("flights.csv");
    cut(Path::new(INPUT), &input, 20_000).unwrap();
    let run = FlightsRun::prepare(&forebay.url(), &input, &home, backend, Duration::from_millis(150)).await.unwrap();
    (forebay, run)
}

const RECORDS_PER_SECOND: u32 = 5_000;

/// Stops a worker in mid-stream (SIGSTOP) and waits until its lease has run out.
async fn stopped_beyond_its_lease(run: &FlightsRun, worker: &Worker) -> u64 {
    let last = run.checkpoint_after(0, worker).await.unwrap().expect("there is more to do");
    let before = run.job().await.unwrap().generation;
    worker.pause();
    eventually("its lease runs out", || async { (run.job().await.ok()?.generation > before).then_some(()) }).await;
    last
}

async fn is_exact(forebay: &Forebay, run: &FlightsRun) {
    let stored = run.stored(&[forebay.api()]).await.unwrap();
    assert!(stored == *run.expected(), "{:#?}", stored.differences(run.expected()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_stopped_beyond_its_lease_and_replaced_changes_nothing_when_it_wakes() {
    let (forebay, mut run) = short_run(v1::Backend::Rocksdb).await;
    let mut asleep = run.worker(RECORDS_PER_SECOND);
    let last = stopped_beyond_its_lease(&run, &asleep).await;
    let mut other = run.worker(RECORDS_PER_SECOND);
    run.checkpoint_after(last, &other).await.unwrap().expect("there is more to do");
    asleep.resume();
    let ended = asleep.finished().await.expect_err("it is fenced").to_string();
    assert!(ended.contains("this worker is fenced: worker \\\"worker-1\\\" joined again elsewhere"), "{ended}");
    other.finished().await.unwrap();
    is_exact(&forebay, &run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_stopped_beyond_its_lease_goes_on_when_nobody_took_its_place() {
    let (forebay, mut run) = short_run(v1::Backend::Memory).await;
    let mut worker = run.worker(RECORDS_PER_SECOND);
    stopped_beyond_its_lease(&run, &worker).await;
    worker.resume();
    worker.finished().await.unwrap();
    assert!(worker.said().contains("rewound to checkpoint"), "{}", worker.said());
    is_exact(&forebay, &run).await;
}
