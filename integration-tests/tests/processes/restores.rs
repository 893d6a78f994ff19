//! Jobs taken to checkpoints: with other shards, to an older one, from elsewhere, as branches.

#![cfg(feature = "rocksdb")]

use std::{collections::HashMap, path::Path};

use forebay_integration_tests::{
    harness::{Api, Cluster, Forebay, Job, JobBuilder, Setup, eventually, list, raw, reason, reducing, value},
    s3::S3Server,
};
use forebay_proto::v1::{self, ErrorReason};
use tonic::Status;
use xxhash_rust::xxh3::xxh3_64_with_seed;

const KEYS: u32 = 300;

/// A shared job with rows in all of its key groups, in every kind of table.
async fn job(api: &Api, name: &str, backend: v1::Backend, shards: u32) -> Job {
    let spec = JobBuilder::shared(name, shards).with(|spec| spec.set_backend(backend)).build();
    let job = Job::create(api, spec, &[value("last"), list("all"), reducing("sum")]).await;
    for key in 0..KEYS {
        let key = format!("key-{key}");
        api.put(job.at("last", &key), raw(key.as_bytes())).await.unwrap();
        api.append(job.at("all", &key), raw("first")).await.unwrap();
    }
    job
}

async fn append_to_all(api: &Api, job: &Job, element: &str) {
    for key in 0..KEYS {
        api.append(job.at("all", &format!("key-{key}")), raw(element)).await.unwrap();
    }
}

fn incompressible(seed: u64, bytes: usize) -> Vec<u8> {
    let words = (0..bytes.div_ceil(8)).flat_map(|at| xxh3_64_with_seed(&at.to_le_bytes(), seed).to_le_bytes());
    words.take(bytes).collect()
}

async fn restore(api: &Api, request: v1::RestoreJobRequest) -> Result<v1::JobInfo, Status> {
    let name = request.job.clone();
    api.coordinator().restore_job(request).await?;
    Ok(api.serving(&name).await)
}

async fn copy(api: &Api, job: &str, directory: &str) -> Result<String, Status> {
    let request = v1::CopyCheckpointRequest { job: job.into(), checkpoint: 0, directory: directory.into() };
    let mut progress = api.coordinator().copy_checkpoint(request).await?.into_inner();
    let mut last = v1::CopyCheckpointResponse::default();
    while let Some(step) = progress.message().await? {
        last = step;
    }
    assert_eq!(last.bytes_done, last.bytes);
    Ok(last.location)
}

fn to(job: &str) -> v1::RestoreJobRequest {
    v1::RestoreJobRequest { job: job.into(), ..Default::default() }
}

