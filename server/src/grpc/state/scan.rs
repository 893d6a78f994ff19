//! Scans and counts: all shards are frozen at the start and then read page by page, away from their threads.

use std::{ops::ControlFlow, sync::Arc, vec};

use bytes::Bytes;
use forebay_proto::{codec, merge::ResultCodec, packed_list, reason::Refused, v1};
use futures::{Stream, StreamExt as _, stream};
use tonic::Status;
use v1::{ErrorReason as Reason, ScanProjection as Projection, StateKind};

use super::place::encode;
use crate::shard::{
    View,
    core::Frozen,
    gate::Caller,
    key::{self, RowKey},
    ops::{Header, Rows, unescape},
    thread::Shard,
};

/// Rows that are read at a time.
const PAGE_ROWS: usize = 256;

/// The shards of an operator that hold some key groups, each with its range.
pub(super) struct Shards {
    pub(super) found: Vec<Arc<Shard>>,
    groups: std::ops::Range<u32>,
}

impl Shards {
    /// Finds them; `end` 0 means all.
    pub(super) fn find(view: &View, operator: &str, start: u32, end: u32) -> Result<Self, Refused> {
        let max = view.spec.max_parallelism;
        let end = if end == 0 { max } else { end };
        if start >= end || end > max {
            let message = format!("key groups [{start},{end}) are out of range: this job has [0,{max})");
            return Err(Refused::new(Reason::KeyGroupOutOfRange, message));
        }
        let caller = Caller { generation: 0, shard_epoch: 0, writer_epoch: 0, stream: 0 };
        let slots = view.slots.iter().filter(|slot| slot.entry.operator == operator);
        let inside = slots.filter(|slot| slot.entry.start < end && slot.entry.end > start);
        let found = inside.map(|slot| view.shard(operator, slot.entry.start, slot.entry.end, &caller));
        Ok(Self { found: found.collect::<Result<_, _>>()?, groups: start..end })
    }

    /// Freezes them all.
    pub(super) async fn freeze(&self, state: u32, committed: bool) -> Result<Vec<Part>, Refused> {
        let mut parts = Vec::new();
        for shard in &self.found {
            let range = shard.range();
            let groups = range.start().max(self.groups.start)..range.end().min(self.groups.end);
            let frozen = Arc::new(shard.view(state, committed).await?);
            parts.push(Part { shard: shard.clone(), frozen, groups });
        }
        Ok(parts)
    }
}

/// A frozen shard and the key groups that are read of it.
pub(super) struct Part {
    shard: Arc<Shard>,
    frozen: Arc<Frozen>,
    groups: std::ops::Range<u32>,
}

impl Part {
    fn bounds(&self) -> (Vec<u8>, Vec<u8>) {
        // Key groups are below 32,768, so the end fits, too.
        let row = |group: u32| u16::try_from(group).unwrap_or(u16::MAX).to_be_bytes().to_vec();
        (row(self.groups.start), row(self.groups.end))
    }

    /// Reads away from the shard's thread, which hears of rows that cannot be read.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Frozen) -> Result<T, Refused> + Send + 'static,
    ) -> Result<T, Refused> {
        let frozen = self.frozen.clone();
        let read = tokio::task::spawn_blocking(move || read(&frozen)).await;
        let read = read.unwrap_or_else(|panic| Err(Refused::new(Reason::Internal, panic.to_string())));
        if let Err(refused) = &read
            && refused.reason == Reason::ShardLost
        {
            self.shard.lose(refused.message.clone()).await;
        }
        read
    }

    /// Counts the rows that a reader is shown.
    pub(super) async fn count(self) -> Result<u64, Refused> {
        let (start, end) = self.bounds();
        self.read(move |frozen| {
            let rows = Rows { read: frozen.view.as_ref(), clocks: frozen.clocks };
            let mut count = 0;
            rows.scan(&frozen.state, &start, &end, &mut |_, _, _| {
                count += 1;
                Ok(ControlFlow::Continue(()))
            })?;
            Ok(count)
        })
        .await
    }
}

/// A scan.
pub(super) struct Scan {
    parts: vec::IntoIter<Part>,
    current: Option<(Part, Vec<u8>)>,
    filter: Arc<Filter>,
    left: u64,
}

