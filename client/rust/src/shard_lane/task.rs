//! The lane's own task: connects, waits, looks up a moved shard.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use forebay_proto::{
    reason::Refused,
    v1::{ErrorReason, stream_request::Message as Request},
};
use tokio::time::{sleep, timeout};

use super::{Cell, Phase, State, ends_lanes};
use crate::{
    backoff::{BACKOFF_MAX, backoff},
    lane::Status,
    routing::Router,
    stream::{Shared, Streams},
};

/// A server that has not answered an OpenLane within this time is asked on a new stream.
const OPENING_MAX: Duration = Duration::from_secs(20);
/// Why a lane waits is logged again after this time.
const TOLD_AGAIN: Duration = Duration::from_secs(60);

/// What the lane's task does next.
enum Next {
    Rest,
    Attach { moved: bool },
    Wait(Refused),
    Credit(Arc<Shared>, u32),
    Opening,
    End(Refused),
}

/// Keeps a lane attached until it ends.
pub(super) async fn run(cell: Arc<Cell>, streams: Arc<Streams>, router: Arc<Router>) {
    let mut waits = backoff();
    let mut fresh = true;
    let mut told: Option<(ErrorReason, Instant)> = None;
    loop {
        let next = cell.lock().next();
        match next {
            Next::Rest => {
                (waits, fresh) = (backoff(), true);
                cell.phase.send_replace(Phase::Open);
                cell.wake.notified().await;
            }
            Next::Credit(stream, charge) => {
                let ready = async { stream.credit.acquire_many(charge).await.is_ok() };
                tokio::select! {
                    _ = ready => cell.change(|state| { state.stalled = None; Vec::new() }),
                    () = cell.wake.notified() => {}
                }
            }
            Next::Opening => {
                // A new lane is being opened: what the server says wakes us, or the stream's end.
                if timeout(OPENING_MAX, cell.wake.notified()).await.is_err() {
                    cell.lock().detach();
                }
            }
            Next::Wait(refused) => {
                // Not with every attempt, but again and again: a full disk or memory may need somebody to act.
                if told.is_none_or(|(reason, at)| reason != refused.reason || at.elapsed() > TOLD_AGAIN) {
                    told = Some((refused.reason, Instant::now()));
                    let (reason, message) = (refused.reason.name(), &refused.message);
                    tracing::warn!(reason, message, "the shard refuses for now: its writes wait and are sent again");
                }
                let wait = waits.next().unwrap_or(BACKOFF_MAX).max(refused.retry_after.unwrap_or_default());
                sleep(wait).await;
                cell.change(|state| {
                    state.lane.retry();
                    Vec::new()
                });
            }
            Next::Attach { moved } => {
                cell.phase.send_replace(Phase::Connecting);
                match attach(&cell, &streams, &router, moved || !fresh).await {
                    Ok(()) => {}
                    Err(refused) if ends_lanes(&refused) || is_deleted(&refused) => {
                        cell.change(|state| state.lane.end(refused));
                    }
                    Err(refused) => {
                        tracing::debug!(reason = refused.reason.name(), message = refused.message, "lane waits");
                        sleep(waits.next().unwrap_or(BACKOFF_MAX)).await;
                    }
                }
                fresh = false;
            }
            Next::End(reason) => {
                cell.phase.send_replace(Phase::Ended(reason));
                return;
            }
        }
    }
}

impl State {
    fn next(&self) -> Next {
        match (self.lane.status(), &self.stream) {
            (Status::Ended(reason), _) => Next::End(reason.clone()),
            (Status::Waiting(refused), _) => Next::Wait(refused.clone()),
            (Status::Moved(_), _) => Next::Attach { moved: true },
            (Status::Detached, _) | (_, None) => Next::Attach { moved: false },
            (Status::Opening, Some(_)) => Next::Opening,
            (Status::Open, Some((stream, _))) => match self.stalled {
                Some(charge) => Next::Credit(stream.clone(), charge),
                None => Next::Rest,
            },
        }
    }
}

/// True if the coordinator does not know the job.
fn is_deleted(refused: &Refused) -> bool {
    refused.reason == ErrorReason::JobUnknown
}

async fn attach(cell: &Arc<Cell>, streams: &Streams, router: &Router, look_up: bool) -> Result<(), Refused> {
    if look_up {
        router.refresh().await?;
    }
    let target = cell.lock().lane.target().clone();
    let route = router.known(&target)?;
    let stream = streams.get(&route.address).await.map_err(|refused| match refused.reason {
        // A server that has just started has not heard of its jobs yet: the coordinator knows.
        ErrorReason::JobUnknown => Refused::new(ErrorReason::ShardMoved, refused.message),
        _ => refused,
    })?;
    let mut state = cell.lock();
    if matches!(state.lane.status(), Status::Ended(_)) {
        return Ok(());
    }
    state.detach();
    let channel = stream.register(cell);
    state.lane.moved(route.epoch);
    let open = state.lane.attach(channel, stream.window());
    state.stream = Some((stream.clone(), channel));
    if !stream.send(Request::OpenLane(open)) {
        state.detach();
        let gone = Refused::new(ErrorReason::Draining, "the stream has just ended");
        return Err(stream.broken().cloned().unwrap_or(gone));
    }
    Ok(())
}
