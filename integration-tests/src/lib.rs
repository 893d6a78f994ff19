//! What the tests are made of: real processes, an S3 server with faults, the flights workload and its oracle,
//! the simulation, a disk that loses what was not synced, scenarios of the state model, fuzz targets, what benches
//! share. The only place that sees server and client together.

pub mod bench;
pub mod chaos;
pub mod conformance;
pub mod flights;
pub mod fuzz;
pub mod harness;
pub mod histories;
pub mod lossy;
pub mod matrix;
pub mod orders;
pub mod s3;
pub mod simulation;

use std::path::PathBuf;

/// The folder of this package.
///
/// As cargo tells it when it runs something. The one that this was compiled in may be another checkout: builds share
/// a cache.
pub fn folder() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}
