//! The write-back cache of a worker: what it has read, and what it has written and not yet sent.
//!
//! A [`Cache`] decides what is known and what is to be sent; it does no I/O and has no clock. It is valid
//! while the worker holds its lease and is dropped whole at a rewind or when the worker is fenced.
//!
//! Invariants a change must keep:
//! - A read sees every write before it: what is unsent lies over what is known, and what is not known is
//!   read behind everything sent.
//! - While a read of an entry is outstanding nothing of that entry is sent, so a read that is repeated
//!   gives the same answer.
//! - [`Cache::take_unsent`] sends entries in the order in which they became unsent, and an entry's
//!   operations in the order that gives what the cache shows.

mod address;
mod body;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use forebay_proto::{
    merge::MergeFunction,
    packed::{Op, OpsBuilder},
    v1::PackedOps,
};

pub use address::At;
use address::{join, split};
use body::{Body, List, Map, Reducing, Value};

/// Bytes that an entry takes beside its key and content, roughly.
const ENTRY_BYTES: usize = 192;

/// An outstanding read; ended by one of the `fill` functions or by [`Cache::cancel`].
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Reading(Arc<[u8]>);

/// How large the batches of a flush become.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// Most operations.
    pub ops_max: usize,
    /// Bytes after which no operation is added.
    pub bytes: usize,
}

/// What is to be sent, in this order per shard.
#[derive(Debug, Default, PartialEq)]
pub struct Unsent {
    /// Shard number and operations.
    pub batches: Vec<(usize, PackedOps)>,
    /// True if something must wait for an outstanding read.
    pub blocked: bool,
}

#[derive(Debug)]
struct Entry {
    shard: usize,
    key_group: Option<u16>,
    body: Body,
    /// Reads that are outstanding.
    reads: u32,
    /// Since when something is unsent, by the caller's clock.
    unsent_since_ms: Option<u64>,
    /// True if it was used since the hand of the clock came by.
    used: bool,
    /// True if it is on the clock.
    on_clock: bool,
}

/// A write-back cache, bounded in bytes.
#[derive(Debug)]
pub struct Cache {
    entries: HashMap<Arc<[u8]>, Entry>,
    /// Entries that may be evicted once the hand comes by; the front is next.
    clock: VecDeque<Arc<[u8]>>,
    /// Entries with something unsent, in the order in which they became so.
    unsent: VecDeque<Arc<[u8]>>,
    bytes: usize,
    unsent_bytes: usize,
    bytes_max: usize,
    /// States of which nothing is kept beyond its sending.
    uncached: HashSet<u32>,
    address: Vec<u8>,
}

impl Cache {
    /// Makes an empty cache that evicts over `bytes_max`; nothing of the `uncached` states is kept once sent.
    pub fn new(bytes_max: usize, uncached: HashSet<u32>) -> Self {
        Self {
            entries: HashMap::new(),
            clock: VecDeque::new(),
            unsent: VecDeque::new(),
            bytes: 0,
            unsent_bytes: 0,
            bytes_max,
            uncached,
            address: Vec::new(),
        }
    }

    /// Returns the bytes it takes, roughly.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the bytes that are unsent, roughly.
    pub fn unsent_bytes(&self) -> usize {
        self.unsent_bytes
    }

    /// Returns true if so much is unsent that it should be flushed now.
    pub fn wants_flush(&self) -> bool {
        self.unsent_bytes > self.bytes_max / 4
    }

    /// Returns true if nothing of the state is kept beyond its sending.
    pub fn is_uncached(&self, state: u32) -> bool {
        self.uncached.contains(&state)
    }

    /// Returns a value (`Some(None)`: absent); `None` if it is not known.
    pub fn value(&mut self, at: At<'_>) -> Option<Option<&Bytes>> {
        match self.find(at)? {
            Body::Value(value) => value.known.as_ref().map(Option::as_ref),
            _ => None,
        }
    }

