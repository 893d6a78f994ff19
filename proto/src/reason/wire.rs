//! [`Refused`] as a gRPC status and as a refusal of a stream, and back.

use std::{collections::HashMap, error::Error as _, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{DOMAIN, Refused};
use crate::v1::{ErrorReason, Refusal};

/// Details travel in a header, and peers refuse headers over 8 KiB or 16 KiB.
const MESSAGE_BYTES_MAX: usize = 1024;
const DETAIL_BYTES_MAX: usize = 512;
const DETAILS_BYTES_MAX: usize = 3 * 1024;

/// Where a refusal of a stream, which has no BadRequest, names the field.
const FIELD: &str = "field";
/// Where a reason that this build does not know is kept.
const UNKNOWN_REASON: &str = "unknown_reason";

impl Refused {
    /// Makes a gRPC status with ErrorInfo, and RetryInfo and BadRequest where they say something.
    ///
    /// Message and details are cut to what fits into a header of every gRPC stack.
    pub fn to_status(&self) -> Status {
        let message = cut(&self.message, MESSAGE_BYTES_MAX);
        let details: HashMap<_, _> = self.cut_metadata().collect();
        let mut info = ErrorDetails::with_error_info(self.reason.name(), DOMAIN, details);
        if self.retry_after.is_some() {
            info.set_retry_info(self.retry_after);
        }
        if let Some(field) = &self.field {
            info.add_bad_request_violation(cut(field, DETAIL_BYTES_MAX), message);
        }
        Status::with_error_details(self.code(), message, info)
    }

    /// Reads a gRPC status; one that is not of Forebay becomes the reason closest to its code.
    pub fn from_status(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        let reason = info.and_then(|info| ErrorReason::from_name(&info.reason));
        let mut refused = Self::new(reason.unwrap_or_else(|| guess(status)), status.message());
        if let Some(info) = info {
            refused.metadata.extend(info.metadata.clone());
            if reason.is_none() {
                refused.metadata.insert(UNKNOWN_REASON.into(), info.reason.clone());
            }
        }
        let wait = details.retry_info().and_then(|retry| retry.retry_delay);
        if reason.is_some() || wait.is_some() {
            refused.retry_after = wait;
        }
        let violation = details.bad_request().and_then(|bad| bad.field_violations.first());
        refused.field = violation.map(|violation| violation.field.clone());
        refused
    }

    /// Makes a refusal of a batch; 0 as id or channel is the lane or the whole stream.
    pub fn to_refusal(&self, id: u64, channel: u32) -> Refusal {
        let mut metadata: HashMap<_, _> = self.cut_metadata().collect();
        if let Some(field) = &self.field {
            metadata.insert(FIELD.into(), cut(field, DETAIL_BYTES_MAX).into());
        }
        // 0 is no retry on the wire, so that a retry at once becomes one after a millisecond.
        let retry_after_ms =
            self.retry_after.map_or(0, |wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1));
        Refusal {
            id,
            channel,
            code: self.code() as u32,
            reason: self.reason.into(),
            message: cut(&self.message, MESSAGE_BYTES_MAX).into(),
            metadata,
            retry_after_ms,
        }
    }

    /// Reads a refusal; a reason that this build does not know becomes the one closest to its code.
    pub fn from_refusal(refusal: &Refusal) -> Self {
        let reason = ErrorReason::try_from(refusal.reason).ok().filter(|reason| *reason != ErrorReason::Unspecified);
        let code = Code::from_i32(i32::try_from(refusal.code).unwrap_or_default());
        let guessed = || by_code(code, &refusal.message);
        let mut refused = Self::new(reason.unwrap_or_else(guessed), refusal.message.clone());
        refused.metadata.extend(refusal.metadata.clone());
        refused.field = refused.metadata.remove(FIELD);
        if reason.is_none() {
            refused.metadata.insert(UNKNOWN_REASON.into(), refusal.reason.to_string());
        }
        let wait = (refusal.retry_after_ms > 0).then(|| Duration::from_millis(refusal.retry_after_ms));
        if reason.is_some() || wait.is_some() {
            refused.retry_after = wait;
        }
        refused
    }

    fn cut_metadata(&self) -> impl Iterator<Item = (String, String)> {
        let mut left = DETAILS_BYTES_MAX;
        self.metadata.iter().map_while(move |(name, value)| {
            let (name, value) = (cut(name, DETAIL_BYTES_MAX), cut(value, DETAIL_BYTES_MAX));
            left = left.checked_sub(name.len() + value.len())?;
            Some((name.to_owned(), value.to_owned()))
        })
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        refused.to_status()
    }
}

fn guess(status: &Status) -> ErrorReason {
    // A status made from a local error has a source: the connection broke, whatever the code says.
    if status.source().is_some() { ErrorReason::Draining } else { by_code(status.code(), status.message()) }
}

