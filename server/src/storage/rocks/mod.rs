//! The RocksDB backend: one database per shard, one column family per table.
//!
//! The family `default`, which RocksDB insists on, never holds data: it could not be imported into
//! another database.
//!
//! Invariants: a database is written either always with its log or never; what a [`Frozen`] lists is on
//! disk until the `Frozen` is done, however the database compacts meanwhile.

mod clip;
mod columns;
mod freeze;
mod idle;
mod join;
mod logs;
mod options;
mod seal;
mod sst;
mod stall;
#[cfg(test)]
mod tests;
mod view;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use forebay_proto::key_group::KeyGroupRange;
use rocksdb::{
    BottommostLevelCompaction, BoundColumnFamily, ColumnFamilyDescriptor, CompactOptions, DBWithThreadMode, ErrorKind,
    FlushOptions, MultiThreaded, WriteBatch, WriteOptions,
};
use uuid::Uuid;

use super::{Backend, Error, Frozen, Logging, Read, Result, Show, Span, Table, TableId, Visitor, Write, Writes};
use crate::storage;
use columns::{Column, SHARD_TABLE};
pub use options::RocksShared;

type Db = DBWithThreadMode<MultiThreaded>;

/// How much of a write-ahead log may be damaged at an open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalTolerance {
    /// Its end may be cut off: the directory of a process that died. An empty directory is a new backend.
    Tail,
    /// Nothing: the files of a snapshot, checked against the list that came with them.
    None,
}

/// A backend on disk.
pub struct RocksBackend {
    engine: Arc<Engine>,
    tables: BTreeMap<TableId, Column>,
    logged: bool,
    batch: WriteBatch,
}

/// An open database; fields are dropped in this order.
struct Engine {
    db: Db,
    path: PathBuf,
    ids: sst::Ids,
    /// Tells this open database from every other, and from itself opened again.
    session: String,
    log: logs::Log,
    last_write: idle::LastWrite,
    shared: Arc<RocksShared>,
}

impl RocksBackend {
    /// Opens the database in `dir`, an existing directory.
    ///
    /// A `logged` one takes no [`Logging::None`], an unlogged one nothing else; after a restart the
    /// former has all it was given, the latter some moment before. Damage is [`Error::Corrupt`].
    pub fn open(dir: &Path, shared: &Arc<RocksShared>, logged: bool, tolerance: WalTolerance) -> Result<Self> {
        match tolerance {
            WalTolerance::None => seal::verify(dir)?,
            WalTolerance::Tail => {}
        }
        let exists = columns::database_exists(dir)?;
        let options = shared.database(logged, tolerance, exists);
        let columns = if exists { columns::on_disk(&options, dir)? } else { vec![Column::new(SHARD_TABLE)] };
        let family = |name: &str, options| ColumnFamilyDescriptor::new(name, options);
        let families = columns
            .iter()
            .map(|column| family(&column.name, shared.table(column)))
            .chain([family(columns::DEFAULT, shared.family())]);
        let db = Db::open_cf_descriptors(&options, dir, families).map_err(|err| open_error(dir, err))?;
        // From here on the files change, and the list would only tell of damage that is none.
        seal::remove(dir)?;
        let (path, ids, shared) = (dir.to_path_buf(), sst::Ids::default(), Arc::clone(shared));
        let (session, log) = (Uuid::new_v4().simple().to_string(), shared.log());
        let last_write = idle::LastWrite::default();
        let engine = Arc::new(Engine { db, path, ids, session, log, last_write, shared });
        engine.shared.idle.join(Arc::downgrade(&engine));
        Ok(Self {
            engine,
            tables: columns.into_iter().map(|column| (column.table.id, column)).collect(),
            logged,
            batch: WriteBatch::default(),
        })
    }

