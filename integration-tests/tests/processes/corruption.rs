//! Damage: a checkpoint that is not what was written is refused by the object's name and nothing of it is
//! served; with the right bytes back it is restored. What lies on the server's own disk is not trusted.

#![cfg(feature = "rocksdb")]

#[cfg(feature = "s3")]
mod bucket;
mod damage;
mod disk;
mod matrix;
mod objects;
mod stage;

use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use forebay_integration_tests::harness::{Api, Forebay, Job, JobBuilder, Setup, eventually, list, raw, reason, value};
use forebay_proto::v1::{self, ErrorReason};
use tonic::{Code, Status};

/// A job with one completed checkpoint, a write behind it, and the digest of what the checkpoint holds.
struct Scene {
    forebay: Forebay,
    api: Api,
    job: Job,
    checkpoint: v1::CompletedCheckpoint,
    manifest: v1::Manifest,
    digest: u64,
    /// Where the job's objects are, of a local store.
    objects: PathBuf,
    /// The same as a path in the store.
    prefix: String,
}

/// Without a log everything is in SSTs at a checkpoint; with one it is in the log.
async fn scene(setup: Setup, durability: v1::Durability) -> Scene {
    // Whoever loses its disk follows its former self when that one's lease is over.
    let forebay = setup.set("coordinator.lease", "200ms").start().await;
    let api = forebay.api();
    let spec = JobBuilder::shared("job", 1).with(|spec| spec.set_durability(durability)).build();
    let job = Job::create(&api, spec, &[value("last"), list("legs")]).await;
    for key in 0..50 {
        let key = format!("N{key}");
        api.put(job.at("last", &key), raw(format!("checkpointed {key}"))).await.unwrap();
        api.append(job.at("legs", &key), raw(vec![7; 1000])).await.unwrap();
    }
    let digest = api.digest("job").await.unwrap();
    let checkpoint = api.checkpoint("job").await.unwrap();
    let manifest = api.manifest("job", checkpoint.id).await.unwrap();
    api.put(job.at("last", "N1"), raw("behind the checkpoint")).await.unwrap();
    let status = api.coordinator().get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    let prefix = format!("{}/job-{}", status.cluster_id, job.info.job_uid);
    let objects = Path::new(forebay.setup().checkpoints()).join(&prefix);
    Scene { forebay, api, job, checkpoint, manifest, digest, objects, prefix }
}

impl Scene {
    /// A file of the checkpoint whose name in the shard's directory is like that.
    fn file(&self, is_it: impl Fn(&str) -> bool) -> &v1::SnapshotFile {
        let files = &self.manifest.shards[0].files;
        files.iter().find(|file| is_it(&file.name)).unwrap_or_else(|| panic!("no such file in {files:#?}"))
    }

    fn path(&self, object: &str) -> PathBuf {
        self.objects.join(object)
    }

    /// The log of the live shard.
    fn live_log(&self) -> PathBuf {
        let files = files_below(&self.forebay.setup().data().join("jobs"));
        let live = |path: &PathBuf| {
            path.to_str().unwrap().contains("/db/") && path.extension().is_some_and(|end| end == "log")
        };
        let logs = files.into_iter().filter(live);
        logs.max_by_key(|path| fs::metadata(path).unwrap().len()).expect("a live shard has a log")
    }

    /// Takes the server its disk and starts it again.
    async fn lose_the_disk(&mut self) {
        self.forebay.kill().await;
        self.forebay.delete_data();
        self.forebay.restart().await;
    }

    /// Waits until a read is refused for damage.
    async fn data_loss(&self) -> Status {
        eventually("the damage is found", || async {
            let status = self.api.get(self.job.at("last", "N7")).await.err()?;
            (status.code() == Code::DataLoss).then_some(status)
        })
        .await
    }

    /// Waits for the refusal, and checks that it names the object and that nothing at all is served.
    async fn refused(&self, object: &str) {
        let refused = self.data_loss().await;
        assert_eq!(reason(&refused), ErrorReason::CheckpointCorrupt, "{refused:?}");
        assert!(refused.message().contains(object), "{object} is not named: {}", refused.message());
        let lost = [
            self.api.scan("job", "op", "legs").await.map(drop),
            self.api.put(self.job.at("last", "N1"), raw("x")).await.map(drop),
            self.api.append(self.job.at("legs", "N1"), raw("x")).await.map(drop),
        ];
        for status in lost.map(Result::unwrap_err) {
            assert_eq!((status.code(), reason(&status)), (Code::DataLoss, ErrorReason::CheckpointCorrupt));
        }
        let said = self.forebay.process().stderr();
        assert!(said.contains("CHECKPOINT_CORRUPT") && said.contains(object), "{object} is not in the log");
    }

    /// Waits until what the checkpoint holds is served, exactly.
    async fn restored(&mut self) {
        self.job.refresh(&self.api).await;
        assert_eq!(self.api.digest("job").await.unwrap(), self.digest);
        let shard = self.job.info.shards[0].entry.clone().unwrap();
        assert_eq!(shard.restored_from, self.checkpoint.id);
    }

    /// Damages a local object, sees it refused by its name, puts the right bytes back and sees it restored.
    async fn damaged(mut self, object: &str, damage: impl FnOnce(&Path)) {
        let path = self.path(object);
        let right = fs::read(&path).unwrap();
        damage(&path);
        self.lose_the_disk().await;
        self.refused(object).await;
        fs::write(&path, right).unwrap();
        self.restored().await;
    }

    /// The same with a file that is a slice of its object.
    async fn damaged_file(self, is_it: impl Fn(&str) -> bool, damage: SliceDamage) {
        let file = self.file(is_it).clone();
        self.damaged(&file.object, |path| damage(path, bytes_of(&file))).await;
    }
}

/// Where a file is in its object.
fn bytes_of(file: &v1::SnapshotFile) -> Range<usize> {
    let at = |at: u64| usize::try_from(at).unwrap();
    at(file.offset)..at(file.offset + file.length)
}

/// Spoils a file.
type Damage = fn(&Path);

/// Spoils an object where a slice is.
type SliceDamage = fn(&Path, Range<usize>);

fn flip_in(path: &Path, slice: Range<usize>) {
    let mut bytes = fs::read(path).unwrap();
    bytes[slice.start.midpoint(slice.end)] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

fn cut_in(path: &Path, slice: Range<usize>) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..slice.start.midpoint(slice.end)]).unwrap();
}

fn remove_all(path: &Path, _: Range<usize>) {
    remove(path);
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

fn truncate(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

fn remove(path: &Path) {
    fs::remove_file(path).unwrap();
}

fn is_sst(name: &str) -> bool {
    name.ends_with(".sst")
}

/// All files below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files_below(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}
