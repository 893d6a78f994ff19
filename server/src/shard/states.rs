//! The states that a shard knows: numeric id → kind, table and merge function.

use forebay_proto::{merge::MergeFunction, reason::Refused, v1};
use v1::{ErrorReason as Reason, StateKind};

use crate::storage::{Table, TableId};

/// A registered state as a shard uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    table: Table,
    kind: StateKind,
    name: String,
}

impl State {
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

    /// Its merge function, for reducing states.
    pub fn merge(&self) -> Option<MergeFunction> {
        self.table.merge
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
        for state in registered.iter().filter(|state| state.operator == operator) {
            let Some(descriptor) = &state.descriptor else { continue };
            let index = state.id as usize;
            if states.len() <= index {
                states.resize(index + 1, None);
            }
            states[index] = Some(State {
                table: Table { id: TableId(state.id), merge: MergeFunction::parse(&descriptor.function) },
                kind: descriptor.kind(),
                name: descriptor.name.clone(),
            });
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
}
