//! Makes the backend of a key-group range from snapshots of other ranges, or of another backend.
//!
//! Files are joined where they can be (RocksDB), and nothing is rewritten but what crosses a border;
//! else the rows are copied in order. What belongs to a shard as a whole is merged by [`Meta::merge`].
//! Lanes are left behind: a restore ends them.

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use forebay_proto::{key_group::KeyGroupRange, v1};

use super::{
    meta::{Loaded, Meta},
    open::{Backends, Joined, Origin},
    positions::Positions,
    requests::{self, RequestIds},
    states::State,
};
use crate::{
    checkpoint::canonical,
    storage::{self, Backend, Logging, TableId, Writes},
};

/// Rows that are written at a time, in bytes of keys and rows.
const BATCH_BYTES: usize = 1 << 20;

/// A snapshot that rows are taken from, its files in a directory of its own.
#[derive(Debug, Clone)]
pub struct Part {
    /// The directory.
    pub dir: PathBuf,
    /// The key groups that are taken from it.
    pub range: KeyGroupRange,
    /// What its files are.
    pub form: Form,
}

/// What the files of a snapshot are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// A backend's own.
    Files(v1::Backend),
    /// One file of this name in the portable format.
    Canonical(String),
}

/// The backend to be made.
#[derive(Debug)]
pub struct Target<'a> {
    /// Opens backends.
    pub backends: &'a Backends,
    /// Which backend.
    pub kind: v1::Backend,
    /// The job's durability.
    pub durability: v1::Durability,
    /// Its directory, empty.
    pub db: &'a Path,
    /// A directory on the same disk that does not exist yet; the caller removes it.
    pub scratch: &'a Path,
}

/// Makes a backend of parts whose ranges do not overlap.
pub fn assemble(target: &Target<'_>, parts: &[Part]) -> storage::Result<Box<dyn Backend>> {
    let (mut backend, metas) = match join(target, parts)? {
        Some(joined) => joined,
        None => copy_all(target, parts)?,
    };
    metas.store(backend.as_mut(), logging(target.durability))?;
    Ok(backend)
}

type Made = (Box<dyn Backend>, Metas);

/// Joins files, if all parts and the target are of a kind whose files can be joined.
fn join(target: &Target<'_>, parts: &[Part]) -> storage::Result<Option<Made>> {
    if parts.iter().any(|part| part.form != Form::Files(target.kind)) {
        return Ok(None);
    }
    let mut metas = Metas::default();
    let sources: Vec<_> = parts.iter().map(|part| (part.dir.as_path(), part.range)).collect();
    let (kind, durability) = (target.kind, target.durability);
    let joined =
        target.backends.join(kind, durability, &sources, target.scratch, target.db, &mut |part| metas.take(part))?;
    match joined {
        Joined::Whole(backend) => Ok(Some((backend, metas))),
        Joined::Impossible => Ok(None),
    }
}

fn copy_all(target: &Target<'_>, parts: &[Part]) -> storage::Result<Made> {
    // A join that was tried may have left something, and has opened the parts.
    let tried = target.scratch.exists();
    fs::remove_dir_all(target.db)
        .and_then(|()| fs::create_dir_all(target.db))
        .map_err(|err| failed(target.db, &err))?;
    let mut into = target.backends.open(target.kind, target.durability, target.db, Origin::New)?;
    let mut metas = Metas::default();
    let logging = logging(target.durability);
    for part in parts {
        match &part.form {
            Form::Files(kind) => {
                let origin = if tried { Origin::Live } else { Origin::Restored };
                let from = target.backends.open(*kind, target.durability, &part.dir, origin)?;
                metas.take(from.as_ref())?;
                copy(from.as_ref(), part.range, into.as_mut(), logging)?;
            }
            Form::Canonical(name) => {
                let mut reader = canonical::Reader::open(&part.dir.join(name)).map_err(portable_error)?;
                copy_portable(&mut reader, part.range, into.as_mut(), logging, &mut metas)?;
            }
        }
    }
    if target.durability == v1::Durability::WalSync {
        into.write(&Writes::default(), Logging::Synced)?;
    }
    Ok((into, metas))
}

