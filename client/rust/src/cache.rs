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
mod entries;
mod list;
mod log;
mod map;
mod reducing;
mod set;
#[cfg(test)]
mod tests;
mod value;

use std::collections::{HashSet, VecDeque};

use forebay_proto::{
    packed::Op,
    v1::{OpKind, PackedOps},
};

pub use address::At;
use address::{join, split};
use batches::Batches;
use body::Body;
use entries::{Entries, Entry, Place, Slot};
pub use log::Logged;

/// Bytes that an entry takes beside its key and content, roughly.
const ENTRY_BYTES: usize = 192;
/// Addresses on the clock without an entry, beyond as many as there are entries.
const CLOCK_SLACK: usize = 1024;

/// An outstanding read; ended by one of the `fill` functions or by [`Cache::cancel`].
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Reading(Slot);

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

/// A write-back cache, bounded in bytes.
#[derive(Debug)]
pub struct Cache {
    entries: Entries,
    /// Entries that may be evicted once the hand comes by, each with its number there; the front is next.
    clock: VecDeque<(u32, Slot)>,
    next_on_clock: u32,
    /// Entries with something unsent, in the order in which they became so.
    unsent: VecDeque<(u64, Slot)>,
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
            entries: Entries::default(),
            clock: VecDeque::new(),
            next_on_clock: 0,
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

    /// Returns the number of entries with something unsent, or a few more.
    pub fn unsent_entries(&self) -> usize {
        self.unsent.len()
    }

    /// Returns since when something has been unsent, if something is.
    pub fn unsent_since_ms(&self) -> Option<u64> {
        self.unsent.iter().find_map(|place| self.unsent_at(place)).map(|place| place.since_ms)
    }

    /// Returns true if something unsent must wait for an outstanding read.
    pub fn is_blocked(&self) -> bool {
        let is_read = |slot| self.entries.get(slot).is_some_and(|entry| entry.reads > 0);
        self.unsent.iter().any(|(number, slot)| is_read(*slot) && self.unsent_at(&(*number, *slot)).is_some())
    }

    /// Returns true if something of an entry is unsent.
    pub fn is_unsent(&mut self, at: At<'_>) -> bool {
        join(&mut self.address, at);
        let found = self.entries.find(&self.address).and_then(|slot| self.entries.get(slot));
        found.is_some_and(|entry| entry.unsent.is_some())
    }

