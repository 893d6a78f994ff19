//! `StateService`: unary access, for people, scripts and plain services. A call becomes a batch of one
//! and runs through the same code as the hot path.

use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
use forebay_proto::{
    codec,
    key_group::{KeyGroup, MaxParallelism},
    packed::{Answers, Op, OpsBuilder},
    packed_list,
    reason::Refused,
    v1,
};
use futures::{Stream, StreamExt as _, stream};
use tonic::{Request, Response, Status};
use v1::{ErrorReason as Reason, OpKind, StateKind, state_service_server::StateService};

use crate::shard::{
    Shards, View,
    core::{Batch, Done, Order},
    gate::Caller,
    key,
    lanes::LaneId,
    requests,
    thread::Shard,
};

/// Rows that a scan reads at a time.
const PAGE_ROWS: usize = 256;

type Rows = Pin<Box<dyn Stream<Item = Result<v1::ScanResponse, Status>> + Send>>;

/// Serves unary calls.
#[derive(Debug)]
pub(super) struct StateEdge {
    shards: Shards,
}

/// An address, resolved: the job, the state, the shard and the encoded key.
struct Place {
    state: v1::RegisteredState,
    descriptor: v1::StateDescriptor,
    shard: Arc<Shard>,
    group: Option<u16>,
    key: Vec<u8>,
    namespace: Vec<u8>,
    caller: Caller,
}

impl StateEdge {
    pub(super) fn new(shards: Shards) -> Self {
        Self { shards }
    }

    fn place(&self, address: Option<v1::Address>, generation: u64) -> Result<Place, Refused> {
        let address = address.ok_or_else(|| missing("address", "the address is missing"))?;
        let view = self.shards.job(&address.job)?;
        let caller = Caller { generation, shard_epoch: 0, writer_epoch: 0, stream: 0 };
        let state = view.state(&address.operator, &address.state)?.clone();
        let descriptor = state.descriptor.clone().unwrap_or_default();
        let key = address.key.ok_or_else(|| missing("address.key", "the key is missing"))?;
        let key = encode(&descriptor.key_codec, key, "address.key")?;
        if key.is_empty() {
            return Err(
                Refused::new(Reason::KeyEmpty, "the key is empty: 1 to 65535 bytes are allowed").field("address.key")
            );
        }
        let namespace = match address.namespace {
            Some(namespace) => encode(&descriptor.namespace_codec, namespace, "address.namespace")?,
            None => Vec::new(),
        };
        let group = key_group(&view.spec, &key, address.key_group)?;
        let shard = view.shard_of(&address.operator, group, &caller)?;
        let group = address.key_group.map(|_| group.get());
        Ok(Place { state, descriptor, shard, group, key, namespace, caller })
    }
}

