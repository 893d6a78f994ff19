//! The `[rocksdb]` section: what all shards of a server share, and how their tables are built.

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

/// `[rocksdb]`: the RocksDB backends of one server. What is not set is as `predefined` has it.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct RocksConfig {
    /// What the rest is if nothing else is said.
    pub predefined: Predefined,
    /// Cache of uncompressed blocks, shared by all shards; indexes and filters are in it too. By default what the
    /// memory budget has for RocksDB and write buffers do not take.
    pub block_cache_bytes: Option<ByteSize>,
    /// Unflushed writes of all shards; beyond it the shards written to flush, and writes wait. By default a share of what
    /// the memory budget has for RocksDB.
    pub write_buffer_bytes: Option<ByteSize>,
    /// That share (0.05 to 0.95).
    pub write_buffer_ratio: Option<f64>,
    /// Unflushed writes of one table; beyond it the table flushes.
    pub table_write_buffer_bytes: Option<ByteSize>,
    /// Write buffers of one table, the one that is written to among them.
    pub write_buffers_max: Option<u16>,
    /// Write buffers of one table that are flushed together.
    pub write_buffers_merged: Option<u16>,
    /// Filter of keys before a write buffer, as a share of its size (0 to 0.25; 0 is none): fewer lookups in it for keys
    /// that are elsewhere.
    pub write_buffer_filter: Option<f64>,
    /// Write-ahead log of one shard; beyond it what keeps its oldest part alive is flushed.
    pub log_bytes_max: Option<ByteSize>,
    /// Write-ahead logs of all shards together, as checkpoints find them; beyond it the shards with the longest
    /// flush right after. A restore replays what is not flushed.
    pub unflushed_log_bytes: Option<ByteSize>,
    /// Threads that compact, shared by all shards; flushes have as many of their own.
    pub background_threads: Option<u16>,
    /// A block of a file, before compression: what one read of a key that is not cached takes from the disk.
    pub block_bytes: Option<ByteSize>,
    /// Filter of keys in each file.
    pub filter: Option<Filter>,
    /// Bits of the filter per key: each bit more makes it wrong a third less often.
    pub filter_bits: Option<f64>,
    /// Indexes and filters in parts of which only those in use are in memory.
    pub partitioned_index: Option<bool>,
    /// How files are compacted.
    pub compaction: Option<Compaction>,
    /// Files in level 0 at which they are compacted.
    pub level0_files: Option<u16>,
    /// Bytes of level 1.
    pub level_bytes: Option<ByteSize>,
    /// A file of level 1; smaller ones are sent to checkpoints sooner, larger ones are fewer.
    pub file_bytes: Option<ByteSize>,
    /// Sizes of levels follow that of the last one, which then holds nine tenths of everything.
    pub dynamic_levels: Option<bool>,
    /// Compression of all levels but the last.
    pub compression: Option<Compression>,
    /// Compression of the last level.
    pub bottommost_compression: Option<Compression>,
    /// Reads, flushes and compactions pass the operating system's cache by.
    pub direct_io: Option<bool>,
}

/// Settings for a kind of work or machine (Flink: PredefinedOptions).
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Predefined {
    /// For a server with a budget of 1 GiB or more on a solid-state disk.
    #[default]
    Default,
    /// More and larger write buffers, later compactions: more writes, more memory, longer restores.
    WriteHeavy,
    /// More of the memory for the cache, better filters, earlier compactions.
    ReadHeavy,
    /// For a server with a budget of about 256 MiB.
    LowMemory,
    /// For spinning disks: large blocks and files.
    Hdd,
}

/// Filter of keys in each file.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// None: every file that may hold a key is looked into.
    None,
    /// Fast.
    Bloom,
    /// A third smaller than bloom, three times as much work to build; level 0 has bloom filters all the same.
    Ribbon,
}

/// How files are compacted.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Compaction {
    /// By levels, each ten times the one before.
    Level,
    /// By age: fewer bytes written, up to twice the space.
    Universal,
}

/// Compression of blocks.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// None.
    None,
    /// Fast.
    Lz4,
    /// Small.
    Zstd,
}

