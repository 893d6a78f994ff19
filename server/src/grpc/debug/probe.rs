//! Which key groups hold a key, found by looking into each.

use std::{collections::BTreeSet, ops::ControlFlow};

use forebay_proto::{reason::Refused, v1};
use v1::StateKind;

use super::whereabouts::{Whereabouts, entry};
use crate::{
    grpc::state::scan::Part,
    shard::{
        core::Frozen,
        key::{self, RowKey},
        ops::Rows,
    },
};

/// What probing found.
pub(super) struct Probed {
    /// Key groups that hold the key.
    pub(super) holding: BTreeSet<u32>,
    /// Key groups that could not be looked into.
    pub(super) unanswered: Vec<u32>,
}

/// Looks for a key in the states, in every key group.
pub(super) async fn probe(known: &Whereabouts, states: &[&v1::RegisteredState], key: &[u8]) -> Result<Probed, Refused> {
    let mut probed = Probed { holding: BTreeSet::new(), unanswered: Vec::new() };
    let mut covered = BTreeSet::new();
    let keyed = |state: &&&v1::RegisteredState| {
        state.descriptor.as_ref().is_some_and(|descriptor| descriptor.kind() != StateKind::SortedSet)
    };
    let states: Vec<u32> = states.iter().filter(keyed).map(|state| state.id).collect();
    for shard in &known.known {
        let v1::ShardEntry { start, end, .. } = entry(shard);
        let Ok(held) = known.held(shard) else { continue };
        let mut answered = true;
        for state in &states {
            let Ok(part) = Part::of(held.clone(), *state, false).await else {
                answered = false;
                break;
            };
            let key = key.to_vec();
            probed.holding.extend(part.read(move |frozen| groups_with(frozen, start..end, &key)).await?);
        }
        if answered {
            covered.extend(start..end);
        }
    }
    probed.unanswered = (0..known.spec.max_parallelism).filter(|group| !covered.contains(group)).collect();
    Ok(probed)
}

fn groups_with(frozen: &Frozen, groups: std::ops::Range<u32>, key: &[u8]) -> Result<Vec<u32>, Refused> {
    let rows = Rows { read: frozen.view.as_ref(), clocks: frozen.clocks };
    let mut holding = Vec::new();
    for group in groups.filter_map(|group| u16::try_from(group).ok()) {
        let prefix = RowKey { group, key, namespace: &[], suffix: &[] }.key_prefix();
        rows.scan(&frozen.state, &prefix, &key::successor(&prefix), &mut |_, _, _| {
            holding.push(u32::from(group));
            Ok(ControlFlow::Break(()))
        })?;
    }
    Ok(holding)
}