impl Place {
    fn op<'a>(&'a self, kind: OpKind, map_key: &'a [u8], value: &'a [u8], limit: u32) -> Op<'a> {
        let op = Op::new(kind, self.state.id, &self.key).with_namespace(&self.namespace).with_map_key(map_key);
        let op = op.with_value(value).with_limit(limit);
        match self.group {
            Some(group) => op.with_key_group(group),
            None => op,
        }
    }

    async fn read(&self, op: &Op<'_>) -> Result<(Answers, v1::Progress), Refused> {
        let done = self.run(std::slice::from_ref(op), Order::PlainRead, v1::Durability::Unspecified).await?;
        let answers =
            Answers::decode(done.answers).map_err(|error| Refused::new(Reason::Internal, error.to_string()))?;
        Ok((answers, done.progress))
    }

    async fn write(&self, ops: &[Op<'_>], request_id: String, durability: i32) -> Result<Done, Refused> {
        if request_id.len() > requests::ID_BYTES_MAX {
            let message = format!("the request id has {} bytes: at most {}", request_id.len(), requests::ID_BYTES_MAX);
            return Err(Refused::new(Reason::FieldInvalid, message).field("request_id"));
        }
        let durability = v1::Durability::try_from(durability).map_err(|_| {
            let message = format!("durability {durability} is unknown: none, wal, wal_sync, checkpoint");
            Refused::new(Reason::FieldInvalid, message).field("durability")
        })?;
        let id = (!request_id.is_empty()).then_some(request_id);
        self.run(ops, Order::PlainWrite(id), durability).await
    }

    async fn run(&self, ops: &[Op<'_>], order: Order, durability: v1::Durability) -> Result<Done, Refused> {
        let mut packed = OpsBuilder::new();
        ops.iter().for_each(|op| packed.push(op));
        let batch = Batch { caller: self.caller, order, ops: packed.finish(), barrier: None, durability };
        self.shard.ask(batch).await
    }

    fn item(&self, codec: &str, raw: Bytes) -> v1::Item {
        v1::Item { readable: codec::render(codec, &raw), raw, version: 0, expires_at_ms: None }
    }

    fn kind(&self, allowed: &[(StateKind, OpKind)], verb: &str) -> Result<OpKind, Refused> {
        let kind = self.descriptor.kind();
        allowed.iter().find(|(known, _)| *known == kind).map(|(_, op)| *op).ok_or_else(|| {
            let kind = kind.as_str_name().trim_start_matches("STATE_KIND_").to_ascii_lowercase();
            let message = format!("state {:?} is of kind {kind}: it cannot be {verb}", self.descriptor.name);
            Refused::new(Reason::WrongKind, message)
        })
    }
}

#[tonic::async_trait]
impl StateService for StateEdge {
    type ScanStream = Rows;

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let request = request.into_inner();
        if request.view() == v1::ReadView::Committed || !request.page_token.is_empty() {
            return Err(unsupported("committed reads and page tokens are"));
        }
        let place = self.place(request.address, 0)?;
        let kinds = [
            (StateKind::Value, OpKind::ValueGet),
            (StateKind::List, OpKind::ListGet),
            (StateKind::Reducing, OpKind::ReducingGet),
            (StateKind::Map, OpKind::MapEntries),
        ];
        let kind = place.kind(&kinds, "read whole")?;
        let (answers, progress) = place.read(&place.op(kind, &[], &[], request.limit)).await?;
        let answer = answers.answer(0);
        let codecs = [&place.descriptor.map_key_codec, &place.descriptor.value_codec];
        let items = answer.items().enumerate().map(|(index, raw)| {
            // Entries of a map come as map key, value, map key, value.
            let codec = if kind == OpKind::MapEntries { codecs[index % 2] } else { codecs[1] };
            v1::Item { version: answer.version.unwrap_or(0), ..place.item(codec, raw) }
        });
        let response = v1::GetResponse {
            found: !answer.is_empty(),
            items: items.collect(),
            next_page_token: Bytes::new(),
            progress: Some(progress),
        };
        Ok(Response::new(response))
    }

    async fn put(&self, request: Request<v1::PutRequest>) -> Result<Response<v1::PutResponse>, Status> {
        let request = request.into_inner();
        if request.expires_at_ms.is_some() {
            return Err(unsupported("deadlines are"));
        }
        let place = self.place(request.address, request.generation)?;
        let kind = place.kind(&[(StateKind::Value, OpKind::ValuePut), (StateKind::List, OpKind::ListPut)], "put")?;
        let values = encode_all(&place.descriptor.value_codec, request.values, "values")?;
        let value = match (kind, values.as_slice()) {
            (OpKind::ListPut, values) => packed_list::pack(values),
            (_, [value]) => value.clone(),
            (_, values) => {
                let message = format!("a value state takes one value, the request has {}", values.len());
                return Err(Refused::new(Reason::FieldInvalid, message).field("values").into());
            }
        };
        let op = place.op(kind, &[], &value, 0);
        let done = place.write(&[op], request.request_id, request.durability).await?;
        Ok(Response::new(v1::PutResponse { duplicate: done.duplicate, progress: Some(done.progress), version: 0 }))
    }

    async fn append(&self, request: Request<v1::AppendRequest>) -> Result<Response<v1::AppendResponse>, Status> {
        let request = request.into_inner();
        let place = self.place(request.address, request.generation)?;
        let kind = place.kind(&[(StateKind::List, OpKind::ListAppendAll)], "appended to")?;
        let values = encode_all(&place.descriptor.value_codec, request.values, "values")?;
        let list = packed_list::pack(&values);
        let done = place.write(&[place.op(kind, &[], &list, 0)], request.request_id, request.durability).await?;
        Ok(Response::new(v1::AppendResponse { duplicate: done.duplicate, progress: Some(done.progress) }))
    }

    async fn clear(&self, request: Request<v1::ClearRequest>) -> Result<Response<v1::ClearResponse>, Status> {
        let request = request.into_inner();
        let place = self.place(request.address, request.generation)?;
        let kinds = [
            (StateKind::Value, OpKind::ValueClear),
            (StateKind::List, OpKind::ListClear),
            (StateKind::Map, OpKind::MapClear),
            (StateKind::Reducing, OpKind::ReducingClear),
        ];
        let kind = place.kind(&kinds, "cleared")?;
        let done = place.write(&[place.op(kind, &[], &[], 0)], request.request_id, request.durability).await?;
        Ok(Response::new(v1::ClearResponse { duplicate: done.duplicate, progress: Some(done.progress) }))
    }

    async fn map_get(&self, request: Request<v1::MapGetRequest>) -> Result<Response<v1::MapGetResponse>, Status> {
        let request = request.into_inner();
        let place = self.place(request.address, 0)?;
        let map_key = request.map_key.ok_or_else(|| missing("map_key", "the map key is missing"))?;
        let map_key = encode(&place.descriptor.map_key_codec, map_key, "map_key")?;
        let kind = place.kind(&[(StateKind::Map, OpKind::MapGet)], "read by map key")?;
        let (answers, progress) = place.read(&place.op(kind, &map_key, &[], 0)).await?;
        let item = answers.answer(0).value().map(|raw| place.item(&place.descriptor.value_codec, raw));
        Ok(Response::new(v1::MapGetResponse { found: item.is_some(), item, progress: Some(progress) }))
    }

    async fn map_put(&self, request: Request<v1::MapPutRequest>) -> Result<Response<v1::MapPutResponse>, Status> {
        let request = request.into_inner();
        let place = self.place(request.address, request.generation)?;
        let kind = place.kind(&[(StateKind::Map, OpKind::MapPut)], "put by map key")?;
        let mut entries = Vec::new();
        for entry in request.entries {
            let (Some(map_key), Some(value)) = (entry.map_key, entry.value) else {
                return Err(missing("entries", "an entry has a map key and a value").into());
            };
            let map_key = encode(&place.descriptor.map_key_codec, map_key, "entries.map_key")?;
            entries.push((map_key, encode(&place.descriptor.value_codec, value, "entries.value")?));
        }
        let ops: Vec<_> = entries.iter().map(|(map_key, value)| place.op(kind, map_key, value, 0)).collect();
        let done = place.write(&ops, request.request_id, request.durability).await?;
        Ok(Response::new(v1::MapPutResponse { duplicate: done.duplicate, progress: Some(done.progress) }))
    }

    async fn map_remove(
        &self,
        request: Request<v1::MapRemoveRequest>,
    ) -> Result<Response<v1::MapRemoveResponse>, Status> {
        let request = request.into_inner();
        let place = self.place(request.address, request.generation)?;
        let kind = place.kind(&[(StateKind::Map, OpKind::MapRemove)], "removed by map key")?;
        let map_key = request.map_key.ok_or_else(|| missing("map_key", "the map key is missing"))?;
        let map_key = encode(&place.descriptor.map_key_codec, map_key, "map_key")?;
        let done = place.write(&[place.op(kind, &map_key, &[], 0)], request.request_id, request.durability).await?;
        Ok(Response::new(v1::MapRemoveResponse { duplicate: done.duplicate, progress: Some(done.progress) }))
    }

    async fn add(&self, request: Request<v1::AddRequest>) -> Result<Response<v1::AddResponse>, Status> {
        let request = request.into_inner();
        let place = self.place(request.address, request.generation)?;
        let kind = place.kind(&[(StateKind::Reducing, OpKind::ReducingAdd)], "added to")?;
        let value = request.value.ok_or_else(|| missing("value", "the operand is missing"))?;
        let value = encode(&place.descriptor.value_codec, value, "value")?;
        let done = place.write(&[place.op(kind, &[], &value, 0)], request.request_id, request.durability).await?;
        Ok(Response::new(v1::AddResponse { duplicate: done.duplicate, progress: Some(done.progress) }))
    }

    async fn multi_get(&self, request: Request<v1::MultiGetRequest>) -> Result<Response<v1::MultiGetResponse>, Status> {
        let request = request.into_inner();
        let view = request.view;
        let mut answers = Vec::with_capacity(request.addresses.len());
        for address in request.addresses {
            let get = v1::GetRequest { address: Some(address), view, ..Default::default() };
            answers.push(self.get(Request::new(get)).await?.into_inner());
        }
        Ok(Response::new(v1::MultiGetResponse { answers }))
    }

    async fn scan(&self, request: Request<v1::ScanRequest>) -> Result<Response<Rows>, Status> {
        let request = request.into_inner();
        let entries = matches!(request.projection(), v1::ScanProjection::Unspecified | v1::ScanProjection::Entries);
        if !entries || request.view() == v1::ReadView::Committed || !request.page_token.is_empty() {
            return Err(unsupported("projections, committed views and page tokens of scans are"));
        }
        let view = self.shards.job(&request.job)?;
        let state = view.state(&request.operator, &request.state)?.clone();
        let scan = Scan::new(&view, state, &request)?;
        Ok(Response::new(Box::pin(scan.rows())))
    }

    async fn compare_and_set(
        &self,
        _: Request<v1::CompareAndSetRequest>,
    ) -> Result<Response<v1::CompareAndSetResponse>, Status> {
        Err(unsupported("compare-and-set is"))
    }

    async fn count(&self, _: Request<v1::CountRequest>) -> Result<Response<v1::CountResponse>, Status> {
        Err(unsupported("count is"))
    }

    async fn await_durable(
        &self,
        request: Request<v1::AwaitDurableRequest>,
    ) -> Result<Response<v1::AwaitDurableResponse>, Status> {
        let request = request.into_inner();
        let caller = Caller { generation: 0, shard_epoch: 0, writer_epoch: 0, stream: 0 };
        let shard = self.shards.job(&request.job)?.shard(&request.operator, request.start, request.end, &caller)?;
        let lane = LaneId::from_slice(&request.lane).ok_or_else(|| {
            let message = format!("a lane id has {} bytes: 16 are needed", request.lane.len());
            Refused::new(Reason::FieldInvalid, message).field("lane")
        })?;
        let checkpoint = shard.await_durable(lane, request.seq).await?;
        Ok(Response::new(v1::AwaitDurableResponse { checkpoint }))
    }

    async fn snapshot(&self, _: Request<v1::SnapshotRequest>) -> Result<Response<v1::SnapshotResponse>, Status> {
        Err(unsupported("snapshot of one shard is"))
    }
}

