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
mod aggregating;
mod batches;
mod body;
mod list;
mod log;
mod map;
mod reducing;
mod set;
#[cfg(test)]
mod tests;
mod value;

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use forebay_proto::{
    packed::Op,
    v1::{OpKind, PackedOps},
};
use hashbrown::{
    DefaultHashBuilder, HashMap,
    hash_map::{EntryRef, OccupiedEntry},
};

pub use address::At;
use address::{join, split};
use batches::Batches;
use body::Body;
pub use log::Logged;

/// Bytes that an entry takes beside its key and content, roughly.
const ENTRY_BYTES: usize = 192;
/// Addresses on the clock without an entry, beyond as many as there are entries.
const CLOCK_SLACK: usize = 1024;

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
    /// Full batches after which the rest is left for the next time.
    pub batches_max: usize,
}

/// What is to be sent, in this order per shard.
#[derive(Debug, Default, PartialEq)]
pub struct Unsent {
    /// Shard number and operations.
    pub batches: Vec<(usize, PackedOps)>,
    /// True if something must wait for an outstanding read.
    pub blocked: bool,
    /// True if something was left for the next time.
    pub more: bool,
}

#[derive(Debug)]
struct Entry {
    shard: u32,
    key_group: Option<u16>,
    body: Body,
    /// Reads that are outstanding.
    reads: u32,
    /// The deadline that everything there is to be given.
    touch_ms: Option<i64>,
    /// Its place among the unsent; `None` if nothing is unsent.
    unsent: Option<Place>,
    /// True if it was used since the hand of the clock came by.
    used: bool,
    /// True if it is on the clock.
    on_clock: bool,
}

/// Where an entry stands among those that have something unsent.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// A place that another number has is none of the entry's: it has been sent since.
    number: u64,
    /// Since when something is unsent, by the caller's clock.
    since_ms: u64,
}

impl Entry {
    fn new(at: At<'_>, body: Body) -> Self {
        Self {
            shard: at.shard as u32,
            key_group: at.key_group,
            body,
            reads: 0,
            touch_ms: None,
            unsent: None,
            used: true,
            on_clock: false,
        }
    }

    /// True if it may not be forgotten now.
    fn is_pinned(&self) -> bool {
        self.reads > 0 || self.unsent.is_some()
    }
}

type Entries = HashMap<Arc<[u8]>, Entry>;
type Found<'a> = OccupiedEntry<'a, Arc<[u8]>, Entry, DefaultHashBuilder>;

/// Finds an entry, or makes it and counts its bytes; the address is hashed once.
#[inline]
fn found_or_made<'a>(
    entries: &'a mut Entries,
    address: &[u8],
    bytes: &mut usize,
    make: impl FnOnce() -> Entry,
) -> Found<'a> {
    match entries.entry_ref(address) {
        EntryRef::Occupied(found) => found,
        EntryRef::Vacant(free) => {
            *bytes += ENTRY_BYTES + address.len();
            free.insert_entry_with_key(address.into(), make())
        }
    }
}

/// A write-back cache, bounded in bytes.
#[derive(Debug)]
pub struct Cache {
    entries: Entries,
    /// Entries that may be evicted once the hand comes by; the front is next.
    clock: VecDeque<Arc<[u8]>>,
    /// Entries with something unsent, in the order in which they became so.
    unsent: VecDeque<(u64, Arc<[u8]>)>,
    next_place: u64,
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
            next_place: 0,
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
    #[inline]
    pub fn wants_flush(&self) -> bool {
        self.unsent_bytes > self.bytes_max / 4
    }

    /// Returns true if nothing of the state is kept beyond its sending.
    #[inline]
    pub fn is_uncached(&self, state: u32) -> bool {
        self.uncached.contains(&state)
    }

