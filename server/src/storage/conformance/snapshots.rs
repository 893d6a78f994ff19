//! Behaviours of frozen snapshots and of what is opened from their files.

use forebay_proto::merge::MergeFunction;

use super::{A, B, Behaviour, Subject, content, get, put};
use crate::storage::{
    Table, TableId,
    row::{self, Header},
};

pub(super) const ALL: &[Behaviour] = &[
    ("a_snapshot_opens_with_exactly_the_frozen_content", a_snapshot_opens_with_exactly_the_frozen_content),
    ("a_snapshot_of_nothing_opens_empty", a_snapshot_of_nothing_opens_empty),
    ("later_writes_are_not_in_a_snapshot", later_writes_are_not_in_a_snapshot),
    ("several_snapshots_stand_at_once", several_snapshots_stand_at_once),
    ("a_dropped_snapshot_leaves_the_backend_usable", a_dropped_snapshot_leaves_the_backend_usable),
    ("what_is_opened_can_be_written_and_frozen_again", what_is_opened_can_be_written_and_frozen_again),
    ("the_files_listed_are_the_files_written", the_files_listed_are_the_files_written),
];

fn a_snapshot_opens_with_exactly_the_frozen_content(subject: &Subject) {
    let mut backend = subject.backend();
    let reducing = TableId(7);
    backend.create_table(Table { id: reducing, merge: Some(MergeFunction::BitOr) }).unwrap();
    for round in 0..30_u32 {
        subject.write(&mut *backend, |writes| {
            for i in 0..100_u32 {
                put(writes, A, (round * i).to_be_bytes(), [1; 50]);
            }
            put(writes, TableId::SHARD, b"mark", round.to_be_bytes());
            writes.delete_range(A, &(round * 7).to_be_bytes(), &(round * 7 + 5).to_be_bytes());
            let key = [u8::try_from(round % 3).unwrap()];
            let header = Header { write_ms: i64::from(round), ..Header::default() };
            writes.merge(reducing, &key, |arena| row::encode(&header, &(1_u64 << round).to_be_bytes(), arena));
        });
    }
    let before = content(&*backend).unwrap();
    let (dir, _) = subject.freeze(&mut *backend, "frozen");
    drop(backend);
    let mut restored = (subject.open)(&dir).unwrap();
    assert_eq!(content(&*restored).unwrap(), before);
    let plain = |id| Table { id, merge: None };
    let folded = Table { id: reducing, merge: Some(MergeFunction::BitOr) };
    assert_eq!(restored.tables(), [plain(TableId::SHARD), plain(A), plain(B), folded]);
    // The merge function came along.
    let header = Header { write_ms: 99, ..Header::default() };
    subject.write(&mut *restored, |writes| {
        writes.merge(reducing, &[0], |arena| row::encode(&header, &(1_u64 << 63).to_be_bytes(), arena));
    });
    let row = get(&*restored, reducing, [0]).unwrap();
    assert_eq!(row::decode(&row).unwrap().1, (0b1001001001001001001001001001_u64 | 1 << 63).to_be_bytes());
}

fn a_snapshot_of_nothing_opens_empty(subject: &Subject) {
    let mut backend = (subject.create)(&subject.dir("live")).unwrap();
    let (dir, _) = subject.freeze(&mut *backend, "frozen");
    let restored = (subject.open)(&dir).unwrap();
    assert_eq!(content(&*restored).unwrap(), [(TableId::SHARD, vec![])]);
}

fn later_writes_are_not_in_a_snapshot(subject: &Subject) {
    let mut backend = subject.backend();
    subject.put(&mut *backend, A, b"old", b"1");
    subject.put(&mut *backend, A, b"gone", b"1");
    let before = content(&*backend).unwrap();
    let frozen = backend.freeze().unwrap();
    subject.write(&mut *backend, |writes| {
        put(writes, A, b"old", b"2");
        put(writes, A, b"new", b"2");
        writes.delete(A, b"gone");
    });
    backend.create_table(Table { id: TableId(9), merge: None }).unwrap();
    subject.put(&mut *backend, TableId(9), b"k", vec![9; 100_000]);
    let dir = subject.dir("frozen");
    frozen.write_files(&dir).unwrap();
    assert_eq!(content(&*(subject.open)(&dir).unwrap()).unwrap(), before);
    assert_eq!(get(&*backend, A, b"old").as_deref(), Some(&b"2"[..]));
    assert_eq!(get(&*backend, A, b"gone"), None);
}

fn several_snapshots_stand_at_once(subject: &Subject) {
    let mut backend = subject.backend();
    let mut frozen = Vec::new();
    for i in 0..4_u8 {
        subject.put(&mut *backend, A, [i], [i; 1000]);
        frozen.push((content(&*backend).unwrap(), backend.freeze().unwrap()));
    }
    subject.write(&mut *backend, |writes| writes.delete_range(A, b"", b"\xff"));
    // In another order than they were frozen in, with the backend gone halfway, and one unused.
    let mut left = Some(backend);
    for i in [2, 0, 1] {
        let (expected, frozen) = frozen.remove(i);
        let dir = subject.dir(&format!("frozen{i}"));
        frozen.write_files(&dir).unwrap();
        left = None;
        assert_eq!(content(&*(subject.open)(&dir).unwrap()).unwrap(), expected);
    }
    assert!(left.is_none());
}

fn a_dropped_snapshot_leaves_the_backend_usable(subject: &Subject) {
    let mut backend = subject.backend();
    for i in 0..5_u8 {
        subject.put(&mut *backend, A, [i], b"v");
        drop(backend.freeze().unwrap());
    }
    let (dir, _) = subject.freeze(&mut *backend, "frozen");
    assert_eq!(content(&*(subject.open)(&dir).unwrap()).unwrap(), content(&*backend).unwrap());
}

fn what_is_opened_can_be_written_and_frozen_again(subject: &Subject) {
    let mut backend = subject.backend();
    for generation in 0..4_u8 {
        subject.put(&mut *backend, A, [generation], b"v");
        backend.create_table(Table { id: TableId(u32::from(generation) + 10), merge: None }).unwrap();
        let before = content(&*backend).unwrap();
        let (dir, _) = subject.freeze(&mut *backend, &format!("frozen{generation}"));
        drop(backend);
        backend = (subject.open)(&dir).unwrap();
        assert_eq!(content(&*backend).unwrap(), before);
    }
}

fn the_files_listed_are_the_files_written(subject: &Subject) {
    let mut backend = subject.backend();
    subject.put(&mut *backend, A, b"k", b"v");
    let (dir, files) = subject.freeze(&mut *backend, "frozen");
    let mut listed: Vec<(String, u64)> = files.into_iter().map(|file| (file.name, file.length)).collect();
    listed.sort();
    let mut written: Vec<(String, u64)> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len())
        })
        .collect();
    written.sort();
    assert_eq!(listed, written);
}
