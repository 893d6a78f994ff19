//! What a worker was given: shards, and its share of a checkpoint's worker state.

use std::sync::Arc;

use forebay_proto::{codec::Codec, v1};

use crate::{
    codec::Stored,
    error::Result,
    session::Session,
    source::Source,
    states::{SessionRef, State},
    worker_state::{IN_FLIGHT, WorkerState},
};

/// The beginning of a generation for a worker.
#[derive(Debug)]
pub struct Assigned {
    session: SessionRef,
    assignment: v1::Assignment,
    state: WorkerState,
}

impl Assigned {
    pub(crate) fn new(session: Arc<Session>, mut assignment: v1::Assignment) -> Self {
        let state = WorkerState::from_lists(std::mem::take(&mut assignment.state));
        Self { session: SessionRef(session), assignment, state }
    }

    /// Opens a state that the worker has declared. The handle is good until the next rewind.
    pub fn open<S: State>(&self, state: &S) -> Result<S::Handle> {
        state.open(&self.session)
    }

    /// Returns the worker's share of the worker state; empty at the job's first start.
    pub fn worker_state(&self) -> &WorkerState {
        &self.state
    }

    /// Returns the records that were in flight at an unaligned checkpoint, as they were reported
    /// ([`Worker::report`](crate::Worker::report)): to be processed before any other. All workers of the group get all
    /// of them; each processes those whose keys it [`holds`](Self::holds).
    pub fn in_flight<C: Codec<T>, T>(&self) -> Result<Vec<T>> {
        self.state.values::<C, T>(IN_FLIGHT)
    }

    /// Opens a source whose records may touch all shards of the worker, in a job that keeps positions in its shards
    /// (`recovery: shard`). `P` is the codec of its positions.
    ///
    /// Fails where positions are worker state, and if the source is open with a key group.
    pub fn source<P: Stored<Value: PartialOrd + Clone>>(&self, name: &str) -> Result<Source<P>> {
        Source::open(&self.session, name, None)
    }

    /// The same for a source whose records touch one key group alone, such as a partition of Kafka where requests name
    /// their key group (partitioner explicit). Other shards neither know its position nor hold its reading back.
    pub fn source_in<P: Stored<Value: PartialOrd + Clone>>(&self, key_group: u32, name: &str) -> Result<Source<P>> {
        Source::open(&self.session, name, Some(key_group))
    }

    /// Returns true if a key is of the worker's shards.
    pub fn holds(&self, key: &[u8]) -> bool {
        let session = &self.session.0;
        session.group_of(key, None).and_then(|group| session.shard_of(group)).is_ok()
    }

    /// Returns the checkpoint that the state stands at; `None` means that the state is empty.
    pub fn checkpoint(&self) -> Option<u64> {
        Some(self.assignment.restored_checkpoint).filter(|checkpoint| *checkpoint > 0)
    }

    /// Returns true if the state comes from a checkpoint, and false at the job's first start (Flink:
    /// FunctionInitializationContext.isRestored): then there is no worker state to begin with, and every state
    /// is empty. A worker that joins a running job is restored, too, even if its share of the worker state is
    /// empty.
    pub fn restored(&self) -> bool {
        self.checkpoint().is_some()
    }

    /// Returns the job's generation. It stays where shards are leased anew without a rewind (at a stop); together with
    /// [`checkpoint`](Self::checkpoint) it is another one after each, such as for what connects workers to those behind.
    pub fn generation(&self) -> u64 {
        self.assignment.generation
    }

    /// Returns the worker's index in its group, and how many workers there are.
    pub fn place(&self) -> (u32, u32) {
        (self.assignment.index, self.assignment.workers)
    }

    /// Returns the shards that the worker holds.
    pub fn shards(&self) -> impl Iterator<Item = &v1::Route> {
        self.assignment.shards.iter().filter_map(|leased| leased.route.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, time::Duration};

    use super::*;
    use crate::{cache::Cache, routing::Table, session::Parts};

    fn assigned(restored_checkpoint: u64) -> Result<Assigned> {
        let session = Session::start(Parts {
            table: Table::new(128, v1::Partitioner::Murmur3, Vec::new())?,
            explicit: false,
            lanes: Vec::new(),
            states: Vec::new(),
            cache: Cache::new(0, HashSet::new()),
            lease: Arc::default(),
            attention: Arc::default(),
            value_bytes_max: 0,
            write_delay_max: Duration::from_secs(1),
            positions_interval: None,
        });
        Ok(Assigned::new(session, v1::Assignment { restored_checkpoint, ..v1::Assignment::default() }))
    }

    #[tokio::test]
    async fn a_worker_is_restored_if_its_state_comes_from_a_checkpoint() {
        let (first, later) = (assigned(0).unwrap(), assigned(7).unwrap());
        assert!(!first.restored() && first.checkpoint().is_none());
        assert!(later.restored(), "even without worker state");
        assert_eq!(later.checkpoint(), Some(7));
    }
}
