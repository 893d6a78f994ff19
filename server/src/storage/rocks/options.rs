//! How a RocksDB is opened: the options, and what the shards of a process share.
//!
//! Invariant: every column family is opened with the options of its own table, never with defaults,
//! which lack the bloom filter (half the speed of reads) and the merge operator (no reads at all).

use std::{
    ffi::CStr,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use bytesize::ByteSize;
use forebay_proto::merge::MergeFunction;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DBCompactionStyle, DBCompressionType, DBRecoveryMode, Env, LogLevel,
    MergeOperands, Options, SstFileManager, WriteBufferManager,
    compaction_filter::{CompactionFilter, Decision},
    compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory},
};

use super::{
    super::{
        budget::Shares,
        config::{Compaction, Compression, Filter, RocksConfig, RocksSettings},
    },
    WalTolerance,
    columns::Column,
    idle::Idle,
    logs::{Log, Logs},
};
use crate::storage::{Error, Result, merge, row};

/// Format of new SSTs; pinned, because [`sst`](super::sst) reads it.
const SST_FORMAT: i32 = 7;
/// A new arena takes this much at once; small, for most of many tables are nearly empty.
const ARENA_BYTES: usize = 64 << 10;
/// Smaller yet where the budget is small: so many tables are to fit into it.
const TABLES: usize = 8192;
const ARENA_MIN: usize = 4 << 10;
/// RocksDB's name of the age at which a file is compacted, in seconds.
pub(super) const COMPACTION_AGE: &str = "periodic_compaction_seconds";
/// Old files of tables that nobody writes are looked for so often; in others at every flush. RocksDB would do so
/// twice a day, and settles it at the open, before it knows the ages that descriptors ask for.
const WAKEUP_S: u64 = 10 * 60;
/// Deletion of files that nothing needs any more, in bytes per second: so fast that they never pile up. With any rate
/// RocksDB only renames them, and deletes in a thread of their own; a freeze waits for deletions that are under way.
const DELETION_RATE: i64 = 1 << 30;
/// Files that may wait for deletion, by the size of the others: beyond it a deletion is waited for.
const DELETION_BACKLOG: f64 = 100.0;
/// Operands of one key in the write buffer before they are folded there, which bounds what a read folds.
const OPERANDS_MAX: usize = 16;

/// What the RocksDB backends of a process share: block cache, write buffers, threads.
pub struct RocksShared {
    settings: RocksSettings,
    shares: Shares,
    cache: Cache,
    write_buffers: WriteBufferManager,
    env: Env,
    logs: Arc<Logs>,
    pub(super) idle: Idle,
}

impl RocksShared {
    /// Creates it for a process that nothing limits, such as a tool.
    pub fn new(config: &RocksConfig) -> Result<Arc<Self>> {
        Self::within(config, Shares::of(config)?)
    }

    /// Creates it; once for a process. `shares` says how large it may get.
    pub fn within(config: &RocksConfig, shares: Shares) -> Result<Arc<Self>> {
        let failed = |err: rocksdb::Error| Error::Io { path: "rocksdb".into(), detail: err.into_string() };
        let mut env = Env::new().map_err(failed)?;
        let settings = config.settings();
        let threads = i32::from(settings.background_threads.max(1));
        env.set_low_priority_background_threads(threads);
        // Flushes wait for the disk more than they work, and writers wait for them.
        env.set_high_priority_background_threads(threads);
        // Write buffers are counted in the cache, so that what one of them does not use the other has.
        let cache = Cache::new_hyper_clock_cache(bytes(shares.block_cache + shares.write_buffers), 0);
        let (limit, wait) = (bytes(shares.write_buffers), true);
        let write_buffers = WriteBufferManager::new_write_buffer_manager_with_cache(limit, wait, cache.clone());
        Ok(Arc::new(Self { settings, shares, cache, write_buffers, idle: Idle::default(), env, logs: Arc::default() }))
    }

    /// Bytes in the block cache at present, write buffers among them.
    pub fn block_cache_used(&self) -> usize {
        self.cache.get_usage()
    }