    /// Gives everything at the address of a reading that has not expired by `clock_ms` another deadline, with
    /// the next flush.
    pub fn touch(&mut self, reading: &Reading, deadline_ms: i64, clock_ms: i64, now_ms: u64) {
        let number = self.next_place;
        let Some(entry) = self.entries.get_mut(&reading.0) else { return };
        entry.touch_ms = Some(deadline_ms);
        entry.body.touched(deadline_ms, clock_ms);
        if entry.unsent.is_none() {
            entry.unsent = Some(Place { number, since_ms: now_ms });
            self.next_place += 1;
            self.unsent.push_back((number, reading.0.clone()));
        }
    }

    /// Forgets an entry of an uncached state, unless something of it is unsent or being read.
    pub fn forget_uncached(&mut self, at: At<'_>) {
        if self.is_uncached(at.state) {
            self.forget_known(at);
        }
    }

    /// Forgets an entry, unless something of it is unsent or being read.
    pub fn forget_known(&mut self, at: At<'_>) {
        join(&mut self.address, at);
        let entry = self.entries.get_key_value(self.address.as_slice());
        let Some((address, entry)) = entry else { return };
        if entry.reads == 0 && entry.unsent.is_none() {
            let address = address.clone();
            self.forget(&address);
        }
    }

    /// Returns true if a read of the entry is outstanding.
    pub fn is_being_read(&mut self, at: At<'_>) -> bool {
        join(&mut self.address, at);
        self.entries.get(self.address.as_slice()).is_some_and(|entry| entry.reads > 0)
    }

    /// Ends a read whose answer nobody will use.
    pub fn cancel(&mut self, reading: Reading) {
        self.fill(reading, |_| {});
    }

    /// Takes what has been unsent since `until_ms` or longer, as batches per shard. It counts as sent.
    pub fn take_unsent(&mut self, until_ms: u64, limits: BatchLimits) -> Unsent {
        let mut batches = Batches::new(limits);
        let mut kept = VecDeque::new();
        let (mut blocked, mut more) = (false, false);
        while let Some((number, address)) = self.unsent.pop_front() {
            if batches.full() >= limits.batches_max {
                self.unsent.push_front((number, address));
                more = true;
                break;
            }
            let place = self.entries.get(&address).and_then(|entry| entry.unsent);
            let Some(place) = place.filter(|place| place.number == number) else { continue };
            if place.since_ms > until_ms {
                self.unsent.push_front((number, address));
                break;
            }
            if !self.take(&address, &mut batches) {
                blocked = true;
                kept.push_back((number, address));
            }
        }
        kept.append(&mut self.unsent);
        self.unsent = kept;
        self.evict();
        Unsent { batches: batches.finish(), blocked, more }
    }

