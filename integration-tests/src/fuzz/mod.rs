//! What is fed with any bytes: each target reads or refuses them, and what it has read means the same when
//! it is written again. A target panics where that is broken.
//!
//! `integration-tests/fuzz` runs them under libFuzzer (`make fuzz`); here they run over good inputs, over
//! the corpora that fuzzing has left in `integration-tests/fuzz/corpus`, and over mutations of both.

mod seeds;
mod targets;

#[cfg(test)]
mod tests;

pub use seeds::{Seeds, corpora, corpus, good};
pub use targets::{TARGETS, Target};
