//! How much log the databases of a process have that is not flushed: what a restore would have to replay.

use std::{
    fs::{self, File},
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crate::storage::{Error, Result};

/// Syncs the files of a database's logs, and their names.
pub(super) fn sync(dir: &Path) -> Result<()> {
    let synced = || -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                match File::open(path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    log => log?.sync_all()?,
                }
            }
        }
        File::open(dir)?.sync_all()
    };
    synced().map_err(|error| Error::io(dir, "sync the logs of", &error))
}

/// The logs of all databases, as of the last freeze of each.
#[derive(Debug, Default)]
pub(super) struct Logs {
    bytes: AtomicU64,
    databases: AtomicU64,
}

/// The log of one database.
#[derive(Debug)]
pub(super) struct Log {
    all: Arc<Logs>,
    bytes: AtomicU64,
}

impl Log {
    pub(super) fn new(all: &Arc<Logs>) -> Self {
        all.databases.fetch_add(1, Relaxed);
        Self { all: Arc::clone(all), bytes: AtomicU64::new(0) }
    }

    /// Takes note of the log's length at a freeze; true if it is to be flushed now: all together are longer
    /// than `cap`, and this one is none of the shorter ones.
    pub(super) fn frozen(&self, bytes: u64, cap: u64) -> bool {
        self.set(bytes);
        let all = self.all.bytes.load(Relaxed);
        let databases = self.all.databases.load(Relaxed);
        let flush = all > cap && bytes.saturating_mul(databases) >= all;
        if flush {
            self.set(0);
        }
        flush
    }

    fn set(&self, bytes: u64) {
        // Added first: the sum is never below zero.
        self.all.bytes.fetch_add(bytes, Relaxed);
        self.all.bytes.fetch_sub(self.bytes.swap(bytes, Relaxed), Relaxed);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.set(0);
        self.all.databases.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_logs_are_flushed_when_all_are_too_long() {
        let all = Arc::default();
        let (one, two) = (Log::new(&all), Log::new(&all));
        assert!(!one.frozen(90, 100));
        assert!(!two.frozen(10, 100));
        assert!(!two.frozen(20, 100), "the other one is longer");
        assert!(one.frozen(90, 100));
        assert!(!two.frozen(30, 100), "the other one is being flushed");
        assert!(two.frozen(101, 100));
    }

    #[test]
    fn a_closed_database_has_no_log() {
        let all = Arc::default();
        let (one, two) = (Log::new(&all), Log::new(&all));
        assert!(!two.frozen(100, 100));
        drop(two);
        assert!(!one.frozen(100, 100));
    }
}
