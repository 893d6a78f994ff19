//! What a head wants of servers and workers, and whether they have it. Pure.

use std::collections::BTreeMap;

use forebay_proto::v1;

use super::{machine::Server, members::Member, retention};

/// The desired state of a server.
pub fn assignment(head: &v1::JobHead, server: &str) -> v1::JobAssignment {
    let shards: Vec<_> = head.shards.iter().filter(|entry| entry.server == server).cloned().collect();
    v1::JobAssignment {
        version: head.version,
        job_uid: head.job_uid.clone(),
        generation: head.generation,
        coordinator_epoch: head.coordinator_epoch,
        spec: head.spec.clone(),
        states: head.states.clone(),
        retained: retention::kept(head),
        checkpoints: head.completed.clone(),
        deleted: head.deleted,
        restored_checkpoint: head.restored_checkpoint,
        shards,
    }
}

/// What a worker holds; `None` while that is nothing, and until every one of its shards serves it.
pub fn worker_assignment(
    head: &v1::JobHead,
    member: &Member,
    servers: &BTreeMap<String, Server>,
    granted_version: u64,
) -> Option<v1::Assignment> {
    let mut shards = Vec::new();
    for entry in granted(head, &member.operator, &member.join_id) {
        let server = servers.get(&entry.server)?;
        if !entry.established || server.applied.version < granted_version || !serves(server, entry) {
            return None;
        }
        let route = route(entry, servers);
        let writer_epoch = entry.writer.as_ref().map_or(0, |writer| writer.epoch);
        shards.push(v1::LeasedShard { route: Some(route), writer_epoch, positions: Default::default() });
    }
    // A worker that holds nothing waits: for its grants, or for a place in a group that has too many.
    if shards.is_empty() {
        return None;
    }
    Some(v1::Assignment {
        generation: head.generation,
        coordinator_epoch: head.coordinator_epoch,
        shards,
        states: head.states.iter().filter(|state| state.operator == member.operator).cloned().collect(),
        restored_checkpoint: head.restored_checkpoint,
        spec: head.spec.clone(),
        ..Default::default()
    })
}

/// The shards that a joining is granted.
pub fn granted<'a>(
    head: &'a v1::JobHead,
    operator: &'a str,
    join_id: &'a str,
) -> impl Iterator<Item = &'a v1::ShardEntry> {
    head.shards.iter().filter(move |entry| {
        entry.operator == operator && entry.writer.as_ref().is_some_and(|writer| writer.join_id == join_id)
    })
}

/// The joinings that hold shards of an operator, in the order of their indexes.
pub fn holders<'a>(head: &'a v1::JobHead, operator: &str) -> Vec<&'a str> {
    let mut holders: Vec<&str> = Vec::new();
    for writer in
        head.shards.iter().filter(|entry| entry.operator == operator).filter_map(|entry| entry.writer.as_ref())
    {
        if !holders.contains(&writer.join_id.as_str()) {
            holders.push(&writer.join_id);
        }
    }
    holders
}

/// Where a shard is.
pub fn route(entry: &v1::ShardEntry, servers: &BTreeMap<String, Server>) -> v1::Route {
    v1::Route {
        operator: entry.operator.clone(),
        start: entry.start,
        end: entry.end,
        epoch: entry.epoch,
        address: servers.get(&entry.server).map(|server| server.address.clone()).unwrap_or_default(),
        incarnation: entry.incarnation,
    }
}

/// True if a server has said that the shard, as it is wanted now, stands there.
pub fn serves(server: &Server, entry: &v1::ShardEntry) -> bool {
    applied(server, entry).is_some_and(|shard| shard.status() == v1::ShardStatus::Serving)
}

/// What a server last said of a shard, as it is wanted now.
pub fn applied<'a>(server: &'a Server, entry: &v1::ShardEntry) -> Option<&'a v1::AppliedShard> {
    server.applied.shards.iter().find(|shard| {
        (&shard.operator, shard.start, shard.end, shard.epoch, shard.incarnation)
            == (&entry.operator, entry.start, entry.end, entry.epoch, entry.incarnation)
    })
}
