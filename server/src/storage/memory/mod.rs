//! The memory backend: ordered persistent maps, one per table.
//!
//! A freeze clones the roots of the maps; a later write copies only the nodes on its path that the
//! frozen maps still share. What is durable of it are its snapshots' files: one for each of its
//! [`segments`], which stays what it is until a row in it changes, and a list of them ([`index`]).
//!
//! Invariant: keys and rows are copied out of the batch, never slices of it, so no row pins a request.

mod blocks;
mod frozen;
mod index;
mod key;
mod rows;
mod segments;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    ops::Bound,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use forebay_proto::key_group::KeyGroupRange;
use imbl::OrdMap;

use super::{Backend, Error, Frozen, Logging, Read, Result, Show, Table, TableId, View, Visitor, Write, Writes, merge};
use frozen::FrozenSegments;
use key::Key;
use segments::{Marks, Segments, row_bytes};

/// What an entry takes beside its key and row: two handles and its share of the nodes.
const ENTRY_BYTES: u64 = 96;

/// A backend in memory, for tests and small state.
pub struct MemoryBackend {
    path: PathBuf,
    tables: Tables,
    account: Account,
}

/// What is kept of the backend as a whole.
struct Account {
    bytes: u64,
    marks: Marks,
}

type Tables = BTreeMap<TableId, Rows>;

#[derive(Clone)]
struct Rows {
    table: Table,
    map: OrdMap<Key, Bytes>,
    segments: Segments,
    /// Rows whose deadline is not behind this time are left out of snapshots.
    given_up_ms: i64,
}

impl MemoryBackend {
    /// Creates a backend with nothing in it but an empty [`TableId::SHARD`].
    pub fn new() -> Self {
        Self::with(PathBuf::from("memory"), Tables::new(), Marks::new(None))
    }

    /// Opens the snapshot whose files are in `dir`; without its file `memory.rows` it is empty.
    ///
    /// Segments keep the identity that they had: what does not change is not new to a checkpoint. Files that
    /// are not whole and intact are refused as [`Error::Corrupt`].
    pub fn open(dir: &Path) -> Result<Self> {
        let (tables, marks) = index::read(dir)?;
        Ok(Self::with(dir.to_path_buf(), tables, marks))
    }

    fn with(path: PathBuf, mut tables: Tables, mut marks: Marks) -> Self {
        let shard = Table { id: TableId::SHARD, merge: None };
        tables.entry(TableId::SHARD).or_insert_with(|| Rows::new(shard, &mut marks));
        let rows = tables.values().flat_map(|rows| &rows.map);
        let bytes = rows.map(|(key, row)| entry_bytes(key, row)).sum();
        Self { path, tables, account: Account { bytes, marks } }
    }

    fn apply(&mut self, write: Write<'_>) -> Result<()> {
        let table = write.table();
        let rows = self.tables.get_mut(&table).ok_or(Error::NoTable(table))?;
        match write {
            Write::Put { key, value, .. } => rows.put(&mut self.account, key, Bytes::copy_from_slice(value)),
            Write::Merge { key, value, .. } => {
                let refused = Error::Refused { table, detail: "merge into a table without a merge function" };
                let function = rows.table.merge.ok_or(refused)?;
                let existing = rows.map.get(key).map(|row| &row[..]);
                let row = merge::fold(function, existing, [value])
                    .map_err(|err| Error::corrupt(&self.path, format!("row of table {table}: {err}")))?;
                rows.put(&mut self.account, key, Bytes::from(row));
            }
            Write::Delete { key, .. } => rows.remove(&mut self.account, key),
            Write::DeleteRange { start, end, .. } => {
                let keys: Vec<Key> = rows.range(start, end).map(|(key, _)| key.clone()).collect();
                for key in keys {
                    rows.remove(&mut self.account, &key);
                }
            }
        }
        Ok(())
    }
}

impl Default for MemoryBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl Read for MemoryBackend {
    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Bytes>> {
        get(&self.tables, table, key)
    }

    fn multi_get(&self, table: TableId, keys: &[&[u8]], show: Show<'_>) -> Result<()> {
        let rows = &self.tables.get(&table).ok_or(Error::NoTable(table))?.map;
        keys.iter().enumerate().for_each(|(place, key)| show(place, rows.get(*key).map(|row| &row[..])));
        Ok(())
    }

    fn scan(&self, table: TableId, start: &[u8], end: &[u8], visit: Visitor<'_>) -> Result<()> {
        scan(&self.tables, table, start, end, visit)
    }
}

