//! Random operations, clocks, compactions, duplicates and restores against the model. `FOREBAY_CASES` says how
//! many sequences, `FOREBAY_SEED` which.

use std::env;

use forebay_integration_tests::conformance::Kind;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use proptest_state_machine::ReferenceStateMachine as _;

use crate::{machine, model::Model};

/// Looks for a sequence that ends otherwise than the model says; shrinks it, and writes it down.
pub fn find(kind: Kind, cases: u32) -> Option<String> {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 3000, ..Config::default() };
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&number("FOREBAY_SEED", 0).to_be_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let found = runner.run(&Model::sequential_strategy(1..30), |(_, steps, seen)| {
        machine::replay(kind, &steps, seen.as_deref()).map_err(TestCaseError::fail)
    });
    match found {
        Ok(()) => None,
        Err(TestError::Fail(why, (_, steps, _))) => Some(format!("{why}\n{}", machine::show(&steps))),
        Err(TestError::Abort(why)) => Some(format!("no sequence could be made: {why}")),
    }
}

/// Sequences that are tried.
pub fn cases() -> u32 {
    u32::try_from(number("FOREBAY_CASES", 256)).expect("a number of cases")
}

fn number(name: &str, otherwise: u64) -> u64 {
    let read = |text: String| text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}: a number is needed"));
    env::var(name).map_or(otherwise, read)
}

fn agrees(kind: Kind) {
    if let Some(found) = find(kind, cases()) {
        panic!("the shard and the model differ:\n{found}");
    }
}

#[test]
fn a_shard_in_memory_is_indistinguishable_from_the_model() {
    agrees(Kind::Memory);
}

#[cfg(feature = "rocksdb")]
#[test]
fn a_shard_on_rocksdb_is_indistinguishable_from_the_model() {
    agrees(Kind::Rocks);
}
