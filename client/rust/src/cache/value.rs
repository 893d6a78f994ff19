//! Values in the cache.

use bytes::Bytes;
use forebay_proto::{packed::Op, v1::OpKind};

use super::{
    At, Cache, Reading,
    body::{Body, ITEM_BYTES, Unsent},
};

#[derive(Debug, Default)]
pub(super) struct Value {
    /// `Some(None)`: it is known to be absent.
    known: Option<Option<Bytes>>,
    deadline_ms: Option<i64>,
    unsent: Unsent,
}

impl Cache {
    /// Returns a value (`Some(None)`: absent); `None` if it is not known.
    pub fn value(&mut self, at: At<'_>) -> Option<Option<&Bytes>> {
        self.value_until(at).map(|(value, _)| value)
    }

    /// Returns a value and its deadline, by the state's clock.
    pub fn value_until(&mut self, at: At<'_>) -> Option<(Option<&Bytes>, Option<i64>)> {
        match self.find(at)? {
            Body::Value(value) => value.known.as_ref().map(|known| (known.as_ref(), value.deadline_ms)),
            _ => None,
        }
    }

    /// Writes a value; `None` clears it.
    pub fn value_put(&mut self, at: At<'_>, value: Option<Bytes>, now_ms: u64) {
        self.value_put_until(at, value, None, now_ms);
    }

    /// Writes a value that has a deadline, by the state's clock.
    pub fn value_put_until(&mut self, at: At<'_>, value: Option<Bytes>, deadline_ms: Option<i64>, now_ms: u64) {
        self.write(at, now_ms, empty, |body| {
            if let Body::Value(body) = body {
                let deadline_ms = deadline_ms.filter(|_| value.is_some());
                *body = Value { known: Some(value), deadline_ms, unsent: Unsent::Write };
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
                body.known = Some(None);
                body.deadline_ms = None;
            }
        });
    }

    /// Begins a read of a value; it is sent behind everything that was taken to be sent.
    pub fn read_value(&mut self, at: At<'_>) -> Reading {
        self.read(at, empty)
    }

    /// Ends a read of a value.
    pub fn fill_value(&mut self, reading: Reading, value: Option<Bytes>) {
        self.fill_value_until(reading, value, None);
    }

    /// Ends a read of a value that has a deadline.
    pub fn fill_value_until(&mut self, reading: Reading, value: Option<Bytes>, deadline_ms: Option<i64>) {
        self.fill(reading, |body| {
            if let Body::Value(body) = body
                && body.known.is_none()
            {
                body.deadline_ms = deadline_ms.filter(|_| value.is_some());
                body.known = Some(value);
            }
        });
    }
}

fn empty() -> Body {
    Body::Value(Value::default())
}

impl Value {
    pub(super) fn bytes(&self) -> usize {
        self.known.as_ref().map_or(0, |known| known.as_ref().map_or(0, Bytes::len))
    }

    pub(super) fn unsent_bytes(&self) -> usize {
        match self.unsent {
            Unsent::Nothing => 0,
            Unsent::Touch => ITEM_BYTES,
            Unsent::Write => ITEM_BYTES + self.bytes(),
        }
    }

    pub(super) fn is_unknown(&self) -> bool {
        self.known.is_none()
    }

    pub(super) fn take_unsent(&mut self, at: Op<'_>, push: &mut impl FnMut(&Op<'_>)) {
        let unsent = std::mem::take(&mut self.unsent);
        match (unsent, self.known.as_ref().and_then(Option::as_ref)) {
            (Unsent::Write, Some(value)) => {
                push(&Op { kind: OpKind::ValuePut, value, expires_at_ms: self.deadline_ms, ..at });
            }
            (Unsent::Write, None) => push(&Op { kind: OpKind::ValueClear, ..at }),
            (Unsent::Touch, Some(_)) => push(&Op { kind: OpKind::Touch, expires_at_ms: self.deadline_ms, ..at }),
            (Unsent::Touch, None) | (Unsent::Nothing, _) => {}
        }
    }
}
