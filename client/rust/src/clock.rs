//! The time of day, for batches that carry when they were made.

/// Returns the time in milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "the one place where the SDK asks for the time of day")]
pub(crate) fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
