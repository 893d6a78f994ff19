//! Behaviours of reads and writes.

use forebay_proto::{key_group::KeyGroupRange, merge::MergeFunction};

use super::{A, B, Behaviour, Subject, content, get, put, rows};
use crate::storage::{
    Backend, Error, Table, TableId, Writes,
    row::{self, Header},
};
use std::ops::ControlFlow;

pub(super) const ALL: &[Behaviour] = &[
    ("a_row_put_is_got", a_row_put_is_got),
    ("an_absent_key_is_none", an_absent_key_is_none),
    ("several_rows_are_got_in_the_order_asked", several_rows_are_got_in_the_order_asked),
    ("a_scan_visits_its_range_in_order", a_scan_visits_its_range_in_order),
    ("a_scan_ends_when_the_visitor_breaks", a_scan_ends_when_the_visitor_breaks),
    ("a_range_is_deleted_to_its_end", a_range_is_deleted_to_its_end),
    ("a_batch_applies_in_its_order", a_batch_applies_in_its_order),
    ("tables_are_separate", tables_are_separate),
    ("a_table_unknown_is_an_error", a_table_unknown_is_an_error),
    ("a_table_made_twice_is_left_as_it_is", a_table_made_twice_is_left_as_it_is),
    ("merges_fold_in_order", merges_fold_in_order),
    ("merges_drop_what_has_expired_by_stored_times", merges_drop_what_has_expired_by_stored_times),
    ("a_refused_batch_changes_nothing", a_refused_batch_changes_nothing),
    ("a_clip_leaves_its_range_and_the_shards_own_rows", a_clip_leaves_its_range_and_the_shards_own_rows),
];

fn a_clip_leaves_its_range_and_the_shards_own_rows(subject: &Subject) {
    let mut backend = subject.backend();
    for group in 0..40_u16 {
        for (table, value) in [(A, vec![1; 2000]), (B, Vec::new())] {
            subject.put(&mut *backend, table, [&group.to_be_bytes()[..], b"\x01k"].concat(), value);
        }
        if group % 10 == 0 {
            backend.compact().unwrap();
        }
    }
    subject.put(&mut *backend, TableId::SHARD, b"zz", b"clock");
    backend.clip(KeyGroupRange::new(10, 17).unwrap()).unwrap();
    for table in [A, B] {
        let kept = rows(&*backend, table, b"", &[0xff; 9]).unwrap();
        let groups: Vec<u8> = kept.iter().map(|(key, _)| key[1]).collect();
        assert_eq!(groups, (10..17).collect::<Vec<u8>>());
    }
    assert_eq!(get(&*backend, TableId::SHARD, b"zz").as_deref(), Some(&b"clock"[..]));
    // What was cut off may be written again, by a shard that has the key groups anew.
    subject.put(&mut *backend, A, [0, 30, 1], b"new");
    assert_eq!(get(&*backend, A, [0, 30, 1]).as_deref(), Some(&b"new"[..]));
    let (dir, _) = subject.freeze(&mut *backend, "frozen");
    assert_eq!(content(&*(subject.open)(&dir).unwrap()).unwrap(), content(&*backend).unwrap());
}

fn a_row_put_is_got(subject: &Subject) {
    let mut backend = subject.backend();
    let large = vec![7; 3 << 20];
    for (key, value) in [(&b"k"[..], &b"v"[..]), (b"", b"empty key"), (b"\0\xff\0", b""), (b"large", &large)] {
        subject.put(&mut *backend, A, key, value);
        assert_eq!(get(&*backend, A, key).as_deref(), Some(value));
    }
    subject.put(&mut *backend, A, b"k", b"new");
    assert_eq!(get(&*backend, A, b"k").as_deref(), Some(&b"new"[..]));
    assert!(backend.bytes() >= 3 << 20);
}

fn an_absent_key_is_none(subject: &Subject) {
    let mut backend = subject.backend();
    assert_eq!(get(&*backend, A, b"k"), None);
    subject.put(&mut *backend, A, b"k", b"v");
    subject.write(&mut *backend, |writes| {
        writes.delete(A, b"k");
        writes.delete(A, b"never there");
    });
    assert_eq!(get(&*backend, A, b"k"), None);
}

fn several_rows_are_got_in_the_order_asked(subject: &Subject) {
    let mut backend = subject.backend();
    for key in [b"a", b"b", b"c"] {
        subject.put(&mut *backend, A, key, key);
    }
    let mut got = Vec::new();
    let mut show = |place: usize, row: Option<&[u8]>| got.push((place, row.map(<[u8]>::to_vec)));
    backend.multi_get(A, &[b"c", b"none", b"a", b"c"], &mut show).unwrap();
    backend.multi_get(A, &[], &mut show).unwrap();
    let there = |row: &[u8]| Some(row.to_vec());
    assert_eq!(got, [(0, there(b"c")), (1, None), (2, there(b"a")), (3, there(b"c"))]);
}

