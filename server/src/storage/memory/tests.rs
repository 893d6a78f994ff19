//! What only the memory backend does, beside the list in `conformance`: segments.

use std::{collections::BTreeSet, fs, path::PathBuf};

use super::*;
use crate::storage::{
    FrozenFile,
    row::{self, Header},
};

const A: TableId = TableId(1);

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn freeze(&self, backend: &mut MemoryBackend, name: &str) -> (PathBuf, Vec<FrozenFile>) {
        let dir = self.0.path().join(name);
        fs::create_dir(&dir).unwrap();
        let files = backend.freeze().unwrap().write_files(&dir).unwrap();
        (dir, files)
    }
}

fn key(group: u16, n: u32) -> Vec<u8> {
    [&group.to_be_bytes()[..], &n.to_be_bytes()].concat()
}

fn put(backend: &mut MemoryBackend, key: &[u8], row: &[u8]) {
    let mut writes = Writes::default();
    writes.put(A, key, |out| out.extend(row));
    backend.write(&writes, Logging::None).unwrap();
}

/// 8 MB in 64 key groups.
fn filled() -> MemoryBackend {
    let mut backend = MemoryBackend::new();
    backend.create_table(Table { id: A, merge: None }).unwrap();
    // In an order that is not that of the keys.
    for n in 0..125 {
        for group in 0..64 {
            put(&mut backend, &key(group, n * 7 % 125), &[7; 1000]);
        }
    }
    backend
}

fn ids(files: &[FrozenFile]) -> BTreeSet<String> {
    files.iter().flat_map(|file| file.immutable_id.iter().chain(&file.growing_id)).cloned().collect()
}

fn rows_of(backend: &MemoryBackend) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    let mut visit = |key: &[u8], row: &[u8]| {
        rows.push((key.to_vec(), row.to_vec()));
        std::ops::ControlFlow::Continue(())
    };
    backend.scan(A, b"", &[0xff; 9], &mut visit).unwrap();
    rows
}

/// Every segment says how many bytes its rows have; the first starts before every key.
fn check(backend: &MemoryBackend) {
    for Live { rows, .. } in backend.tables.values() {
        let mut total = 0;
        for (place, (start, end, segment)) in rows.segments.iter().enumerate() {
            assert_eq!(place == 0, start.is_empty());
            let found: u64 =
                segments::rows_between(&rows.map, start, end).map(|(key, row)| row_bytes(key, row.len())).sum();
            assert_eq!(segment.bytes, found);
            total += found;
        }
        assert_eq!(total, rows.map.iter().map(|(key, row)| row_bytes(key, row.len())).sum::<u64>());
    }
}

#[test]
fn one_changed_key_is_one_new_segment() {
    let place = Place::new();
    let mut backend = filled();
    let (_, files) = place.freeze(&mut backend, "first");
    assert!((9..=40).contains(&files.len()), "{} files", files.len());
    put(&mut backend, &key(30, 60), b"changed");
    let (dir, later) = place.freeze(&mut backend, "later");
    let new: Vec<_> = ids(&later).difference(&ids(&files)).cloned().collect();
    assert_eq!(new.len(), 2, "a segment and the list of segments: {new:?}");
    assert_eq!(rows_of(&MemoryBackend::open(&dir).unwrap()), rows_of(&backend));
}

#[test]
fn nothing_changed_is_nothing_new_and_nothing_written() {
    use std::os::unix::fs::MetadataExt as _;
    let place = Place::new();
    let mut backend = filled();
    let (first, files) = place.freeze(&mut backend, "first");
    let (again, same) = place.freeze(&mut backend, "again");
    assert_eq!(files, same);
    for file in files.iter().filter(|file| file.immutable_id.is_some()) {
        let inode = |dir: &PathBuf| fs::metadata(dir.join(&file.name)).unwrap().ino();
        assert_eq!(inode(&first), inode(&again), "{} was written again", file.name);
    }
}

