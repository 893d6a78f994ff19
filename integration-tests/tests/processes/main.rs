//! Real processes, real RocksDB, S3 over a socket, SIGKILL: one binary, for each would link everything anew.

mod bad_inputs;
mod bench;
mod chaos;
mod cli;
mod collect;
mod config;
mod coordinators;
mod corruption;
#[cfg(feature = "rocksdb")]
mod counting;
mod cuts;
mod debug;
mod demo;
mod engines;
mod exactly_once;
mod fencing;
mod flights;
mod grpcurl;
mod histories;
mod inputs;
mod jobs;
mod memory;
mod moves;
mod object_stores;
mod positions;
mod power;
mod readback;
mod redistribution;
mod restores;
mod savepoints;
mod sdk;
mod session;
mod state;
