//! A batch of writes in one arena, so that building it allocates nothing per operation.

use std::ops::Range;

use super::{Error, Result, Table, TableId, row};

/// One write of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write<'a> {
    /// Sets a row.
    Put {
        /// The table.
        table: TableId,
        /// The key.
        key: &'a [u8],
        /// The row.
        value: &'a [u8],
    },
    /// Folds an operand row into a row by the table's merge function.
    Merge {
        /// The table.
        table: TableId,
        /// The key.
        key: &'a [u8],
        /// The operand, with a row header.
        value: &'a [u8],
    },
    /// Removes a row; an absent one is left absent.
    Delete {
        /// The table.
        table: TableId,
        /// The key.
        key: &'a [u8],
    },
    /// Removes the rows with `start <= key < end`.
    DeleteRange {
        /// The table.
        table: TableId,
        /// The first key removed.
        start: &'a [u8],
        /// The first key kept.
        end: &'a [u8],
    },
}

impl Write<'_> {
    /// The table written to.
    pub fn table(&self) -> TableId {
        match *self {
            Self::Put { table, .. }
            | Self::Merge { table, .. }
            | Self::Delete { table, .. }
            | Self::DeleteRange { table, .. } => table,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Put,
    Merge,
    Delete,
    DeleteRange,
}

#[derive(Debug)]
struct Entry {
    kind: Kind,
    table: TableId,
    key: Range<usize>,
    value: Range<usize>,
}

/// A batch of writes, applied atomically and in order.
#[derive(Debug, Default)]
pub struct Writes {
    arena: Vec<u8>,
    entries: Vec<Entry>,
}

impl Writes {
    /// Adds a put; `value` writes the row behind the key into the arena.
    pub fn put(&mut self, table: TableId, key: &[u8], value: impl FnOnce(&mut Vec<u8>)) {
        self.push(Kind::Put, table, key, value);
    }

    /// Adds a merge; `value` writes the operand row.
    pub fn merge(&mut self, table: TableId, key: &[u8], value: impl FnOnce(&mut Vec<u8>)) {
        self.push(Kind::Merge, table, key, value);
    }

    /// Adds a delete.
    pub fn delete(&mut self, table: TableId, key: &[u8]) {
        self.push(Kind::Delete, table, key, |_| ());
    }

    /// Adds a delete of the rows with `start <= key < end`.
    pub fn delete_range(&mut self, table: TableId, start: &[u8], end: &[u8]) {
        self.push(Kind::DeleteRange, table, start, |arena| arena.extend_from_slice(end));
    }

    /// Iterates over the writes in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Write<'_>> {
        self.entries.iter().map(|entry| {
            let table = entry.table;
            let key = &self.arena[entry.key.clone()];
            let value = &self.arena[entry.value.clone()];
            match entry.kind {
                Kind::Put => Write::Put { table, key, value },
                Kind::Merge => Write::Merge { table, key, value },
                Kind::Delete => Write::Delete { table, key },
                Kind::DeleteRange => Write::DeleteRange { table, start: key, end: value },
            }
        })
    }

    /// Number of writes.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if there is nothing to apply.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.entries.clear();
    }

    /// Checks the batch against its tables before anything of it is applied.
    ///
    /// An operand that does not decode would only be found when it is folded, maybe by a background
    /// compaction that then stops the engine; so it is refused at the door.
    pub(super) fn check(&self, find: impl Fn(TableId) -> Option<Table>) -> Result<()> {
        let mut last: Option<Table> = None;
        for write in self.iter() {
            let id = write.table();
            let table = match last {
                Some(table) if table.id == id => table,
                _ => *last.insert(find(id).ok_or(Error::NoTable(id))?),
            };
            let refused = |detail| Err(Error::Refused { table: id, detail });
            match write {
                Write::Merge { .. } if table.merge.is_none() => {
                    return refused("merge into a table without a merge function");
                }
                Write::Put { value, .. } | Write::Merge { value, .. }
                    if table.merge.is_some() && row::decode(value).is_err() =>
                {
                    return refused("row without a valid header in a table with a merge function");
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn push(&mut self, kind: Kind, table: TableId, key: &[u8], value: impl FnOnce(&mut Vec<u8>)) {
        let start = self.arena.len();
        self.arena.extend_from_slice(key);
        let middle = self.arena.len();
        value(&mut self.arena);
        let end = self.arena.len();
        self.entries.push(Entry { kind, table, key: start..middle, value: middle..end });
    }
}
