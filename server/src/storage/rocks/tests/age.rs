//! Files are compacted at an age, and what the descriptor asks for is what RocksDB does.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::*;
use crate::storage::COMPACTION_AGE_S;

const SUM: Table = Table { id: TableId(3), merge: Some(MergeFunction::SumI64) };
const DEADLINE: Duration = Duration::from_secs(60);

/// An option as RocksDB last wrote down what is in force.
fn in_force(dir: &Path, section: &str, option: &str) -> u64 {
    let text = fs::read_to_string(options_files(dir).pop().unwrap()).unwrap();
    let section = text.split(&format!("[{section}]")).nth(1).unwrap().split("\n[").next().unwrap().to_owned();
    let line = section.lines().find_map(|line| line.trim().strip_prefix(&format!("{option}="))).unwrap();
    line.parse().unwrap()
}

fn options_files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let is_options = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("OPTIONS-");
    let mut paths: Vec<PathBuf> = entries.filter(is_options).collect();
    paths.sort();
    paths
}

fn age(dir: &Path, family: &str) -> u64 {
    in_force(dir, &format!("CFOptions \"{family}\""), options::COMPACTION_AGE)
}

fn put_expired(backend: &mut RocksBackend, table: TableId, key: u32) {
    let header = Header { write_ms: 1, deadline_ms: Some(2), version: None };
    let mut writes = Writes::default();
    writes.put(table, &key.to_be_bytes(), |arena| row::encode(&header, b"old", arena));
    backend.write(&writes, Logging::Buffered).unwrap();
    flush(backend, table);
}

#[test]
fn the_compaction_age_is_in_force_after_creation_change_and_reopening() {
    let place = Place::new();
    let dir = place.dir("live");
    let mut backend = place.backend(&dir, true);
    backend.create_table(SUM).unwrap();
    let sum = Column::new(SUM).name;
    assert_eq!([age(&dir, "s1"), age(&dir, "s2")], [COMPACTION_AGE_S; 2]);
    assert_eq!([age(&dir, &sum), age(&dir, "shard")], [0; 2], "a compaction drops none of their rows");

    backend.set_compaction_age(A, 3600).unwrap();
    assert_eq!([age(&dir, "s1"), age(&dir, "s2")], [3600, COMPACTION_AGE_S]);
    backend.set_compaction_age(A, 0).unwrap();
    assert_eq!([age(&dir, "s1"), age(&dir, "s2")], [0, COMPACTION_AGE_S]);
    assert!(matches!(backend.set_compaction_age(TableId(99), 1), Err(Error::NoTable(TableId(99)))));

    drop(backend);
    let mut reopened = place.open(&dir, true, WalTolerance::Tail).unwrap();
    assert_eq!(age(&dir, "s1"), COMPACTION_AGE_S, "until it is said again");
    reopened.set_compaction_age(A, 7200).unwrap();
    assert_eq!([age(&dir, "s1"), age(&dir, &sum)], [7200, 0]);
}

#[test]
fn the_same_compaction_age_again_writes_no_file() {
    let place = Place::new();
    let dir = place.dir("live");
    let mut backend = place.backend(&dir, true);
    backend.set_compaction_age(A, 3600).unwrap();
    let files = options_files(&dir);
    backend.set_compaction_age(A, 3600).unwrap();
    backend.set_compaction_age(B, COMPACTION_AGE_S).unwrap();
    assert_eq!(options_files(&dir), files);
}

#[test]
fn idle_tables_are_looked_at_every_ten_minutes() {
    let place = Place::new();
    let dir = place.dir("live");
    let _backend = place.backend(&dir, true);
    assert_eq!(in_force(&dir, "DBOptions", "max_compaction_trigger_wakeup_seconds"), 600);
}

#[test]
fn expired_rows_go_from_files_of_an_age_and_stay_where_none_is_set() {
    let place = Place::new();
    let dir = place.dir("live");
    let mut backend = place.backend(&dir, true);
    for (table, age_s) in [(A, 1), (B, 0)] {
        backend.set_compaction_age(table, age_s).unwrap();
        put_expired(&mut backend, table, 1);
        backend.expire(table, 2);
    }
    // RocksDB takes a file's age from its own clock, in seconds, and looks at it with the next flush.
    let written = Instant::now();
    while written.elapsed() < Duration::from_millis(2_100) {
        thread::park_timeout(Duration::from_millis(100));
    }
    [A, B].into_iter().for_each(|table| put_expired(&mut backend, table, 2));
    while keys(&backend, A).contains(&1) {
        assert!(written.elapsed() < DEADLINE, "the row is still in {:?}", with_extension(&dir, "sst"));
        thread::park_timeout(Duration::from_millis(10));
    }
    assert_eq!(keys(&backend, B), [1, 2]);
}
