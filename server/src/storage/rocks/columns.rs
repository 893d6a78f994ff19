//! The column families of a database, and how they are named after their tables.
//!
//! Invariant: a name is `shard`, `s<table>` or `s<table>.<merge function>`, so a directory says itself
//! how it is opened; nothing beside it need be kept.

use std::{
    fs,
    path::Path,
    sync::{Arc, atomic::AtomicI64},
};

use forebay_proto::merge::MergeFunction;
use rocksdb::Options;

use super::{Db, open_error};
use crate::storage::{COMPACTION_AGE_S, Error, Result, Table, TableId};

/// The family that RocksDB insists on; it never holds data.
pub(super) const DEFAULT: &str = "default";
const SHARD: &str = "shard";

/// The table of what belongs to the shard as a whole.
pub(super) const SHARD_TABLE: Table = Table { id: TableId::SHARD, merge: None };

/// A table and the name of its column family.
pub(super) struct Column {
    pub(super) table: Table,
    pub(super) name: String,
    /// Compactions drop rows whose deadline is not behind this time.
    pub(super) given_up_ms: Arc<AtomicI64>,
    /// Age in seconds at which a file is compacted; 0 is never.
    pub(super) compaction_age_s: u64,
}

impl Column {
    /// Names the column family of a table.
    pub(super) fn new(table: Table) -> Self {
        let name = match table {
            Table { id: TableId::SHARD, .. } => SHARD.to_owned(),
            Table { id, merge: None } => format!("s{id}"),
            Table { id, merge: Some(function) } => format!("s{id}.{function}"),
        };
        let mut column = Self { table, name, given_up_ms: Arc::new(AtomicI64::new(i64::MIN)), compaction_age_s: 0 };
        if column.drops_expired() {
            column.compaction_age_s = COMPACTION_AGE_S;
        }
        column
    }

    /// True if compactions drop expired rows. Operands of a merge they see one by one, and rows of the shard
    /// itself have no header.
    pub(super) fn drops_expired(&self) -> bool {
        self.table.merge.is_none() && self.table.id != TableId::SHARD
    }

    /// Reads a name that [`Column::new`] made; any other is `None`.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (id, merge) = match name.strip_prefix('s')?.split_once('.') {
            _ if name == SHARD => (0, None),
            Some((id, function)) => (id.parse().ok()?, Some(MergeFunction::parse(function)?)),
            None => (name[1..].parse().ok()?, None),
        };
        let column = Self::new(Table { id: TableId(id), merge });
        (column.name == name).then_some(column)
    }
}

/// True if `dir` holds a database, false if it is free for a new one.
pub(super) fn database_exists(dir: &Path) -> Result<bool> {
    if dir.join("CURRENT").exists() {
        return Ok(true);
    }
    let entries = fs::read_dir(dir).map_err(|err| Error::io(dir, "list", &err))?;
    for entry in entries {
        let entry = entry.map_err(|err| Error::io(dir, "list", &err))?;
        let name = entry.file_name();
        let extension = Path::new(&name).extension().and_then(|extension| extension.to_str());
        // Logs are created after CURRENT, so a creation that died early leaves nothing of the kind.
        if matches!(extension, Some("sst" | "log")) {
            return Err(Error::corrupt(dir, format!("{} is there, but file CURRENT is missing", name.display())));
        }
    }
    Ok(false)
}

/// Lists the column families of a database, `default` left out.
pub(super) fn on_disk(options: &Options, dir: &Path) -> Result<Vec<Column>> {
    let names = Db::list_cf(options, dir).map_err(|err| open_error(dir, err))?;
    let mut columns = Vec::with_capacity(names.len());
    for name in names.iter().filter(|name| *name != DEFAULT) {
        let unknown = || Error::corrupt(dir, format!("column family {name} is unknown to this server"));
        columns.push(Column::parse(name).ok_or_else(unknown)?);
    }
    // A creation that died early may have left none.
    if !names.iter().any(|name| name == SHARD) {
        columns.push(Column::new(SHARD_TABLE));
    }
    Ok(columns)
}
