//! The server's own lease, on a clock that counts suspend and that nobody sets.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since boot, suspend included (CLOCK_BOOTTIME).
pub fn boot_ms() -> i64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}

/// Milliseconds since 1970 by the wall clock; for records and TTLs, never for leases.
pub fn wall_ms() -> i64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}

/// Until when this server may answer for its shards.
#[derive(Debug, Default)]
pub struct Lease {
    until_boot_ms: AtomicI64,
    lapses: AtomicU64,
}

impl Lease {
    /// Extends the lease: `length_ms` from the moment the heartbeat was sent. True if it had run out: what
    /// this server holds may be elsewhere by now.
    pub fn renew(&self, sent_boot_ms: i64, length_ms: u64) -> bool {
        let lapsed = !self.valid();
        // Counted before the lease is valid again, so that nobody sees it valid under the old count.
        self.lapses.fetch_add(lapsed.into(), Ordering::AcqRel);
        let until = sent_boot_ms.saturating_add_unsigned(length_ms);
        self.until_boot_ms.fetch_max(until, Ordering::AcqRel);
        lapsed
    }

    /// How often the lease was renewed after it had run out.
    pub fn lapses(&self) -> u64 {
        self.lapses.load(Ordering::Acquire)
    }

    /// True while the lease is valid and has not run out since.
    pub fn valid_since(&self, lapses: u64) -> bool {
        self.valid() && self.lapses() == lapses
    }

    /// Ends the lease.
    pub fn end(&self) {
        self.until_boot_ms.store(0, Ordering::Release);
    }

    /// True while the lease is valid.
    pub fn valid(&self) -> bool {
        boot_ms() < self.until_boot_ms.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_from_when_it_was_asked_for_and_never_shrinks() {
        let lease = Lease::default();
        assert!(!lease.valid());
        lease.renew(boot_ms(), 60_000);
        lease.renew(boot_ms() - 120_000, 60_000);
        assert!(lease.valid());
        lease.end();
        assert!(!lease.valid());
    }

    #[test]
    fn a_lease_that_ran_out_counts_anew() {
        let lease = Lease::default();
        assert!(lease.renew(boot_ms(), 60_000), "it has never been valid");
        let lapses = lease.lapses();
        assert!(!lease.renew(boot_ms(), 60_000) && lease.valid_since(lapses));
        lease.end();
        assert!(lease.renew(boot_ms(), 60_000) && lease.valid() && !lease.valid_since(lapses));
    }
}
