//! Reads everything that a checkpoint consists of, and tells what is not as recorded.

use std::collections::{BTreeMap, BTreeSet};

use forebay_proto::{reason::Refused, v1};
use futures::{StreamExt as _, stream};
use v1::ErrorReason as Reason;

use super::{Coordinator, handle::restoring};
use crate::checkpoint::{
    manifest::{self, Folders},
    objects::{self, SharedStore},
};

/// Slices that are read at a time.
const PARALLEL: usize = 8;
/// Bytes of a slice that are in memory at a time.
const CHUNK: u64 = 4 << 20;

/// What came of a slice.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Sound(u64),
    Missing,
    Damaged,
}

impl Coordinator {
    /// Verifies a completed checkpoint, 0 means the last one, and tells what the next collection takes.
    pub async fn verify(&self, name: &str, id: u64) -> Result<v1::VerifyCheckpointResponse, Refused> {
        let seen = self.seen(name)?;
        let Some(entry) = restoring::entry_of(name, &seen.head, id)? else {
            let message = format!("job {name:?} has no completed checkpoint yet: trigger one");
            return Err(Refused::new(Reason::CheckpointUnknown, message));
        };
        let away = |error: objects::Error| Refused::new(Reason::StoreUnavailable, error.to_string());
        let paths = self.cluster.job(name, &seen.head.job_uid);
        let (manifest, folders) = match manifest::open(&self.stores, &paths, &entry).await {
            Ok(opened) => opened,
            Err(manifest::Error::Damaged { object, .. }) => {
                return Ok(v1::VerifyCheckpointResponse { damaged: vec![object], ..Default::default() });
            }
            Err(manifest::Error::Store(error)) => return Err(away(error)),
        };
        let found = verify(&folders, &manifest).await.map_err(away)?;
        let extra = self.garbage_of(name, true).await?.into_iter().map(|(object, _)| object).collect();
        Ok(v1::VerifyCheckpointResponse { extra, ..found })
    }
}

/// Reads each slice that a manifest names once. An error if the store cannot be asked.
pub async fn verify(
    folders: &Folders,
    manifest: &v1::Manifest,
) -> Result<v1::VerifyCheckpointResponse, objects::Error> {
    let files = manifest.shards.iter().flat_map(|shard| shard.files.iter().map(move |file| (shard, file)));
    let slice = |(shard, file): (_, &v1::SnapshotFile)| {
        let path = folders.resolve(shard, file);
        ((path, file.offset, file.length, file.crc32c), file.clone())
    };
    let slices: BTreeMap<_, _> = files.map(slice).collect();
    let mut read = Vec::new();
    for ((path, ..), file) in slices {
        read.push(async move {
            let verdict = match &path {
                Some(path) => check(&folders.store, path, &file).await,
                None => Ok(Verdict::Damaged),
            };
            (path.unwrap_or_else(|| file.object.clone()), verdict)
        });
    }
    let mut read = stream::iter(read).buffer_unordered(PARALLEL);
    let (mut found, mut missing, mut damaged) =
        (v1::VerifyCheckpointResponse::default(), BTreeSet::new(), BTreeSet::new());
    while let Some((path, verdict)) = read.next().await {
        let name = path.strip_prefix(folders.own.prefix()).unwrap_or(&path).to_owned();
        found.files += 1;
        match verdict? {
            Verdict::Sound(bytes) => found.bytes += bytes,
            Verdict::Missing => drop(missing.insert(name)),
            Verdict::Damaged => drop(damaged.insert(name)),
        }
    }
    found.missing = missing.into_iter().collect();
    found.damaged = damaged.into_iter().collect();
    Ok(found)
}

async fn check(store: &SharedStore, path: &str, file: &v1::SnapshotFile) -> Result<Verdict, objects::Error> {
    let (mut at, mut crc) = (0, 0);
    while at < file.length {
        let length = CHUNK.min(file.length - at);
        let Some(begin) = file.offset.checked_add(at).filter(|begin| begin.checked_add(length).is_some()) else {
            return Ok(Verdict::Damaged);
        };
        match store.get_range(path, begin..begin + length).await {
            Ok(bytes) if bytes.len() as u64 == length => crc = crc32c::crc32c_append(crc, &bytes),
            Ok(_) => return Ok(Verdict::Damaged),
            Err(objects::Error::NotFound { .. }) => return Ok(Verdict::Missing),
            Err(error) => return Err(error),
        }
        at += length;
    }
    Ok(if crc == file.crc32c { Verdict::Sound(file.length) } else { Verdict::Damaged })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::checkpoint::{layout, memory::MemoryStore};

    fn slice(object: &str, offset: u64, bytes: &[u8]) -> v1::SnapshotFile {
        v1::SnapshotFile {
            object: object.into(),
            offset,
            length: bytes.len() as u64,
            crc32c: crc32c::crc32c(bytes),
            ..Default::default()
        }
    }

    #[tokio::test]
    async fn every_slice_is_read_once_and_what_is_wrong_is_named() {
        let store: SharedStore = Arc::new(MemoryStore::default());
        let paths = layout::Cluster::new("c").job("j", "u");
        let large = vec![9; CHUNK as usize + 5];
        for (name, bytes) in [("pack", &b"onetwo"[..]), ("cut", b"on"), ("flipped", b"onf"), ("large", &large)] {
            store.put(&paths.resolve(name).unwrap(), Bytes::copy_from_slice(bytes)).await.unwrap();
        }
        store.put("c/parent-0/shared", Bytes::from_static(b"of the parent")).await.unwrap();
        let of_parent = v1::SnapshotFile { origin: 1, ..slice("shared", 3, b"the parent") };
        let files = vec![
            slice("pack", 0, b"one"),
            slice("pack", 3, b"two"),
            slice("pack", 3, b"two"),
            slice("cut", 0, b"one"),
            slice("flipped", 0, b"one"),
            slice("gone", 0, b"one"),
            slice("../escape", 0, b"one"),
            slice("large", 0, &large),
            of_parent,
        ];
        let shard = v1::ShardSnapshot { files, origins: vec!["c/parent-0/".into()], ..Default::default() };
        let manifest = v1::Manifest { shards: vec![shard], ..Default::default() };
        let found = verify(&Folders { store, own: paths }, &manifest).await.unwrap();
        assert_eq!((found.files, found.bytes), (8, 3 + 3 + CHUNK + 5 + 10));
        assert_eq!(
            (found.missing, found.damaged),
            (vec!["gone".into()], vec!["../escape".into(), "cut".into(), "flipped".into()])
        );
    }
}
