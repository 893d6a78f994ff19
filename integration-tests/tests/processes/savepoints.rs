//! Savepoints of either format: taken, found, restored from, deleted; and what happens when they cannot be taken.

#![cfg(feature = "rocksdb")]

use forebay_client::{Client, Value, WorkerState, codec::Utf8};
use forebay_integration_tests::{
    harness::{Api, Forebay, Job, JobBuilder, Setup, eventually, list, raw, reason, reducing, value},
    s3::{Fault, Operation, Rule, S3Server, When},
};
use forebay_proto::v1::{self, Backend, ErrorReason, Redistribution, SavepointFormat};
use tokio_util::sync::CancellationToken;
use tonic::Status;

const KEYS: u32 = 200;
const FORMATS: [SavepointFormat; 2] = [SavepointFormat::Canonical, SavepointFormat::Native];
const BACKENDS: [Backend; 2] = [Backend::Rocksdb, Backend::Memory];

/// A process with a savepoint directory.
async fn with_savepoints() -> Forebay {
    let setup = Setup::dev();
    let savepoints = setup.home().join("savepoints").display().to_string();
    setup.set("checkpoint.savepoint_dir", &savepoints).start().await
}

async fn job(api: &Api, name: &str, backend: Backend, shards: u32) -> Job {
    let spec = JobBuilder::shared(name, shards).with(|spec| spec.set_backend(backend)).build();
    let job = Job::create(api, spec, &[value("last"), list("all"), reducing("sum")]).await;
    for key in 0..KEYS {
        let key = format!("key-{key}");
        api.put(job.at("last", &key), raw(key.as_bytes())).await.unwrap();
        api.append(job.at("all", &key), raw("first")).await.unwrap();
    }
    job
}

async fn take(api: &Api, job: &str, format: SavepointFormat) -> Result<v1::Savepoint, Status> {
    let request = v1::CreateSavepointRequest { job: job.into(), format: format.into(), ..Default::default() };
    Ok(api.coordinator().create_savepoint(request).await?.into_inner().savepoint.unwrap())
}

async fn restore(api: &Api, job: &str, location: &str) -> Result<v1::JobInfo, Status> {
    let request = v1::RestoreJobRequest { job: job.into(), location: location.into(), ..Default::default() };
    api.coordinator().restore_job(request).await?;
    Ok(api.serving(job).await)
}

async fn delete(api: &Api, location: &str) -> Result<(), Status> {
    let request = v1::DeleteSavepointRequest { location: location.into() };
    api.coordinator().delete_savepoint(request).await.map(drop)
}

async fn found(api: &Api, job: &str) -> Vec<v1::Savepoint> {
    let request = v1::ListSavepointsRequest { job: job.into(), directory: String::new() };
    api.coordinator().list_savepoints(request).await.unwrap().into_inner().savepoints
}

