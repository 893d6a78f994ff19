//! Which objects of a job may be deleted. Pure.
//!
//! An object goes only if nothing names it, if nothing that began before it was first found so can still
//! come to name it, and if it is old enough by the store's clock:
//! - *Nothing names it*: it is listed first, and what is retained, pinned or being made is subtracted after.
//! - *Nothing can come to name it*: it was found without a name in an earlier listing, and every round that
//!   had begun by then has ended. A later round names what it uploads itself, what its base names and
//!   what is pinned; none of these was without a name then.
//! - *Old enough*: by the time that the store gave the job's head or a fresh object of the same listing.

use std::collections::{BTreeMap, BTreeSet};

use crate::seeded::{self, Bug};

/// An object written for its time only.
pub const CLOCK: &str = "tombstones/clock";

/// When garbage is collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// From one collection to the next; 0 means only when asked.
    pub interval_ms: i64,
    /// Age by the store's clock before which nothing is deleted.
    pub min_age_ms: i64,
}

/// An object of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name, relative to the job's prefix.
    pub name: String,
    /// Its length.
    pub length: u64,
    /// When the store wrote it, by the store's clock.
    pub modified_ms: i64,
}

/// What must be known of the job to decide.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// Everything that has a name.
    pub named: &'a BTreeSet<String>,
    /// Number of the oldest round in flight when the listing was at its end; the next round's, if there was none.
    pub oldest_round: u64,
    /// Rounds that have begun.
    pub rounds_begun: u64,
    /// Least age.
    pub min_age_ms: i64,
}

/// What is known of objects without a name, from one listing to the next.
#[derive(Debug, Default)]
pub struct Garbage {
    /// Objects without a name, and how many rounds had begun when they were first found so.
    nameless: BTreeMap<String, u64>,
}

impl Garbage {
    /// True if there are objects that a later listing may let go.
    pub fn waits(&self) -> bool {
        !self.nameless.is_empty()
    }

    /// Takes a listing, and returns the objects that may be deleted.
    pub fn candidates(&mut self, listed: &[Listed], known: &Known<'_>) -> Vec<Listed> {
        let now_ms = store_ms(listed);
        let nameless: Vec<_> = listed.iter().filter(|object| !is_fixed(&object.name)).collect();
        let nameless: Vec<_> = nameless.into_iter().filter(|object| !known.named.contains(&object.name)).collect();
        let mut found = BTreeMap::new();
        let mut candidates = Vec::new();
        for object in nameless {
            let before = self.nameless.get(&object.name).copied();
            found.insert(object.name.clone(), before.unwrap_or(known.rounds_begun));
            let out_of_reach = before.is_some_and(|rounds| rounds <= known.oldest_round);
            let old = now_ms.is_some_and(|now_ms| now_ms - object.modified_ms >= known.min_age_ms);
            if (out_of_reach || seeded::is(Bug::CollectsInReach)) && (old || seeded::is(Bug::CollectsYoung)) {
                candidates.push(object.clone());
            }
        }
        self.nameless = found;
        candidates
    }
}

/// The store's time: when it wrote the newest of the objects that are written for that.
pub fn store_ms(listed: &[Listed]) -> Option<i64> {
    let written = listed.iter().filter(|object| object.name == CLOCK || object.name == "head");
    written.map(|object| object.modified_ms).max()
}

/// Objects that are never garbage.
fn is_fixed(name: &str) -> bool {
    name == CLOCK || name == "head"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, modified_ms: i64) -> Listed {
        Listed { name: name.into(), length: 1, modified_ms }
    }

    fn names(candidates: Vec<Listed>) -> Vec<String> {
        candidates.into_iter().map(|object| object.name).collect()
    }

    fn known(named: &BTreeSet<String>) -> Known<'_> {
        Known { named, oldest_round: 5, rounds_begun: 5, min_age_ms: 100 }
    }

    #[test]
    fn an_object_without_a_name_goes_at_the_second_sight_of_it() {
        let (mut garbage, named) = (Garbage::default(), BTreeSet::from(["kept".to_owned()]));
        let listed = [object("head", 1000), object("kept", 0), object("orphan", 0)];
        assert_eq!(names(garbage.candidates(&listed, &known(&named))), [""; 0]);
        assert_eq!(names(garbage.candidates(&listed, &known(&named))), ["orphan"]);
    }

    #[test]
    fn an_object_that_has_a_name_in_between_is_new_again() {
        let (mut garbage, named) = (Garbage::default(), BTreeSet::new());
        let listed = [object("head", 1000), object("a", 0)];
        garbage.candidates(&listed, &known(&named));
        garbage.candidates(&listed, &known(&BTreeSet::from(["a".to_owned()])));
        assert_eq!(names(garbage.candidates(&listed, &known(&named))), [""; 0]);
    }

    #[test]
    fn a_round_that_had_begun_when_an_object_was_found_keeps_it() {
        let (mut garbage, named) = (Garbage::default(), BTreeSet::new());
        let listed = [object("head", 1000), object("a", 0)];
        garbage.candidates(&listed, &Known { oldest_round: 4, ..known(&named) });
        let still = Known { oldest_round: 4, rounds_begun: 9, ..known(&named) };
        assert_eq!(names(garbage.candidates(&listed, &still)), [""; 0], "round 4 of five may have uploaded it");
        let ended = Known { oldest_round: 5, rounds_begun: 9, ..known(&named) };
        assert_eq!(names(garbage.candidates(&listed, &ended)), ["a"], "round 5 began later");
    }

    #[test]
    fn age_counts_from_the_stores_own_clock() {
        let (mut garbage, named) = (Garbage::default(), BTreeSet::new());
        let listed = |head| [object("head", head), object("a", 7_000)];
        garbage.candidates(&listed(7_000), &known(&named));
        assert_eq!(names(garbage.candidates(&listed(7_099), &known(&named))), [""; 0]);
        let with_clock = [object("head", 7_000), object(CLOCK, 7_100), object("a", 7_000)];
        assert_eq!(names(garbage.candidates(&with_clock, &known(&named))), ["a"]);
        assert_eq!(names(garbage.candidates(&[object("a", 0)], &known(&named))), [""; 0], "no clock, no age");
    }
}
