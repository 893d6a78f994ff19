//! One memory budget for everything of a server that grows with its work.
//!
//! [`MemoryConfig`] and [`Shares`] say who may take how much; [`Budget`] counts what is not RocksDB's: the
//! rows of memory backends, old versions of them that snapshots still hold, and requests and answers on
//! their way. RocksDB counts for itself: block cache and write buffers are one cache of a fixed size.
//!
//! Invariants: a request waits while there is no room, an answer never does (its request holds what others
//! wait for); rows never take the last quarter, so that requests, clean-up among them, always come through.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use sysinfo::{ProcessesToUpdate, System};
use tokio::sync::Notify;

use super::RocksConfig;

/// What a process takes before it does anything: code, stacks, connections, metadata of tables.
const BASE: ByteSize = ByteSize::mib(64);
/// What a thread that compacts takes beside cache and write buffers: read-ahead and the file being built.
const COMPACTION: ByteSize = ByteSize::mib(8);
/// The least that must be left to be shared.
const SHARED_MIN: ByteSize = ByteSize::mib(64);
/// Budget of a process that nothing limits.
const UNLIMITED: ByteSize = ByteSize::gib(1);
/// Share of a container's limit that is the budget: the rest is for what no allocator counts, such as page
/// tables, sockets' buffers and fragments.
const LIMIT_SHARE: f64 = 0.75;

/// `[memory]`: how much memory a server may take.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryConfig {
    /// All of it; by default three quarters of the container's limit, or 1 GiB if there is none.
    pub budget: Option<ByteSize>,
    /// Share of what is left after the process itself that RocksDB gets for its block cache and write buffers; what
    /// remains is for the rows of memory backends, requests and answers.
    pub rocksdb_share: f64,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { budget: None, rocksdb_share: 0.5 }
    }
}

/// Who may take how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// The whole budget.
    pub budget: ByteSize,
    /// RocksDB's blocks, indexes and filters.
    pub block_cache: ByteSize,
    /// RocksDB's unflushed writes.
    pub write_buffers: ByteSize,
    /// Rows of memory backends, requests and answers.
    pub rest: ByteSize,
}

impl Shares {
    /// What RocksDB backends get in a process that nothing limits, such as a tool.
    pub fn of(rocksdb: &RocksConfig) -> super::Result<Self> {
        let refused = |problems: Vec<String>| super::Error::Io { path: "memory".into(), detail: problems.join("; ") };
        MemoryConfig::default().shares_of(UNLIMITED, "", rocksdb, ByteSize(0)).map_err(refused)
    }
}

impl MemoryConfig {
    /// Divides the budget. `buffers` is what uploads may hold; the problems name keys of the configuration.
    pub fn shares(&self, rocksdb: &RocksConfig, buffers: ByteSize) -> Result<Shares, Vec<String>> {
        if let Some(budget) = self.budget {
            return self.shares_of(budget, "", rocksdb, buffers);
        }
        let Some(limit) = container_limit() else { return self.shares_of(UNLIMITED, "", rocksdb, buffers) };
        let from = format!(", three quarters of the container's limit of {}", ByteSize(limit));
        self.shares_of(ByteSize(share(limit, LIMIT_SHARE)), &from, rocksdb, buffers)
    }