/// Copies the rows of a range, table by table.
fn copy(from: &dyn Backend, range: KeyGroupRange, into: &mut dyn Backend, logging: Logging) -> storage::Result<()> {
    let (start, end) = range.row_bounds();
    for table in from.tables().into_iter().filter(|table| table.id != TableId::SHARD) {
        into.create_table(table)?;
        let mut batch = Batch::new(into, logging);
        let mut outcome = Ok(());
        from.scan(table.id, &start, &end, &mut |key, row| {
            outcome = batch.put(table.id, key, row);
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        outcome?;
        batch.finish()?;
    }
    Ok(())
}

fn copy_portable(
    from: &mut canonical::Reader,
    range: KeyGroupRange,
    into: &mut dyn Backend,
    logging: Logging,
    metas: &mut Metas,
) -> storage::Result<()> {
    for state in from.head().states.clone().iter().filter_map(State::of) {
        into.create_table(state.spec())?;
    }
    let mut rows = Vec::new();
    from.shard_rows(&mut |(_, key, row)| {
        rows.push((key.to_vec(), row.to_vec()));
        Ok(())
    })
    .map_err(portable_error)?;
    metas.take_rows(&rows)?;
    let mut batch = Batch::new(into, logging);
    let mut outcome = Ok(());
    from.rows(range, &mut |(table, key, row)| {
        if outcome.is_ok() {
            outcome = batch.put(TableId(table), key, row);
        }
        Ok(())
    })
    .map_err(portable_error)?;
    outcome?;
    batch.finish()
}

/// What belongs to the shards as a whole, merged.
#[derive(Default)]
struct Metas {
    metas: Vec<Meta>,
    requests: RequestIds,
    positions: Positions,
}

impl Metas {
    fn take(&mut self, backend: &dyn Backend) -> storage::Result<()> {
        self.add(Loaded::read(backend)?)
    }

    fn take_rows(&mut self, rows: &[(Vec<u8>, Vec<u8>)]) -> storage::Result<()> {
        let mut loaded = Loaded::default();
        rows.iter().try_for_each(|(key, row)| loaded.row(key, row))?;
        self.add(loaded)
    }

    fn add(&mut self, loaded: Loaded) -> storage::Result<()> {
        self.metas.push(loaded.meta);
        for (id, at_ms, verdicts) in loaded.requests.iter() {
            self.requests.applied(id, at_ms, verdicts);
        }
        self.positions.merge(loaded.positions).map_err(|source| storage::Error::Corrupt {
            path: "shard table".into(),
            detail: format!(
                "the shards that are to become one hold source {source:?} up to different positions: restore with as \
                 many shards as the checkpoint has, or more"
            ),
        })
    }

    fn store(self, backend: &mut dyn Backend, logging: Logging) -> storage::Result<()> {
        let mut writes = Writes::default();
        Meta::merge(&self.metas).store(&mut writes);
        Positions::store(&self.positions.to_wire(), &mut writes);
        for (id, at_ms, verdicts) in self.requests.iter() {
            requests::put(id, at_ms, verdicts, &mut writes);
        }
        backend.write(&writes, logging)
    }
}

/// Rows on their way, written some at a time.
struct Batch<'a> {
    into: &'a mut dyn Backend,
    logging: Logging,
    writes: Writes,
    bytes: usize,
}

impl<'a> Batch<'a> {
    fn new(into: &'a mut dyn Backend, logging: Logging) -> Self {
        Self { into, logging, writes: Writes::default(), bytes: 0 }
    }

    fn put(&mut self, table: TableId, key: &[u8], row: &[u8]) -> storage::Result<()> {
        self.writes.put(table, key, |out| out.extend_from_slice(row));
        self.bytes += key.len() + row.len();
        if self.bytes < BATCH_BYTES {
            return Ok(());
        }
        self.into.write(&self.writes, self.logging)?;
        self.writes.clear();
        self.bytes = 0;
        Ok(())
    }

    fn finish(self) -> storage::Result<()> {
        self.into.write(&self.writes, self.logging)
    }
}

fn logging(durability: v1::Durability) -> Logging {
    if durability == v1::Durability::None { Logging::None } else { Logging::Buffered }
}

pub(super) fn portable_error(error: canonical::Error) -> storage::Error {
    let detail = error.to_string();
    match error {
        canonical::Error::Io { path, source } => failed(&path, &source),
        canonical::Error::Damaged { path, .. } | canonical::Error::Version { path, .. } => {
            storage::Error::Corrupt { path, detail }
        }
    }
}

pub(super) fn failed(path: &Path, source: &std::io::Error) -> storage::Error {
    match source.kind() {
        std::io::ErrorKind::StorageFull => storage::Error::DiskFull { path: path.to_owned() },
        _ => storage::Error::Io { path: path.to_owned(), detail: source.to_string() },
    }
}

#[cfg(test)]
mod tests;
