//! Checkpoints of real backends to a real store and back: what is uploaded, and what it is later.

use std::{fs, ops::ControlFlow, path::Path, sync::Arc};

use forebay_proto::v1;

use super::*;
use crate::{
    checkpoint::{layout, local::LocalStore, manifest::Folders, memory::MemoryStore, objects::SharedStore},
    shard::open::{Backends, Origin},
    storage::{Backend, Logging, RocksConfig, Table, TableId, Writes},
};

const A: TableId = TableId(1);

#[cfg(feature = "rocksdb")]
const KINDS: [v1::Backend; 2] = [v1::Backend::Memory, v1::Backend::Rocksdb];
#[cfg(not(feature = "rocksdb"))]
const KINDS: [v1::Backend; 1] = [v1::Backend::Memory];

struct Shard {
    backend: Box<dyn Backend>,
    kind: v1::Backend,
    dir: PathBuf,
    checkpoints: u32,
}

/// A server with shards of one job.
struct Server {
    dir: tempfile::TempDir,
    store: SharedStore,
    target: Target,
    backends: Backends,
}

impl Server {
    fn new(local: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store: SharedStore = match local {
            true => Arc::new(LocalStore::open(&dir.path().join("store")).unwrap()),
            false => Arc::new(MemoryStore::default()),
        };
        let target = Target {
            store: store.clone(),
            job: layout::Job::at("job/").unwrap(),
            names: Names::Shared("s1".into()),
            uploads: Arc::new(Uploads::new(4, 0, dir.path().join("packs")).unwrap()),
        };
        Self { dir, store, target, backends: Backends::new(&RocksConfig::default()).unwrap() }
    }

    fn open(&self, kind: v1::Backend, dir: &Path, origin: Origin) -> Box<dyn Backend> {
        let durability = if kind == v1::Backend::Memory { v1::Durability::None } else { v1::Durability::Wal };
        self.backends.open(kind, durability, dir, origin).unwrap()
    }

    fn shard(&self, kind: v1::Backend, name: &str) -> Shard {
        let dir = self.dir.path().join(name);
        fs::create_dir_all(dir.join("db")).unwrap();
        let mut backend = self.open(kind, &dir.join("db"), Origin::New);
        backend.create_table(Table { id: A, merge: None }).unwrap();
        Shard { backend, kind, dir, checkpoints: 0 }
    }

    /// One checkpoint of some shards, as one round of this server.
    async fn checkpoint(&self, shards: &mut [&mut Shard], known: &[&Known]) -> v1::Manifest {
        let packer = Packer::new(self.target.clone(), u32::try_from(shards.len()).unwrap());
        let mut uploads = Vec::new();
        for shard in shards {
            shard.checkpoints += 1;
            let copy = shard.dir.join(shard.checkpoints.to_string());
            let frozen = shard.backend.freeze();
            uploads.push(upload(frozen, v1::ShardSnapshot::default(), copy, known, &self.target, &packer));
        }
        let shards = futures::future::join_all(uploads).await;
        v1::Manifest { shards: shards.into_iter().map(|shard| shard.unwrap()).collect(), ..Default::default() }
    }

    async fn objects(&self) -> usize {
        self.store.list("job/").await.unwrap().len()
    }

    /// Restores a shard from the store alone, and returns its rows.
    async fn restored(&self, shard: &Shard, snapshot: &v1::ShardSnapshot) -> Rows {
        let folders = Folders { store: self.store.clone(), own: self.target.job.clone() };
        let dir = tempfile::tempdir_in(self.dir.path()).unwrap();
        let db = dir.path().join("db");
        let source =
            restore(snapshot, dir.path().join("no copy"), &Near::default(), db.clone(), &folders).await.unwrap();
        assert_eq!(source, Source::Store);
        // The local copy is as good, and leaves the store alone.
        let from_copy = dir.path().join("from copy");
        let copy = shard.dir.join(shard.checkpoints.to_string());
        assert_eq!(
            restore(snapshot, copy, &Near::default(), from_copy.clone(), &folders).await.unwrap(),
            Source::Local
        );
        let rows = rows(&*self.open(shard.kind, &db, Origin::Restored));
        assert!(rows == self::rows(&*self.open(shard.kind, &from_copy, Origin::Restored)));
        rows
    }
}

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

fn rows(backend: &dyn Backend) -> Rows {
    let mut rows = Vec::new();
    let mut visit = |key: &[u8], row: &[u8]| {
        rows.push((key.to_vec(), row.to_vec()));
        ControlFlow::Continue(())
    };
    backend.scan(A, b"", &[0xff; 9], &mut visit).unwrap();
    rows
}

