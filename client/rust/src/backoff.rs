//! How long to wait between attempts.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// The longest wait.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Waits between attempts: from 5 ms to a second, with jitter, without end.
pub(crate) fn backoff() -> impl Iterator<Item = Duration> + Send {
    let builder = ExponentialBuilder::default().with_min_delay(Duration::from_millis(5)).with_max_delay(BACKOFF_MAX);
    builder.with_jitter().without_max_times().build()
}
