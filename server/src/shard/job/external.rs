//! Shards of this server that another engine has opened: frozen when it says so, uploaded when the coordinator does.
//!
//! The two come by different ways, so what is frozen waits here. An engine's retry finds what its first call has
//! frozen; what became of a snapshot is remembered for a while for those who still wait for it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use forebay_proto::{reason::Refused, v1};
use tokio::sync::Notify;
use v1::{ErrorReason as Reason, link_request::Message as Up};

use super::{
    super::{core::Snapshot, disk, lanes::LaneId, thread::Shard},
    Job, Status, View,
};

/// Snapshots that are remembered, done or not.
const REMEMBERED_MAX: usize = 256;

/// Operator, range, token of the opening, and the engine's id.
type Key = (String, u32, u32, u64, String);

/// What other engines have asked for.
#[derive(Debug, Default)]
pub(super) struct Engines {
    asked: Mutex<Asked>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Asked {
    phases: BTreeMap<Key, Phase>,
    /// The oldest first.
    order: VecDeque<Key>,
}

#[derive(Debug)]
enum Phase {
    /// For its batch.
    Waiting,
    /// At this time; empty once it is being uploaded.
    Frozen(i64, Option<Box<Snapshot>>),
    /// Registered; it was frozen at this time.
    Taken(i64),
    Failed(Refused),
}

impl Engines {
    /// True if the caller is the one to freeze it.
    fn begin(&self, key: &Key) -> bool {
        let mut asked = self.lock();
        let Asked { phases, order } = &mut *asked;
        if matches!(phases.get(key), Some(Phase::Waiting | Phase::Frozen(..))) {
            return false;
        }
        order.retain(|known| known != key);
        order.push_back(key.clone());
        phases.insert(key.clone(), Phase::Waiting);
        while order.len() > REMEMBERED_MAX {
            let is_over = |key: &Key| !matches!(phases.get(key), Some(Phase::Waiting | Phase::Frozen(..)));
            let Some(oldest) = order.iter().position(is_over).and_then(|at| order.remove(at)) else { break };
            phases.remove(&oldest);
        }
        true
    }

    /// Takes what was frozen, or why not; nothing if it was given up meanwhile.
    fn done(&self, key: &Key, frozen: Result<Snapshot, Refused>) {
        if let Some(phase @ Phase::Waiting) = self.lock().phases.get_mut(key) {
            *phase = match frozen {
                Ok(snapshot) => Phase::Frozen(snapshot.record.frozen_ms, Some(Box::new(snapshot))),
                Err(refused) => Phase::Failed(refused),
            };
        }
        self.news.notify_waiters();
    }

    /// It is registered: a later request of its id asks the coordinator, or is for another one.
    fn taken(&self, key: &Key) {
        if let Some(phase) = self.lock().phases.get_mut(key)
            && let Phase::Frozen(at_ms, _) = phase
        {
            *phase = Phase::Taken(*at_ms);
        }
    }

    fn fail(&self, key: &Key, cause: Refused) {
        if let Some(phase) = self.lock().phases.get_mut(key) {
            *phase = Phase::Failed(cause);
        }
        self.news.notify_waiters();
    }

    /// Gives up what is frozen of a shard that is not here any more: it holds the database open.
    fn closed(&self, entry: &v1::ShardEntry) {
        let token = entry.external.as_ref().map_or(0, |opening| opening.token);
        let of_shard = |key: &Key| (&key.0, key.1, key.2, key.3) == (&entry.operator, entry.start, entry.end, token);
        for (_, phase) in self.lock().phases.iter_mut().filter(|(key, _)| of_shard(key)) {
            if let Phase::Waiting | Phase::Frozen(..) = phase {
                let cause = "its shard was closed, or opened anew";
                *phase = Phase::Failed(Refused::new(Reason::CheckpointAborted, cause));
            }
        }
        self.news.notify_waiters();
    }

    fn take(&self, key: &Key) -> Option<Box<Snapshot>> {
        match self.lock().phases.get_mut(key)? {
            Phase::Frozen(_, snapshot) => snapshot.take(),
            _ => None,
        }
    }

