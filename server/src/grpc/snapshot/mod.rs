//! `SnapshotService`: shards and checkpoints that another engine owns (semantics.md, section 11).
//!
//! Shards are frozen and snapshots read where the shards are; everything else is the coordinator's, and is passed on to
//! it by servers that do not coordinate. So an engine may ask any process, but for the three calls that need the shard.

mod control;
mod read;

use std::pin::Pin;

use forebay_proto::{reason::Refused, v1};
use futures::Stream;
use tonic::{Request, Response, Status};
use v1::{ErrorReason as Reason, snapshot_service_server::SnapshotService};

use self::control::Control;
use super::Served;
use crate::shard::Shards;

/// Serves other engines.
#[derive(Debug)]
pub(super) struct SnapshotEdge {
    shards: Option<Shards>,
    control: Control,
}

impl SnapshotEdge {
    pub(super) fn new(served: &Served) -> Self {
        Self { shards: served.shards.clone(), control: Control::of(served) }
    }

    fn shards(&self) -> Result<&Shards, Refused> {
        self.shards.as_ref().ok_or_else(|| {
            let message = "this process holds no shards: ask the server that OpenShard answered";
            Refused::new(Reason::ShardMoved, message)
        })
    }

    fn thaw(&self, shard: &Option<v1::ExternalShard>, token: u64, external_id: &str, why: &str) {
        if let Some(shards) = &self.shards {
            let message = format!("snapshot {external_id:?} was given up: {why}");
            shards.thaw(shard, token, external_id, Refused::new(Reason::CheckpointAborted, message));
        }
    }
}

#[tonic::async_trait]
impl SnapshotService for SnapshotEdge {
    type ReadSnapshotStream = Pin<Box<dyn Stream<Item = Result<v1::ReadSnapshotResponse, Status>> + Send>>;

    async fn open_shard(
        &self,
        request: Request<v1::OpenShardRequest>,
    ) -> Result<Response<v1::OpenShardResponse>, Status> {
        let request = request.into_inner();
        present(&request.shard)?;
        Ok(Response::new(self.control.open_shard(request).await?))
    }

    async fn close_shard(
        &self,
        request: Request<v1::CloseShardRequest>,
    ) -> Result<Response<v1::CloseShardResponse>, Status> {
        let request = request.into_inner();
        present(&request.shard)?;
        Ok(Response::new(self.control.close_shard(request).await?))
    }

    async fn take_snapshot(
        &self,
        request: Request<v1::TakeSnapshotRequest>,
    ) -> Result<Response<v1::TakeSnapshotResponse>, Status> {
        let request = request.into_inner();
        present(&request.shard)?;
        let Some(shards) = self.shards.clone() else {
            // A server asks, which has frozen the shard.
            return Ok(Response::new(self.control.take_snapshot(request).await?));
        };
        // An engine that goes away has its snapshot taken all the same: it may ask again under the same id.
        let control = self.control.clone();
        let taken = tokio::spawn(async move { take(&shards, &control, request).await }).await;
        Ok(Response::new(taken.unwrap_or_else(|panic| Err(Status::internal(panic.to_string())))?))
    }

    async fn await_frozen(
        &self,
        request: Request<v1::AwaitFrozenRequest>,
    ) -> Result<Response<v1::AwaitFrozenResponse>, Status> {
        let request = request.into_inner();
        present(&request.shard)?;
        let frozen_ms = self.shards()?.frozen(&request).await?;
        Ok(Response::new(v1::AwaitFrozenResponse { frozen_ms }))
    }

    async fn cancel_snapshot(
        &self,
        request: Request<v1::CancelSnapshotRequest>,
    ) -> Result<Response<v1::CancelSnapshotResponse>, Status> {
        let request = request.into_inner();
        present(&request.shard)?;
        self.thaw(&request.shard, request.token, &request.external_id, "its engine cancelled it");
        Ok(Response::new(self.control.cancel_snapshot(request).await?))
    }

    async fn notify_complete(
        &self,
        request: Request<v1::NotifyCompleteRequest>,
    ) -> Result<Response<v1::NotifyCompleteResponse>, Status> {
        let request = request.into_inner();
        present(&request.shard)?;
        Ok(Response::new(self.control.notify_complete(request).await?))
    }

    async fn notify_aborted(
        &self,
        request: Request<v1::NotifyAbortedRequest>,
    ) -> Result<Response<v1::NotifyAbortedResponse>, Status> {
        let request = request.into_inner();
        present(&request.shard)?;
        self.thaw(&request.shard, request.token, &request.external_id, "its engine aborted the checkpoint");
        Ok(Response::new(self.control.notify_aborted(request).await?))
    }

    async fn notify_subsumed(
        &self,
        request: Request<v1::NotifySubsumedRequest>,
    ) -> Result<Response<v1::NotifySubsumedResponse>, Status> {
        // Its handles go by Discard, one by one, as the engine's other checkpoints cease to need them.
        present(&request.into_inner().shard)?;
        Ok(Response::new(v1::NotifySubsumedResponse {}))
    }

    async fn discard(&self, request: Request<v1::DiscardRequest>) -> Result<Response<v1::DiscardResponse>, Status> {
        let request = request.into_inner();
        if request.handle.is_none() {
            return Err(Refused::new(Reason::FieldMissing, "the handle is missing").field("handle").into());
        }
        Ok(Response::new(self.control.discard(request).await?))
    }

    async fn read_snapshot(
        &self,
        request: Request<v1::ReadSnapshotRequest>,
    ) -> Result<Response<Self::ReadSnapshotStream>, Status> {
        let request = request.into_inner();
        let handle = request.handle.clone().unwrap_or_default();
        if !self.control.is_registered(&handle).await? {
            return Err(read::unknown(&handle).into());
        }
        Ok(Response::new(Box::pin(read::rows(self.shards()?, request).await?)))
    }

    async fn list_snapshots(
        &self,
        request: Request<v1::ListSnapshotsRequest>,
    ) -> Result<Response<v1::ListSnapshotsResponse>, Status> {
        Ok(Response::new(self.control.list_snapshots(request.into_inner()).await?))
    }
}

async fn take(
    shards: &Shards,
    control: &Control,
    request: v1::TakeSnapshotRequest,
) -> Result<v1::TakeSnapshotResponse, Status> {
    if let Err(refused) = shards.freeze_at(&request).await {
        // It may have been taken before: by a server that has been started anew since, say.
        let handle = control.taken(&request).await.ok().flatten();
        return handle.map(|handle| v1::TakeSnapshotResponse { handle: Some(handle) }).ok_or_else(|| refused.into());
    }
    let taken = control.take_snapshot(request.clone()).await;
    match &taken {
        Ok(_) => shards.taken(&request),
        Err(status) => {
            let message = format!("snapshot {:?} failed: {}", request.external_id, status.message());
            let cause = Refused::new(Reason::CheckpointAborted, message);
            shards.thaw(&request.shard, request.token, &request.external_id, cause);
        }
    }
    taken
}

fn present(shard: &Option<v1::ExternalShard>) -> Result<(), Refused> {
    if shard.is_some() {
        return Ok(());
    }
    Err(Refused::new(Reason::FieldMissing, "the shard is missing").field("shard"))
}
