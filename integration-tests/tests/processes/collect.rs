//! Garbage collection over real processes: what nothing refers to goes, what a checkpoint needs stays, and
//! `verify` tells the difference.

#![cfg(feature = "rocksdb")]

#[cfg(feature = "s3")]
mod bucket;
mod endurance;
mod verify;

use std::{
    fs,
    path::{Path, PathBuf},
};

use forebay_integration_tests::harness::{Api, Forebay, Job, JobBuilder, Setup, eventually, list, raw, value};
use forebay_proto::v1;

/// Collects so often that a test need not wait, and whatever its age.
fn eager() -> Setup {
    eager_with(Setup::dev())
}

fn eager_with(setup: Setup) -> Setup {
    setup.set("coordinator.collect_interval", "50ms").set("coordinator.collect_min_age", "0s")
}

/// A process and a job of which one checkpoint is kept.
struct Scene {
    forebay: Forebay,
    api: Api,
    job: Job,
    /// The job's prefix in the store.
    prefix: String,
}

async fn scene(setup: Setup, change: impl FnOnce(&mut v1::CheckpointSettings)) -> Scene {
    let forebay = setup.start().await;
    let api = forebay.api();
    let spec = JobBuilder::shared("job", 2).with(|spec| {
        // Every checkpoint has SSTs of its own.
        spec.set_durability(v1::Durability::None);
        let settings = spec.checkpoints.get_or_insert_default();
        settings.retained = 1;
        change(settings);
    });
    let job = Job::create(&api, spec.build(), &[value("last"), list("legs")]).await;
    let status = api.coordinator().get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    let prefix = format!("{}/job-{}", status.cluster_id, job.info.job_uid);
    Scene { forebay, api, job, prefix }
}

impl Scene {
    /// Writes something and takes a checkpoint.
    async fn checkpoint(&self, number: u32) -> v1::CompletedCheckpoint {
        for key in 0..20 {
            let key = format!("N{key}");
            self.api.put(self.job.at("last", &key), raw(format!("{number}"))).await.unwrap();
            self.api.append(self.job.at("legs", &key), raw(number.to_be_bytes().to_vec())).await.unwrap();
        }
        self.api.checkpoint("job").await.unwrap()
    }

    async fn verify(&self) -> v1::VerifyCheckpointResponse {
        let request = v1::VerifyCheckpointRequest { job: "job".into(), checkpoint: 0 };
        self.api.coordinator().verify_checkpoint(request).await.unwrap().into_inner()
    }

    async fn collect(&self, dry_run: bool) -> v1::CollectGarbageResponse {
        let request = v1::CollectGarbageRequest { job: "job".into(), dry_run };
        self.api.coordinator().collect_garbage(request).await.unwrap().into_inner()
    }

    /// Where the job's objects are, of a local store.
    fn folder(&self) -> PathBuf {
        Path::new(self.forebay.setup().checkpoints()).join(&self.prefix)
    }

    /// Asserts that the last checkpoint is whole, and that a server without its disk restores it.
    async fn is_whole(&mut self) {
        let found = self.verify().await;
        assert!(found.files > 0 && found.missing.is_empty() && found.damaged.is_empty(), "{found:?}");
        let digest = self.api.digest("job").await.unwrap();
        self.forebay.kill().await;
        self.forebay.delete_data();
        self.forebay.restart().await;
        self.job.refresh(&self.api).await;
        assert_eq!(self.api.digest("job").await.unwrap(), digest);
    }
}

