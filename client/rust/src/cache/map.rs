//! Maps in the cache: entries that are known, and what is to be sent of them.
//!
//! What is unsent goes out as a clear, then cleared ranges, then entries; so an entry that is written after
//! its range was cleared is there, and one that was written before has been dropped.

use std::collections::BTreeMap;

use bytes::Bytes;
use forebay_proto::{packed::Op, v1::OpKind};

use super::{
    At, Cache, Reading,
    body::{Body, ITEM_BYTES, Unsent},
};

#[derive(Debug, Default)]
pub(super) struct Map {
    cells: BTreeMap<Bytes, Cell>,
    /// True if a map key without a cell is known to be absent.
    complete: bool,
    /// True if a clear is to be sent before the cells.
    cleared: bool,
    /// Ranges that are to be cleared before the cells are sent; an empty end is none.
    ranges: Vec<(Bytes, Bytes)>,
    bytes: usize,
    unsent_bytes: usize,
}

#[derive(Debug, Default)]
struct Cell {
    value: Option<Bytes>,
    deadline_ms: Option<i64>,
    unsent: Unsent,
}

impl Cache {
    /// Returns an entry of a map (`Some(None)`: absent); `None` if it is not known.
    pub fn map_entry(&mut self, at: At<'_>, map_key: &[u8]) -> Option<Option<&Bytes>> {
        self.map_entry_until(at, map_key).map(|(value, _)| value)
    }

    /// Returns an entry of a map and its deadline, by the state's clock.
    pub fn map_entry_until(&mut self, at: At<'_>, map_key: &[u8]) -> Option<(Option<&Bytes>, Option<i64>)> {
        match self.find(at)? {
            Body::Map(map) => map.entry(map_key),
            _ => None,
        }
    }

    /// Returns all entries of a map by map key; `None` if not all are known.
    pub fn map_entries(&mut self, at: At<'_>) -> Option<impl Iterator<Item = (&Bytes, &Bytes)>> {
        match self.find(at)? {
            Body::Map(map) => map.entries(),
            _ => None,
        }
    }

    /// Tells whether a map is empty; `None` if that is not known.
    pub fn map_is_empty(&mut self, at: At<'_>) -> Option<bool> {
        match self.find(at)? {
            Body::Map(map) => map.is_empty(),
            _ => None,
        }
    }

    /// Writes an entry of a map; `None` removes it.
    pub fn map_put(&mut self, at: At<'_>, map_key: Bytes, value: Option<Bytes>, now_ms: u64) {
        self.map_put_until(at, map_key, value, None, now_ms);
    }

    /// Writes an entry that has a deadline, by the state's clock.
    pub fn map_put_until(
        &mut self,
        at: At<'_>,
        map_key: Bytes,
        value: Option<Bytes>,
        deadline_ms: Option<i64>,
        now_ms: u64,
    ) {
        self.write(at, now_ms, empty, |body| {
            if let Body::Map(map) = body {
                map.unsent_bytes += cell_bytes(&map_key, value.as_ref());
                let deadline_ms = deadline_ms.filter(|_| value.is_some());
                map.set(map_key, Cell { value, deadline_ms, unsent: Unsent::Write });
            }
        });
    }

    /// Gives an entry that is known and there another deadline.
    pub fn map_touch(&mut self, at: At<'_>, map_key: &[u8], deadline_ms: i64, now_ms: u64) {
        if self.map_entry(at, map_key).flatten().is_none() {
            return;
        }
        self.write(at, now_ms, empty, |body| {
            if let Body::Map(map) = body {
                map.touch(map_key, deadline_ms);
            }
        });
    }

    /// Makes an entry absent whose deadline has passed; an unsent one is sent as a remove.
    pub fn map_expire(&mut self, at: At<'_>, map_key: &[u8]) {
        self.change(at, |body| {
            if let Body::Map(map) = body
                && let Some(cell) = map.cells.get_mut(map_key)
            {
                map.bytes -= cell.value.take().map_or(0, |value| value.len());
                cell.deadline_ms = None;
            }
        });
    }

    /// Removes all entries of a map.
    pub fn map_clear(&mut self, at: At<'_>, now_ms: u64) {
        self.write(at, now_ms, empty, |body| {
            if let Body::Map(map) = body {
                **map = Map { complete: true, cleared: true, unsent_bytes: ITEM_BYTES, ..Map::default() };
            }
        });
    }

    /// Removes the entries from `start` to `end`, exclusive; an empty end is none.
    pub fn map_clear_range(&mut self, at: At<'_>, start: Bytes, end: Bytes, now_ms: u64) {
        self.write(at, now_ms, empty, |body| {
            if let Body::Map(map) = body {
                map.clear_range(start, end);
            }
        });
    }

    /// Begins a read of a map or of an entry of it.
    pub fn read_map(&mut self, at: At<'_>) -> Reading {
        self.read(at, empty)
    }

    /// Ends a read of an entry of a map.
    pub fn fill_map_entry(&mut self, reading: Reading, map_key: Bytes, value: Option<Bytes>) {
        self.fill_map_entry_until(reading, map_key, value, None);
    }

    /// Ends a read of an entry that has a deadline.
    pub fn fill_map_entry_until(
        &mut self,
        reading: Reading,
        map_key: Bytes,
        value: Option<Bytes>,
        deadline_ms: Option<i64>,
    ) {
        self.fill(reading, |body| {
            if let Body::Map(map) = body {
                map.fill_entry(map_key, value, deadline_ms);
            }
        });
    }

