//! The state model under test: one shard driven by hand, and scenarios as data that any runner can play.
//!
//! [`Shard`] is the real `Core` on either backend with a clock that the caller turns; [`Scenario`]s are the
//! files of `integration-tests/conformance`, whose README specifies them; [`run()`] plays one against a
//! [`Target`]: a shard in this process, or a server behind gRPC ([`Remote`]).
//!
//! Invariant: what a scenario expects stands in its file. Nothing here knows what an operation means.

mod answers;
mod engine;
mod format;
mod ops;
mod remote;
mod run;
mod shard;
mod values;

pub use self::{
    engine::Kind,
    format::{Descriptor, File, Op, Scenario, Step, all},
    ops::OwnedOp,
    remote::Remote,
    run::run,
    shard::{START_MS, Saved, Shard},
};

use async_trait::async_trait;
use forebay_proto::v1;

/// The times that a batch brings along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Times {
    /// The client's time, milliseconds since 1970; 0 is unknown.
    pub now_ms: i64,
    /// A watermark behind the operations.
    pub watermark_ms: Option<i64>,
}

/// What a batch was answered.
pub type Answered = Result<v1::BatchAnswer, v1::Refusal>;

/// What only the inside of a server can be told.
#[derive(Debug, Clone)]
pub enum Inside {
    /// The processing clock goes on.
    Advance(i64),
    /// The backend compacts everything.
    Compact,
    /// The shard goes back to a snapshot of this moment, under a new incarnation.
    Restore,
    /// The shard is closed and opened again; its lanes stay.
    Reopen,
    /// Everything that has expired is cleaned up.
    CleanUp,
    /// Rows of a state are counted, expired ones too.
    Rows(u32),
}

/// One shard that a scenario is played against.
#[async_trait]
pub trait Target: Send {
    /// Sends the next write batch of the lane.
    async fn write(&mut self, ops: v1::PackedOps, times: Times) -> Answered;

    /// Sends the last write batch again.
    async fn resend(&mut self) -> Answered;

    /// Sends a read batch behind the last write batch.
    async fn read(&mut self, ops: v1::PackedOps, times: Times) -> Answered;

    /// Registers a descriptor of a known state anew.
    async fn describe(&mut self, descriptor: v1::StateDescriptor);

    /// Does something inside; returns the rows counted, 0 if none were.
    async fn inside(&mut self, what: Inside) -> usize;
}
