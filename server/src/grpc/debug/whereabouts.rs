//! Where the shards of an operator are, as far as this process knows: a coordinator knows it of all, a server
//! of its own.

use std::sync::Arc;

use forebay_proto::{reason::Refused, v1};
use v1::{ErrorReason as Reason, ShardStatus};

use crate::{
    grpc::Served,
    shard::{Slot, Status, View, thread::Shard},
};

/// An operator's states and shards.
pub(super) struct Whereabouts {
    /// The job's settings.
    pub(super) spec: v1::JobSpec,
    /// The operator's states.
    pub(super) states: Vec<v1::RegisteredState>,
    /// The operator's shards that are known of, by their first key group.
    pub(super) known: Vec<v1::ShardInfo>,
    /// The shards that this process holds.
    held: Option<Arc<View>>,
}

impl Whereabouts {
    pub(super) fn of(served: &Served, job: &str, operator: &str) -> Result<Self, Refused> {
        let seen = served.coordinator.as_ref().map(|office| office.leads()?.seen(job)).transpose()?;
        let held = match (&served.shards, &seen) {
            (Some(shards), None) => Some(shards.job(job)?),
            // A job that is new to the coordinator's process need not have shards here.
            (Some(shards), Some(_)) => shards.job(job).ok(),
            (None, _) => None,
        };
        let (spec, states, known) = match (&seen, &held) {
            (Some(seen), _) => {
                (seen.head.spec.clone().unwrap_or_default(), seen.head.states.clone(), seen.shards.clone())
            }
            (None, Some(view)) => {
                let known = view.slots.iter().map(|slot| info(slot, &served.address, job)).collect();
                (view.spec.clone(), view.states.clone(), known)
            }
            (None, None) => (v1::JobSpec::default(), Vec::new(), Vec::new()),
        };
        if !spec.operators.iter().any(|known| known.name == operator) {
            let message = format!("job {job:?} has no operator {operator:?}");
            return Err(Refused::new(Reason::OperatorUnknown, message));
        }
        let states = states.into_iter().filter(|state| state.operator == operator).collect();
        let of_operator = |shard: &v1::ShardInfo| shard.entry.as_ref().is_some_and(|entry| entry.operator == operator);
        let mut known: Vec<v1::ShardInfo> = known.into_iter().filter(of_operator).collect();
        known.sort_by_key(|shard| entry(shard).start);
        Ok(Self { spec, states, known, held })
    }

    /// A state of the operator.
    pub(super) fn state(&self, operator: &str, name: &str) -> Result<&v1::RegisteredState, Refused> {
        let named = |state: &&v1::RegisteredState| state.descriptor.as_ref().is_some_and(|known| known.name == name);
        self.states.iter().find(named).ok_or_else(|| {
            let message = format!("operator {operator:?} has no state {name:?}: register it");
            Refused::new(Reason::StateUnknown, message)
        })
    }

    /// The shard of a range, if this process holds it; an error says why it cannot be read here.
    pub(super) fn held(&self, shard: &v1::ShardInfo) -> Result<Arc<Shard>, Refused> {
        let wanted = entry(shard);
        let slots = self.held.iter().flat_map(|view| &view.slots);
        let mut here = slots.filter(|slot| {
            (&slot.entry.operator, slot.entry.start, slot.entry.end) == (&wanted.operator, wanted.start, wanted.end)
        });
        match here.next().map(|slot| &slot.status) {
            Some(Status::Serving(shard)) => Ok(shard.clone()),
            Some(Status::Restoring) => {
                Err(Refused::new(Reason::ShardRestoring, "the shard is being restored: retry in a moment"))
            }
            Some(Status::Unavailable(refused)) => Err(refused.clone()),
            None => {
                let at = if shard.address.is_empty() { "is away" } else { shard.address.as_str() };
                let message = format!("the shard is on another server: ask {:?} ({at})", wanted.server);
                Err(Refused::new(Reason::ShardMoved, message))
            }
        }
    }
}

/// The shard itself; every one has it.
pub(super) fn entry(shard: &v1::ShardInfo) -> v1::ShardEntry {
    shard.entry.clone().unwrap_or_default()
}

fn info(slot: &Slot, address: &str, job: &str) -> v1::ShardInfo {
    let (status, bytes) = match &slot.status {
        Status::Serving(shard) => (ShardStatus::Serving, shard.bytes()),
        Status::Restoring => (ShardStatus::Restoring, 0),
        Status::Unavailable(_) => (ShardStatus::Lost, 0),
    };
    v1::ShardInfo {
        entry: Some(slot.entry.clone()),
        address: address.to_owned(),
        status: status.into(),
        bytes,
        job: job.to_owned(),
    }
}
