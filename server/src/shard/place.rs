//! Where an operation goes: its state and its key group, checked against the shard and the job's limits.
//! Pure.

use forebay_proto::{
    key_group::KeyGroup,
    packed::Op,
    reason::Refused,
    v1::{ErrorReason as Reason, StateKind},
};

use super::{
    core::Identity,
    key,
    ops::Placed,
    states::{State, States},
};

/// Checks an operation's parts and finds its state and key group.
pub fn place<'a>(identity: &Identity, states: &'a States, op: Op<'a>) -> Result<Placed<'a>, Refused> {
    let state = states.get(op.state_id)?;
    check_part("key", op.key)?;
    if state.kind() == StateKind::SortedSet {
        if !op.key.is_empty() || !op.namespace.is_empty() {
            let message =
                format!("state {:?} is a sorted set: it is addressed by key group, without a key", state.name());
            return Err(Refused::new(Reason::FieldInvalid, message));
        }
    } else if op.key.is_empty() {
        return Err(Refused::new(Reason::KeyEmpty, "the key is empty: 1 to 65535 bytes are allowed"));
    }
    check_part("namespace", op.namespace)?;
    check_part("map key", op.map_key)?;
    if op.value.len() > identity.max_value_bytes {
        let message = format!(
            "the value has {} bytes: at most {} are allowed (limits.max_value_bytes)",
            op.value.len(),
            identity.max_value_bytes
        );
        return Err(Refused::new(Reason::ValueTooLarge, message));
    }
    let group = key_group(identity, state, &op)?;
    Ok(Placed { op, state, group })
}

fn key_group(identity: &Identity, state: &State, op: &Op<'_>) -> Result<KeyGroup, Refused> {
    let max = identity.max_parallelism.get();
    if let Some(named) = op.key_group
        && u32::from(named) >= max
    {
        let message = format!("key group {named} is out of range: this job has 0 to {}", max - 1);
        return Err(Refused::new(Reason::KeyGroupOutOfRange, message));
    }
    let group = match op.key_group {
        Some(named) if identity.explicit || state.kind() == StateKind::SortedSet => {
            KeyGroup::new(named.into(), identity.max_parallelism)
                .map_err(|error| Refused::new(Reason::KeyGroupOutOfRange, error.to_string()))?
        }
        None if state.kind() == StateKind::SortedSet => {
            let message = format!("state {:?} is a sorted set: name the key group", state.name());
            return Err(Refused::new(Reason::FieldMissing, message));
        }
        None if identity.explicit => {
            let message = "the job's partitioner is explicit: name the key group of every operation";
            return Err(Refused::new(Reason::FieldMissing, message));
        }
        named => {
            let hashed = KeyGroup::of(op.key, identity.max_parallelism);
            if let Some(named) = named
                && named != hashed.get()
            {
                let message = format!("the key hashes to key group {hashed}, the request says {named}");
                return Err(Refused::new(Reason::KeyGroupMismatch, message));
            }
            hashed
        }
    };
    if identity.range.contains(group) {
        return Ok(group);
    }
    let message =
        format!("key group {group} is outside shard {}: a batch is for one shard, route by key group", identity.range);
    Err(Refused::new(Reason::BatchSpansShards, message))
}

fn check_part(what: &str, part: &[u8]) -> Result<(), Refused> {
    if part.len() <= key::PART_BYTES_MAX {
        return Ok(());
    }
    let message = format!("the {what} has {} bytes: at most {} are allowed", part.len(), key::PART_BYTES_MAX);
    Err(Refused::new(Reason::KeyTooLong, message))
}
