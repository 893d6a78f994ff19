//! RocksDB in the process of its user, with the options that ours has: the options are read from a database that the
//! server's own code has made.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use forebay_server::storage::{
    Backend as _, Logging, RocksBackend, RocksConfig, RocksShared, Table, TableId, WalTolerance, Writes,
    row::{self, Header},
};
use rocksdb::{
    BoundColumnFamily, Cache, DBWithThreadMode, Env, MultiThreaded, Options, ReadOptions, WriteBatch, WriteOptions,
};
use tempfile::TempDir;

use super::{data::Data, stand::BLOCK_CACHE};

const FILL_BATCH: usize = 1024;
/// The key of the row that every table is made with.
const FIRST: &[u8] = b"\xff first";

/// A database with a table or several.
pub struct Embedded {
    // Closed before its folder goes.
    db: DBWithThreadMode<MultiThreaded>,
    options: WriteOptions,
    _folder: TempDir,
}

impl Embedded {
    /// Opens an empty one of one table; `logged` says whether writes go to its log, which is not synced.
    pub fn open(logged: bool) -> Result<Self> {
        Self::open_tables(logged, 1)
    }

    /// Opens an empty one of so many tables.
    pub fn open_tables(logged: bool, tables: u32) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("forebay-bench-embedded-").tempdir()?;
        let config = RocksConfig { block_cache_bytes: Some(BLOCK_CACHE), ..RocksConfig::default() };
        make(folder.path(), &config, tables)?;
        let cache = Cache::new_hyper_clock_cache(usize::try_from(BLOCK_CACHE.0)?, 0);
        let (options, families) = Options::load_latest(folder.path(), Env::new()?, true, cache)?;
        let db = DBWithThreadMode::open_cf_descriptors(&options, folder.path(), families)?;
        let mut options = WriteOptions::default();
        options.disable_wal(!logged);
        Ok(Self { db, options, _folder: folder })
    }

    /// Puts so many keys with stamp 0.
    pub fn fill(&self, data: &Data, count: u32) -> Result<()> {
        let rows = self.table()?;
        for first in (0..count).step_by(FILL_BATCH) {
            let keys = first..count.min(first + FILL_BATCH as u32);
            let values: Vec<_> = keys.clone().map(|index| data.value(index, 0)).collect();
            rows.write(keys.map(|index| data.key(index)).zip(values.iter().map(|value| &value[..])))?;
        }
        Ok(())
    }

    /// The first table, to be used for many operations.
    pub fn table(&self) -> Result<Rows<'_>> {
        self.table_of(1)
    }

    /// Writes what was gathered, all or nothing.
    pub fn apply(&self, changes: &Changes) -> Result<()> {
        Ok(self.db.write_opt(&changes.0, &self.options)?)
    }

    /// A table by its number, from 1 on.
    pub fn table_of(&self, number: u32) -> Result<Rows<'_>> {
        // What the server calls its column family.
        let family = self.db.cf_handle(&format!("s{number}")).context("the table is there")?;
        Ok(Rows { embedded: self, family })
    }
}

/// Makes a database as the server does, and closes it.
fn make(path: &Path, config: &RocksConfig, tables: u32) -> Result<()> {
    let shared = RocksShared::new(config)?;
    let mut backend = RocksBackend::open(path, &shared, true, WalTolerance::Tail)?;
    let mut writes = Writes::default();
    for id in (1..=tables).map(TableId) {
        backend.create_table(Table { id, merge: None })?;
        writes.put(id, FIRST, |out| row::encode(&Header::default(), b"", out));
    }
    backend.write(&writes, Logging::Buffered)?;
    Ok(())
}

/// Changes to any tables of a database that are written together.
#[derive(Default)]
pub struct Changes(WriteBatch);

impl Changes {
    /// Adds a value.
    pub fn put(&mut self, rows: &Rows<'_>, key: &[u8], value: &[u8]) {
        self.0.put_cf(&rows.family, key, value);
    }

    /// Adds the removal of a value.
    pub fn delete(&mut self, rows: &Rows<'_>, key: &[u8]) {
        self.0.delete_cf(&rows.family, key);
    }
}

/// The rows of a table.
#[derive(Clone)]
pub struct Rows<'a> {
    embedded: &'a Embedded,
    family: Arc<BoundColumnFamily<'a>>,
}

impl Rows<'_> {
    /// Reads a value.
    pub fn get<T>(&self, key: &[u8], look: impl FnOnce(Option<&[u8]>) -> Result<T>) -> Result<T> {
        let found = self.embedded.db.get_pinned_cf(&self.family, key)?;
        look(found.as_deref())
    }

    /// Reads values of many keys at once.
    pub fn multi_get(&self, keys: &[&[u8]], mut look: impl FnMut(usize, Option<&[u8]>) -> Result<()>) -> Result<()> {
        let found = self.embedded.db.batched_multi_get_cf(&self.family, keys.iter().copied(), false);
        for (place, value) in found.into_iter().enumerate() {
            look(place, value?.as_deref())?;
        }
        Ok(())
    }

    /// Writes a value.
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        Ok(self.embedded.db.put_cf_opt(&self.family, key, value, &self.embedded.options)?)
    }

    /// Removes a value.
    pub fn delete(&self, key: &[u8]) -> Result<()> {
        Ok(self.embedded.db.delete_cf_opt(&self.family, key, &self.embedded.options)?)
    }

    /// Looks at the rows from a key on, in order, until `look` has seen enough and says false.
    pub fn scan(&self, from: &[u8], mut look: impl FnMut(&[u8], &[u8]) -> Result<bool>) -> Result<()> {
        let mut options = ReadOptions::default();
        options.set_total_order_seek(true);
        let mut rows = self.embedded.db.raw_iterator_cf_opt(&self.family, options);
        rows.seek(from);
        while let Some((key, value)) = rows.item().filter(|(key, _)| *key != FIRST) {
            if !look(key, value)? {
                return Ok(());
            }
            rows.next();
        }
        Ok(rows.status()?)
    }

    /// Writes values in one batch.
    pub fn write<'a>(&self, pairs: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Result<()> {
        let mut batch = WriteBatch::default();
        pairs.into_iter().for_each(|(key, value)| batch.put_cf(&self.family, key, value));
        Ok(self.embedded.db.write_opt(&batch, &self.embedded.options)?)
    }
}
