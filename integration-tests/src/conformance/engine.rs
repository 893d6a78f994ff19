//! A backend that a shard owns and a test can still reach: to compact it, count its rows, weigh it.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use bytes::Bytes;
use forebay_proto::{key_group::KeyGroupRange, v1};
use forebay_server::{
    shard::open::{Backends, Origin},
    storage::{Backend, Frozen, Logging, Read, Result, RocksConfig, Table, TableId, View, Visitor, Writes},
};

/// Which backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// In memory.
    Memory,
    /// RocksDB, with a log.
    Rocks,
}

impl Kind {
    /// The backends of this build.
    pub const ALL: &'static [Self] =
        if cfg!(feature = "rocksdb") { &[Self::Memory, Self::Rocks] } else { &[Self::Memory] };

    pub(super) fn wire(self) -> v1::Backend {
        match self {
            Self::Memory => v1::Backend::Memory,
            Self::Rocks => v1::Backend::Rocksdb,
        }
    }

    pub(super) fn durability(self) -> v1::Durability {
        match self {
            Self::Memory => v1::Durability::None,
            Self::Rocks => v1::Durability::Wal,
        }
    }
}

/// A handle to a backend; clones are of the same.
#[derive(Clone)]
pub(super) struct Engine {
    backend: Arc<Mutex<Box<dyn Backend>>>,
    compaction_ages_s: Arc<Mutex<BTreeMap<TableId, u64>>>,
}

impl Engine {
    /// Opens the files of a directory.
    pub(super) fn open(kind: Kind, dir: &Path, origin: Origin) -> Result<Self> {
        // Caches and threads are for all shards of a process.
        static SHARED: OnceLock<Backends> = OnceLock::new();
        let shared = SHARED.get_or_init(|| Backends::new(&RocksConfig::default()).expect("caches can be made"));
        let backend = shared.open(kind.wire(), kind.durability(), dir, origin)?;
        Ok(Self { backend: Arc::new(Mutex::new(backend)), compaction_ages_s: Arc::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Box<dyn Backend>> {
        self.backend.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compacts everything.
    pub(super) fn compact(&self) {
        self.lock().compact().expect("it compacts");
    }

    /// Approximate size.
    pub(super) fn bytes(&self) -> u64 {
        self.lock().bytes()
    }

    /// Rows of a table as they lie there, expired or not.
    pub(super) fn rows(&self, table: TableId) -> usize {
        let mut rows = 0;
        // A table that was never written does not exist.
        let _ = self.lock().scan(table, b"", &[0xff; 8], &mut |_, _| {
            rows += 1;
            ControlFlow::Continue(())
        });
        rows
    }

    /// The compaction age of a table as it was told last, if it was since the open.
    pub(super) fn compaction_age_s(&self, table: TableId) -> Option<u64> {
        self.ages().get(&table).copied()
    }

    fn ages(&self) -> MutexGuard<'_, BTreeMap<TableId, u64>> {
        self.compaction_ages_s.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Read for Engine {
    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Bytes>> {
        self.lock().get(table, key)
    }

    fn scan(&self, table: TableId, start: &[u8], end: &[u8], visit: Visitor<'_>) -> Result<()> {
        self.lock().scan(table, start, end, visit)
    }
}

impl Backend for Engine {
    fn create_table(&mut self, table: Table) -> Result<()> {
        self.lock().create_table(table)
    }

    fn write(&mut self, writes: &Writes, logging: Logging) -> Result<()> {
        self.lock().write(writes, logging)
    }

    fn freeze(&mut self) -> Result<Box<dyn Frozen>> {
        self.lock().freeze()
    }

    fn view(&self) -> Result<Arc<dyn View>> {
        self.lock().view()
    }

    fn expire(&mut self, table: TableId, until_ms: i64) {
        self.lock().expire(table, until_ms);
    }

    fn set_compaction_age(&mut self, table: TableId, age_s: u64) -> Result<()> {
        self.ages().insert(table, age_s);
        self.lock().set_compaction_age(table, age_s)
    }

    fn compact(&mut self) -> Result<()> {
        self.lock().compact()
    }

    fn estimate(&self, table: TableId) -> u64 {
        self.lock().estimate(table)
    }

    fn tables(&self) -> Vec<Table> {
        self.lock().tables()
    }

    fn clip(&mut self, range: KeyGroupRange) -> Result<()> {
        self.lock().clip(range)
    }

    fn bytes(&self) -> u64 {
        self.lock().bytes()
    }
}
