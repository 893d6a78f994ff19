//! What the cache knows of one address: a body per kind of state, and what all have in common.

use forebay_proto::packed::Op;

use super::{aggregating::Aggregating, list::List, log::Log, map::Map, reducing::Reducing, set::Set, value::Value};

/// Bytes that an element or entry takes beside its content, roughly.
pub(super) const ITEM_BYTES: usize = 48;

#[derive(Debug)]
pub(super) enum Body {
    Value(Value),
    // Boxed, so that an entry is no larger than that of a value, of which there are the most.
    List(Box<List>),
    Map(Box<Map>),
    Reducing(Box<Reducing>),
    Aggregating(Box<Aggregating>),
    Log(Log),
    Set(Set),
}

/// What is to be sent of a value or a map entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Unsent {
    #[default]
    Nothing,
    /// A new deadline.
    Touch,
    /// What is known.
    Write,
}

impl Body {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Value(value) => value.bytes(),
            Self::List(list) => list.bytes(),
            Self::Map(map) => map.bytes(),
            Self::Reducing(reducing) => reducing.bytes(),
            Self::Aggregating(aggregating) => aggregating.bytes(),
            Self::Log(log) => log.bytes(),
            Self::Set(set) => set.bytes(),
        }
    }

    pub(super) fn unsent_bytes(&self) -> usize {
        match self {
            Self::Value(value) => value.unsent_bytes(),
            Self::List(list) => list.unsent_bytes(),
            Self::Map(map) => map.unsent_bytes(),
            Self::Reducing(reducing) => reducing.bytes(),
            Self::Aggregating(aggregating) => aggregating.unsent_bytes(),
            Self::Log(log) => log.bytes(),
            Self::Set(set) => set.bytes(),
        }
    }

    /// True if nothing is known and nothing is to be sent.
    pub(super) fn is_unknown(&self) -> bool {
        match self {
            Self::Value(value) => value.is_unknown(),
            Self::List(list) => list.is_unknown(),
            Self::Map(map) => map.is_unknown(),
            Self::Reducing(reducing) => reducing.is_unknown(),
            Self::Aggregating(aggregating) => aggregating.is_unknown(),
            Self::Log(log) => log.bytes() == 0,
            Self::Set(set) => set.bytes() == 0,
        }
    }

    /// Takes note that everything alive has another deadline.
    pub(super) fn touched(&mut self, deadline_ms: i64, clock_ms: i64) {
        // Of other kinds the cache knows no deadlines, or touches them one by one.
        if let Self::Map(map) = self {
            map.touched(deadline_ms, clock_ms);
        }
    }

    /// Gives what is to be sent to `push`, in order, and counts it as sent. `at` is the address.
    pub(super) fn take_unsent(&mut self, at: Op<'_>, push: &mut impl FnMut(&Op<'_>)) {
        match self {
            Self::Value(value) => value.take_unsent(at, push),
            Self::List(list) => list.take_unsent(at, push),
            Self::Map(map) => map.take_unsent(at, push),
            Self::Reducing(reducing) => reducing.take_unsent(at, push),
            Self::Aggregating(aggregating) => aggregating.take_unsent(at, push),
            Self::Log(log) => log.take_unsent(at, push),
            Self::Set(set) => set.take_unsent(at, push),
        }
    }
}
