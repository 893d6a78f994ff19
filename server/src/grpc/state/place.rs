//! An address on its way to a shard, and what is said back of it.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use forebay_proto::{
    codec,
    key_group::{KeyGroup, MaxParallelism},
    merge::{MergeFunction, ResultCodec},
    packed::{AnswerRef, Answers, Op, OpsBuilder},
    reason::Refused,
    v1,
};
use v1::{ErrorReason as Reason, OpKind, StateKind};

use super::{items::elements, scan::Part};
use crate::shard::{
    Shards,
    core::{Batch, Done, Order},
    gate::Caller,
    key,
    open::Budget,
    ops, requests,
    thread::Shard,
};

/// An address, resolved: the state, the shard and the encoded key.
pub(in crate::grpc) struct Place {
    state: v1::RegisteredState,
    pub(in crate::grpc) descriptor: v1::StateDescriptor,
    pub(in crate::grpc) generation: u64,
    shard: Arc<Shard>,
    budget: Arc<Budget>,
    key_group: KeyGroup,
    /// The key group as the request names it.
    group: Option<u16>,
    key: Vec<u8>,
    namespace: Vec<u8>,
    caller: Caller,
    leased: bool,
}

impl Place {
    pub(in crate::grpc) fn find(
        shards: &Shards,
        address: Option<v1::Address>,
        generation: u64,
    ) -> Result<Self, Refused> {
        let address = address.ok_or_else(|| missing("address", "the address is missing"))?;
        let view = shards.job(&address.job)?;
        let caller = Caller { generation, shard_epoch: 0, writer_epoch: 0, stream: 0 };
        let state = view.state(&address.operator, &address.state)?.clone();
        let descriptor = state.descriptor.clone().unwrap_or_default();
        let (key, key_group) = match descriptor.kind() {
            StateKind::SortedSet => (Vec::new(), group_of_set(&view.spec, &address)?),
            _ => {
                let key = address.key.ok_or_else(|| missing("address.key", "the key is missing"))?;
                let key = encode(&descriptor.key_codec, key, "address.key")?;
                if key.is_empty() {
                    let message = "the key is empty: 1 to 65535 bytes are allowed";
                    return Err(Refused::new(Reason::KeyEmpty, message).field("address.key"));
                }
                let group = key_group(&view.spec, &key, address.key_group)?;
                (key, group)
            }
        };
        let namespace = match address.namespace {
            Some(namespace) => encode(&descriptor.namespace_codec, namespace, "address.namespace")?,
            None => Vec::new(),
        };
        let shard = view.shard_of(&address.operator, key_group, &caller)?;
        let group = address.key_group.map(|_| key_group.get());
        let operator = view.spec.operators.iter().find(|known| known.name == address.operator);
        let leased = operator.is_none_or(|operator| operator.access() != v1::Access::Shared);
        let (generation, budget) = (view.generation, shards.environment().backends.budget().clone());
        Ok(Self { state, descriptor, generation, shard, budget, key_group, group, key, namespace, caller, leased })
    }

