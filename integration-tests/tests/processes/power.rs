//! Loss of power, syncs that fail, full disks: what was acknowledged is there, or its loss is told.

#![cfg(feature = "rocksdb")]

mod full_disk;
mod writers;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use forebay_integration_tests::{
    harness::{Api, Job, JobBuilder, Setup, list, raw},
    lossy::{Left, Machine},
};
use forebay_proto::v1;
use rand::Rng as _;

use self::writers::{List, Writers};

/// Losses of power of a run; `FOREBAY_CUTS` says otherwise.
const CUTS: u64 = 6;
/// How the process ends when a sync failed.
const EXIT_STORAGE_FAILED: i32 = 74;

/// Coordinator and server on a machine, with everything that they keep on its disk.
fn dev(machine: &Machine) -> Setup {
    let disk = machine.disk();
    let checkpoints = disk.join("checkpoints").display().to_string();
    Setup::dev().within(machine.mounts()).data_dir(&disk.join("data")).checkpoint_dir(&checkpoints)
}

async fn job(api: &Api, durability: v1::Durability, change: impl FnOnce(&mut v1::JobSpec)) -> Job {
    let spec = JobBuilder::shared("job", 1).with(|spec| spec.set_durability(durability)).with(change).build();
    Job::create(api, spec, &[list("all")]).await
}

/// The numbers in a list, which begin with 1 and leave none out; so many are there.
async fn length(api: &Api, job: &Job, list: &List) -> u64 {
    let stored = job.stored(api, "all", &list.key).await;
    let length = stored.len() as u64;
    assert_eq!(stored, (1..=length).map(|number| number.to_string()).collect::<Vec<_>>(), "{}", list.key);
    length
}

/// Everything that was acknowledged is there, and nothing that was not sent.
async fn all_acknowledged_is_there(api: &Api, job: &Job, writers: &Writers) {
    for list in writers.lists() {
        let length = length(api, job, list).await;
        assert!((list.acknowledged..=list.sent).contains(&length), "{length} of {list:?}");
    }
}

/// The last completed checkpoint, every object of which is as it was written down; 0 for none.
async fn sound_checkpoint(api: &Api) -> u64 {
    let Some(last) = api.checkpoints("job").await.unwrap().completed.last().map(|last| last.id) else { return 0 };
    let request = v1::VerifyCheckpointRequest { job: "job".into(), checkpoint: 0 };
    let found = api.coordinator().verify_checkpoint(request).await.unwrap().into_inner();
    assert!(found.missing.is_empty() && found.damaged.is_empty(), "checkpoint {last}: {found:?}");
    last
}

async fn some_time() {
    let moment = rand::rng().random_range(100..500);
    tokio::time::sleep(Duration::from_millis(moment)).await;
}

