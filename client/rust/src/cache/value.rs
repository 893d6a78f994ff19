//! Values in the cache.

use forebay_proto::{packed::Op, v1::OpKind};

use super::{
    At, Cache, Reading,
    body::{Body, ITEM_BYTES, Unsent},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Known {
    #[default]
    Nothing,
    Absent,
    There,
}

#[derive(Debug, Default)]
pub(super) struct Value {
    known: Known,
    /// The value; empty where there is none. Kept apart, so that a value that is written over keeps its memory.
    bytes: Vec<u8>,
    deadline_ms: Option<i64>,
    unsent: Unsent,
}

impl Cache {
    /// Returns a value (`Some(None)`: absent); `None` if it is not known.
    pub fn value(&mut self, at: At<'_>) -> Option<Option<&[u8]>> {
        self.value_until(at).map(|(value, _)| value)
    }

    /// Returns a value and its deadline, by the state's clock.
    #[inline]
    pub fn value_until(&mut self, at: At<'_>) -> Option<(Option<&[u8]>, Option<i64>)> {
        match self.find(at)? {
            Body::Value(value) if value.known != Known::Nothing => Some((value.present(), value.deadline_ms)),
            _ => None,
        }
    }

    /// Writes a value; `None` clears it.
    #[inline]
    pub fn value_put(&mut self, at: At<'_>, value: Option<&[u8]>, now_ms: u64) {
        self.value_put_until(at, value, None, now_ms);
    }

    /// Writes a value that has a deadline, by the state's clock.
    #[inline]
    pub fn value_put_until(&mut self, at: At<'_>, value: Option<&[u8]>, deadline_ms: Option<i64>, now_ms: u64) {
        self.write(at, now_ms, empty, |body| {
            if let Body::Value(body) = body {
                body.set(value, deadline_ms);
                body.unsent = Unsent::Write;
            }
        });
    }

    /// Gives a value that is known and there another deadline.
    pub fn value_touch(&mut self, at: At<'_>, deadline_ms: i64, now_ms: u64) {
        if self.value(at).flatten().is_none() {
            return;
        }
        self.write(at, now_ms, empty, |body| {
            if let Body::Value(body) = body {
                body.deadline_ms = Some(deadline_ms);
                if body.unsent == Unsent::Nothing {
                    body.unsent = Unsent::Touch;
                }
            }
        });
    }

    /// Makes a value absent whose deadline has passed. One that is unsent is sent as a clear, for what it
    /// has replaced may live longer.
    pub fn value_expire(&mut self, at: At<'_>) {
        self.change(at, |body| {
            if let Body::Value(body) = body {
                body.set(None, None);
            }
        });
    }

    /// Begins a read of a value; it is sent behind everything that was taken to be sent.
    pub fn read_value(&mut self, at: At<'_>) -> Reading {
        self.read(at, empty)
    }

    /// Ends a read of a value.
    pub fn fill_value(&mut self, reading: Reading, value: Option<&[u8]>) {
        self.fill_value_until(reading, value, None);
    }

    /// Ends a read of a value that has a deadline.
    pub fn fill_value_until(&mut self, reading: Reading, value: Option<&[u8]>, deadline_ms: Option<i64>) {
        self.fill(reading, |body| {
            if let Body::Value(body) = body
                && body.known == Known::Nothing
            {
                body.set(value, deadline_ms);
            }
        });
    }
}

fn empty() -> Body {
    Body::Value(Value::default())
}

impl Value {
    fn present(&self) -> Option<&[u8]> {
        (self.known == Known::There).then_some(&self.bytes)
    }

    fn set(&mut self, value: Option<&[u8]>, deadline_ms: Option<i64>) {
        match value {
            Some(value) => {
                self.bytes.clear();
                self.bytes.extend_from_slice(value);
                self.known = Known::There;
            }
            None => {
                self.bytes = Vec::new();
                self.known = Known::Absent;
            }
        }
        self.deadline_ms = deadline_ms.filter(|_| value.is_some());
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn unsent_bytes(&self) -> usize {
        match self.unsent {
            Unsent::Nothing => 0,
            Unsent::Touch => ITEM_BYTES,
            Unsent::Write => ITEM_BYTES + self.bytes(),
        }
    }

    pub(super) fn is_unknown(&self) -> bool {
        self.known == Known::Nothing
    }

    pub(super) fn take_unsent(&mut self, at: Op<'_>, push: &mut impl FnMut(&Op<'_>)) {
        let unsent = std::mem::take(&mut self.unsent);
        match (unsent, self.present()) {
            (Unsent::Write, Some(value)) => {
                push(&Op { kind: OpKind::ValuePut, value, expires_at_ms: self.deadline_ms, ..at });
            }
            (Unsent::Write, None) => push(&Op { kind: OpKind::ValueClear, ..at }),
            (Unsent::Touch, Some(_)) => push(&Op { kind: OpKind::Touch, expires_at_ms: self.deadline_ms, ..at }),
            (Unsent::Touch, None) | (Unsent::Nothing, _) => {}
        }
    }
}
