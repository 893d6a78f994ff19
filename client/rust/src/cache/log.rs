//! Operations that are sent as they are, in their order, by kinds of which the cache keeps nothing.

use bytes::Bytes;
use forebay_proto::{packed::Op, v1::OpKind};

use super::{
    At, Cache, Reading,
    body::{Body, ITEM_BYTES},
};

/// An operation at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// What is done.
    pub kind: OpKind,
    /// The map key.
    pub map_key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The deadline, by the state's clock.
    pub deadline_ms: Option<i64>,
}

#[derive(Debug, Default)]
pub(super) struct Log {
    ops: Vec<Logged>,
    bytes: usize,
}

impl Cache {
    /// Adds an operation behind those of the address that are unsent.
    pub fn log(&mut self, at: At<'_>, op: Logged, now_ms: u64) {
        self.write(at, now_ms, empty, |body| {
            if let Body::Log(log) = body {
                log.bytes += ITEM_BYTES + op.map_key.len() + op.value.len();
                log.ops.push(op);
            }
        });
    }

    /// Drops what is unsent of the address and adds an operation that makes it void, such as a clear.
    pub fn log_clear(&mut self, at: At<'_>, kind: OpKind, now_ms: u64) {
        self.write(at, now_ms, empty, |body| {
            if let Body::Log(log) = body {
                let op = Logged { kind, map_key: Bytes::new(), value: Bytes::new(), deadline_ms: None };
                *log = Log { ops: vec![op], bytes: ITEM_BYTES };
            }
        });
    }

    /// Begins a read of an address of which nothing is kept; [`Cache::cancel`] ends it.
    pub fn read_log(&mut self, at: At<'_>) -> Reading {
        self.read(at, empty)
    }
}

fn empty() -> Body {
    Body::Log(Log::default())
}

impl Log {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn take_unsent(&mut self, at: Op<'_>, push: &mut impl FnMut(&Op<'_>)) {
        for Logged { kind, map_key, value, deadline_ms } in self.ops.drain(..) {
            push(&Op { kind, map_key: &map_key, value: &value, expires_at_ms: deadline_ms, ..at });
        }
        self.bytes = 0;
    }
}
