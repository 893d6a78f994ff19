//! Copies a checkpoint to another directory: self-contained, in any store.
//!
//! Every slice is verified on its way. Files come first, then the manifest, and last the object that makes
//! the copy whole; one that broke off is no checkpoint.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use forebay_proto::v1;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use uuid::Uuid;

use super::{
    frame::{self, ObjectKind},
    layout,
    manifest::{self, Folders},
    objects::{self, SharedStore},
};

/// Objects that travel at a time.
const PARALLEL: usize = 4;
/// Bytes that are asked for at a time.
const CHUNK: u64 = 8 << 20;
/// Objects up to this size are copied in memory.
const IN_MEMORY: u64 = CHUNK;

/// Why a copy failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object is not what the manifest says.
    #[error("object {object} of the checkpoint is damaged: {detail}")]
    Damaged {
        /// The object, as the manifest names it.
        object: String,
        /// What was found.
        detail: String,
    },
    /// A store failed.
    #[error(transparent)]
    Store(#[from] objects::Error),
    /// The local disk failed.
    #[error("scratch file {path}: {source}")]
    Local {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
}

/// Where a copy goes.
#[derive(Debug)]
pub struct Destination<'a> {
    /// The store.
    pub store: SharedStore,
    /// The folder in it, fresh; with a slash at its end.
    pub folder: layout::Job,
    /// A local directory that large objects pass through.
    pub scratch: &'a Path,
}

/// Copies a checkpoint and returns its entry there. `progress` is told the bytes that are copied, and all.
pub async fn copy(
    entry: &v1::CompletedCheckpoint,
    manifest: &v1::Manifest,
    from: &Folders,
    to: &Destination<'_>,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<v1::CompletedCheckpoint, Error> {
    let (copied, objects) = renamed(manifest, from)?;
    let all: u64 = objects.values().map(Object::length).sum();
    let done = AtomicU64::new(0);
    let mut copies = Vec::new();
    for (path, object) in &objects {
        let done = &done;
        copies.push(async move {
            let bytes = object.copy(path, from, to).await?;
            progress(done.fetch_add(bytes, Ordering::Relaxed) + bytes, all);
            Ok::<_, Error>(())
        });
    }
    stream::iter(copies).buffer_unordered(PARALLEL).try_collect::<()>().await?;
    let job = manifest.spec.as_ref().map(|spec| spec.name.clone()).unwrap_or_default();
    let entry = v1::CompletedCheckpoint { job, format: format_of(manifest).into(), ..entry.clone() };
    Ok(finish(&entry, &copied, &to.store, &to.folder).await?)
}

fn format_of(manifest: &v1::Manifest) -> v1::SavepointFormat {
    match manifest.shards.iter().any(|shard| shard.canonical) {
        true => v1::SavepointFormat::Canonical,
        false => v1::SavepointFormat::Native,
    }
}

/// Stores the manifest of a self-contained checkpoint, and then what makes it whole.
pub async fn finish(
    entry: &v1::CompletedCheckpoint,
    manifest: &v1::Manifest,
    store: &SharedStore,
    folder: &layout::Job,
) -> objects::Result<v1::CompletedCheckpoint> {
    let (bytes, crc) = manifest::encode(manifest);
    let entry = v1::CompletedCheckpoint {
        manifest: layout::SAVEPOINT_MANIFEST.to_owned(),
        manifest_crc32c: crc,
        manifest_bytes: bytes.len() as u64,
        location: String::new(),
        prefix: String::new(),
        savepoint: true,
        claimed: false,
        ..entry.clone()
    };
    let put = async |name: &str, bytes: Bytes| {
        let path = folder.resolve(name).expect("names of this module are confined");
        store.put(&path, bytes).await
    };
    put(layout::SAVEPOINT_MANIFEST, bytes).await?;
    put(layout::SAVEPOINT, frame::encode(ObjectKind::Savepoint, &entry)).await?;
    Ok(entry)
}

/// An object on its way: its new name, and the slices of it that the checkpoint refers to.
struct Object {
    name: String,
    slices: Vec<v1::SnapshotFile>,
}

