//! The next timers of a worker, so that asking for those that are due costs no round trip. Pure.
//!
//! Invariant: every timer below the horizon that is stored, or was registered and not deleted, is in the queue.

use std::collections::BTreeMap;

/// Timers that are kept; the last ones beyond are left to the shards.
const TIMERS_MAX: usize = 100_000;

/// A change while the shards were being read: element, key group, and whether it is there.
type Change = (Vec<u8>, u16, bool);

/// The next timers, of all key groups.
#[derive(Debug)]
pub(crate) struct Queue {
    /// Element → key group.
    timers: BTreeMap<Vec<u8>, u16>,
    horizon: Horizon,
    /// Changes since the read in progress began.
    changes: Option<Vec<Change>>,
}

/// Up to where the queue knows all timers: below these bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Horizon {
    /// Below these bytes.
    Below(Vec<u8>),
    /// All there are.
    All,
}

impl Horizon {
    fn covers(&self, element: &[u8]) -> bool {
        match self {
            Self::Below(end) => element < end.as_slice(),
            Self::All => true,
        }
    }

    /// The horizon of a page: all there is, or what is up to its last element.
    pub(super) fn of_page(last: Option<&[u8]>, more: bool) -> Self {
        match last {
            Some(last) if more => Self::Below([last, &[0]].concat()),
            _ => Self::All,
        }
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self { timers: BTreeMap::new(), horizon: Horizon::Below(Vec::new()), changes: None }
    }
}

impl Queue {
    /// Takes note of a timer that was registered or deleted.
    pub(super) fn change(&mut self, element: &[u8], group: u16, there: bool) {
        if let Some(changes) = &mut self.changes {
            changes.push((element.into(), group, there));
        }
        self.apply(element, group, there);
    }

    fn apply(&mut self, element: &[u8], group: u16, there: bool) {
        if !there {
            self.timers.remove(element);
        } else if self.horizon.covers(element) {
            self.timers.insert(element.into(), group);
            self.shrink();
        }
    }

    fn shrink(&mut self) {
        while self.timers.len() > TIMERS_MAX
            && let Some((last, _)) = self.timers.pop_last()
        {
            self.horizon = Horizon::Below(last);
        }
    }

    /// True if all timers up to `end` are known.
    pub(super) fn knows(&self, end: &Horizon) -> bool {
        self.horizon >= *end
    }

    /// Returns the first timers up to `end` that are known, `limit` at most.
    pub(super) fn first(&self, end: &Horizon, limit: usize) -> Vec<Vec<u8>> {
        let due = self.timers.keys().take_while(|element| end.covers(element));
        due.take(limit).cloned().collect()
    }

    /// Begins a read of the shards.
    pub(super) fn begin(&mut self) {
        self.changes = Some(Vec::new());
    }

    /// Ends a read of the shards: all timers below `horizon` as they were at some time since it began, and
    /// perhaps later ones.
    pub(super) fn fill(&mut self, timers: BTreeMap<Vec<u8>, u16>, horizon: Horizon) {
        self.timers = timers;
        self.timers.retain(|element, _| horizon.covers(element));
        self.horizon = horizon;
        for (element, group, there) in self.changes.take().unwrap_or_default() {
            self.apply(&element, group, there);
        }
        self.shrink();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn below(end: &[u8]) -> Horizon {
        Horizon::Below(end.into())
    }

    fn timers(elements: &[&[u8]]) -> BTreeMap<Vec<u8>, u16> {
        elements.iter().map(|element| (element.to_vec(), 1)).collect()
    }

    #[test]
    fn nothing_is_known_before_the_first_read() {
        let mut queue = Queue::default();
        queue.change(b"a", 1, true);
        assert!(!queue.knows(&below(b"b")));
        queue.begin();
        queue.fill(timers(&[b"a", b"c", b"x"]), below(b"d"));
        assert!(queue.knows(&below(b"d")) && !queue.knows(&below(b"e")) && !queue.knows(&Horizon::All));
        assert_eq!(queue.first(&Horizon::All, 9), [b"a", b"c"], "what is behind the horizon may not be all");
        assert_eq!(queue.first(&below(b"c"), 9), [b"a"]);
        assert_eq!(queue.first(&Horizon::All, 1), [b"a"]);
    }

    #[test]
    fn changes_are_seen_at_once_and_survive_a_read() {
        let mut queue = Queue::default();
        queue.begin();
        queue.fill(BTreeMap::new(), Horizon::All);
        queue.change(b"b", 1, true);
        queue.change(b"a", 1, true);
        assert_eq!(queue.first(&Horizon::All, 9), [b"a", b"b"]);
        queue.change(b"a", 1, false);
        assert_eq!(queue.first(&Horizon::All, 9), [b"b"]);
        queue.begin();
        queue.change(b"c", 1, true);
        queue.change(b"b", 1, false);
        // The shards were read before the changes reached them.
        queue.fill(timers(&[b"b"]), Horizon::All);
        assert_eq!(queue.first(&Horizon::All, 9), [b"c"]);
    }

    #[test]
    fn the_queue_is_bounded_and_knows_less_then() {
        let mut queue = Queue::default();
        queue.begin();
        queue.fill(BTreeMap::new(), Horizon::All);
        for number in (0..=TIMERS_MAX as u32).rev() {
            queue.change(&number.to_be_bytes(), 1, true);
        }
        assert_eq!(queue.timers.len(), TIMERS_MAX);
        assert!(!queue.knows(&Horizon::All) && queue.knows(&below(&1_000_u32.to_be_bytes())));
    }

    #[test]
    fn a_page_that_is_not_the_last_says_how_far_it_reaches() {
        assert_eq!(Horizon::of_page(Some(b"a"), true), below(b"a\0"));
        assert_eq!(Horizon::of_page(Some(b"a"), false), Horizon::All);
        assert_eq!(Horizon::of_page(None, false), Horizon::All);
    }
}