impl Shard {
    fn put(&mut self, keys: Range<u32>, value: &[u8]) {
        let mut writes = Writes::default();
        for key in keys {
            writes.put(A, &key.to_be_bytes(), |out| out.extend(value));
        }
        let logging = if self.kind == v1::Backend::Memory { Logging::None } else { Logging::Buffered };
        self.backend.write(&writes, logging).unwrap();
    }
}

fn puts(manifest: &v1::Manifest) -> u64 {
    manifest.shards.iter().map(|shard| shard.puts).sum()
}

#[tokio::test]
async fn a_server_stores_one_object_for_its_shards_and_all_come_back() {
    for (kind, local) in KINDS.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
        let server = Server::new(local);
        let (mut one, mut two) = (server.shard(kind, "one"), server.shard(kind, "two"));
        one.put(0..100, b"one");
        two.put(0..100, b"two");
        let manifest = server.checkpoint(&mut [&mut one, &mut two], &[]).await;
        assert_eq!((server.objects().await, puts(&manifest)), (1, 1));
        for (shard, snapshot) in [&one, &two].into_iter().zip(&manifest.shards) {
            assert_eq!(snapshot.new_bytes, snapshot.full_bytes);
            assert_eq!(server.restored(shard, snapshot).await, rows(&*shard.backend));
        }
    }
}

#[tokio::test]
async fn an_unchanged_shard_uploads_nothing() {
    for kind in KINDS {
        let server = Server::new(false);
        let (mut one, mut two) = (server.shard(kind, "one"), server.shard(kind, "two"));
        one.put(0..3000, &[1; 100]);
        two.put(0..100, b"two");
        let first = server.checkpoint(&mut [&mut one, &mut two], &[]).await;
        let same = server.checkpoint(&mut [&mut one, &mut two], &[&Known::of(&first)]).await;
        assert_eq!((server.objects().await, puts(&same)), (1, 0), "{kind:?}");
        two.put(3..4, b"changed");
        let later = server.checkpoint(&mut [&mut one, &mut two], &[&Known::of(&same)]).await;
        assert_eq!((server.objects().await, puts(&later)), (2, 1), "{kind:?}");
        assert_eq!(later.shards[0].new_bytes, 0, "{kind:?}");
        assert!(later.shards[1].new_bytes > 0);
        for (shard, snapshot) in [&one, &two].into_iter().zip(&later.shards) {
            assert_eq!(server.restored(shard, snapshot).await, rows(&*shard.backend));
        }
    }
}

#[cfg(feature = "rocksdb")]
#[tokio::test]
async fn of_a_log_only_new_bytes_are_sent() {
    let server = Server::new(false);
    let mut shard = server.shard(v1::Backend::Rocksdb, "one");
    shard.put(0..3000, &[1; 100]);
    let mut base = server.checkpoint(&mut [&mut shard], &[]).await;
    for n in 0..5 {
        shard.put(n..n + 1, &[2; 100]);
        base = server.checkpoint(&mut [&mut shard], &[&Known::of(&base)]).await;
        let snapshot = &base.shards[0];
        // Of the log some hundred bytes, and the seal.
        assert!(snapshot.new_bytes < 1000, "{} bytes", snapshot.new_bytes);
        assert!(snapshot.full_bytes > 300_000);
        let log: Vec<_> = snapshot.files.iter().filter(|file| file.name.ends_with(".log") && file.length > 0).collect();
        assert_eq!(log.len() as u32, n + 2);
        assert_eq!(log.iter().filter(|piece| piece.uploaded).count(), 1);
        assert_eq!(server.restored(&shard, snapshot).await, rows(&*shard.backend));
    }
}

#[tokio::test]
async fn a_memory_shard_with_one_changed_key_uploads_one_segment() {
    let server = Server::new(false);
    let mut shard = server.shard(v1::Backend::Memory, "one");
    shard.put(0..50_000, &[1; 100]);
    let first = server.checkpoint(&mut [&mut shard], &[]).await;
    shard.put(25_000..25_001, b"changed");
    let later = server.checkpoint(&mut [&mut shard], &[&Known::of(&first)]).await;
    let new: Vec<_> = later.shards[0].files.iter().filter(|file| file.uploaded).collect();
    assert_eq!(new.len(), 2, "a segment and the list of segments");
    assert!(later.shards[0].new_bytes <= 1 << 20, "of {} bytes", later.shards[0].full_bytes);
    assert_eq!(server.restored(&shard, &later.shards[0]).await, rows(&*shard.backend));
}

