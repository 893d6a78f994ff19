//! A backend that a shard owns and a test can still reach: to compact it, count its rows, weigh it.

use std::{
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
pub(super) struct Engine(Arc<Mutex<Box<dyn Backend>>>);

impl Engine {
    /// Opens the files of a directory.
    pub(super) fn open(kind: Kind, dir: &Path, origin: Origin) -> Result<Self> {
        // Caches and threads are for all shards of a process.
        static SHARED: OnceLock<Backends> = OnceLock::new();
        let shared = SHARED.get_or_init(|| Backends::new(&RocksConfig::default()).expect("caches can be made"));
        let backend = shared.open(kind.wire(), kind.durability(), dir, origin)?;
        Ok(Self(Arc::new(Mutex::new(backend))))
    }

    fn lock(&self) -> MutexGuard<'_, Box<dyn Backend>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
