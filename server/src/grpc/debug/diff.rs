//! `DiffCheckpoints`: what is new, gone or other between two completed checkpoints, key by key.
//!
//! Both are opened shard by shard and walked side by side, some rows at a time. A key group of which both have the
//! same files is skipped: what is the same file is the same rows.

use std::{cmp::Ordering, collections::VecDeque, ops::ControlFlow, sync::Arc};

use forebay_proto::{
    key_group::{KeyGroup, KeyGroupRange},
    reason::Refused,
    v1,
};
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use v1::{Change, ErrorReason as Reason, ScanProjection as Projection};

use super::rows::Shown;
use crate::{
    grpc::state::scan::{Found, Show as _},
    shard::{
        AtCheckpoint, Shards,
        core::Frozen,
        key,
        ops::{Header, Rows},
    },
};

/// Bytes of rows that are looked at at a time, of each checkpoint.
const CHUNK_BYTES: usize = 1 << 20;
/// Differences of a message.
const MESSAGE: usize = 200;
/// Messages on their way to a slow reader.
const AHEAD: usize = 4;

type Answer = Result<v1::DiffCheckpointsResponse, Status>;

/// Compares the shards that are here.
pub(super) fn diff(
    shards: Shards,
    request: v1::DiffCheckpointsRequest,
) -> Result<impl Stream<Item = Answer> + Send, Refused> {
    let ranges = ranges(&shards, &request)?;
    let (answers, stream) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        if let Err(refused) = compare(&shards, &request, ranges, &answers).await {
            // An error means that the reader has gone.
            answers.send(Err(refused.into())).await.ok();
        }
    });
    Ok(ReceiverStream::new(stream))
}

/// The key groups that are asked for, by the operators' shards that are here.
fn ranges(shards: &Shards, request: &v1::DiffCheckpointsRequest) -> Result<Vec<(String, KeyGroupRange)>, Refused> {
    let view = shards.job(&request.job)?;
    let operators = || view.spec.operators.iter().map(|operator| &operator.name);
    if !request.operator.is_empty() && !operators().any(|name| *name == request.operator) {
        let message = format!("job {:?} has no operator {:?}", request.job, request.operator);
        return Err(Refused::new(Reason::OperatorUnknown, message).field("operator"));
    }
    let groups = view.spec.max_parallelism;
    let end = if request.end == 0 { groups } else { request.end };
    let asked = KeyGroupRange::new(request.start, end).ok().filter(|_| end <= groups).ok_or_else(|| {
        let message = format!("key groups [{},{end}): the job has [0,{groups})", request.start);
        Refused::new(Reason::FieldInvalid, message).field("start")
    })?;
    let mut ranges = Vec::new();
    for slot in &view.slots {
        let of_operator = request.operator.is_empty() || slot.entry.operator == request.operator;
        let range = KeyGroupRange::new(slot.entry.start, slot.entry.end).ok();
        if let Some(range) = range.and_then(|range| range.intersection(asked)).filter(|_| of_operator) {
            ranges.push((slot.entry.operator.clone(), range));
        }
    }
    if ranges.is_empty() {
        let message = "none of these key groups are on this server: ask the one that GetRouting names";
        return Err(Refused::new(Reason::ShardMoved, message));
    }
    ranges.sort_by_key(|(operator, range)| (operator.clone(), range.start()));
    Ok(ranges)
}

async fn compare(
    shards: &Shards,
    request: &v1::DiffCheckpointsRequest,
    ranges: Vec<(String, KeyGroupRange)>,
    answers: &mpsc::Sender<Answer>,
) -> Result<(), Refused> {
    let mut left = if request.limit == 0 { u64::MAX } else { request.limit };
    for (operator, range) in ranges {
        let mut start = range.start();
        while start < range.end() && left > 0 {
            let Some(group) = range.iter().find(|group| u32::from(group.get()) == start) else { break };
            let from = shards.at_checkpoint(&request.job, request.from, &operator, group).await?;
            let to = shards.at_checkpoint(&request.job, request.to, &operator, group).await?;
            let end = range.end().min(from.range.end()).min(to.range.end());
            let part =
                KeyGroupRange::new(start, end).map_err(|error| Refused::new(Reason::Internal, error.to_string()))?;
            let pair = Pair { from, to, part, state: request.state.clone(), notation: request.notation() };
            let (told, limit) = (answers.clone(), left);
            let done = tokio::task::spawn_blocking(move || pair.compare(limit, &told)).await;
            left -= done.unwrap_or_else(|panic| Err(Refused::new(Reason::Internal, panic.to_string())))?;
            start = end;
        }
    }
    Ok(())
}

/// The same key groups in two checkpoints.
struct Pair {
    from: Arc<AtCheckpoint>,
    to: Arc<AtCheckpoint>,
    part: KeyGroupRange,
    state: String,
    notation: v1::Notation,
}