#[test]
fn a_segment_whose_file_has_gone_is_written_again_to_the_bit() {
    let place = Place::new();
    let mut backend = MemoryBackend::new();
    backend.create_table(Table { id: A, merge: None }).unwrap();
    for n in 0..9 {
        let header = Header { write_ms: 0, deadline_ms: Some(i64::from(n)), version: None };
        let mut row = Vec::new();
        row::encode(&header, b"x", &mut row);
        put(&mut backend, &key(0, n), &row);
    }
    backend.expire(A, 3);
    let (first, files) = place.freeze(&mut backend, "first");
    let contents = |dir: &PathBuf| files.iter().map(|file| fs::read(dir.join(&file.name)).unwrap()).collect::<Vec<_>>();
    let expected = contents(&first);
    fs::remove_dir_all(&first).unwrap();
    // More rows are given up by now; the identity still tells the same content.
    backend.expire(A, 7);
    let (again, same) = place.freeze(&mut backend, "again");
    assert_eq!(same, files);
    assert_eq!(contents(&again), expected);
    assert_eq!(rows_of(&MemoryBackend::open(&again).unwrap()).len(), 5);
}

#[test]
fn what_is_opened_knows_its_segments() {
    let place = Place::new();
    let mut backend = filled();
    let (dir, files) = place.freeze(&mut backend, "first");
    let mut restored = MemoryBackend::open(&dir).unwrap();
    check(&restored);
    assert_eq!(ids(&place.freeze(&mut restored, "restored").1), ids(&files));
    // Two that go on from there never give two contents one identity.
    let mut other = MemoryBackend::open(&dir).unwrap();
    for (n, backend) in [&mut restored, &mut other, &mut backend].into_iter().enumerate() {
        put(backend, &key(30, 60), &vec![7; n]);
    }
    let mut seen = ids(&files);
    for (backend, name) in [(&mut restored, "a"), (&mut other, "b"), (&mut backend, "c")] {
        let new: Vec<_> = ids(&place.freeze(backend, name).1).difference(&ids(&files)).cloned().collect();
        assert_eq!(new.len(), 2);
        assert!(new.into_iter().all(|id| seen.insert(id)));
    }
}

#[test]
fn segments_are_cut_at_key_groups_and_have_a_size() {
    let backend = filled();
    check(&backend);
    let rows = &backend.tables[&A].rows;
    for (start, _, segment) in rows.segments.iter() {
        assert!(segment.bytes <= 1 << 20);
        assert!(start.is_empty() || start[2..] == [0; 4], "{:?} is within a key group", &start[..]);
    }
    // One key group of several megabytes is cut between its keys.
    let mut backend = MemoryBackend::new();
    backend.create_table(Table { id: A, merge: None }).unwrap();
    (0..3000).for_each(|n| put(&mut backend, &key(5, n), &[1; 1000]));
    check(&backend);
    assert!((3..=8).contains(&backend.tables[&A].rows.segments.iter().count()));
}

#[test]
fn segments_follow_what_is_written_and_removed() {
    let place = Place::new();
    let mut backend = filled();
    let mut random = 7_u64;
    let mut pick = |bound: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    for step in 0..400_u32 {
        let group = u16::try_from(pick(64)).unwrap();
        match pick(4) {
            0 => {
                let mut writes = Writes::default();
                writes.delete_range(A, &key(group, 0), &key(group + u16::try_from(pick(6)).unwrap(), 0));
                backend.write(&writes, Logging::None).unwrap();
            }
            1 => put(&mut backend, &key(group, step), &vec![3; usize::try_from(pick(900_000)).unwrap()]),
            _ => put(&mut backend, &key(group, step), &[2; 500]),
        }
        if step % 40 == 0 {
            check(&backend);
            let (dir, _) = place.freeze(&mut backend, &step.to_string());
            let opened = MemoryBackend::open(&dir).unwrap();
            assert!(rows_of(&opened) == rows_of(&backend));
            check(&opened);
        }
    }
    let mut writes = Writes::default();
    writes.delete_range(A, b"", &[0xff; 9]);
    backend.write(&writes, Logging::None).unwrap();
    check(&backend);
    assert_eq!(backend.tables[&A].rows.segments.iter().count(), 1);
}

