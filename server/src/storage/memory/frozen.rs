//! A frozen memory backend on its way to files: segments that were written before are linked.

use std::{fs, path::Path, sync::Arc};

use super::{
    Rows, Tables,
    blocks::Sum,
    index::{self, Entry},
    rows,
    segments::{Identity, Segment, Written, rows_between},
};
use crate::storage::{Error, Frozen, FrozenFile, Result, budget::Held};

/// The rows as they were at one moment, with the identities of their segments.
pub(super) struct FrozenSegments {
    pub(super) tables: Tables,
    pub(super) whole: Identity,
    pub(super) _old: Arc<Held>,
}

impl Frozen for FrozenSegments {
    fn write_files(self: Box<Self>, dir: &Path) -> Result<Vec<FrozenFile>> {
        let mut files = Vec::new();
        let mut tables = Vec::new();
        for rows in self.tables.values() {
            let mut entries = Vec::new();
            for (start, end, segment) in rows.segments.iter().filter(|(.., segment)| segment.bytes > 0) {
                let name = index::file_name(segment.identity);
                let write = |path: &Path, given_up_ms: i64| {
                    rows::write(path, rows.table, given_up_ms, rows_between(&rows.map, start, end))
                        .map_err(|err| Error::io(path, "write", &err))
                };
                let sum = put(segment, rows, &dir.join(&name), write)?;
                entries.push(Entry { start, identity: segment.identity, sum });
                let immutable_id = Some(segment.identity.to_string());
                files.push(FrozenFile { name, length: sum.length, immutable_id, ..FrozenFile::default() });
            }
            tables.push((rows.table, entries));
        }
        let sum = index::write(dir, self.whole, &tables).map_err(|err| Error::io(dir, "write", &err))?;
        files.push(FrozenFile {
            name: index::NAME.to_owned(),
            length: sum.length,
            // It never grows; but it has no blocks of data either, and what grows is verified whole.
            growing_id: Some(self.whole.to_string()),
            ..FrozenFile::default()
        });
        Ok(files)
    }
}

/// Puts a segment's file at `path`: a link to where it was before, else written, the same bytes each time.
fn put(segment: &Segment, rows: &Rows, path: &Path, write: impl FnOnce(&Path, i64) -> Result<Sum>) -> Result<Sum> {
    let mut file = segment.file();
    let Some(before) = &mut *file else {
        let given_up_ms = rows.given_up_ms;
        let sum = write(path, given_up_ms)?;
        *file = Some(Written { path: path.to_owned(), sum, given_up_ms });
        return Ok(sum);
    };
    // Local copies go away, and links fail across devices; any reason to write it anew is a good one.
    let linked = fs::hard_link(&before.path, path).is_ok();
    if !linked || fs::metadata(path).map_err(|err| Error::io(path, "read", &err))?.len() != before.sum.length {
        if linked {
            fs::remove_file(path).map_err(|err| Error::io(path, "remove", &err))?;
        }
        let sum = write(path, before.given_up_ms)?;
        if sum != before.sum {
            return Err(Error::corrupt(path, format!("a segment is written as {sum:?}, before as {:?}", before.sum)));
        }
    }
    path.clone_into(&mut before.path);
    Ok(before.sum)
}