/// Nothing is left of what was not synced, or something, by turns.
fn left(cut: u64) -> Left {
    if cut.is_multiple_of(2) { Left::Nothing } else { Left::Chance(rand::rng().random()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_wal_sync_all_that_was_acknowledged_survives_losses_of_power_once_and_in_order() {
    let Some(machine) = Machine::start() else { return };
    let cuts = std::env::var("FOREBAY_CUTS").map_or(CUTS, |cuts| cuts.parse().expect("FOREBAY_CUTS is a number"));
    let mut forebay = dev(&machine).start().await;
    let api = forebay.api();
    let often = |spec: &mut v1::JobSpec| spec.checkpoints.get_or_insert_default().interval_ms = Some(100);
    let mut job = job(&api, v1::Durability::WalSync, often).await;
    let incarnation = job.routes[0].incarnation;
    let mut writers = Writers::new();
    for cut in 0..cuts {
        let at_work = writers.start(&api, &job);
        some_time().await;
        forebay.kill().await;
        writers = at_work.stopped().await;
        let left = left(cut);
        println!("cut {cut}: {left:?}");
        machine.cut_power(left);
        forebay.restart().await;
        job.refresh(&api).await;
        assert_eq!(job.routes[0].incarnation, incarnation, "cut {cut}: nothing is lost, so nothing goes back");
        all_acknowledged_is_there(&api, &job, &writers).await;
        sound_checkpoint(&api).await;
        writers.finish(&api, &job).await;
        all_acknowledged_is_there(&api, &job, &writers).await;
    }
    let acknowledged: u64 = writers.lists().map(|list| list.acknowledged).sum();
    println!("{acknowledged} acknowledged, {cuts} losses of power");
    assert!(acknowledged > 200 * cuts, "too little was done: {acknowledged}");
    assert!(sound_checkpoint(&api).await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_wal_sync_what_follows_a_restore_survives_a_loss_of_power() {
    let Some(machine) = Machine::start() else { return };
    let mut forebay = dev(&machine).start().await;
    let api = forebay.api();
    let mut job = job(&api, v1::Durability::WalSync, |_| {}).await;
    let append = async |job: &Job, element: &str| {
        api.append(job.at("all", "N1"), raw(element)).await.expect("it is acknowledged");
    };
    append(&job, "in the checkpoint").await;
    api.checkpoint("job").await.unwrap();
    // From the copies on its own disk; then of several shards, whose files are joined or clipped.
    let mut expected = vec!["in the checkpoint".to_owned()];
    for shards in [1, 3, 2] {
        let request =
            v1::RestoreJobRequest { job: "job".into(), shards: [("op".into(), shards)].into(), ..Default::default() };
        api.coordinator().restore_job(request).await.unwrap();
        job.refresh(&api).await;
        let before = job.routes.clone();
        let element = format!("behind the restore with {shards} shards");
        append(&job, &element).await;
        expected.push(element);
        forebay.kill().await;
        machine.cut_power(Left::Nothing);
        forebay.restart().await;
        job.refresh(&api).await;
        assert_eq!(job.routes, before, "{shards} shards: nothing is lost, so nothing goes back");
        assert_eq!(job.stored(&api, "all", "N1").await, expected);
        api.checkpoint("job").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_wal_a_loss_of_power_is_noticed_and_the_job_goes_back_to_its_last_completed_checkpoint() {
    let Some(machine) = Machine::start() else { return };
    let mut forebay = dev(&machine).start().await;
    let api = forebay.api();
    let mut job = job(&api, v1::Durability::Wal, |_| {}).await;
    let mut writers = Writers::new();
    let mut expected = BTreeMap::new();
    for left in [Left::Nothing, Left::Everything] {
        let incarnation = job.routes[0].incarnation;
        let at_work = writers.start(&api, &job);
        some_time().await;
        let last = api.checkpoint("job").await.unwrap();
        for key in &at_work.keys {
            expected.insert(key.clone(), committed(&api, &job, key).await);
        }
        some_time().await;
        forebay.kill().await;
        writers = at_work.stopped().await;
        machine.cut_power(left);
        forebay.restart().await;
        job.refresh(&api).await;
        assert_eq!(job.routes[0].incarnation, incarnation + 1, "the shard counts as lost");
        let said = forebay.process().stderr();
        assert!(said.contains("SHARD_LOST"), "{said}");
        // Though all of it may be there: nobody knows.
        let by_boot_id = said.contains("the machine was restarted and its log was not synced");
        assert_eq!(by_boot_id, left == Left::Everything, "{said}");
        let entry = job.info.shards[0].entry.as_ref().unwrap();
        assert_eq!((entry.restored_from, sound_checkpoint(&api).await), (last.id, last.id));
        for (key, expected) in &expected {
            assert_eq!(&job.stored(&api, "all", key).await, expected, "{key}");
        }
        for list in writers.lists() {
            let length = length(&api, &job, list).await;
            assert!(length > 0 && length < list.acknowledged, "{length} of {list:?}: it says nothing");
        }
        writers.rewound();
    }
}

/// What the last completed checkpoint holds of a list.
async fn committed(api: &Api, job: &Job, key: &str) -> Vec<String> {
    let view = v1::ReadView::Committed.into();
    let request = v1::GetRequest { address: Some(job.at("all", key)), view, ..Default::default() };
    let found = api.state().get(request).await.unwrap().into_inner();
    found.items.into_iter().map(|item| String::from_utf8(item.raw.to_vec()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_fails_ends_the_process_at_once_and_nothing_is_acknowledged_behind_it() {
    let Some(machine) = Machine::start() else { return };
    let mut forebay = dev(&machine).start().await;
    let api = forebay.api();
    let mut job = job(&api, v1::Durability::WalSync, |_| {}).await;
    let at_work = Writers::new().start(&api, &job);
    some_time().await;
    let failing = Instant::now();
    machine.fail_syncs();
    let ended = forebay.ended().await;
    let took = failing.elapsed();
    assert_eq!(ended.code, Some(EXIT_STORAGE_FAILED));
    assert!(took < Duration::from_secs(1), "it took {took:?}");
    assert!(ended.stderr.contains("ending the process") && ended.stderr.contains("Input/output error"));
    let mut writers = at_work.stopped().await;
    // So what was acknowledged was synced.
    machine.cut_power(Left::Nothing);
    forebay.restart().await;
    job.refresh(&api).await;
    all_acknowledged_is_there(&api, &job, &writers).await;
    writers.finish(&api, &job).await;
    all_acknowledged_is_there(&api, &job, &writers).await;
}