/// Chooses the reason closest to a code; its advice is right even where its name is not exact.
fn by_code(code: Code, message: &str) -> ErrorReason {
    match code {
        // tonic answers an oversized message with the first, other stacks with the second.
        Code::OutOfRange | Code::ResourceExhausted if is_message_size(message) => ErrorReason::ValueTooLarge,
        Code::InvalidArgument | Code::OutOfRange => ErrorReason::FieldInvalid,
        Code::ResourceExhausted | Code::DeadlineExceeded => ErrorReason::Overloaded,
        Code::Unavailable | Code::Cancelled => ErrorReason::Draining,
        Code::Unimplemented => ErrorReason::Unsupported,
        Code::NotFound => ErrorReason::JobUnknown,
        Code::AlreadyExists => ErrorReason::AlreadyExists,
        Code::FailedPrecondition => ErrorReason::SettingsConflict,
        Code::Aborted => ErrorReason::ServerBehind,
        Code::DataLoss => ErrorReason::CheckpointCorrupt,
        Code::Unauthenticated => ErrorReason::Unauthenticated,
        Code::PermissionDenied => ErrorReason::PermissionDenied,
        Code::Ok | Code::Unknown | Code::Internal => ErrorReason::Internal,
    }
}

/// tonic: "message length too large"; grpc-go, C++ and Python: "larger than max"; grpc-java: "exceeds maximum size".
fn is_message_size(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    message.contains("message")
        && ["length too large", "larger than max", "exceeds maximum size"].iter().any(|text| message.contains(text))
}

fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(reason: ErrorReason) -> Refused {
        Refused::new(reason, "value is 9 bytes: at most 8")
            .with("limit", 8)
            .field("value")
            .retry_after(Duration::from_secs(2))
    }

    #[test]
    fn a_status_says_all_of_it() {
        for reason in ErrorReason::all() {
            let status = refused(reason).to_status();
            assert_eq!((status.code(), status.message()), (reason.code(), "value is 9 bytes: at most 8"));
            let details = status.get_error_details();
            let info = details.error_info().unwrap();
            assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason.name(), "forebay.dev"));
            assert_eq!(Refused::from_status(&status), refused(reason));
            let plain = Refused::new(reason, "m");
            assert_eq!(Refused::from_status(&plain.to_status()), plain);
        }
    }

    #[test]
    fn a_refusal_says_all_of_it() {
        for reason in ErrorReason::all() {
            let refusal = refused(reason).to_refusal(7, 3);
            assert_eq!((refusal.id, refusal.channel, refusal.code), (7, 3, reason.code() as u32));
            assert_eq!(Refused::from_refusal(&refusal), refused(reason));
        }
    }

    #[test]
    fn an_oversized_message_is_one_error_in_all_stacks() {
        for status in [
            Status::out_of_range("Error, decoded message length too large: found 9 bytes, the limit is: 8 bytes"),
            Status::resource_exhausted("grpc: received message larger than max (9 vs. 8)"),
            Status::resource_exhausted("gRPC message exceeds maximum size 8: 9"),
            Status::resource_exhausted("CLIENT: Received message larger than max (9 vs. 8)"),
        ] {
            assert_eq!(Refused::from_status(&status).reason, ErrorReason::ValueTooLarge, "{status}");
        }
        assert_eq!(Refused::from_status(&Status::resource_exhausted("busy")).reason, ErrorReason::Overloaded);
    }

    #[test]
    fn a_foreign_status_gets_advice_by_its_code() {
        for number in 1..=16 {
            let status = Status::new(Code::from_i32(number), "m");
            let refused = Refused::from_status(&status);
            assert_eq!(refused.retry_after, refused.reason.retry_after());
            let keeps = !matches!(number, 1 | 2 | 4 | 11);
            assert_eq!(refused.code() == status.code(), keeps, "{status}");
        }
    }

    #[test]
    fn a_reason_of_a_newer_server_is_kept_by_name() {
        let details = ErrorDetails::with_error_info("SHARD_ASLEEP", DOMAIN, [("shard".to_owned(), "1".to_owned())]);
        let read = Refused::from_status(&Status::with_error_details(Code::Unavailable, "m", details));
        assert_eq!((read.reason, read.detail("unknown_reason")), (ErrorReason::Draining, Some("SHARD_ASLEEP")));
        assert_eq!(read.detail("shard"), Some("1"));
        let foreign = ErrorDetails::with_error_info("KEY_EMPTY", "example.com", HashMap::new());
        let read = Refused::from_status(&Status::with_error_details(Code::NotFound, "m", foreign));
        assert_eq!(read.reason, ErrorReason::JobUnknown);
        let refusal = Refusal { code: 14, reason: 9_999, ..Refusal::default() };
        assert_eq!(Refused::from_refusal(&refusal).reason, ErrorReason::Draining);
    }

    #[test]
    fn a_long_error_fits_into_a_header() {
        let long = "ä".repeat(100_000);
        let mut refused = Refused::new(ErrorReason::StateIncompatible, long.clone()).field(long.clone());
        for index in 0..100 {
            refused = refused.with(format!("d{index}"), &long);
        }
        let status = refused.to_status();
        assert!(status.details().len() < 6 * 1024, "{}", status.details().len());
        assert_eq!(status.message().len(), 1024);
    }
}