    fn unsent_at(&self, (number, slot): &(u64, Slot)) -> Option<Place> {
        self.entries.get(*slot).and_then(|entry| entry.unsent).filter(|place| place.number == *number)
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
        let Some(entry) = self.entries.get_mut(reading.0) else { return };
        entry.touch_ms = Some(deadline_ms);
        entry.body.touched(deadline_ms, clock_ms);
        if entry.unsent.is_none() {
            entry.unsent = Some(Place { number, since_ms: now_ms });
            self.next_place += 1;
            self.unsent.push_back((number, reading.0));
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
        let Some(slot) = self.entries.find(&self.address) else { return };
        if self.entries.get(slot).is_some_and(|entry| !entry.is_pinned()) {
            self.forget(slot);
        }
    }

    /// Returns true if a read of the entry is outstanding.
    pub fn is_being_read(&mut self, at: At<'_>) -> bool {
        join(&mut self.address, at);
        let found = self.entries.find(&self.address).and_then(|slot| self.entries.get(slot));
        found.is_some_and(|entry| entry.reads > 0)
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
        while let Some((number, slot)) = self.unsent.pop_front() {
            if batches.full() >= limits.batches_max {
                self.unsent.push_front((number, slot));
                more = true;
                break;
            }
            let Some(place) = self.unsent_at(&(number, slot)) else { continue };
            if place.since_ms > until_ms {
                self.unsent.push_front((number, slot));
                break;
            }
            if !self.take(slot, &mut batches) {
                blocked = true;
                kept.push_back((number, slot));
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
            let is_unsent = |slot: &Slot| self.entries.get(*slot).is_some_and(|entry| entry.unsent.is_some());
            let slot = self.entries.find(&self.address).filter(is_unsent);
            blocked |= slot.is_some_and(|slot| !self.take(slot, &mut batches));
        }
        Unsent { batches: batches.finish(), blocked, more: false }
    }

    /// Takes what is unsent of an entry; false if that must wait for a read of it.
    fn take(&mut self, slot: Slot, batches: &mut Batches) -> bool {
        let Some(entry) = self.entries.get_mut(slot) else { return true };
        if entry.reads > 0 {
            return false;
        }
        let (state, key, namespace) = split(&entry.address);
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
        self.settle(slot);
        true
    }

    #[inline]
    fn find(&mut self, at: At<'_>) -> Option<&Body> {
        join(&mut self.address, at);
        let slot = self.entries.find(&self.address)?;
        let entry = self.entries.get_mut(slot)?;
        entry.used = true;
        Some(&entry.body)
    }

    /// Finds the entry of the address that was joined, or makes it and counts its bytes.
    #[inline]
    fn found_or_made(&mut self, at: At<'_>, empty: impl FnOnce() -> Body) -> Slot {
        let (slot, made) = self.entries.found_or_made(&self.address, at, empty);
        if made {
            self.bytes += ENTRY_BYTES + self.address.len();
        }
        slot
    }

    fn write(&mut self, at: At<'_>, now_ms: u64, empty: impl FnOnce() -> Body, change: impl FnOnce(&mut Body)) {
        join(&mut self.address, at);
        let slot = self.found_or_made(at, empty);
        let Some(entry) = self.entries.get_mut(slot) else { return };
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
            self.unsent.push_back((number, slot));
        }
    }

    /// Changes an entry that is there, without making it unsent.
    fn change(&mut self, at: At<'_>, change: impl FnOnce(&mut Body)) {
        join(&mut self.address, at);
        let found = self.entries.find(&self.address);
        let Some(entry) = found.and_then(|slot| self.entries.get_mut(slot)) else { return };
        let before = (entry.body.bytes(), entry.body.unsent_bytes());
        change(&mut entry.body);
        let after = (entry.body.bytes(), entry.body.unsent_bytes());
        self.bytes = self.bytes + after.0 - before.0;
        self.unsent_bytes = self.unsent_bytes + after.1 - before.1;
    }

    fn read(&mut self, at: At<'_>, empty: impl FnOnce() -> Body) -> Reading {
        join(&mut self.address, at);
        let slot = self.found_or_made(at, empty);
        if let Some(entry) = self.entries.get_mut(slot) {
            entry.reads += 1;
        }
        Reading(slot)
    }

    fn fill(&mut self, reading: Reading, fill: impl FnOnce(&mut Body)) {
        // Room is made while the entry still counts as being read: its reader has yet to look at it.
        self.evict();
        let Some(entry) = self.entries.get_mut(reading.0) else { return };
        entry.reads -= 1;
        let before = entry.body.bytes();
        fill(&mut entry.body);
        self.bytes = self.bytes + entry.body.bytes() - before;
        // What was read of an uncached state is still to be looked at.
        let state = split(&entry.address).0;
        if !self.is_uncached(state) {
            self.settle(reading.0);
        }
    }

    /// Puts an entry that holds something and may be forgotten on the clock, and forgets one that holds nothing.
    fn settle(&mut self, slot: Slot) {
        let Some(entry) = self.entries.get_mut(slot) else { return };
        if entry.on_clock.is_some() || entry.is_pinned() {
            return;
        }
        if entry.body.is_unknown() || self.uncached.contains(&split(&entry.address).0) {
            self.forget(slot);
        } else {
            entry.on_clock = Some(self.next_on_clock);
            self.clock.push_back((self.next_on_clock, slot));
            self.next_on_clock = self.next_on_clock.wrapping_add(1);
        }
    }

    fn evict(&mut self) {
        // Each entry is seen twice at most: once to take its mark, once to take it.
        for _ in 0..2 * self.clock.len() {
            if self.bytes <= self.bytes_max {
                return;
            }
            let Some((number, slot)) = self.clock.pop_front() else { return };
            let Some(entry) = self.entries.get_mut(slot).filter(|entry| entry.on_clock == Some(number)) else {
                continue;
            };
            if entry.is_pinned() {
                // It comes back once it is sent or read, and is not looked at until then.
                entry.on_clock = None;
            } else if std::mem::take(&mut entry.used) {
                self.clock.push_back((number, slot));
            } else {
                self.forget(slot);
            }
        }
    }

    fn forget(&mut self, slot: Slot) {
        let Some(Entry { address, body, .. }) = self.entries.remove(slot) else { return };
        self.bytes -= ENTRY_BYTES + address.len() + body.bytes();
        if self.clock.len() > 2 * self.entries.len() + CLOCK_SLACK {
            let is_current =
                |slot: Slot, number| self.entries.get(slot).is_some_and(|entry| entry.on_clock == Some(number));
            self.clock.retain(|(number, slot)| is_current(*slot, *number));
        }
    }
}
