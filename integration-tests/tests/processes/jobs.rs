//! Jobs, and what stays of them when processes die.

#![cfg(feature = "rocksdb")]

use forebay_integration_tests::harness::{
    Api, Cluster, Forebay, Job, JobBuilder, Setup, Stream, address, append, eventually, list, raw, reason, reducing,
    value, within,
};
use forebay_proto::v1::{self, ErrorReason};

fn shared() -> v1::JobSpec {
    JobBuilder::shared("job", 2).build()
}

/// The folders of jobs below a server's data directory.
fn job_folders(forebay: &Forebay) -> Vec<String> {
    let Ok(folders) = std::fs::read_dir(forebay.setup().data().join("jobs")) else { return Vec::new() };
    folders.map(|folder| folder.unwrap().file_name().into_string().unwrap()).collect()
}

async fn put_many(api: &Api, job: &Job, text: &str) {
    for key in 0..20 {
        api.put(job.at("last", &format!("N{key}")), raw(format!("{text} {key}"))).await.unwrap();
        api.append(job.at("legs", &format!("N{key}")), raw(format!("{text} {key}"))).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_made_anew_never_sees_what_its_namesake_held() {
    let forebay = Forebay::dev().await;
    let api = forebay.api();
    let states = [value("last"), list("legs")];
    let old = Job::create(&api, shared(), &states).await;
    put_many(&api, &old, "old").await;
    api.checkpoint("job").await.unwrap();
    let mut stream = Stream::open(&api, &old.info).await.unwrap();
    let lane = stream.lane(&old.routes[0], 0).await.unwrap();
    assert_eq!(job_folders(&forebay), [format!("job-{}", old.info.job_uid)]);

    api.delete("job").await.unwrap();
    eventually("its files are gone", || async { job_folders(&forebay).is_empty().then_some(()) }).await;
    assert_eq!(reason(&api.describe("job").await.unwrap_err()), ErrorReason::JobUnknown);
    assert_eq!(reason(&api.get(old.at("last", "N1")).await.unwrap_err()), ErrorReason::JobUnknown);

    let new = Job::create(&api, shared(), &states).await;
    assert_ne!(new.info.job_uid, old.info.job_uid);
    for key in 0..20 {
        assert!(!api.get(new.at("last", &format!("N{key}"))).await.unwrap().found);
        assert!(!api.get(new.at("legs", &format!("N{key}"))).await.unwrap().found);
    }
    assert!(api.checkpoints("job").await.unwrap().completed.is_empty());

    // Who still holds the old uid is told, on a new stream and on the old one, and changes nothing.
    let status = Stream::open(&api, &old.info).await.unwrap_err();
    assert_eq!(reason(&status), ErrorReason::JobUnknown);
    assert!(status.message().contains(&old.info.job_uid), "{}", status.message());
    stream.write(&lane, 1, append(&old.states[1], b"N1", b"late")).await.unwrap().expect_err("its shard is gone");
    let open = v1::OpenLane { operator: "op".into(), start: lane.start, end: lane.end, ..Default::default() };
    let refusal = stream.open_lane(open).await.unwrap().unwrap_err();
    assert_eq!(refusal.reason(), ErrorReason::JobUnknown);
    let request = v1::DeleteJobRequest { job: "job".into(), job_uid: old.info.job_uid.clone() };
    let status = api.coordinator().delete_job(request).await.unwrap_err();
    assert_eq!(reason(&status), ErrorReason::JobUnknown);
    assert!(api.scan("job", "op", "legs").await.unwrap().is_empty());
    put_many(&api, &new, "new").await;
    assert_eq!(new.stored(&api, "legs", "N3").await, ["new 3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_deleted_while_its_server_was_away_is_gone_when_the_server_is_back() {
    let mut cluster = Cluster::start(1).await;
    let api = cluster.api();
    let states = [value("last"), list("legs")];
    let old = Job::create(&api, shared(), &states).await;
    let server = cluster.servers[0].api();
    put_many(&server, &old, "old").await;
    cluster.servers[0].kill().await;
    api.delete("job").await.unwrap();
    api.create(shared()).await.unwrap();
    assert_eq!(job_folders(&cluster.servers[0]), [format!("job-{}", old.info.job_uid)]);
    cluster.servers[0].restart().await;
    cluster.linked().await;

    let new = Job::create(&api, shared(), &states).await;
    let server = cluster.servers[0].api();
    assert_eq!(server.scan("job", "op", "last").await.unwrap(), []);
    assert_eq!(job_folders(&cluster.servers[0]), [format!("job-{}", new.info.job_uid)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_data_survives_the_death_of_the_server_at_wal() {
    let mut cluster = Cluster::start(2).await;
    let api = cluster.api();
    let states = [value("last"), list("legs"), reducing("delay")];
    let mut job = Job::create(&api, JobBuilder::shared("job", 4).build(), &states).await;
    let server_of = |job: &Job, key: &str| {
        let group =
            u32::from(forebay_proto::KeyGroup::of(key.as_bytes(), forebay_proto::MaxParallelism::DEFAULT).get());
        let route = job.routes.iter().find(|route| (route.start..route.end).contains(&group)).unwrap();
        Api::to(&route.address)
    };
    for key in (0..20).map(|key| format!("N{key}")) {
        let server = server_of(&job, &key);
        for count in 1..=3 {
            server.put(job.at("last", &key), raw(format!("{count}"))).await.unwrap();
            server.append(job.at("legs", &key), raw(format!("{count}"))).await.unwrap();
            let operand = v1::Value { form: Some(v1::value::Form::I64(count)) };
            let add =
                v1::AddRequest { address: Some(job.at("delay", &key)), value: Some(operand), ..Default::default() };
            server.state().add(add).await.unwrap();
        }
    }
    let incarnations = |job: &Job| job.routes.iter().map(|route| route.incarnation).collect::<Vec<_>>();
    let before = incarnations(&job);
    for server in &mut cluster.servers {
        server.kill_and_restart().await;
    }
    job.refresh(&api).await;
    assert_eq!(incarnations(&job), before, "nothing was restored");
    for key in (0..20).map(|key| format!("N{key}")) {
        let server = server_of(&job, &key);
        assert_eq!(job.stored(&server, "last", &key).await, ["3"]);
        assert_eq!(job.stored(&server, "legs", &key).await, ["1", "2", "3"]);
        let sum = server.get(job.at("delay", &key)).await.unwrap().items[0].readable.clone().unwrap();
        assert_eq!(sum.form, Some(v1::value::Form::I64(6)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_lost_with_the_process_and_its_incarnation_says_so() {
    let mut forebay = Forebay::dev().await;
    let api = forebay.api();
    let mut job = Job::create(&api, JobBuilder::shared("job", 1).in_memory().build(), &[list("legs")]).await;
    api.append(job.at("legs", "N1"), raw("in the checkpoint")).await.unwrap();
    let checkpoint = api.checkpoint("job").await.unwrap();
    api.append(job.at("legs", "N1"), raw("lost")).await.unwrap();
    let mut stream = Stream::open(&api, &job.info).await.unwrap();
    let lane = stream.lane(&job.routes[0], 0).await.unwrap();
    let before = job.routes[0].incarnation;

    forebay.kill_and_restart().await;
    eventually("the shard goes back to the checkpoint", || async {
        let shards = api.describe("job").await.ok()?.shards;
        (shards[0].entry.as_ref()?.restored_from == checkpoint.id).then_some(())
    })
    .await;
    job.refresh(&api).await;
    assert_eq!(job.routes[0].incarnation, before + 1);
    assert_eq!(job.stored(&api, "legs", "N1").await, ["in the checkpoint"]);
    let mut stream = Stream::open(&api, &job.info).await.unwrap();
    let refusal = stream.attach("op", &lane, 0).await.unwrap().unwrap_err();
    assert_eq!(refusal.reason(), ErrorReason::LaneExpired);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_coordinator_knows_survives_its_death_and_checkpoint_ids_are_never_reused() {
    let mut cluster = Cluster::start(1).await;
    let api = cluster.api();
    let job = Job::create(&api, shared(), &[value("last"), list("legs")]).await;
    Job::create(&api, JobBuilder::leased("other", 1).build(), &[value("last")]).await;
    let server = cluster.servers[0].api();
    let mut ids = Vec::new();
    for round in 0..3 {
        put_many(&server, &job, &round.to_string()).await;
        ids.push(api.checkpoint("job").await.unwrap().id);
        let (jobs, states, listed) = known(&api).await;
        cluster.coordinator.kill_and_restart().await;
        cluster.linked().await;
        api.serving("job").await;
        assert_eq!(known(&api).await, (jobs, states, listed));
    }
    ids.push(api.checkpoint("job").await.unwrap().id);
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted, ids, "ids grow and none comes twice");
    // The server went on without the coordinator, and nobody rewound.
    assert_eq!(api.describe("job").await.unwrap().generation, 1);
    assert_eq!(job.stored(&server, "legs", "N3").await, ["0 3", "1 3", "2 3"]);
}

type Known = (Vec<(String, String, u64)>, Vec<v1::RegisteredState>, Vec<v1::CompletedCheckpoint>);

/// Jobs, states and checkpoints, as the coordinator lists them.
async fn known(api: &Api) -> Known {
    let jobs = api.coordinator().list_jobs(v1::ListJobsRequest {}).await.unwrap().into_inner().jobs;
    let jobs = jobs.into_iter().map(|job| (job.spec.unwrap_or_default().name, job.job_uid, job.generation));
    (jobs.collect(), api.states("job").await.unwrap(), api.checkpoints("job").await.unwrap().completed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_created_once_and_not_twice_with_other_settings() {
    let forebay = Setup::dev().start().await;
    let api = forebay.api();
    let one = api.create(shared()).await.unwrap();
    assert_eq!(api.create(shared()).await.unwrap().job_uid, one.job_uid, "the same again is the same job");
    let status = api.create(JobBuilder::shared("job", 3).build()).await.unwrap_err();
    assert_eq!(reason(&status), ErrorReason::AlreadyExists);

    // Neither are its states registered twice, whatever happens in between.
    let states = [value("last"), list("legs")];
    let job = Job::create(&api, shared(), &states).await;
    for round in 0..3 {
        let again = within("a registration of the same is answered", api.register("job", "op", states.to_vec())).await;
        assert_eq!(again.unwrap(), job.states, "{round}");
        api.checkpoint("job").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_created_is_known_to_its_server_at_once() {
    let forebay = Forebay::dev().await;
    let api = forebay.api();
    for number in 0..10 {
        let name = format!("job-{number}");
        api.create(JobBuilder::shared(&name, 2).build()).await.unwrap();
        let status = api.get(address(&name, "op", "absent", "key")).await.unwrap_err();
        assert_eq!(reason(&status), ErrorReason::StateUnknown, "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_are_incremental_unless_the_job_says_otherwise() {
    let forebay = Forebay::dev().await;
    let api = forebay.api();
    for (name, incremental) in [("unsaid", None), ("on", Some(true)), ("off", Some(false))] {
        let settings = |spec: &mut v1::JobSpec| {
            spec.set_durability(v1::Durability::None);
            spec.checkpoints.as_mut().unwrap().incremental = incremental;
        };
        let job = Job::create(&api, JobBuilder::shared(name, 1).with(settings).build(), &[value("last")]).await;
        api.put(job.at("last", "N1"), raw(vec![7; 10_000])).await.unwrap();
        let first = api.checkpoint(name).await.unwrap();
        api.put(job.at("last", "N2"), raw("small")).await.unwrap();
        let second = api.checkpoint(name).await.unwrap();
        assert_eq!(first.new_bytes, first.full_bytes);
        assert_eq!(second.new_bytes < second.full_bytes, incremental != Some(false), "{name}: {second:?}");
    }
}
