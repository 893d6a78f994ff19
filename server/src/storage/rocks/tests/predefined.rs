//! Every setting makes a database that keeps, freezes and finds what it was given, and that others can open.

use bytesize::ByteSize;

use super::*;
use crate::storage::{Compaction, Compression, Filter, Predefined};

const ROWS: u32 = 3_000;

/// Writes in several flushes, compacts, freezes, and opens the snapshot with other settings.
fn works(config: &RocksConfig) {
    let small = RocksConfig { table_write_buffer_bytes: Some(ByteSize::kib(64)), ..config.clone() };
    let mut place = Place::new();
    place.shared = RocksShared::new(&small).unwrap();
    let mut backend = place.backend(&place.dir("live"), true);
    for key in (0..ROWS).step_by(2) {
        put(&mut backend, Logging::Buffered, A, key);
    }
    flush(&backend, A);
    for key in (1..ROWS).step_by(2) {
        put(&mut backend, Logging::Buffered, A, key);
    }
    let found = |backend: &RocksBackend, what: &str| {
        assert_eq!(keys(backend, A), (0..ROWS).collect::<Vec<_>>(), "{config:?}: {what}");
        for key in [0, 1, ROWS - 1] {
            assert!(backend.get(A, &key.to_be_bytes()).unwrap().is_some(), "{config:?}: {what}");
        }
        assert_eq!(backend.get(A, &ROWS.to_be_bytes()).unwrap(), None, "{config:?}: {what}");
    };
    found(&backend, "live");
    backend.compact().unwrap();
    found(&backend, "compacted");
    let (dir, files) = place.freeze(&mut backend, "frozen");
    assert!(ids(&files).iter().all(|id| !id.is_empty()), "{config:?}: every SST is known by its identity");
    drop(backend);
    place.shared = RocksShared::new(&RocksConfig::default()).unwrap();
    found(&place.open(&dir, true, WalTolerance::None).unwrap(), "opened with the defaults");
}

#[test]
fn whatever_is_predefined_works_and_can_be_changed_later() {
    use Predefined::{Default, Hdd, LowMemory, ReadHeavy, WriteHeavy};
    for predefined in [Default, WriteHeavy, ReadHeavy, LowMemory, Hdd] {
        works(&RocksConfig { predefined, ..RocksConfig::default() });
    }
}

#[test]
fn every_other_choice_works_and_can_be_changed_later() {
    let default = RocksConfig::default();
    works(&RocksConfig { filter: Some(Filter::None), dynamic_levels: Some(false), ..default.clone() });
    works(&RocksConfig {
        compaction: Some(Compaction::Universal),
        compression: Some(Compression::None),
        bottommost_compression: Some(Compression::Lz4),
        ..default.clone()
    });
    works(&RocksConfig { direct_io: Some(true), block_bytes: Some(ByteSize::kib(16)), ..default });
}
