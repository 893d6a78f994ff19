//! A server's disk: what survives the death of its process, and what a write call can do to it.
//!
//! [`SimBackend`] is the memory backend with a log that survives (`wal`). Invariant: a write call is whole
//! or not there; the process may die before it or behind it, so that what should have been one write call
//! and is two shows.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use forebay_proto::{key_group::KeyGroupRange, v1};
use forebay_server::{
    shard::disk::Local,
    storage::{
        Backend, Error, Frozen, FrozenFile, Logging, MemoryBackend, Read, Result, Table, TableId, View, Write, Writes,
    },
};
use prost::Message as _;

/// Rows of a table, in order.
pub type Rows = Vec<(Vec<u8>, Bytes)>;

/// All rows of a shard, frozen.
#[derive(Debug, Default)]
pub struct Image {
    /// By table.
    pub tables: Vec<(Table, Rows)>,
}

impl Image {
    /// The lanes' marks, by lane id.
    pub fn marks(&self) -> BTreeMap<Vec<u8>, u64> {
        let shard = self.tables.iter().filter(|(table, _)| table.id == TableId::SHARD).flat_map(|(_, rows)| rows);
        let lanes = shard.filter(|(key, _)| key.first() == Some(&b'l'));
        let record = |(_, row): &(Vec<u8>, Bytes)| v1::LaneRecord::decode(row.clone()).ok();
        lanes.filter_map(record).map(|record| (record.id.to_vec(), record.mark)).collect()
    }
}

/// What happens to the write calls of one process.
#[derive(Debug, Default)]
pub struct Control {
    /// The process dies at the write call after so many, before or behind it.
    pub crash: Option<(u32, Crash)>,
    /// So many write calls find the disk full.
    pub full: u32,
    /// True once the process has died in a write call.
    pub crashed: bool,
}

/// Where in a write call a process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// Nothing of it is there.
    Before,
    /// All of it is there.
    Behind,
}

/// A shard's rows on the disk.
struct Data {
    memory: MemoryBackend,
    tables: BTreeMap<TableId, Table>,
    frozen: Option<Arc<Image>>,
}

impl Default for Data {
    fn default() -> Self {
        let shard = Table { id: TableId::SHARD, merge: None };
        Self { memory: MemoryBackend::new(), tables: BTreeMap::from([(shard.id, shard)]), frozen: None }
    }
}

/// A shard on the disk.
#[derive(Default, Clone)]
pub struct ShardDisk {
    /// What the directory says it holds.
    pub local: Option<Local>,
    data: Arc<Mutex<Data>>,
}

impl ShardDisk {
    /// Opens the live backend for a process.
    pub fn open(&self, control: &Arc<Mutex<Control>>) -> Box<dyn Backend> {
        Box::new(SimBackend { data: self.data.clone(), control: control.clone() })
    }

    /// Makes the directory hold an image, or nothing.
    pub fn reset(&mut self, image: Option<&Image>) -> Result<()> {
        *self = Self::default();
        let mut data = lock(&self.data);
        let mut writes = Writes::default();
        for (table, rows) in image.iter().flat_map(|image| &image.tables) {
            data.memory.create_table(*table)?;
            data.tables.insert(table.id, *table);
            rows.iter().for_each(|(key, row)| writes.put(table.id, key, |out| out.extend_from_slice(row)));
        }
        data.memory.write(&writes, Logging::Buffered)
    }

    /// Takes what the last freeze has frozen.
    pub fn take_frozen(&self) -> Option<Arc<Image>> {
        lock(&self.data).frozen.take()
    }

    /// All rows as they are now.
    pub fn image(&self) -> Image {
        lock(&self.data).image()
    }
}

impl Data {
    fn image(&self) -> Image {
        let rows = |table: TableId| {
            let mut rows = Vec::new();
            let scanned = self.memory.scan(table, b"", &[0xff; 8], &mut |key, row| {
                rows.push((key.to_vec(), Bytes::copy_from_slice(row)));
                ControlFlow::Continue(())
            });
            scanned.map(|()| rows).unwrap_or_default()
        };
        Image { tables: self.tables.values().map(|table| (*table, rows(table.id))).collect() }
    }
}

struct SimBackend {
    data: Arc<Mutex<Data>>,
    control: Arc<Mutex<Control>>,
}

impl Read for SimBackend {
    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Bytes>> {
        lock(&self.data).memory.get(table, key)
    }

    fn scan(
        &self,
        table: TableId,
        start: &[u8],
        end: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        lock(&self.data).memory.scan(table, start, end, visit)
    }
}

impl Backend for SimBackend {
    fn create_table(&mut self, table: Table) -> Result<()> {
        let mut data = lock(&self.data);
        data.tables.entry(table.id).or_insert(table);
        data.memory.create_table(table)
    }

    fn write(&mut self, writes: &Writes, logging: Logging) -> Result<()> {
        let mut control = lock(&self.control);
        let dead = || Error::Io { path: PathBuf::from("sim"), detail: "the process died".into() };
        if control.crashed {
            return Err(dead());
        }
        if control.full > 0 && writes.iter().any(|write| matches!(write, Write::Put { .. } | Write::Merge { .. })) {
            control.full -= 1;
            return Err(Error::DiskFull { path: PathBuf::from("sim") });
        }
        if let Some((left, crash)) = control.crash {
            control.crash = left.checked_sub(1).map(|left| (left, crash));
            control.crashed = left == 0;
            if control.crashed && crash == Crash::Before {
                return Err(dead());
            }
        }
        lock(&self.data).memory.write(writes, logging)
    }

    fn freeze(&mut self) -> Result<Box<dyn Frozen>> {
        let mut data = lock(&self.data);
        data.frozen = Some(Arc::new(data.image()));
        Ok(Box::new(FrozenAway))
    }

    fn view(&self) -> Result<Arc<dyn View>> {
        lock(&self.data).memory.view()
    }

    fn expire(&mut self, table: TableId, until_ms: i64) {
        lock(&self.data).memory.expire(table, until_ms);
    }

    fn set_compaction_age(&mut self, table: TableId, age_s: u64) -> Result<()> {
        lock(&self.data).memory.set_compaction_age(table, age_s)
    }

    fn compact(&mut self) -> Result<()> {
        Ok(())
    }

    fn estimate(&self, table: TableId) -> u64 {
        lock(&self.data).memory.estimate(table)
    }

    fn tables(&self) -> Vec<Table> {
        lock(&self.data).memory.tables()
    }

    fn clip(&mut self, range: KeyGroupRange) -> Result<()> {
        lock(&self.data).memory.clip(range)
    }

    fn bytes(&self) -> u64 {
        lock(&self.data).memory.bytes()
    }
}

/// The image is taken by [`ShardDisk::take_frozen`]; there are no files.
struct FrozenAway;

impl Frozen for FrozenAway {
    fn write_files(self: Box<Self>, dir: &Path) -> Result<Vec<FrozenFile>> {
        Err(Error::Io { path: dir.to_owned(), detail: "the simulation has no files".into() })
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
