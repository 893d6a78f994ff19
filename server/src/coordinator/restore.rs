//! Takes a job to a checkpoint that somebody names: one of its own, or one from elsewhere, with the same
//! shards or others. Pure.
//!
//! The checkpoint becomes the newest completed one of the job, under a new id: what a later failure goes
//! back to. Earlier entries stay until they are subsumed.

use std::collections::BTreeMap;

use forebay_proto::{
    key_group::{MaxParallelism, assign},
    reason::Refused,
    v1,
};
use v1::ErrorReason as Reason;

use super::{descriptors, external, spec};

/// Where a job is taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// The id that the checkpoint gets in the job, unless it is the job's newest already.
    pub id: u64,
    /// The checkpoint, with its place; `None` takes the job to its beginning.
    pub entry: Option<v1::CompletedCheckpoint>,
    /// Its manifest, if it is not one of the job's own.
    pub brought: Option<Box<v1::Manifest>>,
    /// Number of shards per operator; operators that are not named keep their ranges.
    pub shards: BTreeMap<String, u32>,
    /// Why, for people.
    pub cause: String,
}

/// Plans the head of a job that is taken to a checkpoint, all of its shards, under a new generation.
pub fn apply(next: &mut v1::JobHead, target: &Target) -> Result<(), Refused> {
    check_shards(next.spec.as_ref(), &target.shards)?;
    if let Some(manifest) = &target.brought {
        bring(next, manifest)?;
    }
    let from = match &target.entry {
        None => 0,
        Some(entry) if target.brought.is_none() && next.completed.last().is_some_and(|last| last.id == entry.id) => {
            entry.id
        }
        Some(entry) => {
            next.next_checkpoint_id = next.next_checkpoint_id.max(target.id + 1);
            next.completed.push(v1::CompletedCheckpoint { id: target.id, ..entry.clone() });
            target.id
        }
    };
    next.generation += 1;
    next.restored_checkpoint = from;
    for (operator, count) in &target.shards {
        reshape(next, operator, *count);
    }
    for entry in next.shards.iter_mut().filter(|entry| external::is_own(entry)) {
        entry.incarnation += 1;
        entry.restored_from = from;
        entry.established = false;
        entry.handover = None;
        entry.writer = None;
    }
    Ok(())
}

/// The head of a new job that starts from a checkpoint.
pub fn born(
    spec: v1::JobSpec,
    uid: String,
    coordinator_epoch: u64,
    entry: &v1::CompletedCheckpoint,
    manifest: &v1::Manifest,
    created_ms: i64,
) -> v1::JobHead {
    let mut shards = spec::shards(&spec);
    shards.iter_mut().for_each(|entry| entry.restored_from = FIRST);
    v1::JobHead {
        version: 1,
        coordinator_epoch,
        job_uid: uid,
        generation: 1,
        shards,
        states: manifest.states.clone(),
        next_state_id: next_state_id(&manifest.states),
        next_checkpoint_id: FIRST + 1,
        completed: vec![v1::CompletedCheckpoint { id: FIRST, ..entry.clone() }],
        restored_checkpoint: FIRST,
        created_ms,
        spec: Some(spec),
        ..Default::default()
    }
}

/// The id of the checkpoint that a new job starts from.
const FIRST: u64 = 1;

/// Checks that numbers of shards can be had.
pub fn check_shards(spec: Option<&v1::JobSpec>, shards: &BTreeMap<String, u32>) -> Result<(), Refused> {
    let max = spec.map_or(0, |spec| spec.max_parallelism);
    for (operator, count) in shards {
        if !spec.iter().flat_map(|spec| &spec.operators).any(|known| known.name == *operator) {
            return Err(Refused::new(Reason::OperatorUnknown, format!("the job has no operator {operator:?}")));
        }
        if spec.is_some_and(|spec| external::is_external(spec, operator)) {
            let message = format!("the shards of operator {operator:?} are opened by another engine: it cuts them");
            return Err(Refused::new(Reason::SettingsConflict, message).field("shards"));
        }
        if *count == 0 || *count > max {
            let message = format!("{count} shards of operator {operator:?}: 1 to {max} (max parallelism) are allowed");
            return Err(Refused::new(Reason::FieldInvalid, message).field("shards"));
        }
    }
    Ok(())
}

