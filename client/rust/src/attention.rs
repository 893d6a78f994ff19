//! Whether the worker's loop has something to attend to: one flag, cheap to look at.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// A flag that can be waited for.
#[derive(Debug, Default)]
pub(crate) struct Attention {
    called: AtomicBool,
    wake: Notify,
}

impl Attention {
    /// Asks for attention.
    pub(crate) fn call(&self) {
        self.called.store(true, Ordering::Release);
        self.wake.notify_waiters();
    }

    /// Returns true if attention was asked for since the last [`Attention::clear`].
    #[inline]
    pub(crate) fn is_called(&self) -> bool {
        self.called.load(Ordering::Acquire)
    }

    /// Lowers the flag, before looking at what is there.
    pub(crate) fn clear(&self) {
        self.called.store(false, Ordering::Release);
    }

    /// Waits until attention is asked for.
    pub(crate) async fn called(&self) {
        loop {
            let wake = self.wake.notified();
            if self.is_called() {
                return;
            }
            wake.await;
        }
    }
}
