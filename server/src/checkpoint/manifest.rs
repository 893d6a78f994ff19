//! Manifests: what a completed checkpoint consists of.

use bytes::Bytes;
use forebay_proto::v1;

use super::{
    frame::{self, ObjectKind},
    layout,
    objects::{self, SharedStore},
    stores::Stores,
};

/// Why a manifest cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is missing or not what was written.
    #[error("manifest {object} is damaged: {detail}")]
    Damaged {
        /// The manifest, relative to the job's prefix.
        object: String,
        /// What was found.
        detail: String,
    },
    /// The object store failed.
    #[error(transparent)]
    Store(objects::Error),
}

/// Where the objects of a checkpoint are.
#[derive(Debug, Clone)]
pub struct Folders {
    /// The store.
    pub store: SharedStore,
    /// What names in the manifest are relative to.
    pub own: layout::Job,
}

impl Folders {
    /// The full path of a file's object in the store; `None` if its name leaves its folder.
    pub fn resolve(&self, shard: &v1::ShardSnapshot, file: &v1::SnapshotFile) -> Option<String> {
        match file.origin {
            0 => self.own.resolve(&file.object),
            n => layout::Job::at(shard.origins.get(n as usize - 1)?)?.resolve(&file.object),
        }
    }

    /// The folder of a file's object, relative to the store's root; `None` if the shard does not name it.
    pub fn folder<'a>(&'a self, shard: &'a v1::ShardSnapshot, file: &v1::SnapshotFile) -> Option<&'a str> {
        match file.origin {
            0 => Some(self.own.prefix()),
            n => shard.origins.get(n as usize - 1).map(String::as_str),
        }
    }
}

/// The folder that a checkpoint's manifest and files are in; `None` if its entry leaves the store.
pub fn folder(job: &layout::Job, entry: &v1::CompletedCheckpoint) -> Option<layout::Job> {
    match (&entry.location[..], &entry.prefix[..]) {
        ("", "") => Some(job.clone()),
        (_, prefix) => layout::Job::at(prefix),
    }
}

/// Where the manifest of another engine's snapshot is, in the form of a checkpoint's.
pub fn of_external(snapshot: &v1::ExternalSnapshot) -> v1::CompletedCheckpoint {
    v1::CompletedCheckpoint {
        id: snapshot.checkpoint,
        manifest: snapshot.manifest.clone(),
        manifest_crc32c: snapshot.manifest_crc32c,
        manifest_bytes: snapshot.manifest_bytes,
        full_bytes: snapshot.full_bytes,
        new_bytes: snapshot.new_bytes,
        files: snapshot.files,
        ..Default::default()
    }
}

/// Reads the manifest of a completed checkpoint, wherever it is, and tells where its objects are.
pub async fn open(
    stores: &Stores,
    job: &layout::Job,
    entry: &v1::CompletedCheckpoint,
) -> Result<(v1::Manifest, Folders), Error> {
    let left = || Error::Damaged { object: entry.manifest.clone(), detail: "its prefix leaves its store".to_owned() };
    let own = folder(job, entry).ok_or_else(left)?;
    let store = stores.at(&entry.location).await.map_err(Error::Store)?;
    let manifest = read(&store, &own, entry).await?;
    Ok((manifest, Folders { store, own }))
}

/// Encodes a manifest: its bytes and their checksum.
pub fn encode(manifest: &v1::Manifest) -> (Bytes, u32) {
    let bytes = frame::encode(ObjectKind::Manifest, manifest);
    let crc = crc32c::crc32c(&bytes);
    (bytes, crc)
}

/// Reads the manifest of a completed checkpoint and verifies it against the job head's entry.
pub async fn read(
    store: &SharedStore,
    job: &layout::Job,
    entry: &v1::CompletedCheckpoint,
) -> Result<v1::Manifest, Error> {
    let damaged = |detail: String| Error::Damaged { object: entry.manifest.clone(), detail };
    let path = job.resolve(&entry.manifest).ok_or_else(|| damaged("its name leaves the job's prefix".into()))?;
    let bytes = match store.get(&path).await {
        Ok((bytes, _)) => bytes,
        Err(objects::Error::NotFound { .. }) => return Err(damaged("it is missing".into())),
        Err(error) => return Err(Error::Store(error)),
    };
    if bytes.len() as u64 != entry.manifest_bytes {
        return Err(damaged(format!("it has {} bytes, recorded are {}", bytes.len(), entry.manifest_bytes)));
    }
    let crc = crc32c::crc32c(&bytes);
    if crc != entry.manifest_crc32c {
        return Err(damaged(format!("its checksum is {crc:08x}, recorded is {:08x}", entry.manifest_crc32c)));
    }
    frame::decode(ObjectKind::Manifest, &path, &bytes).map_err(|error| damaged(error.to_string()))
}
