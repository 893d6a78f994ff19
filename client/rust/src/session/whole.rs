//! Flushing under `recovery: shard`: what is unsent of a shard goes whole, between two records, in one atomic batch
//! with the positions of the sources. So a shard never holds half of a record, or a record that its positions deny.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use forebay_proto::{reason::Refused, v1::ErrorReason};

use super::Session;
use crate::{
    cache::{At, BatchLimits, Cache},
    clock::coarse_ms,
    error::{Error, Result},
    lane::Write,
    positions::Positions,
};

/// One batch a shard.
const WHOLE: BatchLimits = BatchLimits { ops_max: usize::MAX, bytes: usize::MAX, batches_max: usize::MAX };
/// Unsent bytes and entries at which a flush is due: a batch is to fit into a message, and below what a server takes.
const UNSENT_BYTES_MAX: usize = 16 << 20;
const UNSENT_ENTRIES_MAX: usize = 1 << 17;

/// Per shard that a source may touch: its number, and what it held of the source when it was leased.
pub(crate) type Found = Vec<(usize, Option<Bytes>)>;

/// What a session keeps of the sources.
#[derive(Debug)]
pub(super) struct Kept {
    /// Set once the shards have told theirs.
    positions: OnceLock<Mutex<Positions>>,
    /// True if something was written since the last record was done.
    in_record: AtomicBool,
    interval_ms: u64,
    delay_ms: u64,
    /// When all shards were told all positions last.
    told_ms: AtomicU64,
}

impl Kept {
    /// Positions go to all shards at least every `interval_ms`, and what is unsent within `delay_ms`.
    pub(super) fn new(interval_ms: u64, delay_ms: u64) -> Self {
        let (positions, in_record) = (OnceLock::new(), AtomicBool::new(false));
        Self { positions, in_record, interval_ms, delay_ms, told_ms: AtomicU64::new(coarse_ms()) }
    }

    fn positions(&self) -> Result<MutexGuard<'_, Positions>> {
        let early = || Error::call(ErrorReason::NotLeased, "the shards have not told their positions yet");
        Ok(self.positions.get().ok_or_else(early)?.lock().expect("no panic while locked"))
    }
}

impl Session {
    /// True if positions are kept in the shards.
    pub(crate) fn keeps_positions(&self) -> bool {
        self.kept.is_some()
    }

    /// Waits until every shard has told its positions.
    pub(crate) async fn find_positions(&self) -> Result<()> {
        let Some(kept) = &self.kept else { return Ok(()) };
        let mut found = Vec::with_capacity(self.lanes.len());
        for lane in self.lanes.iter() {
            self.unless_ended(lane.opened()).await?.map_err(|error| self.failed(error))?;
            found.push(lane.positions());
        }
        // An error would mean that they are known.
        kept.positions.set(Mutex::new(Positions::new(found))).ok();
        Ok(())
    }

    /// Makes a source known, and returns its number with what was found of it.
    pub(crate) fn source(&self, name: &str, shard: Option<usize>) -> Result<(usize, Found)> {
        let Some(kept) = &self.kept else {
            let message =
                "the job's recovery is job: positions are worker state (or create the job with recovery: shard)";
            return Err(Error::call(ErrorReason::SettingsConflict, message));
        };
        let mut positions = kept.positions()?;
        let number = positions.source(name, shard).ok_or_else(|| {
            let message = format!("source {name:?} is open with another key group, or for all of them");
            Error::call(ErrorReason::FieldInvalid, message)
        })?;
        let found = positions.found(number).map(|(shard, found)| (shard, found.cloned())).collect();
        Ok((number, found))
    }

    /// Moves a source.
    pub(crate) fn advance(&self, source: usize, position: &[u8], reached: impl Fn(usize) -> bool) {
        if let Some(kept) = &self.kept
            && let Ok(mut positions) = kept.positions()
        {
            positions.advance(source, position, reached);
        }
    }

    /// Takes note that no record is in progress.
    pub(crate) fn between_records(&self) {
        if let Some(kept) = &self.kept {
            kept.in_record.store(false, Ordering::Relaxed);
        }
    }

    /// Takes note of a write; calls the worker's loop if so much is unsent that a flush is due.
    pub(super) fn wrote(&self, kept: &Kept, cache: &Cache) {
        kept.in_record.store(true, Ordering::Relaxed);
        if is_much(cache) {
            self.attention.call();
        }
    }

