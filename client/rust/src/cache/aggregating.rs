//! Aggregating states in the cache: the result as it was read, and operands that are to be added.
//!
//! A result is no accumulator, so nothing can be added to it here: once there are operands it is unknown,
//! and is read behind them.

use bytes::Bytes;
use forebay_proto::{packed::Op, v1::OpKind};

use super::{
    At, Cache, Reading,
    body::{Body, ITEM_BYTES},
};

#[derive(Debug, Default)]
pub(super) struct Aggregating {
    /// `Some(None)`: it is known to be absent. Holds before the operands.
    result: Option<Option<Bytes>>,
    operands: Vec<(Bytes, Option<i64>)>,
    operand_bytes: usize,
    /// True if a clear is to be sent before the operands.
    cleared: bool,
}

impl Cache {
    /// Returns the result of an aggregating state (`Some(None)`: absent); `None` if it is not known.
    pub fn aggregating(&mut self, at: At<'_>) -> Option<Option<&Bytes>> {
        match self.find(at)? {
            Body::Aggregating(it) if it.operands.is_empty() => it.result.as_ref().map(Option::as_ref),
            _ => None,
        }
    }

    /// Adds to an aggregating state; the deadline is by the state's clock.
    pub fn aggregating_add(&mut self, at: At<'_>, operand: Bytes, deadline_ms: Option<i64>, now_ms: u64) {
        self.write(at, now_ms, empty, |body| {
            if let Body::Aggregating(it) = body {
                it.operand_bytes += ITEM_BYTES + operand.len();
                it.operands.push((operand, deadline_ms));
            }
        });
    }

    /// Removes an aggregating state.
    pub fn aggregating_clear(&mut self, at: At<'_>, now_ms: u64) {
        self.write(at, now_ms, empty, |body| {
            if let Body::Aggregating(it) = body {
                **it = Aggregating { result: Some(None), cleared: true, ..Aggregating::default() };
            }
        });
    }

    /// Begins a read of an aggregating state.
    pub fn read_aggregating(&mut self, at: At<'_>) -> Reading {
        self.read(at, empty)
    }

    /// Ends a read of an aggregating state; what was added since is not in the result.
    pub fn fill_aggregating(&mut self, reading: Reading, result: Option<Bytes>) {
        self.fill(reading, |body| {
            if let Body::Aggregating(it) = body {
                it.result.get_or_insert(result);
            }
        });
    }
}

fn empty() -> Body {
    Body::Aggregating(Box::default())
}

impl Aggregating {
    pub(super) fn bytes(&self) -> usize {
        self.operand_bytes + self.result.as_ref().map_or(0, |result| result.as_ref().map_or(0, Bytes::len))
    }

    pub(super) fn unsent_bytes(&self) -> usize {
        self.operand_bytes
    }

    pub(super) fn is_unknown(&self) -> bool {
        self.result.is_none() && self.operands.is_empty()
    }

    pub(super) fn take_unsent(&mut self, at: Op<'_>, push: &mut impl FnMut(&Op<'_>)) {
        if std::mem::take(&mut self.cleared) {
            push(&Op { kind: OpKind::AggregatingClear, ..at });
        }
        if !self.operands.is_empty() {
            self.result = None;
        }
        for (operand, expires_at_ms) in self.operands.drain(..) {
            push(&Op { kind: OpKind::AggregatingAdd, value: &operand, expires_at_ms, ..at });
        }
        self.operand_bytes = 0;
    }
}