/// The manifest with the names that its objects get, and the objects by their present paths.
fn renamed(manifest: &v1::Manifest, from: &Folders) -> Result<(v1::Manifest, BTreeMap<String, Object>), Error> {
    let mut copied = manifest.clone();
    let mut objects: BTreeMap<String, Object> = BTreeMap::new();
    for (shard, original) in copied.shards.iter_mut().zip(&manifest.shards) {
        shard.origins.clear();
        for (file, slice) in shard.files.iter_mut().zip(&original.files) {
            let path = from.resolve(original, slice).ok_or_else(|| Error::Damaged {
                object: slice.object.clone(),
                detail: "its name leaves the checkpoint's folder".to_owned(),
            })?;
            let object =
                objects.entry(path).or_insert_with(|| Object { name: layout::savepoint_file(), slices: Vec::new() });
            object.slices.push(slice.clone());
            file.object.clone_from(&object.name);
            file.origin = 0;
        }
    }
    Ok((copied, objects))
}

impl Object {
    fn length(&self) -> u64 {
        self.slices.iter().map(|slice| slice.offset + slice.length).max().unwrap_or_default()
    }

    async fn copy(&self, path: &str, from: &Folders, to: &Destination<'_>) -> Result<u64, Error> {
        let length = self.length();
        let target = to.folder.resolve(&self.name).expect("fresh names are confined");
        if length <= IN_MEMORY {
            let bytes = self.read(path, 0..length, from).await?;
            for slice in &self.slices {
                let crc = crc32c::crc32c(&bytes[slice.offset as usize..(slice.offset + slice.length) as usize]);
                self.check(slice, crc)?;
            }
            to.store.put(&target, bytes).await?;
            return Ok(length);
        }
        let scratch = to.scratch.join(Uuid::new_v4().simple().to_string());
        let result = self.copy_through(&scratch, path, &target, from, to).await;
        // A failure leaves a file that the next start removes.
        std::fs::remove_file(&scratch).ok();
        result.map(|()| length)
    }

    async fn copy_through(
        &self,
        scratch: &Path,
        path: &str,
        target: &str,
        from: &Folders,
        to: &Destination<'_>,
    ) -> Result<(), Error> {
        let failed = |source| Error::Local { path: scratch.to_owned(), source };
        std::fs::create_dir_all(to.scratch).map_err(failed)?;
        let mut file = std::fs::File::create_new(scratch).map_err(failed)?;
        let mut sums = vec![0; self.slices.len()];
        let (mut at, length) = (0, self.length());
        while at < length {
            let bytes = self.read(path, at..length.min(at + CHUNK), from).await?;
            for (slice, sum) in self.slices.iter().zip(&mut sums) {
                let (start, end) = (slice.offset.max(at), (slice.offset + slice.length).min(at + bytes.len() as u64));
                if start < end {
                    *sum = crc32c::crc32c_append(*sum, &bytes[(start - at) as usize..(end - at) as usize]);
                }
            }
            file.write_all(&bytes).map_err(failed)?;
            at += bytes.len() as u64;
        }
        for (slice, sum) in self.slices.iter().zip(sums) {
            self.check(slice, sum)?;
        }
        to.store.put_file(target, scratch).await?;
        Ok(())
    }

    async fn read(&self, path: &str, range: std::ops::Range<u64>, from: &Folders) -> Result<Bytes, Error> {
        let wanted = range.end - range.start;
        let bytes = match from.store.get_range(path, range).await {
            Err(objects::Error::NotFound { .. }) => return Err(self.damaged("it is missing".to_owned())),
            bytes => bytes?,
        };
        if bytes.len() as u64 == wanted {
            return Ok(bytes);
        }
        Err(self.damaged(format!("it ends {} bytes too early", wanted - bytes.len() as u64)))
    }

    fn check(&self, slice: &v1::SnapshotFile, crc: u32) -> Result<(), Error> {
        if crc == slice.crc32c {
            return Ok(());
        }
        Err(self.damaged(format!("its checksum is {crc:08x}, recorded is {:08x}", slice.crc32c)))
    }

