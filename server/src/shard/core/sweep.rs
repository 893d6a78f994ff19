//! Clean-up of expired rows: some are looked at with every write batch, and the backend is told what it may
//! drop by itself.

use std::ops::ControlFlow;

use forebay_proto::reason::Refused;
use tracing::warn;

use super::{
    super::{ops, states::State, ttl::Clock},
    Core,
};
use crate::storage::{self, Writes, row};

/// True if a batch says what has expired: one without a time of its own says nothing of the writer's clock,
/// whose times may be of another age than the shard's.
fn may_clean(state: &State, now_ms: i64) -> bool {
    state.ttl().clock != Clock::Writer || now_ms != 0
}

/// How far the sweep is: it goes round all rows of all states that have one.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    state: usize,
    /// The first row to look at; empty at the start of the state.
    next: Vec<u8>,
}

impl Core {
    /// Removes expired rows among the next few, ahead of the batch's own operations.
    pub(super) fn sweep(&mut self, now_ms: i64, writes: &mut Writes) -> Result<(), Refused> {
        let backend = self.identity.backend;
        let rows_of = |state: &State| match may_clean(state, now_ms) {
            true => state.ttl().sweep_rows(backend, state.merge().is_some()),
            false => 0,
        };
        let states: Vec<&State> = self.states.iter().collect();
        let from = self.sweep.state;
        let Some(at) = (from..from + states.len()).find(|at| rows_of(states[at % states.len()]) > 0) else {
            return Ok(());
        };
        let state = states[at % states.len()];
        if at != from {
            // Where the sweep was is a row of another state.
            self.sweep = Sweep { state: at % states.len(), next: Vec::new() };
        }
        let clocks = self.clocks(now_ms);
        let (start, end) = self.identity.range.row_bounds();
        let start = if self.sweep.next.is_empty() { start.to_vec() } else { self.sweep.next.clone() };
        let (mut left, mut last) = (rows_of(state), Vec::new());
        let visited = self.backend.scan(state.table(), &start, &end, &mut |row_key, stored| {
            if let Ok((header, _)) = row::decode(stored)
                && state.ttl().expired(&clocks, &header)
            {
                writes.delete(state.table(), row_key);
            }
            left -= 1;
            if left > 0 {
                return ControlFlow::Continue(());
            }
            last = [row_key, &[0]].concat();
            ControlFlow::Break(())
        });
        match visited {
            Ok(()) | Err(storage::Error::NoTable(_)) => {}
            Err(error) => return Err(ops::failed(&error)),
        }
        if last.is_empty() {
            self.sweep.state = self.sweep.state.wrapping_add(1);
        }
        self.sweep.next = last;
        Ok(())
    }

    /// Tells the backend at what age it compacts a file for the sake of the expired rows in it.
    ///
    /// What a read sees does not depend on it, so a backend that cannot be told goes on as before, and is told
    /// again with the shard's next change.
    pub(super) fn set_compaction_ages(&mut self) {
        for state in self.states.iter().filter(|state| self.tables.contains(&state.table())) {
            let age_s = state.ttl().compaction_age_s(self.identity.backend, state.merge().is_some());
            if let Err(error) = self.backend.set_compaction_age(state.table(), age_s) {
                warn!(state = state.name(), age_s, %error, "periodic compaction not changed; expired rows stay longer");
            }
        }
    }

    /// Tells the backend which rows nobody is shown any more: by clocks that are stored, so that what is
    /// dropped stays expired after a crash.
    pub(super) fn give_up_expired(&mut self, now_ms: i64) {
        let clocks = self.clocks(now_ms);
        for state in self.states.iter() {
            let may = state.ttl().drops(self.identity.backend, state.merge().is_some());
            if let Some(until_ms) = state.ttl().now_ms(&clocks).filter(|_| may && may_clean(state, now_ms)) {
                self.backend.expire(state.table(), until_ms);
            }
        }
    }
}