impl Pair {
    /// Tells at most so many differences, and returns how many there were.
    fn compare(&self, limit: u64, answers: &mpsc::Sender<Answer>) -> Result<u64, Refused> {
        let mut out = Out { answers, response: v1::DiffCheckpointsResponse::default(), told: 0, limit };
        let mut states: Vec<&v1::RegisteredState> = self.to.states.iter().collect();
        states.extend(self.from.states.iter().filter(|state| !self.to.states.iter().any(|known| known.id == state.id)));
        states.sort_by_key(|state| state.id);
        let mut skipped = 0;
        for group in self.part.iter() {
            // What cannot be told by key group is read.
            let same = self.from.holds(group).is_some_and(|held| self.to.holds(group) == Some(held));
            skipped += u32::from(same);
            for state in states.iter().filter(|_| !same) {
                let descriptor = state.descriptor.clone().unwrap_or_default();
                let (from, to) = (self.from.frozen(state.id), self.to.frozen(state.id));
                if (self.state.is_empty() || self.state == descriptor.name) && (from.is_some() || to.is_some()) {
                    let shown = Shown { notation: self.notation, descriptor };
                    if walk(&state.operator, group, from.as_ref(), to.as_ref(), &shown, &mut out)?.is_break() {
                        return out.finish(skipped);
                    }
                }
            }
        }
        out.finish(skipped)
    }
}

/// Differences on their way.
struct Out<'a> {
    answers: &'a mpsc::Sender<Answer>,
    response: v1::DiffCheckpointsResponse,
    told: u64,
    limit: u64,
}

impl Out<'_> {
    fn tell(&mut self, difference: v1::Difference) -> ControlFlow<()> {
        self.response.differences.push(difference);
        self.told += 1;
        if self.response.differences.len() >= MESSAGE && self.send().is_err() {
            return ControlFlow::Break(());
        }
        if self.told >= self.limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn send(&mut self) -> Result<(), ()> {
        let rows = self.response.rows;
        let response =
            std::mem::replace(&mut self.response, v1::DiffCheckpointsResponse { rows, ..Default::default() });
        self.answers.blocking_send(Ok(response)).map_err(drop)
    }

    fn finish(mut self, skipped: u32) -> Result<u64, Refused> {
        self.response.skipped_key_groups = skipped;
        // A reader that has gone needs nothing more.
        self.send().ok();
        Ok(self.told)
    }
}

/// Walks a key group of a state in both checkpoints.
fn walk(
    operator: &str,
    group: KeyGroup,
    from: Option<&Frozen>,
    to: Option<&Frozen>,
    shown: &Shown,
    out: &mut Out<'_>,
) -> Result<ControlFlow<()>, Refused> {
    let (mut before, mut after) = (Cursor::new(from, group), Cursor::new(to, group));
    loop {
        let order = match (before.peek()?, after.peek()?) {
            (None, None) => return Ok(ControlFlow::Continue(())),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(before), Some(after)) => before.key.cmp(&after.key),
        };
        let before = if order.is_le() { before.next() } else { None };
        let after = if order.is_ge() { after.next() } else { None };
        out.response.rows += u64::from(before.is_some()) + u64::from(after.is_some());
        let change = match (&before, &after) {
            (Some(before), Some(after)) if same(before, after) => continue,
            (Some(_), Some(_)) => Change::Modified,
            (Some(_), None) => Change::Removed,
            (None, _) => Change::Added,
        };
        let difference = v1::Difference {
            operator: operator.to_owned(),
            state: shown.descriptor.name.clone(),
            change: change.into(),
            before: show(before.as_ref(), from, shown),
            after: show(after.as_ref(), to, shown),
        };
        if out.tell(difference).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
}

/// True if rows have the same value and deadline, whenever they were written.
fn same(before: &Row, after: &Row) -> bool {
    before.header.deadline_ms == after.header.deadline_ms && before.payload == after.payload
}

fn show(row: Option<&Row>, frozen: Option<&Frozen>, shown: &Shown) -> Option<v1::ShownEntry> {
    let (row, frozen) = (row?, frozen?);
    let key = key::parse(&row.key)?;
    shown.show(Projection::Entries, &Found { frozen, key, header: &row.header, payload: &row.payload })
}

/// A stored row.
struct Row {
    key: Vec<u8>,
    header: Header,
    payload: Vec<u8>,
}

/// The rows of a key group of a state, some at a time.
struct Cursor<'a> {
    frozen: Option<&'a Frozen>,
    rows: VecDeque<Row>,
    start: Vec<u8>,
    end: Vec<u8>,
}

impl<'a> Cursor<'a> {
    fn new(frozen: Option<&'a Frozen>, group: KeyGroup) -> Self {
        let start = group.row_prefix().to_vec();
        let end = key::successor(&start);
        Self { frozen, rows: VecDeque::new(), start, end }
    }

    fn peek(&mut self) -> Result<Option<&Row>, Refused> {
        if let Some(frozen) = self.frozen.filter(|_| self.rows.is_empty()) {
            let stored = Rows { read: frozen.view.as_ref(), clocks: frozen.clocks };
            let (rows, mut bytes) = (&mut self.rows, 0);
            stored.scan_stored(&frozen.state, &self.start, &self.end, &mut |key, header, payload| {
                bytes += key.len() + payload.len();
                rows.push_back(Row { key: key.to_vec(), header: *header, payload: payload.to_vec() });
                Ok(if bytes < CHUNK_BYTES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
            })?;
            match self.rows.back() {
                Some(last) => self.start = [&last.key[..], &[0]].concat(),
                None => self.frozen = None,
            }
        }
        Ok(self.rows.front())
    }

    fn next(&mut self) -> Option<Row> {
        self.rows.pop_front()
    }
}
