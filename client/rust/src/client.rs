//! The client: where everything starts.
//!
//! A [`Client`] knows the coordinators and shares connections; it holds nothing of any job. Unary helpers
//! are for tools and plain services: workers use [`Worker`](crate::Worker).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use forebay_proto::{
    codec::{self, Codec},
    reason::{Advice, Refused},
    v1::{
        self, ErrorReason, coordinator_service_client::CoordinatorServiceClient,
        state_service_client::StateServiceClient, value::Form,
    },
};
use tokio::time::sleep;
use tonic::{Response, Status, transport::Channel};

use crate::{
    backoff::backoff,
    channel::{Channels, MESSAGE_BYTES_MAX},
    error::{Error, Result},
    routing,
    worker::WorkerBuilder,
};

/// How long a call is retried while its server or coordinator is away.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// A connection to a Forebay cluster. Clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    id: String,
    channels: Arc<Channels>,
    coordinators: Vec<String>,
    current: AtomicUsize,
    /// By job, as last heard; for unary calls.
    routing: DashMap<String, Arc<v1::Routing>>,
}

impl Client {
    /// Connects to a cluster by the addresses of its coordinators, separated by commas.
    ///
    /// Waits until one of them answers, for at most 30 seconds.
    pub async fn connect(addresses: impl AsRef<str>) -> Result<Self> {
        let client = Self::lazy(addresses)?;
        client.call(|mut coordinator| async move { coordinator.list_jobs(v1::ListJobsRequest {}).await }).await?;
        Ok(client)
    }

    /// Makes a client that connects with its first call.
    pub fn lazy(addresses: impl AsRef<str>) -> Result<Self> {
        let list = addresses.as_ref().split(',').map(str::trim).filter(|address| !address.is_empty());
        let coordinators: Vec<_> = list.map(str::to_owned).collect();
        if coordinators.is_empty() {
            return Err(Error::call(ErrorReason::FieldMissing, "no address given (such as http://127.0.0.1:7400)"));
        }
        let channels = Arc::new(Channels::default());
        for address in &coordinators {
            channels.get(address)?;
        }
        let id = format!("rust-{}", uuid::Uuid::new_v4().simple());
        Ok(Self {
            inner: Arc::new(Inner {
                id,
                channels,
                coordinators,
                current: AtomicUsize::new(0),
                routing: DashMap::new(),
            }),
        })
    }

