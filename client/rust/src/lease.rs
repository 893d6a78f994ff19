//! The worker's lease, by the worker's own clock.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::clock::{TICK_MS, coarse_ms, exact_ms};

/// For how long the worker may trust its cache. Counted from when a renewal was asked for, so it never ends
/// later than the coordinator thinks.
#[derive(Debug)]
pub(crate) struct Lease {
    /// On the scale of [`coarse_ms`]; 0 is no lease.
    until_ms: AtomicU64,
    renewed: Notify,
}

impl Default for Lease {
    fn default() -> Self {
        Self { until_ms: AtomicU64::new(0), renewed: Notify::new() }
    }
}

impl Lease {
    /// Returns true while the lease lasts, by a time that [`coarse_ms`] gave.
    #[inline]
    pub(crate) fn is_valid(&self, now_ms: u64) -> bool {
        now_ms + TICK_MS < self.until_ms.load(Ordering::Relaxed)
    }

    /// Takes a renewal that was asked for at `asked`.
    pub(crate) fn renew(&self, asked: Instant, length: Duration) {
        let length_ms = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        self.until_ms.fetch_max(exact_ms(asked).saturating_add(length_ms), Ordering::Relaxed);
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
            if self.is_valid(coarse_ms()) {
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
        let is_valid = |at: Instant| lease.is_valid(exact_ms(at));
        assert!(!is_valid(start));
        let second = Duration::from_secs(1);
        lease.renew(start, 15 * second);
        lease.renew(start, 5 * second);
        assert!(is_valid(start + 14 * second), "a late answer to an earlier heartbeat shortens nothing");
        assert!(!is_valid(start + 15 * second) && !is_valid(start + 16 * second));
        lease.revoke();
        assert!(!is_valid(start));
    }
}