fn with_shards(job: &str, shards: u32) -> v1::RestoreJobRequest {
    v1::RestoreJobRequest { shards: HashMap::from([("op".to_owned(), shards)]), ..to(job) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_on_with_any_other_number_of_shards_and_back() {
    for backend in [v1::Backend::Rocksdb, v1::Backend::Memory] {
        let forebay = Forebay::dev().await;
        let api = forebay.api();
        let job = job(&api, "job", backend, 1).await;
        let mut elements = 1;
        for shards in [4, 1, 3, 5, 77, 15] {
            let before = api.digest("job").await.unwrap();
            let checkpoint = api.checkpoint("job").await.unwrap();
            let info = restore(&api, with_shards("job", shards)).await.unwrap();
            assert_eq!((info.shards.len(), info.restored_checkpoint), (shards as usize, checkpoint.id));
            assert_eq!(api.digest("job").await.unwrap(), before, "{backend:?}: {shards} shards");
            // New elements go behind the old ones, whichever shard they came from.
            append_to_all(&api, &job, &format!("with {shards}")).await;
            elements += 1;
        }
        let stored = job.stored(&api, "all", "key-7").await;
        assert_eq!((stored.len(), stored[0].as_str(), stored[elements - 1].as_str()), (7, "first", "with 15"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_become_another_shards_are_not_uploaded_again() {
    let forebay = Forebay::dev().await;
    let api = forebay.api();
    let job = job(&api, "job", v1::Backend::Rocksdb, 2).await;
    for key in 0..KEYS * 6 {
        let element = raw(incompressible(u64::from(key), 2000));
        api.append(job.at("all", &format!("key-{}", key % KEYS)), element).await.unwrap();
    }
    // What lies in a log has no file of its own yet: a restore makes one, and the next checkpoint has it.
    api.checkpoint("job").await.unwrap();
    restore(&api, with_shards("job", 2)).await.unwrap();
    let settled = api.checkpoint("job").await.unwrap();
    assert!(settled.full_bytes > 1_000_000, "{settled:?}");
    // Files of other shards are joined; then each is in all of those that are split off. Only a merge of what was
    // split before has to rewrite files: they cross its borders.
    for shards in [1, 4] {
        restore(&api, with_shards("job", shards)).await.unwrap();
        let next = api.checkpoint("job").await.unwrap();
        let share = next.new_bytes as f64 / settled.full_bytes as f64;
        assert!(share < 0.5, "{shards} shards: {} of {} bytes are new", next.new_bytes, settled.full_bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_increments_holds_what_a_full_checkpoint_holds() {
    for backend in [v1::Backend::Rocksdb, v1::Backend::Memory] {
        let mut forebay = Forebay::dev().await;
        let api = forebay.api();
        let job = job(&api, "job", backend, 2).await;
        for round in 0..4 {
            api.put(job.at("last", &format!("key-{round}")), raw("changed")).await.unwrap();
            api.append(job.at("all", "key-9"), raw(format!("element-{round}"))).await.unwrap();
            api.checkpoint("job").await.unwrap();
        }
        let increment = api.checkpoints("job").await.unwrap().completed.pop().unwrap();
        assert_ne!(api.manifest("job", increment.id).await.unwrap().base, 0);
        let request = v1::TriggerCheckpointRequest { job: "job".into(), full: true };
        let full = api.coordinator().trigger_checkpoint(request).await.unwrap().into_inner().checkpoint.unwrap();
        assert_eq!((api.manifest("job", full.id).await.unwrap().base, full.new_bytes), (0, full.full_bytes));
        let now = api.digest("job").await.unwrap();
        let mut digests = Vec::new();
        for checkpoint in [increment.id, full.id] {
            append_to_all(&api, &job, "later").await;
            // From the store: there is nothing here to link.
            restore(&api, v1::RestoreJobRequest { checkpoint, ..to("job") }).await.unwrap();
            forebay.kill().await;
            forebay.delete_data();
            forebay.restart().await;
            api.serving("job").await;
            digests.push(api.digest("job").await.unwrap());
        }
        assert_eq!(digests, [now, now], "{backend:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_shards_are_spread_over_the_servers_and_survive_a_kill() {
    let mut cluster = Cluster::start(2).await;
    let api = cluster.api();
    let spec = JobBuilder::shared("job", 2).build();
    let mut job = Job::create(&api, spec, &[value("last")]).await;
    for key in 0..KEYS {
        let key = format!("key-{key}");
        for route in &job.routes {
            let put = Api::to(&route.address).put(job.at("last", &key), raw(key.as_bytes())).await;
            if put.is_ok() {
                break;
            }
        }
    }
    api.checkpoint("job").await.unwrap();
    let info = restore(&api, with_shards("job", 6)).await.unwrap();
    let on = |server: &str| {
        info.shards.iter().filter(|shard| shard.entry.as_ref().is_some_and(|entry| entry.server == server)).count()
    };
    assert_eq!((on("server-0"), on("server-1")), (3, 3));
    cluster.servers[0].kill_and_restart().await;
    cluster.linked().await;
    job.refresh(&api).await;
    let mut found = 0;
    for key in 0..KEYS {
        let key = format!("key-{key}");
        for address in [cluster.servers[0].url(), cluster.servers[1].url()] {
            let read = Api::to(&address).get(job.at("last", &key)).await;
            found += u32::from(read.is_ok_and(|read| read.items.iter().any(|item| item.raw == key.as_bytes())));
        }
    }
    assert_eq!(found, KEYS);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_checkpoint_becomes_what_later_failures_go_back_to() {
    let mut forebay = Forebay::dev().await;
    let api = forebay.api();
    let job = job(&api, "job", v1::Backend::Rocksdb, 2).await;
    let first = api.checkpoint("job").await.unwrap();
    let at_first = api.digest("job").await.unwrap();
    append_to_all(&api, &job, "second").await;
    let second = api.checkpoint("job").await.unwrap();
    let at_second = api.digest("job").await.unwrap();
    let info = restore(&api, v1::RestoreJobRequest { checkpoint: first.id, ..to("job") }).await.unwrap();
    assert!(info.restored_checkpoint > second.id, "ids never go back");
    assert_eq!(api.digest("job").await.unwrap(), at_first);
    // The server's disk is gone: the job is where it was taken, not at the checkpoint that is newer by age.
    forebay.kill().await;
    forebay.delete_data();
    forebay.restart().await;
    api.serving("job").await;
    assert_eq!(api.digest("job").await.unwrap(), at_first);
    restore(&api, v1::RestoreJobRequest { checkpoint: second.id, ..to("job") }).await.unwrap();
    assert_eq!(api.digest("job").await.unwrap(), at_second);
    let refused = restore(&api, v1::RestoreJobRequest { checkpoint: 999, ..to("job") }).await.unwrap_err();
    assert_eq!(reason(&refused), ErrorReason::CheckpointUnknown);
}

/// A process that may name a folder of its own besides its checkpoint directory.
async fn with_other_folder() -> (Forebay, String) {
    let setup = Setup::dev();
    let other = setup.home().join("other").display().to_string();
    (setup.set("checkpoint.allowed_dirs", &other).start().await, other)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_restores_into_another_cluster_once_all_of_it_is_there() {
    let (forebay, other) = with_other_folder().await;
    let api = forebay.api();
    let here = job(&api, "job", v1::Backend::Rocksdb, 2).await;
    api.checkpoint("job").await.unwrap();
    let first = copy(&api, "job", &other).await.unwrap();
    let at_first = api.digest("job").await.unwrap();
    append_to_all(&api, &here, "second").await;
    api.checkpoint("job").await.unwrap();
    let second = copy(&api, "job", &other).await.unwrap();
    let at_second = api.digest("job").await.unwrap();

    // The other cluster sees the objects of the newer copy arrive one by one, in another order than they were
    // written in. Until the last is there it takes the older one.
    let away = Setup::dev();
    let arrived = away.home().join("arrived");
    let elsewhere = away.set("checkpoint.allowed_dirs", &arrived.display().to_string()).start().await;
    let there = elsewhere.api();
    let from = |newest_complete| v1::RestoreJobRequest {
        location: arrived.display().to_string(),
        newest_complete,
        ..to("restored")
    };
    copy_dir(Path::new(&first), &arrived.join(Path::new(&first).file_name().unwrap()));
    let target = arrived.join(Path::new(&second).file_name().unwrap());
    let mut objects = files(Path::new(&second));
    // The object that makes it whole first: the worst order.
    objects.sort_by_key(|object| (!object.ends_with("savepoint"), object.clone()));
    assert!(objects.len() > 3, "{objects:?}");
    for (index, object) in objects.iter().enumerate() {
        if index == 1 || index == objects.len() - 1 {
            let refused = restore(&there, from(false)).await.expect_err(&format!("{index} of {objects:?}"));
            assert_eq!(reason(&refused), ErrorReason::CheckpointCorrupt, "{refused}");
            let info = restore(&there, v1::RestoreJobRequest { job: format!("restored-{index}"), ..from(true) }).await;
            let name = info.unwrap().spec.unwrap().name;
            assert_eq!(there.digest(&name).await.unwrap(), at_first);
        }
        let relative = object.strip_prefix(&second).unwrap().trim_start_matches('/');
        std::fs::create_dir_all(target.join(relative).parent().unwrap()).unwrap();
        std::fs::copy(object, target.join(relative)).unwrap();
    }
    let info = restore(&there, from(true)).await.unwrap();
    assert_eq!((there.digest("restored").await.unwrap(), info.generation), (at_second, 1));
    // It takes checkpoints of its own, full at first, and stands without the folder it came from.
    let own = there.checkpoint("restored").await.unwrap();
    assert_eq!(own.new_bytes, own.full_bytes);
    std::fs::remove_dir_all(&arrived).unwrap();
    restore(&there, with_shards("restored", 3)).await.unwrap();
    assert_eq!(there.digest("restored").await.unwrap(), at_second);
}

fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path.display().to_string());
        }
    }
    found
}

fn copy_dir(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(Path::new(&file).strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(&file, target).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_brought_must_fit_and_what_is_not_allowed_is_not_opened() {
    let (forebay, other) = with_other_folder().await;
    let api = forebay.api();
    job(&api, "job", v1::Backend::Rocksdb, 2).await;
    api.checkpoint("job").await.unwrap();
    let location = copy(&api, "job", &other).await.unwrap();
    let refused = async |job: &str, change: fn(&mut v1::JobSpec)| {
        api.create(JobBuilder::shared(job, 2).with(change).build()).await.unwrap();
        let request = v1::RestoreJobRequest { location: location.clone(), ..to(job) };
        let status = restore(&api, request).await.unwrap_err();
        (reason(&status), status.message().to_owned())
    };
    let (groups, message) = refused("groups", |spec| spec.max_parallelism = 64).await;
    assert!(groups == ErrorReason::SettingsConflict && message.contains("128 key groups"), "{message}");
    let (operators, message) = refused("operators", |spec| spec.operators[0].name = "another".into()).await;
    assert!(operators == ErrorReason::SettingsConflict && message.contains("another"), "{message}");
    for outside in ["/etc", "/", &format!("{other}/../checkpoints"), "gs://bucket/x", "no-url"] {
        let request = v1::RestoreJobRequest { location: outside.into(), ..to("job") };
        let status = restore(&api, request).await.unwrap_err();
        assert_eq!(reason(&status), ErrorReason::FieldInvalid, "{outside}: {status}");
        assert!(copy(&api, "job", outside).await.is_err(), "{outside}");
    }
    let own = v1::RestoreJobRequest { claim: v1::ClaimFiles::Claim.into(), ..to("job") };
    assert_eq!(reason(&restore(&api, own).await.unwrap_err()), ErrorReason::FieldInvalid);
    let empty = v1::RestoreJobRequest { location: other.clone() + "/nothing-here", ..to("job") };
    assert_eq!(reason(&restore(&api, empty).await.unwrap_err()), ErrorReason::CheckpointUnknown);
    let before = api.describe("job").await.unwrap();
    let checked = v1::RestoreJobRequest { location, validate_only: true, ..to("job") };
    api.coordinator().restore_job(checked).await.unwrap();
    assert_eq!(api.describe("job").await.unwrap().generation, before.generation, "a check changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_starts_from_its_parents_files_and_each_goes_its_own_way() {
    let server = S3Server::start("branches").await.unwrap();
    let url = "s3://branches/prefix";
    let forebay = Setup::dev().s3(&server, url).start().await;
    let api = forebay.api();
    let parent = job(&api, "parent", v1::Backend::Rocksdb, 2).await;
    api.checkpoint("parent").await.unwrap();
    let at_branch = api.digest("parent").await.unwrap();
    let request = v1::BranchJobRequest { parent: "parent".into(), checkpoint: 0, job: "child".into() };
    api.coordinator().branch_job(request.clone()).await.unwrap();
    api.serving("child").await;
    assert_eq!(api.digest("child").await.unwrap(), at_branch);
    append_to_all(&api, &parent, "parent's").await;
    let child = Job { name: "child".into(), ..parent.clone() };
    api.append(child.at("all", "key-1"), raw("child's")).await.unwrap();
    assert_eq!(child.stored(&api, "all", "key-1").await, ["first", "child's"]);
    assert_eq!(parent.stored(&api, "all", "key-1").await, ["first", "parent's"]);
    let own = api.checkpoint("child").await.unwrap();
    assert!(own.location.is_empty() && own.prefix.is_empty());
    let before = api.digest("child").await.unwrap();
    restore(&api, with_shards("child", 3)).await.unwrap();
    assert_eq!(api.digest("child").await.unwrap(), before);
    let again = api.coordinator().branch_job(request).await.unwrap_err();
    assert_eq!(reason(&again), ErrorReason::AlreadyExists);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_collects_keeps_what_its_branch_began_with_until_the_branch_has_moved_on() {
    let setup = Setup::dev().set("coordinator.collect_interval", "20ms").set("coordinator.collect_min_age", "0s");
    let mut forebay = setup.start().await;
    let api = forebay.api();
    let retained = |spec: &mut v1::JobSpec| spec.checkpoints.get_or_insert_default().retained = 1;
    let parent = JobBuilder::shared("parent", 2).with(retained).build();
    let parent = Job::create(&api, parent, &[value("last")]).await;
    api.put(parent.at("last", "a"), raw("at the branch")).await.unwrap();
    let begun = api.checkpoint("parent").await.unwrap();
    let status = api.coordinator().get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    let prefix = format!("{}/parent-{}", status.cluster_id, parent.info.job_uid);
    let manifest = Path::new(forebay.setup().checkpoints()).join(prefix).join(&begun.manifest);
    let request = v1::BranchJobRequest { parent: "parent".into(), checkpoint: 0, job: "child".into() };
    api.coordinator().branch_job(request).await.unwrap();
    api.serving("child").await;
    for number in 0..5 {
        api.put(parent.at("last", "a"), raw(format!("{number}"))).await.unwrap();
        api.checkpoint("parent").await.unwrap();
        let collect = v1::CollectGarbageRequest { job: "parent".into(), dry_run: false };
        api.coordinator().collect_garbage(collect).await.unwrap();
    }
    assert!(manifest.exists(), "the branch begins with it");
    // The child has nothing of its own yet: without its disk it goes back to the parent's files.
    forebay.kill().await;
    forebay.delete_data();
    forebay.restart().await;
    api.serving("child").await;
    let child = Job { name: "child".into(), ..parent.clone() };
    assert_eq!(child.stored(&api, "last", "a").await, ["at the branch"]);
    // Its generation began with the parent's checkpoint; the next one begins with its own.
    api.checkpoint("child").await.unwrap();
    restore(&api, to("child")).await.unwrap();
    api.checkpoint("child").await.unwrap();
    eventually("the parent's files go", || async { (!manifest.exists()).then_some(()) }).await;
}
