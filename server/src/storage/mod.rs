//! Storage: where one shard keeps its bytes.
//!
//! A [`Backend`] is synchronous and knows neither gRPC nor object stores nor what a row means beyond
//! its header ([`row`]). [`MemoryBackend`] serves tests and small state, [`RocksBackend`] the rest;
//! `conformance` holds both to the same behaviour.
//!
//! Invariants: a key starts with its key group (u16, big endian), so a key group is one contiguous
//! range of a table. The files of a [`Frozen`] snapshot, put into an empty directory, are a backend
//! that opens with exactly the frozen content: a restore is an open.

pub mod budget;
mod config;
pub mod conformance;
mod memory;
pub mod merge;
#[cfg(feature = "rocksdb")]
mod rocks;
pub mod row;
mod writes;

use std::{
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use bytesize::ByteSize;
use forebay_proto::{key_group::KeyGroupRange, merge::MergeFunction};

pub use config::{Compaction, Compression, Filter, Predefined, RocksConfig};
pub use memory::MemoryBackend;
#[cfg(feature = "rocksdb")]
pub use rocks::{RocksBackend, RocksShared, WalTolerance};
pub use writes::{Write, Writes};

/// Why a backend failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk has no room left; reads go on.
    #[error("disk full at {path}: free space or enlarge the volume")]
    DiskFull {
        /// The backend's directory.
        path: PathBuf,
    },
    /// Memory backends hold as much as they may; reads and removals go on.
    #[error(
        "the memory for rows is used up: memory backends of this server hold {held}, allowed is {allowed} (memory.budget); \
         remove rows, enlarge the budget, or use the rocksdb backend"
    )]
    MemoryFull {
        /// What all of them hold.
        held: ByteSize,
        /// What they may hold.
        allowed: ByteSize,
    },
    /// A file of the backend is damaged or missing.
    #[error("storage at {path} is damaged: {detail}")]
    Corrupt {
        /// The backend's directory.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// A table that was never created.
    #[error("table {0} does not exist")]
    NoTable(TableId),
    /// A write that breaks a rule of its table; nothing of its batch was applied.
    #[error("write to table {table} refused: {detail}")]
    Refused {
        /// The table.
        table: TableId,
        /// The rule.
        detail: &'static str,
    },
    /// Any other failure of the disk or of the engine.
    #[error("storage at {path} failed: {detail}")]
    Io {
        /// The backend's directory.
        path: PathBuf,
        /// What the engine said.
        detail: String,
    },
}

impl Error {
    /// Makes the error of a failed file operation of the backend at `path`.
    fn io(path: &Path, doing: &str, source: &io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            _ => Self::Io { path, detail: format!("{doing}: {source}") },
        }
    }

    /// Makes the error of a backend at `path` that holds something it should not.
    fn corrupt(path: &Path, detail: impl Into<String>) -> Self {
        Self::Corrupt { path: path.to_path_buf(), detail: detail.into() }
    }
}

/// The result of a storage operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A table of a backend: one per state, and [`TableId::SHARD`] for what belongs to the shard as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(pub u32);

impl TableId {
    /// Lanes, counters, clocks and positions of the shard; rows without a header.
    pub const SHARD: Self = Self(0);
}

impl std::fmt::Display for TableId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Age in seconds at which the files of a new table are compacted, if expired rows go in that (Flink has the same).
pub const COMPACTION_AGE_S: u64 = 30 * 24 * 60 * 60;

/// A table and how its merges are folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// The table.
    pub id: TableId,
    /// The function that [`Writes::merge`] folds with; `None` if the table takes no merges.
    pub merge: Option<MergeFunction>,
}

/// What a scan calls with each key and row.
pub type Visitor<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// What [`Read::multi_get`] calls with the place of each key and its row.
pub type Show<'a> = &'a mut dyn FnMut(usize, Option<&[u8]>);

/// How far a write has got when [`Backend::write`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Logging {
    /// In memory only.
    None,
    /// In the operating system's hands: survives the death of the process.
    Buffered,
    /// On the disk: survives loss of power.
    Synced,
}

/// Rows to be read: a backend as it is now, or as it was at one moment. Keys of a table are in byte order.
pub trait Read: Send {
    /// Returns a row; an absent key is `None`, never an error.
    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Bytes>>;

    /// Shows several rows of a table with their places, in the order asked.
    fn multi_get(&self, table: TableId, keys: &[&[u8]], show: Show<'_>) -> Result<()> {
        for (place, key) in keys.iter().enumerate() {
            show(place, self.get(table, key)?.as_deref());
        }
        Ok(())
    }