/// Checks that what a checkpoint holds is what a job is made of, key group by key group.
pub fn check_fits(spec: &v1::JobSpec, manifest: &v1::Manifest) -> Result<(), Refused> {
    let theirs = manifest.spec.clone().unwrap_or_default();
    let conflict = |message: String| Err(Refused::new(Reason::SettingsConflict, message));
    if spec.max_parallelism != theirs.max_parallelism || spec.partitioner() != theirs.partitioner() {
        return conflict(format!(
            "the checkpoint has {} key groups by {:?}, the job has {} by {:?}: the number is fixed for a job's life",
            theirs.max_parallelism,
            theirs.partitioner(),
            spec.max_parallelism,
            spec.partitioner()
        ));
    }
    let names = |spec: &v1::JobSpec| -> Vec<String> {
        let mut names: Vec<_> = spec.operators.iter().map(|operator| operator.name.clone()).collect();
        names.sort();
        names
    };
    if names(spec) != names(&theirs) {
        return conflict(format!(
            "the checkpoint is of operators {:?}, the job has {:?}: they must be the same",
            names(&theirs),
            names(spec)
        ));
    }
    Ok(())
}

/// Takes over the states of a checkpoint: its files hold rows by their numbers. The job's own are registered
/// again on top, so that a compatible change is taken and a conflict is told with both descriptors.
fn bring(next: &mut v1::JobHead, manifest: &v1::Manifest) -> Result<(), Refused> {
    let spec = next.spec.clone().unwrap_or_default();
    check_fits(&spec, manifest)?;
    let mut brought = manifest.states.clone();
    brought.retain(|state| !external::is_external(&spec, &state.operator));
    let mine = std::mem::replace(&mut next.states, brought);
    // The shards of another engine stay as they are, and so do their states.
    let (kept, mine): (Vec<_>, Vec<_>) =
        mine.into_iter().partition(|state| external::is_external(&spec, &state.operator));
    if let Some(taken) = kept.iter().find(|state| next.states.iter().any(|brought| brought.id == state.id)) {
        let name = taken.descriptor.clone().unwrap_or_default().name;
        let message = format!(
            "the checkpoint numbers a state of its own {}, which is {name:?} of the external operator {:?} in this \
             job: restore it into a job without",
            taken.id, taken.operator
        );
        return Err(Refused::new(Reason::SettingsConflict, message));
    }
    next.states.extend(kept);
    next.next_state_id = next.next_state_id.max(next_state_id(&manifest.states));
    for state in mine {
        let descriptors: Vec<_> = state.descriptor.into_iter().collect();
        descriptors::register(next, &state.operator, &descriptors)?;
    }
    Ok(())
}

fn next_state_id(states: &[v1::RegisteredState]) -> u32 {
    states.iter().map(|state| state.id).max().unwrap_or_default() + 1
}

/// Cuts all of an operator's key groups anew.
fn reshape(next: &mut v1::JobHead, operator: &str, count: u32) {
    let max = next.spec.as_ref().map_or(0, |spec| spec.max_parallelism);
    let max = MaxParallelism::new(max).unwrap_or_default();
    let ranges: Vec<_> = assign(max, count).into_iter().map(|range| (range.start(), range.end())).collect();
    recut(next, operator, &ranges);
}

/// Puts these ranges in the place of those that they cover. Ranges that stay keep their entries; a new one has no server
/// yet, and orders itself behind every shard that ever held one of its key groups.
pub(super) fn recut(next: &mut v1::JobHead, operator: &str, ranges: &[(u32, u32)]) {
    let covered = |entry: &v1::ShardEntry| {
        entry.operator == operator && ranges.iter().any(|(start, end)| entry.start < *end && *start < entry.end)
    };
    let (old, others): (Vec<_>, Vec<_>) = std::mem::take(&mut next.shards).into_iter().partition(covered);
    let made = ranges.iter().map(|(start, end)| {
        let same = old.iter().find(|entry| (entry.start, entry.end) == (*start, *end));
        same.cloned().unwrap_or_else(|| {
            let before = || old.iter().filter(|entry| entry.start < *end && *start < entry.end);
            let highest = |of: fn(&v1::ShardEntry) -> u64| before().map(of).max().unwrap_or_default();
            v1::ShardEntry {
                operator: operator.to_owned(),
                start: *start,
                end: *end,
                epoch: highest(|entry| entry.epoch),
                incarnation: highest(|entry| entry.incarnation),
                writer_epoch: highest(|entry| entry.writer_epoch),
                ..Default::default()
            }
        })
    });
    let made: Vec<_> = made.collect();
    next.shards = others.into_iter().chain(made).collect();
    next.shards.sort_by(|one, other| (&one.operator, one.start).cmp(&(&other.operator, other.start)));
}

#[cfg(test)]
mod tests;
