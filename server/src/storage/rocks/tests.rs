//! What only the RocksDB backend does, beside the list in `conformance`.

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use forebay_proto::{merge::MergeFunction, packed_list};

use super::*;
use crate::storage::{
    FrozenFile, MemoryBackend, RocksConfig,
    row::{self, Header},
};

mod age;
mod deletion;
mod predefined;

const A: TableId = TableId(1);
const B: TableId = TableId(2);

struct Place {
    root: TempDir,
    shared: Arc<RocksShared>,
}

impl Place {
    fn new() -> Self {
        let shared = RocksShared::new(&RocksConfig::default()).unwrap();
        Self { root: tempfile::tempdir().unwrap(), shared }
    }

    fn dir(&self, name: &str) -> PathBuf {
        let dir = self.root.path().join(name);
        fs::create_dir(&dir).unwrap();
        dir
    }

    fn open(&self, dir: &Path, logged: bool, tolerance: WalTolerance) -> Result<RocksBackend> {
        RocksBackend::open(dir, &self.shared, logged, tolerance)
    }

    /// Opens a new backend with the tables A and B.
    fn backend(&self, dir: &Path, logged: bool) -> RocksBackend {
        let mut backend = self.open(dir, logged, WalTolerance::Tail).unwrap();
        for id in [A, B] {
            backend.create_table(Table { id, merge: None }).unwrap();
        }
        backend
    }

    /// Copies a directory as the death of its process would leave it.
    fn killed(&self, dir: &Path, name: &str) -> PathBuf {
        let copy = self.dir(name);
        for entry in fs::read_dir(dir).unwrap() {
            let from = entry.unwrap().path();
            match fs::copy(&from, copy.join(from.file_name().unwrap())) {
                // Nothing needed it any more.
                Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
                copied => drop(copied.unwrap()),
            }
        }
        copy
    }

    fn freeze(&self, backend: &mut RocksBackend, name: &str) -> (PathBuf, Vec<FrozenFile>) {
        let dir = self.dir(name);
        let files = backend.freeze().unwrap().write_files(&dir).unwrap();
        (dir, files)
    }
}

fn put(backend: &mut RocksBackend, logging: Logging, table: TableId, key: u32) {
    let mut writes = Writes::default();
    writes.put(table, &key.to_be_bytes(), |arena| arena.extend([7; 100]));
    backend.write(&writes, logging).unwrap();
}

fn keys(backend: &dyn Backend, table: TableId) -> Vec<u32> {
    let mut keys = Vec::new();
    let mut visit = |key: &[u8], _: &[u8]| {
        keys.push(u32::from_be_bytes(key.try_into().unwrap()));
        ControlFlow::Continue(())
    };
    backend.scan(table, b"", &[0xff; 5], &mut visit).unwrap();
    keys
}

fn flush(backend: &RocksBackend, table: TableId) {
    backend.engine.db.flush_cf(&backend.family(table).unwrap()).unwrap();
}

fn compact(backend: &RocksBackend, table: TableId) {
    backend.engine.db.compact_range_cf(&backend.family(table).unwrap(), None::<&[u8]>, None::<&[u8]>);
}

fn with_extension(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    paths.sort();
    paths
}

fn ids(files: &[FrozenFile]) -> Vec<String> {
    files.iter().filter_map(|file| file.immutable_id.clone()).collect()
}

fn is_corrupt(opened: Result<RocksBackend>) -> bool {
    matches!(opened, Err(Error::Corrupt { .. }))
}

#[test]
fn logged_writes_survive_the_death_of_the_process() {
    for logging in [Logging::Buffered, Logging::Synced] {
        let place = Place::new();
        let dir = place.dir("live");
        let mut backend = place.backend(&dir, true);
        for key in 0..50 {
            put(&mut backend, logging, A, key);
            put(&mut backend, logging, B, key);
            if key == 20 {
                flush(&backend, A);
            }
        }
        let copy = place.killed(&dir, "copy");
        let mut reopened = place.open(&copy, true, WalTolerance::Tail).unwrap();
        assert_eq!(keys(&reopened, A), (0..50).collect::<Vec<_>>());
        assert_eq!(keys(&reopened, B), (0..50).collect::<Vec<_>>());
        put(&mut reopened, logging, A, 50);
        drop(reopened);
        assert_eq!(keys(&place.open(&copy, true, WalTolerance::Tail).unwrap(), A).len(), 51);
    }
}

