//! Opens the backend that a job asks for.

use std::{path::Path, sync::Arc};

use forebay_proto::{key_group::KeyGroupRange, v1};

pub use crate::storage::budget::{Budget, Passing};
use crate::storage::{self, Backend, MemoryBackend, budget::Shares};
#[cfg(feature = "rocksdb")]
use crate::storage::{RocksBackend, RocksShared, WalTolerance};

/// What the backends of a server share.
#[derive(Clone)]
pub struct Backends {
    budget: Arc<Budget>,
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
    /// Makes what is shared, for a process that nothing limits, such as a tool.
    pub fn new(config: &storage::RocksConfig) -> storage::Result<Self> {
        Self::within(config, Shares::of(config)?)
    }

    /// Makes what is shared; `shares` says how large it may get.
    #[cfg(feature = "rocksdb")]
    pub fn within(config: &storage::RocksConfig, shares: Shares) -> storage::Result<Self> {
        Ok(Self { budget: Budget::new(shares.rest), rocks: RocksShared::within(config, shares)? })
    }

    /// Makes what is shared; without RocksDB there are no caches.
    #[cfg(not(feature = "rocksdb"))]
    pub fn within(_: &storage::RocksConfig, shares: Shares) -> storage::Result<Self> {
        Ok(Self { budget: Budget::new(shares.rest) })
    }

    /// What requests, answers and the rows of memory backends may take.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
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
            v1::Backend::Memory => Ok(Box::new(MemoryBackend::open(dir)?.within(&self.budget))),
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

    /// Makes one backend of the files of several, each with the key groups that are taken from it, in `db`, an
    /// empty directory. `visit` sees each part; their directories are used up. `scratch` is made as soon as a
    /// part has been opened.
    pub fn join(
        &self,
        kind: v1::Backend,
        durability: v1::Durability,
        parts: &[(&Path, KeyGroupRange)],
        scratch: &Path,
        db: &Path,
        visit: &mut dyn FnMut(&dyn Backend) -> storage::Result<()>,
    ) -> storage::Result<Joined> {
        match kind {
            // Its files are rows in order: copying them is all there is to do.
            v1::Backend::Memory => Ok(Joined::Impossible),
            #[cfg(feature = "rocksdb")]
            v1::Backend::Rocksdb | v1::Backend::Unspecified => {
                let logged = durability != v1::Durability::None;
                std::fs::create_dir_all(scratch)
                    .map_err(|err| storage::Error::Io { path: scratch.to_owned(), detail: err.to_string() })?;
                let mut open = Vec::new();
                for (dir, range) in parts {
                    let part = RocksBackend::open(dir, &self.rocks, logged, WalTolerance::None)?;
                    visit(&part)?;
                    open.push((part, *range));
                }
                let joined = RocksBackend::join(&mut open, scratch, db, &self.rocks, logged)?;
                Ok(joined.map_or(Joined::Impossible, |backend| Joined::Whole(Box::new(backend))))
            }
            #[cfg(not(feature = "rocksdb"))]
            v1::Backend::Rocksdb | v1::Backend::Unspecified => {
                let _ = (durability, parts, scratch, db, visit);
                Ok(Joined::Impossible)
            }
        }
    }
}

/// What came of joining files.
pub enum Joined {
    /// The backend that holds all of them.
    Whole(Box<dyn Backend>),
    /// They cannot be joined; the rows have to be copied.
    Impossible,
}