impl Backend for MemoryBackend {
    fn create_table(&mut self, table: Table) -> Result<()> {
        self.tables.entry(table.id).or_insert_with(|| Rows::new(table, &mut self.account.marks));
        Ok(())
    }

    fn write(&mut self, writes: &Writes, _logging: Logging) -> Result<()> {
        writes.check(|id| self.tables.get(&id).map(|rows| rows.table))?;
        writes.iter().try_for_each(|write| self.apply(write))
    }

    fn freeze(&mut self) -> Result<Box<dyn Frozen>> {
        Ok(Box::new(FrozenSegments { tables: self.tables.clone(), whole: self.account.marks.freeze() }))
    }

    fn view(&self) -> Result<Arc<dyn View>> {
        Ok(Arc::new(FrozenRows(self.tables.clone())))
    }

    fn expire(&mut self, table: TableId, until_ms: i64) {
        if let Some(rows) = self.tables.get_mut(&table) {
            rows.given_up_ms = until_ms;
        }
    }

    fn set_compaction_age(&mut self, _table: TableId, _age_s: u64) -> Result<()> {
        Ok(())
    }

    fn compact(&mut self) -> Result<()> {
        Ok(())
    }

    fn estimate(&self, table: TableId) -> u64 {
        self.tables.get(&table).map_or(0, |rows| rows.map.len() as u64)
    }

    fn tables(&self) -> Vec<Table> {
        self.tables.values().map(|rows| rows.table).collect()
    }

    fn clip(&mut self, range: KeyGroupRange) -> Result<()> {
        let (start, end) = range.row_bounds();
        let mut writes = Writes::default();
        for table in self.tables.keys().filter(|table| **table != TableId::SHARD) {
            writes.delete_range(*table, &[], &start);
            writes.delete_range(*table, &end, &[0xff, 0xff]);
        }
        self.write(&writes, Logging::None)
    }

    fn bytes(&self) -> u64 {
        self.account.bytes
    }
}

fn get(tables: &Tables, table: TableId, key: &[u8]) -> Result<Option<Bytes>> {
    Ok(tables.get(&table).ok_or(Error::NoTable(table))?.map.get(key).cloned())
}

fn scan(tables: &Tables, table: TableId, start: &[u8], end: &[u8], visit: Visitor<'_>) -> Result<()> {
    let rows = tables.get(&table).ok_or(Error::NoTable(table))?;
    // A break is the visitor's wish, not a failure.
    let _ = rows.range(start, end).try_for_each(|(key, row)| visit(key, row));
    Ok(())
}

impl Rows {
    fn new(table: Table, marks: &mut Marks) -> Self {
        let map = OrdMap::new();
        Self { table, segments: Segments::of(&map, marks), map, given_up_ms: i64::MIN }
    }

    fn range(&self, start: &[u8], end: &[u8]) -> impl Iterator<Item = (&Key, &Bytes)> {
        // A range that ends before it starts is empty to us, but a panic to the map.
        let end = if end < start { start } else { end };
        self.map.range::<_, [u8]>((Bound::Included(start), Bound::Excluded(end)))
    }

    fn put(&mut self, account: &mut Account, key: &[u8], row: Bytes) {
        let is = row_bytes(key, &row);
        let mut was = 0;
        account.bytes += entry_bytes(key, &row);
        if let Some(slot) = self.map.get_mut(key) {
            account.bytes = account.bytes.saturating_sub(entry_bytes(key, slot));
            was = row_bytes(key, slot);
            *slot = row;
        } else {
            self.map.insert(Key::from(key), row);
        }
        self.segments.change(key, was, is, &self.map, &mut account.marks);
    }

    fn remove(&mut self, account: &mut Account, key: &[u8]) {
        if let Some(row) = self.map.remove(key) {
            account.bytes = account.bytes.saturating_sub(entry_bytes(key, &row));
            self.segments.change(key, row_bytes(key, &row), 0, &self.map, &mut account.marks);
        }
    }
}

fn entry_bytes(key: &[u8], row: &[u8]) -> u64 {
    (key.len() + row.len()) as u64 + ENTRY_BYTES
}

/// The rows as they were at one moment.
struct FrozenRows(Tables);

impl Read for FrozenRows {
    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Bytes>> {
        get(&self.0, table, key)
    }

    fn scan(&self, table: TableId, start: &[u8], end: &[u8], visit: Visitor<'_>) -> Result<()> {
        scan(&self.0, table, start, end, visit)
    }
}