/// The section with nothing left open.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RocksSettings {
    pub(super) block_cache_bytes: Option<ByteSize>,
    pub(super) write_buffer_bytes: Option<ByteSize>,
    pub(super) write_buffer_ratio: f64,
    pub(super) table_write_buffer_bytes: ByteSize,
    pub(super) write_buffers_max: u16,
    pub(super) write_buffers_merged: u16,
    pub(super) write_buffer_filter: f64,
    pub(super) log_bytes_max: ByteSize,
    pub(super) unflushed_log_bytes: ByteSize,
    pub(super) background_threads: u16,
    pub(super) block_bytes: ByteSize,
    pub(super) filter: Filter,
    pub(super) filter_bits: f64,
    pub(super) partitioned_index: bool,
    pub(super) compaction: Compaction,
    pub(super) level0_files: u16,
    pub(super) level_bytes: ByteSize,
    pub(super) file_bytes: ByteSize,
    pub(super) dynamic_levels: bool,
    pub(super) compression: Compression,
    pub(super) bottommost_compression: Compression,
    pub(super) direct_io: bool,
}

impl RocksConfig {
    /// Fills in what is not set.
    pub(super) fn settings(&self) -> RocksSettings {
        let of = self.predefined.settings();
        RocksSettings {
            block_cache_bytes: self.block_cache_bytes.or(of.block_cache_bytes),
            write_buffer_bytes: self.write_buffer_bytes.or(of.write_buffer_bytes),
            write_buffer_ratio: self.write_buffer_ratio.unwrap_or(of.write_buffer_ratio),
            table_write_buffer_bytes: self.table_write_buffer_bytes.unwrap_or(of.table_write_buffer_bytes),
            write_buffers_max: self.write_buffers_max.unwrap_or(of.write_buffers_max),
            write_buffers_merged: self.write_buffers_merged.unwrap_or(of.write_buffers_merged),
            write_buffer_filter: self.write_buffer_filter.unwrap_or(of.write_buffer_filter),
            log_bytes_max: self.log_bytes_max.unwrap_or(of.log_bytes_max),
            unflushed_log_bytes: self.unflushed_log_bytes.unwrap_or(of.unflushed_log_bytes),
            background_threads: self.background_threads.unwrap_or(of.background_threads),
            block_bytes: self.block_bytes.unwrap_or(of.block_bytes),
            filter: self.filter.unwrap_or(of.filter),
            filter_bits: self.filter_bits.unwrap_or(of.filter_bits),
            partitioned_index: self.partitioned_index.unwrap_or(of.partitioned_index),
            compaction: self.compaction.unwrap_or(of.compaction),
            level0_files: self.level0_files.unwrap_or(of.level0_files),
            level_bytes: self.level_bytes.unwrap_or(of.level_bytes),
            file_bytes: self.file_bytes.unwrap_or(of.file_bytes),
            dynamic_levels: self.dynamic_levels.unwrap_or(of.dynamic_levels),
            compression: self.compression.unwrap_or(of.compression),
            bottommost_compression: self.bottommost_compression.unwrap_or(of.bottommost_compression),
            direct_io: self.direct_io.unwrap_or(of.direct_io),
        }
    }

    /// Tells what is wrong with the section.
    pub fn check(&self) -> Vec<String> {
        let is = self.settings();
        let mut problems = Vec::new();
        let mut allow = |key: &str, value: String, sound: bool, allowed: &str| {
            if !sound {
                problems.push(format!("rocksdb.{key} is {value}: {allowed}"));
            }
        };
        let number = |number: u16| number.to_string();
        let positive = "at least 1";
        allow("background_threads", number(is.background_threads), is.background_threads > 0, positive);
        allow("level0_files", number(is.level0_files), is.level0_files > 0, positive);
        allow("write_buffers_max", number(is.write_buffers_max), is.write_buffers_max > 1, "at least 2");
        let merged = is.write_buffers_merged > 0 && is.write_buffers_merged < is.write_buffers_max;
        let below = format!("1 to {}, below rocksdb.write_buffers_max", is.write_buffers_max.saturating_sub(1));
        allow("write_buffers_merged", number(is.write_buffers_merged), merged, &below);
        let share = (0.0..=0.25).contains(&is.write_buffer_filter);
        allow("write_buffer_filter", is.write_buffer_filter.to_string(), share, "0 to 0.25, a share of the buffer");
        let ratio = (0.05..=0.95).contains(&is.write_buffer_ratio);
        allow("write_buffer_ratio", is.write_buffer_ratio.to_string(), ratio, "0.05 to 0.95");
        let bits = (1.0..=30.0).contains(&is.filter_bits);
        allow("filter_bits", is.filter_bits.to_string(), bits, "1 to 30 bits a key");
        let block = (ByteSize::kib(1)..=ByteSize::mib(4)).contains(&is.block_bytes);
        allow("block_bytes", is.block_bytes.to_string(), block, "1KiB to 4MiB");
        for (key, bytes) in [
            ("table_write_buffer_bytes", is.table_write_buffer_bytes),
            ("level_bytes", is.level_bytes),
            ("file_bytes", is.file_bytes),
        ] {
            allow(key, bytes.to_string(), bytes >= ByteSize::kib(64), "at least 64KiB");
        }
        problems
    }
}