/// The objects that a manifest names, of the job's own.
async fn named(api: &Api) -> Vec<String> {
    let manifest = api.manifest("job", 0).await.unwrap();
    let mut named: Vec<_> = manifest.shards.into_iter().flat_map(|shard| shard.files).map(|file| file.object).collect();
    named.sort();
    named.dedup();
    named
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_and_checkpoints_that_are_not_kept_go_and_what_is_needed_stays() {
    let mut scene = scene(eager(), |_| {}).await;
    let folder = scene.folder();
    let first = scene.checkpoint(1).await;
    fs::create_dir_all(folder.join("shared/nobody")).unwrap();
    fs::write(folder.join("shared/nobody/orphan"), b"left by a server that died").unwrap();
    for number in 2..5 {
        scene.checkpoint(number).await;
    }
    eventually("the orphan and the first checkpoint's manifest are gone", || async {
        let gone = |name: &str| !folder.join(name).exists();
        (gone("shared/nobody/orphan") && gone(&first.manifest)).then_some(())
    })
    .await;
    for object in named(&scene.api).await {
        assert!(folder.join(&object).exists(), "{object} is needed");
    }
    scene.is_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_is_asked_for_says_what_it_takes_and_a_dry_run_takes_nothing() {
    let setup = Setup::dev().set("coordinator.collect_interval", "0s").set("coordinator.collect_min_age", "0s");
    let mut scene = scene(setup, |_| {}).await;
    let folder = scene.folder();
    scene.checkpoint(1).await;
    scene.checkpoint(2).await;
    let orphan = "shared/nobody/orphan";
    fs::create_dir_all(folder.join("shared/nobody")).unwrap();
    fs::write(folder.join(orphan), b"orphan").unwrap();
    let told = scene.collect(true).await;
    assert!(told.objects.iter().any(|object| object == orphan), "{told:?}");
    assert!(folder.join(orphan).exists());
    assert_eq!(scene.verify().await.extra, told.objects);
    let taken = scene.collect(false).await;
    assert_eq!((&taken.objects, taken.bytes), (&told.objects, told.bytes));
    assert!(taken.objects.iter().all(|object| !folder.join(object).exists()));
    scene.is_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn young_objects_stay() {
    let setup = Setup::dev().set("coordinator.collect_interval", "50ms").set("coordinator.collect_min_age", "1h");
    let scene = scene(setup, |_| {}).await;
    let first = scene.checkpoint(1).await;
    scene.checkpoint(2).await;
    assert_eq!(scene.collect(false).await.objects, [""; 0]);
    assert!(scene.folder().join(&first.manifest).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_died_while_it_collected_is_followed_by_one_that_goes_on() {
    let mut scene = scene(eager(), |settings| settings.interval_ms = Some(20)).await;
    for number in 0..5 {
        scene.checkpoint(number).await;
        scene.forebay.kill_and_restart().await;
        scene.job.refresh(&scene.api).await;
    }
    let last = scene.checkpoint(9).await;
    assert!(last.id > 0);
    let folder = scene.folder();
    // New ones come all the time; those that are there now go, but for those that are kept.
    let mut found = Vec::new();
    manifests(&folder.join("chk"), &mut found);
    eventually("no manifest is left but those that are kept", || async {
        let kept = scene.api.checkpoints("job").await.ok()?.completed;
        let is_kept = |path: &PathBuf| kept.iter().any(|entry| folder.join(&entry.manifest) == *path);
        found.iter().all(|path| is_kept(path) || !path.exists()).then_some(())
    })
    .await;
    scene.is_whole().await;
}

fn manifests(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            manifests(&path, found);
        } else if path.ends_with("manifest") {
            found.push(path);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_job_leaves_its_checkpoints_unless_they_were_to_go_with_it() {
    for goes in [false, true] {
        let setup = eager().set("coordinator.server_lease", "500ms");
        let scene = scene(setup, |settings| settings.delete_on_cancel = goes).await;
        let other = JobBuilder::shared("other", 1).build();
        let other = Job::create(&scene.api, other, &[value("last")]).await;
        scene.api.put(other.at("last", "a"), raw("b")).await.unwrap();
        scene.api.checkpoint("other").await.unwrap();
        let last = scene.checkpoint(1).await;
        let folder = scene.folder();
        scene.api.delete("job").await.unwrap();
        if goes {
            eventually("the job's objects are gone", || async {
                (!folder.join("head").exists() && !folder.join(&last.manifest).exists()).then_some(())
            })
            .await;
        } else {
            assert!(folder.join(&last.manifest).exists() && folder.join("head").exists());
        }
        let request = v1::VerifyCheckpointRequest { job: "other".into(), checkpoint: 0 };
        let found = scene.api.coordinator().verify_checkpoint(request).await.unwrap().into_inner();
        assert!(found.files > 0 && found.missing.is_empty() && found.damaged.is_empty(), "{found:?}");
    }
}
