//! Reducing states in the cache: what has been sent, and what is to be added.

use bytes::Bytes;
use forebay_proto::{merge::MergeFunction, packed::Op, v1::OpKind};

use super::{
    At, Cache, Reading,
    body::{Body, ITEM_BYTES},
};

#[derive(Debug)]
pub(super) struct Reducing {
    function: MergeFunction,
    /// `Some(None)`: it is known to be absent.
    sent: Option<Option<Vec<u8>>>,
    /// One at most if the function is associative.
    operands: Vec<Vec<u8>>,
    /// Deadline of the operands.
    deadline_ms: Option<i64>,
    /// True if a clear is to be sent before the operands.
    cleared: bool,
    spare: Vec<u8>,
}

impl Cache {
    /// Returns a reducing state (`Some(None)`: absent); `None` if it is not known.
    pub fn reducing(&mut self, at: At<'_>) -> Option<Option<Vec<u8>>> {
        match self.find(at)? {
            Body::Reducing(reducing) => reducing.view(),
            _ => None,
        }
    }

    /// Adds to a reducing state.
    pub fn reducing_add(&mut self, at: At<'_>, function: MergeFunction, operand: &[u8], now_ms: u64) {
        self.reducing_add_until(at, function, operand, None, now_ms);
    }

    /// Adds an operand that has a deadline; it becomes that of all which are still unsent.
    pub fn reducing_add_until(
        &mut self,
        at: At<'_>,
        function: MergeFunction,
        operand: &[u8],
        deadline_ms: Option<i64>,
        now_ms: u64,
    ) {
        self.write(at, now_ms, empty(function), |body| {
            if let Body::Reducing(reducing) = body {
                reducing.deadline_ms = deadline_ms;
                reducing.add(operand);
            }
        });
    }

    /// Removes a reducing state.
    pub fn reducing_clear(&mut self, at: At<'_>, function: MergeFunction, now_ms: u64) {
        self.write(at, now_ms, empty(function), |body| {
            if let Body::Reducing(reducing) = body {
                reducing.clear();
            }
        });
    }

    /// Begins a read of a reducing state.
    pub fn read_reducing(&mut self, at: At<'_>, function: MergeFunction) -> Reading {
        self.read(at, empty(function))
    }

    /// Ends a read of a reducing state.
    pub fn fill_reducing(&mut self, reading: Reading, accumulator: Option<Bytes>) {
        self.fill(reading, |body| {
            if let Body::Reducing(reducing) = body {
                reducing.sent.get_or_insert(accumulator.map(Vec::from));
            }
        });
    }
}

fn empty(function: MergeFunction) -> impl FnOnce() -> Body {
    move || {
        Body::Reducing(Box::new(Reducing {
            function,
            sent: None,
            operands: Vec::new(),
            deadline_ms: None,
            cleared: false,
            spare: Vec::new(),
        }))
    }
}

impl Reducing {
    fn view(&self) -> Option<Option<Vec<u8>>> {
        let mut accumulator = self.sent.as_ref()?.clone();
        for operand in &self.operands {
            let mut out = Vec::with_capacity(8);
            self.function.fold(accumulator.as_deref(), operand, &mut out);
            accumulator = Some(out);
        }
        Some(accumulator)
    }

    fn add(&mut self, operand: &[u8]) {
        match self.operands.last_mut() {
            Some(last) if self.function.associative() => {
                self.spare.clear();
                self.function.fold(Some(last), operand, &mut self.spare);
                std::mem::swap(last, &mut self.spare);
            }
            _ => self.operands.push(operand.to_vec()),
        }
    }

    fn clear(&mut self) {
        self.sent = Some(None);
        self.operands.clear();
        self.cleared = true;
    }

    pub(super) fn bytes(&self) -> usize {
        ITEM_BYTES * self.operands.len()
    }

    pub(super) fn is_unknown(&self) -> bool {
        self.sent.is_none() && self.operands.is_empty()
    }

    pub(super) fn take_unsent(&mut self, at: Op<'_>, push: &mut impl FnMut(&Op<'_>)) {
        if std::mem::take(&mut self.cleared) {
            push(&Op { kind: OpKind::ReducingClear, ..at });
        }
        for operand in &self.operands {
            push(&Op { kind: OpKind::ReducingAdd, value: operand, expires_at_ms: self.deadline_ms, ..at });
        }
        self.sent = self.view();
        self.operands.clear();
    }
}