    /// Writes a value; `None` clears it.
    pub fn value_put(&mut self, at: At<'_>, value: Option<Bytes>, now_ms: u64) {
        self.write(
            at,
            now_ms,
            || Body::Value(Value::default()),
            |body| {
                if let Body::Value(body) = body {
                    body.known = Some(value);
                    body.unsent = true;
                }
            },
        );
    }

    /// Returns the elements of a list; `None` if they are not known.
    pub fn list(&mut self, at: At<'_>) -> Option<impl Iterator<Item = &Bytes>> {
        match self.find(at)? {
            Body::List(list) => list.items(),
            _ => None,
        }
    }

    /// Appends to a list.
    pub fn list_append(&mut self, at: At<'_>, elements: impl IntoIterator<Item = Bytes>, now_ms: u64) {
        self.write(
            at,
            now_ms,
            || Body::List(List::default()),
            |body| {
                if let Body::List(list) = body {
                    list.append(elements);
                }
            },
        );
    }

    /// Replaces a list; an empty one is absent.
    pub fn list_put(&mut self, at: At<'_>, elements: impl IntoIterator<Item = Bytes>, now_ms: u64) {
        self.write(
            at,
            now_ms,
            || Body::List(List::default()),
            |body| {
                if let Body::List(list) = body {
                    list.replace(elements);
                }
            },
        );
    }

