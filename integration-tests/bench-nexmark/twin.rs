//! The fair twin: RocksDB within the process, behind the SDK's own cache, which is flushed as the SDK flushes it.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeSet, HashSet},
    marker::PhantomData,
    time::Instant,
};

use anyhow::{Result, bail};
use bytes::Bytes;
use forebay_client::cache::{At, BatchLimits, Cache};
use forebay_integration_tests::bench::embedded::{Changes, Embedded, Rows};
use forebay_proto::{
    packed::{Op, Ops},
    packed_list,
    v1::OpKind,
};

use crate::{
    local::{FIRST, LISTS, SECOND, TIMERS, elements, row_key, timer_row},
    states::{Keeper, Lists, States, Timer, Timers, Values},
};

/// The SDK's defaults: bytes of the cache, how long a write may stay unsent, how large a batch becomes.
const CACHE_BYTES: usize = 64 << 20;
const DELAY_MS: u64 = 1_000;
const LIMITS: BatchLimits = BatchLimits { ops_max: 1024, bytes: 256 << 10, batches_max: usize::MAX };

/// Keeps states in RocksDB behind the cache.
pub struct Twin<'a>(PhantomData<&'a Embedded>);

impl<'a> Keeper for Twin<'a> {
    type Values = TwinValues<'a>;
    type Lists = TwinLists<'a>;
    type Timers = TwinTimers<'a>;
}

/// What the states of a database share.
pub struct Store<'a> {
    embedded: &'a Embedded,
    cache: RefCell<Cache>,
    tables: [Rows<'a>; TIMERS as usize],
    /// Number of elements that were ever added to lists.
    added: Cell<u64>,
    started: Instant,
}

impl<'a> Store<'a> {
    /// Puts a cache before an empty database.
    pub fn new(embedded: &'a Embedded) -> Result<Self> {
        Ok(Self {
            embedded,
            cache: RefCell::new(Cache::new(CACHE_BYTES, HashSet::new())),
            tables: [
                embedded.table_of(FIRST)?,
                embedded.table_of(SECOND)?,
                embedded.table_of(LISTS)?,
                embedded.table_of(TIMERS)?,
            ],
            added: Cell::new(0),
            started: Instant::now(),
        })
    }

    /// Its states.
    pub fn states(&'a self) -> States<Twin<'a>> {
        States {
            first: TwinValues { store: self, state: FIRST, window: [0; 8] },
            second: TwinValues { store: self, state: SECOND, window: [0; 8] },
            lists: TwinLists(self),
            timers: TwinTimers { store: self, queue: RefCell::default() },
        }
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn rows(&self, state: u32) -> &Rows<'a> {
        &self.tables[state as usize - 1]
    }

    /// Writes, and flushes if too much is unsent.
    fn write(&self, write: impl FnOnce(&mut Cache, u64)) -> Result<()> {
        let mut cache = self.cache.borrow_mut();
        write(&mut cache, self.now_ms());
        let full = cache.wants_flush();
        drop(cache);
        if full { self.flush(u64::MAX) } else { Ok(()) }
    }

    /// Flushes what has been unsent for as long as the SDK lets it be.
    pub fn flush_old(&self) -> Result<()> {
        self.now_ms().checked_sub(DELAY_MS).map_or(Ok(()), |until_ms| self.flush(until_ms))
    }

    /// Flushes what has been unsent since then.
    pub fn flush(&self, until_ms: u64) -> Result<()> {
        for (_, batch) in self.cache.borrow_mut().take_unsent(until_ms, LIMITS).batches {
            let mut changes = Changes::default();
            for op in Ops::decode(&batch)?.iter() {
                self.add(&mut changes, &op)?;
            }
            self.embedded.apply(&changes)?;
        }
        Ok(())
    }

    fn add(&self, changes: &mut Changes, op: &Op<'_>) -> Result<()> {
        let rows = self.rows(op.state_id);
        match op.kind {
            OpKind::ValuePut => changes.put(rows, &[op.key, op.namespace].concat(), op.value),
            OpKind::ValueClear => changes.delete(rows, &[op.key, op.namespace].concat()),
            OpKind::SortedSetAdd => changes.put(rows, op.map_key, b""),
            OpKind::SortedSetRemove => changes.delete(rows, op.map_key),
            OpKind::ListAppend => self.append(changes, op.key, op.value),
            OpKind::ListAppendAll => packed_list::iter(op.value).for_each(|it| self.append(changes, op.key, it)),
            OpKind::ListPut | OpKind::ListClear => {
                elements(rows, number(op.key), |row, _| changes.delete(rows, row))?;
                packed_list::iter(op.value).for_each(|it| self.append(changes, op.key, it));
            }
            kind => bail!("the cache sends {kind:?}"),
        }
        Ok(())
    }

    fn append(&self, changes: &mut Changes, key: &[u8], element: &[u8]) {
        let number_of = self.added.replace(self.added.get() + 1);
        changes.put(self.rows(LISTS), &row_key(number(key), number_of), element);
    }
}

fn number(key: &[u8]) -> u64 {
    key.first_chunk().map_or(0, |key| u64::from_be_bytes(*key))
}

/// Values by key and window.
pub struct TwinValues<'a> {
    store: &'a Store<'a>,
    state: u32,
    window: [u8; 8],
}