#[test]
fn an_unlogged_backend_comes_back_to_one_moment_of_all_tables() {
    let mut place = Place::new();
    let small = RocksConfig { table_write_buffer_bytes: Some(bytesize::ByteSize::kib(256)), ..RocksConfig::default() };
    place.shared = RocksShared::new(&small).unwrap();
    let dir = place.dir("live");
    let mut backend = place.backend(&dir, false);
    // Only A fills its write buffer.
    for key in 0..2000_u32 {
        let mut writes = Writes::default();
        writes.put(A, &key.to_be_bytes(), |arena| arena.extend([7; 1000]));
        writes.put(B, &key.to_be_bytes(), |arena| arena.extend([7; 10]));
        backend.write(&writes, Logging::None).unwrap();
    }
    backend.engine.db.wait_for_compact(&rocksdb::WaitForCompactOptions::default()).unwrap();
    let reopened = place.open(&place.killed(&dir, "copy"), false, WalTolerance::Tail).unwrap();
    let found = keys(&reopened, A);
    assert!((500..2000).contains(&found.len()), "{}", found.len());
    assert_eq!(keys(&reopened, B), found);
    assert_eq!(found, (0..).take(found.len()).collect::<Vec<_>>());
}

#[test]
fn a_log_cut_short_loses_its_tail_only_where_that_is_tolerated() {
    let place = Place::new();
    let dir = place.dir("live");
    let mut backend = place.backend(&dir, true);
    (0..20).for_each(|key| put(&mut backend, Logging::Buffered, A, key));
    let copy = place.killed(&dir, "copy");
    let log = with_extension(&copy, "log").pop().unwrap();
    let length = fs::metadata(&log).unwrap().len();
    fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(length - 3).unwrap();
    assert!(is_corrupt(place.open(&copy, true, WalTolerance::None)));
    let reopened = place.open(&copy, true, WalTolerance::Tail).unwrap();
    assert_eq!(keys(&reopened, A), (0..19).collect::<Vec<_>>());
}

#[test]
fn a_log_damaged_before_its_tail_is_refused() {
    let place = Place::new();
    let dir = place.dir("live");
    let mut backend = place.backend(&dir, true);
    (0..20).for_each(|key| put(&mut backend, Logging::Buffered, A, key));
    let copy = place.killed(&dir, "copy");
    let log = with_extension(&copy, "log").pop().unwrap();
    let mut bytes = fs::read(&log).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&log, bytes).unwrap();
    assert!(is_corrupt(place.open(&copy, true, WalTolerance::Tail)));
}

#[test]
fn a_hole_between_two_logs_is_refused() {
    let place = Place::new();
    let dir = place.dir("live");
    let mut backend = place.backend(&dir, true);
    (0..10).for_each(|key| put(&mut backend, Logging::Buffered, B, key));
    put(&mut backend, Logging::Buffered, A, 0);
    put(&mut backend, Logging::Buffered, B, 10);
    flush(&backend, A);
    (11..20).for_each(|key| put(&mut backend, Logging::Buffered, B, key));
    let copy = place.killed(&dir, "copy");
    let logs = with_extension(&copy, "log");
    assert_eq!(logs.len(), 2);
    let length = fs::metadata(&logs[0]).unwrap().len();
    fs::OpenOptions::new().write(true).open(&logs[0]).unwrap().set_len(length - 3).unwrap();
    assert!(is_corrupt(place.open(&copy, true, WalTolerance::Tail)));
}

#[test]
fn files_without_their_database_are_refused() {
    let place = Place::new();
    let dir = place.dir("live");
    let mut backend = place.backend(&dir, true);
    put(&mut backend, Logging::Buffered, A, 1);
    let (frozen, files) = place.freeze(&mut backend, "frozen");
    for file in files {
        let copy = place.killed(&frozen, &format!("without {}", file.name));
        fs::remove_file(copy.join(&file.name)).unwrap();
        assert!(is_corrupt(place.open(&copy, true, WalTolerance::None)), "{}", file.name);
    }
    let copy = place.killed(&dir, "copy");
    fs::remove_file(copy.join("CURRENT")).unwrap();
    assert!(is_corrupt(place.open(&copy, true, WalTolerance::Tail)));
    assert!(is_corrupt(place.open(&place.dir("empty"), true, WalTolerance::None)));
}

