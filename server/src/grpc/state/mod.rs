//! `StateService`: unary access, for people, scripts and plain services. A call becomes a batch of one
//! and runs through the same code as the hot path.

pub(super) mod items;
mod pages;
pub(super) mod place;
pub(super) mod scan;

use std::pin::Pin;

use forebay_proto::{codec, merge::MergeFunction, packed::Op, packed_list, reason::Refused, v1};
use futures::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};
use v1::{ErrorReason as Reason, OpKind, StateKind, state_service_server::StateService};

use self::{
    items::Items,
    pages::Range,
    place::{Place, encode, missing},
    scan::{Scan, Wanted},
};
use super::unsupported;
use crate::shard::{Shards, gate::Caller, lanes::LaneId};

type Rows = Pin<Box<dyn Stream<Item = Result<v1::ScanResponse, Status>> + Send>>;

/// Serves unary calls.
#[derive(Debug)]
pub(super) struct StateEdge {
    shards: Shards,
}

impl StateEdge {
    pub(super) fn new(shards: Shards) -> Self {
        Self { shards }
    }

    fn place(&self, address: Option<v1::Address>, generation: u64) -> Result<Place, Refused> {
        Place::find(&self.shards, address, generation)
    }
}

#[tonic::async_trait]
impl StateService for StateEdge {
    type ScanStream = Rows;

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let request = request.into_inner();
        let place = self.place(request.address.clone(), 0)?;
        let kinds = [
            (StateKind::Value, OpKind::ValueGet),
            (StateKind::List, OpKind::ListGet),
            (StateKind::Reducing, OpKind::ReducingGet),
            (StateKind::Aggregating, OpKind::AggregatingGet),
            (StateKind::Map, OpKind::MapEntries),
            (StateKind::Multimap, if request.map_key.is_some() { OpKind::MultimapGet } else { OpKind::MultimapKeys }),
            (StateKind::SortedSet, OpKind::SortedSetFirst),
        ];
        let kind = place.kind(&kinds, "read whole")?;
        let range = Range::of(&place, kind, &request)?;
        let entry = if kind == OpKind::MultimapGet {
            place.map_key(request.map_key.clone(), "map_key")?
        } else {
            range.start.clone()
        };
        let op = place.op(kind, &entry, &range.end).with_limit(request.limit);
        let (answers, progress) = place.read(&op, request.view()).await?;
        range.check(&progress)?;
        let answer = answers.answer(0);
        let response = v1::GetResponse {
            found: !answer.is_empty(),
            items: place.items(kind, &answer),
            next_page_token: pages::next(kind, &answer, &progress),
            progress: Some(progress),
        };
        Ok(Response::new(response))
    }

    async fn put(&self, request: Request<v1::PutRequest>) -> Result<Response<v1::PutResponse>, Status> {
        let request = request.into_inner();
        let place = self.place(request.address, request.generation)?;
        let kind = place.kind(&[(StateKind::Value, OpKind::ValuePut), (StateKind::List, OpKind::ListPut)], "put")?;
        let values = place.values(request.values, "values")?;
        let value = match (kind, values.as_slice()) {
            (OpKind::ListPut, values) => packed_list::pack(values),
            (_, [value]) => value.clone(),
            (_, values) => {
                let message = format!("a value state takes one value, the request has {}", values.len());
                return Err(Refused::new(Reason::FieldInvalid, message).field("values").into());
            }
        };
        let op = with_deadline(place.op(kind, &[], &value), request.expires_at_ms);
        let done = place.write(&[op], request.request_id, request.durability).await?;
        let version = if kind == OpKind::ValuePut && !done.duplicate { done.version } else { 0 };
        Ok(Response::new(v1::PutResponse { duplicate: done.duplicate, progress: Some(done.progress), version }))
    }

    async fn append(&self, request: Request<v1::AppendRequest>) -> Result<Response<v1::AppendResponse>, Status> {
        let request = request.into_inner();
        let place = self.place(request.address, request.generation)?;
        let kinds = [(StateKind::List, OpKind::ListAppendAll), (StateKind::Multimap, OpKind::MultimapAppend)];
        let kind = place.kind(&kinds, "appended to")?;
        let values = place.values(request.values, "values")?;
        let (list, map_key);
        let ops: Vec<Op<'_>> = if kind == OpKind::MultimapAppend {
            map_key = place.map_key(request.map_key, "map_key")?;
            values.iter().map(|value| place.op(kind, &map_key, value)).collect()
        } else {
            list = packed_list::pack(&values);
            vec![place.op(kind, &[], &list)]
        };
        let ops: Vec<_> = ops.into_iter().map(|op| with_deadline(op, request.expires_at_ms)).collect();
        let done = place.write(&ops, request.request_id, request.durability).await?;
        Ok(Response::new(v1::AppendResponse { duplicate: done.duplicate, progress: Some(done.progress) }))
    }

    async fn clear(&self, request: Request<v1::ClearRequest>) -> Result<Response<v1::ClearResponse>, Status> {
        let request = request.into_inner();
        let place = self.place(request.address, request.generation)?;
        let ranged = request.map_start.is_some() || request.map_end.is_some();
        let all = [
            (StateKind::Value, OpKind::ValueClear),
            (StateKind::List, OpKind::ListClear),
            (StateKind::Map, OpKind::MapClear),
            (StateKind::Multimap, OpKind::MultimapClear),
            (StateKind::Reducing, OpKind::ReducingClear),
            (StateKind::Aggregating, OpKind::AggregatingClear),
        ];
        let range = [(StateKind::Map, OpKind::MapClearRange)];
        let kind = place.kind(if ranged { &range } else { &all }, "cleared so")?;
        let start = place.bound(request.map_start, "map_start")?;
        let end = place.bound(request.map_end, "map_end")?;
        let done = place.write(&[place.op(kind, &start, &end)], request.request_id, request.durability).await?;
        Ok(Response::new(v1::ClearResponse { duplicate: done.duplicate, progress: Some(done.progress) }))
    }

    async fn map_get(&self, request: Request<v1::MapGetRequest>) -> Result<Response<v1::MapGetResponse>, Status> {
        let request = request.into_inner();
        let (view, place) = (request.view(), self.place(request.address, 0)?);
        let kind = place.kind(&[(StateKind::Map, OpKind::MapGet)], "read by map key")?;
        let map_key = place.map_key(request.map_key, "map_key")?;
        let (answers, progress) = place.read(&place.op(kind, &map_key, &[]), view).await?;
        let item = place.items(kind, &answers.answer(0)).pop();
        Ok(Response::new(v1::MapGetResponse { found: item.is_some(), item, progress: Some(progress) }))
    }

    async fn map_put(&self, request: Request<v1::MapPutRequest>) -> Result<Response<v1::MapPutResponse>, Status> {
        let request = request.into_inner();
        let place = self.place(request.address, request.generation)?;
        let kind = place.kind(&[(StateKind::Map, OpKind::MapPut)], "put by map key")?;
        let mut entries = Vec::new();
        for entry in request.entries {
            let map_key = place.map_key(entry.map_key, "entries.map_key")?;
            entries.push((map_key, place.value(entry.value, "entries.value")?, entry.expires_at_ms));
        }
        let op = |(map_key, value, at)| with_deadline(place.op(kind, map_key, value), at);
        let ops: Vec<_> = entries.iter().map(|(map_key, value, at)| op((map_key, value, *at))).collect();
        let done = place.write(&ops, request.request_id, request.durability).await?;
        Ok(Response::new(v1::MapPutResponse { duplicate: done.duplicate, progress: Some(done.progress) }))
    }

    async fn map_remove(
        &self,
        request: Request<v1::MapRemoveRequest>,
    ) -> Result<Response<v1::MapRemoveResponse>, Status> {
        let request = request.into_inner();
        let place = self.place(request.address, request.generation)?;
        let kinds = [
            (StateKind::Map, OpKind::MapRemove),
            (StateKind::Multimap, OpKind::MultimapRemove),
            (StateKind::SortedSet, OpKind::SortedSetRemove),
        ];
        let kind = place.kind(&kinds, "removed by map key")?;
        let map_key = place.map_key(request.map_key, "map_key")?;
        let done = place.write(&[place.op(kind, &map_key, &[])], request.request_id, request.durability).await?;
        Ok(Response::new(v1::MapRemoveResponse { duplicate: done.duplicate, progress: Some(done.progress) }))
    }

    async fn add(&self, request: Request<v1::AddRequest>) -> Result<Response<v1::AddResponse>, Status> {
        let request = request.into_inner();
        let place = self.place(request.address, request.generation)?;
        let kinds = [
            (StateKind::Reducing, OpKind::ReducingAdd),
            (StateKind::Aggregating, OpKind::AggregatingAdd),
            (StateKind::SortedSet, OpKind::SortedSetAdd),
        ];
        let kind = place.kind(&kinds, "added to")?;
        let value = place.value(request.value, "value")?;
        let pairs = matches!(
            MergeFunction::parse(&place.descriptor.function),
            Some(MergeFunction::MinBy | MergeFunction::MaxBy)
        );
        let operand = match request.by {
            Some(by) if pairs => packed_list::pack([encode(&place.descriptor.map_key_codec, by, "by")?, value.clone()]),
            None if pairs => return Err(missing("by", "min_by and max_by compare by something: it is missing").into()),
            Some(_) => {
                let message = format!("state {:?} does not compare: leave out by", place.descriptor.name);
                return Err(Refused::new(Reason::FieldInvalid, message).field("by").into());
            }
            None => value.clone(),
        };
        let op = match kind {
            OpKind::SortedSetAdd => place.op(kind, &value, &[]),
            _ => place.op(kind, &[], &operand),
        };
        let op = with_deadline(op, request.expires_at_ms);
        let done = place.write(&[op], request.request_id, request.durability).await?;
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

    async fn merge_namespaces(
        &self,
        request: Request<v1::MergeNamespacesRequest>,
    ) -> Result<Response<v1::MergeNamespacesResponse>, Status> {
        let request = request.into_inner();
        let place = self.place(request.address, request.generation)?;
        let merging = [StateKind::List, StateKind::Reducing, StateKind::Aggregating];
        let kind = place.kind(&merging.map(|kind| (kind, OpKind::MergeNamespaces)), "merged")?;
        let codec = &place.descriptor.namespace_codec;
        let sources = request.sources.into_iter().map(|source| encode(codec, source, "sources"));
        let sources = packed_list::pack(sources.collect::<Result<Vec<_>, _>>()?);
        let done = place.write(&[place.op(kind, &[], &sources)], request.request_id, request.durability).await?;
        let (duplicate, progress) = (done.duplicate, Some(done.progress));
        Ok(Response::new(v1::MergeNamespacesResponse { duplicate, progress }))
    }

    async fn scan(&self, request: Request<v1::ScanRequest>) -> Result<Response<Rows>, Status> {
        let request = request.into_inner();
        let view = self.shards.job(&request.job)?;
        let state = view.state(&request.operator, &request.state)?.clone();
        let descriptor = state.descriptor.unwrap_or_default();
        let (projection, committed) = (request.projection(), request.view() == v1::ReadView::Committed);
        let namespace = request.namespace.map(|value| encode(&descriptor.namespace_codec, value, "namespace"));
        let wanted = Wanted {
            operator: request.operator,
            state: state.id,
            groups: (request.start, request.end),
            projection,
            namespace: namespace.transpose()?,
            key_prefix: request.key_prefix.map(codec::parse).unwrap_or_default(),
            committed,
            limit: request.limit,
            page_token: request.page_token,
        };
        let pages = Scan::start(&view, wanted, Items { descriptor }).await?.pages();
        let answers = pages.map(|page| page.map(|(rows, page_token)| v1::ScanResponse { rows, page_token }));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn compare_and_set(
        &self,
        request: Request<v1::CompareAndSetRequest>,
    ) -> Result<Response<v1::CompareAndSetResponse>, Status> {
        use v1::compare_and_set_request::Expected;
        let request = request.into_inner();
        let place = self.place(request.address, request.generation)?;
        place.kind(&[(StateKind::Value, OpKind::ValueCas)], "compared and set")?;
        let new = request.replacement.map(|value| place.value(Some(value), "replacement")).transpose()?;
        let (by_value, version) = match request.expected {
            Some(Expected::Value(value)) => (Some(place.value(Some(value), "value")?), 0),
            Some(Expected::Version(version)) => (None, version),
            Some(Expected::Absent(true)) => (None, 0),
            Some(Expected::Absent(false)) | None => {
                let message = "say what must be stored: value, version, or absent = true";
                return Err(missing("expected", message).into());
            }
        };
        let (kind, value) = match (by_value, new) {
            (Some(expected), Some(new)) => (OpKind::ValueCas, packed_list::cas_value(&expected, &new)),
            (Some(expected), None) => (OpKind::ValueCasClear, expected),
            (None, Some(new)) => (OpKind::ValueCasVersion, new),
            (None, None) => (OpKind::ValueCasVersionClear, Vec::new()),
        };
        let op = with_deadline(place.op(kind, &[], &value), request.expires_at_ms).with_expected_version(version);
        let done = place.write(&[op], request.request_id, request.durability).await?;
        let swapped = place::decode(done.answers)?.get(0).and_then(|answer| answer.verdict);
        let swapped = swapped.ok_or_else(|| {
            let message = "the request id was used before for another call: take a new one for each";
            Refused::new(Reason::SequenceReused, message)
        })?;
        let (now, _) = place.read(&place.op(OpKind::ValueGet, &[], &[]), v1::ReadView::Live).await?;
        let current = place.items(OpKind::ValueGet, &now.answer(0)).pop();
        let (duplicate, progress) = (done.duplicate, Some(done.progress));
        Ok(Response::new(v1::CompareAndSetResponse { swapped, current, duplicate, progress }))
    }

    async fn count(&self, request: Request<v1::CountRequest>) -> Result<Response<v1::CountResponse>, Status> {
        let request = request.into_inner();
        let view = self.shards.job(&request.job)?;
        let state = view.state(&request.operator, &request.state)?.id;
        let shards = scan::Shards::find(&view, &request.operator, request.start, request.end)?;
        let mut rows = 0;
        if request.exact {
            for part in shards.freeze(state, false).await? {
                rows += part.count().await?;
            }
        } else {
            for shard in &shards.found {
                rows += shard.estimate(state).await?;
            }
        }
        Ok(Response::new(v1::CountResponse { rows, exact: request.exact }))
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
        Err(unsupported("a snapshot of one shard").into())
    }
}

fn with_deadline(op: Op<'_>, expires_at_ms: Option<i64>) -> Op<'_> {
    match expires_at_ms {
        Some(at) => op.with_expires_at_ms(at),
        None => op,
    }
}
