//! What the tests share: real processes under test, a simulated world, the state model, an S3 server.
pub mod conformance;
pub mod flights;
pub mod harness;
pub mod s3;
pub mod simulation;