    fn family(&self, table: TableId) -> Result<Arc<BoundColumnFamily<'_>>> {
        let column = self.tables.get(&table).ok_or(Error::NoTable(table))?;
        self.engine.family(&column.name)
    }

    fn write_options(&self, logging: Logging) -> Result<WriteOptions> {
        let mut options = WriteOptions::default();
        match (self.logged, logging) {
            (false, Logging::None) => options.disable_wal(true),
            (true, Logging::Buffered) => {}
            (true, Logging::Synced) => options.set_sync(true),
            // A mix would lose the unlogged part of what a later logged write builds on.
            (logged, logging) => {
                let kind = if logged { "a logged" } else { "an unlogged" };
                return Err(self.engine.io(format!("write with logging {logging:?} to {kind} database")));
            }
        }
        Ok(options)
    }

    /// Flushes all tables as of one moment.
    fn flush(&self) -> Result<()> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        // The barrier is not to wait for compactions; writes after it may have to.
        options.set_allow_write_stall(true);
        let families = self.tables.keys().map(|table| self.family(*table)).collect::<Result<Vec<_>>>()?;
        let families: Vec<_> = families.iter().collect();
        self.engine.db.flush_cfs_opt(&families, &options).map_err(|err| self.engine.error(err))
    }

    /// Fills the engine's batch.
    fn fill(&mut self, writes: &Writes) -> Result<()> {
        let mut batch = std::mem::take(&mut self.batch);
        batch.clear();
        let mut last: Option<(TableId, Arc<BoundColumnFamily<'_>>)> = None;
        for write in writes.iter() {
            let table = write.table();
            let family = match &last {
                Some((id, family)) if *id == table => family,
                _ => &last.insert((table, self.family(table)?)).1,
            };
            match write {
                Write::Put { key, value, .. } => batch.put_cf(family, key, value),
                Write::Merge { key, value, .. } => batch.merge_cf(family, key, value),
                Write::Delete { key, .. } => batch.delete_cf(family, key),
                Write::DeleteRange { start, end, .. } if start < end => batch.delete_range_cf(family, start, end),
                Write::DeleteRange { .. } => {}
            }
        }
        drop(last);
        self.batch = batch;
        Ok(())
    }
}

impl Read for RocksBackend {
    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Bytes>> {
        let row = self.engine.db.get_pinned_cf(&self.family(table)?, key);
        Ok(row.map_err(|err| self.engine.error(err))?.map(|row| Bytes::copy_from_slice(&row)))
    }

    fn multi_get(&self, table: TableId, keys: &[&[u8]], show: Show<'_>) -> Result<()> {
        let family = self.family(table)?;
        let rows = self.engine.db.batched_multi_get_cf_slice(&family, keys.iter().copied(), false);
        for (place, row) in rows.into_iter().enumerate() {
            show(place, row.map_err(|err| self.engine.error(err))?.as_deref());
        }
        Ok(())
    }

    fn scan(&self, table: TableId, start: &[u8], end: &[u8], visit: Visitor<'_>) -> Result<()> {
        let family = self.family(table)?;
        let options = view::range(end);
        view::walk(self.engine.db.raw_iterator_cf_opt(&family, options), start, end, visit)
            .map_err(|err| self.engine.error(err))
    }
}

impl Backend for RocksBackend {
    fn create_table(&mut self, table: Table) -> Result<()> {
        if self.tables.contains_key(&table.id) {
            return Ok(());
        }
        let column = Column::new(table);
        let options = self.engine.shared.table(&column);
        self.engine.db.create_cf(&column.name, &options).map_err(|err| self.engine.error(err))?;
        self.tables.insert(table.id, column);
        Ok(())
    }

    fn write(&mut self, writes: &Writes, logging: Logging) -> Result<()> {
        let mut options = self.write_options(logging)?;
        writes.check(|id| self.tables.get(&id).map(|column| column.table))?;
        if writes.is_empty() && logging != Logging::Synced {
            return Ok(());
        }
        self.fill(writes)?;
        match stall::write(&self.engine, &self.batch, &mut options, self.engine.shared.flush_bytes()) {
            // RocksDB does nothing more until there is room, nor does it sync; but what it was given is in its logs.
            Err(Error::DiskFull { .. }) if writes.is_empty() => logs::sync(&self.engine.path),
            written => written,
        }
    }

    fn freeze(&mut self) -> Result<Box<dyn Frozen>> {
        if !self.logged {
            self.flush()?;
        }
        let families = self.tables.values().map(|column| column.name.clone());
        Ok(Box::new(freeze::FrozenDb::new(Arc::clone(&self.engine), families)?))
    }

    fn view(&self) -> Result<Arc<dyn storage::View>> {
        Ok(Arc::new(view::View::of(&self.engine, &self.tables)))
    }

    fn expire(&mut self, table: TableId, until_ms: i64) {
        if let Some(column) = self.tables.get(&table) {
            column.given_up_ms.store(until_ms, Ordering::Relaxed);
        }
    }