    /// Returns the name under which servers log this client.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    pub(crate) fn channels(&self) -> &Arc<Channels> {
        &self.inner.channels
    }

    /// Starts a worker of an operator.
    pub fn worker(&self, job: &str, operator: &str) -> WorkerBuilder {
        WorkerBuilder::new(self.clone(), job, operator)
    }

    /// Returns the generated client of the coordinator that answered last.
    pub fn coordinator(&self) -> CoordinatorServiceClient<Channel> {
        let addresses = &self.inner.coordinators;
        let address = &addresses[self.inner.current.load(Ordering::Relaxed) % addresses.len()];
        let channel = self.inner.channels.get(address).expect("addresses were checked when the client was made");
        CoordinatorServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Turns to the next coordinator.
    pub(crate) fn next_coordinator(&self) {
        self.inner.current.fetch_add(1, Ordering::Relaxed);
    }

    /// Calls the coordinator; while it is away, retries with the others for at most 30 seconds.
    pub async fn call<T, F>(&self, call: impl Fn(CoordinatorServiceClient<Channel>) -> F) -> Result<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        retry(|| async {
            let answer = call(self.coordinator()).await;
            if answer.as_ref().is_err_and(|status| Refused::from_status(status).advice() == Advice::Wait) {
                self.next_coordinator();
            }
            answer
        })
        .await
    }

    /// Creates a job, or finds it if one of the same spec is there.
    pub async fn create_job(&self, spec: v1::JobSpec) -> Result<v1::JobInfo> {
        let request = v1::CreateJobRequest { spec: Some(spec), validate_only: false };
        let answer = self.call(|mut coordinator| {
            let request = request.clone();
            async move { coordinator.create_job(request).await }
        });
        answer.await?.job.ok_or_else(|| missing("job"))
    }

    /// Finds a job by its name, whatever its settings, or creates it.
    pub async fn ensure_job(&self, spec: v1::JobSpec) -> Result<v1::JobInfo> {
        match self.describe_job(&spec.name).await {
            Ok(description) => description.job.ok_or_else(|| missing("job")),
            Err(Error::Missing(_)) => self.create_job(spec).await,
            Err(error) => Err(error),
        }
    }

    /// Describes a job.
    pub async fn describe_job(&self, job: &str) -> Result<v1::DescribeJobResponse> {
        self.call(|mut coordinator| async move {
            coordinator.describe_job(v1::DescribeJobRequest { job: job.into() }).await
        })
        .await
    }

    /// Deletes a job and its state.
    pub async fn delete_job(&self, job: &str) -> Result<()> {
        let request = || v1::DeleteJobRequest { job: job.into(), job_uid: String::new() };
        self.call(|mut coordinator| async move { coordinator.delete_job(request()).await }).await?;
        Ok(())
    }

    /// Registers states; the same descriptors again change nothing.
    pub async fn register_states(
        &self,
        job: &str,
        operator: &str,
        descriptors: Vec<v1::StateDescriptor>,
    ) -> Result<Vec<v1::RegisteredState>> {
        let request = v1::RegisterStatesRequest { job: job.into(), operator: operator.into(), descriptors };
        let answer = self.call(|mut coordinator| {
            let request = request.clone();
            async move { coordinator.register_states(request).await }
        });
        Ok(answer.await?.states)
    }

    /// Takes a checkpoint now, and returns when it has completed. It is asked for once: a failed round is an
    /// error.
    pub async fn trigger_checkpoint(&self, job: &str) -> Result<v1::CompletedCheckpoint> {
        let request = v1::TriggerCheckpointRequest { job: job.into(), full: false };
        let answer = self.coordinator().trigger_checkpoint(request).await?;
        answer.into_inner().checkpoint.ok_or_else(|| missing("checkpoint"))
    }

    /// Returns where the shards of a job are; asks once.
    pub async fn routing(&self, job: &str) -> Result<v1::Routing> {
        let request = v1::GetRoutingRequest { job: job.into() };
        let answer = self.coordinator().get_routing(request).await.inspect_err(|_| self.next_coordinator())?;
        answer.into_inner().routing.ok_or_else(|| missing("routing"))
    }

    /// Returns the generated client of the server that holds an address.
    pub async fn state_service(&self, address: &v1::Address) -> Result<StateServiceClient<Channel>> {
        let key = key_bytes(address.key.as_ref())?;
        let known = self.inner.routing.get(&address.job).map(|routing| routing.clone());
        let routing = match known {
            Some(routing) => routing,
            None => {
                let routing = Arc::new(self.routing(&address.job).await?);
                self.inner.routing.insert(address.job.clone(), routing.clone());
                routing
            }
        };
        let route = route_of(&routing, &address.operator, &key, address.key_group)?;
        Ok(StateServiceClient::new(self.inner.channels.get(&route.address)?)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// Calls the server that holds an address; looks it up anew and retries while it is away.
    pub async fn call_state<T, F>(
        &self,
        address: &v1::Address,
        call: impl Fn(StateServiceClient<Channel>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        retry(|| async {
            let answer = async { call(self.state_service(address).await?).await.map_err(of_server) }.await;
            if answer.is_err() {
                self.inner.routing.remove(&address.job);
            }
            answer
        })
        .await
    }

    /// Reads a value, a list, a reducing or an aggregating state.
    pub async fn get(&self, address: v1::Address) -> Result<v1::GetResponse> {
        let request = v1::GetRequest { address: Some(address.clone()), ..v1::GetRequest::default() };
        self.call_state(&address, |mut state| {
            let request = request.clone();
            async move { state.get(request).await }
        })
        .await
    }

    /// Replaces a value or a whole list of a shared operator, once however often it is retried.
    pub async fn put(&self, address: v1::Address, values: Vec<v1::Value>) -> Result<v1::PutResponse> {
        let request_id = request_id();
        let request = v1::PutRequest { address: Some(address.clone()), values, request_id, ..Default::default() };
        self.call_state(&address, |mut state| {
            let request = request.clone();
            async move { state.put(request).await }
        })
        .await
    }

    /// Appends to a list of a shared operator, once however often it is retried.
    pub async fn append(&self, address: v1::Address, values: Vec<v1::Value>) -> Result<v1::AppendResponse> {
        let request_id = request_id();
        let request = v1::AppendRequest { address: Some(address.clone()), values, request_id, ..Default::default() };
        self.call_state(&address, |mut state| {
            let request = request.clone();
            async move { state.append(request).await }
        })
        .await
    }
}

/// What a server says. One that has just started has not heard of the jobs that the coordinator knows.
fn of_server(status: Status) -> Error {
    let refused = Refused::from_status(&status);
    match refused.reason {
        ErrorReason::JobUnknown => Error::from(Refused::new(ErrorReason::ShardMoved, refused.message)),
        _ => Error::from(status),
    }
}

fn request_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

fn missing(field: &str) -> Error {
    Refused::new(ErrorReason::Internal, format!("the answer has no {field}")).into()
}

async fn retry<T, E, F>(call: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<Response<T>, E>>,
    Error: From<E>,
{
    let started = Instant::now();
    let mut waits = backoff();
    loop {
        let error = match call().await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(error) => Error::from(error),
        };
        let refused = error.refused().filter(|refused| refused.advice().is_retryable());
        let (Some(refused), Some(wait)) = (refused, waits.next()) else { return Err(error) };
        if started.elapsed() > RETRY_MAX {
            return Err(error);
        }
        sleep(wait.max(refused.retry_after.unwrap_or_default())).await;
    }
}

fn route_of<'a>(routing: &'a v1::Routing, operator: &str, key: &[u8], key_group: Option<u32>) -> Result<&'a v1::Route> {
    let group = routing::key_group(routing.max_parallelism, routing.partitioner(), key, key_group)?;
    let of_operator = || routing.routes.iter().filter(|route| route.operator == operator);
    if of_operator().next().is_none() {
        return Err(routing::no_operator(operator));
    }
    let holds = |route: &&v1::Route| (route.start..route.end).contains(&group.into()) && !route.address.is_empty();
    of_operator().find(holds).ok_or_else(|| {
        let message = format!("key group {group} of operator {operator:?} has no server at the moment");
        Refused::new(ErrorReason::ShardRestoring, message).into()
    })
}