impl Predefined {
    fn settings(self) -> RocksSettings {
        let default = RocksSettings {
            block_cache_bytes: None,
            write_buffer_bytes: None,
            write_buffer_ratio: 0.33,
            table_write_buffer_bytes: ByteSize::mib(16),
            write_buffers_max: 2,
            write_buffers_merged: 1,
            write_buffer_filter: 0.0,
            log_bytes_max: ByteSize::mib(64),
            unflushed_log_bytes: ByteSize::mib(128),
            background_threads: 2,
            block_bytes: ByteSize::kib(4),
            filter: Filter::Bloom,
            filter_bits: 10.0,
            partitioned_index: false,
            compaction: Compaction::Level,
            level0_files: 4,
            level_bytes: ByteSize::mib(128),
            file_bytes: ByteSize::mib(32),
            dynamic_levels: true,
            compression: Compression::Lz4,
            bottommost_compression: Compression::Zstd,
            direct_io: false,
        };
        match self {
            Self::Default => default,
            Self::WriteHeavy => RocksSettings {
                write_buffer_ratio: 0.6,
                table_write_buffer_bytes: ByteSize::mib(64),
                write_buffers_max: 4,
                write_buffers_merged: 2,
                log_bytes_max: ByteSize::mib(256),
                unflushed_log_bytes: ByteSize::mib(512),
                background_threads: 4,
                level0_files: 8,
                level_bytes: ByteSize::mib(512),
                file_bytes: ByteSize::mib(64),
                ..default
            },
            Self::ReadHeavy => RocksSettings {
                write_buffer_ratio: 0.2,
                write_buffer_filter: 0.1,
                filter_bits: 14.0,
                level0_files: 2,
                ..default
            },
            Self::LowMemory => RocksSettings {
                table_write_buffer_bytes: ByteSize::mib(4),
                log_bytes_max: ByteSize::mib(32),
                unflushed_log_bytes: ByteSize::mib(64),
                background_threads: 1,
                filter: Filter::Ribbon,
                partitioned_index: true,
                level_bytes: ByteSize::mib(64),
                file_bytes: ByteSize::mib(16),
                ..default
            },
            Self::Hdd => RocksSettings {
                table_write_buffer_bytes: ByteSize::mib(64),
                block_bytes: ByteSize::kib(64),
                filter: Filter::Ribbon,
                partitioned_index: true,
                level_bytes: ByteSize::gib(1),
                file_bytes: ByteSize::mib(256),
                log_bytes_max: ByteSize::mib(256),
                ..default
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_goes_before_what_is_predefined() {
        let config = RocksConfig {
            predefined: Predefined::LowMemory,
            block_cache_bytes: Some(ByteSize::mib(7)),
            ..RocksConfig::default()
        };
        let settings = config.settings();
        assert_eq!((settings.block_cache_bytes, settings.filter), (Some(ByteSize::mib(7)), Filter::Ribbon));
        assert_eq!(RocksConfig::default().settings(), Predefined::Default.settings());
    }

    #[test]
    fn what_is_predefined_is_sound() {
        use Predefined::{Default, Hdd, LowMemory, ReadHeavy, WriteHeavy};
        for predefined in [Default, WriteHeavy, ReadHeavy, LowMemory, Hdd] {
            assert_eq!(RocksConfig { predefined, ..RocksConfig::default() }.check(), Vec::<String>::new());
        }
    }

    #[test]
    fn every_wrong_value_is_told_with_what_is_allowed() {
        let config = RocksConfig {
            background_threads: Some(0),
            write_buffers_merged: Some(2),
            write_buffer_filter: Some(0.5),
            filter_bits: Some(0.0),
            block_bytes: Some(ByteSize::b(10)),
            file_bytes: Some(ByteSize::b(10)),
            ..RocksConfig::default()
        };
        let problems = config.check();
        assert_eq!(problems.len(), 6, "{problems:#?}");
        assert_eq!(problems[1], "rocksdb.write_buffers_merged is 2: 1 to 1, below rocksdb.write_buffers_max");
    }
}