#[tokio::test]
async fn a_large_file_is_an_object_of_its_own() {
    let server = Server::new(false);
    let mut shard = server.shard(v1::Backend::Memory, "one");
    shard.put(0..1, &vec![7; 20 << 20]);
    shard.put(1..9, b"small");
    let manifest = server.checkpoint(&mut [&mut shard], &[]).await;
    assert_eq!((server.objects().await, puts(&manifest)), (2, 2));
    let large = manifest.shards[0].files.iter().find(|file| file.length > 20 << 20).unwrap();
    assert_eq!((large.offset, large.object_bytes), (0, large.length));
    assert_eq!(server.restored(&shard, &manifest.shards[0]).await, rows(&*shard.backend));
}

#[tokio::test]
async fn uploads_of_an_aborted_round_are_used_where_they_are_known() {
    for kind in KINDS {
        let server = Server::new(false);
        let mut shard = server.shard(kind, "one");
        shard.put(0..30_000, &[1; 100]);
        let base = server.checkpoint(&mut [&mut shard], &[]).await;
        shard.put(0..20_000, &[2; 100]);
        let base = Known::of(&base);
        let aborted = server.checkpoint(&mut [&mut shard], &[&base]).await;
        assert!(aborted.shards[0].new_bytes > 2_000_000);
        shard.put(5..6, &[3; 100]);
        let left = Known::new(aborted.shards[0].files.iter().filter(|file| file.uploaded));
        let later = server.checkpoint(&mut [&mut shard], &[&base, &left]).await;
        let most = if kind == v1::Backend::Memory { 1 << 20 } else { 1000 };
        assert!(later.shards[0].new_bytes <= most, "{} bytes of {kind:?}", later.shards[0].new_bytes);
        let pack = &aborted.shards[0].files.iter().find(|file| file.uploaded).unwrap().object;
        assert!(later.shards[0].files.iter().any(|file| file.object == *pack && !file.uploaded));
        assert_eq!(server.restored(&shard, &later.shards[0]).await, rows(&*shard.backend));
    }
}

#[tokio::test]
async fn a_pack_that_is_mostly_dead_is_rewritten_and_then_not_referred_to() {
    for kind in KINDS {
        let server = Server::new(false);
        let (mut still, mut busy) = (server.shard(kind, "still"), server.shard(kind, "busy"));
        still.put(0..100, &[1; 100]);
        busy.put(0..1000, &[1; 500]);
        let first = server.checkpoint(&mut [&mut still, &mut busy], &[]).await;
        let pack = first.shards[0].files[0].object.clone();
        // All that the busy one had is dead.
        busy.put(0..1000, &[2; 500]);
        busy.backend.compact().unwrap();
        let second = server.checkpoint(&mut [&mut still, &mut busy], &[&Known::of(&first)]).await;
        assert_eq!(second.shards[0].new_bytes, 0);
        let third = server.checkpoint(&mut [&mut still, &mut busy], &[&Known::of(&second)]).await;
        let refers = |manifest: &v1::Manifest| {
            manifest.shards.iter().flat_map(|shard| &shard.files).any(|file| file.object == pack)
        };
        assert_eq!((refers(&second), refers(&third)), (true, false), "{kind:?}");
        assert_eq!(third.shards[0].new_bytes, third.shards[0].full_bytes);
        let fourth = server.checkpoint(&mut [&mut still, &mut busy], &[&Known::of(&third)]).await;
        assert_eq!(puts(&fourth), 0);
        assert_eq!(server.restored(&still, &fourth.shards[0]).await, rows(&*still.backend));
        assert_eq!(server.restored(&busy, &fourth.shards[1]).await, rows(&*busy.backend));
    }
}

#[tokio::test]
async fn a_failed_upload_tells_what_was_stored_all_the_same() {
    let server = Server::new(true);
    let mut shard = server.shard(v1::Backend::Memory, "one");
    shard.put(0..1, &vec![7; 20 << 20]);
    shard.put(1..9, b"small");
    // Packs cannot be put together, large files can be sent.
    fs::remove_dir_all(server.dir.path().join("packs")).unwrap();
    let packer = Packer::new(server.target.clone(), 1);
    let frozen = shard.backend.freeze();
    let copy = shard.dir.join("copy");
    let failed = upload(frozen, v1::ShardSnapshot::default(), copy, &[], &server.target, &packer).await.unwrap_err();
    assert!(failed.error.to_string().contains("packs"), "{}", failed.error);
    let [large] = &failed.uploaded[..] else { panic!("{:?}", failed.uploaded) };
    assert!(large.length > 20 << 20 && server.objects().await == 1);
    // And it is of use later.
    fs::create_dir(server.dir.path().join("packs")).unwrap();
    let later = server.checkpoint(&mut [&mut shard], &[&Known::new(&failed.uploaded)]).await;
    assert!(later.shards[0].new_bytes < 1000);
    assert_eq!(server.restored(&shard, &later.shards[0]).await, rows(&*shard.backend));
}
