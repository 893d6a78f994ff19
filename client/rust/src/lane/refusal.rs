//! What a lane does about a refusal.

use forebay_proto::{
    reason::{Advice, Refused},
    v1::ErrorReason,
};

/// What a lane does about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// Sends the same again after a while; whether it was applied is not known.
    Again,
    /// Sends the same again once what is missing before it has been sent.
    InOrder,
    /// Looks for the shard elsewhere, then sends the same again.
    Moved,
    /// Goes on without the batch; it was not applied.
    TakeOut,
    /// Ends.
    End,
}

impl Course {
    /// Chooses what to do about the refusal of a batch.
    pub fn of_batch(refused: &Refused, leased: bool) -> Self {
        match refused.reason {
            // The round is over, so the barrier is not wanted any more.
            ErrorReason::CheckpointAborted => Self::TakeOut,
            // The lease is gone, and the coordinator will say where to; without one the call was wrong.
            ErrorReason::NotLeased if leased => Self::End,
            ErrorReason::SequenceReused | ErrorReason::FormatTooNew => Self::End,
            // What a FAILED_PRECONDITION of a newer server is read as: nothing is known about it.
            ErrorReason::SettingsConflict => Self::End,
            ErrorReason::StateUnknown | ErrorReason::RowCorrupt => Self::TakeOut,
            _ => match refused.advice() {
                Advice::FixCall | Advice::WrongState => Self::TakeOut,
                _ => Self::of_lane(refused),
            },
        }
    }

    /// Chooses what to do about the refusal of an OpenLane, or of a lane that was open.
    pub fn of_lane(refused: &Refused) -> Self {
        match (refused.reason, refused.advice()) {
            (ErrorReason::ServerBehind, _) => Self::Again,
            // A server that has just started has not heard of its jobs yet: the coordinator knows.
            (ErrorReason::ShardUnknown | ErrorReason::JobUnknown, _) => Self::Moved,
            (_, Advice::LookUp) => Self::Moved,
            (_, Advice::SendAgain) => Self::InOrder,
            (_, Advice::Wait) => Self::Again,
            (_, _) => Self::End,
        }
    }
}
