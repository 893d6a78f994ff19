//! What readers from outside see: the shard as it is, or as the last completed checkpoint holds it.

use std::{collections::BTreeMap, sync::Arc};

use forebay_proto::{
    reason::Refused,
    v1::{self, ErrorReason as Reason},
};

use super::{
    super::{ops, states::State, ttl::Clocks},
    Core, Moment,
};
use crate::storage::View;

/// Views of checkpoints on their way: as many as a job may have rounds at a time (`coordinator/spec.rs`).
const FROZEN_MAX: usize = 8;
/// How long after a committed read the views of barriers are held for the next one, by the shard's clock.
const WANTED_MS: i64 = 10 * 60 * 1000;

/// The views that are held. What one sees, compactions of the live database have to keep though it is written over;
/// so of RocksDB none is held unless somebody reads them: the first reader has the checkpoint's local copy opened.
#[derive(Default)]
pub(super) struct Views {
    /// Of checkpoints that are not completed yet.
    frozen: BTreeMap<u64, Arc<dyn View>>,
    /// Of the last completed checkpoint, with its number; 0 for the one that the shard was restored from.
    committed: Option<(u64, Arc<dyn View>)>,
    /// The last checkpoint that is known to be completed.
    last: u64,
    /// The shard's clock at the last committed read.
    read_ms: Option<i64>,
}

impl Views {
    pub(super) fn completed(&mut self, checkpoint: u64) {
        self.last = self.last.max(checkpoint);
        if let Some(view) = self.frozen.remove(&checkpoint) {
            self.committed = Some((checkpoint, view));
        }
        self.drop_old();
        self.frozen.retain(|known, _| *known > checkpoint);
    }

    fn drop_old(&mut self) {
        self.committed.take_if(|(known, _)| *known < self.last);
    }

    pub(super) fn aborted(&mut self, checkpoint: u64) {
        self.frozen.remove(&checkpoint);
    }

    pub(super) fn committed(&self) -> Result<Arc<dyn View>, Refused> {
        self.committed.as_ref().map(|(_, view)| view.clone()).ok_or_else(none_completed)
    }
}

/// Refuses a committed read of a shard that no completed checkpoint holds.
pub fn none_completed() -> Refused {
    let message = "no completed checkpoint holds the shard: read the live view, or ask again once one has completed";
    Refused::new(Reason::CheckpointUnknown, message)
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
        self.views.committed = self.backend.view().ok().map(|view| (0, view));
        self
    }

    /// Takes note of a committed read; true if the view for it is not at hand, but for [`Core::opened`].
    pub fn wants_committed(&mut self, moment: Moment) -> bool {
        self.advance_clock(moment);
        self.views.read_ms = Some(self.meta.clock_ms);
        self.views.committed.is_none()
    }

    /// Takes up the view of a completed checkpoint that was opened, for those who wait for it.
    pub fn opened(&mut self, checkpoint: u64, view: Arc<dyn View>) {
        self.views.committed.get_or_insert((checkpoint, view));
    }

    /// Ends what [`Core::opened`] began: those who ask from now on are shown no checkpoint but the last.
    pub fn opened_was_read(&mut self) {
        self.views.drop_old();
    }

    /// Begins to bring what only the log holds into files.
    pub fn begin_flush(&self) {
        self.backend.begin_flush();
    }

    /// Takes note that a round was aborted: its view will never be the committed one.
    pub fn checkpoint_aborted(&mut self, checkpoint: u64) {
        self.views.aborted(checkpoint);
    }

    /// Holds what a barrier froze until its checkpoint is completed, if somebody may read it. A view that cannot be had
    /// is none.
    pub(super) fn keep_view(&mut self, checkpoint: u64) {
        let read = self.views.read_ms.is_some_and(|read_ms| self.meta.clock_ms - read_ms <= WANTED_MS);
        // A view of the memory backend shares what has not changed, and is there in no time.
        if !read && self.identity.backend != v1::Backend::Memory {
            return;
        }
        while self.views.frozen.len() >= FROZEN_MAX {
            self.views.frozen.pop_first();
        }
        if let Ok(view) = self.backend.view() {
            self.views.frozen.insert(checkpoint, view);
        }
    }
}

#[cfg(all(test, feature = "rocksdb"))]
mod tests {
    use forebay_proto::key_group::{KeyGroupRange, MaxParallelism};

    use super::{
        super::{
            super::{
                gate::Rights,
                open::{Backends, Origin},
                states::States,
            },
            Identity,
        },
        *,
    };
    use crate::storage::RocksConfig;

    fn core(backend: v1::Backend, dir: &tempfile::TempDir) -> Core {
        let identity = Identity {
            operator: "op".into(),
            range: KeyGroupRange::new(0, 128).unwrap(),
            max_parallelism: MaxParallelism::DEFAULT,
            explicit: false,
            recovery: v1::Recovery::Job,
            durability: v1::Durability::Wal,
            max_value_bytes: 1 << 20,
            max_lanes: 1,
            backend,
        };
        let rights = Rights {
            access: v1::Access::Shared,
            generation: 1,
            restored_checkpoint: 0,
            shard_epoch: 1,
            incarnation: 1,
            writer_epoch: 0,
            leased: false,
            established: true,
            leaving: false,
        };
        let backends = Backends::new(&RocksConfig::default()).unwrap();
        let opened = backends.open(backend, v1::Durability::Wal, dir.path(), Origin::New).unwrap();
        Core::load(identity, rights, States::of_operator(&[], "op"), opened).unwrap()
    }

    fn at(wall_ms: i64) -> Moment {
        Moment { wall_ms, lease: true }
    }

    fn complete(core: &mut Core, checkpoint: u64) {
        drop(core.snapshot(v1::BarrierOp { checkpoint, ..Default::default() }));
        core.checkpoint_completed(checkpoint);
    }

    #[test]
    fn rocksdb_holds_a_view_only_while_somebody_reads_them() {
        let dir = tempfile::tempdir().unwrap();
        let mut core = core(v1::Backend::Rocksdb, &dir);
        complete(&mut core, 1);
        assert!(core.wants_committed(at(1)), "nobody has asked before");
        let opened = core.backend.view().unwrap();
        core.opened(1, opened);
        assert!(!core.wants_committed(at(1)));
        complete(&mut core, 2);
        assert!(!core.wants_committed(at(1)), "held at the barrier");
        core.advance_clock(at(2 + WANTED_MS));
        complete(&mut core, 3);
        assert!(core.wants_committed(at(2 + WANTED_MS)), "nobody has asked for long");
    }

    #[test]
    fn a_view_in_memory_costs_nothing_and_is_always_held() {
        let dir = tempfile::tempdir().unwrap();
        let mut core = core(v1::Backend::Memory, &dir);
        complete(&mut core, 1);
        assert!(!core.wants_committed(at(1)));
    }

    #[test]
    fn a_checkpoint_that_is_opened_late_is_for_those_alone_who_waited() {
        let dir = tempfile::tempdir().unwrap();
        let mut core = core(v1::Backend::Rocksdb, &dir);
        complete(&mut core, 1);
        complete(&mut core, 2);
        let opened = core.backend.view().unwrap();
        core.opened(1, opened);
        assert!(!core.wants_committed(at(1)));
        core.opened_was_read();
        assert!(core.wants_committed(at(1)));
    }
}
