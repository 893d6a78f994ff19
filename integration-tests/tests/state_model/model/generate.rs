//! Random steps: few keys, namespaces, map keys and values, so that they meet.

use forebay_integration_tests::conformance::OwnedOp;
use forebay_proto::{
    codec::{Codec as _, F64, I64},
    packed_list,
    v1::{OpKind, StateKind, TtlClock},
};
use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::{select, subsequence},
};
use proptest_state_machine::ReferenceStateMachine;

use super::{Model, Spec, Step};

/// Keys.
pub const KEYS: [&[u8]; 2] = [b"k", b"k\0"];
/// Namespaces.
pub const NAMESPACES: [&[u8]; 3] = [b"", b"w", b"\xff"];
/// Map keys.
pub const MAP_KEYS: [&[u8]; 6] = [b"", b"\0", b"a", b"a\0", b"b", b"\xff"];
/// Key groups of sorted sets.
pub const GROUPS: [u16; 2] = [0, 127];

const VALUES: [&[u8]; 4] = [b"", b"1", b"2", b"\0"];

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        // Few states at a time, so that operations meet.
        let all = Self::default().focus;
        subsequence(all, 1..4).prop_map(|focus| Self { focus, ..Self::default() }).boxed()
    }

    fn transitions(model: &Self) -> BoxedStrategy<Step> {
        let watermark_ms = model.stored.watermark_ms.unwrap_or(1000);
        prop_oneof![
            24 => vec(write(model), 1..6).prop_map(Step::Write),
            8 => vec(read(model), 1..6).prop_map(Step::Read),
            4 => (1..70_i64).prop_map(Step::Advance),
            4 => (1..70_i64).prop_map(Step::WriterAdvance),
            4 => (-10..70_i64).prop_map(move |ms| Step::Watermark(watermark_ms + ms)),
            4 => Just(Step::Compact),
            1 => Just(Step::CleanUp),
            2 => (0..4_usize).prop_map(Step::Resend),
            1 => Just(Step::WrongNumbers),
            1 => Just(Step::Snapshot),
            1 => Just(Step::Restore),
            1 => Just(Step::Reopen),
            1 => ttl(model),
        ]
        .boxed()
    }

    fn apply(mut model: Self, step: &Step) -> Self {
        model.step(step);
        model
    }

    fn preconditions(model: &Self, step: &Step) -> bool {
        model.can(step)
    }
}

/// TTL is switched off on the processing clock only: a descriptor without TTL names no clock.
fn ttl(model: &Model) -> impl Strategy<Value = Step> + use<> {
    (select(model.focus.clone()), option::of(10..90_i64)).prop_map(|(id, ttl_ms)| {
        let by_processing = Spec::of(id).clock == TtlClock::Processing;
        Step::Ttl(id, if by_processing { ttl_ms } else { Some(ttl_ms.unwrap_or(50)) })
    })
}

fn bytes(of: &'static [&'static [u8]]) -> impl Strategy<Value = Vec<u8>> {
    select(of).prop_map(<[u8]>::to_vec)
}

/// An operation on some state, with its place.
fn placed(model: &Model) -> impl Strategy<Value = OwnedOp> + use<> {
    let keys = prop_oneof![3 => Just(KEYS[0].to_vec()), 1 => Just(KEYS[1].to_vec())];
    (select(model.focus.clone()), keys, bytes(&NAMESPACES), select(&GROUPS)).prop_map(
        |(state_id, key, namespace, group)| {
            if Spec::of(state_id).kind == StateKind::SortedSet {
                return OwnedOp { state_id, key_group: Some(group), ..OwnedOp::default() };
            }
            OwnedOp { state_id, key, namespace, ..OwnedOp::default() }
        },
    )
}

