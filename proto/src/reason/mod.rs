//! Reasons: what an error means, and what its receiver does about it.
//!
//! A [`Refused`] is an error on its way over the wire, as a gRPC status or as a refusal of a stream; both say
//! the same. The module maps reasons to gRPC codes and advice; it does not know where errors come from.
//!
//! Invariant: the code alone tells a caller what to do, so a reason never changes its code.

mod refused;
mod wire;

pub use refused::Refused;

use std::time::Duration;

use tonic::Code;

use crate::v1::ErrorReason;

/// What stands in `google.rpc.ErrorInfo.domain`.
pub const DOMAIN: &str = "forebay.dev";

const PREFIX: &str = "ERROR_REASON_";

/// What the receiver of an error does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Advice {
    /// The call is wrong; it fails again however often it is sent.
    FixCall,
    /// The call is right, but not in this state of things.
    WrongState,
    /// Send again, in order, from where the answer says.
    SendAgain,
    /// Look up the routing, then send again.
    LookUp,
    /// Drop what is cached and unsent, then join or open the lane again.
    Rejoin,
    /// Wait, then send the same call.
    Wait,
    /// There is nothing of that name.
    Missing,
    /// Stored data is damaged; somebody has to look.
    Broken,
    /// The caller is not known, or may not do this.
    Identity,
    /// A fault of Forebay; somebody has to report it.
    Internal,
}

impl Advice {
    /// Returns true if the call may succeed later without anybody changing it.
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::SendAgain | Self::LookUp | Self::Wait)
    }
}

impl ErrorReason {
    /// Returns every reason but the unspecified one.
    pub fn all() -> impl Iterator<Item = Self> {
        (1..=1000).filter_map(|number| Self::try_from(number).ok())
    }

    /// Returns the name that stands in ErrorInfo: without the enum's prefix.
    pub fn name(self) -> &'static str {
        self.as_str_name().strip_prefix(PREFIX).unwrap_or_default()
    }

    /// Finds a reason by the name that stands in ErrorInfo.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::from_str_name(&format!("{PREFIX}{name}"))
    }

    /// Returns the gRPC code that goes with the reason.
    pub const fn code(self) -> Code {
        self.row().0
    }

    /// Returns what the receiver does.
    pub const fn advice(self) -> Advice {
        self.row().1
    }

    /// Returns how long to wait before a retry, where the refusing side does not say; `None` is no retry.
    pub const fn retry_after(self) -> Option<Duration> {
        match self {
            Self::NotCaughtUp => Some(Duration::ZERO),
            Self::ShardMoved | Self::ServerBehind | Self::Overloaded => Some(Duration::from_millis(100)),
            Self::ShardRestoring | Self::LeaseExpired | Self::NoCoordinator => Some(Duration::from_millis(500)),
            Self::Draining | Self::StoreUnavailable | Self::CheckpointAborted | Self::MoveAborted | Self::Io => {
                Some(Duration::from_secs(1))
            }
            Self::Quota | Self::DiskFull => Some(Duration::from_secs(5)),
            _ => None,
        }
    }

    // No `_` arm: a new reason must choose its code.
    const fn row(self) -> (Code, Advice) {
        match self {
            Self::Unspecified | Self::Internal => (Code::Internal, Advice::Internal),
            Self::KeyEmpty
            | Self::KeyTooLong
            | Self::ValueTooLarge
            | Self::KeyGroupMismatch
            | Self::NameInvalid
            | Self::FieldMissing
            | Self::FieldInvalid
            | Self::Malformed
            | Self::BatchSpansShards
            | Self::BatchTooMany
            | Self::PageTokenInvalid
            | Self::TtlInvalid => (Code::InvalidArgument, Advice::FixCall),
            Self::KeyGroupOutOfRange => (Code::OutOfRange, Advice::FixCall),
            Self::Unsupported => (Code::Unimplemented, Advice::FixCall),
            Self::AlreadyExists => (Code::AlreadyExists, Advice::WrongState),
            Self::WrongKind
            | Self::StateIncompatible
            | Self::SequenceReused
            | Self::NotLeased
            | Self::ListTooLong
            | Self::SettingsConflict
            | Self::FormatTooNew => (Code::FailedPrecondition, Advice::WrongState),
            Self::NotCaughtUp => (Code::Aborted, Advice::SendAgain),
            Self::ShardMoved | Self::ServerBehind => (Code::Aborted, Advice::LookUp),
            Self::WriterFenced | Self::Rewound | Self::LaneExpired | Self::ShardLost => {
                (Code::FailedPrecondition, Advice::Rejoin)
            }
            Self::ShardRestoring
            | Self::Draining
            | Self::StoreUnavailable
            | Self::LeaseExpired
            | Self::NoCoordinator
            | Self::Io => (Code::Unavailable, Advice::Wait),
            Self::Overloaded | Self::Quota | Self::DiskFull => (Code::ResourceExhausted, Advice::Wait),
            Self::CheckpointAborted | Self::MoveAborted => (Code::Aborted, Advice::Wait),
            Self::JobUnknown
            | Self::OperatorUnknown
            | Self::StateUnknown
            | Self::CheckpointUnknown
            | Self::ServerUnknown
            | Self::ShardUnknown => (Code::NotFound, Advice::Missing),
            Self::CheckpointCorrupt | Self::LogCorrupt | Self::RowCorrupt => (Code::DataLoss, Advice::Broken),
            Self::Unauthenticated => (Code::Unauthenticated, Advice::Identity),
            Self::LaneOwner | Self::PermissionDenied => (Code::PermissionDenied, Advice::Identity),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_code_and_a_name() {
        assert!(ErrorReason::all().count() > 50);
        for reason in ErrorReason::all() {
            assert!(!matches!(reason.code(), Code::Ok | Code::Unknown), "{reason:?}");
            assert_eq!(ErrorReason::from_name(reason.name()), Some(reason));
            assert!(!reason.name().contains(PREFIX) && reason.name().len() < 64);
        }
        assert_eq!((ErrorReason::KeyEmpty.name(), ErrorReason::from_name("key_empty")), ("KEY_EMPTY", None));
    }

    #[test]
    fn what_may_be_retried_says_when() {
        for reason in ErrorReason::all() {
            assert_eq!(reason.retry_after().is_some(), reason.advice().is_retryable(), "{reason:?}");
        }
    }

    #[test]
    fn a_code_tells_whether_a_retry_helps() {
        let retried = [Code::Aborted, Code::Unavailable, Code::ResourceExhausted];
        for reason in ErrorReason::all() {
            assert_eq!(retried.contains(&reason.code()), reason.advice().is_retryable(), "{reason:?}");
        }
    }
}