    /// Visits the rows with `start <= key < end` in order, until the visitor breaks.
    fn scan(&self, table: TableId, start: &[u8], end: &[u8], visit: Visitor<'_>) -> Result<()>;
}

/// Rows as they were at one moment, which any thread may read.
pub trait View: Read + Sync {}

impl<T: Read + Sync> View for T {}

/// The bytes of one shard. Used by one thread at a time.
///
/// A `write` is atomic: after a crash all of it is there or none of it. Reads see every write before
/// them.
pub trait Backend: Read {
    /// Creates a table; one that exists already is left as it is.
    fn create_table(&mut self, table: Table) -> Result<()>;

    /// Applies a batch in its order. In a table with a merge function every row put or merged carries a
    /// valid header; in one without there are no merges. A batch against these rules is refused whole.
    fn write(&mut self, writes: &Writes, logging: Logging) -> Result<()>;

    /// True if a write that adds rows would be refused for want of memory.
    fn is_full(&self) -> bool {
        false
    }

    /// Freezes the present content, in time that does not depend on its size (but for unlogged RocksDB,
    /// which flushes). Later writes are not in it.
    fn freeze(&mut self) -> Result<Box<dyn Frozen>>;

    /// The present content, to be read while the backend changes. Rows that [`Backend::expire`] has given up
    /// may be missing from it.
    fn view(&self) -> Result<Arc<dyn View>>;

    /// Gives up the rows of a table whose deadline is at or before a time: the backend drops them when it
    /// rewrites them anyway, or never.
    fn expire(&mut self, table: TableId, until_ms: i64);

    /// Sets the age at which a file of a table is rewritten though nothing else asks for it, so that the rows
    /// given up go from it, too; 0 is never. A backend without such files has nothing to do. It holds until the
    /// backend is closed; a new table, and any at an open, starts with [`COMPACTION_AGE_S`], and with 0 if its
    /// rows are not dropped at a rewrite.
    fn set_compaction_age(&mut self, table: TableId, age_s: u64) -> Result<()>;

    /// Begins to bring what only a log holds into files, and does not wait for it.
    fn begin_flush(&self) {}

    /// Does now what the backend would do some time to keep its files in order.
    fn compact(&mut self) -> Result<()>;

    /// Approximate number of rows of a table; operands that are not folded yet may count.
    fn estimate(&self, table: TableId) -> u64;

    /// Tables that exist, in the order of their ids, [`TableId::SHARD`] first.
    fn tables(&self) -> Vec<Table>;

    /// The files that hold rows of states, and which keys are in each, once all rows are in files; `None` if that is
    /// not known.
    fn files(&mut self) -> Result<Option<Vec<Span>>> {
        Ok(None)
    }

    /// Removes the rows of key groups outside a range, those of [`TableId::SHARD`] apart, without rewriting what stays.
    fn clip(&mut self, range: KeyGroupRange) -> Result<()>;

    /// Approximate size in bytes, on disk or in memory.
    fn bytes(&self) -> u64;
}

/// A file of a backend and the keys in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Name in the backend's directory.
    pub name: String,
    /// Its smallest key.
    pub smallest: Bytes,
    /// Its largest key.
    pub largest: Bytes,
}

/// A frozen content, to be turned into files away from the shard's own work.
pub trait Frozen: Send {
    /// Puts the files of the snapshot into `dir`, an empty directory, by hard links where it can, and
    /// lists them. Dropping a `Frozen` instead releases what it holds.
    fn write_files(self: Box<Self>, dir: &Path) -> Result<Vec<FrozenFile>>;
}

/// The frozen content of a backend that holds no rows: no files at all.
#[derive(Debug)]
pub struct NoFiles;

impl Frozen for NoFiles {
    fn write_files(self: Box<Self>, _: &Path) -> Result<Vec<FrozenFile>> {
        Ok(Vec::new())
    }
}

/// A file of a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrozenFile {
    /// Name in the snapshot's directory; never with a separator.
    pub name: String,
    /// Length in bytes.
    pub length: u64,
    /// For a file that never changes once written, and whose blocks carry checksums: an identity that no
    /// other content ever has. That of an SST is made of database id, session id and original file number.
    pub immutable_id: Option<String>,
    /// For a file that at most grows at its end: an identity that no other file ever has. So identity and
    /// length together tell the content, and what was there before is still its beginning.
    pub growing_id: Option<String>,
    /// Smallest key of an SST.
    pub smallest_key: Bytes,
    /// Largest key of an SST.
    pub largest_key: Bytes,
}
