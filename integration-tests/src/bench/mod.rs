//! What the benches share: data that can be checked, the machine, and rows of figures.

pub mod data;
#[cfg(feature = "rocksdb")]
pub mod embedded;
pub mod machine;
pub mod peer;
pub mod rows;
