//! .
pub mod flights;
pub mod harness;
pub mod s3;
pub mod simulation;
