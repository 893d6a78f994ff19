//! Which server has what, and gets what: servers and their loads, moves, drains.

use std::{collections::HashMap, sync::Arc};

use forebay_proto::{reason::Refused, v1};
use tokio::{sync::mpsc, time::sleep};
use v1::ErrorReason as Reason;

use super::Coordinator;
use crate::coordinator::{
    assign, external,
    job::{Job, Seen},
    machine::Event,
    round,
};

/// How often a drain tries to move a shard.
const TRIES_MAX: u32 = 3;

const WOULD_MOVE: &str = "would move";
pub(super) const DONE: &str = "done";

/// Who is told how far it is. A receiver that is gone does not end a move.
pub type Progress = mpsc::UnboundedSender<v1::ShardProgress>;

impl Coordinator {
    /// The servers.
    pub fn list_servers(&self) -> Vec<v1::ServerInfo> {
        self.servers.list(&self.shards_of_servers())
    }

    /// What the servers have to bear.
    pub(super) fn loads(&self) -> assign::Loads {
        self.servers.loads(&self.shards_of_servers())
    }

    /// Tells all jobs what the servers have to bear, and returns it.
    pub(super) async fn tell_loads(&self) -> assign::Loads {
        let loads = Arc::new(self.loads());
        self.tell_all(|| Event::Loads(loads.clone())).await;
        Arc::unwrap_or_clone(loads)
    }

    fn shards_of_servers(&self) -> HashMap<String, u32> {
        let mut shards: HashMap<String, u32> = HashMap::new();
        for seen in self.all() {
            for entry in &seen.head.shards {
                *shards.entry(entry.server.clone()).or_default() += 1;
            }
        }
        shards
    }

    /// Moves a shard to another server and returns once it serves there.
    pub async fn move_shard(&self, request: v1::MoveShardRequest, progress: &Progress) -> Result<(), Refused> {
        let v1::MoveShardRequest { job: name, operator, start, end, server: to, dry_run } = request;
        let job = self.job(&name)?;
        let place = (operator, start, end);
        let from = server_of(&job.seen(), &place);
        let asked = (place.clone(), to.clone());
        let moved = job.ask(|token| Event::Move { token, place: asked.0, to: asked.1, dry_run });
        follow(&job, &place, moved, progress).await?;
        let step = if dry_run { WOULD_MOVE } else { DONE };
        progress.send(told(&name, &place, step, &from, &to)).ok();
        Ok(())
    }

    /// Lets a server get no more shards, and moves those that it has, one after the other.
    pub async fn drain(&self, request: v1::DrainServerRequest, progress: &Progress) -> Result<(), Refused> {
        let v1::DrainServerRequest { server, dry_run, cancel } = request;
        if !self.loads().contains_key(&server) {
            let message = format!("there is no server {server:?}: `forebayctl servers list` tells the names");
            return Err(Refused::new(Reason::ServerUnknown, message).field("server"));
        }
        if !dry_run {
            self.servers.drain(&server, !cancel);
            self.tell_loads().await;
        }
        if cancel {
            return Ok(());
        }
        if dry_run {
            return self.would_leave(&server, progress);
        }
        let mut tries = 0;
        while let Some((job, entry)) = self.first_of(&server) {
            let v1::ShardEntry { operator, start, end, .. } = entry;
            let to = self.best_but(&server, &self.seen(&job)?.head.shards)?;
            let request = v1::MoveShardRequest { job, operator, start, end, server: to, dry_run };
            match self.move_shard(request, progress).await {
                Ok(()) => tries = 0,
                Err(refused) => {
                    tries += 1;
                    let Some(wait) = refused.reason.retry_after().filter(|_| tries < TRIES_MAX) else {
                        return Err(refused);
                    };
                    tracing::warn!(server, cause = refused.message, "a shard could not be moved: it is tried again");
                    sleep(wait).await;
                }
            }
        }
        match self.all().iter().flat_map(|seen| &seen.head.shards).filter(|entry| entry.server == server).count() {
            0 => Ok(()),
            left => {
                let message = format!(
                    "{left} shards of {server:?} are opened by another engine: they go elsewhere when that opens them anew"
                );
                Err(Refused::new(Reason::SettingsConflict, message))
            }
        }
    }

    /// Tells where a server's shards would go.
    fn would_leave(&self, server: &str, progress: &Progress) -> Result<(), Refused> {
        for seen in self.all() {
            let mut head = seen.head.clone();
            let name = head.spec.as_ref().map(|spec| spec.name.clone()).unwrap_or_default();
            for at in 0..head.shards.len() {
                let entry = head.shards[at].clone();
                if entry.server != server || !external::is_own(&entry) {
                    continue;
                }
                let to = self.best_but(server, &head.shards)?;
                head.shards[at].server.clone_from(&to);
                progress.send(told(&name, &round::place(&entry), WOULD_MOVE, server, &to)).ok();
            }
        }
        Ok(())
    }

    /// A shard on a server that is to leave it, with its job.
    fn first_of(&self, server: &str) -> Option<(String, v1::ShardEntry)> {
        self.all().iter().find_map(|seen| {
            let leaves = |entry: &&v1::ShardEntry| entry.server == server && external::is_own(entry);
            Some((seen.head.spec.as_ref()?.name.clone(), seen.head.shards.iter().find(leaves)?.clone()))
        })
    }

    /// Where a shard of a job goes that leaves a server.
    fn best_but(&self, server: &str, shards: &[v1::ShardEntry]) -> Result<String, Refused> {
        let loads = self.loads();
        let is_drained = |name: &str| loads.get(name).is_some_and(|load| load.draining);
        let others = self.servers.up().into_iter().map(|(name, _)| name);
        let others: Vec<_> = others.filter(|name| name != server && !is_drained(name)).collect();
        assign::best(shards, &others, &loads).cloned().ok_or_else(|| {
            let message = format!("there is no other server that could take the shards of {server:?}: start one");
            Refused::new(Reason::ServerUnknown, message)
        })
    }
}

/// Tells how far a job is with shards until what was asked of it is done.
pub(super) async fn follow<T>(
    job: &Job,
    place: &round::Place,
    asked: impl Future<Output = Result<T, Refused>>,
    progress: &Progress,
) -> Result<T, Refused> {
    let mut asked = std::pin::pin!(asked);
    let (mut seen, mut last) = (job.watch(), None);
    loop {
        tokio::select! {
            answer = &mut asked => return answer,
            changed = seen.changed(), if !seen.borrow().head.deleted => {
                let of = |it: &&v1::ShardProgress| (&it.operator, it.start, it.end) == (&place.0, place.1, place.2);
                let now = seen.borrow_and_update().moves.iter().find(of).cloned();
                if now.is_some() && now != last {
                    now.clone().map(|now| progress.send(now).ok());
                    last = now;
                }
                if changed.is_err() {
                    // The job's task has ended: so has the question.
                    return asked.await;
                }
            }
        }
    }
}

pub(super) fn told(job: &str, place: &round::Place, step: &str, from: &str, to: &str) -> v1::ShardProgress {
    let (operator, start, end) = place.clone();
    let [job, step, from, to] = [job, step, from, to].map(str::to_owned);
    v1::ShardProgress { job, operator, start, end, step, from, to, ..Default::default() }
}

fn server_of(seen: &Arc<Seen>, place: &round::Place) -> String {
    let entry = seen.head.shards.iter().find(|entry| round::place(entry) == *place);
    entry.map(|entry| entry.server.clone()).unwrap_or_default()
}
