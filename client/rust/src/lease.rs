//! The worker's lease, by the worker's own clock.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// For how long the worker may trust its cache. Counted from when a renewal was asked for, so it never ends
/// later than the coordinator thinks.
#[derive(Debug)]
pub(crate) struct Lease {
    origin: Instant,
    /// Milliseconds since `origin`; 0 is no lease.
    until_ms: AtomicU64,
    renewed: Notify,
}

impl Default for Lease {
    fn default() -> Self {
        Self { origin: Instant::now(), until_ms: AtomicU64::new(0), renewed: Notify::new() }
    }
}

impl Lease {
    /// Returns true while the lease lasts.
    #[inline]
    pub(crate) fn is_valid(&self, now: Instant) -> bool {
        let now_ms = now.saturating_duration_since(self.origin).as_millis();
        now_ms < u128::from(self.until_ms.load(Ordering::Relaxed))
    }

    /// Takes a renewal that was asked for at `asked`.
    pub(crate) fn renew(&self, asked: Instant, length: Duration) {
        let until = asked.saturating_duration_since(self.origin) + length;
        self.until_ms.fetch_max(u64::try_from(until.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.renewed.notify_waiters();
    }

    /// Takes note that the lease is gone.
    pub(crate) fn revoke(&self) {
        self.until_ms.store(0, Ordering::Relaxed);
    }

    /// Waits until the lease is valid.
    pub(crate) async fn valid(&self) {
        loop {
            let renewed = self.renewed.notified();
            if self.is_valid(Instant::now()) {
                return;
            }
            renewed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_from_the_asking() {
        let lease = Lease::default();
        let start = Instant::now();
        assert!(!lease.is_valid(start));
        let second = Duration::from_secs(1);
        lease.renew(start, 15 * second);
        lease.renew(start, 5 * second);
        assert!(lease.is_valid(start + 14 * second), "a late answer to an earlier heartbeat shortens nothing");
        assert!(!lease.is_valid(start + 16 * second));
        lease.revoke();
        assert!(!lease.is_valid(start));
    }
}
