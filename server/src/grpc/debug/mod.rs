//! `DebugService`: state as people look at it, by the state's codecs. Reads only, and extends no TTL.
//!
//! What is asked for is found on the same way as for `StateService`, and read from frozen rows. A coordinator
//! without shards tells where keys and states are; what is stored, their servers tell. What later issues bring
//! is answered UNIMPLEMENTED here, by name.

mod address;
mod describe;
mod diff;
mod entry;
mod locate;
mod probe;
mod rows;
mod whereabouts;

use std::{pin::Pin, sync::Arc};

use forebay_proto::{reason::Refused, v1};
use futures::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};
use v1::{ErrorReason as Reason, debug_service_server::DebugService};

use self::{rows::Shown, whereabouts::Whereabouts};
use super::{Served, state::scan::Scan, unsupported};
use crate::shard::Shards;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Most bytes of a key or value that are shown.
const SHOWN_BYTES_MAX: usize = 4096;

/// Serves people.
#[derive(Debug)]
pub(super) struct DebugEdge {
    served: Arc<Served>,
}

impl DebugEdge {
    pub(super) fn new(served: Served) -> Self {
        Self { served: Arc::new(served) }
    }

    fn shards(&self) -> Result<&Shards, Refused> {
        self.served.shards.as_ref().ok_or_else(|| {
            let message = "this process holds no shards: ask a server (LocateKey and GetRouting say which)";
            Refused::new(Reason::ShardMoved, message)
        })
    }
}

#[tonic::async_trait]
impl DebugService for DebugEdge {
    type ScanEntriesStream = Answers<v1::ScanEntriesResponse>;
    type DiffCheckpointsStream = Answers<v1::DiffCheckpointsResponse>;

    async fn get_entry(&self, request: Request<v1::GetEntryRequest>) -> Result<Response<v1::GetEntryResponse>, Status> {
        Ok(Response::new(entry::get(self.shards()?, request.into_inner()).await?))
    }

    async fn scan_entries(
        &self,
        request: Request<v1::ScanEntriesRequest>,
    ) -> Result<Response<Self::ScanEntriesStream>, Status> {
        let request = request.into_inner();
        let view = self.shards()?.job(&request.job)?;
        let state = view.state(&request.operator, &request.state)?.clone();
        let show = Shown { notation: request.notation(), descriptor: state.descriptor.unwrap_or_default() };
        let wanted = address::wanted(request, state.id, &show.descriptor)?;
        let pages = Scan::start(&view, wanted, show).await?.pages();
        let answers =
            pages.map(|page| page.map(|(entries, page_token)| v1::ScanEntriesResponse { entries, page_token }));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn locate_key(
        &self,
        request: Request<v1::LocateKeyRequest>,
    ) -> Result<Response<v1::LocateKeyResponse>, Status> {
        let request = request.into_inner();
        let known = Whereabouts::of(&self.served, &request.job, &request.operator)?;
        Ok(Response::new(locate::locate(&known, request).await?))
    }

    async fn explain_key(&self, _: Request<v1::ExplainKeyRequest>) -> Result<Response<v1::ExplainKeyResponse>, Status> {
        Err(unsupported("explaining a key").into())
    }

    async fn describe_state(
        &self,
        request: Request<v1::DescribeStateRequest>,
    ) -> Result<Response<v1::DescribeStateResponse>, Status> {
        let request = request.into_inner();
        let known = Whereabouts::of(&self.served, &request.job, &request.operator)?;
        Ok(Response::new(describe::describe(&known, &request).await?))
    }

    async fn top_keys(&self, _: Request<v1::TopKeysRequest>) -> Result<Response<v1::TopKeysResponse>, Status> {
        Err(unsupported("finding the largest keys").into())
    }

    async fn read_at_checkpoint(
        &self,
        request: Request<v1::ReadAtCheckpointRequest>,
    ) -> Result<Response<v1::ReadAtCheckpointResponse>, Status> {
        Ok(Response::new(entry::get_at(self.shards()?, request.into_inner()).await?))
    }

    async fn diff_checkpoints(
        &self,
        request: Request<v1::DiffCheckpointsRequest>,
    ) -> Result<Response<Self::DiffCheckpointsStream>, Status> {
        let differences = diff::diff(self.shards()?.clone(), request.into_inner())?;
        Ok(Response::new(Box::pin(differences)))
    }
}
