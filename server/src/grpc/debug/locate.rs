//! `LocateKey`: the key group of a key, and where it is.

use forebay_proto::{
    key_group::{KeyGroup, MaxParallelism},
    reason::Refused,
    v1,
};
use v1::{ErrorReason as Reason, StateKind};

use super::{
    address, probe,
    whereabouts::{Whereabouts, entry},
};
use crate::grpc::state::place::missing;

/// Locates a key: by its hash, by the key group named, or where the job's partitioner is somebody else's, by
/// looking into every key group.
pub(super) async fn locate(
    known: &Whereabouts,
    request: v1::LocateKeyRequest,
) -> Result<v1::LocateKeyResponse, Refused> {
    let state = match request.state.as_str() {
        "" => None,
        name => Some(known.state(&request.operator, name)?),
    };
    let descriptor = state.and_then(|state| state.descriptor.as_ref());
    let max = MaxParallelism::new(known.spec.max_parallelism).unwrap_or_default();
    let named = request.key_group.map(|group| KeyGroup::new(group, max)).transpose();
    let named = named.map_err(|error| Refused::new(Reason::KeyGroupOutOfRange, error.to_string()))?;
    if descriptor.is_some_and(|descriptor| descriptor.kind() == StateKind::SortedSet) {
        let message = "a sorted set is addressed by key group: name it";
        let group = named.ok_or_else(|| missing("key_group", message))?;
        return found(known, &[group]);
    }
    let codec = descriptor.map_or("utf8", |descriptor| descriptor.key_codec.as_str());
    let key = address::read(codec, request.key.as_ref(), "key")?;
    let key = key.ok_or_else(|| missing("key", "the key is missing"))?;
    if key.is_empty() {
        return Err(Refused::new(Reason::KeyEmpty, "the key is empty: 1 to 65535 bytes are allowed").field("key"));
    }
    let explicit = known.spec.partitioner() == v1::Partitioner::Explicit;
    match named {
        None if explicit => {
            let states: Vec<_> = state.map_or_else(|| known.states.iter().collect(), |state| vec![state]);
            let probed = probe::probe(known, &states, &key).await?;
            let groups = probed.holding.iter().map(|group| KeyGroup::new(*group, max));
            let groups = groups.collect::<Result<Vec<_>, _>>();
            let groups = groups.map_err(|error| Refused::new(Reason::Internal, error.to_string()))?;
            Ok(v1::LocateKeyResponse { probed: true, unanswered: probed.unanswered, ..found(known, &groups)? })
        }
        None => found(known, &[KeyGroup::of(&key, max)]),
        Some(group) if explicit || group == KeyGroup::of(&key, max) => found(known, &[group]),
        Some(group) => {
            let message = format!("the key hashes to key group {}, the request says {group}", KeyGroup::of(&key, max));
            Err(Refused::new(Reason::KeyGroupMismatch, message).field("key_group"))
        }
    }
}

fn found(known: &Whereabouts, groups: &[KeyGroup]) -> Result<v1::LocateKeyResponse, Refused> {
    let locations = groups.iter().map(|group| location(known, u32::from(group.get())));
    Ok(v1::LocateKeyResponse { locations: locations.collect::<Result<_, _>>()?, ..Default::default() })
}

fn location(known: &Whereabouts, key_group: u32) -> Result<v1::KeyLocation, Refused> {
    let holds = |shard: &&v1::ShardInfo| (entry(shard).start..entry(shard).end).contains(&key_group);
    let shard = known.known.iter().find(holds).ok_or_else(|| {
        let message = format!("the shard of key group {key_group} is not on this server: ask the coordinator");
        Refused::new(Reason::ShardMoved, message)
    })?;
    let v1::ShardEntry { start, end, server, epoch, incarnation, .. } = entry(shard);
    let (address, status) = (shard.address.clone(), shard.status);
    Ok(v1::KeyLocation { key_group, start, end, server, address, status, epoch, incarnation })
}
