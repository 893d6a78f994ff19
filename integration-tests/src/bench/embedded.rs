//! RocksDB in the process of its user, with the options that ours has: the options are read from a database that the
//! server's own code has made.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use bytesize::ByteSize;
use forebay_server::storage::{
    Backend as _, Logging, RocksBackend, RocksConfig, RocksShared, Table, TableId, WalTolerance, Writes,
    row::{self, Header},
};
use rocksdb::{BoundColumnFamily, Cache, DBWithThreadMode, Env, MultiThreaded, Options, WriteBatch, WriteOptions};
use tempfile::TempDir;

use super::data::Data;

const TABLE: Table = Table { id: TableId(1), merge: None };
/// The server's default.
const CACHE: ByteSize = ByteSize::mib(256);
const FILL_BATCH: usize = 1024;
/// What the server calls its column family.
const FAMILY: &str = "s1";

/// A database with one table.
pub struct Embedded {
    // Closed before its folder goes.
    db: DBWithThreadMode<MultiThreaded>,
    options: WriteOptions,
    _folder: TempDir,
}

impl Embedded {
    /// Opens an empty one; `logged` says whether writes go to its log, which is not synced.
    pub fn open(logged: bool) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("forebay-bench-embedded-").tempdir()?;
        let config = RocksConfig { block_cache_bytes: Some(CACHE), ..RocksConfig::default() };
        make(folder.path(), &config)?;
        let cache = Cache::new_hyper_clock_cache(usize::try_from(CACHE.0)?, 0);
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

    fn family(&self) -> Result<Arc<BoundColumnFamily<'_>>> {
        self.db.cf_handle(FAMILY).context("the table is there")
    }

    /// The table, to be used for many operations.
    pub fn table(&self) -> Result<Rows<'_>> {
        Ok(Rows { embedded: self, family: self.family()? })
    }
}

/// Makes a database as the server does, and closes it.
fn make(path: &Path, config: &RocksConfig) -> Result<()> {
    let shared = RocksShared::new(config)?;
    let mut backend = RocksBackend::open(path, &shared, true, WalTolerance::Tail)?;
    backend.create_table(TABLE)?;
    let mut writes = Writes::default();
    writes.put(TABLE.id, b"first", |out| row::encode(&Header::default(), b"", out));
    backend.write(&writes, Logging::Buffered)?;
    Ok(())
}

/// The rows of a database.
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

    /// Writes values in one batch.
    pub fn write<'a>(&self, pairs: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Result<()> {
        let mut batch = WriteBatch::default();
        pairs.into_iter().for_each(|(key, value)| batch.put_cf(&self.family, key, value));
        Ok(self.embedded.db.write_opt(&batch, &self.embedded.options)?)
    }
}