#[test]
fn logged_and_unlogged_writes_do_not_mix() {
    let place = Place::new();
    let mut logged = place.backend(&place.dir("logged"), true);
    let mut unlogged = place.backend(&place.dir("unlogged"), false);
    let mut writes = Writes::default();
    writes.put(A, b"key1", |_| ());
    assert!(matches!(logged.write(&writes, Logging::None), Err(Error::Io { .. })));
    assert!(matches!(unlogged.write(&writes, Logging::Buffered), Err(Error::Io { .. })));
    assert!(matches!(unlogged.write(&writes, Logging::Synced), Err(Error::Io { .. })));
    assert_eq!((keys(&logged, A), keys(&unlogged, A)), (vec![], vec![]));
}

#[test]
fn a_freeze_of_a_logged_backend_does_not_flush() {
    let place = Place::new();
    let dir = place.dir("live");
    let mut backend = place.backend(&dir, true);
    (0..100).for_each(|key| put(&mut backend, Logging::Buffered, A, key));
    let (frozen, files) = place.freeze(&mut backend, "frozen");
    assert_eq!(ids(&files).len(), 0);
    assert_eq!(with_extension(&dir, "sst").len(), 0);
    assert_eq!(keys(&place.open(&frozen, true, WalTolerance::None).unwrap(), A).len(), 100);
}

fn growing(files: &[FrozenFile]) -> BTreeMap<String, u64> {
    files.iter().filter_map(|file| Some((file.growing_id.clone()?, file.length))).collect()
}

#[test]
fn log_and_manifest_grow_under_one_identity_and_nothing_changed_is_the_same() {
    let place = Place::new();
    let mut backend = place.backend(&place.dir("live"), true);
    put(&mut backend, Logging::Buffered, A, 1);
    let (first, files) = place.freeze(&mut backend, "first");
    let (_, same) = place.freeze(&mut backend, "same");
    assert_eq!(files, same);
    assert!(files.iter().all(|file| file.growing_id.is_some() || file.immutable_id.is_some()));
    put(&mut backend, Logging::Buffered, A, 2);
    let (later, grown) = place.freeze(&mut backend, "later");
    let (before, after) = (growing(&files), growing(&grown));
    let log = files.iter().find(|file| file.name.ends_with(".log")).unwrap();
    let id = log.growing_id.clone().unwrap();
    assert!(after[&id] > before[&id]);
    let (short, long) = (fs::read(first.join(&log.name)).unwrap(), fs::read(later.join(&log.name)).unwrap());
    assert!(long.starts_with(&short));
    // The seal is another one; current file and manifest are not.
    assert_eq!(after.keys().filter(|id| !before.contains_key(*id)).count(), 1);
    drop(backend);
    let mut opened = place.open(&first, true, WalTolerance::None).unwrap();
    let opened = growing(&place.freeze(&mut opened, "opened").1);
    assert!(opened.keys().all(|id| !before.contains_key(id) && !after.contains_key(id)));
}

#[test]
fn a_log_that_is_too_long_is_flushed_after_the_freeze_and_not_before() {
    let root = tempfile::tempdir().unwrap();
    let config = RocksConfig { unflushed_log_bytes: Some(bytesize::ByteSize::kib(100)), ..RocksConfig::default() };
    let place = Place { root, shared: RocksShared::new(&config).unwrap() };
    let mut backend = place.backend(&place.dir("live"), true);
    (0..100).for_each(|key| put(&mut backend, Logging::Buffered, A, key));
    assert_eq!(ids(&place.freeze(&mut backend, "short").1).len(), 0);
    (0..2000).for_each(|key| put(&mut backend, Logging::Buffered, A, key));
    let (frozen, files) = place.freeze(&mut backend, "long");
    assert_eq!(ids(&files).len(), 0);
    // Waits for the flush that has begun: another one has nothing to do.
    flush(&backend, A);
    flush(&backend, B);
    let (_, files) = place.freeze(&mut backend, "flushed");
    assert_eq!(ids(&files).len(), 1);
    let logged: u64 = files.iter().filter(|file| file.name.ends_with(".log")).map(|file| file.length).sum();
    assert!(logged < 100 << 10, "{logged} bytes of log");
    assert_eq!(keys(&place.open(&frozen, true, WalTolerance::None).unwrap(), A).len(), 2000);
}

