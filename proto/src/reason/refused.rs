//! An error that can be sent.

use std::{collections::BTreeMap, error, fmt, time::Duration};

use super::Advice;
use crate::v1::ErrorReason;

/// An error with a reason; what every refusal of a server, coordinator or SDK becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The reason.
    pub reason: ErrorReason,
    /// What was wrong: got, allowed, hint.
    pub message: String,
    /// What a program may want to know, such as `expected` or `owner`.
    pub metadata: BTreeMap<String, String>,
    /// How long to wait before a retry; `None` if waiting does not help.
    pub retry_after: Option<Duration>,
    /// The field of the request that was wrong.
    pub field: Option<String>,
}

impl Refused {
    /// Makes an error that is retried, if at all, after the reason's own time.
    pub fn new(reason: ErrorReason, message: impl Into<String>) -> Self {
        let retry_after = reason.retry_after();
        Self { reason, message: message.into(), metadata: BTreeMap::new(), retry_after, field: None }
    }

    /// Adds a detail.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl fmt::Display) -> Self {
        self.metadata.insert(name.into(), value.to_string());
        self
    }

    /// Names the field that was wrong.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Says how long to wait before a retry.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Returns what the receiver does.
    pub fn advice(&self) -> Advice {
        self.reason.advice()
    }

    /// Returns the gRPC code.
    pub fn code(&self) -> tonic::Code {
        self.reason.code()
    }

    /// Returns a detail.
    pub fn detail(&self, name: &str) -> Option<&str> {
        self.metadata.get(name).map(String::as_str)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl error::Error for Refused {}
