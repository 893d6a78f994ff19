//! Entries by address. They lie in a slab with their addresses, and an index by hash holds their numbers: what is
//! looked at for a use that finds its entry is the index, the entry, and its content.

use std::hash::BuildHasher as _;

use hashbrown::{DefaultHashBuilder, HashTable, hash_table::Entry as Indexed};
use slab::Slab;
use smallvec::SmallVec;

use super::{At, body::Body};

/// Addresses up to this length are part of their entry.
const INLINE_BYTES: usize = 40;

/// Which entry; given to another one once it is removed.
pub(super) type Slot = u32;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) address: SmallVec<[u8; INLINE_BYTES]>,
    pub(super) shard: u32,
    pub(super) key_group: Option<u16>,
    pub(super) body: Body,
    /// Reads that are outstanding.
    pub(super) reads: u32,
    /// The deadline that everything there is to be given.
    pub(super) touch_ms: Option<i64>,
    /// Its place among the unsent; `None` if nothing is unsent.
    pub(super) unsent: Option<Place>,
    /// True if it was used since the hand of the clock came by.
    pub(super) used: bool,
    /// Its number on the clock; `None` if it is not there.
    pub(super) on_clock: Option<u32>,
}

/// Where an entry stands among those that have something unsent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// A place that another number has is none of the entry's: it has been sent since.
    pub(super) number: u64,
    /// Since when something is unsent, by the caller's clock.
    pub(super) since_ms: u64,
}

impl Entry {
    fn new(address: &[u8], at: At<'_>, body: Body) -> Self {
        Self {
            address: SmallVec::from_slice(address),
            shard: at.shard as u32,
            key_group: at.key_group,
            body,
            reads: 0,
            touch_ms: None,
            unsent: None,
            used: true,
            on_clock: None,
        }
    }

    /// True if it may not be forgotten now.
    pub(super) fn is_pinned(&self) -> bool {
        self.reads > 0 || self.unsent.is_some()
    }
}

#[derive(Debug, Default)]
pub(super) struct Entries {
    slab: Slab<Entry>,
    index: HashTable<Slot>,
    hasher: DefaultHashBuilder,
}

impl Entries {
    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    #[inline]
    pub(super) fn find(&self, address: &[u8]) -> Option<Slot> {
        let is = |slot: &Slot| self.slab[*slot as usize].address[..] == *address;
        self.index.find(self.hasher.hash_one(address), is).copied()
    }

    /// Finds an entry, or makes it; tells whether it was made.
    #[inline]
    pub(super) fn found_or_made(&mut self, address: &[u8], at: At<'_>, empty: impl FnOnce() -> Body) -> (Slot, bool) {
        let Self { slab, index, hasher } = self;
        let is = |slot: &Slot| slab[*slot as usize].address[..] == *address;
        let hash_of = |slot: &Slot| hasher.hash_one(&slab[*slot as usize].address[..]);
        match index.entry(hasher.hash_one(address), is, hash_of) {
            Indexed::Occupied(found) => (*found.get(), false),
            Indexed::Vacant(free) => {
                // An entry takes more than a byte: their number fits as long as the machine's memory does.
                let slot = slab.vacant_key() as Slot;
                free.insert(slot);
                slab.insert(Entry::new(address, at, empty()));
                (slot, true)
            }
        }
    }

    #[inline]
    pub(super) fn get(&self, slot: Slot) -> Option<&Entry> {
        self.slab.get(slot as usize)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Entry> {
        self.slab.get_mut(slot as usize)
    }

    pub(super) fn remove(&mut self, slot: Slot) -> Option<Entry> {
        let entry = self.slab.try_remove(slot as usize)?;
        let hash = self.hasher.hash_one(&entry.address[..]);
        if let Ok(found) = self.index.find_entry(hash, |other| *other == slot) {
            found.remove();
        }
        Some(entry)
    }
}