    /// Returns an entry of a map (`Some(None)`: absent); `None` if it is not known.
    pub fn map_entry(&mut self, at: At<'_>, map_key: &[u8]) -> Option<Option<&Bytes>> {
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

    /// Writes an entry of a map; `None` removes it.
    pub fn map_put(&mut self, at: At<'_>, map_key: Bytes, value: Option<Bytes>, now_ms: u64) {
        self.write(
            at,
            now_ms,
            || Body::Map(Map::default()),
            |body| {
                if let Body::Map(map) = body {
                    map.put(map_key, value);
                }
            },
        );
    }

    /// Removes all entries of a map.
    pub fn map_clear(&mut self, at: At<'_>, now_ms: u64) {
        self.write(
            at,
            now_ms,
            || Body::Map(Map::default()),
            |body| {
                if let Body::Map(map) = body {
                    map.clear();
                }
            },
        );
    }

    /// Returns a reducing state (`Some(None)`: absent); `None` if it is not known.
    pub fn reducing(&mut self, at: At<'_>) -> Option<Option<Vec<u8>>> {
        match self.find(at)? {
            Body::Reducing(reducing) => reducing.view(),
            _ => None,
        }
    }

    /// Adds to a reducing state.
    pub fn reducing_add(&mut self, at: At<'_>, function: MergeFunction, operand: &[u8], now_ms: u64) {
        self.write(
            at,
            now_ms,
            || Body::Reducing(Reducing::new(function)),
            |body| {
                if let Body::Reducing(reducing) = body {
                    reducing.add(operand);
                }
            },
        );
    }

    /// Removes a reducing state.
    pub fn reducing_clear(&mut self, at: At<'_>, function: MergeFunction, now_ms: u64) {
        self.write(
            at,
            now_ms,
            || Body::Reducing(Reducing::new(function)),
            |body| {
                if let Body::Reducing(reducing) = body {
                    reducing.clear();
                }
            },
        );
    }

    /// Begins a read of a value; it is sent behind everything that was taken to be sent.
    pub fn read_value(&mut self, at: At<'_>) -> Reading {
        self.read(at, || Body::Value(Value::default()))
    }

    /// Begins a read of a list.
    pub fn read_list(&mut self, at: At<'_>) -> Reading {
        self.read(at, || Body::List(List::default()))
    }

    /// Begins a read of a map or of an entry of it.
    pub fn read_map(&mut self, at: At<'_>) -> Reading {
        self.read(at, || Body::Map(Map::default()))
    }

    /// Begins a read of a reducing state.
    pub fn read_reducing(&mut self, at: At<'_>, function: MergeFunction) -> Reading {
        self.read(at, || Body::Reducing(Reducing::new(function)))
    }

    /// Ends a read of a value.
    pub fn fill_value(&mut self, reading: Reading, value: Option<Bytes>) {
        self.fill(reading, |body| {
            if let Body::Value(body) = body {
                body.known.get_or_insert(value);
            }
        });
    }

    /// Ends a read of a list.
    pub fn fill_list(&mut self, reading: Reading, elements: Vec<Bytes>) {
        self.fill(reading, |body| {
            if let Body::List(list) = body {
                list.fill(elements);
            }
        });
    }

    /// Ends a read of an entry of a map.
    pub fn fill_map_entry(&mut self, reading: Reading, map_key: Bytes, value: Option<Bytes>) {
        self.fill(reading, |body| {
            if let Body::Map(map) = body {
                map.fill_entry(map_key, value);
            }
        });
    }

    /// Ends a read of all entries of a map.
    pub fn fill_map(&mut self, reading: Reading, entries: BTreeMap<Bytes, Bytes>) {
        self.fill(reading, |body| {
            if let Body::Map(map) = body {
                map.fill(entries);
            }
        });
    }

    /// Ends a read of a reducing state.
    pub fn fill_reducing(&mut self, reading: Reading, accumulator: Option<Bytes>) {
        self.fill(reading, |body| {
            if let Body::Reducing(reducing) = body {
                reducing.fill(accumulator);
            }
        });
    }

    /// Forgets an entry of an uncached state, unless something of it is unsent or being read.
    pub fn forget_uncached(&mut self, at: At<'_>) {
        if !self.is_uncached(at.state) {
            return;
        }
        join(&mut self.address, at);
        let entry = self.entries.get_key_value(self.address.as_slice());
        let Some((address, entry)) = entry else { return };
        if entry.reads == 0 && entry.unsent_since_ms.is_none() {
            let address = address.clone();
            self.forget(&address);
        }
    }

    /// Ends a read whose answer nobody will use.
    pub fn cancel(&mut self, reading: Reading) {
        self.fill(reading, |_| {});
    }

    /// Takes what has been unsent since `until_ms` or longer, as batches per shard. It counts as sent.
    pub fn take_unsent(&mut self, until_ms: u64, limits: BatchLimits) -> Unsent {
        let mut taken = Unsent::default();
        let mut open: BTreeMap<usize, OpsBuilder> = BTreeMap::new();
        let mut kept = VecDeque::new();
        while let Some(address) = self.unsent.pop_front() {
            let Some(entry) = self.entries.get_mut(&address) else { continue };
            if entry.unsent_since_ms.is_some_and(|since| since > until_ms) {
                self.unsent.push_front(address);
                break;
            }
            if entry.reads > 0 {
                taken.blocked = true;
                kept.push_back(address);
                continue;
            }
            let (state, key, namespace) = split(&address);
            let at = Op { key_group: entry.key_group, ..Op::new(Default::default(), state, key) };
            let (shard, before) = (entry.shard, (entry.body.bytes(), entry.body.unsent_bytes()));
            entry.body.take_unsent(at.with_namespace(namespace), &mut |op| {
                let builder = open.entry(shard).or_default();
                builder.push(op);
                if builder.len() >= limits.ops_max || builder.bytes() >= limits.bytes {
                    taken.batches.push((shard, std::mem::take(builder).finish()));
                }
            });
            entry.unsent_since_ms = None;
            let after = (entry.body.bytes(), entry.body.unsent_bytes());
            self.bytes = self.bytes + after.0 - before.0;
            self.unsent_bytes = self.unsent_bytes + after.1 - before.1;
            self.settle(&address);
        }
        kept.append(&mut self.unsent);
        self.unsent = kept;
        let rest = open.into_iter().filter(|(_, builder)| !builder.is_empty());
        taken.batches.extend(rest.map(|(shard, builder)| (shard, builder.finish())));
        self.evict();
        taken
    }

    fn find(&mut self, at: At<'_>) -> Option<&Body> {
        join(&mut self.address, at);
        let entry = self.entries.get_mut(self.address.as_slice())?;
        entry.used = true;
        Some(&entry.body)
    }

    fn entry(&mut self, at: At<'_>, empty: impl FnOnce() -> Body) -> (Arc<[u8]>, &mut Entry) {
        join(&mut self.address, at);
        let address = match self.entries.get_key_value(self.address.as_slice()) {
            Some((address, _)) => address.clone(),
            None => {
                let address: Arc<[u8]> = self.address.as_slice().into();
                self.bytes += ENTRY_BYTES + address.len();
                address
            }
        };
        let entry = self.entries.entry(address.clone()).or_insert_with(|| Entry {
            shard: at.shard,
            key_group: at.key_group,
            body: empty(),
            reads: 0,
            unsent_since_ms: None,
            used: true,
            on_clock: false,
        });
        (address, entry)
    }

    fn write(&mut self, at: At<'_>, now_ms: u64, empty: impl FnOnce() -> Body, change: impl FnOnce(&mut Body)) {
        let (address, entry) = self.entry(at, empty);
        entry.used = true;
        let before = (entry.body.bytes(), entry.body.unsent_bytes());
        change(&mut entry.body);
        let after = (entry.body.bytes(), entry.body.unsent_bytes());
        let first = entry.unsent_since_ms.replace(entry.unsent_since_ms.unwrap_or(now_ms)).is_none();
        self.bytes = self.bytes + after.0 - before.0;
        self.unsent_bytes = self.unsent_bytes + after.1 - before.1;
        if first {
            self.unsent.push_back(address);
        }
    }

    fn read(&mut self, at: At<'_>, empty: impl FnOnce() -> Body) -> Reading {
        let (address, entry) = self.entry(at, empty);
        entry.reads += 1;
        Reading(address)
    }

    fn fill(&mut self, reading: Reading, fill: impl FnOnce(&mut Body)) {
        // Room is made while the entry still counts as being read: its reader has yet to look at it.
        self.evict();
        let Some(entry) = self.entries.get_mut(&reading.0) else { return };
        entry.reads -= 1;
        let before = entry.body.bytes();
        fill(&mut entry.body);
        self.bytes = self.bytes + entry.body.bytes() - before;
        // What was read of an uncached state is still to be looked at.
        if !self.is_uncached(split(&reading.0).0) {
            self.settle(&reading.0);
        }
    }

    /// Puts an entry that holds something on the clock, and forgets one that holds nothing.
    fn settle(&mut self, address: &Arc<[u8]>) {
        let Some(entry) = self.entries.get_mut(address) else { return };
        let pinned = entry.reads > 0 || entry.unsent_since_ms.is_some();
        let worthless = entry.body.is_unknown() || self.uncached.contains(&split(address).0);
        if !entry.on_clock && !pinned && worthless {
            self.forget(address);
        } else if !entry.on_clock && !worthless {
            entry.on_clock = true;
            self.clock.push_back(address.clone());
        }
    }

    fn evict(&mut self) {
        // Each entry is seen twice at most: once to take its mark, once to take it.
        for _ in 0..2 * self.clock.len() {
            if self.bytes <= self.bytes_max {
                return;
            }
            let Some(address) = self.clock.pop_front() else { return };
            let Some(entry) = self.entries.get_mut(&address) else { continue };
            if entry.used || entry.reads > 0 || entry.unsent_since_ms.is_some() {
                entry.used = false;
                self.clock.push_back(address);
            } else {
                self.forget(&address);
            }
        }
    }

    fn forget(&mut self, address: &Arc<[u8]>) {
        if let Some(entry) = self.entries.remove(address) {
            self.bytes -= ENTRY_BYTES + address.len() + entry.body.bytes();
        }
    }
}