/// A scan over the shards of an operator, page by page. Each page is read at one moment; the pages of
/// one scan are not (a frozen view comes with the state model).
struct Scan {
    shards: std::vec::IntoIter<Arc<Shard>>,
    current: Option<(Arc<Shard>, Vec<u8>)>,
    state: v1::RegisteredState,
    namespace: Option<Vec<u8>>,
    prefix: Vec<u8>,
    groups: std::ops::Range<u32>,
    left: u64,
}

impl Scan {
    fn new(view: &View, state: v1::RegisteredState, request: &v1::ScanRequest) -> Result<Self, Refused> {
        let descriptor = state.descriptor.clone().unwrap_or_default();
        let max = view.spec.max_parallelism;
        let end = if request.end == 0 { max } else { request.end };
        if request.start >= end || end > max {
            let message = format!("key groups [{},{end}) are out of range: this job has [0,{max})", request.start);
            return Err(Refused::new(Reason::KeyGroupOutOfRange, message));
        }
        let namespace = request.namespace.clone().map(|value| encode(&descriptor.namespace_codec, value, "namespace"));
        let prefix = request.key_prefix.clone().map(codec::parse).unwrap_or_default();
        let caller = Caller { generation: 0, shard_epoch: 0, writer_epoch: 0, stream: 0 };
        let slots = view.slots.iter().filter(|slot| slot.entry.operator == request.operator);
        let shards = slots
            .filter(|slot| slot.entry.start < end && slot.entry.end > request.start)
            .map(|slot| view.shard(&request.operator, slot.entry.start, slot.entry.end, &caller));
        let shards: Vec<_> = shards.collect::<Result<_, _>>()?;
        Ok(Self {
            shards: shards.into_iter(),
            current: None,
            state,
            namespace: namespace.transpose()?,
            prefix,
            groups: request.start..end,
            left: if request.limit == 0 { u64::MAX } else { request.limit },
        })
    }