    /// Bytes of unflushed writes at present.
    pub fn write_buffer_used(&self) -> usize {
        self.write_buffers.get_usage()
    }

    /// True if unflushed writes are near their limit.
    pub(super) fn is_tight(&self) -> bool {
        self.write_buffers.get_usage() >= bytes(self.shares.write_buffers) / 4 * 3
    }

    /// The log of a database that was opened.
    pub(super) fn log(&self) -> Log {
        Log::new(&self.logs)
    }

    /// Log of all databases together, beyond which a snapshot makes the longest ones flush.
    pub(super) fn unflushed_log_bytes(&self) -> u64 {
        self.settings.unflushed_log_bytes.0
    }

    /// Room that the flush of one table may need.
    pub(super) fn flush_bytes(&self) -> u64 {
        self.table_write_buffer().0
    }

    /// Options of a database.
    pub(super) fn database(&self, logged: bool, tolerance: WalTolerance, exists: bool) -> Options {
        let mut options = Options::default();
        // Not if there is one: a lost CURRENT file must not become an empty database.
        options.create_if_missing(!exists);
        options.create_missing_column_families(true);
        options.set_env(&self.env);
        options.set_sst_file_manager(&files());
        options.set_write_buffer_manager(&self.write_buffers);
        options.set_max_background_jobs(i32::from(self.settings.background_threads.max(1)) + 1);
        options.set_paranoid_checks(true);
        options.set_track_and_verify_wals_in_manifest(true);
        options.set_wal_recovery_mode(match tolerance {
            WalTolerance::Tail => DBRecoveryMode::TolerateCorruptedTailRecords,
            WalTolerance::None => DBRecoveryMode::AbsoluteConsistency,
        });
        options.set_max_total_wal_size(self.settings.log_bytes_max.0);
        // Without a log the files alone must be one moment of all tables.
        options.set_atomic_flush(!logged);
        // A log makes the flush needless; without one nothing is promised after a close.
        options.set_avoid_flush_during_shutdown(true);
        options.set_use_direct_reads(self.settings.direct_io);
        options.set_use_direct_io_for_flush_and_compaction(self.settings.direct_io);
        // One thread writes, and folding operands in the write buffer needs it to be so.
        options.set_allow_concurrent_memtable_write(false);
        options.set_bytes_per_sync(1 << 20);
        options.set_skip_stats_update_on_db_open(true);
        options.set_max_compaction_trigger_wakeup_seconds(WAKEUP_S);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        options.set_manifest_preallocation_size(64 << 10);
        options.set_max_manifest_file_size(4 << 20);
        options.set_log_level(LogLevel::Warn);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(1 << 20);
        options
    }

    /// Options of a table's column family.
    pub(super) fn table(&self, column: &Column) -> Options {
        let mut options = self.family();
        if let Some(function) = column.table.merge {
            set_merge(&mut options, function);
        }
        if column.drops_expired() {
            drop_expired(&mut options, column.given_up_ms.clone());
        }
        options.set_periodic_compaction_seconds(column.compaction_age_s);
        options
    }

    /// Options of any column family.
    pub(super) fn family(&self) -> Options {
        let is = &self.settings;
        let mut options = Options::default();
        options.set_write_buffer_size(bytes(self.table_write_buffer()));
        options.set_max_write_buffer_number(i32::from(is.write_buffers_max));
        options.set_min_write_buffer_number_to_merge(i32::from(is.write_buffers_merged));
        options.set_memtable_prefix_bloom_ratio(is.write_buffer_filter);
        options.set_memtable_whole_key_filtering(is.write_buffer_filter > 0.0);
        options.set_arena_block_size(self.arena_bytes());
        options.set_compaction_style(match is.compaction {
            Compaction::Level => DBCompactionStyle::Level,
            Compaction::Universal => DBCompactionStyle::Universal,
        });
        options.set_level_zero_file_num_compaction_trigger(i32::from(is.level0_files));
        options.set_level_compaction_dynamic_level_bytes(is.dynamic_levels);
        options.set_target_file_size_base(is.file_bytes.0);
        options.set_max_bytes_for_level_base(is.level_bytes.0);
        options.set_compression_type(compression(is.compression));
        options.set_bottommost_compression_type(compression(is.bottommost_compression));
        options.set_block_based_table_factory(&self.blocks());
        options
    }

