//! The `[rocksdb]` section: what all shards of a server share.

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

/// `[rocksdb]`: memory, logs and threads of the RocksDB backends of one server.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct RocksConfig {
    /// Cache of uncompressed blocks, shared by all shards; indexes and filters are in it too.
    pub block_cache_bytes: ByteSize,
    /// Unflushed writes of all shards; beyond it the shards written to flush.
    pub write_buffer_bytes: ByteSize,
    /// Unflushed writes of one table; beyond it the table flushes.
    pub table_write_buffer_bytes: ByteSize,
    /// Write-ahead log of one shard; beyond it what keeps its oldest part alive is flushed.
    pub log_bytes_max: ByteSize,
    /// Write-ahead logs of all shards together, as checkpoints find them; beyond it the shards with the longest
    /// flush right after. A restore replays what is not flushed.
    pub unflushed_log_bytes: ByteSize,
    /// Threads that compact, shared by all shards; flushes have half as many of their own.
    pub background_threads: u16,
}

impl Default for RocksConfig {
    fn default() -> Self {
        Self {
            block_cache_bytes: ByteSize::mib(256),
            write_buffer_bytes: ByteSize::mib(128),
            table_write_buffer_bytes: ByteSize::mib(16),
            log_bytes_max: ByteSize::mib(64),
            unflushed_log_bytes: ByteSize::mib(128),
            background_threads: 2,
        }
    }
}
