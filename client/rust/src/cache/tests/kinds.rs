//! Ranges, deadlines, touches, and the kinds of which the cache keeps little.

use super::*;

const LOGS: u32 = 5;
const SETS: u32 = 6;

/// What a flush sends, as `kind [map key] value @deadline`.
fn sent(unsent: &Unsent) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut lines = Vec::new();
    for (_, ops) in &unsent.batches {
        for op in &Ops::decode(ops).unwrap() {
            let deadline = op.expires_at_ms.map(|ms| format!("@{ms}")).unwrap_or_default();
            let parts = [format!("{:?}", op.kind), text(op.map_key), text(op.value), deadline];
            lines.push(parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" "));
        }
    }
    lines
}

fn flush(cache: &mut Cache) -> Vec<String> {
    let unsent = cache.take_unsent(u64::MAX, LIMITS);
    assert!(!unsent.blocked);
    sent(&unsent)
}

#[test]
fn a_cleared_range_is_known_to_be_empty_and_sent_before_what_came_after_it() {
    let mut cache = cache();
    let maps = at(MAPS, b"a");
    for map_key in ["a", "b", "c"] {
        cache.map_put(maps, bytes(map_key), Some(bytes("old")), 0);
    }
    cache.map_clear_range(maps, bytes("b"), bytes("d"), 0);
    cache.map_put(maps, bytes("c"), Some(bytes("new")), 0);
    assert_eq!(cache.map_entry(maps, b"b"), Some(None));
    assert_eq!(cache.map_entry(maps, b"ca"), Some(None), "never heard of, yet known to be absent");
    assert_eq!(cache.map_entry(maps, b"c"), Some(Some(&bytes("new"))));
    assert_eq!(cache.map_entry(maps, b"d"), None);
    assert_eq!(flush(&mut cache), ["MapClearRange b d", "MapPut a old", "MapPut c new"]);
    assert_eq!(cache.map_entry(maps, b"ca"), None, "no longer known");
    assert_eq!(cache.unsent_bytes(), 0);
}

#[test]
fn an_empty_map_is_known_where_all_or_anything_of_it_is() {
    let mut cache = cache();
    let maps = at(MAPS, b"a");
    cache.map_put(maps, bytes("gone"), None, 0);
    assert_eq!(cache.map_is_empty(maps), None);
    cache.map_put(maps, bytes("there"), Some(bytes("")), 0);
    assert_eq!(cache.map_is_empty(maps), Some(false));
    cache.map_clear(maps, 0);
    assert_eq!(cache.map_is_empty(maps), Some(true));
}

#[test]
fn writes_are_sent_with_the_deadline_they_were_made_with() {
    let mut cache = cache();
    cache.value_put_until(at(VALUES, b"a"), Some(b"v"), Some(70), 0);
    cache.map_put_until(at(MAPS, b"a"), bytes("m"), Some(bytes("v")), Some(71), 0);
    cache.map_put_until(at(MAPS, b"a"), bytes("n"), None, Some(71), 0);
    cache.list_append_until(at(LISTS, b"a"), [bytes("e")], Some(72), 0);
    assert_eq!(cache.value_until(at(VALUES, b"a")), Some((Some(&b"v"[..]), Some(70))));
    assert_eq!(flush(&mut cache), ["ValuePut v @70", "MapPut m v @71", "MapRemove n", "ListAppend e @72"]);
}

#[test]
fn an_expired_entry_is_absent_and_an_unsent_one_is_sent_as_a_clear() {
    let mut cache = cache();
    let (value, maps) = (at(VALUES, b"a"), at(MAPS, b"a"));
    let reading = cache.read_value(value);
    cache.fill_value_until(reading, Some(b"v"), Some(70));
    let reading = cache.read_map(maps);
    cache.fill_map_entry_until(reading, bytes("m"), Some(bytes("v")), Some(70));
    cache.value_expire(value);
    cache.map_expire(maps, b"m");
    assert_eq!(cache.value_until(value), Some((None, None)));
    assert_eq!(cache.map_entry(maps, b"m"), Some(None));
    assert!(flush(&mut cache).is_empty(), "the shard knows by itself");
    cache.value_put_until(value, Some(b"v"), Some(70), 0);
    cache.map_put_until(maps, bytes("m"), Some(bytes("v")), Some(70), 0);
    cache.value_expire(value);
    cache.map_expire(maps, b"m");
    assert_eq!(flush(&mut cache), ["ValueClear", "MapRemove m"], "an older one may live longer");
}

#[test]
fn a_touch_is_sent_once_and_not_beside_a_write() {
    let mut cache = cache();
    let (value, maps) = (at(VALUES, b"a"), at(MAPS, b"a"));
    cache.value_touch(value, 80, 0);
    cache.map_touch(maps, b"m", 80, 0);
    assert!(flush(&mut cache).is_empty(), "what is not known is not touched");
    cache.value_put_until(value, Some(b"v"), Some(70), 0);
    cache.value_touch(value, 80, 0);
    for map_key in ["", "m"] {
        cache.map_put_until(maps, bytes(map_key), Some(bytes("v")), Some(70), 0);
    }
    assert_eq!(flush(&mut cache), ["ValuePut v @80", "MapPut v @70", "MapPut m v @70"]);
    cache.value_touch(value, 90, 0);
    cache.map_touch(maps, b"", 90, 0);
    cache.map_touch(maps, b"m", 90, 0);
    assert_eq!(flush(&mut cache), ["Touch @90", "MapPut v @90", "Touch m @90"], "a touch names its entry");
    assert_eq!(cache.map_entry_until(maps, b"m"), Some((Some(&bytes("v")), Some(90))));
    assert!(flush(&mut cache).is_empty());
}