    /// Takes what is unsent of some entries, ahead of all others.
    pub fn take_unsent_of(&mut self, addresses: &[At<'_>], limits: BatchLimits) -> Unsent {
        let mut batches = Batches::new(limits);
        let mut blocked = false;
        for at in addresses {
            join(&mut self.address, *at);
            let found = self.entries.get_key_value(self.address.as_slice());
            let address = found.filter(|(_, entry)| entry.unsent.is_some()).map(|(address, _)| address.clone());
            blocked |= address.is_some_and(|address| !self.take(&address, &mut batches));
        }
        Unsent { batches: batches.finish(), blocked, more: false }
    }

    /// Takes what is unsent of an entry; false if that must wait for a read of it.
    fn take(&mut self, address: &Arc<[u8]>, batches: &mut Batches) -> bool {
        let Some(entry) = self.entries.get_mut(address) else { return true };
        if entry.reads > 0 {
            return false;
        }
        let (state, key, namespace) = split(address);
        let at = Op { key_group: entry.key_group, ..Op::new(OpKind::Unspecified, state, key) };
        let (shard, before) = (entry.shard as usize, (entry.body.bytes(), entry.body.unsent_bytes()));
        entry.body.take_unsent(at.with_namespace(namespace), &mut |op| batches.push(shard, op));
        if let Some(touch_ms) = entry.touch_ms.take() {
            let touch = Op { kind: OpKind::Touch, ..at };
            batches.push(shard, &touch.with_namespace(namespace).with_expires_at_ms(touch_ms));
        }
        entry.unsent = None;
        let after = (entry.body.bytes(), entry.body.unsent_bytes());
        self.bytes = self.bytes + after.0 - before.0;
        self.unsent_bytes = self.unsent_bytes + after.1 - before.1;
        self.settle(address);
        true
    }

    #[inline]
    fn find(&mut self, at: At<'_>) -> Option<&Body> {
        join(&mut self.address, at);
        let entry = self.entries.get_mut(self.address.as_slice())?;
        entry.used = true;
        Some(&entry.body)
    }

    fn write(&mut self, at: At<'_>, now_ms: u64, empty: impl FnOnce() -> Body, change: impl FnOnce(&mut Body)) {
        join(&mut self.address, at);
        let mut found = found_or_made(&mut self.entries, &self.address, &mut self.bytes, || Entry::new(at, empty()));
        let entry = found.get_mut();
        entry.used = true;
        let before = (entry.body.bytes(), entry.body.unsent_bytes());
        change(&mut entry.body);
        let after = (entry.body.bytes(), entry.body.unsent_bytes());
        self.bytes = self.bytes + after.0 - before.0;
        self.unsent_bytes = self.unsent_bytes + after.1 - before.1;
        if entry.unsent.is_none() {
            let number = self.next_place;
            entry.unsent = Some(Place { number, since_ms: now_ms });
            self.next_place += 1;
            self.unsent.push_back((number, found.key().clone()));
        }
    }

    /// Changes an entry that is there, without making it unsent.
    fn change(&mut self, at: At<'_>, change: impl FnOnce(&mut Body)) {
        join(&mut self.address, at);
        let Some(entry) = self.entries.get_mut(self.address.as_slice()) else { return };
        let before = (entry.body.bytes(), entry.body.unsent_bytes());
        change(&mut entry.body);
        let after = (entry.body.bytes(), entry.body.unsent_bytes());
        self.bytes = self.bytes + after.0 - before.0;
        self.unsent_bytes = self.unsent_bytes + after.1 - before.1;
    }

    fn read(&mut self, at: At<'_>, empty: impl FnOnce() -> Body) -> Reading {
        join(&mut self.address, at);
        let mut found = found_or_made(&mut self.entries, &self.address, &mut self.bytes, || Entry::new(at, empty()));
        found.get_mut().reads += 1;
        Reading(found.key().clone())
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

    /// Puts an entry that holds something and may be forgotten on the clock, and forgets one that holds nothing.
    fn settle(&mut self, address: &Arc<[u8]>) {
        let Some(entry) = self.entries.get_mut(address) else { return };
        if entry.on_clock || entry.is_pinned() {
            return;
        }
        if entry.body.is_unknown() || self.uncached.contains(&split(address).0) {
            self.forget(address);
        } else {
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
            if !self.is_current(&address) {
                continue;
            }
            let Some(entry) = self.entries.get_mut(&address) else { continue };
            if entry.is_pinned() {
                // It comes back once it is sent or read, and is not looked at until then.
                entry.on_clock = false;
            } else if std::mem::take(&mut entry.used) {
                self.clock.push_back(address);
            } else {
                self.forget(&address);
            }
        }
    }

    fn forget(&mut self, address: &Arc<[u8]>) {
        let Some(entry) = self.entries.remove(address) else { return };
        self.bytes -= ENTRY_BYTES + address.len() + entry.body.bytes();
        if self.clock.len() > 2 * self.entries.len() + CLOCK_SLACK {
            let mut clock = std::mem::take(&mut self.clock);
            clock.retain(|address| self.is_current(address));
            self.clock = clock;
        }
    }

    /// True if the entry at the address is the one that this very address came from, not a later one.
    fn is_current(&self, address: &Arc<[u8]>) -> bool {
        self.entries.get_key_value(address).is_some_and(|(present, _)| Arc::ptr_eq(present, address))
    }
}
