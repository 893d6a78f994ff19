//! Sorted sets in the cache: what is to be added and removed in a key group, and nothing else.

use std::collections::BTreeMap;

use bytes::Bytes;
use forebay_proto::{packed::Op, v1::OpKind};

use super::{
    At, Cache, Reading,
    body::{Body, ITEM_BYTES},
};

#[derive(Debug, Default)]
pub(super) struct Set {
    /// True: added. The last word of an element is what is sent.
    elements: BTreeMap<Bytes, bool>,
    bytes: usize,
}

impl Cache {
    /// Adds an element to a sorted set, or removes it. The address has no key but a key group.
    pub fn set_put(&mut self, at: At<'_>, element: Bytes, there: bool, now_ms: u64) {
        self.write(at, now_ms, empty, |body| {
            if let Body::Set(set) = body {
                let bytes = ITEM_BYTES + element.len();
                if set.elements.insert(element, there).is_none() {
                    set.bytes += bytes;
                }
            }
        });
    }

    /// Begins a read of a sorted set; [`Cache::cancel`] ends it.
    pub fn read_set(&mut self, at: At<'_>) -> Reading {
        self.read(at, empty)
    }
}

fn empty() -> Body {
    Body::Set(Set::default())
}

impl Set {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn take_unsent(&mut self, at: Op<'_>, push: &mut impl FnMut(&Op<'_>)) {
        // The namespace only keeps key groups apart in the cache.
        let at = Op { key: &[], namespace: &[], ..at };
        for (element, there) in std::mem::take(&mut self.elements) {
            let kind = if there { OpKind::SortedSetAdd } else { OpKind::SortedSetRemove };
            push(&Op { kind, map_key: &element, ..at });
        }
        self.bytes = 0;
    }
}
