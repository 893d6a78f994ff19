//! Times: that of the day, for batches that carry when they were made, and the one that leases and ages go by.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

/// As much as [`coarse_ms`] may be off: a tick of the slowest kernels.
pub(crate) const TICK_MS: u64 = 10;

/// Where both clocks were when they were first asked.
static ORIGIN: LazyLock<(Instant, Duration)> = LazyLock::new(|| (Instant::now(), coarse()));

/// Returns the time in milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "the one place where the SDK asks for the time of day")]
pub(crate) fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Returns the milliseconds since the program first asked, as of the kernel's last tick: every use of the cache
/// looks, and an exact look takes as long as finding an entry.
#[inline]
pub(crate) fn coarse_ms() -> u64 {
    let since = coarse().saturating_sub(ORIGIN.1);
    since.as_secs() * 1_000 + u64::from(since.subsec_millis())
}

/// Returns a time on the scale of [`coarse_ms`].
pub(crate) fn exact_ms(at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(ORIGIN.0).as_millis()).unwrap_or(u64::MAX)
}

#[cfg(target_os = "linux")]
#[inline]
fn coarse() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(not(target_os = "linux"))]
fn coarse() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clocks_agree_but_for_a_tick() {
        for _ in 0..100 {
            let before = exact_ms(Instant::now());
            let coarse = coarse_ms();
            let after = exact_ms(Instant::now());
            assert!(coarse + TICK_MS >= before && coarse <= after + TICK_MS, "{before} {coarse} {after}");
            std::hint::black_box((0..10_000).map(|n: u64| n * n).sum::<u64>());
        }
    }
}