#[test]
fn a_touch_of_everything_moves_the_deadlines_of_what_is_alive() {
    let mut cache = cache();
    let maps = at(MAPS, b"a");
    for (map_key, deadline_ms) in [("alive", 70), ("expired", 50)] {
        let reading = cache.read_map(maps);
        cache.fill_map_entry_until(reading, bytes(map_key), Some(bytes("v")), Some(deadline_ms));
    }
    let reading = cache.read_map(maps);
    cache.touch(&reading, 160, 60, 0);
    assert!(cache.take_unsent(u64::MAX, LIMITS).blocked, "it goes behind the read");
    cache.cancel(reading);
    assert_eq!(flush(&mut cache), ["Touch @160"]);
    assert_eq!(cache.map_entry_until(maps, b"alive").unwrap().1, Some(160));
    assert_eq!(cache.map_entry_until(maps, b"expired").unwrap().1, Some(50));
}

#[test]
fn a_result_is_known_until_something_is_added() {
    let mut cache = cache();
    let state = at(SUMS, b"a");
    cache.aggregating_add(state, bytes("1"), None, 0);
    assert_eq!(cache.aggregating(state), None);
    assert_eq!(flush(&mut cache), ["AggregatingAdd 1"]);
    let reading = cache.read_aggregating(state);
    cache.aggregating_add(state, bytes("2"), Some(7), 0);
    cache.fill_aggregating(reading, Some(bytes("result")));
    assert_eq!(cache.aggregating(state), None, "the answer does not hold the second");
    assert_eq!(flush(&mut cache), ["AggregatingAdd 2 @7"]);
    assert_eq!(cache.aggregating(state), None);
    let reading = cache.read_aggregating(state);
    cache.fill_aggregating(reading, Some(bytes("result")));
    assert_eq!(cache.aggregating(state), Some(Some(&bytes("result"))));
    cache.aggregating_add(state, bytes("3"), None, 0);
    cache.aggregating_clear(state, 0);
    assert_eq!(cache.aggregating(state), Some(None));
    assert_eq!(flush(&mut cache), ["AggregatingClear"]);
}

#[test]
fn a_log_is_sent_in_order_and_a_clear_makes_it_void() {
    let mut cache = cache();
    let append = |map_key: &str, value: &str| {
        let (map_key, value) = (bytes(map_key), bytes(value));
        Logged { kind: OpKind::MultimapAppend, map_key, value, deadline_ms: None }
    };
    cache.log(at(LOGS, b"a"), append("m", "1"), 0);
    cache.log(at(LOGS, b"a"), append("n", "2"), 0);
    cache.log(at(LOGS, b"a"), append("m", "3"), 0);
    assert_eq!(flush(&mut cache), ["MultimapAppend m 1", "MultimapAppend n 2", "MultimapAppend m 3"]);
    assert_eq!(cache.bytes(), 0, "nothing is kept");
    cache.log(at(LOGS, b"a"), append("m", "1"), 0);
    cache.log_clear(at(LOGS, b"a"), OpKind::MultimapClear, 0);
    cache.log(at(LOGS, b"a"), append("m", "2"), 0);
    assert_eq!(flush(&mut cache), ["MultimapClear", "MultimapAppend m 2"]);
}

#[test]
fn the_last_word_on_an_element_of_a_set_is_sent() {
    let mut cache = cache();
    let group = 300_u16.to_be_bytes();
    let set = At { state: SETS, key: b"", namespace: &group, shard: 0, key_group: Some(300) };
    for (element, there) in [("a", true), ("b", true), ("a", false), ("a", true), ("b", false)] {
        cache.set_put(set, bytes(element), there, 0);
    }
    let unsent = cache.take_unsent(u64::MAX, LIMITS);
    assert_eq!(sent(&unsent), ["SortedSetAdd a", "SortedSetRemove b"]);
    for op in &Ops::decode(&unsent.batches[0].1).unwrap() {
        assert_eq!((op.key, op.namespace, op.key_group), (&b""[..], &b""[..], Some(300)));
    }
    assert_eq!((cache.bytes(), cache.unsent_bytes()), (0, 0));
}

#[test]
fn entries_may_be_sent_ahead_of_others() {
    let mut cache = cache();
    for key in [b"a", b"c", b"e"] {
        cache.value_put(at(VALUES, key), Some(b"1"), 5);
    }
    let reading = cache.read_value(at(VALUES, b"e"));
    let unsent = cache.take_unsent_of(&[at(VALUES, b"c"), at(VALUES, b"e")], LIMITS);
    assert!(unsent.blocked && sent(&unsent).len() == 1);
    cache.cancel(reading);
    cache.value_put(at(VALUES, b"c"), Some(b"2"), 9);
    let unsent = cache.take_unsent(5, LIMITS);
    assert_eq!(sent(&unsent).len(), 2, "the later write has a place of its own, behind the others");
    assert_eq!(flush(&mut cache), ["ValuePut 2"]);
}

#[test]
fn forgetting_what_comes_again_leaves_nothing_behind() {
    let mut cache = cache();
    for round in 0..10_000 {
        cache.value_put(at(VALUES, b"a"), Some(b"1"), round);
        flush(&mut cache);
        cache.forget_known(at(VALUES, b"a"));
        assert_eq!(cache.value(at(VALUES, b"a")), None);
    }
    assert!(cache.clock.len() < 2_000, "{}", cache.clock.len());
    assert_eq!(cache.bytes(), 0);
}