    fn rows(self) -> impl Stream<Item = Result<v1::ScanResponse, Status>> + Send {
        stream::try_unfold(self, |mut scan| async move {
            let page = scan.page().await?;
            Ok(page.map(|rows| (v1::ScanResponse { rows, page_token: Bytes::new() }, scan)))
        })
        .map(|page| page.map_err(|refused: Refused| refused.to_status()))
    }

    async fn page(&mut self) -> Result<Option<Vec<v1::ScanRow>>, Refused> {
        while self.left > 0 {
            let (shard, after) = match self.current.take() {
                Some(current) => current,
                None => match self.shards.next() {
                    Some(shard) => (shard, Vec::new()),
                    None => return Ok(None),
                },
            };
            let page = shard.page(self.state.id, after, PAGE_ROWS).await?;
            if let Some((last, _)) = page.last()
                && page.len() == PAGE_ROWS
            {
                self.current = Some((shard, last.clone()));
            }
            let rows: Vec<_> = page.into_iter().filter_map(|(row_key, value)| self.row(&row_key, value)).collect();
            let rows: Vec<_> = rows.into_iter().take(usize::try_from(self.left).unwrap_or(usize::MAX)).collect();
            self.left -= rows.len() as u64;
            if !rows.is_empty() {
                return Ok(Some(rows));
            }
        }
        Ok(None)
    }