/// Returns the bytes that a key is stored as.
fn key_bytes(value: Option<&v1::Value>) -> Result<Vec<u8>> {
    let form = value.and_then(|value| value.form.as_ref());
    let bytes = match form {
        Some(Form::Raw(raw)) => Ok(raw.to_vec()),
        Some(Form::Utf8(text) | Form::Json(text)) => Ok(text.as_bytes().to_vec()),
        Some(Form::I64(number)) => codec::I64::to_bytes(number),
        Some(Form::U64(number)) => codec::U64::to_bytes(number),
        Some(Form::F64(number)) => codec::F64::to_bytes(number),
        Some(Form::Boolean(truth)) => codec::Bool::to_bytes(truth),
        None => return Err(Error::call(ErrorReason::FieldMissing, "address has no key (one of raw, utf8, i64 …)")),
    };
    bytes.map_err(|source| Error::Codec { state: "key".into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_needs_an_address() {
        assert!(matches!(Client::lazy(" , "), Err(Error::Call(_))));
    }

    #[test]
    fn a_key_is_hashed_as_it_is_stored() {
        let bytes = |form| key_bytes(Some(&v1::Value { form: Some(form) })).unwrap();
        assert_eq!(bytes(Form::Utf8("N1".into())), b"N1");
        assert_eq!(bytes(Form::U64(1)), 1_u64.to_be_bytes());
        assert!(key_bytes(None).is_err());
    }
}
