//! Real processes under test: starts them, kills them, and speaks to them message by message.
//!
//! [`Forebay`] is one process of the binary `forebay`, [`Cluster`] several; [`Api`], [`Stream`] and
//! [`Worker`] are clients that send exactly what a test says, with none of the SDK's retries or caches;
//! [`Proxy`] breaks connections, a [`Namespace`] loses packets. Nothing here decides whether an answer is right.
//!
//! Invariant: a wait has a deadline, and what a process said is shown when one is missed.

mod api;
mod cluster;
mod engine;
mod forebay;
mod job;
mod mounts;
pub mod namespace;
mod process;
mod proxy;
mod setup;
mod stream;
mod worker;

use std::{future::Future, time::Duration};

use forebay_proto::{Refused, v1::ErrorReason};
use tonic::Status;

pub use self::{
    api::{Api, address, raw, text},
    cluster::{Cluster, Pair},
    engine::{Engine, KEY_GROUPS, Subtask, key_group},
    forebay::Forebay,
    job::{Job, JobBuilder, Key, append, get, list, put, reducing, value},
    mounts::Mounts,
    namespace::Namespace,
    process::{Exit, Process, binary},
    proxy::Proxy,
    setup::Setup,
    stream::{Answered, Lane, Stream},
    worker::Worker,
};

/// How long anything may take before a test fails for it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks again and again until there is an answer; `what` is told if there is none in time.
///
/// # Panics
/// If [`PATIENCE`] is at its end.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(what, asking).await
}

/// Waits for an answer.
///
/// # Panics
/// If [`PATIENCE`] is at its end.
pub async fn within<T>(what: &str, answer: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => answer,
        Err(_) => panic!("not within {PATIENCE:?}: {what}"),
    }
}

/// The reason of an error, as its ErrorInfo says.
pub fn reason(status: &Status) -> ErrorReason {
    Refused::from_status(status).reason
}
