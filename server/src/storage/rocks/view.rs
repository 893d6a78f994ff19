//! A database as it was at one moment, read while it changes.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use bytes::Bytes;
use rocksdb::{DBAccess, DBRawIteratorWithThreadMode, ReadOptions, SnapshotWithThreadMode};
use self_cell::self_cell;

use super::{Column, Db, Engine, Error, Read, Result, TableId, Visitor};

type Snapshot<'a> = SnapshotWithThreadMode<'a, Db>;

self_cell!(
    /// A snapshot that keeps its database open.
    struct Pinned {
        owner: Arc<Engine>,
        #[covariant]
        dependent: Snapshot,
    }
);

/// The rows of one moment.
pub(super) struct View {
    pinned: Pinned,
    tables: BTreeMap<TableId, String>,
}

impl View {
    /// Pins the present moment.
    pub(super) fn of(engine: &Arc<Engine>, tables: &BTreeMap<TableId, Column>) -> Self {
        Self {
            pinned: Pinned::new(Arc::clone(engine), |engine| engine.db.snapshot()),
            tables: tables.iter().map(|(table, column)| (*table, column.name.clone())).collect(),
        }
    }

    fn name(&self, table: TableId) -> Result<&str> {
        self.tables.get(&table).map(String::as_str).ok_or(Error::NoTable(table))
    }
}

impl Read for View {
    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Bytes>> {
        let engine = self.pinned.borrow_owner();
        let family = engine.family(self.name(table)?)?;
        let row = self.pinned.borrow_dependent().get_pinned_cf(&family, key);
        Ok(row.map_err(|err| engine.error(err))?.map(|row| Bytes::copy_from_slice(&row)))
    }

    fn scan(&self, table: TableId, start: &[u8], end: &[u8], visit: Visitor<'_>) -> Result<()> {
        let engine = self.pinned.borrow_owner();
        let family = engine.family(self.name(table)?)?;
        let rows = self.pinned.borrow_dependent().raw_iterator_cf_opt(&family, range(end));
        walk(rows, start, end, visit).map_err(|err| engine.error(err))
    }
}

/// Options of a scan that ends before a key.
pub(super) fn range(end: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(end);
    options
}

/// Visits the rows of an iterator with the upper bound `end`.
pub(super) fn walk<D: DBAccess>(
    mut rows: DBRawIteratorWithThreadMode<'_, D>,
    start: &[u8],
    end: &[u8],
    visit: Visitor<'_>,
) -> Result<(), rocksdb::Error> {
    if start >= end {
        return Ok(());
    }
    rows.seek(start);
    while let Some((key, row)) = rows.item() {
        if let ControlFlow::Break(()) = visit(key, row) {
            return Ok(());
        }
        rows.next();
    }
    rows.status()
}
