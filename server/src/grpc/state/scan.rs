//! Scans and counts: all shards are frozen at the start and then read page by page, away from their threads.
//!
//! What becomes of a row is the caller's: items of `StateService`, or text for people ([`Show`]).

use std::{ops::ControlFlow, sync::Arc, vec};

use bytes::Bytes;
use forebay_proto::{reason::Refused, v1};
use futures::{Stream, StreamExt as _, stream};
use tonic::Status;
use v1::{ErrorReason as Reason, ScanProjection as Projection};

use crate::shard::{
    View,
    core::Frozen,
    gate::Caller,
    key::{self, RowKey},
    ops::{Header, Rows},
    thread::Shard,
};

/// Rows that are read at a time.
const PAGE_ROWS: usize = 256;
/// Bytes of rows after which a page ends, so that clients with the usual limit of 4 MiB can take it.
const PAGE_BYTES: usize = 1 << 20;

/// The shards of an operator that hold some key groups, each with its range.
pub(in crate::grpc) struct Shards {
    pub(in crate::grpc) found: Vec<Arc<Shard>>,
    groups: std::ops::Range<u32>,
}

impl Shards {
    /// Finds them; `end` 0 means all.
    pub(in crate::grpc) fn find(view: &View, operator: &str, start: u32, end: u32) -> Result<Self, Refused> {
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
    pub(in crate::grpc) async fn freeze(&self, state: u32, committed: bool) -> Result<Vec<Part>, Refused> {
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
pub(in crate::grpc) struct Part {
    shard: Arc<Shard>,
    pub(in crate::grpc) frozen: Arc<Frozen>,
    groups: std::ops::Range<u32>,
}

impl Part {
    /// Freezes a state of one shard.
    pub(in crate::grpc) async fn of(shard: Arc<Shard>, state: u32, committed: bool) -> Result<Self, Refused> {
        let frozen = Arc::new(shard.view(state, committed).await?);
        let groups = shard.range().start()..shard.range().end();
        Ok(Self { shard, frozen, groups })
    }

    /// The first row key of the key groups, and the first behind them.
    pub(in crate::grpc) fn bounds(&self) -> (Vec<u8>, Vec<u8>) {
        // Key groups are below 32,768, so the end fits, too.
        let row = |group: u32| u16::try_from(group).unwrap_or(u16::MAX).to_be_bytes().to_vec();
        (row(self.groups.start), row(self.groups.end))
    }

    /// Reads away from the shard's thread, which hears of rows that cannot be read.
    pub(in crate::grpc) async fn read<T: Send + 'static>(
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
    pub(in crate::grpc) async fn count(self) -> Result<u64, Refused> {
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

/// What is scanned.
pub(in crate::grpc) struct Wanted {
    /// The operator.
    pub(in crate::grpc) operator: String,
    /// Numeric id of the state.
    pub(in crate::grpc) state: u32,
    /// Key groups; an end of 0 means all.
    pub(in crate::grpc) groups: (u32, u32),
    /// What of each row is wanted.
    pub(in crate::grpc) projection: Projection,
    /// Only this namespace.
    pub(in crate::grpc) namespace: Option<Vec<u8>>,
    /// Only keys that start so.
    pub(in crate::grpc) key_prefix: Vec<u8>,
    /// The last completed checkpoint's rows instead of those that are there now.
    pub(in crate::grpc) committed: bool,
    /// Most rows; 0 means all.
    pub(in crate::grpc) limit: u64,
    /// Where to go on.
    pub(in crate::grpc) page_token: Bytes,
}

/// A row that a scan has come to.
#[derive(Clone, Copy)]
pub(in crate::grpc) struct Found<'a> {
    pub(in crate::grpc) frozen: &'a Frozen,
    pub(in crate::grpc) key: RowKey<'a>,
    pub(in crate::grpc) header: &'a Header,
    pub(in crate::grpc) payload: &'a [u8],
}

/// What becomes of the rows of a scan.
pub(in crate::grpc) trait Show: Send + Sync + 'static {
    /// A row as it is answered.
    type Row: Send + 'static;

    /// True if rows that have expired and are not cleaned up yet are shown, too.
    const EXPIRED: bool;

    /// Shows a row; `None` leaves it out.
    fn show(&self, projection: Projection, found: &Found<'_>) -> Option<Self::Row>;
}

/// A scan.
pub(in crate::grpc) struct Scan<S> {
    parts: vec::IntoIter<Part>,
    current: Option<(Part, Vec<u8>)>,
    filter: Arc<Filter<S>>,
    left: u64,
}

/// Which rows are wanted, and what becomes of them.
pub(in crate::grpc) struct Filter<S> {
    show: S,
    projection: Projection,
    namespace: Option<Vec<u8>>,
    prefix: Vec<u8>,
}

/// What one look at a shard gave: rows, and the first row key not looked at.
pub(in crate::grpc) struct Page<R> {
    pub(in crate::grpc) rows: Vec<R>,
    pub(in crate::grpc) next: Option<Vec<u8>>,
}

impl<S: Show> Scan<S> {
    /// Starts or resumes one.
    pub(in crate::grpc) async fn start(view: &View, wanted: Wanted, show: S) -> Result<Self, Refused> {
        let (start, end) = wanted.groups;
        let shards = Shards::find(view, &wanted.operator, start, end)?;
        let mut parts = shards.freeze(wanted.state, wanted.committed).await?.into_iter();
        let current = if wanted.page_token.is_empty() { None } else { Some(resume(&mut parts, &wanted.page_token)?) };
        let projection = match wanted.projection {
            Projection::Unspecified => Projection::Entries,
            other => other,
        };
        let filter = Filter { show, projection, namespace: wanted.namespace, prefix: wanted.key_prefix };
        let left = if wanted.limit == 0 { u64::MAX } else { wanted.limit };
        Ok(Self { parts, current, filter: Arc::new(filter), left })
    }

    /// The rows, page by page, each page with the token that leads behind it.
    pub(in crate::grpc) fn pages(self) -> impl Stream<Item = Result<(Vec<S::Row>, Bytes), Status>> + Send {
        stream::try_unfold(self, |mut scan| async move {
            let page = scan.page().await?;
            Ok(page.map(|page| (page, scan)))
        })
        .map(|page| page.map_err(|refused: Refused| refused.to_status()))
    }

    async fn page(&mut self) -> Result<Option<(Vec<S::Row>, Bytes)>, Refused> {
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
                return Ok(Some((page.rows, page_token)));
            }
        }
        Ok(None)
    }
}

impl<S: Show> Filter<S> {
    /// Wants all rows, whole.
    pub(in crate::grpc) fn all(show: S) -> Self {
        Self { show, projection: Projection::Entries, namespace: None, prefix: Vec::new() }
    }

    /// The rows of a look that ends where an answer has enough.
    pub(in crate::grpc) fn some(&self, frozen: &Frozen, start: Vec<u8>, end: &[u8]) -> Result<Page<S::Row>, Refused> {
        self.page(frozen, start, end, PAGE_ROWS)
    }

    fn page(&self, frozen: &Frozen, mut start: Vec<u8>, end: &[u8], most: usize) -> Result<Page<S::Row>, Refused> {
        let rows = Rows { read: frozen.view.as_ref(), clocks: frozen.clocks };
        let (mut found, mut bytes) = (Vec::new(), 0);
        loop {
            let (mut looked, mut next) = (0, None);
            let mut visit = |row_key: &[u8], header: &Header, payload: &[u8]| -> Result<_, Refused> {
                let Some(parsed) = key::parse(row_key) else { return Ok(ControlFlow::Continue(())) };
                looked += 1;
                let skip_to = self.skip_to(&parsed);
                if self.wants(&parsed) {
                    bytes += row_key.len() + payload.len();
                    found.extend(self.show.show(self.projection, &Found { frozen, key: parsed, header, payload }));
                }
                // Whole runs are skipped by a new look; a row that is not wanted is passed by.
                if let Some(skip_to) = skip_to {
                    next = Some(skip_to);
                    return Ok(ControlFlow::Break(()));
                }
                if found.len() >= most || looked >= PAGE_ROWS || bytes >= PAGE_BYTES {
                    next = Some([row_key, &[0]].concat());
                    return Ok(ControlFlow::Break(()));
                }
                Ok(ControlFlow::Continue(()))
            };
            if S::EXPIRED {
                rows.scan_stored(&frozen.state, &start, end, &mut visit)?;
            } else {
                rows.scan(&frozen.state, &start, end, &mut visit)?;
            }
            match next {
                Some(next) if found.len() >= most || looked >= PAGE_ROWS || bytes >= PAGE_BYTES => {
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
