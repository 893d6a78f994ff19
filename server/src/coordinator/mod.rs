//! The control plane: jobs, workers, checkpoints, placement.
//!
//! [`Machine`](machine::Machine) decides, from the job head and from what is reported; it is pure.
//! [`job`] gives it a task, a clock and the object store. [`Coordinator`] is the cheap handle that the
//! edge calls; there is one while this process leads, which [`Office`](office::Office) sees to.
//! Knows neither gRPC nor shards.
//!
//! Invariant: nobody hears of a grant, a generation or a completed checkpoint before the head that
//! holds it is confirmed by the store.

pub mod assign;
pub mod branches;
pub mod collect;
pub mod cuts;
pub mod descriptors;
pub mod election;
pub mod external;
pub mod garbage;
pub mod groups;
pub mod head;
pub mod job;
pub mod machine;
pub mod mandate;
pub mod marker;
pub mod members;
pub mod moves;
pub mod office;
pub mod plan;
pub mod restore;
pub mod retention;
pub mod round;
pub mod servers;
pub mod settings;
pub mod spec;
pub mod verify;
pub mod wanted;

mod deleted;
mod handle;

pub use handle::{Coordinator, Error};
pub use settings::Config;