struct Filter {
    descriptor: v1::StateDescriptor,
    projection: Projection,
    namespace: Option<Vec<u8>>,
    prefix: Vec<u8>,
}

/// What one look at a shard gave: rows, and the first row key not looked at.
struct Page {
    rows: Vec<v1::ScanRow>,
    next: Option<Vec<u8>>,
}

impl Scan {
    /// Starts or resumes one.
    pub(super) async fn start(view: &View, request: v1::ScanRequest) -> Result<Self, Refused> {
        let state = view.state(&request.operator, &request.state)?.clone();
        let descriptor = state.descriptor.clone().unwrap_or_default();
        let namespace = request.namespace.clone().map(|value| encode(&descriptor.namespace_codec, value, "namespace"));
        let projection = match request.projection() {
            Projection::Unspecified => Projection::Entries,
            other => other,
        };
        let shards = Shards::find(view, &request.operator, request.start, request.end)?;
        let committed = request.view() == v1::ReadView::Committed;
        let mut parts = shards.freeze(state.id, committed).await?.into_iter();
        let current = if request.page_token.is_empty() { None } else { Some(resume(&mut parts, &request.page_token)?) };
        let filter = Filter {
            namespace: namespace.transpose()?,
            prefix: request.key_prefix.clone().map(codec::parse).unwrap_or_default(),
            descriptor,
            projection,
        };
        let left = if request.limit == 0 { u64::MAX } else { request.limit };
        Ok(Self { parts, current, filter: Arc::new(filter), left })
    }

    /// The rows, page by page.
    pub(super) fn rows(self) -> impl Stream<Item = Result<v1::ScanResponse, Status>> + Send {
        stream::try_unfold(self, |mut scan| async move {
            let page = scan.page().await?;
            Ok(page.map(|page| (page, scan)))
        })
        .map(|page| page.map_err(|refused: Refused| refused.to_status()))
    }

    async fn page(&mut self) -> Result<Option<v1::ScanResponse>, Refused> {
        while self.left > 0 {
            let (part, start) = match self.current.take() {
                Some(current) => current,
                None => match self.parts.next() {
                    Some(part) => {
                        let (start, _) = part.bounds();
                        (part, start)
                    }
                    None => return Ok(None),
                },
            };
            let (filter, end) = (self.filter.clone(), part.bounds().1);
            let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(PAGE_ROWS);
            let page = part.read(move |frozen| filter.page(frozen, start, &end, most)).await?;
            self.left -= page.rows.len() as u64;
            let page_token = page.next.as_ref().map(|next| token(&part, next)).unwrap_or_default();
            self.current = page.next.map(|next| (part, next));
            if !page.rows.is_empty() {
                return Ok(Some(v1::ScanResponse { rows: page.rows, page_token }));
            }
        }
        Ok(None)
    }
}

impl Filter {
    fn page(&self, frozen: &Frozen, mut start: Vec<u8>, end: &[u8], most: usize) -> Result<Page, Refused> {
        let rows = Rows { read: frozen.view.as_ref(), clocks: frozen.clocks };
        let mut found = Vec::new();
        loop {
            let (mut looked, mut next) = (0, None);
            rows.scan(&frozen.state, &start, end, &mut |row_key, header, payload| {
                let Some(parsed) = key::parse(row_key) else { return Ok(ControlFlow::Continue(())) };
                looked += 1;
                let skip_to = self.skip_to(&parsed);
                if self.wants(&parsed) {
                    found.extend(self.row(frozen, &parsed, header, payload));
                }
                // Whole runs are skipped by a new look; a row that is not wanted is passed by.
                if let Some(skip_to) = skip_to {
                    next = Some(skip_to);
                    return Ok(ControlFlow::Break(()));
                }
                if found.len() >= most || looked >= PAGE_ROWS {
                    next = Some([row_key, &[0]].concat());
                    return Ok(ControlFlow::Break(()));
                }
                Ok(ControlFlow::Continue(()))
            })?;
            match next {
                Some(next) if found.len() >= most || looked >= PAGE_ROWS => {
                    return Ok(Page { rows: found, next: Some(next) });
                }
                Some(next) => start = next,
                None => return Ok(Page { rows: found, next: None }),
            }
        }
    }

