//! How long a shard stands still at a barrier: the freeze, on the shard's own thread, with 64 MB of unflushed writes.
//!
//! Beside it what RocksDB's own checkpoint takes, which flushes first.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use bytesize::ByteSize;
use forebay_integration_tests::bench::rows::{Rows, median, percentile};
use forebay_server::storage::{
    Backend as _, Logging, RocksBackend, RocksConfig, RocksShared, Table, TableId, WalTolerance, Writes,
    row::{self, Header},
};

use crate::{
    Scale,
    load::{self, VALUE_BYTES},
};

const TABLE: Table = Table { id: TableId(1), merge: None };
/// Freezes of one run.
const FREEZES: usize = 20;
const BATCH: u64 = 256;

/// Sizes in thousandths of a gigabyte, as targets.md names them.
const SIZES: [(u64, &str); 3] = [(100, "0g1"), (1_000, "1g"), (5_000, "5g")];

pub fn measure(scale: Scale, rows: &mut Rows) -> Result<()> {
    for (size, name) in SIZES {
        let dir = tempfile::tempdir()?;
        let (bytes, dirty) = (scale.bytes(size), scale.bytes(64));
        let mut base = Base::fill(dir.path(), bytes)?;
        let mut peer = if name == "1g" { Some(Peer::fill(&dir.path().join("peer"), bytes)?) } else { None };
        let (mut p99, mut against) = (Vec::new(), Vec::new());
        for run in 0..scale.runs {
            let mut pauses = Vec::new();
            for freeze in 0..FREEZES {
                base.dirty(dirty)?;
                let copy = dir.path().join(format!("copy-{run}-{freeze}"));
                std::fs::create_dir(&copy)?;
                let begun = Instant::now();
                let frozen = base.backend.freeze()?;
                pauses.push(millis(begun.elapsed()));
                frozen.write_files(&copy)?;
                std::fs::remove_dir_all(&copy)?;
            }
            p99.push(percentile(&pauses, 99));
            if let Some(peer) = &mut peer {
                against.push((median(&pauses), peer.checkpoint(dirty, &dir.path().join("flushed"))?));
            }
        }
        rows.absolute(format!("barrier_pause_p99_ms_{name}"), "ms", "≤ 5", p99);
        if peer.is_some() {
            rows.ratio("barrier_pause_vs_flush", "ms", "≤ 0.03", &against);
        }
    }
    Ok(())
}

/// A backend with so many bytes in settled files.
struct Base {
    backend: RocksBackend,
    keys: u64,
    next: u64,
}

impl Base {
    fn fill(dir: &Path, bytes: u64) -> Result<Self> {
        let db = dir.join("db");
        std::fs::create_dir(&db)?;
        let mut backend = RocksBackend::open(&db, &shared()?, true, WalTolerance::Tail)?;
        backend.create_table(TABLE)?;
        let mut base = Self { backend, keys: bytes / VALUE_BYTES as u64, next: 0 };
        base.write(base.keys)?;
        base.backend.compact()?;
        Ok(base)
    }

    /// Writes so many bytes that no file holds yet.
    fn dirty(&mut self, bytes: u64) -> Result<()> {
        self.write(bytes / VALUE_BYTES as u64)
    }

    fn write(&mut self, count: u64) -> Result<()> {
        let mut left = count;
        while left > 0 {
            let mut writes = Writes::default();
            for _ in 0..left.min(BATCH) {
                let key = load::key(load::spread(self.next, self.keys));
                let header = Header { write_ms: 1, deadline_ms: None, version: Some(self.next) };
                writes.put(TABLE.id, &key, |out| row::encode(&header, &load::value(self.next), out));
                self.next += 1;
            }
            self.backend.write(&writes, Logging::Buffered)?;
            left = left.saturating_sub(BATCH);
        }
        Ok(())
    }
}

/// RocksDB as it comes, with the same rows.
struct Peer {
    db: rocksdb::DB,
    keys: u64,
    next: u64,
}

impl Peer {
    fn fill(dir: &Path, bytes: u64) -> Result<Self> {
        let mut options = rocksdb::Options::default();
        options.create_if_missing(true);
        options.set_write_buffer_size(256 << 20);
        let mut peer = Self { db: rocksdb::DB::open(&options, dir)?, keys: bytes / VALUE_BYTES as u64, next: 0 };
        peer.write(peer.keys)?;
        peer.db.flush()?;
        peer.db.compact_range(None::<&[u8]>, None::<&[u8]>);
        Ok(peer)
    }

    fn write(&mut self, count: u64) -> Result<()> {
        for _ in 0..count {
            self.db.put(load::key(load::spread(self.next, self.keys)), load::value(self.next))?;
            self.next += 1;
        }
        Ok(())
    }

    /// Milliseconds of a checkpoint, which flushes what is dirty.
    fn checkpoint(&mut self, dirty: u64, to: &Path) -> Result<f64> {
        self.write(dirty / VALUE_BYTES as u64)?;
        let begun = Instant::now();
        rocksdb::checkpoint::Checkpoint::new(&self.db)?.create_checkpoint(to)?;
        let took = millis(begun.elapsed());
        std::fs::remove_dir_all(to)?;
        Ok(took)
    }
}

/// Buffers that hold what is to be dirty, so that nothing flushes meanwhile.
fn shared() -> Result<Arc<RocksShared>> {
    let config = RocksConfig {
        write_buffer_bytes: Some(ByteSize::mib(512)),
        table_write_buffer_bytes: Some(ByteSize::mib(256)),
        log_bytes_max: Some(ByteSize::mib(512)),
        unflushed_log_bytes: Some(ByteSize::mib(512)),
        ..RocksConfig::default()
    };
    Ok(RocksShared::new(&config)?)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
