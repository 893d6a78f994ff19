//! States in RocksDB within the process, as a Flink task's backend keeps them: a table per state, read and written for
//! every access. Nothing goes to the log: a Flink task relies on its checkpoints alone.

use std::{cell::Cell, marker::PhantomData};

use anyhow::{Result, bail};
use bytes::Bytes;
use forebay_integration_tests::bench::embedded::{Embedded, Rows};

use crate::states::{Keeper, Lists, States, Timer, Timers, Values};

/// Tables, by state.
pub const FIRST: u32 = 1;
pub const SECOND: u32 = 2;
pub const LISTS: u32 = 3;
pub const TIMERS: u32 = 4;
/// Bytes of a key, and of what follows it: a window, or the number of an element.
const NUMBER_BYTES: usize = 8;

/// Keeps states in RocksDB.
pub struct Local<'a>(PhantomData<&'a Embedded>);

impl<'a> Keeper for Local<'a> {
    type Values = LocalValues<'a>;
    type Lists = LocalLists<'a>;
    type Timers = LocalTimers<'a>;
}

/// An empty database of all states.
pub fn open() -> Result<Embedded> {
    Embedded::open_tables(false, TIMERS)
}

impl<'a> Local<'a> {
    /// The states of an empty database.
    pub fn states(embedded: &'a Embedded) -> Result<States<Self>> {
        let values = |table| anyhow::Ok(LocalValues { rows: embedded.table_of(table)?, window: 0 });
        Ok(States {
            first: values(FIRST)?,
            second: values(SECOND)?,
            lists: LocalLists { rows: embedded.table_of(LISTS)?, added: Cell::new(0) },
            timers: LocalTimers { rows: embedded.table_of(TIMERS)?, first_ms: Cell::new(i64::MAX) },
        })
    }
}

/// The row key of two numbers, in whose order rows are.
pub fn row_key(key: u64, behind: u64) -> [u8; 2 * NUMBER_BYTES] {
    let mut row = [0; 2 * NUMBER_BYTES];
    row[..NUMBER_BYTES].copy_from_slice(&key.to_be_bytes());
    row[NUMBER_BYTES..].copy_from_slice(&behind.to_be_bytes());
    row
}

/// Calls with every element of a list, in order: its row key and itself.
pub fn elements(rows: &Rows<'_>, key: u64, mut look: impl FnMut(&[u8], &[u8])) -> Result<()> {
    rows.scan(&row_key(key, 0), |row, element| {
        let of_list = row.starts_with(&key.to_be_bytes());
        if of_list {
            look(row, element);
        }
        Ok(of_list)
    })
}

/// Values by key and window.
pub struct LocalValues<'a> {
    rows: Rows<'a>,
    window: i64,
}

impl LocalValues<'_> {
    fn row(&self, key: u64) -> [u8; 2 * NUMBER_BYTES] {
        row_key(key, self.window.cast_unsigned())
    }
}

impl Values for LocalValues<'_> {
    fn window(&self, window: i64) -> Result<Self> {
        Ok(Self { rows: self.rows.clone(), window })
    }

    async fn get(&self, key: u64) -> Result<Option<Bytes>> {
        self.rows.get(&self.row(key), |value| Ok(value.map(Bytes::copy_from_slice)))
    }

    async fn put(&self, key: u64, value: &[u8]) -> Result<()> {
        self.rows.put(&self.row(key), value)
    }

    async fn clear(&self, key: u64) -> Result<()> {
        self.rows.delete(&self.row(key))
    }

    async fn prefetch(&self, _: &[u64]) -> Result<()> {
        Ok(())
    }
}

/// Lists by key: a row per element, so that adding one reads nothing.
pub struct LocalLists<'a> {
    rows: Rows<'a>,
    added: Cell<u64>,
}

impl Lists for LocalLists<'_> {
    async fn get(&self, key: u64) -> Result<Vec<Bytes>> {
        let mut found = Vec::new();
        elements(&self.rows, key, |_, element| found.push(Bytes::copy_from_slice(element)))?;
        Ok(found)
    }

    async fn add(&self, key: u64, element: &[u8]) -> Result<()> {
        let number = self.added.replace(self.added.get() + 1);
        self.rows.put(&row_key(key, number), element)
    }

    async fn clear(&self, key: u64) -> Result<()> {
        let mut found = Vec::new();
        elements(&self.rows, key, |row, _| found.push(row.to_vec()))?;
        found.iter().try_for_each(|row| self.rows.delete(row))
    }

    async fn prefetch(&self, _: &[u64]) -> Result<()> {
        Ok(())
    }
}

/// Timers in the order of their rows.
pub struct LocalTimers<'a> {
    rows: Rows<'a>,
    /// No timer is earlier, so that what has fired is not looked through again.
    first_ms: Cell<i64>,
}

impl Timers for LocalTimers<'_> {
    async fn register(&self, timer: Timer) -> Result<()> {
        self.first_ms.set(self.first_ms.get().min(timer.time_ms));
        self.rows.put(&timer_row(timer), b"")
    }

    async fn delete(&self, timer: Timer) -> Result<()> {
        self.rows.delete(&timer_row(timer))
    }

    async fn due(&self, up_to_ms: i64, limit: usize) -> Result<Vec<Timer>> {
        let mut due = Vec::new();
        if self.first_ms.get() > up_to_ms {
            return Ok(due);
        }
        let from = Timer { time_ms: self.first_ms.get(), key: 0, window: 0 };
        let mut first_ms = i64::MAX;
        self.rows.scan(&timer_row(from), |row, _| {
            let timer = timer_of(row)?;
            let wanted = timer.time_ms <= up_to_ms && due.len() < limit;
            if wanted {
                due.push(timer);
            } else {
                first_ms = timer.time_ms;
            }
            Ok(wanted)
        })?;
        // Those that are due are looked for until they are deleted.
        self.first_ms.set(due.first().map_or(first_ms, |timer| timer.time_ms));
        Ok(due)
    }
}

/// The row key of a timer: of none before 1970.
pub fn timer_row(timer: Timer) -> [u8; 3 * NUMBER_BYTES] {
    let mut row = [0; 3 * NUMBER_BYTES];
    row[..NUMBER_BYTES].copy_from_slice(&timer.time_ms.to_be_bytes());
    row[NUMBER_BYTES..].copy_from_slice(&row_key(timer.key, timer.window.cast_unsigned()));
    row
}

fn timer_of(row: &[u8]) -> Result<Timer> {
    let [time, key, window] = row.as_chunks().0 else { bail!("a row that is no timer") };
    let (time_ms, window) = (i64::from_be_bytes(*time), i64::from_be_bytes(*window));
    Ok(Timer { time_ms, key: u64::from_be_bytes(*key), window })
}