#[test]
fn one_file_of_an_earlier_build_is_opened_and_an_unknown_version_is_not() {
    let place = Place::new();
    let mut backend = filled();
    let rows = &backend.tables[&A].rows;
    let path = place.0.path().join(index::NAME);
    rows::write(&path, rows.table, i64::MIN, rows.map.iter()).unwrap();
    let mut opened = MemoryBackend::open(place.0.path()).unwrap();
    assert_eq!(rows_of(&opened), rows_of(&backend));
    check(&opened);
    assert!(ids(&place.freeze(&mut opened, "opened").1).is_disjoint(&ids(&place.freeze(&mut backend, "live").1)));
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 3;
    fs::write(&path, bytes).unwrap();
    let error = MemoryBackend::open(place.0.path()).err().unwrap().to_string();
    assert!(error.contains("format version 3"), "{error}");
}

#[test]
fn segments_that_were_exchanged_or_left_out_are_refused() {
    let place = Place::new();
    let mut backend = filled();
    let (dir, files) = place.freeze(&mut backend, "first");
    let segments: Vec<_> = files.iter().filter(|file| file.immutable_id.is_some()).map(|f| dir.join(&f.name)).collect();
    let (one, two) = (fs::read(&segments[0]).unwrap(), fs::read(&segments[1]).unwrap());
    fs::write(&segments[0], &two).unwrap();
    fs::write(&segments[1], &one).unwrap();
    assert!(matches!(MemoryBackend::open(&dir), Err(Error::Corrupt { .. })));
    fs::write(&segments[0], &one).unwrap();
    fs::remove_file(&segments[1]).unwrap();
    assert!(matches!(MemoryBackend::open(&dir), Err(Error::Corrupt { .. })));
}

#[test]
fn rows_are_refused_when_the_budget_is_used_up_and_old_versions_count_while_they_are_seen() {
    let budget = Budget::new(ByteSize::kib(400));
    let mut backend = MemoryBackend::new().within(&budget);
    backend.create_table(Table { id: A, merge: None }).unwrap();
    let write = |backend: &mut MemoryBackend, table, n| {
        let mut writes = Writes::default();
        writes.put(table, &key(1, n), |out| out.extend([7; 1000]));
        backend.write(&writes, Logging::None)
    };
    let there = (0..1000).take_while(|n| write(&mut backend, A, *n).is_ok()).count();
    assert!((250..300).contains(&there), "{there} rows of 1 KB in three quarters of 400 KiB");
    let refused = write(&mut backend, A, 0).unwrap_err().to_string();
    assert!(refused.contains("allowed is 300.0 KiB (memory.budget)"), "{refused}");
    write(&mut backend, TableId::SHARD, 0).expect("lanes and counters go on");
    let mut writes = Writes::default();
    writes.delete_range(A, &key(1, 0), &key(1, 120));
    backend.write(&writes, Logging::None).unwrap();
    assert!(!backend.is_full());

    let (view, before) = (backend.view().unwrap(), budget.rows());
    (120..200).for_each(|n| write(&mut backend, A, n).unwrap());
    let held = budget.rows() - before;
    assert!((80_000..100_000).contains(&held), "the old versions of 80 rows: {held}");
    (120..200).for_each(|n| write(&mut backend, A, n).unwrap());
    assert_eq!(budget.rows() - before, held, "nobody sees those that were written meanwhile");
    let next = backend.view().unwrap();
    drop(view);
    assert_eq!(budget.rows(), before, "the next view sees none of them");
    drop(next);
    drop(backend);
    assert_eq!(budget.rows(), 0);
}
