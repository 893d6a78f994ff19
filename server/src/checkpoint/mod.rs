//! Checkpoints as they are stored: objects, their paths, manifests.
//!
//! Knows neither gRPC nor RocksDB. `conformance` holds every store to the same behaviour.

pub mod canonical;
pub mod conformance;
pub mod copy;
pub mod found;
pub mod frame;
pub mod layout;
pub mod local;
pub mod manifest;
pub mod memory;
pub mod objects;
#[cfg(any(feature = "gcs", feature = "azure"))]
pub mod others;
#[cfg(feature = "s3")]
pub mod s3;
pub mod settings;
pub mod store;
pub mod stores;
