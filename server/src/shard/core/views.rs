//! What readers from outside see: the shard as it is, or as the last completed checkpoint holds it.

use std::{collections::BTreeMap, sync::Arc};

use forebay_proto::{reason::Refused, v1::ErrorReason as Reason};

use super::{
    super::{ops, states::State, ttl::Clocks},
    Core, Moment,
};
use crate::storage::View;

/// The views that are held.
#[derive(Default)]
pub(super) struct Views {
    /// Of checkpoints that are not completed yet.
    frozen: BTreeMap<u64, Arc<dyn View>>,
    committed: Option<Arc<dyn View>>,
}

impl Views {
    pub(super) fn completed(&mut self, checkpoint: u64) {
        if let Some(view) = self.frozen.remove(&checkpoint) {
            self.committed = Some(view);
        }
        self.frozen.retain(|known, _| *known > checkpoint);
    }

    pub(super) fn committed(&self) -> Result<Arc<dyn View>, Refused> {
        self.committed.clone().ok_or_else(|| {
            let message = "no completed checkpoint of the shard is at hand since its server started: \
                           read the live view, or ask again once a checkpoint has completed";
            Refused::new(Reason::CheckpointUnknown, message)
        })
    }
}

/// A state of a shard at one moment, for a reader that takes its time.
pub struct Frozen {
    /// The rows.
    pub view: Arc<dyn View>,
    /// The state.
    pub state: State,
    /// The shard's clocks.
    pub clocks: Clocks,
    /// Incarnation of the shard.
    pub incarnation: u64,
}

impl std::fmt::Debug for Frozen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frozen").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Core {
    /// Freezes a state for a reader, as it is now or as of the last completed checkpoint. Time goes on for it
    /// as for any read: what has expired by `moment` is not there, whether or not a batch came since.
    pub fn view(&mut self, state: u32, committed: bool, moment: Moment) -> Result<Frozen, Refused> {
        self.is_whole()?;
        self.advance_clock(moment);
        let state = self.states.get(state)?.clone();
        let view = if committed {
            self.views.committed()?
        } else {
            self.backend.view().map_err(|error| ops::failed(&error))?
        };
        Ok(Frozen { view, state, clocks: self.clocks(0), incarnation: self.rights.incarnation })
    }

    /// Approximate number of rows of a state.
    pub fn estimate(&self, state: u32) -> Result<u64, Refused> {
        Ok(self.backend.estimate(self.states.get(state)?.table()))
    }

    /// Says that the shard is as a completed checkpoint holds it: right after a restore.
    #[must_use]
    pub fn as_committed(mut self) -> Self {
        self.views.committed = self.backend.view().ok();
        self
    }

    /// Holds what a barrier froze until its checkpoint is completed. A view that cannot be had is none.
    pub(super) fn keep_view(&mut self, checkpoint: u64) {
        // Rounds come one after the other: an earlier one that did not complete never will.
        self.views.frozen.clear();
        if let Ok(view) = self.backend.view() {
            self.views.frozen.insert(checkpoint, view);
        }
    }
}