    /// Divides a budget; `from` says where it comes from, if not from the configuration.
    fn shares_of(
        &self,
        budget: ByteSize,
        from: &str,
        rocksdb: &RocksConfig,
        buffers: ByteSize,
    ) -> Result<Shares, Vec<String>> {
        if !(0.0..=0.9).contains(&self.rocksdb_share) {
            return Err(vec![format!("memory.rocksdb_share is {}: 0 to 0.9", self.rocksdb_share)]);
        }
        let settings = rocksdb.settings();
        let compactions = COMPACTION * u64::from(settings.background_threads);
        let fixed = BASE + compactions + buffers;
        let Some(shared) = budget.0.checked_sub(fixed.0).filter(|left| *left >= SHARED_MIN.0) else {
            let least = fixed + SHARED_MIN;
            return Err(vec![format!(
                "memory.budget is {budget}{from}: at least {least} ({BASE} for the process, {compactions} for compactions, \
                 {buffers} for uploads, {SHARED_MIN} to work with); fewer rocksdb.background_threads or \
                 checkpoint.uploads_parallel need less"
            )]);
        };
        let engine = (shared as f64 * self.rocksdb_share) as u64;
        let write_buffers = settings.write_buffer_bytes.map_or(share(engine, settings.write_buffer_ratio), |set| set.0);
        let block_cache = settings.block_cache_bytes.map_or(engine.saturating_sub(write_buffers), |set| set.0);
        let rest = shared.checked_sub(block_cache.saturating_add(write_buffers));
        match rest.filter(|rest| *rest >= shared / 10) {
            Some(rest) => Ok(Shares {
                budget,
                block_cache: ByteSize(block_cache),
                write_buffers: ByteSize(write_buffers),
                rest: ByteSize(rest),
            }),
            None => Err(vec![format!(
                "rocksdb.block_cache_bytes and rocksdb.write_buffer_bytes are {} and {}: together at most {}, nine tenths \
                 of what memory.budget = {budget} leaves",
                ByteSize(block_cache),
                ByteSize(write_buffers),
                ByteSize(shared / 10 * 9)
            )]),
        }
    }
}

fn share(of: u64, ratio: f64) -> u64 {
    (of as f64 * ratio) as u64
}

/// The limit of this process's container, if it is below what the machine has.
fn container_limit() -> Option<u64> {
    let mut system = System::new().ok()?;
    system.refresh_memory();
    let process = sysinfo::get_current_pid().ok()?;
    system.refresh_processes(ProcessesToUpdate::Some(&[process]), false);
    let limit = system.process(process)?.cgroup_limits()?.total_memory;
    (limit < system.total_memory()).then_some(limit)
}

/// Counts what is held of the memory that is not RocksDB's.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    /// Bytes of rows and of old versions of them.
    rows: AtomicU64,
    /// Bytes of requests and answers.
    passing: AtomicU64,
    freed: Notify,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(limit: ByteSize) -> Arc<Self> {
        let (rows, passing) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { limit: limit.0, rows, passing, freed: Notify::new() })
    }

    /// A budget that never ends, for tests and tools.
    pub fn unlimited() -> Arc<Self> {
        Self::new(ByteSize(u64::MAX))
    }

    /// The most that one stream may have on its way: several of them always have room.
    pub fn stream_max(&self) -> u64 {
        self.limit / 8
    }

    /// Bytes that rows may take.
    pub fn rows_max(&self) -> u64 {
        self.limit / 4 * 3
    }

    /// Bytes of rows at present.
    pub fn rows(&self) -> u64 {
        self.rows.load(Relaxed)
    }

    /// True if no row may be added now.
    pub fn is_full(&self) -> bool {
        self.rows() >= self.rows_max()
    }

    /// Waits until there is room, and holds it. A request for more than there can ever be waits for any room.
    pub async fn admit(self: &Arc<Self>, bytes: u64) -> Passing {
        loop {
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            let limit = self.limit.saturating_sub(self.rows());
            let fits = |held: u64| (held < limit).then(|| held.saturating_add(bytes));
            if self.passing.fetch_update(Relaxed, Relaxed, fits).is_ok() {
                return Passing { budget: self.clone(), bytes };
            }
            freed.await;
        }
    }

    /// Holds room for an answer, whether there is any or not.
    pub fn hold(self: &Arc<Self>, bytes: u64) -> Passing {
        self.passing.fetch_add(bytes, Relaxed);
        Passing { budget: self.clone(), bytes }
    }

    fn release(&self, of: &AtomicU64, bytes: u64) {
        if bytes > 0 {
            of.fetch_sub(bytes, Relaxed);
            self.freed.notify_waiters();
        }
    }
}

/// Room that a request or an answer holds until it is dropped.
#[derive(Debug)]
pub struct Passing {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Drop for Passing {
    fn drop(&mut self) {
        self.budget.release(&self.budget.passing, self.bytes);
    }
}

/// Room that rows hold until this is dropped.
#[derive(Debug)]
pub struct Held {
    budget: Arc<Budget>,
    bytes: AtomicU64,
}

impl Held {
    /// Holds nothing yet.
    pub fn new(budget: &Arc<Budget>) -> Self {
        Self { budget: budget.clone(), bytes: AtomicU64::new(0) }
    }

