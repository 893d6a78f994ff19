//! Time to live: by which clock, until when, and who still sees a row. Pure.
//!
//! A row's deadline is fixed when the row is written, and stands in the row: another TTL of the state
//! holds for what is written from then on, whether TTL was switched on, off or changed. So what a read
//! sees depends on rows and clock alone, never on when something was cleaned up (semantics.md, section 9).

use forebay_proto::{duration, v1};

use crate::storage::{COMPACTION_AGE_S, row};

/// The clocks of a shard at one moment, milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// The shard's own: monotone, stored.
    pub processing_ms: i64,
    /// The writer's watermark; `None` before the first.
    pub watermark_ms: Option<i64>,
    /// What the batch says; not clamped.
    pub writer_ms: i64,
}

/// The clock that a state's deadlines are measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Clock {
    /// The shard's.
    #[default]
    Processing,
    /// The watermark.
    Event,
    /// The batch's.
    Writer,
}

/// How long the rows of a state live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ttl {
    /// The clock.
    pub clock: Clock,
    /// Time from a write to its deadline; `None` for ever, but for rows with a deadline of their own.
    pub ttl_ms: Option<i64>,
    /// True if reads get expired rows as long as they are not cleaned up.
    pub shows_expired: bool,
    cleanup: Cleanup,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Cleanup {
    full_snapshot: bool,
    no_compaction: bool,
    sweep_rows: Option<u32>,
    compaction_age_s: Option<u64>,
}

/// Rows that are looked at with every write batch, if nothing else is said (Flink: cleanupIncrementally).
const SWEEP_ROWS: u32 = 5;

impl Ttl {
    /// Reads a descriptor.
    pub fn of(config: Option<&v1::TtlConfig>) -> Self {
        let Some(config) = config else { return Self::default() };
        let cleanup = config.cleanup.unwrap_or_default();
        Self {
            clock: match config.clock() {
                v1::TtlClock::Event => Clock::Event,
                v1::TtlClock::Writer => Clock::Writer,
                v1::TtlClock::Unspecified | v1::TtlClock::Processing => Clock::Processing,
            },
            ttl_ms: config.ttl.as_ref().and_then(duration::millis),
            shows_expired: config.visibility() == v1::TtlVisibility::ReturnExpiredIfNotCleanedUp,
            cleanup: Cleanup {
                full_snapshot: cleanup.full_snapshot,
                no_compaction: cleanup.compaction == Some(false),
                sweep_rows: cleanup.incremental_rows,
                compaction_age_s: cleanup.periodic_compaction.as_ref().and_then(duration::seconds_up),
            },
        }
    }

    /// True if the backend may drop expired rows whenever it rewrites them: RocksDB in compactions, but not
    /// those of states with a merge function, whose operands a filter sees one by one; memory in snapshots.
    pub fn drops(&self, backend: v1::Backend, merges: bool) -> bool {
        match backend {
            v1::Backend::Memory => self.cleanup.full_snapshot,
            _ => !merges && !self.cleanup.no_compaction,
        }
    }

    /// Age in seconds at which RocksDB compacts a file of the state; 0 is never: where that drops no rows, it is
    /// work for nothing (Flink: the periodicCompactionTime of cleanupInRocksdbCompactFilter).
    pub fn compaction_age_s(&self, backend: v1::Backend, merges: bool) -> u64 {
        let drops = backend != v1::Backend::Memory && self.drops(backend, merges);
        if drops { self.cleanup.compaction_age_s.unwrap_or(COMPACTION_AGE_S) } else { 0 }
    }

    /// Rows that are looked at with every write batch.
    pub fn sweep_rows(&self, backend: v1::Backend, merges: bool) -> u32 {
        let elsewhere = backend != v1::Backend::Memory && self.drops(backend, merges);
        self.cleanup.sweep_rows.unwrap_or(if elsewhere || self.ttl_ms.is_none() { 0 } else { SWEEP_ROWS })
    }

    /// The state's time; `None` on the event clock before the first watermark.
    pub fn now_ms(&self, clocks: &Clocks) -> Option<i64> {
        match self.clock {
            Clock::Processing => Some(clocks.processing_ms),
            Clock::Event => clocks.watermark_ms,
            Clock::Writer => Some(clocks.writer_ms),
        }
    }

