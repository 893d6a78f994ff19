//! States in maps of the process: what the results must be, and how long a query takes without any store.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    rc::Rc,
};

use anyhow::Result;
use bytes::Bytes;

use crate::states::{Keeper, Lists, States, Timer, Timers, Values};

/// Keeps states in memory.
pub struct Memory;

impl Keeper for Memory {
    type Values = MemoryValues;
    type Lists = MemoryLists;
    type Timers = MemoryTimers;
}

/// Empty states.
pub fn states() -> States<Memory> {
    States {
        first: MemoryValues::default(),
        second: MemoryValues::default(),
        lists: MemoryLists::default(),
        timers: MemoryTimers::default(),
    }
}

/// Values by window and key.
#[derive(Default)]
pub struct MemoryValues {
    values: Rc<RefCell<HashMap<(i64, u64), Bytes>>>,
    window: i64,
}

impl Values for MemoryValues {
    fn window(&self, window: i64) -> Result<Self> {
        Ok(Self { values: self.values.clone(), window })
    }

    async fn get(&self, key: u64) -> Result<Option<Bytes>> {
        Ok(self.values.borrow().get(&(self.window, key)).cloned())
    }

    async fn put(&self, key: u64, value: &[u8]) -> Result<()> {
        self.values.borrow_mut().insert((self.window, key), Bytes::copy_from_slice(value));
        Ok(())
    }

    async fn clear(&self, key: u64) -> Result<()> {
        self.values.borrow_mut().remove(&(self.window, key));
        Ok(())
    }

    async fn prefetch(&self, _: &[u64]) -> Result<()> {
        Ok(())
    }
}

/// Lists by key.
#[derive(Default)]
pub struct MemoryLists(RefCell<HashMap<u64, Vec<Bytes>>>);

impl Lists for MemoryLists {
    async fn get(&self, key: u64) -> Result<Vec<Bytes>> {
        Ok(self.0.borrow().get(&key).cloned().unwrap_or_default())
    }

    async fn add(&self, key: u64, element: &[u8]) -> Result<()> {
        self.0.borrow_mut().entry(key).or_default().push(Bytes::copy_from_slice(element));
        Ok(())
    }

    async fn clear(&self, key: u64) -> Result<()> {
        self.0.borrow_mut().remove(&key);
        Ok(())
    }

    async fn prefetch(&self, _: &[u64]) -> Result<()> {
        Ok(())
    }
}

/// Timers in their order.
#[derive(Default)]
pub struct MemoryTimers(RefCell<BTreeSet<Timer>>);

impl Timers for MemoryTimers {
    async fn register(&self, timer: Timer) -> Result<()> {
        self.0.borrow_mut().insert(timer);
        Ok(())
    }

    async fn delete(&self, timer: Timer) -> Result<()> {
        self.0.borrow_mut().remove(&timer);
        Ok(())
    }

    async fn due(&self, up_to_ms: i64, limit: usize) -> Result<Vec<Timer>> {
        Ok(self.0.borrow().iter().take_while(|timer| timer.time_ms <= up_to_ms).take(limit).copied().collect())
    }
}
