//! The states that a shard knows: numeric id → kind, table, merge function, time to live.

use forebay_proto::{merge::MergeFunction, reason::Refused, v1};
use v1::{ErrorReason as Reason, StateKind};

use super::ttl::Ttl;
use crate::storage::{Table, TableId};

/// A registered state as a shard uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    table: Table,
    kind: StateKind,
    name: String,
    ttl: Ttl,
}

impl State {
    /// Reads a registered state; `None` if it has no descriptor.
    pub fn of(registered: &v1::RegisteredState) -> Option<Self> {
        let descriptor = registered.descriptor.as_ref()?;
        let folds = matches!(descriptor.kind(), StateKind::Reducing | StateKind::Aggregating);
        let merge = folds.then(|| MergeFunction::parse(&descriptor.function)).flatten();
        Some(Self {
            table: Table { id: TableId(registered.id), merge },
            kind: descriptor.kind(),
            name: descriptor.name.clone(),
            ttl: Ttl::of(descriptor.ttl.as_ref()),
        })
    }

    /// Its table.
    pub fn table(&self) -> TableId {
        self.table.id
    }

    /// Its kind.
    pub fn kind(&self) -> StateKind {
        self.kind
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its merge function, for reducing and aggregating states.
    pub fn merge(&self) -> Option<MergeFunction> {
        self.table.merge
    }

    /// How long its rows live.
    pub fn ttl(&self) -> &Ttl {
        &self.ttl
    }

    /// Its table with the merge function.
    pub fn spec(&self) -> Table {
        self.table
    }
}

/// The states of one operator, by numeric id.
#[derive(Debug, Clone, Default)]
pub struct States(Vec<Option<State>>);

impl States {
    /// Takes the states of one operator out of a job's registered states.
    pub fn of_operator(registered: &[v1::RegisteredState], operator: &str) -> Self {
        let mut states = Vec::new();
        for registered in registered.iter().filter(|state| state.operator == operator) {
            let Some(state) = State::of(registered) else { continue };
            let index = registered.id as usize;
            if states.len() <= index {
                states.resize(index + 1, None);
            }
            states[index] = Some(state);
        }
        Self(states)
    }

    /// Returns a state.
    pub fn get(&self, id: u32) -> Result<&State, Refused> {
        self.0.get(id as usize).and_then(Option::as_ref).ok_or_else(|| {
            // The coordinator tells servers of a state before it tells workers; an id that is not known
            // here is therefore wrong, not early.
            Refused::new(Reason::StateUnknown, format!("state id {id} is not registered for this operator"))
        })
    }

    /// Returns all states, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &State> {
        self.0.iter().flatten()
    }
}