    /// The header of a row that is written now, with a deadline of its own if it brings one.
    ///
    /// On the event clock a row that is written before the first watermark has no other deadline: nothing
    /// tells when its time began.
    pub fn header(&self, clocks: &Clocks, expires_at_ms: Option<i64>) -> row::Header {
        let now_ms = self.now_ms(clocks);
        let by_ttl = || Some(now_ms?.saturating_add(self.ttl_ms?));
        row::Header { write_ms: now_ms.unwrap_or(i64::MIN), deadline_ms: expires_at_ms.or_else(by_ttl), version: None }
    }

    /// True if the row's deadline has come.
    pub fn expired(&self, clocks: &Clocks, header: &row::Header) -> bool {
        let deadline = header.deadline_ms.zip(self.now_ms(clocks));
        deadline.is_some_and(|(deadline_ms, now_ms)| deadline_ms <= now_ms)
    }

    /// True if a read gets the row.
    pub fn shows(&self, clocks: &Clocks, header: &row::Header) -> bool {
        self.shows_expired || !self.expired(clocks, header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOCKS: Clocks = Clocks { processing_ms: 1_000, watermark_ms: None, writer_ms: 50 };

    fn ttl(clock: v1::TtlClock) -> Ttl {
        let ttl = Some(prost_types::Duration { seconds: 10, nanos: 0 });
        Ttl::of(Some(&v1::TtlConfig { ttl, clock: clock.into(), ..Default::default() }))
    }

    #[test]
    fn each_clock_counts_its_own_time() {
        let deadline = |clock, clocks: &Clocks| ttl(clock).header(clocks, None).deadline_ms;
        assert_eq!(deadline(v1::TtlClock::Processing, &CLOCKS), Some(11_000));
        assert_eq!(deadline(v1::TtlClock::Writer, &CLOCKS), Some(10_050));
        assert_eq!(deadline(v1::TtlClock::Event, &CLOCKS), None, "no watermark yet");
        assert_eq!(deadline(v1::TtlClock::Event, &Clocks { watermark_ms: Some(-5), ..CLOCKS }), Some(9_995));
    }

    #[test]
    fn a_row_is_expired_from_its_deadline_on() {
        let ttl = ttl(v1::TtlClock::Processing);
        let header = ttl.header(&CLOCKS, None);
        let at = |processing_ms| Clocks { processing_ms, ..CLOCKS };
        assert!(ttl.shows(&at(10_999), &header) && !ttl.shows(&at(11_000), &header));
        assert!(Ttl { shows_expired: true, ..ttl }.shows(&at(11_000), &header));
    }

    #[test]
    fn a_row_keeps_the_deadline_it_was_written_with() {
        let header = ttl(v1::TtlClock::Processing).header(&CLOCKS, Some(2_000));
        assert_eq!(header.deadline_ms, Some(2_000), "its own goes before the state's");
        let off = Ttl::of(None);
        assert!(!off.shows(&Clocks { processing_ms: 2_000, ..CLOCKS }, &header));
        assert_eq!(off.header(&CLOCKS, None).deadline_ms, None);
    }

    #[test]
    fn old_files_are_compacted_where_that_drops_rows() {
        let age = |cleanup: v1::TtlCleanup, backend, merges| {
            let config = v1::TtlConfig { cleanup: Some(cleanup), ..Default::default() };
            Ttl::of(Some(&config)).compaction_age_s(backend, merges)
        };
        let rocks = v1::Backend::Rocksdb;
        let after = |seconds, nanos| v1::TtlCleanup {
            periodic_compaction: Some(prost_types::Duration { seconds, nanos }),
            ..Default::default()
        };
        assert_eq!(age(after(3600, 0), rocks, false), 3600);
        assert_eq!(age(after(0, 1), rocks, false), 1, "RocksDB counts in seconds, and 0 means never");
        assert_eq!(age(after(0, 0), rocks, false), 0);
        assert_eq!(age(v1::TtlCleanup::default(), rocks, false), COMPACTION_AGE_S);
        assert_eq!(Ttl::of(None).compaction_age_s(rocks, false), COMPACTION_AGE_S, "rows may bring their own deadline");
        let kept = v1::TtlCleanup { compaction: Some(false), ..after(3600, 0) };
        let nothing_drops = [age(kept, rocks, false), age(after(3600, 0), rocks, true)];
        assert_eq!(nothing_drops, [0, 0]);
        assert_eq!(age(after(3600, 0), v1::Backend::Memory, false), 0);
    }

    #[test]
    fn the_longest_ttl_saturates() {
        let longest = Ttl { ttl_ms: Some(i64::MAX), ..Ttl::default() };
        assert_eq!(longest.header(&CLOCKS, None).deadline_ms, Some(i64::MAX));
    }
}