    /// One table does not take the room of all.
    fn table_write_buffer(&self) -> ByteSize {
        self.settings.table_write_buffer_bytes.min(ByteSize((self.shares.write_buffers.0 / 4).max(ARENA_MIN as u64)))
    }

    fn arena_bytes(&self) -> usize {
        let share = bytes(self.shares.write_buffers) / TABLES;
        (share / ARENA_MIN * ARENA_MIN).clamp(ARENA_MIN, ARENA_BYTES)
    }

    fn blocks(&self) -> BlockBasedOptions {
        let is = &self.settings;
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&self.cache);
        blocks.set_format_version(SST_FORMAT);
        blocks.set_block_size(bytes(is.block_bytes));
        match is.filter {
            Filter::None => {}
            Filter::Bloom => blocks.set_bloom_filter(is.filter_bits, false),
            // Level 0 goes away before the smaller size is worth the work.
            Filter::Ribbon => blocks.set_hybrid_ribbon_filter(is.filter_bits, 1),
        }
        if is.partitioned_index {
            blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
            blocks.set_partition_filters(true);
            blocks.set_pin_top_level_index_and_filter(true);
        }
        blocks.set_whole_key_filtering(true);
        blocks.set_optimize_filters_for_memory(true);
        // So that one budget holds for everything that grows with the data.
        blocks.set_cache_index_and_filter_blocks(true);
        blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
        blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
        blocks
    }
}

/// What deletes the files of one database, and ends its standstill behind a full disk. One for several would wait
/// for as much room as the write buffers of all that it ever saw, at the place of the first of them.
fn files() -> SstFileManager {
    let files = SstFileManager::new();
    files.set_delete_rate_bytes_per_second(DELETION_RATE);
    files.set_max_trash_db_ratio(DELETION_BACKLOG);
    files
}

fn compression(kind: Compression) -> DBCompressionType {
    match kind {
        Compression::None => DBCompressionType::None,
        Compression::Lz4 => DBCompressionType::Lz4,
        Compression::Zstd => DBCompressionType::Zstd,
    }
}

fn set_merge(options: &mut Options, function: MergeFunction) {
    let fold = move |_: &[u8], existing: Option<&[u8]>, operands: &MergeOperands| {
        merge::fold(function, existing, operands.iter()).ok()
    };
    let join = move |_: &[u8], _: Option<&[u8]>, operands: &MergeOperands| merge::join(function, operands.iter());
    options.set_merge_operator(format!("forebay.{function}").as_str(), fold, join);
    options.set_max_successive_merges(OPERANDS_MAX);
}

/// Drops expired rows in compactions.
///
/// A filter sees what a compaction rewrites, whatever snapshots still read it: so only rows go that nobody is
/// shown any more. A factory, because RocksDB owns it; a filter itself would have to outlive the database,
/// which the crate sees to only for column families that are there at the open.
fn drop_expired(options: &mut Options, given_up_ms: Arc<AtomicI64>) {
    options.set_compaction_filter_factory(Expiry { given_up_ms });
}

struct Expiry {
    given_up_ms: Arc<AtomicI64>,
}

impl CompactionFilterFactory for Expiry {
    type Filter = Expired;

    fn create(&mut self, _: CompactionFilterContext) -> Expired {
        Expired { until_ms: self.given_up_ms.load(Ordering::Relaxed) }
    }

    fn name(&self) -> &CStr {
        c"forebay.expired"
    }
}

/// The rows of one compaction whose deadline is not behind a time.
struct Expired {
    until_ms: i64,
}

impl CompactionFilter for Expired {
    fn filter(&mut self, _: u32, _: &[u8], value: &[u8]) -> Decision {
        if row::expired_by(value, self.until_ms) { Decision::Remove } else { Decision::Keep }
    }

    fn name(&self) -> &CStr {
        c"forebay.expired"
    }
}

fn bytes(size: ByteSize) -> usize {
    usize::try_from(size.0).unwrap_or(usize::MAX)
}
