//! What the tests are made of: real processes, an S3 server with faults, the flights workload and its oracle,
//! the simulation, scenarios of the state model, fuzz targets, what benches share. The only place that sees server and client together.

pub mod bench;
pub mod conformance;
pub mod flights;
pub mod fuzz;
pub mod harness;
pub mod matrix;
pub mod s3;
pub mod simulation;
