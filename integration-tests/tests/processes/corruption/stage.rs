//! Jobs with two checkpoints, and what in their bucket can be damaged.

use forebay_integration_tests::harness::{Stream, Worker, append};

use super::{
    damage::{Part, Target},
    *,
};

/// What is damaged in a row of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Row {
    Sst,
    RocksManifest,
    Current,
    Log,
    /// In the place of OPTIONS, which are not stored: what seals the list of a backend's files.
    Seal,
    Manifest,
    Head,
    WorkerState,
    /// In the place of a coordinator's log, which there is none: which uid a job's name stands for.
    JobName,
}

/// The rows and their names.
pub(super) const ROWS: [(Row, &str); 9] = [
    (Row::Sst, "SST"),
    (Row::RocksManifest, "RocksDB MANIFEST"),
    (Row::Current, "CURRENT"),
    (Row::Log, "WAL"),
    (Row::Seal, "SEAL (OPTIONS are not stored)"),
    (Row::Manifest, "checkpoint manifest"),
    (Row::Head, "job head"),
    (Row::WorkerState, "worker state"),
    (Row::JobName, "job name"),
];

/// A scene whose job has two checkpoints, and the target in its bucket.
pub(super) struct Stage {
    pub(super) scene: Scene,
    pub(super) target: Target,
    /// Of what the first checkpoint holds.
    pub(super) older_digest: u64,
}

impl Row {
    pub(super) async fn stage(self) -> Stage {
        let durability = if self == Self::Log { v1::Durability::Wal } else { v1::Durability::None };
        let mut scene = match self {
            Self::WorkerState => leased_scene().await,
            _ => scene(Setup::dev(), durability).await,
        };
        let older_digest = scene.digest;
        let (first, older) = (scene.manifest.clone(), self.part(&scene, &scene.checkpoint, &scene.manifest).read());
        match self {
            Self::WorkerState => {}
            Self::JobName => recreate(&mut scene).await,
            _ => advance(&mut scene).await,
        }
        let part = self.part(&scene, &scene.checkpoint, &scene.manifest);
        let sibling = self.sibling(&scene, &first).await;
        let names = self.names(&scene, &part, &sibling);
        let older = if self == Self::WorkerState { b"position 0".to_vec() } else { older };
        let target = Target { part, sibling, older, field: self == Self::WorkerState, names };
        Stage { scene, target, older_digest }
    }

    fn is(self, name: &str) -> bool {
        match self {
            Self::Sst => is_sst(name),
            Self::RocksManifest => name.starts_with("MANIFEST-"),
            Self::Current => name == "CURRENT",
            Self::Log => name.ends_with(".log"),
            Self::Seal => name == "SEAL",
            _ => false,
        }
    }

    /// Where it is, of a checkpoint.
    fn part(self, scene: &Scene, entry: &v1::CompletedCheckpoint, manifest: &v1::Manifest) -> Part {
        match self {
            Self::Manifest => Part::whole(scene.path(&entry.manifest)),
            Self::Head => Part::whole(scene.path("head")),
            Self::JobName => Part::whole(job_name(scene, "job")),
            Self::WorkerState => field(scene.path(&entry.manifest), b"position 1"),
            _ => {
                // The newest, so that an older one is another.
                let files = manifest.shards[0].files.iter().filter(|file| self.is(&file.name));
                slice(
                    scene,
                    files.max_by_key(|file| (file.length > 0, file.name.clone())).expect("there is such a file"),
                )
            }
        }
    }

    async fn sibling(self, scene: &Scene, first: &v1::Manifest) -> Part {
        match self {
            Self::Manifest => {
                let checkpoints = scene.api.checkpoints("job").await.unwrap().completed;
                let other = checkpoints.iter().find(|entry| entry.id == first.checkpoint).expect("it is retained");
                Part::whole(scene.path(&other.manifest))
            }
            Self::Head | Self::JobName => {
                let other = Job::create(&scene.api, JobBuilder::shared("other", 1).build(), &[value("last")]).await;
                scene.api.put(other.at("last", "N7"), raw("of the other job")).await.unwrap();
                scene.api.checkpoint("other").await.unwrap();
                match self {
                    Self::Head => {
                        let folder = format!("other-{}", other.info.job_uid);
                        Part::whole(scene.objects.parent().unwrap().join(folder).join("head"))
                    }
                    _ => Part::whole(job_name(scene, "other")),
                }
            }
            Self::WorkerState => field(scene.path(&scene.checkpoint.manifest), b"position 2"),
            _ => {
                let files = &scene.manifest.shards[0].files;
                let own = self.part(scene, &scene.checkpoint, &scene.manifest);
                let of_kind = files.iter().filter(|file| self.is(&file.name)).chain(files);
                let mut others = of_kind.map(|file| slice(scene, file));
                others.find(|part| part.path != own.path || part.range != own.range).expect("there is another file")
            }
        }
    }

