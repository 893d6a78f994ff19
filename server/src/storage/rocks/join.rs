//! Makes one database of several whose key groups do not overlap, by joining their files.
//!
//! Nothing is rewritten but files that cross a border: each source is flushed, clipped to its range and
//! exported, and the lists of files are imported as one. The files keep their identity, so the next
//! checkpoint does not upload them again.

use std::{path::Path, sync::Arc};

use forebay_proto::key_group::KeyGroupRange;
use rocksdb::{ExportImportFilesMetaData, ImportColumnFamilyOptions, LiveFile, checkpoint::Checkpoint};

use super::{Column, RocksBackend, RocksShared, WalTolerance};
use crate::storage::{Backend as _, Result, Table, TableId};

impl RocksBackend {
    /// Joins the tables of databases into a new one in `dir`, an empty directory; [`TableId::SHARD`] stays
    /// empty. Of each part only the rows of its range are taken. `scratch` is an empty directory on the same disk. `None` if the files cannot be joined: copy the rows instead.
    pub fn join(
        parts: &mut [(Self, KeyGroupRange)],
        scratch: &Path,
        dir: &Path,
        shared: &Arc<RocksShared>,
        logged: bool,
    ) -> Result<Option<Self>> {
        for (part, range) in &mut *parts {
            if !part.clip_files(*range)? {
                return Ok(None);
            }
        }
        let mut joined = Self::open(dir, shared, logged, WalTolerance::Tail)?;
        for table in tables_of(parts)? {
            let mut exports = Vec::new();
            for (index, (part, _)) in parts.iter().enumerate() {
                if part.tables.contains_key(&table.id) {
                    exports.push(part.export(table.id, &scratch.join(format!("{index}-{}", table.id)))?);
                }
            }
            joined.import(table, exports)?;
        }
        Ok(Some(joined))
    }

    fn export(&self, table: TableId, into: &Path) -> Result<ExportImportFilesMetaData> {
        let checkpoint = Checkpoint::new(&self.engine.db).map_err(|err| self.engine.error(err))?;
        checkpoint.export_column_family(&self.family(table)?, into).map_err(|err| self.engine.error(err))
    }

    fn import(&mut self, table: Table, exports: Vec<ExportImportFilesMetaData>) -> Result<()> {
        let files: Vec<LiveFile> = exports.iter().flat_map(ExportImportFilesMetaData::get_files).collect();
        let Some(mut all) = exports.into_iter().next().filter(|_| !files.is_empty()) else {
            return self.create_table(table);
        };
        all.set_files(&files).map_err(|err| self.engine.error(err))?;
        let column = Column::new(table);
        let options = self.engine.shared.table(&column);
        let mut import = ImportColumnFamilyOptions::default();
        import.set_move_files(true);
        let imported = self.engine.db.create_column_family_with_import(&options, &column.name, &import, &all);
        imported.map_err(|err| self.engine.error(err))?;
        self.tables.insert(table.id, column);
        Ok(())
    }
}

/// The tables of all parts; parts that fold a table differently do not belong together.
fn tables_of(parts: &[(RocksBackend, KeyGroupRange)]) -> Result<Vec<Table>> {
    let mut tables: Vec<Table> = Vec::new();
    for (part, _) in parts {
        for table in part.tables().into_iter().filter(|table| table.id != TableId::SHARD) {
            match tables.iter().find(|known| known.id == table.id) {
                Some(known) if *known != table => {
                    return Err(
                        part.damaged(format!("table {} folds by {:?} and {:?}", table.id, known.merge, table.merge))
                    );
                }
                Some(_) => {}
                None => tables.push(table),
            }
        }
    }
    Ok(tables)
}
