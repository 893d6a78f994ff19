//! Databases that nobody writes to, but whose write buffers take room that others need.
//!
//! RocksDB flushes the database that is being written to when all write buffers together are near their
//! limit; what lies in the others would stay there, and with enough of it a writer would wait for ever.

use std::{
    sync::{
        Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rocksdb::FlushOptions;
use tracing::warn;

use super::Engine;

/// A database that has not been written to for so long is idle.
const IDLE: Duration = Duration::from_secs(1);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// The databases of a process.
pub(super) struct Idle {
    start: Instant,
    engines: Mutex<Vec<Weak<Engine>>>,
    looked_ms: AtomicU64,
}

impl Default for Idle {
    fn default() -> Self {
        Self { start: Instant::now(), engines: Mutex::default(), looked_ms: AtomicU64::new(0) }
    }
}

/// When a database was last written to since it was last flushed as an idle one; 0 is never.
#[derive(Debug, Default)]
pub(super) struct LastWrite(AtomicU64);

impl Idle {
    /// Takes up a database that was opened.
    pub(super) fn join(&self, engine: Weak<Engine>) {
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        engines.retain(|engine| engine.strong_count() > 0);
        engines.push(engine);
    }

    /// Takes note that a database is written to.
    pub(super) fn written(&self, last: &LastWrite) {
        last.0.store(self.now_ms(), Relaxed);
    }

    /// Has idle databases flushed, without waiting for it; looks for them now and then.
    pub(super) fn relieve(&self) {
        self.relieve_at(self.now_ms());
    }

    fn relieve_at(&self, now_ms: u64) {
        let looked_ms = self.looked_ms.load(Relaxed);
        let due = now_ms >= looked_ms + LOOK.as_millis() as u64;
        if !due || self.looked_ms.compare_exchange(looked_ms, now_ms, Relaxed, Relaxed).is_err() {
            return;
        }
        let engines: Vec<_> = {
            let engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
            engines.iter().filter_map(Weak::upgrade).collect()
        };
        for engine in engines {
            let last_ms = engine.last_write.0.load(Relaxed);
            let idle = last_ms > 0 && now_ms >= last_ms + IDLE.as_millis() as u64;
            if idle && engine.last_write.0.compare_exchange(last_ms, 0, Relaxed, Relaxed).is_ok() {
                flush(&engine);
            }
        }
    }

    fn now_ms(&self) -> u64 {
        // From 1 on: 0 is never.
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX - 1).saturating_add(1)
    }
}

/// Begins to flush a database, and does not wait for it.
pub(super) fn flush(engine: &Engine) {
    let mut options = FlushOptions::default();
    options.set_wait(false);
    options.set_allow_write_stall(true);
    let names = engine.db.cf_names();
    let families: Vec<_> = names.iter().filter_map(|name| engine.db.cf_handle(name)).collect();
    let families: Vec<_> = families.iter().collect();
    if let Err(error) = engine.db.flush_cfs_opt(&families, &options) {
        // Its next writer meets the same, and has somebody to tell.
        warn!(%error, path = %engine.path.display(), "a database cannot be flushed");
    }
}

#[cfg(test)]
mod tests {
    use bytesize::ByteSize;

    use super::*;
    use crate::storage::{
        Backend as _, Logging, RocksBackend, RocksConfig, RocksShared, Table, TableId, WalTolerance, Writes,
    };

    const T: TableId = TableId(1);

    fn put(backend: &mut RocksBackend, key: u32) -> crate::storage::Result<()> {
        let mut writes = Writes::default();
        writes.put(T, &key.to_be_bytes(), |out| out.extend([7; 1000]));
        backend.write(&writes, Logging::Buffered)
    }

    #[test]
    fn a_writer_does_not_wait_for_databases_that_nobody_writes_to() {
        let config = RocksConfig { write_buffer_bytes: Some(ByteSize::mib(4)), ..RocksConfig::default() };
        let (shared, dir) = (RocksShared::new(&config).unwrap(), tempfile::tempdir().unwrap());
        let open = |name: &str| {
            let dir = dir.path().join(name);
            std::fs::create_dir(&dir).unwrap();
            let mut backend = RocksBackend::open(&dir, &shared, true, WalTolerance::Tail).unwrap();
            backend.create_table(Table { id: T, merge: None }).unwrap();
            backend
        };
        let mut quiet = ["a", "b", "c", "d", "e"].map(open);
        for backend in &mut quiet {
            // Less than what has a table flushed, and all together less than what has idle ones looked for.
            (0..500).for_each(|key| put(backend, key).unwrap());
        }
        quiet.iter().for_each(|backend| shared.idle.written(&backend.engine.last_write));
        let now_ms = shared.idle.now_ms();
        shared.idle.relieve_at(now_ms + LOOK.as_millis() as u64);
        let before = shared.write_buffer_used();
        assert!(before > 2 << 20, "{before} bytes are unflushed, of databases that have just been written to");
        shared.idle.relieve_at(now_ms + 2 * IDLE.as_millis() as u64);
        let until = Instant::now() + Duration::from_secs(10);
        while shared.write_buffer_used() > 1 << 20 {
            assert!(Instant::now() < until, "{} of {before} bytes are still unflushed", shared.write_buffer_used());
            std::thread::yield_now();
        }
        let mut busy = open("busy");
        (0..10_000).for_each(|key| put(&mut busy, key).unwrap());
        assert!(quiet.iter().all(|backend| backend.engine.last_write.0.load(Relaxed) == 0), "flushed once, not again");
    }
}