    /// True if something should be flushed at the end of the record.
    pub(crate) fn flush_is_due(&self) -> bool {
        let Some(kept) = &self.kept else { return false };
        let now_ms = coarse_ms();
        let cache = self.lock();
        let is_old = || cache.unsent_since_ms().is_some_and(|since_ms| since_ms + kept.delay_ms <= now_ms);
        is_much(&cache) || is_old() || kept.interval_is_over(now_ms)
    }

    /// Flushes at the end of a record what is due.
    pub(crate) async fn flush_due(&self) -> Result<()> {
        let everywhere = self.kept.as_ref().is_some_and(|kept| kept.interval_is_over(coarse_ms()));
        self.flush_whole(everywhere).await?;
        self.unless_ended(self.backlog.below(super::BACKLOG_BYTES_MAX)).await
    }

    /// Hands everything unsent to the lanes, a batch a shard with the positions; shards of which nothing is unsent are
    /// told of the positions if it is to go `everywhere`.
    pub(super) async fn flush_whole(&self, everywhere: bool) -> Result<()> {
        let Some(kept) = &self.kept else { return Ok(()) };
        loop {
            let read_ended = self.read_ended.notified();
            {
                let mut cache = self.lock();
                if !cache.is_blocked() {
                    let mut batches: HashMap<_, _> = cache.take_unsent(u64::MAX, WHOLE).batches.into_iter().collect();
                    let mut positions = kept.positions()?;
                    if let Some(shard) = batches.keys().find(|shard| positions.is_unmoved(**shard)) {
                        let route = &self.table.routes()[*shard];
                        let message = format!(
                            "no source of shard [{},{}) was advanced, but effects on it are to be flushed: a job with \
                             recovery: shard keeps positions beside them (Assigned::source, Source::advance)",
                            route.start, route.end
                        );
                        let error = Error::call(ErrorReason::FieldMissing, message);
                        self.end(error.clone());
                        return Err(error);
                    }
                    for (shard, lane) in self.lanes.iter().enumerate() {
                        let ops = batches.remove(&shard);
                        let watermark_ms = self.take_watermark(shard);
                        if ops.is_some() || watermark_ms.is_some() || (everywhere && positions.is_due(shard)) {
                            let write =
                                Write { ops, watermark_ms, positions: positions.take(shard), ..Write::default() };
                            lane.write_behind(write, &self.backlog);
                        }
                    }
                    if everywhere {
                        kept.told_ms.store(coarse_ms(), Ordering::Relaxed);
                    }
                    return Ok(());
                }
            }
            self.unless_ended(read_ended).await?;
        }
    }

    /// Has what is unsent of some addresses sent before the shard is asked about them. Within a record that changed one
    /// of them it cannot be: half of a record would be there.
    pub(super) async fn sent_whole(&self, addresses: &[At<'_>]) -> Result<()> {
        let Some(kept) = &self.kept else { return Ok(()) };
        if !addresses.iter().any(|at| self.lock().is_unsent(*at)) {
            return Ok(());
        }
        if kept.in_record.load(Ordering::Relaxed) {
            let message = "the shard itself is asked about a key that this record, or one before it since the last \
                           boundary, has changed: under recovery: shard ask before changing it, or behind a boundary";
            return Err(Refused::new(ErrorReason::Unsupported, message).into());
        }
        self.flush_whole(false).await
    }

    /// Refuses what goes past the cache.
    pub(super) fn not_past_the_cache(&self, what: &str) -> Result<()> {
        if self.kept.is_none() {
            return Ok(());
        }
        let message = format!(
            "{what} goes to the shard at once, and a job with recovery: shard sends nothing before the record is done: \
             use recovery: job for it"
        );
        Err(Refused::new(ErrorReason::Unsupported, message).into())
    }
}

impl Kept {
    fn interval_is_over(&self, now_ms: u64) -> bool {
        now_ms >= self.told_ms.load(Ordering::Relaxed) + self.interval_ms
    }
}

fn is_much(cache: &Cache) -> bool {
    cache.wants_flush() || cache.unsent_bytes() > UNSENT_BYTES_MAX || cache.unsent_entries() > UNSENT_ENTRIES_MAX
}
