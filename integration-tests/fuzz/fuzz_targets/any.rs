//! Feeds libFuzzer's bytes to the target that `FOREBAY_FUZZ` names.

#![no_main]

use std::sync::LazyLock;

use forebay_integration_tests::fuzz::TARGETS;
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let wanted = std::env::var("FOREBAY_FUZZ").unwrap_or_default();
    let found = TARGETS.iter().find(|(name, _)| *name == wanted);
    let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
    found.unwrap_or_else(|| panic!("FOREBAY_FUZZ is {wanted:?}, not one of {names:?}")).1
});

fuzz_target!(|bytes: &[u8]| TARGET(bytes));
