//! What an answer of S3, or the lack of one, means to a caller.

use std::error::Error as StdError;

use aws_sdk_s3::{
    error::{ProvideErrorMetadata, SdkError},
    operation::RequestId,
};

use super::{super::objects::Error, S3Store};

/// What is known about a failed call.
#[derive(Debug, Clone, Copy)]
struct Facts<'a> {
    /// Whether the store may have seen the request.
    sent: bool,
    status: Option<u16>,
    code: &'a str,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    NoObject,
    NoBucket,
    /// A condition does not hold, or somebody else writes at the same moment.
    Condition,
    /// The store says no, with a hint what to do.
    Refused(&'static str),
    /// No answer, or one that says nothing about the effect.
    Unclear,
    /// The request did not leave this process.
    NotSent,
}

fn judge(facts: Facts<'_>) -> Verdict {
    use Verdict::*;
    let Some(status) = facts.status else {
        return if facts.sent { Unclear } else { NotSent };
    };
    match (status, facts.code) {
        (_, "NoSuchBucket") => NoBucket,
        (_, "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException")
        | (300..400, _) => Refused("the bucket is elsewhere: set `region` and `endpoint`"),
        // Damaged or cut off on the way; another attempt may get through.
        (400, "RequestTimeout" | "IncompleteBody" | "BadDigest" | "XAmzContentSHA256Mismatch") | (408 | 429, _) => {
            Unclear
        }
        (404, _) => NoObject,
        (409 | 412, _) => Condition,
        (_, "RequestTimeTooSkewed") => Refused("set the clock of this machine"),
        (_, "ExpiredToken" | "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken") | (401, _) => {
            Refused("check the credentials (environment, profile or role)")
        }
        (403, _) => Refused("check the credentials and the bucket's policy"),
        (501, _) => Refused("the store lacks this; `checksums = \"when_required\"` may help"),
        (500.., _) | (..300, _) => Unclear, // S3 can send an error with status 200
        _ => Refused(""),
    }
}

impl S3Store {
    /// For reads and deletes.
    pub(super) fn read_error<E>(&self, path: &str, err: &SdkError<E>) -> Error
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        match self.verdict(err) {
            (Verdict::NoObject, _) => Error::NotFound { path: path.into() },
            (verdict, detail) => self.error(path, verdict, detail),
        }
    }

    /// For writes and listings, which need no object.
    pub(super) fn write_error<E>(&self, path: &str, err: &SdkError<E>) -> Error
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        let (verdict, detail) = self.verdict(err);
        self.error(path, verdict, detail)
    }

    /// For conditional writes.
    pub(super) fn conditional_error<E>(&self, path: &str, err: &SdkError<E>) -> Error
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        match self.verdict(err) {
            // 404 is S3's answer to If-Match for an absent object.
            (Verdict::Condition | Verdict::NoObject, _) => Error::Conflict { path: path.into() },
            (Verdict::Unclear, detail) => {
                Error::Ambiguous { path: path.into(), detail: format!("{}: {detail}", self.url) }
            }
            (verdict, detail) => self.error(path, verdict, detail),
        }
    }

    pub(super) fn unavailable(&self, path: &str, detail: String) -> Error {
        Error::Unavailable { store: self.url.clone(), path: path.into(), detail }
    }

    pub(super) fn refused(&self, path: &str, detail: String) -> Error {
        Error::Refused { store: self.url.clone(), path: path.into(), detail }
    }

    fn error(&self, path: &str, verdict: Verdict, detail: String) -> Error {
        let path = if path.is_empty() { "a listing" } else { path };
        match verdict {
            Verdict::NoBucket => {
                let hint = "create it or correct the directory in the configuration";
                self.refused(path, format!("there is no bucket {}: {hint}", self.bucket))
            }
            Verdict::Refused("") | Verdict::NoObject => self.refused(path, detail),
            Verdict::Refused(hint) => self.refused(path, format!("{detail}: {hint}")),
            Verdict::Condition | Verdict::Unclear | Verdict::NotSent => self.unavailable(path, detail),
        }
    }

    fn verdict<E>(&self, err: &SdkError<E>) -> (Verdict, String)
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        let status = err.raw_response().map(|response| response.status().as_u16());
        let code = err.code().unwrap_or_default();
        let text = chain(err);
        if status.is_none() && NO_CREDENTIALS.iter().any(|reason| text.contains(reason)) {
            let hint = "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a profile";
            return (Verdict::Refused(hint), text);
        }
        let sent = match err {
            SdkError::ConstructionFailure(_) => false,
            SdkError::DispatchFailure(failure) => !failure.is_user() && !text.contains(NOT_CONNECTED),
            _ => true,
        };
        let detail = match status {
            None => text,
            Some(status) => {
                let message = err.message().filter(|message| !message.is_empty());
                // Without a code the answer was not S3's XML; then its reading says more.
                let said = if code.is_empty() { text } else { message.unwrap_or_default().to_owned() };
                let id = err.meta().request_id().map(|id| format!(" (request {id})")).unwrap_or_default();
                let parts = [status.to_string(), code.to_owned(), said.trim().replace('\n', " ")];
                parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ") + &id
            }
        };
        (judge(Facts { sent, status, code }), detail)
    }
}

/// What the SDK says if no source has credentials; it has no type for it that this crate can name.
const NO_CREDENTIALS: [&str; 2] =
    ["the credential provider was not enabled", "no providers in chain provided credentials"];

/// How the HTTP client calls a failure to connect (its error is of a crate that is not ours to name).
/// Should it ever say otherwise, a write is called ambiguous that was not sent: harmless.
const NOT_CONNECTED: &str = "client error (Connect)";

/// An error and its sources in one line, without the SDK's debug dump.
pub(super) fn chain(err: &(dyn StdError + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in sources(err).map(|err| err.to_string()) {
        if !parts.last().is_some_and(|last| last.contains(&part)) {
            parts.push(part);
        }
    }
    parts.join(": ").replace('\n', " ")
}

fn sources<'a>(err: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(err), |&err| err.source())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_judged_by_status_and_code() {
        let judge = |status, code| judge(Facts { sent: true, status: Some(status), code });
        assert_eq!(judge(404, "NoSuchBucket"), Verdict::NoBucket);
        assert_eq!(judge(404, "NoSuchKey"), Verdict::NoObject);
        assert_eq!(judge(404, ""), Verdict::NoObject);
        assert_eq!(judge(412, "PreconditionFailed"), Verdict::Condition);
        assert_eq!(judge(409, "ConditionalRequestConflict"), Verdict::Condition);
        for unclear in [200, 408, 429, 500, 502, 503, 504] {
            assert_eq!(judge(unclear, "Whatever"), Verdict::Unclear, "{unclear}");
        }
        assert_eq!(judge(400, "RequestTimeout"), Verdict::Unclear);
        for refused in [(301, "PermanentRedirect"), (400, "InvalidArgument"), (403, "ExpiredToken"), (501, "")] {
            assert!(matches!(judge(refused.0, refused.1), Verdict::Refused(_)), "{refused:?}");
        }
    }

    #[test]
    fn without_an_answer_it_depends_on_whether_it_was_sent() {
        assert_eq!(judge(Facts { sent: true, status: None, code: "" }), Verdict::Unclear);
        assert_eq!(judge(Facts { sent: false, status: None, code: "" }), Verdict::NotSent);
    }
}
