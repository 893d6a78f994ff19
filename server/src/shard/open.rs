//! Opens the backend that a job asks for.

use std::path::Path;
#[cfg(feature = "rocksdb")]
use std::sync::Arc;

use forebay_proto::v1;

use crate::storage::{self, Backend, MemoryBackend};
#[cfg(feature = "rocksdb")]
use crate::storage::{RocksBackend, RocksShared, WalTolerance};

/// What the backends of a server share.
#[derive(Clone)]
pub struct Backends {
    #[cfg(feature = "rocksdb")]
    rocks: Arc<RocksShared>,
}

impl std::fmt::Debug for Backends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backends").finish_non_exhaustive()
    }
}

/// Where the files of a directory come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// None: a new backend in an empty directory.
    New,
    /// The live backend of a process that ended: its last record may be torn.
    Live,
    /// Files of a checkpoint: every byte is there.
    Restored,
}

impl Backends {
    /// Makes the shared caches.
    #[cfg(feature = "rocksdb")]
    pub fn new(config: &storage::RocksConfig) -> storage::Result<Self> {
        Ok(Self { rocks: RocksShared::new(config)? })
    }

    /// Makes the shared caches: none, without RocksDB.
    #[cfg(not(feature = "rocksdb"))]
    pub fn new(_: &storage::RocksConfig) -> storage::Result<Self> {
        Ok(Self {})
    }

    /// Opens a directory, an empty one for a new backend.
    pub fn open(
        &self,
        kind: v1::Backend,
        durability: v1::Durability,
        dir: &Path,
        origin: Origin,
    ) -> storage::Result<Box<dyn Backend>> {
        match kind {
            v1::Backend::Memory => Ok(Box::new(MemoryBackend::open(dir)?)),
            #[cfg(feature = "rocksdb")]
            v1::Backend::Rocksdb | v1::Backend::Unspecified => {
                let tolerance = match origin {
                    Origin::New | Origin::Live => WalTolerance::Tail,
                    Origin::Restored => WalTolerance::None,
                };
                let logged = durability != v1::Durability::None;
                Ok(Box::new(RocksBackend::open(dir, &self.rocks, logged, tolerance)?))
            }
            #[cfg(not(feature = "rocksdb"))]
            v1::Backend::Rocksdb | v1::Backend::Unspecified => {
                let _ = (durability, origin);
                Err(storage::Error::Io {
                    path: dir.to_owned(),
                    detail: "this build has no RocksDB: use the memory backend".into(),
                })
            }
        }
    }
}
