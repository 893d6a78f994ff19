//! Records in progress: what a barrier waits for.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(crate) struct Records {
    open: AtomicUsize,
    closed: Notify,
}

impl Records {
    /// Admits a record.
    pub(crate) fn admit(self: &Arc<Self>) -> RecordGuard {
        self.open.fetch_add(1, Ordering::Relaxed);
        RecordGuard(self.clone())
    }

    /// Returns true if no record is in progress.
    pub(crate) fn is_empty(&self) -> bool {
        self.open.load(Ordering::Acquire) == 0
    }

    /// Waits until no record is in progress.
    pub(crate) async fn finished(&self) {
        loop {
            let closed = self.closed.notified();
            if self.is_empty() {
                return;
            }
            closed.await;
        }
    }
}

/// A record in progress. A barrier waits until it is dropped.
#[derive(Debug)]
pub struct RecordGuard(Arc<Records>);

impl Drop for RecordGuard {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Release);
        self.0.closed.notify_waiters();
    }
}
