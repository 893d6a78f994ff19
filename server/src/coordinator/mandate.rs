//! Until when a coordinator may speak.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use crate::lease::boot_ms;

/// A term of office. Clones share it.
///
/// Asked before every word to a server or worker that could extend a lease: a process that stood still may find that
/// somebody else leads by now, whatever still waits in its queues.
#[derive(Debug, Clone)]
pub struct Mandate(Arc<AtomicI64>);

impl Mandate {
    /// A term until a time on [`boot_ms`]'s clock.
    pub fn until(until_boot_ms: i64) -> Self {
        Self(Arc::new(AtomicI64::new(until_boot_ms)))
    }

    /// Moves its end; an end that has come stays.
    pub fn extend(&self, until_boot_ms: i64) {
        let valid = |until: i64| (boot_ms() < until).then_some(until_boot_ms);
        // An error means that it is over.
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, valid).ok();
    }

    /// Ends it.
    pub fn end(&self) {
        self.0.store(i64::MIN, Ordering::Release);
    }

    /// When it ends, on [`boot_ms`]'s clock.
    #[cfg(test)]
    pub fn ends(&self) -> i64 {
        self.0.load(Ordering::Acquire)
    }

    /// True until it ends.
    pub fn is_valid(&self) -> bool {
        boot_ms() < self.0.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_that_has_ended_is_not_extended() {
        let mandate = Mandate::until(boot_ms() + 60_000);
        mandate.extend(i64::MAX);
        assert!(mandate.is_valid());
        mandate.end();
        mandate.extend(i64::MAX);
        assert!(!mandate.is_valid());
        assert!(!Mandate::until(boot_ms() - 1).is_valid());
    }
}
