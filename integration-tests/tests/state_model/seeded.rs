//! Faults put in on purpose: every one must be found by the scenarios or by random operations.

use forebay_integration_tests::conformance::{Kind, all};
use forebay_server::seeded::{Bug, choose};

use crate::{random, scenarios};

/// Sequences that are tried.
const CASES: u32 = 2000;

fn is_found(bug: Bug) {
    choose(Some(bug));
    let by_scenario = all()
        .into_iter()
        .flat_map(|(_, file)| file.scenarios)
        .find_map(|scenario| scenarios::play(Kind::Memory, &scenario).err());
    let by_chance = random::find(Kind::Memory, CASES);
    choose(None);
    println!("{bug:?}\nby scenario: {by_scenario:?}\nby chance: {}", by_chance.as_deref().unwrap_or("not found"));
    assert!(by_scenario.is_some(), "{bug:?} is found by no scenario");
    let Some(steps) = by_chance else { panic!("{bug:?} is not found in {CASES} sequences") };
    assert!(steps.lines().count() < 16, "the sequence is too long to be read");
}

#[test]
fn a_list_in_the_opposite_order_is_found() {
    is_found(Bug::ListOrderSwapped);
}

#[test]
fn expired_rows_that_a_restore_brings_back_are_found() {
    is_found(Bug::ExpiredBackByRestore);
}

#[test]
fn a_map_range_that_is_off_by_one_is_found() {
    is_found(Bug::MapRangeOffByOne);
}

#[test]
fn a_timer_that_fires_twice_is_found() {
    is_found(Bug::TimerTwice);
}

#[test]
fn a_merge_the_wrong_way_round_is_found() {
    is_found(Bug::MergeSwapped);
}

#[test]
fn a_merge_that_is_not_associative_is_found() {
    is_found(Bug::MergeNotAssociative);
}

#[test]
fn verdicts_that_a_duplicate_is_not_told_are_found() {
    is_found(Bug::VerdictLost);
}

#[test]
fn a_clear_that_does_not_see_its_own_batch_is_found() {
    is_found(Bug::ClearBlindToBatch);
}

#[test]
fn every_fault_of_the_state_model_has_a_test() {
    assert_eq!(Bug::OF_STATE.len(), 8, "a fault was added: add its test");
}
