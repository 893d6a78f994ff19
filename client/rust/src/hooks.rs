//! What a user may want to do around checkpoints, such as with a transactional producer.

use futures::future::BoxFuture;

use crate::inputs::Barrier;

/// The outcome of a hook; its error is shown to people.
pub type HookResult = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Hooks around checkpoints. They run in the worker's own loop, never beside it.
pub trait Hooks: Send + Sync {
    /// Runs at the barrier of a checkpoint, after the last record before it: pre-commit outputs here. The
    /// worker state is asked for afterwards. A failure declines the checkpoint.
    fn before_barrier(&mut self, _checkpoint: u64) -> BoxFuture<'_, HookResult> {
        Box::pin(async { Ok(()) })
    }

    /// Runs behind [`Hooks::before_barrier`]: sends the barrier on to the workers behind this one, in the stream of
    /// records, before any record that is processed later. A failure declines the checkpoint.
    fn forward(&mut self, _barrier: &Barrier) -> BoxFuture<'_, HookResult> {
        Box::pin(async { Ok(()) })
    }

    /// Runs once a checkpoint is complete, and again when it is restored: commit outputs here. Completions
    /// may be lost, so a later one stands for the earlier ones.
    fn on_completed(&mut self, _checkpoint: u64) -> BoxFuture<'_, HookResult> {
        Box::pin(async { Ok(()) })
    }

    /// Runs before the first record after an assignment; the checkpoint is 0 if the state is empty.
    fn on_restore(&mut self, _checkpoint: u64) -> BoxFuture<'_, HookResult> {
        Box::pin(async { Ok(()) })
    }
}

/// No hooks.
#[derive(Debug, Clone, Copy)]
pub struct NoHooks;

impl Hooks for NoHooks {}