fn write(model: &Model) -> impl Strategy<Value = OwnedOp> + use<> {
    let (placed, model, writes) = (placed(model), model.clone(), model.stored.writes);
    let parts = (
        any::<prop::sample::Index>(),
        bytes(&MAP_KEYS),
        bytes(&MAP_KEYS),
        vec(bytes(&VALUES), 0..4),
        vec(bytes(&NAMESPACES), 0..4),
        option::weighted(0.15, -20..90_i64),
        -3..4_i64,
    );
    (placed, parts, 0..=writes + 1).prop_map(
        move |(op, (which, map_key, end, values, namespaces, expires, number), version)| {
            let spec = Spec::of(op.state_id);
            let kinds = writes_of(spec.kind);
            let kind = kinds[which.index(kinds.len())];
            let first = values.first().cloned().unwrap_or_default();
            let base = model.now_ms(op.state_id).unwrap_or(1000);
            let value = match kind {
                OpKind::ValueCas => packed_list::cas_value(&first, values.get(1).map_or(b"2", |value| value)),
                OpKind::ListAppendAll | OpKind::ListPut => packed_list::pack(&values),
                OpKind::MapClearRange => end,
                OpKind::MergeNamespaces => packed_list::pack(&namespaces),
                OpKind::ReducingAdd | OpKind::AggregatingAdd => operand(spec.function, number, &first),
                _ => first,
            };
            let has_map_key = matches!(spec.kind, StateKind::Map | StateKind::Multimap | StateKind::SortedSet);
            OwnedOp {
                kind,
                map_key: if has_map_key { map_key } else { Vec::new() },
                value,
                expires_at_ms: expires.map(|ms| base + ms),
                version: matches!(kind, OpKind::ValueCasVersion | OpKind::ValueCasVersionClear).then_some(version),
                ..op
            }
        },
    )
}

fn read(model: &Model) -> impl Strategy<Value = OwnedOp> + use<> {
    let parts = (any::<prop::sample::Index>(), bytes(&MAP_KEYS), bytes(&MAP_KEYS), 0..4_u32);
    (placed(model), parts).prop_map(|(op, (which, map_key, end, limit))| {
        let kinds = reads_of(Spec::of(op.state_id).kind);
        let kind = kinds[which.index(kinds.len())];
        let ranged =
            matches!(kind, OpKind::MapEntries | OpKind::MapKeys | OpKind::MultimapKeys | OpKind::SortedSetFirst);
        let named = matches!(kind, OpKind::MapGet | OpKind::MapContains | OpKind::MultimapGet);
        OwnedOp {
            kind,
            map_key: if ranged || named { map_key } else { Vec::new() },
            value: if ranged { end } else { Vec::new() },
            limit,
            ..op
        }
    })
}

fn operand(function: &str, number: i64, value: &[u8]) -> Vec<u8> {
    match function {
        "sum_i64" => I64::to_bytes(&if number == 3 { i64::MAX } else { number }).expect("a number"),
        "sum_f64" => F64::to_bytes(&(number as f64 * 0.1)).expect("a number"),
        "min_by" => packed_list::pack([&I64::to_bytes(&(number / 2)).expect("a number")[..], value]),
        _ => value.to_vec(),
    }
}

fn writes_of(kind: StateKind) -> &'static [OpKind] {
    use OpKind::*;
    match kind {
        StateKind::Value => {
            &[ValuePut, ValuePut, ValueClear, ValueCas, ValueCasVersion, ValueCasClear, ValueCasVersionClear, Touch]
        }
        StateKind::List => &[ListAppend, ListAppend, ListAppendAll, ListPut, ListClear, MergeNamespaces, Touch],
        StateKind::Map => &[MapPut, MapPut, MapPut, MapRemove, MapClear, MapClearRange, Touch],
        StateKind::Multimap => &[MultimapAppend, MultimapAppend, MultimapAppend, MultimapRemove, MultimapClear, Touch],
        StateKind::Reducing => &[ReducingAdd, ReducingAdd, ReducingAdd, ReducingClear, MergeNamespaces, Touch],
        StateKind::Aggregating => {
            &[AggregatingAdd, AggregatingAdd, AggregatingAdd, AggregatingClear, MergeNamespaces, Touch]
        }
        StateKind::SortedSet | StateKind::Unspecified => &[SortedSetAdd, SortedSetAdd, SortedSetRemove, Touch],
    }
}

fn reads_of(kind: StateKind) -> &'static [OpKind] {
    use OpKind::*;
    match kind {
        StateKind::Value => &[ValueGet],
        StateKind::List => &[ListGet],
        StateKind::Map => &[MapGet, MapContains, MapEntries, MapKeys],
        StateKind::Multimap => &[MultimapGet, MultimapKeys],
        StateKind::Reducing => &[ReducingGet],
        StateKind::Aggregating => &[AggregatingGet],
        StateKind::SortedSet | StateKind::Unspecified => &[SortedSetFirst, SortedSetCount],
    }
}