impl TwinValues<'_> {
    fn at<'k>(&'k self, key: &'k [u8; 8]) -> At<'k> {
        At { state: self.state, key, namespace: &self.window, shard: 0, key_group: None }
    }
}

impl Values for TwinValues<'_> {
    fn window(&self, window: i64) -> Result<Self> {
        Ok(Self { window: window.to_be_bytes(), ..*self })
    }

    async fn get(&self, key: u64) -> Result<Option<Bytes>> {
        let (key, mut cache) = (key.to_be_bytes(), self.store.cache.borrow_mut());
        let at = self.at(&key);
        if let Some(known) = cache.value(at) {
            return Ok(known.map(Bytes::copy_from_slice));
        }
        let reading = cache.read_value(at);
        let row = [key, self.window].concat();
        self.store.rows(self.state).get(&row, |value| {
            cache.fill_value(reading, value);
            Ok(value.map(Bytes::copy_from_slice))
        })
    }

    async fn put(&self, key: u64, value: &[u8]) -> Result<()> {
        self.store.write(|cache, now_ms| cache.value_put(self.at(&key.to_be_bytes()), Some(value), now_ms))
    }

    async fn clear(&self, key: u64) -> Result<()> {
        self.store.write(|cache, now_ms| cache.value_put(self.at(&key.to_be_bytes()), None, now_ms))
    }

    async fn prefetch(&self, _: &[u64]) -> Result<()> {
        Ok(())
    }
}

/// Lists by key.
pub struct TwinLists<'a>(&'a Store<'a>);

fn list_at(key: &[u8; 8]) -> At<'_> {
    At { state: LISTS, key, namespace: &[], shard: 0, key_group: None }
}

impl Lists for TwinLists<'_> {
    async fn get(&self, key: u64) -> Result<Vec<Bytes>> {
        let (bytes, mut cache) = (key.to_be_bytes(), self.0.cache.borrow_mut());
        if let Some(known) = cache.list(list_at(&bytes)) {
            return Ok(known.cloned().collect());
        }
        let reading = cache.read_list(list_at(&bytes));
        let mut found = Vec::new();
        elements(self.0.rows(LISTS), key, |_, element| found.push(Bytes::copy_from_slice(element)))?;
        cache.fill_list(reading, found);
        // With what is unsent behind it.
        Ok(cache.list(list_at(&bytes)).into_iter().flatten().cloned().collect())
    }

    async fn add(&self, key: u64, element: &[u8]) -> Result<()> {
        let element = Bytes::copy_from_slice(element);
        self.0.write(|cache, now_ms| cache.list_append(list_at(&key.to_be_bytes()), [element], now_ms))
    }

    async fn clear(&self, key: u64) -> Result<()> {
        self.0.write(|cache, now_ms| cache.list_put(list_at(&key.to_be_bytes()), [], now_ms))
    }

    async fn prefetch(&self, _: &[u64]) -> Result<()> {
        Ok(())
    }
}

/// Timers; the SDK keeps those that are near in memory, too.
pub struct TwinTimers<'a> {
    store: &'a Store<'a>,
    queue: RefCell<BTreeSet<Timer>>,
}

impl TwinTimers<'_> {
    fn change(&self, timer: Timer, there: bool) -> Result<()> {
        let at = At { state: TIMERS, key: &[], namespace: &[], shard: 0, key_group: Some(0) };
        let element = Bytes::copy_from_slice(&timer_row(timer));
        self.store.write(|cache, now_ms| cache.set_put(at, element, there, now_ms))
    }
}

impl Timers for TwinTimers<'_> {
    async fn register(&self, timer: Timer) -> Result<()> {
        self.queue.borrow_mut().insert(timer);
        self.change(timer, true)
    }

    async fn delete(&self, timer: Timer) -> Result<()> {
        self.queue.borrow_mut().remove(&timer);
        self.change(timer, false)
    }

    async fn due(&self, up_to_ms: i64, limit: usize) -> Result<Vec<Timer>> {
        let queue = self.queue.borrow();
        Ok(queue.iter().take_while(|timer| timer.time_ms <= up_to_ms).take(limit).copied().collect())
    }
}
