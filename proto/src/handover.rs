//! What the shard table says of a shard on its way to another server: `leaving → arriving → there`.

use crate::v1::{CompletedCheckpoint, Handover, ShardEntry};

impl ShardEntry {
    /// Returns true while the shard's former server has it, and serves nothing of it.
    pub fn is_leaving(&self) -> bool {
        self.handover.as_ref().is_some_and(|handover| handover.snapshot.is_none())
    }

    /// Returns what the shard's former server has stored, which its new one makes it of; `None` unless it arrives.
    pub fn handed_over(&self) -> Option<&CompletedCheckpoint> {
        self.handover.as_ref()?.snapshot.as_ref()
    }

    /// Returns true while the shard's new server makes it of what the former one has stored.
    pub fn is_arriving(&self) -> bool {
        self.handed_over().is_some()
    }

    /// Returns the number of the move that the shard is on; 0 for none.
    pub fn move_number(&self) -> u64 {
        self.handover.as_ref().map_or(0, |Handover { r#move, .. }| *r#move)
    }
}
