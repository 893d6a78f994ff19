//! Turns what a backend has frozen into rows that every backend reads: a canonical savepoint's part.

use std::{fs, ops::ControlFlow, path::Path};

use forebay_proto::{key_group::KeyGroupRange, v1};

use super::{
    meta,
    open::{Backends, Origin},
    rescale::{failed, portable_error},
};
use crate::{
    checkpoint::canonical,
    storage::{self, Frozen, FrozenFile, Read, Table, TableId},
};

/// Name of the file.
const ROWS: &str = "rows";

/// A frozen shard that becomes one file of rows. A backend is opened on the frozen files for it, away from the
/// shard's own work.
pub struct Portable {
    /// What was frozen.
    pub frozen: Box<dyn Frozen>,
    /// Opens backends.
    pub backends: Backends,
    /// The backend that was frozen.
    pub kind: v1::Backend,
    /// The job's durability.
    pub durability: v1::Durability,
    /// What the file says of itself.
    pub head: v1::CanonicalHead,
}

impl Frozen for Portable {
    fn write_files(self: Box<Self>, dir: &Path) -> storage::Result<Vec<FrozenFile>> {
        let range = KeyGroupRange::new(self.head.start, self.head.end)
            .map_err(|error| storage::Error::Corrupt { path: dir.to_owned(), detail: error.to_string() })?;
        let (own, rows) = (dir.join("own"), dir.join(ROWS));
        fs::create_dir_all(&own).map_err(|error| failed(&own, &error))?;
        self.frozen.write_files(&own)?;
        let backend = self.backends.open(self.kind, self.durability, &own, Origin::Restored)?;
        let view = backend.view()?;
        let length = write_portable(view.as_ref(), &backend.tables(), range, &self.head, &rows)?;
        drop((view, backend));
        fs::remove_dir_all(&own).map_err(|error| failed(&own, &error))?;
        Ok(vec![FrozenFile { name: ROWS.to_owned(), length, ..FrozenFile::default() }])
    }
}

/// Writes the rows of a range, as `read` shows them, into a file in the portable format.
pub fn write_portable(
    read: &dyn Read,
    tables: &[Table],
    range: KeyGroupRange,
    head: &v1::CanonicalHead,
    path: &Path,
) -> storage::Result<u64> {
    let mut writer = canonical::Writer::create(path, head).map_err(portable_error)?;
    let mut outcome = Ok(());
    read.scan(TableId::SHARD, b"", b"\xff", &mut |key, row| {
        if !meta::is_of_a_lane(key) {
            outcome = writer.shard_row(key, row);
        }
        if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    outcome.map_err(portable_error)?;
    for group in range.iter() {
        let bounds = KeyGroupRange::new(group.get().into(), u32::from(group.get()) + 1);
        let Ok((start, end)) = bounds.map(KeyGroupRange::row_bounds) else { continue };
        for table in tables.iter().filter(|table| table.id != TableId::SHARD) {
            let mut outcome = Ok(());
            read.scan(table.id, &start, &end, &mut |key, row| {
                outcome = writer.row(group, table.id.0, key, row);
                if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            outcome.map_err(portable_error)?;
        }
    }
    writer.finish().map_err(portable_error)
}