#[test]
fn identities_stay_and_are_never_another_files() {
    let place = Place::new();
    let mut backend = place.backend(&place.dir("live"), true);
    (0..100).for_each(|key| put(&mut backend, Logging::Buffered, A, key));
    flush(&backend, A);
    let (first, files) = place.freeze(&mut backend, "first");
    let known = ids(&files);
    assert_eq!(known.len(), 1);
    let sst = files.iter().find(|file| file.immutable_id.is_some()).unwrap();
    assert_eq!((&sst.smallest_key[..], &sst.largest_key[..]), (&[0, 0, 0, 0][..], &[0, 0, 0, 99][..]));
    assert_eq!(ids(&place.freeze(&mut backend, "second").1), known);

    // Two restores of the same snapshot give the same numbers to other files.
    let mut seen = known.clone();
    for copy in ["copy1", "copy2"] {
        let copy = place.killed(&first, copy);
        let mut restored = place.open(&copy, true, WalTolerance::None).unwrap();
        assert_eq!(ids(&place.freeze(&mut restored, &format!("{} again", copy.display())).1), known);
        (0..9).for_each(|key| put(&mut restored, Logging::Buffered, B, key));
        flush(&restored, B);
        let (_, files) = place.freeze(&mut restored, &format!("{} later", copy.display()));
        let new: Vec<String> = ids(&files).into_iter().filter(|id| !known.contains(id)).collect();
        assert_eq!(new.len(), 1);
        assert!(!seen.contains(&new[0]), "{} given twice", new[0]);
        seen.extend(new);
    }
}

#[test]
fn identities_are_those_that_rocksdb_reports() {
    let place = Place::new();
    let mut backend = place.backend(&place.dir("live"), true);
    for round in 0..3 {
        (0..100).for_each(|key| put(&mut backend, Logging::Buffered, A, key * 3 + round));
        flush(&backend, A);
    }
    let reported = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut options = rocksdb::ReadOptions::default();
    let sink = Arc::clone(&reported);
    options.set_table_filter(move |properties| {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let (db, session) = (text(properties.db_id()), text(properties.db_session_id()));
        sink.lock().unwrap().push(format!("{db}-{session}-{}", properties.orig_file_number()));
        true
    });
    let family = backend.family(A).unwrap();
    let mut rows = backend.engine.db.raw_iterator_cf_opt(&family, options);
    rows.seek_to_first();
    drop((rows, family));
    let mut reported = reported.lock().unwrap().clone();
    let mut read = ids(&place.freeze(&mut backend, "frozen").1);
    reported.sort();
    read.sort();
    assert_eq!(read.len(), 3);
    assert_eq!(read, reported);
}

#[test]
fn a_snapshot_outlives_the_compaction_of_its_files() {
    let place = Place::new();
    let dir = place.dir("live");
    let mut backend = place.backend(&dir, true);
    for round in 0..3 {
        (0..100).for_each(|key| put(&mut backend, Logging::Buffered, A, key * 3 + round));
        flush(&backend, A);
    }
    let frozen = backend.freeze().unwrap();
    let mut writes = Writes::default();
    writes.delete_range(A, &[0; 4], &[0xff; 4]);
    backend.write(&writes, Logging::Buffered).unwrap();
    flush(&backend, A);
    compact(&backend, A);
    let other = backend.freeze().unwrap();
    drop(other);
    let to = place.dir("frozen");
    frozen.write_files(&to).unwrap();
    assert_eq!(keys(&place.open(&to, true, WalTolerance::None).unwrap(), A).len(), 300);
    // And once nobody wants them any more, they go.
    assert_eq!(with_extension(&dir, "sst").len(), 0);
    assert_eq!(keys(&backend, A).len(), 0);
}

/// A number below `bound`, from a fixed sequence.
fn pick(random: &mut u64, bound: u64) -> u64 {
    *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*random >> 33) % bound
}