    /// The budget that it is part of.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Holds so many bytes more.
    pub fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
        self.budget.rows.fetch_add(bytes, Relaxed);
    }

    /// Holds so many bytes from now on.
    pub fn set(&self, bytes: u64) {
        let before = self.bytes.swap(bytes, Relaxed);
        self.budget.rows.fetch_add(bytes.saturating_sub(before), Relaxed);
        self.budget.release(&self.budget.rows, before.saturating_sub(bytes));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.release(&self.budget.rows, self.bytes());
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn shares(budget: ByteSize, rocksdb: &RocksConfig) -> Result<Shares, Vec<String>> {
        MemoryConfig::default().shares_of(budget, "", rocksdb, ByteSize::mib(32))
    }

    #[test]
    fn a_budget_is_divided_and_nothing_of_it_twice() {
        let shared = ByteSize::gib(1).0 - ByteSize::mib(64 + 2 * 8 + 32).0;
        let Shares { block_cache, write_buffers, rest, .. } =
            shares(ByteSize::gib(1), &RocksConfig::default()).unwrap();
        assert_eq!(block_cache.0 + write_buffers.0, shared / 2);
        assert_eq!(block_cache.0 + write_buffers.0 + rest.0, shared);
        let set = RocksConfig { block_cache_bytes: Some(ByteSize::mib(100)), ..RocksConfig::default() };
        let with = shares(ByteSize::gib(1), &set).unwrap();
        assert_eq!((with.block_cache, with.write_buffers), (ByteSize::mib(100), write_buffers));
        assert_eq!(with.block_cache.0 + with.write_buffers.0 + with.rest.0, shared);
    }

    #[test]
    fn too_small_a_budget_is_refused_with_the_least_that_is_allowed() {
        let refused = shares(ByteSize::mib(128), &RocksConfig::default()).unwrap_err();
        assert!(refused[0].starts_with("memory.budget is 128.0 MiB: at least 176.0 MiB"), "{refused:?}");
        assert!(shares(ByteSize::mib(176), &RocksConfig::default()).is_ok());
        let large = RocksConfig { block_cache_bytes: Some(ByteSize::gib(1)), ..RocksConfig::default() };
        let refused = shares(ByteSize::gib(1), &large).unwrap_err();
        assert!(refused[0].contains("rocksdb.block_cache_bytes"), "{refused:?}");
        let config = MemoryConfig { rocksdb_share: 1.0, ..MemoryConfig::default() };
        let refused = config.shares(&RocksConfig::default(), ByteSize(0)).unwrap_err();
        assert_eq!(refused, ["memory.rocksdb_share is 1: 0 to 0.9"]);
    }

    #[test]
    fn a_request_waits_until_another_is_done_and_an_answer_does_not() {
        let budget = Budget::new(ByteSize(100));
        let first = budget.admit(99).now_or_never().unwrap();
        let large = budget.admit(1000).now_or_never().expect("there is some room");
        let answer = budget.hold(50);
        let mut waiting = Box::pin(budget.admit(1));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(large);
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(first);
        assert!(waiting.as_mut().now_or_never().is_some());
        drop(answer);
        assert_eq!(budget.passing.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn whoever_waits_is_woken() {
        let budget = Budget::new(ByteSize(100));
        let first = budget.admit(100).await;
        let waiting: Vec<_> = (0..10)
            .map(|_| {
                let budget = budget.clone();
                tokio::spawn(async move { drop(budget.admit(60).await) })
            })
            .collect();
        tokio::task::yield_now().await;
        drop(first);
        for waiting in waiting {
            waiting.await.unwrap();
        }
    }

    #[test]
    fn rows_leave_room_for_requests() {
        let budget = Budget::new(ByteSize(100));
        let (rows, old) = (Held::new(&budget), Held::new(&budget));
        rows.set(60);
        assert!(!budget.is_full());
        old.add(20);
        assert!(budget.is_full());
        let request = budget.admit(30).now_or_never().expect("a quarter is not for rows");
        assert!(budget.admit(1).now_or_never().is_none());
        rows.set(30);
        assert!(!budget.is_full() && budget.admit(1).now_or_never().is_some());
        drop((rows, old, request));
        assert_eq!((budget.rows(), budget.passing.load(Relaxed)), (0, 0));
    }
}
