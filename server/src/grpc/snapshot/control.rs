//! The coordinator, for engines that asked a server: this process's own, or one that the request is passed on to.

use std::{sync::Arc, time::Duration};

use forebay_proto::{reason::Refused, v1};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tracing::warn;
use v1::{ErrorReason as Reason, ExternalVerdict as Verdict, snapshot_service_client::SnapshotServiceClient as Client};

use crate::{
    coordinator::office::Office,
    grpc::{MESSAGE_BYTES_MAX, Served},
};

#[derive(Debug, Clone)]
pub(super) enum Control {
    Here(Arc<Office>),
    /// Any of them may lead. They connect when they are used first.
    There(Vec<Client<Channel>>),
}

/// Has the coordinator do a call: this process's own by the method, another by the same call.
macro_rules! done {
    ($control:expr, $request:expr, $call:ident, |$coordinator:ident, $asked:ident| $here:expr) => {
        match $control {
            Control::Here(office) => {
                let ($coordinator, $asked) = (office.leads()?, $request);
                Ok($here)
            }
            Control::There(coordinators) => {
                let request = $request;
                let mut failed = no_coordinator();
                for coordinator in coordinators {
                    match coordinator.clone().$call(request.clone()).await {
                        Err(status) if status.code() == Code::Unavailable => failed = status,
                        answer => return answer.map(|answer| answer.into_inner()),
                    }
                }
                Err(failed)
            }
        }
    };
}

impl Control {
    pub(super) fn of(served: &Served) -> Self {
        match &served.coordinator {
            Some(office) => Self::Here(office.clone()),
            None => Self::There(served.coordinators.iter().filter_map(|address| client(address)).collect()),
        }
    }

    pub(super) async fn open_shard(&self, request: v1::OpenShardRequest) -> Result<v1::OpenShardResponse, Status> {
        done!(self, request, open_shard, |coordinator, asked| coordinator.open_shard(asked).await?)
    }

    pub(super) async fn close_shard(&self, request: v1::CloseShardRequest) -> Result<v1::CloseShardResponse, Status> {
        done!(self, request, close_shard, |coordinator, asked| {
            coordinator.close_shard(asked).await?;
            v1::CloseShardResponse {}
        })
    }

    pub(super) async fn take_snapshot(
        &self,
        request: v1::TakeSnapshotRequest,
    ) -> Result<v1::TakeSnapshotResponse, Status> {
        done!(self, request, take_snapshot, |coordinator, asked| {
            v1::TakeSnapshotResponse { handle: Some(coordinator.take_snapshot(asked).await?) }
        })
    }

    pub(super) async fn cancel_snapshot(
        &self,
        request: v1::CancelSnapshotRequest,
    ) -> Result<v1::CancelSnapshotResponse, Status> {
        done!(self, request, cancel_snapshot, |coordinator, asked| {
            v1::CancelSnapshotResponse { cancelled: coordinator.cancel_snapshot(asked).await? }
        })
    }

    pub(super) async fn notify_complete(
        &self,
        request: v1::NotifyCompleteRequest,
    ) -> Result<v1::NotifyCompleteResponse, Status> {
        done!(self, request, notify_complete, |coordinator, asked| {
            let (shard, id) = (asked.shard.unwrap_or_default(), asked.external_id);
            coordinator.judge_snapshot(shard, asked.token, id, Verdict::Completed).await?;
            v1::NotifyCompleteResponse {}
        })
    }

    pub(super) async fn notify_aborted(
        &self,
        request: v1::NotifyAbortedRequest,
    ) -> Result<v1::NotifyAbortedResponse, Status> {
        done!(self, request, notify_aborted, |coordinator, asked| {
            let (shard, id) = (asked.shard.unwrap_or_default(), asked.external_id);
            coordinator.judge_snapshot(shard, asked.token, id, Verdict::Aborted).await?;
            v1::NotifyAbortedResponse {}
        })
    }

    pub(super) async fn discard(&self, request: v1::DiscardRequest) -> Result<v1::DiscardResponse, Status> {
        done!(self, request, discard, |coordinator, asked| {
            let handle = asked.handle.unwrap_or_default();
            v1::DiscardResponse { discarded: coordinator.discard_snapshot(&handle).await? }
        })
    }

    pub(super) async fn list_snapshots(
        &self,
        request: v1::ListSnapshotsRequest,
    ) -> Result<v1::ListSnapshotsResponse, Status> {
        done!(self, request, list_snapshots, |coordinator, asked| {
            v1::ListSnapshotsResponse { handles: coordinator.list_snapshots(asked).await? }
        })
    }

    /// The handle of a snapshot that is registered under the ids of a request.
    pub(super) async fn taken(&self, request: &v1::TakeSnapshotRequest) -> Result<Option<v1::SnapshotHandle>, Status> {
        let v1::ExternalShard { job, operator, start, end, .. } = request.shard.clone().unwrap_or_default();
        let external_id = request.external_id.clone();
        let wanted = v1::ListSnapshotsRequest { job, operator, external_id, start, end };
        let same = |known: &v1::ExternalSnapshot| known.token == request.token;
        let handles = self.list_snapshots(wanted).await?.handles;
        Ok(handles.into_iter().find(|handle| handle.snapshot.as_ref().is_some_and(same)))
    }

    /// True if a handle's snapshot is registered.
    pub(super) async fn is_registered(&self, handle: &v1::SnapshotHandle) -> Result<bool, Status> {
        let v1::ExternalSnapshot { operator, external_id, start, end, manifest, .. } =
            handle.snapshot.clone().unwrap_or_default();
        let wanted = v1::ListSnapshotsRequest { job: handle.job.clone(), operator, external_id, start, end };
        let same = |known: &v1::ExternalSnapshot| known.manifest == manifest;
        let handles = self.list_snapshots(wanted).await?.handles;
        Ok(handles.iter().any(|known| known.job_uid == handle.job_uid && known.snapshot.as_ref().is_some_and(same)))
    }
}

fn client(address: &str) -> Option<Client<Channel>> {
    let endpoint = Endpoint::from_shared(address.to_owned());
    let endpoint = endpoint.inspect_err(|error| warn!(address, %error, "not an address of a coordinator")).ok()?;
    let channel = endpoint.connect_timeout(Duration::from_secs(5)).tcp_nodelay(true).connect_lazy();
    let client = Client::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    Some(client.max_encoding_message_size(MESSAGE_BYTES_MAX))
}

fn no_coordinator() -> Status {
    Refused::new(Reason::NoCoordinator, "no coordinator is known: set server.coordinators").into()
}
