//! The memory backend: ordered persistent maps, one per table, each with an index by hash beside it.
//!
//! A freeze clones the roots of the maps; a later write copies only the nodes on its path that the
//! frozen maps still share. Single rows are found by hash; one that was written since the last freeze is
//! written over in place, without the map. What is durable of it are its snapshots' files: one for each of its
//! [`segments`], which stays what it is until a row in it changes, and a list of them ([`index`]).
//!
//! Invariants: keys and rows are copied out of the batch, never slices of it, so no row pins a request; map and
//! index of a table hold the same rows; a row that a frozen map may hold never changes.

mod blocks;
mod frozen;
mod index;
mod key;
mod row;
mod rows;
mod segments;
#[cfg(test)]
mod tests;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    hash::BuildHasher as _,
    ops::Bound,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use bytes::Bytes;
use bytesize::ByteSize;
use forebay_proto::key_group::KeyGroupRange;
use hashbrown::{DefaultHashBuilder, HashTable, hash_table::Entry};
use imbl::OrdMap;

use super::{
    Backend, Error, Frozen, Logging, Read, Result, Show, Table, TableId, View, Visitor, Write, Writes,
    budget::{Budget, Held},
    merge,
};
use frozen::FrozenSegments;
use key::Key;
use row::Row;
use segments::{Marks, Segments, row_bytes};

/// What an entry takes beside its key and row: the row's head, its places in map and index.
const ENTRY_BYTES: u64 = 192;

/// A backend in memory, for tests and small state.
pub struct MemoryBackend {
    path: PathBuf,
    tables: BTreeMap<TableId, Live>,
    account: Account,
}

/// What is kept of the backend as a whole.
struct Account {
    bytes: u64,
    marks: Marks,
    /// Freezes and views so far, and one: rows that were read from files are of none.
    seen: Cell<u64>,
    /// What the rows hold of the budget.
    held: Held,
    /// What old versions of rows hold of it, by the snapshot or view that sees them; the newest is last.
    old: RefCell<Vec<Weak<Held>>>,
}

impl Account {
    fn new(bytes: u64, marks: Marks, budget: &Arc<Budget>) -> Self {
        let held = Held::new(budget);
        held.set(bytes);
        Self { bytes, marks, seen: Cell::new(1), held, old: RefCell::default() }
    }

    /// Whoever holds this sees rows as they are now.
    fn freeze(&self) -> Arc<Held> {
        self.seen.set(self.seen.get() + 1);
        let (mut old, held) = (self.old.borrow_mut(), Arc::new(Held::new(self.held.budget())));
        old.retain(|old| old.strong_count() > 0);
        old.push(Arc::downgrade(&held));
        held
    }

    /// Takes note that a row has another in its place, or none.
    fn replaced(&mut self, row: Arc<Row>) {
        let bytes = entry_bytes(&row.key, row.len());
        self.bytes = self.bytes.saturating_sub(bytes);
        if Arc::strong_count(&row) > 1
            // Of several that see it the newest stays longest, as a rule.
            && let Some(old) = self.old.get_mut().iter().rev().find_map(Weak::upgrade)
        {
            old.add(bytes);
        }
    }
}

type Tables = BTreeMap<TableId, Rows>;

/// The rows of a table that can be written.
struct Live {
    rows: Rows,
    index: HashTable<Arc<Row>>,
    hasher: DefaultHashBuilder,
}