    /// Waits until it is frozen, and returns when that was.
    async fn frozen(&self, key: &Key) -> Result<i64, Refused> {
        loop {
            let mut news = std::pin::pin!(self.news.notified());
            news.as_mut().enable();
            match self.lock().phases.get(key) {
                Some(Phase::Frozen(at_ms, _) | Phase::Taken(at_ms)) => return Ok(*at_ms),
                Some(Phase::Failed(refused)) => return Err(refused.clone()),
                Some(Phase::Waiting) | None => {}
            }
            news.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Asked> {
        // Nothing here can panic halfway.
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Job {
    /// Freezes a shard exactly at a batch; see [`Shards::freeze_at`](super::super::Shards::freeze_at).
    pub async fn freeze_at(self: &Arc<Self>, request: &v1::TakeSnapshotRequest) -> Result<i64, Refused> {
        let shard = opened(&self.view(), &request.shard, request.token)?;
        let lane = LaneId::from_slice(&request.lane).ok_or_else(|| {
            let message = format!("lane has {} bytes: it is the 16 bytes that OpenLane answered", request.lane.len());
            Refused::new(Reason::FieldInvalid, message).field("lane")
        })?;
        if request.external_id.is_empty() {
            return Err(Refused::new(Reason::FieldMissing, "external_id is empty").field("external_id"));
        }
        let key = key(&request.shard, request.token, &request.external_id);
        if self.engines.begin(&key) {
            let (job, key, after) = (self.clone(), key.clone(), request.after);
            // A caller that goes away does not take it along: its retry will look for it.
            tokio::spawn(async move { job.engines.done(&key, shard.freeze_at(lane, after).await) });
        }
        self.engines.frozen(&key).await
    }

    /// Waits until a shard is frozen; a request that comes first waits for the other.
    pub async fn frozen(&self, request: &v1::AwaitFrozenRequest) -> Result<i64, Refused> {
        opened(&self.view(), &request.shard, request.token)?;
        self.engines.frozen(&key(&request.shard, request.token, &request.external_id)).await
    }

    /// Gives up what is frozen.
    pub fn thaw(&self, shard: &Option<v1::ExternalShard>, token: u64, external_id: &str, cause: Refused) {
        self.engines.fail(&key(shard, token, external_id), cause);
    }

    /// Takes note that a snapshot is registered.
    pub fn taken(&self, request: &v1::TakeSnapshotRequest) {
        self.engines.taken(&key(&request.shard, request.token, &request.external_id));
    }

    /// Uploads what was frozen for another engine, for the round that the coordinator has begun.
    pub fn upload_frozen(self: &Arc<Self>, command: v1::SnapshotCommand) {
        let v1::SnapshotCommand { operator, start, end, token, external_id, .. } = command;
        let key = (operator.clone(), start, end, token, external_id);
        let Some(mut snapshot) = self.engines.take(&key) else {
            return self.say(Up::Failed(v1::SnapshotFailed {
                job_uid: self.uid.clone(),
                checkpoint: command.checkpoint,
                round: command.round,
                operator,
                start,
                end,
                cause: "nothing is frozen under that id: send TakeSnapshot to the shard's own server".into(),
                uploaded: Vec::new(),
            }));
        };
        snapshot.bases = command.bases;
        snapshot.barrier = v1::BarrierOp {
            checkpoint: command.checkpoint,
            round: command.round,
            base: command.base,
            coordinator_epoch: command.coordinator_epoch,
        };
        let job = self.clone();
        tokio::spawn(async move {
            let dir = disk::ShardDir::new(&job.dir, &operator, start, end);
            job.say(job.upload(*snapshot, &dir).await);
        });
    }

    /// Removes what is left of shards that their engine has closed, but for what other snapshots still need.
    pub(super) fn drop_closed(&self, before: &View, wanted: &v1::JobAssignment) {
        let place = |entry: &v1::ShardEntry| (entry.operator.clone(), entry.start, entry.end);
        let stays = |entry: &v1::ShardEntry| wanted.shards.iter().find(|other| place(other) == place(entry));
        let external = before.slots.iter().map(|slot| &slot.entry).filter(|entry| entry.external.is_some());
        for entry in external.clone().filter(|entry| stays(entry).is_none_or(|other| other.epoch != entry.epoch)) {
            self.engines.closed(entry);
        }
        if external.clone().any(|entry| stays(entry).is_none()) {
            self.remove_others(wanted.shards.iter(), |id| {
                wanted.retained.contains(&id) || self.rounds.is_under_way(id)
            });
        }
    }
}

fn key(shard: &Option<v1::ExternalShard>, token: u64, external_id: &str) -> Key {
    let shard = shard.clone().unwrap_or_default();
    (shard.operator, shard.start, shard.end, token, external_id.to_owned())
}

/// The shard that was opened under a token.
fn opened(view: &View, shard: &Option<v1::ExternalShard>, token: u64) -> Result<Arc<Shard>, Refused> {
    let shard = shard.clone().unwrap_or_default();
    let (operator, start, end) = (&shard.operator, shard.start, shard.end);
    let same = |slot: &&super::Slot| (&slot.entry.operator, slot.entry.start, slot.entry.end) == (operator, start, end);
    let Some((slot, opening)) =
        view.slots.iter().find(same).and_then(|slot| Some((slot, slot.entry.external.as_ref()?)))
    else {
        let message =
            format!("no shard {operator} [{start},{end}) is open on this server: look up the routing, or open it");
        return Err(Refused::new(Reason::ShardMoved, message));
    };
    if opening.token > token {
        let message = format!("token {token} of {operator} [{start},{end}) is fenced by {}", opening.token);
        return Err(Refused::new(Reason::WriterFenced, message).with("token", opening.token));
    }
    if opening.token < token {
        let message =
            format!("{operator} [{start},{end}) is open under token {} here: retry in a moment", opening.token);
        return Err(Refused::new(Reason::ServerBehind, message));
    }
    match &slot.status {
        Status::Serving(shard) => Ok(shard.clone()),
        Status::Restoring => {
            Err(Refused::new(Reason::ShardRestoring, "the shard is being restored: retry in a moment"))
        }
        Status::Unavailable(refused) => Err(refused.clone()),
    }
}