#[tokio::test(flavor = "multi_thread")]
async fn a_savepoint_of_any_backend_becomes_a_job_of_any_backend_and_number_of_shards() {
    let forebay = with_savepoints().await;
    let api = forebay.api();
    let mut made = 0;
    for from in BACKENDS {
        for format in FORMATS {
            made += 1;
            let name = format!("job-{made}");
            let job = job(&api, &name, from, 3).await;
            let before = api.digest(&name).await.unwrap();
            let savepoint = take(&api, &name, format).await.unwrap();
            assert_eq!((savepoint.format(), &savepoint.job[..]), (format, &name[..]));
            api.append(job.at("all", "key-1"), raw("later")).await.unwrap();
            for (to, shards) in [(Backend::Rocksdb, 3), (Backend::Memory, 2)] {
                let other = format!("{name}-{}", shards);
                let spec = JobBuilder::shared(&other, shards).with(|spec| spec.set_backend(to)).build();
                api.create(spec).await.unwrap();
                restore(&api, &other, &savepoint.location).await.unwrap();
                assert_eq!(api.digest(&other).await.unwrap(), before, "{from:?} as {format:?} to {to:?}");
                let own = api.checkpoint(&other).await.unwrap();
                assert_eq!(own.new_bytes, own.full_bytes, "the first checkpoint of its own refers to nothing there");
            }
            assert_ne!(api.digest(&name).await.unwrap(), before, "the job itself goes on");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn savepoints_stay_out_of_the_jobs_checkpoints_and_are_found_described_and_deleted() {
    let forebay = with_savepoints().await;
    let api = forebay.api();
    let job = job(&api, "job", Backend::Rocksdb, 2).await;
    let checkpoint = api.checkpoint("job").await.unwrap();
    let savepoint = take(&api, "job", SavepointFormat::Unspecified).await.unwrap();
    assert_eq!(savepoint.format(), SavepointFormat::Canonical, "what is said of the default");
    assert!(savepoint.checkpoint > checkpoint.id);
    let completed = api.checkpoints("job").await.unwrap().completed;
    assert_eq!(completed.iter().map(|entry| entry.id).collect::<Vec<_>>(), [checkpoint.id]);
    // The next checkpoint builds on the last one, as if no savepoint had been taken.
    api.append(job.at("all", "key-1"), raw("later")).await.unwrap();
    let next = api.checkpoint("job").await.unwrap();
    assert!(next.new_bytes < next.full_bytes, "{next:?}");
    assert_eq!(api.manifest("job", next.id).await.unwrap().base, checkpoint.id);

    assert_eq!(found(&api, "job").await, std::slice::from_ref(&savepoint));
    assert_eq!(found(&api, "another").await, []);
    let request = v1::DescribeSavepointRequest { location: savepoint.location.clone() };
    let described = api.coordinator().describe_savepoint(request.clone()).await.unwrap().into_inner();
    assert_eq!(described.savepoint.as_ref(), Some(&savepoint));
    let manifest = described.manifest.unwrap();
    assert!(
        manifest.shards.len() == 2 && manifest.shards.iter().all(|shard| shard.canonical && !shard.files.is_empty())
    );

    restore(&api, "restored", &savepoint.location).await.unwrap();
    let used = delete(&api, &savepoint.location).await.unwrap_err();
    assert!(reason(&used) == ErrorReason::SettingsConflict && used.message().contains("restored"), "{used}");
    api.delete("restored").await.unwrap();
    // Half of it is gone: that is told, and not taken for a savepoint.
    let rows = std::path::Path::new(&savepoint.location).join(&manifest.shards[0].files[0].object);
    std::fs::remove_file(rows).unwrap();
    let half = api.coordinator().describe_savepoint(request.clone()).await.unwrap_err();
    assert_eq!(reason(&half), ErrorReason::CheckpointCorrupt, "{half}");
    assert_eq!(
        reason(&restore(&api, "from-half", &savepoint.location).await.unwrap_err()),
        ErrorReason::CheckpointCorrupt
    );
    delete(&api, &savepoint.location).await.unwrap();
    assert_eq!(found(&api, "").await, []);
    let gone = api.coordinator().describe_savepoint(request).await.unwrap_err();
    assert_eq!(reason(&gone), ErrorReason::CheckpointUnknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_folders_of_savepoints_are_deleted() {
    let forebay = with_savepoints().await;
    let api = forebay.api();
    job(&api, "job", Backend::Memory, 1).await;
    take(&api, "job", SavepointFormat::Native).await.unwrap();
    let directory = forebay.setup().home().join("savepoints").display().to_string();
    let own = forebay.setup().checkpoints().to_owned();
    for (location, expected) in [
        ("", ErrorReason::FieldMissing),
        ("/etc", ErrorReason::FieldInvalid),
        (&format!("{directory}/../data"), ErrorReason::FieldInvalid),
        (&directory, ErrorReason::CheckpointUnknown),
        (&format!("{directory}/nothing"), ErrorReason::CheckpointUnknown),
        (&own, ErrorReason::CheckpointUnknown),
    ] {
        let refused = delete(&api, location).await.unwrap_err();
        assert_eq!(reason(&refused), expected, "{location}: {refused}");
    }
    assert_eq!(found(&api, "").await.len(), 1);
    assert!(api.checkpoint("job").await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_savepoint_needs_a_directory_that_is_allowed_and_a_store_that_takes_it() {
    let server = S3Server::start("savepoints").await.unwrap();
    let setup = Setup::dev().s3(&server, "s3://savepoints/cluster");
    let forebay = setup.set("checkpoint.allowed_dirs", "s3://savepoints/elsewhere").start().await;
    let api = forebay.api();
    job(&api, "job", Backend::Rocksdb, 2).await;
    let missing = take(&api, "job", SavepointFormat::Native).await.unwrap_err();
    assert!(reason(&missing) == ErrorReason::FieldMissing && missing.message().contains("savepoint_dir"), "{missing}");
    let to = |directory: &str| v1::CreateSavepointRequest {
        job: "job".into(),
        directory: directory.into(),
        ..Default::default()
    };
    let refused = api.coordinator().create_savepoint(to("s3://another/bucket")).await.unwrap_err();
    assert_eq!(reason(&refused), ErrorReason::FieldInvalid, "{refused}");

    server
        .faults()
        .add(Rule::new(Fault::Status(403, "AccessDenied")).of(Operation::Put).on("elsewhere/").when(When::Always));
    let denied = api.coordinator().create_savepoint(to("s3://savepoints/elsewhere")).await.unwrap_err();
    assert_eq!(reason(&denied), ErrorReason::CheckpointAborted, "{denied}");
    server.faults().clear();
    api.checkpoint("job").await.unwrap();
    for directory in ["s3://savepoints/elsewhere", "s3://savepoints/cluster/savepoints"] {
        let taken = api.coordinator().create_savepoint(to(directory)).await.unwrap().into_inner().savepoint.unwrap();
        assert!(taken.location.starts_with(directory), "{taken:?}");
        let name = format!("restored-{}", taken.checkpoint);
        restore(&api, &name, &taken.location).await.unwrap();
        assert_eq!(api.digest(&name).await.unwrap(), api.digest("job").await.unwrap());
    }
    let unknown = take(&api, "nobody", SavepointFormat::Native).await.unwrap_err();
    assert_eq!(reason(&unknown), ErrorReason::JobUnknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_state_of_a_savepoint_is_given_to_the_workers_of_another_job() {
    const LAST: Value<Utf8, Utf8> = Value::new("last");
    let forebay = with_savepoints().await;
    let api = forebay.api();
    api.create(JobBuilder::leased("job", 2).build()).await.unwrap();
    let client = Client::connect(&forebay.url()).await.unwrap();
    let mut worker = client.worker("job", "op").id("w").state(&LAST).join().await.unwrap();
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let holds = tokio::spawn(async move {
        worker.assigned().await.unwrap();
        let state = || WorkerState::new().list("positions", Redistribution::Split, ["17"]);
        worker.idle(state, stopping.cancelled()).await.unwrap();
        worker
    });
    let savepoint = eventually("a savepoint with the worker in it", || async {
        take(&api, "job", SavepointFormat::Canonical).await.ok()
    })
    .await;
    let request = v1::DescribeSavepointRequest { location: savepoint.location.clone() };
    let manifest = api.coordinator().describe_savepoint(request).await.unwrap().into_inner().manifest.unwrap();
    assert_eq!(manifest.workers.len(), 1);
    stop.cancel();
    holds.await.unwrap().leave().await.unwrap();

    let spec = JobBuilder::leased("other", 4).in_memory().build();
    api.create(spec).await.unwrap();
    let request =
        v1::RestoreJobRequest { job: "other".into(), location: savepoint.location.clone(), ..Default::default() };
    api.coordinator().restore_job(request).await.unwrap();
    let mut worker = client.worker("other", "op").id("w").state(&LAST).join().await.unwrap();
    let assigned = worker.assigned().await.unwrap();
    assert!(assigned.restored());
    assert_eq!(assigned.worker_state().values::<Utf8, String>("positions").unwrap(), ["17"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_savepoint_goes_once_the_job_that_claimed_it_needs_it_no_more() {
    let forebay = with_savepoints().await;
    let api = forebay.api();
    job(&api, "job", Backend::Rocksdb, 2).await;
    let savepoint = take(&api, "job", SavepointFormat::Native).await.unwrap();
    let claim = |job: &str, claim: v1::ClaimFiles| v1::RestoreJobRequest {
        job: job.into(),
        location: savepoint.location.clone(),
        claim: claim.into(),
        ..Default::default()
    };
    api.coordinator().restore_job(claim("reader", v1::ClaimFiles::NoClaim)).await.unwrap();
    api.serving("reader").await;
    let refused = api.coordinator().restore_job(claim("owner", v1::ClaimFiles::Claim)).await.unwrap_err();
    assert!(reason(&refused) == ErrorReason::SettingsConflict && refused.message().contains("reader"), "{refused}");
    api.delete("reader").await.unwrap();
    api.coordinator().restore_job(claim("owner", v1::ClaimFiles::Claim)).await.unwrap();
    api.serving("owner").await;
    let doomed = api.coordinator().restore_job(claim("late", v1::ClaimFiles::NoClaim)).await.unwrap_err();
    assert!(reason(&doomed) == ErrorReason::SettingsConflict && doomed.message().contains("owner"), "{doomed}");
    let before = api.digest("owner").await.unwrap();
    for _ in 0..4 {
        api.checkpoint("owner").await.unwrap();
    }
    assert_eq!(found(&api, "").await.len(), 1, "the generation began with it: workers would be given its state");
    let again = v1::RestoreJobRequest { job: "owner".into(), ..Default::default() };
    api.coordinator().restore_job(again).await.unwrap();
    api.serving("owner").await;
    for _ in 0..3 {
        api.checkpoint("owner").await.unwrap();
    }
    eventually("the claimed savepoint is deleted", || async { found(&api, "").await.is_empty().then_some(()) }).await;
    assert_eq!(api.digest("owner").await.unwrap(), before);
}
