//! Writes that RocksDB would hold up.
//!
//! A writer that waits inside RocksDB keeps its write thread, which the recovery from a full disk needs
//! for a flush: both then wait for each other, even once there is room (seen with 11.12). So no writer
//! waits inside: RocksDB refuses instead, and the wait is here, where a full disk ends it.

use std::{path::Path, thread, time::Duration};

use rocksdb::{ErrorKind, WriteBatch, WriteOptions};

use super::Engine;
use crate::storage::{Error, Result};

/// As long as RocksDB itself waits between two looks.
const PAUSE: Duration = Duration::from_millis(1);

/// Writes a batch; while flushes or compactions are behind it waits for them, but not if there is less
/// than `room_bytes` for what they write.
pub(super) fn write(engine: &Engine, batch: &WriteBatch, options: &mut WriteOptions, room_bytes: u64) -> Result<()> {
    options.set_no_slowdown(true);
    let idle = &engine.shared.idle;
    idle.written(&engine.last_write);
    loop {
        if engine.shared.is_tight() {
            idle.relieve();
        }
        match engine.db.write_opt(batch, options) {
            // Other refusals of this kind name the background error that stands behind them.
            Err(err) if err.kind() == ErrorKind::Incomplete && err.as_ref().ends_with("Write stall") => {
                if free_bytes(&engine.path)? < room_bytes {
                    return Err(Error::DiskFull { path: engine.path.clone() });
                }
                #[expect(
                    clippy::disallowed_methods,
                    reason = "the shard's own thread, which RocksDB would hold up too"
                )]
                thread::sleep(PAUSE);
            }
            written => return written.map_err(|err| engine.error(err)),
        }
    }
}

fn free_bytes(path: &Path) -> Result<u64> {
    let found = rustix::fs::statvfs(path).map_err(|err| Error::io(path, "ask for room", &err.into()))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}
