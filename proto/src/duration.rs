//! Durations of messages, as the milliseconds that the rest counts in.

/// Returns a duration in whole milliseconds, saturating; `None` if it is negative or shorter than one.
pub fn millis(duration: &prost_types::Duration) -> Option<i64> {
    if duration.seconds < 0 || duration.nanos < 0 {
        return None;
    }
    let ms = duration.seconds.saturating_mul(1000).saturating_add(i64::from(duration.nanos / 1_000_000));
    (ms > 0).then_some(ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_in_milliseconds_or_is_none() {
        let of = |seconds, nanos| millis(&prost_types::Duration { seconds, nanos });
        assert_eq!([of(1, 500_000_000), of(0, 1_000_000), of(i64::MAX, 0)], [Some(1500), Some(1), Some(i64::MAX)]);
        assert_eq!([of(0, 0), of(0, 999_999), of(-1, 0), of(0, -1)], [None; 4]);
    }
}
