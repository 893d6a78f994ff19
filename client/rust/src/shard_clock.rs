//! A shard's processing clock, as far as its answers tell.

use std::time::Instant;

/// The time that was heard last and when; in between it goes on like ours. It is behind the shard's by as
/// long as the answer was on its way, so an entry is never hidden too early.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ShardClock(Option<(i64, Instant)>);

impl ShardClock {
    /// Takes a time that was heard; it never goes back.
    pub(crate) fn heard(&mut self, clock_ms: i64, now: Instant) {
        if clock_ms != 0 && self.now_ms(now).is_none_or(|known| known < clock_ms) {
            self.0 = Some((clock_ms, now));
        }
    }

    /// Returns the shard's time; `None` before it was first heard.
    pub(crate) fn now_ms(&self, now: Instant) -> Option<i64> {
        let (clock_ms, heard) = self.0?;
        let passed = i64::try_from(now.saturating_duration_since(heard).as_millis()).unwrap_or(i64::MAX);
        Some(clock_ms.saturating_add(passed))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_clock_goes_on_between_answers_and_never_back() {
        let mut clock = ShardClock::default();
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        assert_eq!(clock.now_ms(start), None);
        clock.heard(0, start);
        assert_eq!(clock.now_ms(start), None, "a lane that has heard nothing says 0");
        clock.heard(1_000, start);
        assert_eq!(clock.now_ms(after(30)), Some(1_030));
        clock.heard(1_020, after(40));
        assert_eq!(clock.now_ms(after(40)), Some(1_040), "a late answer changes nothing");
        clock.heard(1_090, after(50));
        assert_eq!(clock.now_ms(after(60)), Some(1_100));
    }
}
