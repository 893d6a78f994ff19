//! Durations of messages, as the numbers that the rest counts in.

/// Returns a duration in whole milliseconds, saturating; `None` if it is negative or shorter than one.
pub fn millis(duration: &prost_types::Duration) -> Option<i64> {
    if duration.seconds < 0 || duration.nanos < 0 {
        return None;
    }
    let ms = duration.seconds.saturating_mul(1000).saturating_add(i64::from(duration.nanos / 1_000_000));
    (ms > 0).then_some(ms)
}

/// Returns a duration in seconds, rounded up so that only none at all is 0; `None` if it is negative.
pub fn seconds_up(duration: &prost_types::Duration) -> Option<u64> {
    let seconds = u64::try_from(duration.seconds).ok().filter(|_| duration.nanos >= 0)?;
    Some(seconds + u64::from(duration.nanos > 0))
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

    #[test]
    fn a_duration_in_seconds_is_rounded_up() {
        let of = |seconds, nanos| seconds_up(&prost_types::Duration { seconds, nanos });
        assert_eq!([of(0, 0), of(0, 1), of(2, 0), of(2, 1)], [Some(0), Some(1), Some(2), Some(3)]);
        assert_eq!(of(i64::MAX, 1), Some(1 << 63));
        assert_eq!([of(-1, 0), of(0, -1)], [None; 2]);
    }
}
