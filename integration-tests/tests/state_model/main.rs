//! The state model: scenarios as data on every backend and through gRPC, and random operations against a
//! plain model of what they mean.

mod cleanup;
mod machine;
mod model;
mod random;
mod remote;
mod scenarios;
#[cfg(feature = "seeded-bugs")]
mod seeded;
