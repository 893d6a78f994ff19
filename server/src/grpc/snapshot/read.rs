//! A snapshot's rows, key group by key group.

use std::sync::Arc;

use forebay_proto::{key_group::KeyGroupRange, reason::Refused, v1};
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use v1::ErrorReason as Reason;

use crate::{
    grpc::state::{items::Items, scan::Filter},
    shard::{AtCheckpoint, Shards, key},
};

/// Messages on their way to a slow reader.
const AHEAD: usize = 4;

type Answer = Result<v1::ReadSnapshotResponse, Status>;

/// Reads a registered snapshot.
pub(super) async fn rows(
    shards: &Shards,
    request: v1::ReadSnapshotRequest,
) -> Result<impl Stream<Item = Answer> + Send + use<>, Refused> {
    let handle = request.handle.unwrap_or_default();
    let (answers, stream) = mpsc::channel(AHEAD);
    if !handle.empty {
        let snapshot = shards.at_snapshot(&handle).await?;
        let range = if request.end == 0 {
            snapshot.range
        } else {
            let asked = KeyGroupRange::new(request.start, request.end).ok();
            asked.and_then(|asked| asked.intersection(snapshot.range)).ok_or_else(|| {
                let message =
                    format!("key groups [{},{}): the snapshot has {}", request.start, request.end, snapshot.range);
                Refused::new(Reason::KeyGroupOutOfRange, message).field("start")
            })?
        };
        let states = states(&snapshot, &handle, &request.states)?;
        tokio::task::spawn_blocking(move || {
            if let Err(refused) = read(&snapshot, range, states, &answers) {
                // An error means that the reader has gone.
                answers.blocking_send(Err(refused.into())).ok();
            }
        });
    }
    Ok(ReceiverStream::new(stream))
}

/// The states of the snapshot's operator that are asked for.
fn states(
    snapshot: &AtCheckpoint,
    handle: &v1::SnapshotHandle,
    names: &[String],
) -> Result<Vec<v1::RegisteredState>, Refused> {
    let operator = handle.snapshot.as_ref().map_or("", |snapshot| &snapshot.operator);
    let name = |state: &v1::RegisteredState| state.descriptor.clone().unwrap_or_default().name;
    let known: Vec<_> = snapshot.states.iter().filter(|state| state.operator == operator).cloned().collect();
    if let Some(unknown) = names.iter().find(|wanted| !known.iter().any(|state| name(state) == **wanted)) {
        let message = format!("operator {operator:?} had no state {unknown:?} when the snapshot was taken");
        return Err(Refused::new(Reason::StateUnknown, message).field("states"));
    }
    Ok(known.into_iter().filter(|state| names.is_empty() || names.contains(&name(state))).collect())
}

fn read(
    snapshot: &Arc<AtCheckpoint>,
    range: KeyGroupRange,
    states: Vec<v1::RegisteredState>,
    answers: &mpsc::Sender<Answer>,
) -> Result<(), Refused> {
    let open = |state: &v1::RegisteredState| {
        let descriptor = state.descriptor.clone().unwrap_or_default();
        Some((state.id, snapshot.frozen(state.id)?, Filter::all(Items { descriptor })))
    };
    let opened: Vec<_> = states.iter().filter_map(open).collect();
    let mut states = Some(states);
    let mut tell = |state_id, rows| {
        let states = states.take().unwrap_or_default();
        answers.blocking_send(Ok(v1::ReadSnapshotResponse { states, state_id, rows })).is_ok()
    };
    for group in range.iter() {
        for (id, frozen, filter) in &opened {
            let mut start = group.row_prefix().to_vec();
            let end = key::successor(&start);
            loop {
                let page = filter.some(frozen, start, &end)?;
                if !page.rows.is_empty() && !tell(*id, page.rows) {
                    return Ok(());
                }
                match page.next {
                    Some(next) => start = next,
                    None => break,
                }
            }
        }
    }
    Ok(())
}

/// The refusal of a snapshot that is not registered.
pub(super) fn unknown(handle: &v1::SnapshotHandle) -> Refused {
    let snapshot = handle.snapshot.clone().unwrap_or_default();
    let message = format!(
        "snapshot {:?} of job {:?}, {} [{},{}), is not registered: it was discarded",
        snapshot.external_id, handle.job, snapshot.operator, snapshot.start, snapshot.end
    );
    Refused::new(Reason::CheckpointUnknown, message).field("handle")
}
