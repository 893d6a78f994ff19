//! Failures: what goes to stderr, the hint below it, and the exit code.
//!
//! Exit codes are sysexits' where there is one: 2 wrong command line (clap's own), 1 refused, 69 unreachable
//! or not able to serve now, so that a script may try again.

use std::{fmt, process::ExitCode, time::Duration};

use forebay_proto::{Advice, Refused, v1::ErrorReason};
use tonic::{Code, Status};

const EXIT_REFUSED: u8 = 1;
const EXIT_USAGE: u8 = 2;
const EXIT_UNAVAILABLE: u8 = 69;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub enum Failure {
    /// What was typed cannot be meant.
    Usage(Refused),
    /// The cluster said no.
    Refused(Refused),
    /// A server does not know of something that the coordinator knows: it has not been told yet.
    Behind(Refused),
    /// Nobody answers at an address.
    Unreachable {
        /// The address.
        address: String,
        /// What the network said.
        cause: String,
    },
    /// Somebody is there but did not answer in that time.
    Silent(Duration),
    /// This machine's fault.
    Local(String),
}

impl Failure {
    /// Makes a failure of a wrong command line.
    pub fn usage(reason: ErrorReason, message: impl Into<String>) -> Self {
        Self::Usage(Refused::new(reason, message))
    }

    /// Makes a failure for something that is not there.
    pub fn refused(reason: ErrorReason, message: impl Into<String>) -> Self {
        Self::Refused(Refused::new(reason, message))
    }

    /// Makes a failure of what a server of the data plane said, where the coordinator knows better.
    pub fn of_server(status: Status) -> Self {
        let refused = Refused::from_status(&status);
        // Of checkpoints servers know themselves.
        let behind = refused.advice() == Advice::Missing && refused.reason != ErrorReason::CheckpointUnknown;
        if behind { Self::Behind(refused) } else { Self::Refused(refused) }
    }

    /// Returns how long to wait before the same call is made again; `None` if it would fail again.
    pub fn retry_after(&self) -> Option<Duration> {
        let refused = match self {
            Self::Refused(refused) => refused,
            Self::Behind(_) => return Some(Duration::from_millis(20)),
            _ => return None,
        };
        let wait = refused.retry_after.unwrap_or(Duration::from_millis(100));
        refused.advice().is_retryable().then(|| wait.max(Duration::from_millis(20)))
    }

    /// Returns what the user may do, where it is more than the message says.
    pub fn hint(&self) -> Option<&'static str> {
        let refused = match self {
            Self::Usage(refused) | Self::Refused(refused) | Self::Behind(refused) => refused,
            Self::Unreachable { .. } => {
                return Some("is it running? `forebay dev` starts one; --server or FOREBAY_SERVER names another");
            }
            Self::Silent(_) => return Some("--timeout waits longer"),
            Self::Local(_) => return None,
        };
        Some(match refused.reason {
            ErrorReason::NotLeased => {
                "only workers write to leased operators; create the operator as NAME:shared to write from here"
            }
            ErrorReason::JobUnknown => "`forebayctl job list` shows the jobs",
            ErrorReason::OperatorUnknown => "`forebayctl job describe JOB` shows the operators",
            ErrorReason::StateUnknown => {
                "`forebayctl job describe JOB` shows the states, `forebayctl state register` adds one"
            }
            ErrorReason::CheckpointUnknown => "`forebayctl checkpoint list JOB` shows the checkpoints",
            ErrorReason::MoveAborted => "`forebayctl shards list` shows where it is; the same command tries it again",
            ErrorReason::CheckpointAborted => "`forebayctl checkpoint list JOB` shows the last failures",
            ErrorReason::WrongKind => {
                "put is for values and lists, put --map-key for maps, append for lists and multimaps, cas for values, add for \
                 reducing and aggregating states and sorted sets"
            }
            ErrorReason::StateIncompatible => {
                "a state keeps its kind, codecs and function; register another name (`state replace` changes a schema)"
            }
            ErrorReason::ListTooLong => "--limit N reads a page of it, and tells the --page that follows",
            ErrorReason::PageTokenInvalid => "start again without --page",
            ErrorReason::AlreadyExists => "`forebayctl job describe JOB` shows what is there; choose another name",
            ErrorReason::Unsupported => "a newer server may do it; `forebayctl status` shows the version",
            _ => return advice(refused.advice()),
        })
    }

    /// Returns the exit code.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) => EXIT_USAGE,
            Self::Refused(refused) if refused.code() == Code::Unavailable => EXIT_UNAVAILABLE,
            Self::Refused(_) | Self::Behind(_) | Self::Local(_) => EXIT_REFUSED,
            Self::Unreachable { .. } | Self::Silent(_) => EXIT_UNAVAILABLE,
        })
    }
}

fn advice(advice: Advice) -> Option<&'static str> {
    match advice {
        Advice::Wait | Advice::LookUp | Advice::SendAgain => Some("this may pass: try again later"),
        Advice::Broken => Some("stored data is damaged; keep the files and look at the server's log"),
        Advice::Internal => Some("this is a fault of Forebay: please report it"),
        Advice::FixCall | Advice::WrongState | Advice::Rejoin | Advice::Missing | Advice::Identity => None,
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(refused) | Self::Refused(refused) | Self::Behind(refused) => {
                write!(f, "{} ({})", refused.message, refused.reason.name())
            }
            Self::Unreachable { address, cause } => write!(f, "cannot reach {address}: {cause} (UNREACHABLE)"),
            Self::Silent(waited) => write!(f, "no answer within {} (TIMEOUT)", humantime::format_duration(*waited)),
            Self::Local(message) => f.write_str(message),
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Refused(Refused::from_status(&status))
    }
}

impl From<forebay_client::Error> for Failure {
    fn from(error: forebay_client::Error) -> Self {
        let refused = error.refused().cloned();
        Self::Refused(refused.unwrap_or_else(|| Refused::new(ErrorReason::Internal, error.to_string())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_ends_with_the_reason() {
        let failure = Failure::from(Status::from(Refused::new(ErrorReason::JobUnknown, "there is no job \"a\"")));
        assert_eq!(failure.to_string(), "there is no job \"a\" (JOB_UNKNOWN)");
        assert_eq!(failure.hint(), Some("`forebayctl job list` shows the jobs"));
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for reason in ErrorReason::all() {
            let failure = Failure::refused(reason, "m");
            assert_eq!(failure.retry_after().is_some(), reason.advice().is_retryable(), "{reason:?}");
        }
        assert_eq!(Failure::Local("m".into()).retry_after(), None);
        // What the coordinator knows, a server will know, too.
        let unknown = || Status::from(Refused::new(ErrorReason::StateUnknown, "m"));
        assert_eq!(Failure::from(unknown()).retry_after(), None);
        assert!(Failure::of_server(unknown()).retry_after().is_some());
        let none = Status::from(Refused::new(ErrorReason::CheckpointUnknown, "m"));
        assert_eq!(Failure::of_server(none).retry_after(), None);
    }

    #[test]
    fn the_exit_code_tells_what_to_do() {
        let code = |failure: Failure| format!("{:?}", failure.exit_code());
        let is = |number: u8| format!("{:?}", ExitCode::from(number));
        assert_eq!(code(Failure::usage(ErrorReason::FieldInvalid, "m")), is(2));
        assert_eq!(code(Failure::refused(ErrorReason::NotLeased, "m")), is(1));
        assert_eq!(code(Failure::refused(ErrorReason::ShardRestoring, "m")), is(69));
        assert_eq!(code(Failure::Unreachable { address: "a".into(), cause: "c".into() }), is(69));
    }
}
