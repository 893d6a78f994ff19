//! Expiry: what a state's TTL means for what the cache holds. Pure; the clock is the caller's.

use std::collections::HashMap;

use forebay_proto::v1::{TtlClock, TtlConfig, TtlUpdate, TtlVisibility};

/// Touches that are remembered; older ones than a tenth of their TTL need not be.
const TOUCHES_MAX: usize = 10_000;

/// The TTL of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expiry {
    pub(crate) ttl_ms: i64,
    pub(crate) clock: TtlClock,
    /// True if a read sets a new deadline.
    pub(crate) on_read: bool,
    /// True if an expired entry may be shown.
    pub(crate) shows_expired: bool,
}

/// What a reader does with an entry that has a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Takes it.
    Alive,
    /// Takes it and gives it this deadline.
    Touch(i64),
    /// Takes it as absent.
    Expired,
}

impl Expiry {
    /// Reads a descriptor; `None` if entries live for ever.
    pub(crate) fn of(config: Option<&TtlConfig>) -> Option<Self> {
        let config = config?;
        let ttl = config.ttl.as_ref()?;
        let ttl_ms = ttl.seconds.saturating_mul(1_000).saturating_add(i64::from(ttl.nanos / 1_000_000));
        Some(Self {
            ttl_ms,
            clock: match config.clock() {
                TtlClock::Unspecified => TtlClock::Processing,
                clock => clock,
            },
            on_read: config.update() == TtlUpdate::OnReadAndWrite,
            shows_expired: config.visibility() == TtlVisibility::ReturnExpiredIfNotCleanedUp,
        })
    }

    /// The deadline of what is written now.
    pub(crate) fn deadline(&self, clock_ms: i64) -> i64 {
        clock_ms.saturating_add(self.ttl_ms)
    }

    /// True if a deadline is old enough that a read sets another: once per tenth of the TTL.
    fn wants_touch(&self, deadline_ms: i64, clock_ms: i64) -> bool {
        self.on_read && self.deadline(clock_ms).saturating_sub(deadline_ms) >= (self.ttl_ms / 10).max(1)
    }
}

/// Decides what a reader does with an entry at this time; a state without TTL may hold entries with a deadline.
pub(crate) fn look(expiry: Option<&Expiry>, deadline_ms: i64, clock_ms: i64) -> Look {
    let shows_expired = expiry.is_some_and(|expiry| expiry.shows_expired);
    if deadline_ms <= clock_ms {
        return if shows_expired { Look::Alive } else { Look::Expired };
    }
    match expiry {
        Some(expiry) if expiry.wants_touch(deadline_ms, clock_ms) => Look::Touch(expiry.deadline(clock_ms)),
        _ => Look::Alive,
    }
}

/// When addresses were touched of which nothing is kept, so that not every read touches.
#[derive(Debug, Default)]
pub(crate) struct Touches(HashMap<Vec<u8>, i64>);

impl Touches {
    /// Returns the new deadline if the address is to be touched now, and takes note of it.
    pub(crate) fn touch(&mut self, expiry: &Expiry, address: Vec<u8>, clock_ms: i64) -> Option<i64> {
        let deadline_ms = expiry.deadline(clock_ms);
        let due = self.0.get(&address).is_none_or(|deadline_ms| expiry.wants_touch(*deadline_ms, clock_ms));
        if !expiry.on_read || !due {
            return None;
        }
        if self.0.len() >= TOUCHES_MAX {
            // Forgetting costs a touch too many, nothing else.
            self.0.clear();
        }
        self.0.insert(address, deadline_ms);
        Some(deadline_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Expiry = Expiry { ttl_ms: 1_000, clock: TtlClock::Processing, on_read: false, shows_expired: false };
    const ON_READ: Expiry = Expiry { on_read: true, ..TTL };

    #[test]
    fn an_entry_is_hidden_from_its_deadline_on() {
        assert_eq!(look(Some(&TTL), 500, 499), Look::Alive);
        assert_eq!(look(Some(&TTL), 500, 500), Look::Expired);
        assert_eq!(look(None, 500, 500), Look::Expired, "a deadline outlives the TTL it came from");
        assert_eq!(look(Some(&Expiry { shows_expired: true, ..ON_READ }), 500, 500), Look::Alive);
    }

    #[test]
    fn a_read_touches_once_per_tenth_of_the_ttl() {
        let written = ON_READ.deadline(0);
        assert_eq!(look(Some(&ON_READ), written, 99), Look::Alive);
        assert_eq!(look(Some(&ON_READ), written, 100), Look::Touch(1_100));
        assert_eq!(look(Some(&TTL), written, 100), Look::Alive, "only where the TTL says so");
        let mut touches = Touches::default();
        let times = [0, 50, 100, 150, 199, 200].map(|clock_ms| touches.touch(&ON_READ, b"a".into(), clock_ms));
        assert_eq!(times, [Some(1_000), None, Some(1_100), None, None, Some(1_200)]);
        assert_eq!(touches.touch(&ON_READ, b"b".into(), 200), Some(1_200));
        assert_eq!(touches.touch(&TTL, b"c".into(), 200), None);
    }

    #[test]
    fn the_longest_ttl_saturates() {
        let longest = Expiry { ttl_ms: i64::MAX, ..ON_READ };
        assert_eq!(longest.deadline(5), i64::MAX);
        assert_eq!(look(Some(&longest), i64::MAX, i64::MAX - 1), Look::Alive);
    }

    #[test]
    fn a_descriptor_says_it_all() {
        let ttl = Some(prost_types::Duration { seconds: 1, nanos: 1_999_999 });
        assert_eq!(Expiry::of(Some(&TtlConfig { ttl, ..TtlConfig::default() })), Some(Expiry { ttl_ms: 1_001, ..TTL }));
        assert_eq!(Expiry::of(None), None);
    }
}