    fn set_compaction_age(&mut self, table: TableId, age_s: u64) -> Result<()> {
        let column = self.tables.get_mut(&table).ok_or(Error::NoTable(table))?;
        // A change writes RocksDB's file of options anew.
        if column.compaction_age_s == age_s {
            return Ok(());
        }
        let family = self.engine.family(&column.name)?;
        let changed = self.engine.db.set_options_cf(&family, &[(options::COMPACTION_AGE, &age_s.to_string())]);
        changed.map_err(|err| self.engine.error(err))?;
        column.compaction_age_s = age_s;
        Ok(())
    }

    fn begin_flush(&self) {
        idle::flush(&self.engine);
    }

    fn compact(&mut self) -> Result<()> {
        self.flush()?;
        let mut options = CompactOptions::default();
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        for table in self.tables.keys() {
            let family = self.family(*table)?;
            self.engine.db.compact_range_cf_opt(&family, None::<&[u8]>, None::<&[u8]>, &options);
        }
        Ok(())
    }

    fn estimate(&self, table: TableId) -> u64 {
        let family = self.tables.get(&table).and_then(|column| self.engine.family(&column.name).ok());
        let keys = |family| self.engine.db.property_int_value_cf(&family, rocksdb::properties::ESTIMATE_NUM_KEYS);
        family.and_then(|family| keys(family).ok().flatten()).unwrap_or(0)
    }

    fn tables(&self) -> Vec<Table> {
        self.tables.values().map(|column| column.table).collect()
    }

    fn files(&mut self) -> Result<Option<Vec<Span>>> {
        self.flush()?;
        let shard = Column::new(SHARD_TABLE).name;
        let files = self.engine.db.live_files().map_err(|err| self.engine.error(err))?;
        let span = |file: rocksdb::LiveFile| Span {
            name: file.name.trim_start_matches('/').to_owned(),
            smallest: file.start_key.unwrap_or_default().into(),
            // Behind every key: what is not known may be anything.
            largest: file.end_key.unwrap_or_else(|| vec![0xff; 2]).into(),
        };
        Ok(Some(files.into_iter().filter(|file| file.column_family_name != shard).map(span).collect()))
    }

    fn clip(&mut self, range: KeyGroupRange) -> Result<()> {
        self.clip_rows(range)
    }

    fn bytes(&self) -> u64 {
        let sum = |property| {
            let families = self.tables.values().filter_map(|column| self.engine.family(&column.name).ok());
            let values = families.map(|family| self.engine.db.property_int_value_cf(&family, property));
            values.map(|value| value.ok().flatten().unwrap_or(0)).sum::<u64>()
        };
        sum(rocksdb::properties::LIVE_SST_FILES_SIZE) + sum(rocksdb::properties::CUR_SIZE_ALL_MEM_TABLES)
    }
}

impl Engine {
    fn family(&self, name: &str) -> Result<Arc<BoundColumnFamily<'_>>> {
        self.db.cf_handle(name).ok_or_else(|| self.io(format!("column family {name} is gone")))
    }

    fn error(&self, err: rocksdb::Error) -> Error {
        engine_error(&self.path, err)
    }

    fn io(&self, detail: String) -> Error {
        Error::Io { path: self.path.clone(), detail }
    }
}

/// The error of a database at `dir`.
fn engine_error(dir: &Path, err: rocksdb::Error) -> Error {
    let kind = err.kind();
    classify(dir, kind, err.into_string())
}

/// As [`engine_error`]; at an open what RocksDB does not support or accept is damage too.
fn open_error(dir: &Path, err: rocksdb::Error) -> Error {
    match err.kind() {
        ErrorKind::NotSupported | ErrorKind::InvalidArgument => Error::corrupt(dir, err.into_string()),
        _ => engine_error(dir, err),
    }
}

fn classify(dir: &Path, kind: ErrorKind, detail: String) -> Error {
    let path = dir.to_path_buf();
    let says = |words: &str| detail.contains(words);
    if kind == ErrorKind::Corruption || says("No such file or directory") {
        Error::Corrupt { path, detail }
    } else if says("No space left on device") || says("Disk quota exceeded") {
        Error::DiskFull { path }
    } else {
        Error::Io { path, detail }
    }
}