/// The rows of a table in order.
#[derive(Clone)]
struct Rows {
    table: Table,
    map: OrdMap<Key, Arc<Row>>,
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
        let bytes = rows.map(|(key, row)| entry_bytes(key, row.len())).sum();
        let tables = tables.into_iter().map(|(id, rows)| (id, Live::new(rows))).collect();
        Self { path, tables, account: Account::new(bytes, marks, &Budget::unlimited()) }
    }

    /// Has the rows counted in a budget; what is there already may be more than it allows.
    pub fn within(self, budget: &Arc<Budget>) -> Self {
        let Self { path, tables, account: Account { bytes, marks, seen, .. } } = self;
        Self { path, tables, account: Account { seen, ..Account::new(bytes, marks, budget) } }
    }

    /// The rows as they are now, to stay so.
    fn frozen(&self) -> Tables {
        self.tables.iter().map(|(id, rows)| (*id, rows.rows.clone())).collect()
    }

    fn apply(&mut self, write: Write<'_>) -> Result<()> {
        let table = write.table();
        let rows = self.tables.get_mut(&table).ok_or(Error::NoTable(table))?;
        match write {
            Write::Put { key, value, .. } => rows.put(&mut self.account, key, value),
            Write::Merge { key, value, .. } => {
                let refused = Error::Refused { table, detail: "merge into a table without a merge function" };
                let function = rows.rows.table.merge.ok_or(refused)?;
                let existing = rows.get(key).map(|row| row.bytes());
                let row = merge::fold(function, existing.as_ref().map(|row| &row[..]), [value])
                    .map_err(|err| Error::corrupt(&self.path, format!("row of table {table}: {err}")))?;
                drop(existing);
                rows.put(&mut self.account, key, &row);
            }
            Write::Delete { key, .. } => rows.remove(&mut self.account, key),
            Write::DeleteRange { start, end, .. } => {
                let keys: Vec<Key> = rows.rows.range(start, end).map(|(key, _)| key.clone()).collect();
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
        let row = self.tables.get(&table).ok_or(Error::NoTable(table))?.get(key);
        Ok(row.map(|row| Bytes::copy_from_slice(&row.bytes())))
    }

    fn multi_get(&self, table: TableId, keys: &[&[u8]], show: Show<'_>) -> Result<()> {
        let rows = self.tables.get(&table).ok_or(Error::NoTable(table))?;
        for (place, key) in keys.iter().enumerate() {
            let row = rows.get(key).map(|row| row.bytes());
            show(place, row.as_ref().map(|row| &row[..]));
        }
        Ok(())
    }

    fn scan(&self, table: TableId, start: &[u8], end: &[u8], visit: Visitor<'_>) -> Result<()> {
        self.tables.get(&table).ok_or(Error::NoTable(table))?.rows.scan(start, end, visit);
        Ok(())
    }
}

impl Backend for MemoryBackend {
    fn create_table(&mut self, table: Table) -> Result<()> {
        let marks = &mut self.account.marks;
        self.tables.entry(table.id).or_insert_with(|| Live::new(Rows::new(table, marks)));
        Ok(())
    }

    fn write(&mut self, writes: &Writes, _logging: Logging) -> Result<()> {
        writes.check(|id| self.tables.get(&id).map(|rows| rows.rows.table))?;
        let grows = |write: Write<'_>| {
            write.table() != TableId::SHARD && matches!(write, Write::Put { .. } | Write::Merge { .. })
        };
        if self.is_full() && writes.iter().any(grows) {
            let budget = self.account.held.budget();
            let (held, allowed) = (ByteSize(budget.rows()), ByteSize(budget.rows_max()));
            return Err(Error::MemoryFull { held, allowed });
        }
        writes.iter().try_for_each(|write| self.apply(write))?;
        self.account.held.set(self.account.bytes);
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.account.held.budget().is_full()
    }

    fn freeze(&mut self) -> Result<Box<dyn Frozen>> {
        let (tables, old) = (self.frozen(), self.account.freeze());
        Ok(Box::new(FrozenSegments { tables, whole: self.account.marks.freeze(), _old: old }))
    }

    fn view(&self) -> Result<Arc<dyn View>> {
        Ok(Arc::new(FrozenRows { tables: self.frozen(), _old: self.account.freeze() }))
    }

    fn expire(&mut self, table: TableId, until_ms: i64) {
        if let Some(rows) = self.tables.get_mut(&table) {
            rows.rows.given_up_ms = until_ms;
        }
    }

    fn set_compaction_age(&mut self, _table: TableId, _age_s: u64) -> Result<()> {
        Ok(())
    }

    fn compact(&mut self) -> Result<()> {
        Ok(())
    }

    fn estimate(&self, table: TableId) -> u64 {
        self.tables.get(&table).map_or(0, |rows| rows.index.len() as u64)
    }

    fn tables(&self) -> Vec<Table> {
        self.tables.values().map(|rows| rows.rows.table).collect()
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

impl Rows {
    fn new(table: Table, marks: &mut Marks) -> Self {
        let map = OrdMap::new();
        Self { table, segments: Segments::of(&map, marks), map, given_up_ms: i64::MIN }
    }

    fn range(&self, start: &[u8], end: &[u8]) -> impl Iterator<Item = (&Key, &Arc<Row>)> {
        // A range that ends before it starts is empty to us, but a panic to the map.
        let end = if end < start { start } else { end };
        self.map.range::<_, [u8]>((Bound::Included(start), Bound::Excluded(end)))
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: Visitor<'_>) {
        // A break is the visitor's wish, not a failure.
        let _ = self.range(start, end).try_for_each(|(key, row)| visit(key, &row.bytes()));
    }
}

impl Live {
    fn new(rows: Rows) -> Self {
        let (mut index, hasher) = (HashTable::with_capacity(rows.map.len()), DefaultHashBuilder::default());
        for row in rows.map.values() {
            index.insert_unique(hash(&hasher, &row.key), row.clone(), |row: &Arc<Row>| hash(&hasher, &row.key));
        }
        Self { rows, index, hasher }
    }

    fn get(&self, key: &[u8]) -> Option<&Row> {
        self.index.find(hash(&self.hasher, key), |row| *row.key == *key).map(|row| &**row)
    }

    fn put(&mut self, account: &mut Account, key: &[u8], bytes: &[u8]) {
        let Self { rows, index, hasher } = self;
        let entry = index.entry(hash(hasher, key), |row| *row.key == *key, |row| hash(hasher, &row.key));
        let is = row_bytes(key, bytes.len());
        let was = match &entry {
            Entry::Occupied(found) => row_bytes(key, found.get().len()),
            Entry::Vacant(_) => 0,
        };
        match entry {
            Entry::Occupied(found) if found.get().since == account.seen.get() => {
                found.get().set(bytes);
                account.bytes = account.bytes + is - was;
                // It was written since the last freeze: its segment counts as changed already.
                if is == was {
                    return;
                }
            }
            entry => {
                let row = Arc::new(Row::new(Key::from(key), account.seen.get(), bytes));
                account.bytes += entry_bytes(key, bytes.len());
                rows.map.insert(row.key.clone(), row.clone());
                match entry {
                    Entry::Occupied(mut found) => account.replaced(std::mem::replace(found.get_mut(), row)),
                    Entry::Vacant(free) => drop(free.insert(row)),
                }
            }
        }
        rows.segments.change(key, was, is, &rows.map, &mut account.marks);
    }

    fn remove(&mut self, account: &mut Account, key: &[u8]) {
        let Ok(found) = self.index.find_entry(hash(&self.hasher, key), |row| *row.key == *key) else { return };
        let (row, _) = found.remove();
        self.rows.map.remove(key);
        let was = row_bytes(key, row.len());
        account.replaced(row);
        self.rows.segments.change(key, was, 0, &self.rows.map, &mut account.marks);
    }
}

fn hash(hasher: &DefaultHashBuilder, key: &[u8]) -> u64 {
    hasher.hash_one(key)
}

fn entry_bytes(key: &[u8], row: usize) -> u64 {
    (key.len() + row) as u64 + ENTRY_BYTES
}

/// The rows as they were at one moment.
struct FrozenRows {
    tables: Tables,
    _old: Arc<Held>,
}

impl Read for FrozenRows {
    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Bytes>> {
        let row = self.tables.get(&table).ok_or(Error::NoTable(table))?.map.get(key);
        Ok(row.map(|row| Bytes::copy_from_slice(&row.bytes())))
    }

    fn scan(&self, table: TableId, start: &[u8], end: &[u8], visit: Visitor<'_>) -> Result<()> {
        self.tables.get(&table).ok_or(Error::NoTable(table))?.scan(start, end, visit);
        Ok(())
    }
}
