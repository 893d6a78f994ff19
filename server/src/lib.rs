//! The Forebay server and coordinator, as a library: the binary `forebay` and the tests use it.
//!
//! # Layout
//! - [`grpc`]: the edge; the only folder that names tonic.
//! - [`shard`]: the data plane; one range of key groups each.
//! - [`coordinator`]: the control plane; jobs, workers, rounds.
//! - [`storage`], [`checkpoint`]: leaves; bytes on the disk, objects in the store.
//! - [`config`], [`run`]: what the process is told, and what it starts.

pub mod checkpoint;
pub mod config;
pub mod coordinator;
pub mod grpc;
pub mod lease;
pub mod run;
pub mod seeded;
pub mod shard;
pub mod storage;
pub mod telemetry;
