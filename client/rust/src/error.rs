//! The SDK's error: one variant per thing that a caller can do about it.

use forebay_proto::{
    codec,
    reason::{Advice, Refused},
    v1::ErrorReason,
};
use tonic::Status;

/// A result of the SDK.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed, by what its caller does next.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The job went back to a checkpoint, or the worker's share of the shards changed. Drop what was computed since, call
    /// [`Worker::assigned`](crate::Worker::assigned) and go on from what it returns.
    #[error("{}: {cause}", where_to(*generation, *checkpoint))]
    Rewound {
        /// The new generation; 0 if it is not known yet.
        generation: u64,
        /// The checkpoint; 0 means empty, or not known yet.
        checkpoint: u64,
        /// Why.
        cause: String,
    },
    /// Another worker has taken over. Stop, or call [`Worker::assigned`](crate::Worker::assigned) to join anew.
    #[error("this worker is fenced: {0} (another one of the same id, or its lease ran out; join again or stop)")]
    Fenced(String),
    /// The call is wrong and fails again however often it is made.
    #[error("{0}")]
    Call(Refused),
    /// The call is right, but not in this state of things.
    #[error("{0}")]
    State(Refused),
    /// There is nothing of that name. An absent key is not an error.
    #[error("{0}")]
    Missing(Refused),
    /// It may work later; the SDK has retried as long as it was allowed to.
    #[error("{0}")]
    Unavailable(Refused),
    /// Stored data is damaged; somebody has to look.
    #[error("{0}")]
    Broken(Refused),
    /// The caller is not known, or may not do this.
    #[error("{0}")]
    Denied(Refused),
    /// A fault of Forebay; please report it.
    #[error("{0}")]
    Internal(Refused),
    /// A value cannot be written or read with the state's codec.
    #[error("state {state}: {source}")]
    Codec {
        /// The state.
        state: String,
        /// What is wrong with the bytes.
        source: codec::Error,
    },
    /// A hook of the user's failed.
    #[error("{hook} failed: {message}")]
    Hook {
        /// The hook.
        hook: &'static str,
        /// What it said.
        message: String,
    },
}

impl Error {
    /// Returns the reason that a server gave, where one did.
    pub fn refused(&self) -> Option<&Refused> {
        match self {
            Self::Call(refused)
            | Self::State(refused)
            | Self::Missing(refused)
            | Self::Unavailable(refused)
            | Self::Broken(refused)
            | Self::Denied(refused)
            | Self::Internal(refused) => Some(refused),
            Self::Rewound { .. } | Self::Fenced(_) | Self::Codec { .. } | Self::Hook { .. } => None,
        }
    }

    /// Returns true if the worker goes on by calling [`Worker::assigned`](crate::Worker::assigned).
    pub fn is_rewound(&self) -> bool {
        matches!(self, Self::Rewound { .. })
    }

    /// Makes an error of a wrong call.
    pub(crate) fn call(reason: ErrorReason, message: impl Into<String>) -> Self {
        Self::Call(Refused::new(reason, message))
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        match refused.advice() {
            Advice::FixCall => Self::Call(refused),
            Advice::WrongState => Self::State(refused),
            Advice::SendAgain | Advice::LookUp | Advice::Wait => Self::Unavailable(refused),
            Advice::Missing => Self::Missing(refused),
            Advice::Broken => Self::Broken(refused),
            Advice::Identity => Self::Denied(refused),
            Advice::Internal => Self::Internal(refused),
            Advice::Rejoin if refused.reason == ErrorReason::WriterFenced => Self::Fenced(refused.message),
            Advice::Rejoin => {
                let number = |name: &str| refused.detail(name).and_then(|text| text.parse().ok()).unwrap_or_default();
                Self::Rewound {
                    generation: number("generation"),
                    checkpoint: number("checkpoint"),
                    cause: refused.message,
                }
            }
        }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Refused::from_status(&status).into()
    }
}

fn where_to(generation: u64, checkpoint: u64) -> String {
    match (generation, checkpoint) {
        (0, _) => "what this worker held is not its own any more, it goes on from what is stored".to_owned(),
        (_, 0) => format!("the job goes back to its beginning in generation {generation}"),
        _ => format!("the job goes back to checkpoint {checkpoint} in generation {generation}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rewind_that_is_not_known_yet_names_no_numbers() {
        let said = |generation, checkpoint| Error::Rewound { generation, checkpoint, cause: "why".into() }.to_string();
        assert_eq!(said(4, 17), "the job goes back to checkpoint 17 in generation 4: why");
        assert_eq!(said(4, 0), "the job goes back to its beginning in generation 4: why");
        assert_eq!(said(0, 0), "what this worker held is not its own any more, it goes on from what is stored: why");
    }

    #[test]
    fn a_rewind_names_generation_and_checkpoint() {
        let refused = Refused::new(ErrorReason::Rewound, "old").with("generation", 4).with("checkpoint", 17);
        let error = Error::from(refused.to_status());
        assert!(matches!(error, Error::Rewound { generation: 4, checkpoint: 17, .. }));
        assert!(error.is_rewound() && error.refused().is_none());
    }

    #[test]
    fn the_message_says_what_was_wrong() {
        let error = Error::call(ErrorReason::KeyEmpty, "key is empty: 1 to 65535 bytes allowed");
        assert_eq!(error.to_string(), "key is empty: 1 to 65535 bytes allowed");
        assert_eq!(error.refused().unwrap().reason, ErrorReason::KeyEmpty);
    }
}
