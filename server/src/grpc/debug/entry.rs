//! `GetEntry`: the rows at one address.

use std::ops::ControlFlow;

use forebay_proto::{reason::Refused, v1};
use v1::{ErrorReason as Reason, ScanProjection as Projection, StateKind};

use super::{address, rows::Shown};
use crate::{
    grpc::state::{
        place::{Place, missing},
        scan::{Found, Show as _},
    },
    shard::{Shards, core::Frozen, key, ops::Rows},
};

/// Elements or map entries of an answer, if nothing else is asked for.
const LIMIT: u32 = 100;
/// Bytes of text after which an answer ends.
const TEXT_BYTES: usize = 1 << 20;

/// Reads an entry.
pub(super) async fn get(shards: &Shards, request: v1::GetEntryRequest) -> Result<v1::GetEntryResponse, Refused> {
    let (notation, committed) = (request.notation(), request.view() == v1::ReadView::Committed);
    let written = request.address.ok_or_else(|| missing("address", "the address is missing"))?;
    let view = shards.job(&written.job)?;
    let descriptor = view.state(&written.operator, &written.state)?.descriptor.clone().unwrap_or_default();
    let place = Place::find(shards, Some(address::address(&written, &descriptor)?), 0)?;
    let bounds = place.bounds(map_key(&written, &descriptor)?.as_deref());
    let part = place.part(committed).await?;
    let shown = Shown { notation, descriptor };
    let (entries, more) = part.read(move |frozen| rows(frozen, &bounds, request.limit, &shown)).await?;
    let progress = v1::Progress {
        generation: place.generation,
        incarnation: part.frozen.incarnation,
        clock_ms: part.frozen.clocks.processing_ms,
        watermark_ms: part.frozen.clocks.watermark_ms,
        ..Default::default()
    };
    Ok(v1::GetEntryResponse { found: !entries.is_empty(), entries, more, progress: Some(progress) })
}

/// Reads an entry as a completed checkpoint holds it.
pub(super) async fn get_at(
    shards: &Shards,
    request: v1::ReadAtCheckpointRequest,
) -> Result<v1::ReadAtCheckpointResponse, Refused> {
    let notation = request.notation();
    let written = request.address.ok_or_else(|| missing("address", "the address is missing"))?;
    let view = shards.job(&written.job)?;
    let descriptor = view.state(&written.operator, &written.state)?.descriptor.clone().unwrap_or_default();
    let place = Place::find(shards, Some(address::address(&written, &descriptor)?), 0)?;
    let bounds = place.bounds(map_key(&written, &descriptor)?.as_deref());
    let at = shards.at_checkpoint(&written.job, request.checkpoint, &written.operator, place.key_group()).await?;
    let (checkpoint, completed_ms) = (at.entry.id, at.entry.completed_ms);
    let shown = Shown { notation, descriptor };
    // A state that was registered later held nothing.
    let (entries, more) = match at.frozen(place.state_id()) {
        Some(frozen) => {
            let read = tokio::task::spawn_blocking(move || {
                // It must not be closed meanwhile.
                let _at = at;
                rows(&frozen, &bounds, request.limit, &shown)
            });
            read.await.unwrap_or_else(|panic| Err(Refused::new(Reason::Internal, panic.to_string())))?
        }
        None => (Vec::new(), false),
    };
    let found = !entries.is_empty();
    let entry = v1::EntryAtCheckpoint { checkpoint, completed_ms, found, entries, error: String::new() };
    Ok(v1::ReadAtCheckpointResponse { entry: Some(entry), more })
}

/// The rows between two keys, as they are shown, and whether there are more. A limit of 0 means the usual one.
fn rows(
    frozen: &Frozen,
    (start, end): &(Vec<u8>, Vec<u8>),
    limit: u32,
    shown: &Shown,
) -> Result<(Vec<v1::ShownEntry>, bool), Refused> {
    let limit = if limit == 0 { LIMIT } else { limit } as usize;
    let rows = Rows { read: frozen.view.as_ref(), clocks: frozen.clocks };
    let (mut entries, mut text_bytes, mut more) = (Vec::new(), 0, false);
    rows.scan_stored(&frozen.state, start, end, &mut |row_key, header, payload| {
        more = entries.len() == limit || text_bytes >= TEXT_BYTES;
        if more {
            return Ok(ControlFlow::Break(()));
        }
        let found = key::parse(row_key).map(|key| Found { frozen, key, header, payload });
        if let Some(entry) = found.and_then(|found| shown.show(Projection::Entries, &found)) {
            let parts = [&entry.key, &entry.namespace, &entry.map_key, &entry.value];
            text_bytes += parts.into_iter().flatten().map(|part| part.text.len()).sum::<usize>();
            entries.push(entry);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok((entries, more))
}

/// The map key that was written; the elements of a sorted set are in the codec of values.
fn map_key(written: &v1::WrittenAddress, descriptor: &v1::StateDescriptor) -> Result<Option<Vec<u8>>, Refused> {
    let codec = match descriptor.kind() {
        StateKind::Map | StateKind::Multimap => &descriptor.map_key_codec,
        StateKind::SortedSet => &descriptor.value_codec,
        kind if written.map_key.is_some() => {
            let kind = kind.as_str_name().trim_start_matches("STATE_KIND_").to_ascii_lowercase();
            let message = format!("state {:?} is of kind {kind}: it has no map keys", descriptor.name);
            return Err(Refused::new(Reason::FieldInvalid, message).field("address.map_key"));
        }
        _ => return Ok(None),
    };
    address::read(codec, written.map_key.as_ref(), "address.map_key")
}