    pub(super) fn op<'a>(&'a self, kind: OpKind, map_key: &'a [u8], value: &'a [u8]) -> Op<'a> {
        let op = Op::new(kind, self.state.id, &self.key).with_namespace(&self.namespace).with_map_key(map_key);
        let op = op.with_value(value);
        match self.group {
            Some(group) => op.with_key_group(group),
            None => op,
        }
    }

    /// Numeric id of the state.
    pub(in crate::grpc) fn state_id(&self) -> u32 {
        self.state.id
    }

    /// The key group of the key.
    pub(in crate::grpc) fn key_group(&self) -> KeyGroup {
        self.key_group
    }

    /// Freezes the state's rows in the shard.
    pub(in crate::grpc) async fn part(&self, committed: bool) -> Result<Part, Refused> {
        Part::of(self.shard.clone(), self.state.id, committed).await
    }

    /// The first row key of what is stored here, or of one entry here, and the first behind it.
    pub(in crate::grpc) fn bounds(&self, map_key: Option<&[u8]>) -> (Vec<u8>, Vec<u8>) {
        let mut prefix = Vec::new();
        match self.descriptor.kind() {
            StateKind::SortedSet => key::group_prefix(&mut prefix, self.key_group),
            _ => key::prefix(&mut prefix, self.key_group, &self.key, &self.namespace),
        }
        match map_key {
            Some(map_key) if self.descriptor.kind() == StateKind::Multimap => ops::multimap_entry(&mut prefix, map_key),
            Some(map_key) => {
                prefix.extend_from_slice(map_key);
                let behind = [&prefix[..], &[0]].concat();
                return (prefix, behind);
            }
            None => {}
        }
        let end = key::successor(&prefix);
        (prefix, end)
    }

    pub(super) async fn read(&self, op: &Op<'_>, view: v1::ReadView) -> Result<(Answers, v1::Progress), Refused> {
        let committed = view == v1::ReadView::Committed;
        let ops = std::slice::from_ref(op);
        let done = self.run(ops, Order::PlainRead, v1::Durability::Unspecified, committed).await?;
        let answers = decode(done.answers)?;
        let on_read = self.descriptor.ttl.is_some_and(|ttl| ttl.update() == v1::TtlUpdate::OnReadAndWrite);
        if on_read && !committed && !self.leased {
            // Of a leased state only the writer's own reads count.
            let touch = self.op(OpKind::Touch, op.map_key, &[]);
            self.run(&[touch], Order::PlainWrite(None), v1::Durability::Unspecified, false).await?;
        }
        Ok((answers, done.progress))
    }

    pub(super) async fn write(&self, ops: &[Op<'_>], request_id: String, durability: i32) -> Result<Done, Refused> {
        if request_id.len() > requests::ID_BYTES_MAX {
            let message = format!("the request id has {} bytes: at most {}", request_id.len(), requests::ID_BYTES_MAX);
            return Err(Refused::new(Reason::FieldInvalid, message).field("request_id"));
        }
        let durability = v1::Durability::try_from(durability).map_err(|_| {
            let message = format!("durability {durability} is unknown: none, wal, wal_sync, checkpoint");
            Refused::new(Reason::FieldInvalid, message).field("durability")
        })?;
        let id = (!request_id.is_empty()).then_some(request_id);
        self.run(ops, Order::PlainWrite(id), durability, false).await
    }

    async fn run(
        &self,
        ops: &[Op<'_>],
        order: Order,
        durability: v1::Durability,
        committed: bool,
    ) -> Result<Done, Refused> {
        let mut packed = OpsBuilder::new();
        ops.iter().for_each(|op| packed.push(op));
        let (caller, ops) = (self.caller, packed.finish());
        let (barrier, watermark_ms, positions) = (None, None, HashMap::new());
        let batch = Batch { caller, order, ops, barrier, durability, now_ms: 0, watermark_ms, positions, committed };
        let _room = self.budget.admit(batch.ops.arena.len() as u64).await;
        self.shard.ask(batch).await
    }

    /// What an answer says, item by item; entries of a map come as map key, value, map key, value.
    pub(super) fn items(&self, kind: OpKind, answer: &AnswerRef<'_>) -> Vec<v1::Item> {
        let descriptor = &self.descriptor;
        let (expires_at_ms, codecs) = (answer.expires_at_ms, [&descriptor.map_key_codec, &descriptor.value_codec]);
        let item = |codec: &str, raw: Bytes| v1::Item {
            readable: codec::render(codec, &raw),
            raw,
            version: if kind == OpKind::ValueGet { answer.version.unwrap_or(0) } else { 0 },
            expires_at_ms,
        };
        let result = MergeFunction::parse(&descriptor.function).filter(|_| kind == OpKind::AggregatingGet);
        if let Some(codec) = result.as_ref().map(|function| function.result_codec(&descriptor.value_codec)) {
            let (ResultCodec::One(name) | ResultCodec::List(name)) = codec;
            return answer.items().flat_map(|raw| elements(codec, raw)).map(|raw| item(name, raw)).collect();
        }
        let codec = |index: usize| match kind {
            OpKind::MapEntries => codecs[index % 2],
            OpKind::MultimapKeys => codecs[0],
            _ => codecs[1],
        };
        answer.items().enumerate().map(|(index, raw)| item(codec(index), raw)).collect()
    }

    /// The operation that a verb means for the state's kind.
    pub(super) fn kind(&self, allowed: &[(StateKind, OpKind)], verb: &str) -> Result<OpKind, Refused> {
        let kind = self.descriptor.kind();
        allowed.iter().find(|(known, _)| *known == kind).map(|(_, op)| *op).ok_or_else(|| {
            let kind = kind.as_str_name().trim_start_matches("STATE_KIND_").to_ascii_lowercase();
            let message = format!("state {:?} is of kind {kind}: it cannot be {verb}", self.descriptor.name);
            Refused::new(Reason::WrongKind, message)
        })
    }

    pub(super) fn value(&self, value: Option<v1::Value>, field: &str) -> Result<Vec<u8>, Refused> {
        let value = value.ok_or_else(|| missing(field, &format!("{field} is missing")))?;
        encode(&self.descriptor.value_codec, value, field)
    }

    pub(super) fn values(&self, values: Vec<v1::Value>, field: &str) -> Result<Vec<Vec<u8>>, Refused> {
        values.into_iter().map(|value| encode(&self.descriptor.value_codec, value, field)).collect()
    }

    /// A map key; the elements of a sorted set are values.
    pub(super) fn map_key(&self, map_key: Option<v1::Value>, field: &str) -> Result<Vec<u8>, Refused> {
        let map_key = map_key.ok_or_else(|| missing(field, &format!("{field} is missing")))?;
        match self.descriptor.kind() {
            StateKind::SortedSet => encode(&self.descriptor.value_codec, map_key, field),
            _ => encode(&self.descriptor.map_key_codec, map_key, field),
        }
    }

    /// A map key, or none.
    pub(super) fn bound(&self, map_key: Option<v1::Value>, field: &str) -> Result<Vec<u8>, Refused> {
        map_key.map_or(Ok(Vec::new()), |map_key| self.map_key(Some(map_key), field))
    }
}

pub(super) fn decode(answers: v1::PackedAnswers) -> Result<Answers, Refused> {
    Answers::decode(answers).map_err(|error| Refused::new(Reason::Internal, error.to_string()))
}

pub(super) fn encode(codec: &str, value: v1::Value, field: &str) -> Result<Vec<u8>, Refused> {
    codec::parse_as(codec, value)
        .map_err(|error| Refused::new(Reason::FieldInvalid, format!("{field}: {error}")).field(field))
}

pub(in crate::grpc) fn missing(field: &str, message: &str) -> Refused {
    Refused::new(Reason::FieldMissing, message).field(field)
}

fn group_of_set(spec: &v1::JobSpec, address: &v1::Address) -> Result<KeyGroup, Refused> {
    if address.key.is_some() || address.namespace.is_some() {
        let message = "a sorted set is addressed by key group: leave out key and namespace";
        return Err(Refused::new(Reason::FieldInvalid, message).field("address.key"));
    }
    let max = MaxParallelism::new(spec.max_parallelism).unwrap_or_default();
    let named = address
        .key_group
        .ok_or_else(|| missing("address.key_group", "a sorted set is addressed by key group: name it"))?;
    KeyGroup::new(named, max).map_err(|error| Refused::new(Reason::KeyGroupOutOfRange, error.to_string()))
}

fn key_group(spec: &v1::JobSpec, key: &[u8], named: Option<u32>) -> Result<KeyGroup, Refused> {
    let max = MaxParallelism::new(spec.max_parallelism).unwrap_or_default();
    let explicit = spec.partitioner() == v1::Partitioner::Explicit;
    match named {
        None if explicit => Err(missing("address.key_group", "the job's partitioner is explicit: name the key group")),
        None => Ok(KeyGroup::of(key, max)),
        Some(named) => {
            let group = KeyGroup::new(named, max)
                .map_err(|error| Refused::new(Reason::KeyGroupOutOfRange, error.to_string()))?;
            let hashed = KeyGroup::of(key, max);
            if !explicit && group != hashed {
                let message = format!("the key hashes to key group {hashed}, the request says {named}");
                return Err(Refused::new(Reason::KeyGroupMismatch, message).field("address.key_group"));
            }
            Ok(group)
        }
    }
}
