//! Forebay as the benches start it.

use bytesize::ByteSize;

use crate::harness::Setup;

/// RocksDB's block cache, ours and that of peers.
pub const BLOCK_CACHE: ByteSize = ByteSize::mib(256);
const WRITE_BUFFERS: ByteSize = ByteSize::mib(128);
/// Room for all rows of the memory backend; what RocksDB gets does not depend on it.
const BUDGET: ByteSize = ByteSize::gib(8);

/// Coordinator and server in one process, which says nothing but warnings.
pub fn dev() -> Setup {
    Setup::dev()
        .set("telemetry.log", "warn")
        .set("memory.budget", &BUDGET.to_string())
        .set("rocksdb.block_cache_bytes", &BLOCK_CACHE.to_string())
        .set("rocksdb.write_buffer_bytes", &WRITE_BUFFERS.to_string())
}