fn a_scan_visits_its_range_in_order(subject: &Subject) {
    let mut backend = subject.backend();
    for key in [&b"b"[..], b"a\xff", b"c", b"a", b"", b"bb"] {
        subject.put(&mut *backend, A, key, key);
    }
    let keys = |start: &[u8], end: &[u8]| -> Vec<Vec<u8>> {
        rows(&*backend, A, start, end).unwrap().into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(keys(b"", b"\xff"), [&b""[..], b"a", b"a\xff", b"b", b"bb", b"c"]);
    assert_eq!(keys(b"a", b"bb"), [&b"a"[..], b"a\xff", b"b"]);
    assert_eq!(keys(b"a\0", b"b"), [b"a\xff"]);
    assert_eq!(keys(b"b", b"b").len(), 0);
    assert_eq!(keys(b"c", b"a").len(), 0);
    assert_eq!(keys(b"", b"").len(), 0);
}

fn a_scan_ends_when_the_visitor_breaks(subject: &Subject) {
    let mut backend = subject.backend();
    for key in [b"a", b"b", b"c"] {
        subject.put(&mut *backend, A, key, key);
    }
    let mut visited = Vec::new();
    let scanned = backend.scan(A, b"a", b"z", &mut |key, _| {
        visited.push(key.to_vec());
        if visited.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    scanned.unwrap();
    assert_eq!(visited, [b"a", b"b"]);
}

fn a_range_is_deleted_to_its_end(subject: &Subject) {
    let mut backend = subject.backend();
    for key in [b"a", b"b", b"c", b"d"] {
        subject.put(&mut *backend, A, key, key);
    }
    subject.write(&mut *backend, |writes| {
        writes.delete_range(A, b"b", b"d");
        writes.delete_range(A, b"d", b"d");
        writes.delete_range(A, b"z", b"a");
    });
    let left: Vec<Vec<u8>> = rows(&*backend, A, b"", b"z").unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!(left, [b"a", b"d"]);
    assert_eq!(get(&*backend, A, b"b"), None);
}

fn a_batch_applies_in_its_order(subject: &Subject) {
    let mut backend = subject.backend();
    subject.put(&mut *backend, A, b"stays", b"1");
    subject.write(&mut *backend, |writes| {
        put(writes, A, b"gone", b"1");
        writes.delete(A, b"gone");
        writes.delete(A, b"back");
        put(writes, A, b"back", b"1");
        put(writes, A, b"back", b"2");
        put(writes, A, b"range1", b"1");
        writes.delete_range(A, b"range", b"range9");
        put(writes, A, b"range2", b"2");
    });
    let rows = rows(&*backend, A, b"", b"z").unwrap();
    let expected = [("back", "2"), ("range2", "2"), ("stays", "1")];
    assert_eq!(rows, expected.map(|(key, row)| (key.as_bytes().to_vec(), row.as_bytes().to_vec())));
    backend.write(&Writes::default(), subject.logging).unwrap();
}

fn tables_are_separate(subject: &Subject) {
    let mut backend = subject.backend();
    subject.write(&mut *backend, |writes| {
        for (table, value) in [(TableId::SHARD, "shard"), (A, "a"), (B, "b")] {
            put(writes, table, b"k", value);
        }
        writes.delete_range(A, b"", b"z");
    });
    assert_eq!(backend.tables().iter().map(|table| table.id).collect::<Vec<_>>(), [TableId::SHARD, A, B]);
    assert_eq!(get(&*backend, TableId::SHARD, b"k").as_deref(), Some(&b"shard"[..]));
    assert_eq!(get(&*backend, A, b"k"), None);
    assert_eq!(get(&*backend, B, b"k").as_deref(), Some(&b"b"[..]));
}

fn a_table_unknown_is_an_error(subject: &Subject) {
    let mut backend = subject.backend();
    let unknown = TableId(99);
    let mut writes = Writes::default();
    put(&mut writes, A, b"k", b"v");
    put(&mut writes, unknown, b"k", b"v");
    let is_no_table = |err| matches!(err, Error::NoTable(id) if id == unknown);
    assert!(is_no_table(backend.write(&writes, subject.logging).unwrap_err()));
    assert!(is_no_table(backend.get(unknown, b"k").unwrap_err()));
    assert!(is_no_table(backend.multi_get(unknown, &[b"k"], &mut |_, _| {}).unwrap_err()));
    assert!(is_no_table(rows(&*backend, unknown, b"", b"z").unwrap_err()));
    assert_eq!(get(&*backend, A, b"k"), None, "half a batch was applied");
}

fn a_table_made_twice_is_left_as_it_is(subject: &Subject) {
    let mut backend = subject.backend();
    subject.put(&mut *backend, A, b"k", b"v");
    backend.create_table(Table { id: A, merge: None }).unwrap();
    backend.create_table(Table { id: A, merge: Some(MergeFunction::Count) }).unwrap();
    backend.create_table(Table { id: TableId::SHARD, merge: Some(MergeFunction::Count) }).unwrap();
    assert_eq!(get(&*backend, A, b"k").as_deref(), Some(&b"v"[..]));
    subject.put(&mut *backend, A, b"k", b"a row without a header");
    assert_eq!(backend.tables().iter().map(|table| table.id).collect::<Vec<_>>(), [TableId::SHARD, A, B]);
}

/// Adds a merge of a `f64` or `u64` operand.
fn merge(writes: &mut Writes, table: TableId, write_ms: i64, deadline_ms: Option<i64>, operand: [u8; 8]) {
    let header = Header { write_ms, deadline_ms, version: None };
    writes.merge(table, b"k", |arena| row::encode(&header, &operand, arena));
}

fn merged(backend: &dyn Backend, table: TableId) -> (Header, [u8; 8]) {
    let row = get(backend, table, b"k").unwrap();
    let (header, payload) = row::decode(&row).unwrap();
    (header, payload.try_into().unwrap())
}

/// A positive float in its codec.
fn float(value: f64) -> [u8; 8] {
    (value.to_bits() | 1 << 63).to_be_bytes()
}

fn merges_fold_in_order(subject: &Subject) {
    let mut backend = subject.backend();
    let tables = [(3, MergeFunction::SumF64), (4, MergeFunction::BitXor), (5, MergeFunction::Count)];
    for (id, function) in tables {
        backend.create_table(Table { id: TableId(id), merge: Some(function) }).unwrap();
    }
    let mut sum = 0.0;
    for round in 0..40_u32 {
        subject.write(&mut *backend, |writes| {
            for i in 0..5 {
                // Values so unequal that another order would give another sum.
                let term = f64::from(round * 5 + i).exp2().sqrt() / 3.0;
                sum += term;
                merge(writes, TableId(3), i64::from(round), None, float(term));
                merge(writes, TableId(4), i64::from(round), None, u64::from(round * i).to_be_bytes());
                merge(writes, TableId(5), i64::from(round), None, *b"whatever");
            }
        });
        // Files of their own for some of the operands, where the backend has files.
        if round % 8 == 3 {
            subject.freeze(&mut *backend, &format!("frozen{round}"));
        }
    }
    assert_eq!(merged(&*backend, TableId(3)), (Header { write_ms: 39, ..Header::default() }, float(sum)));
    let xor = (0..40).flat_map(|round| (0..5).map(move |i| round * i)).fold(0_u64, |a, b| a ^ b);
    assert_eq!(merged(&*backend, TableId(4)).1, xor.to_be_bytes());
    assert_eq!(merged(&*backend, TableId(5)).1, (200_u64 | 1 << 63).to_be_bytes());
    subject.write(&mut *backend, |writes| {
        writes.delete(TableId(4), b"k");
        merge(writes, TableId(4), 50, None, [1; 8]);
        merge(writes, TableId(4), 51, None, [2; 8]);
    });
    assert_eq!(merged(&*backend, TableId(4)), (Header { write_ms: 51, ..Header::default() }, [3; 8]));
}

fn merges_drop_what_has_expired_by_stored_times(subject: &Subject) {
    let mut backend = subject.backend();
    let table = TableId(3);
    backend.create_table(Table { id: table, merge: Some(MergeFunction::BitOr) }).unwrap();
    let bit = |i: u32| (1_u64 << i).to_be_bytes();
    subject.write(&mut *backend, |writes| merge(writes, table, 0, Some(10), bit(0)));
    subject.freeze(&mut *backend, "frozen");
    subject.write(&mut *backend, |writes| {
        merge(writes, table, 9, Some(10), bit(1));
        merge(writes, table, 10, Some(20), bit(2));
        merge(writes, table, 19, Some(30), bit(3));
    });
    let header = Header { write_ms: 19, deadline_ms: Some(30), version: None };
    assert_eq!(merged(&*backend, table), (header, 0b1100_u64.to_be_bytes()));
}

fn a_refused_batch_changes_nothing(subject: &Subject) {
    let mut backend = subject.backend();
    let reducing = TableId(3);
    backend.create_table(Table { id: reducing, merge: Some(MergeFunction::BitOr) }).unwrap();
    subject.put(&mut *backend, A, b"k", b"v");
    let before = content(&*backend).unwrap();
    let bad: [fn(&mut Writes); 3] = [
        |writes| writes.merge(A, b"k", |arena| row::encode(&Header::default(), &[1; 8], arena)),
        |writes| writes.merge(TableId(3), b"k", |arena| arena.extend(b"no header")),
        |writes| put(writes, TableId(3), b"k", b""),
    ];
    for bad in bad {
        let mut writes = Writes::default();
        put(&mut writes, A, b"k", b"changed");
        bad(&mut writes);
        assert!(matches!(backend.write(&writes, subject.logging), Err(Error::Refused { .. })));
        assert_eq!(content(&*backend).unwrap(), before);
    }
}
