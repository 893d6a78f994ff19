//! The cache by itself, and against a shard that applies what it sends, under many seeds.

use forebay_proto::{codec::Codec, codec::I64, packed::Ops, packed_list, v1::OpKind};
use rand::{Rng, SeedableRng, rngs::StdRng};

mod kinds;

use std::collections::BTreeMap;

use super::*;
use bytes::Bytes;
use forebay_proto::merge::MergeFunction;

const LIMITS: BatchLimits = BatchLimits { ops_max: 100, bytes: 1 << 20, batches_max: usize::MAX };
const VALUES: u32 = 1;
const LISTS: u32 = 2;
const MAPS: u32 = 3;
const SUMS: u32 = 4;

fn at(state: u32, key: &[u8]) -> At<'_> {
    let shard = usize::from(key.last().is_some_and(|last| last % 2 == 1));
    At { state, key, namespace: b"", shard, key_group: None }
}

fn cache() -> Cache {
    Cache::new(1 << 20, HashSet::new())
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn number(number: i64) -> Vec<u8> {
    I64::to_bytes(&number).unwrap()
}

/// What a flush sends, as `shard: kind key [map key] value`.
fn flush(cache: &mut Cache) -> Vec<String> {
    flush_until(cache, u64::MAX)
}

fn flush_until(cache: &mut Cache, until_ms: u64) -> Vec<String> {
    let unsent = cache.take_unsent(until_ms, LIMITS);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut lines = Vec::new();
    for (shard, ops) in &unsent.batches {
        for op in &Ops::decode(ops).unwrap() {
            let parts = [op.key, op.map_key, op.value].map(text);
            let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
            lines.push(format!("{shard}: {:?} {}", op.kind, parts.join(" ")));
        }
    }
    lines
}

#[test]
fn the_same_key_in_two_key_groups_is_two_entries_where_requests_name_the_group() {
    let mut cache = cache();
    let in_group = |group| At { key_group: Some(group), shard: usize::from(group), ..at(VALUES, b"k") };
    cache.value_put(in_group(0), Some(b"zero"), 0);
    cache.value_put(in_group(1), Some(b"one"), 0);
    assert_eq!(cache.value(in_group(0)), Some(Some(&b"zero"[..])));
    assert_eq!(cache.value(in_group(2)), None);
    assert_eq!(flush(&mut cache), ["0: ValuePut k zero", "1: ValuePut k one"]);
}

#[test]
fn a_flush_that_must_go_whole_knows_what_holds_it_back() {
    let mut cache = cache();
    assert_eq!((cache.unsent_since_ms(), cache.is_blocked(), cache.unsent_entries()), (None, false, 0));
    cache.value_put(at(VALUES, b"a"), Some(b"1"), 7);
    cache.value_put(at(VALUES, b"b"), Some(b"2"), 9);
    assert_eq!((cache.unsent_since_ms(), cache.unsent_entries()), (Some(7), 2));
    assert!(cache.is_unsent(at(VALUES, b"a")) && !cache.is_unsent(at(VALUES, b"c")));
    let reading = cache.read_value(at(VALUES, b"b"));
    assert!(cache.is_blocked());
    cache.cancel(reading);
    assert!(!cache.is_blocked());
    flush(&mut cache);
    assert_eq!((cache.unsent_since_ms(), cache.is_unsent(at(VALUES, b"a"))), (None, false));
}

#[test]
fn what_is_too_much_at_once_is_left_for_the_next_time() {
    let mut cache = cache();
    let keys: Vec<_> = (0..25_u8).map(|key| vec![key, 0]).collect();
    keys.iter().for_each(|key| cache.value_put(at(VALUES, key), Some(b"v"), 0));
    let limits = BatchLimits { ops_max: 5, batches_max: 2, ..LIMITS };
    let mut sent = Vec::new();
    loop {
        let unsent = cache.take_unsent(u64::MAX, limits);
        assert!(unsent.batches.len() <= 2 && !unsent.blocked);
        for (_, ops) in &unsent.batches {
            sent.extend(Ops::decode(ops).unwrap().iter().map(|op| op.key.to_vec()));
        }
        if !unsent.more {
            break;
        }
    }
    assert_eq!(sent, keys);
}

#[test]
fn the_last_write_of_a_value_is_sent_once() {
    let mut cache = cache();
    assert_eq!(cache.value(at(VALUES, b"a")), None);
    for value in ["1", "2", "3"] {
        cache.value_put(at(VALUES, b"a"), Some(value.as_bytes()), 0);
    }
    assert_eq!(cache.value(at(VALUES, b"a")), Some(Some(&b"3"[..])));
    cache.value_put(at(VALUES, b"b"), None, 0);
    assert_eq!(flush(&mut cache), ["0: ValueClear b", "1: ValuePut a 3"]);
    assert!(flush(&mut cache).is_empty());
    assert_eq!(cache.value(at(VALUES, b"a")), Some(Some(&b"3"[..])), "still known");
    assert_eq!(cache.value(at(VALUES, b"b")), Some(None));
    assert_eq!(cache.unsent_bytes(), 0);
}

#[test]
fn keys_and_namespaces_do_not_run_together() {
    let mut cache = cache();
    let near = |key, namespace| At { namespace, ..at(VALUES, key) };
    cache.value_put(near(b"ab", b"c"), Some(b"1"), 0);
    assert_eq!(cache.value(near(b"a", b"bc")), None);
    assert_eq!(cache.value(near(b"ab", b"c")), Some(Some(&b"1"[..])));
}

#[test]
fn a_list_is_appended_to_without_being_read() {
    let mut cache = cache();
    cache.list_append(at(LISTS, b"b"), [bytes("x")], 0);
    assert!(cache.list(at(LISTS, b"b")).is_none());
    assert_eq!(flush(&mut cache), ["0: ListAppend b x"]);
    assert_eq!(cache.bytes(), 0, "nothing is known, so nothing is kept");
    let reading = cache.read_list(at(LISTS, b"b"));
    cache.list_append(at(LISTS, b"b"), [bytes("y")], 0);
    assert!(cache.take_unsent(u64::MAX, LIMITS).blocked, "no write of a key overtakes a read of it");
    cache.fill_list(reading, vec![bytes("x")]);
    assert_eq!(cache.list(at(LISTS, b"b")).unwrap().collect::<Vec<_>>(), ["x", "y"]);
    assert_eq!(flush(&mut cache), ["0: ListAppend b y"]);
    cache.list_put(at(LISTS, b"b"), [], 0);
    cache.list_append(at(LISTS, b"b"), [bytes("z")], 0);
    assert_eq!(cache.list(at(LISTS, b"b")).unwrap().collect::<Vec<_>>(), ["z"]);
    assert_eq!(flush(&mut cache), ["0: ListPut b \u{1}\0\0\0z"]);
    cache.list_put(at(LISTS, b"b"), [], 0);
    assert_eq!(flush(&mut cache), ["0: ListClear b"]);
}

#[test]
fn a_map_knows_what_it_was_told() {
    let mut cache = cache();
    let maps = at(MAPS, b"b");
    cache.map_put(maps, bytes("1"), Some(bytes("x")), 0);
    cache.map_put(maps, bytes("2"), None, 0);
    assert_eq!(cache.map_entry(maps, b"1"), Some(Some(&bytes("x"))));
    assert_eq!(cache.map_entry(maps, b"2"), Some(None));
    assert_eq!(cache.map_entry(maps, b"3"), None);
    assert!(cache.map_entries(maps).is_none());
    let reading = cache.read_map(maps);
    let stored = [("1", "old"), ("2", "old"), ("3", "old")].map(|(key, value)| (bytes(key), bytes(value)));
    cache.fill_map(reading, stored.into());
    let entries: Vec<_> = cache.map_entries(maps).unwrap().map(|(key, value)| (key.clone(), value.clone())).collect();
    assert_eq!(entries, [("1", "x"), ("3", "old")].map(|(key, value)| (bytes(key), bytes(value))));
    assert_eq!(flush(&mut cache), ["0: MapPut b 1 x", "0: MapRemove b 2"]);
    cache.map_clear(maps, 0);
    cache.map_put(maps, bytes("4"), Some(bytes("y")), 0);
    assert_eq!(cache.map_entry(maps, b"1"), Some(None), "a cleared map is known");
    assert_eq!(flush(&mut cache), ["0: MapClear b", "0: MapPut b 4 y"]);
}

#[test]
fn operands_are_folded_where_the_function_allows_it() {
    let mut cache = cache();
    for operand in [1, 2, 3] {
        cache.reducing_add(at(SUMS, b"b"), MergeFunction::SumI64, &number(operand), 0);
        cache.reducing_add(at(SUMS, b"c"), MergeFunction::Count, &number(operand), 0);
    }
    assert_eq!(cache.reducing(at(SUMS, b"b")), None, "what is stored is not known");
    let unsent = cache.take_unsent(u64::MAX, LIMITS);
    let operands: Vec<_> = unsent.batches.iter().map(|(_, ops)| ops.kinds.len()).collect();
    assert_eq!(operands, [1, 3]);
    let reading = cache.read_reducing(at(SUMS, b"b"), MergeFunction::SumI64);
    cache.reducing_add(at(SUMS, b"b"), MergeFunction::SumI64, &number(4), 0);
    cache.fill_reducing(reading, Some(number(6).into()));
    assert_eq!(cache.reducing(at(SUMS, b"b")), Some(Some(number(10))));
    cache.reducing_clear(at(SUMS, b"b"), MergeFunction::SumI64, 0);
    assert_eq!(cache.reducing(at(SUMS, b"b")), Some(None));
}

#[test]
fn a_flush_by_age_takes_the_old_ones() {
    let mut cache = cache();
    cache.value_put(at(VALUES, b"a"), Some(b"1"), 10);
    cache.value_put(at(VALUES, b"b"), Some(b"1"), 20);
    cache.value_put(at(VALUES, b"a"), Some(b"2"), 30);
    assert_eq!(flush_until(&mut cache, 15), ["1: ValuePut a 2"]);
    assert_eq!(flush_until(&mut cache, 30), ["0: ValuePut b 1"]);
}

#[test]
fn the_cache_is_bounded_and_keeps_what_is_unsent() {
    let mut cache = Cache::new(10_000, HashSet::new());
    let keys: Vec<_> = (0..100_u32).map(|key| key.to_be_bytes()).collect();
    for key in &keys {
        cache.value_put(at(VALUES, key), Some(&[0; 100]), 0);
    }
    assert!(cache.wants_flush() && cache.bytes() > 10_000);
    assert_eq!(flush(&mut cache).len(), 100);
    assert!(cache.bytes() <= 10_000);
    let known = |cache: &mut Cache| keys.iter().filter(|key| cache.value(at(VALUES, *key)).is_some()).count();
    let kept = known(&mut cache);
    assert!((10..40).contains(&kept), "{kept}");
    cache.value_put(at(VALUES, &keys[0]), Some(b"unsent"), 0);
    for key in &keys[1..] {
        let reading = cache.read_value(at(VALUES, key));
        cache.fill_value(reading, Some(&[0; 100]));
    }
    assert!(cache.bytes() <= 10_000);
    assert_eq!(cache.value(at(VALUES, &keys[0])), Some(Some(&b"unsent"[..])));
}

#[test]
fn an_uncached_state_is_forgotten_once_it_is_sent() {
    let mut cache = Cache::new(1 << 20, HashSet::from([VALUES]));
    cache.value_put(at(VALUES, b"a"), Some(b"1"), 0);
    assert_eq!(flush(&mut cache), ["1: ValuePut a 1"]);
    assert_eq!(cache.value(at(VALUES, b"a")), None);
    assert_eq!(cache.bytes(), 0);
    let reading = cache.read_value(at(VALUES, b"a"));
    cache.fill_value(reading, Some(b"1"));
    assert_eq!(cache.value(at(VALUES, b"a")), Some(Some(&b"1"[..])));
    cache.forget_uncached(at(VALUES, b"a"));
    assert_eq!(cache.value(at(VALUES, b"a")), None);
    assert_eq!(cache.bytes(), 0);
}

/// What a shard stores.
#[derive(Debug, Default, Clone, PartialEq)]
struct Stored {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    lists: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
    maps: BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>>,
    sums: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Stored {
    fn apply(&mut self, packed: &PackedOps) {
        for op in &Ops::decode(packed).unwrap() {
            let (key, value) = (op.key.to_vec(), op.value.to_vec());
            let list = || packed_list::iter(op.value).map(<[u8]>::to_vec).collect::<Vec<_>>();
            match op.kind {
                OpKind::ValuePut => drop(self.values.insert(key, value)),
                OpKind::ValueClear => drop(self.values.remove(&key)),
                OpKind::ListAppend => self.lists.entry(key).or_default().push(value),
                OpKind::ListAppendAll => self.lists.entry(key).or_default().extend(list()),
                OpKind::ListPut => drop(self.lists.insert(key, list())),
                OpKind::ListClear => drop(self.lists.remove(&key)),
                OpKind::MapPut => drop(self.maps.entry(key).or_default().insert(op.map_key.to_vec(), value)),
                OpKind::MapRemove => drop(self.maps.entry(key).or_default().remove(op.map_key)),
                OpKind::MapClear => drop(self.maps.remove(&key)),
                OpKind::MapClearRange => self.clear_range(&key, op.map_key, op.value),
                OpKind::ReducingAdd => self.add(key, op.value),
                OpKind::ReducingClear => drop(self.sums.remove(&key)),
                other => panic!("{other:?}"),
            }
        }
        self.maps.retain(|_, map| !map.is_empty());
    }

    fn clear_range(&mut self, key: &[u8], start: &[u8], end: &[u8]) {
        let kept = |map_key: &Vec<u8>| map_key.as_slice() < start || (!end.is_empty() && map_key.as_slice() >= end);
        if let Some(map) = self.maps.get_mut(key) {
            map.retain(|map_key, _| kept(map_key));
        }
        self.maps.retain(|_, map| !map.is_empty());
    }

    fn add(&mut self, key: Vec<u8>, operand: &[u8]) {
        let mut out = Vec::new();
        MergeFunction::SumI64.fold(self.sums.get(&key).map(Vec::as_slice), operand, &mut out);
        self.sums.insert(key, out);
    }
}

/// Compares what the cache shows with a model that has no cache; reads are answered late.
fn run(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut cache = Cache::new(random.random_range(500..8_000), HashSet::new());
    let (mut stored, mut model) = (Stored::default(), Stored::default());
    let mut reads: Vec<(Reading, u32, Vec<u8>, Stored)> = Vec::new();
    for step in 0..600 {
        let key = vec![random.random_range(0..6_u8)];
        let value = || bytes(&format!("v{step}"));
        let sub = bytes(["p", "q", "r"][random.random_range(0..3)]);
        match random.random_range(0..17) {
            0 => {
                cache.value_put(at(VALUES, &key), Some(&value()), step);
                model.values.insert(key, value().into());
            }
            1 => {
                cache.value_put(at(VALUES, &key), None, step);
                model.values.remove(&key);
            }
            2 | 3 => {
                cache.list_append(at(LISTS, &key), [value(), bytes("w")], step);
                model.lists.entry(key).or_default().extend([value().into(), b"w".to_vec()]);
            }
            4 => {
                let elements = if random.random() { vec![value()] } else { Vec::new() };
                cache.list_put(at(LISTS, &key), elements.clone(), step);
                model.lists.insert(key, elements.into_iter().map(Vec::from).collect());
                model.lists.retain(|_, list| !list.is_empty());
            }
            5 => {
                cache.map_put(at(MAPS, &key), sub.clone(), Some(value()), step);
                model.maps.entry(key).or_default().insert(sub.into(), value().into());
            }
            6 => {
                cache.map_put(at(MAPS, &key), sub.clone(), None, step);
                model.maps.entry(key).or_default().remove(&*sub);
                model.maps.retain(|_, map| !map.is_empty());
            }
            7 if random.random_bool(0.3) => {
                cache.map_clear(at(MAPS, &key), step);
                model.maps.remove(&key);
            }
            8 => {
                cache.reducing_add(at(SUMS, &key), MergeFunction::SumI64, &number(step as i64), step);
                model.add(key, &number(step as i64));
            }
            9 if random.random_bool(0.3) => {
                cache.reducing_clear(at(SUMS, &key), MergeFunction::SumI64, step);
                model.sums.remove(&key);
            }
            10 => {
                let state = random.random_range(1..=4);
                let reading = match state {
                    VALUES => cache.read_value(at(state, &key)),
                    LISTS => cache.read_list(at(state, &key)),
                    MAPS => cache.read_map(at(state, &key)),
                    _ => cache.read_reducing(at(state, &key), MergeFunction::SumI64),
                };
                reads.push((reading, state, key, stored.clone()));
            }
            11 if !reads.is_empty() => {
                let (reading, state, key, then) = reads.swap_remove(random.random_range(0..reads.len()));
                // The answer may be a late one, so it may know of what was sent since; not of this key, though.
                let now = if random.random() { &stored } else { &then };
                match state {
                    _ if random.random_bool(0.1) => cache.cancel(reading),
                    VALUES => cache.fill_value(reading, now.values.get(&key).map(|value| &value[..])),
                    LISTS => {
                        let list = now.lists.get(&key).cloned().unwrap_or_default();
                        cache.fill_list(reading, list.into_iter().map(Bytes::from).collect());
                    }
                    MAPS if random.random() => {
                        let found = now.maps.get(&key).and_then(|map| map.get(&*sub)).cloned();
                        cache.fill_map_entry(reading, sub.clone(), found.map(Bytes::from));
                    }
                    MAPS => {
                        let map = now.maps.get(&key).cloned().unwrap_or_default();
                        let pair = |(key, value): (Vec<u8>, Vec<u8>)| (Bytes::from(key), Bytes::from(value));
                        cache.fill_map(reading, map.into_iter().map(pair).collect());
                    }
                    _ => cache.fill_reducing(reading, now.sums.get(&key).cloned().map(Bytes::from)),
                }
            }
            12 => {
                let until = if random.random() { step } else { step.saturating_sub(50) };
                for (_, ops) in cache.take_unsent(until, LIMITS).batches {
                    stored.apply(&ops);
                }
            }
            13 => {
                let end = if random.random() { bytes("r") } else { Bytes::new() };
                cache.map_clear_range(at(MAPS, &key), sub.clone(), end.clone(), step);
                model.clear_range(&key, &sub, &end);
            }
            14 => {
                let state = random.random_range(1..=4);
                let unsent = cache.take_unsent_of(&[at(state, &key)], LIMITS);
                assert_eq!(unsent.blocked && unsent.batches.is_empty(), unsent.blocked, "seed {seed}");
                unsent.batches.iter().for_each(|(_, ops)| stored.apply(ops));
            }
            15 => cache.forget_known(at(random.random_range(1..=4), &key)),
            _ => check(&mut cache, &model, seed),
        }
    }
    check(&mut cache, &model, seed);
    reads.into_iter().for_each(|(reading, ..)| cache.cancel(reading));
    let unsent = cache.take_unsent(u64::MAX, LIMITS);
    assert!(!unsent.blocked);
    unsent.batches.iter().for_each(|(_, ops)| stored.apply(ops));
    assert_eq!(stored, model, "seed {seed}: everything was sent");
    check(&mut cache, &model, seed);
    assert_eq!(cache.unsent_bytes(), 0, "seed {seed}");
    assert!(cache.bytes() <= 8_000, "seed {seed}");
}

/// Whatever the cache claims to know is as if it were not there.
fn check(cache: &mut Cache, model: &Stored, seed: u64) {
    for key in (0..6_u8).map(|key| vec![key]) {
        if let Some(value) = cache.value(at(VALUES, &key)) {
            assert_eq!(value, model.values.get(&key).map(Vec::as_slice), "seed {seed}");
        }
        if let Some(list) = cache.list(at(LISTS, &key)) {
            let list: Vec<_> = list.map(|item| item.to_vec()).collect();
            assert_eq!(list, model.lists.get(&key).cloned().unwrap_or_default(), "seed {seed}");
        }
        let map = model.maps.get(&key).cloned().unwrap_or_default();
        for sub in [&b"p"[..], b"q", b"r"] {
            if let Some(value) = cache.map_entry(at(MAPS, &key), sub) {
                assert_eq!(value.map(|value| &value[..]), map.get(sub).map(Vec::as_slice), "seed {seed}");
            }
        }
        if let Some(entries) = cache.map_entries(at(MAPS, &key)) {
            let entries: BTreeMap<_, _> = entries.map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
            assert_eq!(entries, map, "seed {seed}");
        }
        if let Some(sum) = cache.reducing(at(SUMS, &key)) {
            assert_eq!(sum, model.sums.get(&key).cloned(), "seed {seed}");
        }
    }
}

#[test]
fn the_cache_shows_what_would_be_there_without_it_under_any_seed() {
    (0..2_000).for_each(run);
}
