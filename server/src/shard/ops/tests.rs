//! What every kind promises of its writes.

use bytes::Bytes;
use forebay_proto::{
    key_group::{KeyGroup, MaxParallelism},
    packed_list,
};

use super::*;
use crate::{
    shard::ttl::Clocks,
    storage::{Read, Result, TableId, Visitor},
};

/// Rows that nobody may look at.
struct Sealed;

impl Read for Sealed {
    fn get(&self, table: TableId, _: &[u8]) -> Result<Option<Bytes>> {
        panic!("a row of table {table} is read")
    }

    fn scan(&self, table: TableId, _: &[u8], _: &[u8], _: Visitor<'_>) -> Result<()> {
        panic!("rows of table {table} are read")
    }
}

fn state(kind: StateKind, function: &str) -> State {
    let descriptor = v1::StateDescriptor {
        name: "s".into(),
        kind: kind.into(),
        function: function.into(),
        ttl: Some(v1::TtlConfig { ttl: Some(prost_types::Duration { seconds: 1, nanos: 0 }), ..Default::default() }),
        ..Default::default()
    };
    let registered = v1::RegisteredState { id: 1, descriptor: Some(descriptor), ..Default::default() };
    State::of(&registered).unwrap()
}

#[test]
fn puts_appends_and_adds_never_read() {
    let clocks = Clocks { processing_ms: 1, watermark_ms: None, writer_ms: 1 };
    let all = packed_list::pack(["a", "b"]);
    let pair = packed_list::pack(["by", "value"]);
    let number = [0x80, 0, 0, 0, 0, 0, 0, 1];
    let cases: [(StateKind, &str, OpKind, &[u8]); 11] = [
        (StateKind::Value, "", OpKind::ValuePut, b"v"),
        (StateKind::List, "", OpKind::ListAppend, b"v"),
        (StateKind::List, "", OpKind::ListAppendAll, &all),
        (StateKind::Map, "", OpKind::MapPut, b"v"),
        (StateKind::Map, "", OpKind::MapRemove, b""),
        (StateKind::Multimap, "", OpKind::MultimapAppend, b"v"),
        (StateKind::Reducing, "sum_f64", OpKind::ReducingAdd, &number),
        (StateKind::Aggregating, "count_distinct", OpKind::AggregatingAdd, b"v"),
        (StateKind::Aggregating, "min_by", OpKind::AggregatingAdd, &pair),
        (StateKind::SortedSet, "", OpKind::SortedSetAdd, b""),
        (StateKind::SortedSet, "", OpKind::SortedSetRemove, b""),
    ];
    for (kind, function, op, value) in cases {
        let state = state(kind, function);
        let key: &[u8] = if kind == StateKind::SortedSet { b"" } else { b"k" };
        let has_map_key = matches!(kind, StateKind::Map | StateKind::Multimap | StateKind::SortedSet);
        let map_key: &[u8] = if has_map_key { b"m" } else { b"" };
        let op = Op::new(op, 1, key).with_map_key(map_key).with_value(value);
        let (mut writes, mut counters, mut verdicts) = (Writes::default(), Counters::default(), Vec::new());
        let mut context = WriteContext {
            rows: Rows { read: &Sealed, clocks },
            writes: &mut writes,
            counters: &mut counters,
            index: 0,
            verdicts: &mut verdicts,
            row_key: &mut Vec::new(),
        };
        let group = KeyGroup::new(7, MaxParallelism::DEFAULT).unwrap();
        write(Placed { op, state: &state, group }, &mut context).unwrap();
        assert!(writes.iter().count() > 0, "{:?} writes nothing", op.kind);
    }
}
