//! `CoordinatorService`: jobs, workers, checkpoints.
//!
//! What later issues bring is answered UNIMPLEMENTED here, by name, so that the contract is whole.

use std::{pin::Pin, sync::Arc};

use forebay_proto::{reason::Refused, v1};
use futures::{Stream, StreamExt as _, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{UnboundedReceiverStream, WatchStream};
use tonic::{Request, Response, Status, Streaming};
use v1::{ErrorReason as Reason, coordinator_service_server::CoordinatorService};

use super::unsupported;
use crate::coordinator::office::Office;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves the control plane.
#[derive(Debug)]
pub(super) struct CoordinatorEdge {
    office: Arc<Office>,
}

impl CoordinatorEdge {
    pub(super) fn new(office: Arc<Office>) -> Self {
        Self { office }
    }
}

#[tonic::async_trait]
impl CoordinatorService for CoordinatorEdge {
    type WatchRoutingStream = Answers<v1::WatchRoutingResponse>;
    type JoinStream = super::join::Answers;
    type CopyCheckpointStream = Answers<v1::CopyCheckpointResponse>;
    type DrainServerStream = Answers<v1::DrainServerResponse>;
    type MoveShardStream = Answers<v1::MoveShardResponse>;
    type SplitShardStream = Answers<v1::SplitShardResponse>;
    type MergeShardsStream = Answers<v1::MergeShardsResponse>;
    type RescaleJobStream = Answers<v1::RescaleJobResponse>;

    async fn create_job(
        &self,
        request: Request<v1::CreateJobRequest>,
    ) -> Result<Response<v1::CreateJobResponse>, Status> {
        let request = request.into_inner();
        let spec = request.spec.ok_or_else(|| missing("spec", "the job's spec is missing"))?;
        let (job, created) = self.office.leads()?.create_job(spec, request.validate_only).await?;
        Ok(Response::new(v1::CreateJobResponse { job: Some(job), created }))
    }

    async fn describe_job(
        &self,
        request: Request<v1::DescribeJobRequest>,
    ) -> Result<Response<v1::DescribeJobResponse>, Status> {
        let seen = self.office.leads()?.seen(&request.into_inner().job)?;
        let states = seen.head.states.clone();
        Ok(Response::new(v1::DescribeJobResponse { job: Some(seen.info()), states }))
    }

    async fn list_jobs(&self, _: Request<v1::ListJobsRequest>) -> Result<Response<v1::ListJobsResponse>, Status> {
        let jobs = self.office.leads()?.all().iter().map(|seen| seen.info()).collect();
        Ok(Response::new(v1::ListJobsResponse { jobs }))
    }

    async fn update_job(&self, _: Request<v1::UpdateJobRequest>) -> Result<Response<v1::UpdateJobResponse>, Status> {
        Err(unsupported("changing a job").into())
    }

    async fn delete_job(
        &self,
        request: Request<v1::DeleteJobRequest>,
    ) -> Result<Response<v1::DeleteJobResponse>, Status> {
        let request = request.into_inner();
        self.office.leads()?.delete_job(&request.job, &request.job_uid).await?;
        Ok(Response::new(v1::DeleteJobResponse {}))
    }

    async fn register_states(
        &self,
        request: Request<v1::RegisterStatesRequest>,
    ) -> Result<Response<v1::RegisterStatesResponse>, Status> {
        let request = request.into_inner();
        let states = self.office.leads()?.register(&request.job, request.operator, request.descriptors).await?;
        Ok(Response::new(v1::RegisterStatesResponse { states }))
    }

    async fn replace_descriptor(
        &self,
        request: Request<v1::ReplaceDescriptorRequest>,
    ) -> Result<Response<v1::ReplaceDescriptorResponse>, Status> {
        let state = self.office.leads()?.replace(request.into_inner()).await?;
        Ok(Response::new(v1::ReplaceDescriptorResponse { state: Some(state) }))
    }

    async fn list_states(
        &self,
        request: Request<v1::ListStatesRequest>,
    ) -> Result<Response<v1::ListStatesResponse>, Status> {
        let states = self.office.leads()?.seen(&request.into_inner().job)?.head.states.clone();
        Ok(Response::new(v1::ListStatesResponse { states }))
    }

    async fn get_routing(
        &self,
        request: Request<v1::GetRoutingRequest>,
    ) -> Result<Response<v1::GetRoutingResponse>, Status> {
        let routing = self.office.leads()?.seen(&request.into_inner().job)?.routing.clone();
        Ok(Response::new(v1::GetRoutingResponse { routing: Some(routing) }))
    }

    async fn watch_routing(
        &self,
        request: Request<v1::WatchRoutingRequest>,
    ) -> Result<Response<Self::WatchRoutingStream>, Status> {
        let seen = self.office.leads()?.watch(&request.into_inner().job)?;
        let routings = WatchStream::new(seen).map(|seen| seen.routing.clone());
        let mut last = None;
        let changes = routings.filter_map(move |routing| {
            let changed = last.as_ref() != Some(&routing);
            last = Some(routing.clone());
            let response = v1::WatchRoutingResponse { routing: Some(routing) };
            futures::future::ready(changed.then_some(Ok(response)))
        });
        Ok(Response::new(Box::pin(changes)))
    }

    async fn join(&self, request: Request<Streaming<v1::JoinRequest>>) -> Result<Response<Self::JoinStream>, Status> {
        super::join::join(self.office.leads()?, request.into_inner()).await
    }

    async fn trigger_checkpoint(
        &self,
        request: Request<v1::TriggerCheckpointRequest>,
    ) -> Result<Response<v1::TriggerCheckpointResponse>, Status> {
        let request = request.into_inner();
        let checkpoint = self.office.leads()?.trigger(&request.job, request.full).await?;
        Ok(Response::new(v1::TriggerCheckpointResponse { checkpoint: Some(checkpoint) }))
    }

    async fn list_checkpoints(
        &self,
        request: Request<v1::ListCheckpointsRequest>,
    ) -> Result<Response<v1::ListCheckpointsResponse>, Status> {
        let seen = self.office.leads()?.seen(&request.into_inner().job)?;
        Ok(Response::new(v1::ListCheckpointsResponse {
            completed: seen.head.completed.clone(),
            failed: seen.failed.clone(),
            in_progress: seen.in_progress.clone(),
        }))
    }

    async fn describe_checkpoint(
        &self,
        request: Request<v1::DescribeCheckpointRequest>,
    ) -> Result<Response<v1::DescribeCheckpointResponse>, Status> {
        let request = request.into_inner();
        let (checkpoint, manifest) = self.office.leads()?.manifest(&request.job, request.checkpoint).await?;
        Ok(Response::new(v1::DescribeCheckpointResponse { checkpoint: Some(checkpoint), manifest: Some(manifest) }))
    }

    async fn verify_checkpoint(
        &self,
        request: Request<v1::VerifyCheckpointRequest>,
    ) -> Result<Response<v1::VerifyCheckpointResponse>, Status> {
        let request = request.into_inner();
        Ok(Response::new(self.office.leads()?.verify(&request.job, request.checkpoint).await?))
    }

    async fn create_savepoint(
        &self,
        request: Request<v1::CreateSavepointRequest>,
    ) -> Result<Response<v1::CreateSavepointResponse>, Status> {
        let savepoint = self.office.leads()?.savepoint(request.into_inner()).await?;
        Ok(Response::new(v1::CreateSavepointResponse { savepoint: Some(savepoint) }))
    }

    async fn list_savepoints(
        &self,
        request: Request<v1::ListSavepointsRequest>,
    ) -> Result<Response<v1::ListSavepointsResponse>, Status> {
        let savepoints = self.office.leads()?.savepoints(request.into_inner()).await?;
        Ok(Response::new(v1::ListSavepointsResponse { savepoints }))
    }

    async fn describe_savepoint(
        &self,
        request: Request<v1::DescribeSavepointRequest>,
    ) -> Result<Response<v1::DescribeSavepointResponse>, Status> {
        let (savepoint, manifest) = self.office.leads()?.describe_savepoint(&request.into_inner().location).await?;
        Ok(Response::new(v1::DescribeSavepointResponse { savepoint: Some(savepoint), manifest: Some(manifest) }))
    }

    async fn delete_savepoint(
        &self,
        request: Request<v1::DeleteSavepointRequest>,
    ) -> Result<Response<v1::DeleteSavepointResponse>, Status> {
        self.office.leads()?.delete_savepoint(&request.into_inner().location).await?;
        Ok(Response::new(v1::DeleteSavepointResponse {}))
    }

    async fn restore_job(
        &self,
        request: Request<v1::RestoreJobRequest>,
    ) -> Result<Response<v1::RestoreJobResponse>, Status> {
        let job = self.office.leads()?.restore(request.into_inner()).await?;
        Ok(Response::new(v1::RestoreJobResponse { job: Some(job) }))
    }

    async fn branch_job(
        &self,
        request: Request<v1::BranchJobRequest>,
    ) -> Result<Response<v1::BranchJobResponse>, Status> {
        let job = self.office.leads()?.branch(request.into_inner()).await?;
        Ok(Response::new(v1::BranchJobResponse { job: Some(job) }))
    }

    async fn copy_checkpoint(
        &self,
        request: Request<v1::CopyCheckpointRequest>,
    ) -> Result<Response<Self::CopyCheckpointStream>, Status> {
        let (coordinator, request) = (self.office.leads()?, request.into_inner());
        let (progress, heard) = mpsc::unbounded_channel();
        let done = async move { coordinator.copy(request, progress).await };
        Ok(Response::new(until_done(UnboundedReceiverStream::new(heard), done)))
    }

    async fn collect_garbage(
        &self,
        request: Request<v1::CollectGarbageRequest>,
    ) -> Result<Response<v1::CollectGarbageResponse>, Status> {
        let request = request.into_inner();
        let found = self.office.leads()?.collect_garbage(&request.job, request.dry_run).await?;
        let bytes = found.iter().map(|(_, bytes)| bytes).sum();
        let objects = found.into_iter().map(|(object, _)| object).collect();
        Ok(Response::new(v1::CollectGarbageResponse { objects, bytes }))
    }

    async fn list_servers(
        &self,
        _: Request<v1::ListServersRequest>,
    ) -> Result<Response<v1::ListServersResponse>, Status> {
        let servers = self.office.leads()?.list_servers();
        Ok(Response::new(v1::ListServersResponse { servers }))
    }

    async fn drain_server(
        &self,
        request: Request<v1::DrainServerRequest>,
    ) -> Result<Response<Self::DrainServerStream>, Status> {
        let (coordinator, request) = (self.office.leads()?, request.into_inner());
        let (progress, heard) = mpsc::unbounded_channel();
        let heard = UnboundedReceiverStream::new(heard).map(|it| v1::DrainServerResponse { progress: Some(it) });
        Ok(Response::new(until_done(heard, async move { coordinator.drain(request, &progress).await })))
    }

    async fn list_shards(
        &self,
        request: Request<v1::ListShardsRequest>,
    ) -> Result<Response<v1::ListShardsResponse>, Status> {
        let name = request.into_inner().job;
        let jobs = if name.is_empty() { self.office.leads()?.all() } else { vec![self.office.leads()?.seen(&name)?] };
        let shards = jobs.iter().flat_map(|seen| seen.shards.clone()).collect();
        Ok(Response::new(v1::ListShardsResponse { shards }))
    }

    async fn move_shard(
        &self,
        request: Request<v1::MoveShardRequest>,
    ) -> Result<Response<Self::MoveShardStream>, Status> {
        let (coordinator, request) = (self.office.leads()?, request.into_inner());
        let (progress, heard) = mpsc::unbounded_channel();
        let heard = UnboundedReceiverStream::new(heard).map(|it| v1::MoveShardResponse { progress: Some(it) });
        Ok(Response::new(until_done(heard, async move { coordinator.move_shard(request, &progress).await })))
    }

    async fn split_shard(
        &self,
        request: Request<v1::SplitShardRequest>,
    ) -> Result<Response<Self::SplitShardStream>, Status> {
        let (coordinator, request) = (self.office.leads()?, request.into_inner());
        let (progress, heard) = mpsc::unbounded_channel();
        let heard = UnboundedReceiverStream::new(heard).map(|it| v1::SplitShardResponse { progress: Some(it) });
        Ok(Response::new(until_done(heard, async move { coordinator.split_shard(request, &progress).await })))
    }

    async fn merge_shards(
        &self,
        request: Request<v1::MergeShardsRequest>,
    ) -> Result<Response<Self::MergeShardsStream>, Status> {
        let (coordinator, request) = (self.office.leads()?, request.into_inner());
        let (progress, heard) = mpsc::unbounded_channel();
        let heard = UnboundedReceiverStream::new(heard).map(|it| v1::MergeShardsResponse { progress: Some(it) });
        Ok(Response::new(until_done(heard, async move { coordinator.merge_shards(request, &progress).await })))
    }

    async fn rescale_job(&self, _: Request<v1::RescaleJobRequest>) -> Result<Response<Self::RescaleJobStream>, Status> {
        Err(unsupported("rescaling a job").into())
    }

    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Result<Response<v1::GetStatusResponse>, Status> {
        let status = self.office.leads()?.status();
        Ok(Response::new(v1::GetStatusResponse { standbys: self.office.standbys(), ..status }))
    }

    async fn finalize_cluster(
        &self,
        _: Request<v1::FinalizeClusterRequest>,
    ) -> Result<Response<v1::FinalizeClusterResponse>, Status> {
        Err(unsupported("finalizing the cluster").into())
    }
}

/// What is heard of something until it is done, well or with what went wrong.
fn until_done<T: Send + 'static>(
    heard: impl Stream<Item = T> + Send + 'static,
    done: impl Future<Output = Result<(), Refused>> + Send + 'static,
) -> Answers<T> {
    let end = stream::once(done).filter_map(async |done| done.err().map(|refused| Err(Status::from(refused))));
    Box::pin(stream::select(heard.map(Ok), end))
}

fn missing(field: &str, message: &str) -> Refused {
    Refused::new(Reason::FieldMissing, message).field(field)
}