    fn names(self, scene: &Scene, part: &Part, sibling: &Part) -> Vec<String> {
        let in_job = |part: &Part| part.path.strip_prefix(&scene.objects).ok().map(|path| path.display().to_string());
        match self {
            Self::Head => vec![format!("{}/head", scene.prefix)],
            // The record itself, or the head that it leads to.
            Self::JobName => vec!["/jobs/job".into(), "/job-".into(), "\"job\"".into()],
            _ => [part, sibling].into_iter().filter_map(in_job).collect(),
        }
    }
}

fn job_name(scene: &Scene, job: &str) -> PathBuf {
    scene.objects.parent().unwrap().join("jobs").join(job)
}

fn slice(scene: &Scene, file: &v1::SnapshotFile) -> Part {
    let start = file.offset as usize;
    Part { path: scene.path(&file.object), range: Some(start..start + file.length as usize) }
}

/// The place of some bytes in a file.
fn field(path: PathBuf, bytes: &[u8]) -> Part {
    let all = fs::read(&path).unwrap();
    let start = all.windows(bytes.len()).position(|window| window == bytes).expect("it is in the manifest");
    Part { path, range: Some(start..start + bytes.len()) }
}

/// Writes more and completes a second checkpoint.
async fn advance(scene: &mut Scene) {
    for key in 0..50 {
        let key = format!("N{key}");
        scene.api.put(scene.job.at("last", &key), raw(format!("of the second {key}"))).await.unwrap();
        scene.api.append(scene.job.at("legs", &key), raw(vec![8; 1000])).await.unwrap();
    }
    scene.digest = scene.api.digest("job").await.unwrap();
    scene.checkpoint = scene.api.checkpoint("job").await.unwrap();
    scene.manifest = scene.api.manifest("job", scene.checkpoint.id).await.unwrap();
    scene.api.put(scene.job.at("last", "N1"), raw("behind the second checkpoint")).await.unwrap();
}

/// Deletes the job and makes another of the same name.
async fn recreate(scene: &mut Scene) {
    scene.api.delete("job").await.unwrap();
    let cluster = scene.objects.parent().unwrap().to_owned();
    scene.job = Job::create(&scene.api, JobBuilder::shared("job", 1).build(), &[value("last"), list("legs")]).await;
    let folder = format!("job-{}", scene.job.info.job_uid);
    scene.prefix = format!("{}/{folder}", scene.prefix.split('/').next().unwrap());
    scene.objects = cluster.join(folder);
    advance(scene).await;
}

/// A leased job whose worker has reported two positions.
async fn leased_scene() -> Scene {
    let forebay = Setup::dev().start().await;
    let api = forebay.api();
    let mut job = Job::create(&api, JobBuilder::leased("job", 1).build(), &[value("last"), list("legs")]).await;
    let mut worker = Worker::join(&api, &job.info, "w1").await.unwrap();
    let assignment = worker.assignment().await;
    let shard = &assignment.shards[0];
    let mut stream = Stream::open(&api, &job.info).await.unwrap();
    let lane = stream.lane(shard.route.as_ref().unwrap(), shard.writer_epoch).await.unwrap();
    stream.write(&lane, 1, append(&job.states[1], b"N7", b"a")).await.unwrap().unwrap();
    let triggered = api.clone();
    let completed = tokio::spawn(async move { triggered.checkpoint("job").await });
    let barrier = worker.barrier().await;
    stream.batch(lane.barrier(2, &barrier)).await.unwrap().unwrap();
    worker.report(&barrier, &[b"position 1", b"position 2"]);
    let checkpoint = completed.await.unwrap().unwrap();
    let manifest = api.manifest("job", checkpoint.id).await.unwrap();
    let digest = api.digest("job").await.unwrap();
    job.refresh(&api).await;
    let status = api.coordinator().get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    let prefix = format!("{}/job-{}", status.cluster_id, job.info.job_uid);
    let objects = Path::new(forebay.setup().checkpoints()).join(&prefix);
    Scene { forebay, api, job, checkpoint, manifest, digest, objects, prefix }
}
