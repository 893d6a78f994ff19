//! What a query keeps, whoever keeps it: values, lists and timers by key.
//!
//! A query is written over these traits once, and every side of the bench keeps the states in its own way. Calls are
//! async because those of the SDK are; the others never wait.

use anyhow::Result;
use bytes::Bytes;

/// One value per key.
pub trait Values: Sized {
    /// A view of a window; keys of one window have nothing to do with those of another.
    fn window(&self, window: i64) -> Result<Self>;
    async fn get(&self, key: u64) -> Result<Option<Bytes>>;
    async fn put(&self, key: u64, value: &[u8]) -> Result<()>;
    async fn clear(&self, key: u64) -> Result<()>;
    /// Says that these keys will be read soon.
    async fn prefetch(&self, keys: &[u64]) -> Result<()>;
}

/// A list per key.
pub trait Lists {
    async fn get(&self, key: u64) -> Result<Vec<Bytes>>;
    async fn add(&self, key: u64, element: &[u8]) -> Result<()>;
    async fn clear(&self, key: u64) -> Result<()>;
    /// Says that these keys will be read soon.
    async fn prefetch(&self, keys: &[u64]) -> Result<()>;
}

/// Moments of event time at which something is to be done with a key.
pub trait Timers {
    /// Registers a timer; the same again is no operation.
    async fn register(&self, timer: Timer) -> Result<()>;
    async fn delete(&self, timer: Timer) -> Result<()>;
    /// The first timers up to and with a moment, in their order; none only if there is none.
    async fn due(&self, up_to_ms: i64, limit: usize) -> Result<Vec<Timer>>;
}

/// A timer. The order is that of time, key and window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timer {
    pub time_ms: i64,
    pub key: u64,
    pub window: i64,
}

/// Who keeps states.
pub trait Keeper {
    type Values: Values;
    type Lists: Lists;
    type Timers: Timers;
}

/// The states that there are; a query uses some of them.
pub struct States<K: Keeper> {
    /// Values of the query's first step.
    pub first: K::Values,
    /// Values of its second step, or of the other side of a join.
    pub second: K::Values,
    pub lists: K::Lists,
    pub timers: K::Timers,
}