#[test]
fn it_agrees_with_the_memory_backend_to_the_bit() {
    for (seed, logged) in [(1, true), (2, false), (3, true), (4, false)] {
        let place = Place::new();
        let mut rocks: RocksBackend = place.open(&place.dir("live"), logged, WalTolerance::Tail).unwrap();
        let mut memory = MemoryBackend::new();
        let tables: Vec<Table> = MergeFunction::ALL
            .into_iter()
            .zip(1..)
            .map(|(function, id)| Table { id: TableId(id), merge: Some(function) })
            .collect();
        for table in &tables {
            rocks.create_table(*table).unwrap();
            memory.create_table(*table).unwrap();
        }
        let logging = if logged { Logging::Buffered } else { Logging::None };
        let mut random = seed;
        for step in 0..600_u32 {
            let mut writes = Writes::default();
            for _ in 0..pick(&mut random, 12) {
                let Table { id: table, merge } =
                    tables[usize::try_from(pick(&mut random, tables.len() as u64)).unwrap()];
                let key = [pick(&mut random, 3).to_le_bytes()[0]];
                let write_ms = i64::from(step) + i64::try_from(pick(&mut random, 5)).unwrap();
                let deadline_ms =
                    (pick(&mut random, 3) == 0).then(|| write_ms + i64::try_from(pick(&mut random, 60)).unwrap());
                let header = Header { write_ms, deadline_ms, version: None };
                let float = (f64::from(step) / 7.0).exp2().fract() / 3.0 * f64::from(step);
                let operand = float.to_bits() ^ (pick(&mut random, 4) << 62);
                let operand = operand.to_be_bytes();
                let operand = match merge {
                    Some(MergeFunction::MinBy | MergeFunction::MaxBy) => {
                        packed_list::pack([&operand[..1], &operand[..]])
                    }
                    _ => operand.to_vec(),
                };
                let fill = |arena: &mut Vec<u8>| row::encode(&header, &operand, arena);
                match pick(&mut random, 20) {
                    0 => writes.put(table, &key, fill),
                    1 => writes.delete(table, &key),
                    2 => writes.delete_range(table, &key, &[key[0] + 2]),
                    _ => writes.merge(table, &key, fill),
                }
            }
            rocks.write(&writes, logging).unwrap();
            memory.write(&writes, logging).unwrap();
            let table = tables[usize::try_from(pick(&mut random, tables.len() as u64)).unwrap()].id;
            match pick(&mut random, 40) {
                0..6 => flush(&rocks, table),
                6 => compact(&rocks, table),
                7 => {
                    let (dir, _) = place.freeze(&mut rocks, &format!("frozen{step}"));
                    rocks = place.open(&dir, logged, WalTolerance::None).unwrap();
                }
                _ => {}
            }
            for table in tables.iter().filter(|_| step % 20 == 0) {
                assert_eq!(all_rows(&rocks, table.id), all_rows(&memory, table.id), "{seed} {step} {table:?}");
            }
        }
    }
}

fn all_rows(backend: &dyn Backend, table: TableId) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    let mut visit = |key: &[u8], row: &[u8]| {
        rows.push((key.to_vec(), row.to_vec()));
        ControlFlow::Continue(())
    };
    backend.scan(table, b"", &[0xff; 5], &mut visit).unwrap();
    rows
}

#[test]
fn names_of_families_are_read_as_they_are_written() {
    let functions = MergeFunction::ALL.into_iter().map(Some).chain([None]);
    for table in functions.map(|merge| Table { id: TableId(u32::MAX), merge }).chain([SHARD_TABLE]) {
        let column = Column::new(table);
        assert_eq!(Column::parse(&column.name).map(|column| column.table), Some(table), "{}", column.name);
    }
    for name in ["", "s", "default", "s0", "s01", "s+1", "s1.", "s1.average", "s-1", "s4294967296", "shard.count"] {
        assert!(Column::parse(name).is_none(), "{name}");
    }
}

#[test]
fn an_error_says_what_the_caller_can_do() {
    let error = |kind, detail: &str| classify(Path::new("dir"), kind, detail.to_owned());
    let full = "IO error: No space left on device: While appending to file: 000004.log: No space left on device";
    assert!(matches!(error(ErrorKind::IOError, full), Error::DiskFull { .. }));
    assert!(matches!(error(ErrorKind::Corruption, "Corruption: checksum mismatch"), Error::Corrupt { .. }));
    let missing = "IO error: No such file or directory: 000012.sst";
    assert!(matches!(error(ErrorKind::IOError, missing), Error::Corrupt { .. }));
    assert!(matches!(error(ErrorKind::IOError, "IO error: Input/output error: fsync"), Error::Io { .. }));
}

#[test]
fn an_empty_config_is_valid_and_a_misspelt_key_is_not() {
    let config: RocksConfig = toml::from_str("").unwrap();
    assert_eq!(config.block_cache_bytes, RocksConfig::default().block_cache_bytes);
    let config: RocksConfig = toml::from_str("block_cache_bytes = '1 GiB'\nbackground_threads = 4").unwrap();
    assert_eq!((config.block_cache_bytes, config.background_threads), (Some(bytesize::ByteSize::gib(1)), Some(4)));
    assert!(toml::from_str::<RocksConfig>("block_cache = '1 GiB'").is_err());
}
