//! What the benches share: data that can be checked, peers, ways to our servers, the machine, rows of figures and plots.

pub mod arguments;
pub mod data;
#[cfg(feature = "rocksdb")]
pub mod embedded;
pub mod lanes;
pub mod machine;
pub mod peer;
pub mod plot;
pub mod redis;
pub mod rows;
#[cfg(feature = "rocksdb")]
pub mod soak;
pub mod stand;
