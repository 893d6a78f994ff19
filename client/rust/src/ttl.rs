//! Time to live of a state's entries, as a program declares it (Flink: StateTtlConfig).

use std::time::Duration;

use forebay_proto::v1;

pub use forebay_proto::v1::{TtlClock, TtlUpdate, TtlVisibility};

/// How long entries live, by which clock, and what reads see of expired ones.
///
/// Lists and maps count it per element and entry. Unlike Flink's it may run on event time, and may be switched
/// on, off and changed with a job's states in place: it holds for what is written from then on.
///
/// ```
/// use std::time::Duration;
/// use forebay_client::{Ttl, TtlUpdate, Value, codec::{I64, Utf8}};
///
/// const SEEN: Value<Utf8, I64> =
///     Value::new("seen").ttl(Ttl::new(Duration::from_secs(3600)).update(TtlUpdate::OnReadAndWrite));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ttl {
    ttl: Duration,
    update: TtlUpdate,
    visibility: TtlVisibility,
    clock: TtlClock,
    cleanup: Cleanup,
}

/// How expired rows are removed (Flink: StateTtlConfig.CleanupStrategies).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Cleanup {
    full_snapshot: bool,
    incremental_rows: Option<u32>,
    no_compaction: bool,
    periodic_compaction: Option<Duration>,
}

impl Ttl {
    /// Lets entries live so long from their last write, by the shard's clock; expired ones are never seen.
    /// At least a millisecond.
    pub const fn new(ttl: Duration) -> Self {
        let cleanup =
            Cleanup { full_snapshot: false, incremental_rows: None, no_compaction: false, periodic_compaction: None };
        Self {
            ttl,
            update: TtlUpdate::OnCreateAndWrite,
            visibility: TtlVisibility::NeverReturnExpired,
            clock: TtlClock::Processing,
            cleanup,
        }
    }

    /// Says what sets a deadline anew. With [`TtlUpdate::OnReadAndWrite`] reads do so at most once per tenth of
    /// the TTL, with the next flush; reads of a range of a map do not.
    #[must_use]
    pub const fn update(self, update: TtlUpdate) -> Self {
        Self { update, ..self }
    }

    /// Says whether reads may see expired entries as long as they have not been cleaned up.
    #[must_use]
    pub const fn visibility(self, visibility: TtlVisibility) -> Self {
        Self { visibility, ..self }
    }

    /// Says by which clock deadlines are measured.
    ///
    /// With [`TtlClock::Processing`] and [`TtlClock::Event`] the cache keeps values and single map entries, and
    /// hides them from their deadline on. Of other kinds, and with [`TtlClock::Writer`], it keeps nothing: each
    /// read asks the shard, each write is sent at once.
    #[must_use]
    pub const fn clock(self, clock: TtlClock) -> Self {
        Self { clock, ..self }
    }

    /// Leaves expired rows out of snapshots that write every row anyway: the memory backend's.
    #[must_use]
    pub const fn cleanup_full_snapshot(self) -> Self {
        Self { cleanup: Cleanup { full_snapshot: true, ..self.cleanup }, ..self }
    }

    /// Looks at so many rows with every write batch and removes the expired ones; 0 for none.
    #[must_use]
    pub const fn cleanup_incrementally(self, rows: u32) -> Self {
        Self { cleanup: Cleanup { incremental_rows: Some(rows), ..self.cleanup }, ..self }
    }

    /// Keeps RocksDB from dropping expired rows in compactions.
    #[must_use]
    pub const fn no_cleanup_in_compaction(self) -> Self {
        Self { cleanup: Cleanup { no_compaction: true, ..self.cleanup }, ..self }
    }

    /// Has RocksDB compact files that were not compacted for so long, so that expired rows go from them, too; 30
    /// days if not said, zero for never. In memory it has no meaning.
    #[must_use]
    pub const fn periodic_compaction(self, after: Duration) -> Self {
        Self { cleanup: Cleanup { periodic_compaction: Some(after), ..self.cleanup }, ..self }
    }

    /// Returns it as it is registered.
    pub(crate) fn config(&self) -> v1::TtlConfig {
        let Cleanup { full_snapshot, incremental_rows, no_compaction, periodic_compaction } = self.cleanup;
        let cleanup = (self.cleanup != Cleanup::default()).then(|| v1::TtlCleanup {
            full_snapshot,
            incremental_rows,
            compaction: no_compaction.then_some(false),
            periodic_compaction: periodic_compaction.map(duration),
        });
        v1::TtlConfig {
            ttl: Some(duration(self.ttl)),
            update: self.update.into(),
            visibility: self.visibility.into(),
            clock: self.clock.into(),
            cleanup,
        }
    }
}

fn duration(duration: Duration) -> prost_types::Duration {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    prost_types::Duration { seconds, nanos: duration.subsec_nanos().cast_signed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_declaration_is_what_is_registered() {
        let ttl = Ttl::new(Duration::from_millis(1_500)).clock(TtlClock::Event).update(TtlUpdate::OnReadAndWrite);
        let config = ttl.visibility(TtlVisibility::ReturnExpiredIfNotCleanedUp).config();
        assert_eq!(config.ttl, Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }));
        assert_eq!((config.clock(), config.update()), (TtlClock::Event, TtlUpdate::OnReadAndWrite));
        assert_eq!(config.visibility(), TtlVisibility::ReturnExpiredIfNotCleanedUp);
        assert_eq!(config.cleanup, None, "what is not said is left to the server");
        let cleanup = ttl.cleanup_incrementally(0).no_cleanup_in_compaction().config().cleanup.unwrap();
        assert_eq!((cleanup.incremental_rows, cleanup.compaction), (Some(0), Some(false)));
    }
}