    /// Ends a read of all entries of a map.
    pub fn fill_map(&mut self, reading: Reading, entries: BTreeMap<Bytes, Bytes>) {
        self.fill(reading, |body| {
            if let Body::Map(map) = body {
                for (map_key, value) in entries {
                    map.fill_entry(map_key, Some(value), None);
                }
                map.complete = true;
            }
        });
    }
}

fn empty() -> Body {
    Body::Map(Box::default())
}

impl Map {
    fn entry(&self, map_key: &[u8]) -> Option<(Option<&Bytes>, Option<i64>)> {
        match self.cells.get(map_key) {
            Some(cell) => Some((cell.value.as_ref(), cell.deadline_ms)),
            None => {
                let cleared = self.ranges.iter().any(|(start, end)| within(map_key, start, end));
                (self.complete || cleared).then_some((None, None))
            }
        }
    }

    fn entries(&self) -> Option<impl Iterator<Item = (&Bytes, &Bytes)>> {
        let values = self.cells.iter().filter_map(|(map_key, cell)| Some((map_key, cell.value.as_ref()?)));
        self.complete.then_some(values)
    }

    fn is_empty(&self) -> Option<bool> {
        // An entry with a deadline may have passed it: only its reader finds out.
        let there = self.cells.values().any(|cell| cell.value.is_some() && cell.deadline_ms.is_none());
        if there { Some(false) } else { self.entries().map(|mut entries| entries.next().is_none()) }
    }

    fn clear_range(&mut self, start: Bytes, end: Bytes) {
        let bytes = &mut self.bytes;
        self.cells.retain(|map_key, cell| {
            let cleared = within(map_key, &start, &end);
            if cleared {
                *bytes -= cell_bytes(map_key, cell.value.as_ref());
            }
            !cleared
        });
        let range_bytes = ITEM_BYTES + start.len() + end.len();
        self.bytes += range_bytes;
        self.unsent_bytes += range_bytes;
        self.ranges.push((start, end));
    }

    fn touch(&mut self, map_key: &[u8], deadline_ms: i64) {
        let Some(cell) = self.cells.get_mut(map_key) else { return };
        cell.deadline_ms = Some(deadline_ms);
        if cell.unsent == Unsent::Nothing {
            // A touch without a map key would be one of the whole map.
            cell.unsent = if map_key.is_empty() { Unsent::Write } else { Unsent::Touch };
            self.unsent_bytes += ITEM_BYTES + map_key.len();
        }
    }

    pub(super) fn touched(&mut self, deadline_ms: i64, clock_ms: i64) {
        let deadlines = self.cells.values_mut().filter_map(|cell| cell.deadline_ms.as_mut());
        deadlines.filter(|known| **known > clock_ms).for_each(|known| *known = deadline_ms);
    }

    fn fill_entry(&mut self, map_key: Bytes, value: Option<Bytes>, deadline_ms: Option<i64>) {
        if self.entry(&map_key).is_none() {
            let deadline_ms = deadline_ms.filter(|_| value.is_some());
            self.set(map_key, Cell { value, deadline_ms, unsent: Unsent::Nothing });
        }
    }

    fn set(&mut self, map_key: Bytes, cell: Cell) {
        self.bytes += cell_bytes(&map_key, cell.value.as_ref());
        if let Some(former) = self.cells.insert(map_key.clone(), cell) {
            self.bytes -= cell_bytes(&map_key, former.value.as_ref());
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn unsent_bytes(&self) -> usize {
        self.unsent_bytes
    }

    pub(super) fn is_unknown(&self) -> bool {
        self.cells.is_empty() && !self.complete && self.ranges.is_empty()
    }

    pub(super) fn take_unsent(&mut self, at: Op<'_>, push: &mut impl FnMut(&Op<'_>)) {
        let cleared = std::mem::take(&mut self.cleared);
        if cleared {
            push(&Op { kind: OpKind::MapClear, ..at });
        }
        for (start, end) in std::mem::take(&mut self.ranges) {
            self.bytes -= ITEM_BYTES + start.len() + end.len();
            push(&Op { kind: OpKind::MapClearRange, map_key: &start, value: &end, ..at });
        }
        for (map_key, cell) in &mut self.cells {
            let expires_at_ms = cell.deadline_ms;
            match (std::mem::take(&mut cell.unsent), &cell.value) {
                (Unsent::Write, Some(value)) => {
                    push(&Op { kind: OpKind::MapPut, map_key, value, expires_at_ms, ..at });
                }
                (Unsent::Write, None) if !cleared => push(&Op { kind: OpKind::MapRemove, map_key, ..at }),
                (Unsent::Touch, Some(_)) => push(&Op { kind: OpKind::Touch, map_key, expires_at_ms, ..at }),
                _ => {}
            }
        }
        self.unsent_bytes = 0;
        if self.complete {
            let bytes = &mut self.bytes;
            self.cells.retain(|map_key, cell| {
                if cell.value.is_none() {
                    *bytes -= cell_bytes(map_key, None);
                }
                cell.value.is_some()
            });
        }
    }
}

fn within(map_key: &[u8], start: &[u8], end: &[u8]) -> bool {
    start <= map_key && (end.is_empty() || map_key < end)
}

fn cell_bytes(map_key: &[u8], value: Option<&Bytes>) -> usize {
    2 * ITEM_BYTES + map_key.len() + value.map_or(0, Bytes::len)
}
