//! Manifests: what a completed checkpoint consists of.

use bytes::Bytes;
use forebay_proto::v1;

use super::{
    frame::{self, ObjectKind},
    layout,
    objects::{self, SharedStore},
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
