//! The list, run against every backend.

use super::*;
use crate::storage::MemoryBackend;

#[test]
fn memory_conforms() {
    let scratch = tempfile::tempdir().unwrap();
    all(&Subject {
        create: &|_| Ok(Box::new(MemoryBackend::new())),
        open: &|dir| Ok(Box::new(MemoryBackend::open(dir)?)),
        logging: Logging::None,
        scratch: scratch.path(),
    });
}

#[cfg(feature = "rocksdb")]
fn rocks_conforms(logged: bool, logging: Logging) {
    use crate::storage::{RocksBackend, RocksConfig, RocksShared, WalTolerance};

    let scratch = tempfile::tempdir().unwrap();
    let shared = RocksShared::new(&RocksConfig::default()).unwrap();
    all(&Subject {
        create: &|dir| Ok(Box::new(RocksBackend::open(dir, &shared, logged, WalTolerance::Tail)?)),
        open: &|dir| Ok(Box::new(RocksBackend::open(dir, &shared, logged, WalTolerance::None)?)),
        logging,
        scratch: scratch.path(),
    });
}

#[cfg(feature = "rocksdb")]
#[test]
fn logged_rocks_conforms() {
    rocks_conforms(true, Logging::Buffered);
}

#[cfg(feature = "rocksdb")]
#[test]
fn synced_rocks_conforms() {
    rocks_conforms(true, Logging::Synced);
}

#[cfg(feature = "rocksdb")]
#[test]
fn unlogged_rocks_conforms() {
    rocks_conforms(false, Logging::None);
}
