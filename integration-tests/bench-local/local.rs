//! State within the process: RocksDB, read and written for every record, or behind the SDK's cache.

use std::{collections::HashSet, time::Instant};

use anyhow::Result;
use forebay_client::cache::{At, BatchLimits, Cache};
use forebay_integration_tests::bench::embedded::{Embedded, Rows};
use forebay_proto::packed::Ops;

use crate::{Side, work::Work};

/// Records between two looks for what has been unsent for long.
const FLUSHED_AFTER: usize = 16 * 1024;
/// The SDK's: how long a write may stay unsent, and how large a batch becomes.
const DELAY_MS: u64 = 1_000;
const LIMITS: BatchLimits = BatchLimits { ops_max: 1024, bytes: 256 << 10, batches_max: usize::MAX };

/// A loop with its own RocksDB. Nothing goes to its log: a Flink task relies on its checkpoints alone.
pub struct Local {
    embedded: Embedded,
    cache: Option<Cache>,
    /// Stamp by key, which counts the writes.
    counts: Vec<u64>,
    started: Instant,
}

impl Local {
    /// Opens a database that holds every key with stamp 0; `cache_bytes` are those of the cache before it.
    pub fn open(work: &Work<'_>, cache_bytes: Option<usize>) -> Result<Self> {
        let embedded = Embedded::open(false)?;
        embedded.fill(work.data, work.count)?;
        // The SDK's worker has put all keys itself, too.
        let cache = cache_bytes.map(|bytes| {
            let mut cache = Cache::new(bytes, HashSet::new());
            (0..work.count)
                .for_each(|index| cache.value_put(at(work.data.key(index)), Some(&work.data.value(index, 0)), 0));
            cache
        });
        Ok(Self { embedded, cache, counts: vec![0; work.count as usize], started: Instant::now() })
    }
}

impl Side for Local {
    fn measure(&mut self, work: &Work<'_>) -> Result<f64> {
        let rows = self.embedded.table()?;
        let begun = Instant::now();
        let Self { cache, counts, started, .. } = self;
        let mut done = 0;
        let records = work.each(begun, |index| {
            let (key, count) = (work.data.key(index), &mut counts[index as usize]);
            let check = |value: Option<&[u8]>| work.data.check_update(index, value, *count);
            let Some(cache) = cache else {
                rows.get(key, check)?;
                *count += 1;
                return rows.put(key, &work.data.value(index, *count));
            };
            read_through(cache, &rows, key, check)?;
            *count += 1;
            let value = work.data.value(index, *count);
            cache.value_put(at(key), Some(&value), started.elapsed().as_millis() as u64);
            if cache.wants_flush() {
                flush(cache, &rows, u64::MAX)?;
            }
            done += 1;
            if done % FLUSHED_AFTER == 0
                && let Some(until_ms) = (started.elapsed().as_millis() as u64).checked_sub(DELAY_MS)
            {
                flush(cache, &rows, until_ms)?;
            }
            Ok(())
        })?;
        if let Some(cache) = &mut self.cache {
            flush(cache, &rows, u64::MAX)?;
        }
        Ok(records as f64 / begun.elapsed().as_secs_f64())
    }
}

fn at(key: &[u8]) -> At<'_> {
    At { state: 1, key, namespace: &[], shard: 0, key_group: None }
}

fn read_through(
    cache: &mut Cache,
    rows: &Rows<'_>,
    key: &[u8],
    check: impl FnOnce(Option<&[u8]>) -> Result<()>,
) -> Result<()> {
    if let Some(known) = cache.value(at(key)) {
        return check(known);
    }
    let reading = cache.read_value(at(key));
    rows.get(key, |value| {
        cache.fill_value(reading, value);
        check(value)
    })
}

fn flush(cache: &mut Cache, rows: &Rows<'_>, until_ms: u64) -> Result<()> {
    for (_, batch) in cache.take_unsent(until_ms, LIMITS).batches {
        rows.write(Ops::decode(&batch)?.iter().map(|op| (op.key, op.value)))?;
    }
    Ok(())
}