    fn damaged(&self, detail: String) -> Error {
        let object = self.slices.first().map(|slice| slice.object.clone()).unwrap_or_default();
        Error::Damaged { object, detail }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::checkpoint::{found, memory::MemoryStore, objects::ObjectStore, store::StoreConfig, stores::Stores};

    /// A checkpoint of two shards: a pack they share, a large object, a file of another job's.
    async fn checkpoint(store: &Arc<MemoryStore>) -> (v1::CompletedCheckpoint, v1::Manifest, Folders) {
        let large: Vec<u8> = (0..20_u32 << 20).map(|i| (i / 7) as u8).collect();
        store.put("c/job/large", large.clone().into()).await.unwrap();
        store.put("c/job/pack", Bytes::from_static(b"onetwothree")).await.unwrap();
        store.put("c/parent/old", Bytes::from_static(b"shared")).await.unwrap();
        let slice = |name: &str, object: &str, offset: u64, content: &[u8]| v1::SnapshotFile {
            name: name.into(),
            object: object.into(),
            offset,
            length: content.len() as u64,
            crc32c: crc32c::crc32c(content),
            ..Default::default()
        };
        let shard = |files| v1::ShardSnapshot { files, origins: vec!["c/parent/".into()], ..Default::default() };
        let parents = v1::SnapshotFile { origin: 1, ..slice("c", "old", 0, b"shared") };
        let manifest = v1::Manifest {
            checkpoint: 7,
            shards: vec![
                shard(vec![slice("a", "pack", 0, b"one"), slice("b", "large", 0, &large)]),
                shard(vec![slice("a", "pack", 6, b"three"), parents]),
            ],
            ..Default::default()
        };
        let folders = Folders { store: store.clone(), own: layout::Job::at("c/job/").unwrap() };
        (v1::CompletedCheckpoint { id: 7, ..Default::default() }, manifest, folders)
    }

    async fn copied(store: &Arc<MemoryStore>, dir: &Path) -> Result<v1::CompletedCheckpoint, Error> {
        let (entry, manifest, folders) = checkpoint(store).await;
        let folder = layout::Job::at("copies/job-7/").unwrap();
        let to = Destination { store: store.clone(), folder, scratch: dir };
        copy(&entry, &manifest, &folders, &to, &|_, _| {}).await
    }

    #[tokio::test]
    async fn a_copy_is_found_whole_and_refers_to_nothing_but_itself() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(MemoryStore::named("copy"));
        let entry = copied(&store, dir.path()).await.unwrap();
        assert!(entry.savepoint && entry.id == 7);
        let stores = Stores::new(store.clone(), StoreConfig::default(), Vec::new(), dir.path().into());
        let found = found::find(&stores, "memory://copy/copies/job-7", 0, false).await.unwrap();
        assert_eq!(found.entry.prefix, "copies/job-7/");
        let names: Vec<_> = found.manifest.shards.iter().flat_map(|shard| &shard.files).collect();
        assert!(names.iter().all(|file| file.origin == 0 && file.object.starts_with("files/")));
        assert_eq!(found.manifest.shards[0].files[0].object, found.manifest.shards[1].files[0].object);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing stays in the scratch directory");
        // Without one of its files it is not whole any more, and says which.
        let gone = &names[1].object;
        store.delete(&format!("copies/job-7/{gone}")).await.unwrap();
        let err = found::find(&stores, "memory://copy/copies/job-7", 0, false).await.unwrap_err();
        assert!(err.to_string().contains(gone.as_str()), "{err}");
    }

    #[tokio::test]
    async fn a_damaged_object_is_not_copied() {
        let dir = tempfile::tempdir().unwrap();
        for (path, bytes) in
            [("c/job/pack", &b"onetwoTHREE"[..]), ("c/job/large", &[1; 100]), ("c/parent/old", b"SHARED")]
        {
            let store = Arc::new(MemoryStore::default());
            let (entry, manifest, folders) = checkpoint(&store).await;
            store.put(path, Bytes::from(bytes)).await.unwrap();
            let folder = layout::Job::at("copies/job-7/").unwrap();
            let to = Destination { store: store.clone(), folder, scratch: dir.path() };
            let err = copy(&entry, &manifest, &folders, &to, &|_, _| {}).await.unwrap_err();
            assert!(err.to_string().contains(path.rsplit('/').next().unwrap()), "{err}");
            assert!(store.get("copies/job-7/savepoint").await.is_err(), "a broken copy is no checkpoint");
        }
    }
}