    fn wants(&self, parsed: &RowKey<'_>) -> bool {
        parsed.key.starts_with(&self.prefix)
            && self.namespace.as_ref().is_none_or(|namespace| parsed.namespace == namespace)
    }

    /// The first row key that may say something new, if that is not the next one.
    fn skip_to(&self, parsed: &RowKey<'_>) -> Option<Vec<u8>> {
        match self.projection {
            Projection::Keys if self.wants(parsed) => Some(key::successor(&parsed.key_prefix())),
            Projection::KeysAndNamespaces => Some(key::successor(&parsed.namespace_prefix())),
            _ => None,
        }
    }

    fn row(&self, frozen: &Frozen, parsed: &RowKey<'_>, header: &Header, payload: &[u8]) -> Option<v1::ScanRow> {
        let descriptor = &self.descriptor;
        let item = |codec: &str, raw: &[u8]| v1::Item {
            raw: Bytes::copy_from_slice(raw),
            readable: codec::render(codec, raw),
            ..Default::default()
        };
        let mut row = v1::ScanRow { key_group: parsed.group.into(), ..Default::default() };
        if descriptor.kind() != StateKind::SortedSet {
            row.key = Some(item(&descriptor.key_codec, parsed.key));
        }
        if self.projection == Projection::Keys {
            return Some(row);
        }
        row.namespace = Some(item(&descriptor.namespace_codec, parsed.namespace));
        if self.projection == Projection::KeysAndNamespaces {
            return Some(row);
        }
        let codec = &descriptor.value_codec;
        let value = match descriptor.kind() {
            StateKind::Map => {
                row.map_key = Some(item(&descriptor.map_key_codec, parsed.suffix));
                item(codec, payload)
            }
            StateKind::Multimap => {
                let (map_key, _) = unescape(parsed.suffix)?;
                row.map_key = Some(item(&descriptor.map_key_codec, &map_key));
                item(codec, payload)
            }
            StateKind::SortedSet => item(codec, parsed.suffix),
            StateKind::Aggregating => {
                let function = frozen.state.merge()?;
                let result = function.result(payload)?;
                match function.result_codec(codec) {
                    ResultCodec::One(codec) => item(codec, &result),
                    ResultCodec::List(_) => item("bytes", &result),
                }
            }
            _ => item(codec, payload),
        };
        let version = header.version.unwrap_or(0);
        row.value = Some(v1::Item { version, expires_at_ms: header.deadline_ms, ..value });
        Some(row)
    }
}

/// The elements of a result that is a packed list; itself alone if it is none.
pub(super) fn elements(codec: ResultCodec<'_>, result: Bytes) -> Vec<Bytes> {
    match codec {
        ResultCodec::List(_) if packed_list::validate(&result).is_ok() => {
            packed_list::iter(&result).map(|element| result.slice_ref(element)).collect()
        }
        _ => vec![result],
    }
}

/// Format of page tokens.
const TOKEN: u8 = 1;

/// `format · incarnation of the shard (u64 BE) · first row key to look at`.
fn token(part: &Part, next: &[u8]) -> Bytes {
    [&[TOKEN][..], &part.frozen.incarnation.to_be_bytes(), next].concat().into()
}

/// Finds the shard that a token points into; those before it are done.
fn resume(parts: &mut vec::IntoIter<Part>, token: &[u8]) -> Result<(Part, Vec<u8>), Refused> {
    let invalid = |why: &str| {
        Refused::new(Reason::PageTokenInvalid, format!("the page token cannot be used: {why}")).field("page_token")
    };
    let read = token.split_first().filter(|(format, _)| **format == TOKEN);
    let read = read.and_then(|(_, rest)| rest.split_first_chunk());
    let Some((incarnation, next)) = read.filter(|(_, next)| next.len() >= 2) else {
        return Err(invalid("it is not one of ours"));
    };
    let group = u32::from(u16::from_be_bytes([next[0], next[1]]));
    let found = parts.find(|part| part.groups.contains(&group));
    let part = found.ok_or_else(|| invalid("its key group is not among those asked for"))?;
    if part.frozen.incarnation != u64::from_be_bytes(*incarnation) {
        return Err(invalid("the state has gone back to a checkpoint since: start again"));
    }
    Ok((part, next.to_vec()))
}
