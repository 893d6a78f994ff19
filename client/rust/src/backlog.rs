//! The backlog: write batches that nobody waits for one by one.

use std::sync::{
    OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use forebay_proto::reason::Refused;
use tokio::sync::Notify;

use crate::lane::Outcome;

/// Counts the bytes of flushed batches until they are acknowledged, and keeps the first refusal.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    bytes: AtomicUsize,
    batches: AtomicUsize,
    failure: OnceLock<Refused>,
    changed: Notify,
}

impl Backlog {
    pub(crate) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn done(&self, bytes: usize, outcome: Outcome) {
        if let Outcome::Refused(refused) = outcome {
            let _ = self.failure.set(refused);
        }
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.batches.fetch_sub(1, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Returns why a batch was refused, if one was; the worker's state is then not what it believes.
    pub(crate) fn failure(&self) -> Option<&Refused> {
        self.failure.get()
    }

    /// Waits until at most so many bytes are not acknowledged.
    pub(crate) async fn below(&self, bytes_max: usize) {
        self.until(|backlog| backlog.bytes.load(Ordering::Relaxed) <= bytes_max).await;
    }

    /// Waits until everything is acknowledged, or has failed.
    pub(crate) async fn drained(&self) {
        self.until(|backlog| backlog.batches.load(Ordering::Acquire) == 0).await;
    }

    async fn until(&self, reached: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified();
            if reached(self) {
                return;
            }
            changed.await;
        }
    }
}
