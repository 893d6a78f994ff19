//! Cuts a database to a range of key groups.
//!
//! [`RocksBackend::clip_rows`] hides what is outside in no time: whole files go, the rest is covered by a range
//! tombstone and goes with later compactions. [`RocksBackend::clip_files`] goes on until no key and no tombstone
//! lies outside, rewriting the files that cross the border; only then may files be joined with another
//! database's, whose rows such a tombstone would cover without a word.

use forebay_proto::key_group::KeyGroupRange;
use rocksdb::{BottommostLevelCompaction, CompactOptions};

use super::RocksBackend;
use crate::storage::{Backend as _, Error, Logging, Result, TableId, Writes};

/// Behind every row key: key groups end at 32,768.
const BEHIND_ALL: [u8; 2] = [0xff, 0xff];

impl RocksBackend {
    pub(super) fn clip_rows(&mut self, range: KeyGroupRange) -> Result<()> {
        let (start, end) = range.row_bounds();
        let mut writes = Writes::default();
        for table in self.tables.keys().filter(|table| **table != TableId::SHARD) {
            let family = self.family(*table)?;
            for (from, to) in [(&[][..], &start[..]), (&end[..], &BEHIND_ALL[..])] {
                if from >= to {
                    continue;
                }
                self.engine.db.delete_file_in_range_cf(&family, from, to).map_err(|err| self.engine.error(err))?;
                writes.delete_range(*table, from, to);
            }
        }
        let logging = if self.logged { Logging::Buffered } else { Logging::None };
        self.write(&writes, logging)
    }

    /// As [`clip_rows`](Self::clip_rows), down to the files; flushes. False if a file still reaches outside.
    pub(super) fn clip_files(&mut self, range: KeyGroupRange) -> Result<bool> {
        self.flush()?;
        if self.lies_within(range)? {
            return Ok(true);
        }
        self.clip_rows(range)?;
        self.flush()?;
        let (start, end) = range.row_bounds();
        let mut options = CompactOptions::default();
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        for table in self.tables.keys().filter(|table| **table != TableId::SHARD) {
            let family = self.family(*table)?;
            // Only the files that reach outside are rewritten.
            self.engine.db.compact_range_cf_opt(&family, None::<&[u8]>, Some(&start[..]), &options);
            self.engine.db.compact_range_cf_opt(&family, Some(&end[..]), None::<&[u8]>, &options);
        }
        self.lies_within(range)
    }

    /// True if no file of a state's table has a key, or a tombstone, outside of the range.
    fn lies_within(&self, range: KeyGroupRange) -> Result<bool> {
        let (start, end) = range.row_bounds();
        let files = self.engine.db.live_files().map_err(|err| self.engine.error(err))?;
        let shard = super::columns::Column::new(super::columns::SHARD_TABLE).name;
        let outside = |file: &rocksdb::LiveFile| {
            let smallest = file.start_key.as_deref().unwrap_or_default();
            let largest = file.end_key.as_deref().unwrap_or(&BEHIND_ALL);
            // A range tombstone's end is exclusive: it may be the bare border, which no row's key is.
            smallest < &start[..] || largest > &end[..]
        };
        Ok(!files.iter().filter(|file| file.column_family_name != shard).any(outside))
    }

    /// The error of files that cannot be what they should be.
    pub(super) fn damaged(&self, detail: impl Into<String>) -> Error {
        Error::corrupt(&self.engine.path, detail)
    }
}
