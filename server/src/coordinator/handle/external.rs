//! The handle's part for engines that own their shards and snapshots: semantics.md, section 11.

use forebay_proto::{reason::Refused, v1};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use v1::{ErrorReason as Reason, ExternalVerdict as Verdict};

use super::{super::external, Coordinator, restoring, wrong_answer};
use crate::{
    checkpoint::manifest,
    coordinator::{
        external::{Opening, Wish},
        job::Job,
        machine::{Answer, Event},
    },
};

/// Manifests that are read at a time.
const PARALLEL: usize = 8;

impl Coordinator {
    /// Opens a shard and waits until it can be written.
    pub async fn open_shard(&self, request: v1::OpenShardRequest) -> Result<v1::OpenShardResponse, Refused> {
        let shard = request.shard.unwrap_or_default();
        let job = self.job(&shard.job)?;
        let head = &job.seen().head;
        let range = external::check(head, &shard)?;
        let parts = external::parts(&head.job_uid, &shard.operator, range, &request.restore)?;
        let opening = Opening {
            operator: shard.operator,
            start: range.start(),
            end: range.end(),
            token: request.token,
            parts,
            states: request.states,
        };
        match ask(&job, Wish::Open(opening)).await? {
            Answer::Opened(opened) => Ok(*opened),
            _ => Err(wrong_answer()),
        }
    }

    /// Closes a shard.
    pub async fn close_shard(&self, request: v1::CloseShardRequest) -> Result<(), Refused> {
        let shard = request.shard.unwrap_or_default();
        let job = self.job(&shard.job)?;
        external::check(&job.seen().head, &shard)?;
        ask(&job, Wish::Close(shard, request.token)).await.map(drop)
    }

    /// Has what a shard's server has frozen uploaded and registered, and returns its handle.
    pub async fn take_snapshot(&self, request: v1::TakeSnapshotRequest) -> Result<v1::SnapshotHandle, Refused> {
        let shard = request.shard.clone().unwrap_or_default();
        let job = self.job(&shard.job)?;
        match ask(&job, Wish::Take(request)).await? {
            Answer::Snapshot(snapshot) => self.handle(&shard.job, &job.seen().head.job_uid, &snapshot).await,
            _ => Err(wrong_answer()),
        }
    }

    /// Gives up a snapshot that is not registered yet; true if there was one.
    pub async fn cancel_snapshot(&self, request: v1::CancelSnapshotRequest) -> Result<bool, Refused> {
        let shard = request.shard.unwrap_or_default();
        let job = self.job(&shard.job)?;
        external::check(&job.seen().head, &shard)?;
        was(ask(&job, Wish::Cancel(shard, request.token, request.external_id)).await?)
    }

    /// Takes note of what became of an engine's checkpoint.
    pub async fn judge_snapshot(
        &self,
        shard: v1::ExternalShard,
        token: u64,
        external_id: String,
        verdict: Verdict,
    ) -> Result<(), Refused> {
        let job = self.job(&shard.job)?;
        external::check(&job.seen().head, &shard)?;
        ask(&job, Wish::Judge(shard, token, external_id, verdict)).await.map(drop)
    }

    /// Ends the pin of a snapshot; true if there was one. What is not known, or of a job that is gone, has none.
    pub async fn discard_snapshot(&self, handle: &v1::SnapshotHandle) -> Result<bool, Refused> {
        let Some(snapshot) = &handle.snapshot else {
            return Err(Refused::new(Reason::FieldMissing, "the handle holds no snapshot").field("handle"));
        };
        match self.of_handle(handle)? {
            Some(job) => was(ask(&job, Wish::Discard(snapshot.manifest.clone())).await?),
            None => Ok(false),
        }
    }

    /// The registered snapshots of a job, by operator, range and time.
    pub async fn list_snapshots(&self, request: v1::ListSnapshotsRequest) -> Result<Vec<v1::SnapshotHandle>, Refused> {
        let seen = self.seen(&request.job)?;
        let wanted = |snapshot: &&v1::ExternalSnapshot| {
            (request.operator.is_empty() || snapshot.operator == request.operator)
                && (request.external_id.is_empty() || snapshot.external_id == request.external_id)
                && (request.end == 0 || (snapshot.start, snapshot.end) == (request.start, request.end))
        };
        let mut snapshots: Vec<_> = seen.head.external_snapshots.iter().filter(wanted).cloned().collect();
        let order = |it: &v1::ExternalSnapshot| (it.operator.clone(), it.start, it.end, it.checkpoint);
        snapshots.sort_by_key(order);
        let mut handles = Vec::new();
        for snapshot in &snapshots {
            handles.push(self.handle(&request.job, &seen.head.job_uid, snapshot));
        }
        stream::iter(handles).buffered(PARALLEL).try_collect().await
    }

    /// The handle of a registered snapshot, the same whenever it is asked for.
    async fn handle(
        &self,
        job: &str,
        uid: &str,
        snapshot: &v1::ExternalSnapshot,
    ) -> Result<v1::SnapshotHandle, Refused> {
        let entry = manifest::of_external(snapshot);
        let opened = manifest::open(&self.stores, &self.cluster.job(job, uid), &entry).await;
        let (manifest, _) = opened.map_err(|error| restoring::refused(&error.into()))?;
        let record = manifest.external.unwrap_or_default();
        Ok(v1::SnapshotHandle {
            job: job.to_owned(),
            job_uid: uid.to_owned(),
            snapshot: Some(v1::ExternalSnapshot { verdict: Verdict::Unspecified.into(), ..snapshot.clone() }),
            manifest_crc32c: snapshot.manifest_crc32c,
            manifest_bytes: snapshot.manifest_bytes,
            new_bytes: snapshot.new_bytes,
            empty: snapshot.files == 0,
            user_bytes: record.user_bytes,
            frozen_ms: record.frozen_ms,
        })
    }

    /// The job that a handle is of; `None` if it is gone.
    fn of_handle(&self, handle: &v1::SnapshotHandle) -> Result<Option<std::sync::Arc<Job>>, Refused> {
        match self.job(&handle.job) {
            Ok(job) => Ok((job.seen().head.job_uid == handle.job_uid).then_some(job)),
            Err(refused) if refused.reason == Reason::JobUnknown => Ok(None),
            Err(refused) => Err(refused),
        }
    }
}

async fn ask(job: &Job, wish: Wish) -> Result<Answer, Refused> {
    job.ask(|token| Event::External { token, wish: Box::new(wish) }).await
}

fn was(answer: Answer) -> Result<bool, Refused> {
    match answer {
        Answer::Was(was) => Ok(was),
        _ => Err(wrong_answer()),
    }
}