    fn row(&self, row_key: &[u8], value: Bytes) -> Option<v1::ScanRow> {
        let parsed = key::parse(row_key)?;
        let descriptor = self.state.descriptor.as_ref()?;
        let wanted = self.groups.contains(&u32::from(parsed.group))
            && parsed.key.starts_with(&self.prefix)
            && self.namespace.as_ref().is_none_or(|namespace| parsed.namespace == namespace);
        let item = |codec: &str, raw: &[u8]| v1::Item {
            raw: Bytes::copy_from_slice(raw),
            readable: codec::render(codec, raw),
            ..Default::default()
        };
        let is_map = descriptor.kind() == StateKind::Map;
        wanted.then(|| v1::ScanRow {
            key_group: parsed.group.into(),
            key: Some(item(&descriptor.key_codec, parsed.key)),
            namespace: Some(item(&descriptor.namespace_codec, parsed.namespace)),
            map_key: is_map.then(|| item(&descriptor.map_key_codec, parsed.suffix)),
            value: Some(item(&descriptor.value_codec, &value)),
        })
    }
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

fn encode(codec: &str, value: v1::Value, field: &str) -> Result<Vec<u8>, Refused> {
    codec::parse_as(codec, value)
        .map_err(|error| Refused::new(Reason::FieldInvalid, format!("{field}: {error}")).field(field))
}

fn encode_all(codec: &str, values: Vec<v1::Value>, field: &str) -> Result<Vec<Vec<u8>>, Refused> {
    values.into_iter().map(|value| encode(codec, value, field)).collect()
}

fn missing(field: &str, message: &str) -> Refused {
    Refused::new(Reason::FieldMissing, message).field(field)
}

fn unsupported(what: &str) -> Status {
    Refused::new(Reason::Unsupported, format!("{what} not served by this build")).into()
}
