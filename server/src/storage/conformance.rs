//! What every backend does: one list of behaviours, run against each of them.
//!
//! A behaviour is a function that panics when the backend does otherwise. Restores are opens of a frozen
//! snapshot's files, so `open` is only ever called on such a directory, and `create` on an empty one.

mod damage;
mod data;
mod snapshots;
#[cfg(test)]
mod tests;

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use super::{Backend, FrozenFile, Logging, Result, Table, TableId, Writes};

/// A backend under test.
pub struct Subject<'a> {
    /// Creates a backend in an empty directory.
    pub create: &'a dyn Fn(&Path) -> Result<Box<dyn Backend>>,
    /// Opens the files of a snapshot.
    pub open: &'a dyn Fn(&Path) -> Result<Box<dyn Backend>>,
    /// How it is written to.
    pub logging: Logging,
    /// An existing, empty directory to work in.
    pub scratch: &'a Path,
}

/// A behaviour with its name.
pub type Behaviour = (&'static str, fn(&Subject));

/// Runs every behaviour, each in a directory of its own, and panics at the first that fails.
pub fn all(subject: &Subject) {
    for (name, behaviour) in [data::ALL, snapshots::ALL, damage::ALL].concat() {
        let scratch = subject.scratch.join(name);
        fs::create_dir(&scratch).unwrap_or_else(|err| panic!("{name}: {err}"));
        behaviour(&Subject { scratch: &scratch, ..*subject });
    }
}

const A: TableId = TableId(1);
const B: TableId = TableId(2);

/// Every row of every table, in order: what a backend holds.
type Content = Vec<(TableId, Vec<(Vec<u8>, Vec<u8>)>)>;

impl Subject<'_> {
    fn dir(&self, name: &str) -> PathBuf {
        let dir = self.scratch.join(name);
        fs::create_dir(&dir).unwrap();
        dir
    }

    /// Creates a backend with the tables A and B, which take no merges.
    fn backend(&self) -> Box<dyn Backend> {
        let mut backend = (self.create)(&self.dir("live")).unwrap();
        for id in [A, B] {
            backend.create_table(Table { id, merge: None }).unwrap();
        }
        backend
    }

    fn write(&self, backend: &mut dyn Backend, fill: impl FnOnce(&mut Writes)) {
        let mut writes = Writes::default();
        fill(&mut writes);
        backend.write(&writes, self.logging).unwrap();
    }

    fn put(&self, backend: &mut dyn Backend, table: TableId, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.write(backend, |writes| put(writes, table, key, value));
    }

    /// Freezes the backend into a new directory.
    fn freeze(&self, backend: &mut dyn Backend, name: &str) -> (PathBuf, Vec<FrozenFile>) {
        let dir = self.dir(name);
        let files = backend.freeze().unwrap().write_files(&dir).unwrap();
        (dir, files)
    }
}

fn put(writes: &mut Writes, table: TableId, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
    writes.put(table, key.as_ref(), |arena| arena.extend_from_slice(value.as_ref()));
}

fn get(backend: &dyn Backend, table: TableId, key: impl AsRef<[u8]>) -> Option<Vec<u8>> {
    backend.get(table, key.as_ref()).unwrap().map(|row| row.to_vec())
}

/// Scans the rows of a range.
fn rows(backend: &dyn Backend, table: TableId, start: &[u8], end: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut rows = Vec::new();
    backend.scan(table, start, end, &mut |key, row| {
        rows.push((key.to_vec(), row.to_vec()));
        ControlFlow::Continue(())
    })?;
    Ok(rows)
}

fn content(backend: &dyn Backend) -> Result<Content> {
    let tables = backend.tables().into_iter();
    tables.map(|table| table.id).map(|table| Ok((table, rows(backend, table, b"", &[0xff; 9])?))).collect()
}
