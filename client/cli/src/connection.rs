//! The connection to a cluster: finds the coordinator and the server that holds a shard, and tries again what
//! may pass, for a bounded time.

use std::{
    error::Error as _,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use forebay_client::routing::Table;
use forebay_proto::KeyGroup;
use forebay_proto::v1::{
    ErrorReason, GetRoutingRequest, ListJobsRequest, Route, Routing,
    coordinator_service_client::CoordinatorServiceClient, debug_service_client::DebugServiceClient,
    snapshot_service_client::SnapshotServiceClient, state_service_client::StateServiceClient,
};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{
    Response, Status,
    transport::{Channel, Endpoint},
};

use crate::failure::Failure;

/// How long a command tries where the user does not say.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may take to stand.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The largest answer that is taken, in bytes.
const MESSAGE_BYTES_MAX: usize = 72 << 20;

type Coordinator = CoordinatorServiceClient<Channel>;
type State = StateServiceClient<Channel>;

/// A cluster by the addresses of its coordinators.
#[derive(Debug)]
pub struct Connection {
    coordinators: Vec<String>,
    /// The one that is asked; the next is, when it cannot be reached or stands by.
    current: AtomicUsize,
    timeout: Option<Duration>,
}

impl Connection {
    /// Names a cluster by the addresses of its coordinators, separated by commas; the first call connects.
    pub fn new(servers: &str, timeout: Option<Duration>) -> Self {
        let coordinators = servers.split(',').map(|address| url(address.trim())).collect();
        Self { coordinators, current: AtomicUsize::new(0), timeout }
    }

    /// Returns the addresses of the coordinators, separated by commas.
    pub fn addresses(&self) -> String {
        self.coordinators.join(",")
    }

    fn address(&self) -> &str {
        &self.coordinators[self.current.load(Ordering::Relaxed) % self.coordinators.len()]
    }

    /// Calls the coordinator, again while that may help. The call must be safe to repeat.
    pub async fn call<T>(&self, call: impl AsyncFn(Coordinator) -> Result<Response<T>, Status>) -> Result<T, Failure> {
        self.retry(async || Ok(call(self.coordinator().await?).await?.into_inner())).await
    }

    /// Calls the coordinator about what other engines own, again while that may help. The call must be safe to repeat.
    pub async fn call_engine<T>(
        &self,
        call: impl AsyncFn(SnapshotServiceClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        self.retry(async || {
            let client = SnapshotServiceClient::new(connect(self.address()).await?);
            Ok(call(client.max_decoding_message_size(MESSAGE_BYTES_MAX)).await?.into_inner())
        })
        .await
    }

    /// Calls the coordinator once, and waits as long as it takes unless the user named a timeout.
    pub async fn call_once<T>(
        &self,
        call: impl AsyncFnOnce(Coordinator) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        if self.coordinators.len() > 1 {
            // What is done once is to be asked of the one that leads.
            self.call(async |mut coordinator| coordinator.list_jobs(ListJobsRequest {}).await).await?;
        }
        let answer = call(self.coordinator().await?);
        let answer = match self.timeout {
            Some(timeout) => tokio::time::timeout(timeout, answer).await.map_err(|_| Failure::Silent(timeout))?,
            None => answer.await,
        };
        Ok(answer?.into_inner())
    }

    /// Calls the server that holds a shard, looking it up anew while that may help. The call must be safe
    /// to repeat, and the coordinator must know what it names.
    pub async fn call_shard<T>(
        &self,
        job: &str,
        choose: impl Fn(&Routing) -> Result<Route, Failure>,
        call: impl AsyncFn(State) -> Result<T, Status>,
    ) -> Result<T, Failure> {
        let state = |channel| {
            StateServiceClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX)
        };
        self.call_at(job, choose, async |channel| call(state(channel)).await).await
    }

    /// The same for what people look at.
    pub async fn call_debug<T>(
        &self,
        job: &str,
        choose: impl Fn(&Routing) -> Result<Route, Failure>,
        call: impl AsyncFn(DebugServiceClient<Channel>) -> Result<T, Status>,
    ) -> Result<T, Failure> {
        let debug = |channel| DebugServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        self.call_at(job, choose, async |channel| call(debug(channel)).await).await
    }

    async fn call_at<T>(
        &self,
        job: &str,
        choose: impl Fn(&Routing) -> Result<Route, Failure>,
        call: impl AsyncFn(Channel) -> Result<T, Status>,
    ) -> Result<T, Failure> {
        self.retry(async || {
            let route = choose(&self.routing(job).await?)?;
            if route.address.is_empty() {
                let message =
                    format!("shard {}[{},{}) has no server at the moment", route.operator, route.start, route.end);
                return Err(Failure::refused(ErrorReason::ShardRestoring, message));
            }
            call(connect(&url(&route.address)).await?).await.map_err(Failure::of_server)
        })
        .await
    }

    /// Returns where the shards of a job are.
    pub async fn routing(&self, job: &str) -> Result<Routing, Failure> {
        let request = GetRoutingRequest { job: job.to_owned() };
        let answer = self.coordinator().await?.get_routing(request).await?.into_inner();
        answer.routing.ok_or_else(|| Failure::refused(ErrorReason::Internal, "the answer has no routing"))
    }

    async fn coordinator(&self) -> Result<Coordinator, Failure> {
        let client = CoordinatorServiceClient::new(connect(self.address()).await?);
        Ok(client.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// Returns how long to wait before another coordinator is asked for one that cannot be reached.
    fn other_may_answer(&self, failure: &Failure) -> Option<Duration> {
        let unreachable = matches!(failure, Failure::Unreachable { .. });
        (unreachable && self.coordinators.len() > 1).then_some(Duration::from_millis(100))
    }

    async fn retry<T>(&self, attempt: impl AsyncFn() -> Result<T, Failure>) -> Result<T, Failure> {
        let timeout = self.timeout.unwrap_or(TIMEOUT);
        let deadline = Instant::now() + timeout;
        let mut last = None;
        loop {
            let failure = match timeout_at(deadline, attempt()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(failure)) => failure,
                Err(_) => return Err(last.unwrap_or(Failure::Silent(timeout))),
            };
            self.current.fetch_add(1, Ordering::Relaxed);
            match failure.retry_after().or_else(|| self.other_may_answer(&failure)) {
                Some(wait) if Instant::now() + wait < deadline => sleep(wait).await,
                _ => return Err(failure),
            }
            last = Some(failure);
        }
    }
}

/// Returns the route of the shard that holds a key.
pub fn route_of(routing: &Routing, operator: &str, key: &[u8], key_group: Option<u32>) -> Result<Route, Failure> {
    let table = Table::of_operator(routing, operator)?;
    let group = table.key_group(key, key_group)?;
    Ok(table.routes()[table.shard(group)?].clone())
}

/// Returns the route of the shard that holds a key group.
pub fn route_of_group(routing: &Routing, operator: &str, key_group: u32) -> Result<Route, Failure> {
    let table = Table::of_operator(routing, operator)?;
    let group = KeyGroup::new(key_group, table.max_parallelism());
    let group = group.map_err(|error| Failure::refused(ErrorReason::KeyGroupOutOfRange, error.to_string()))?;
    Ok(table.routes()[table.shard(group)?].clone())
}

/// Returns where a shard is now; where it was if it is no more.
pub fn route_now(routing: &Routing, shard: &Route) -> Result<Route, Failure> {
    let routes = routes_of(routing, &shard.operator)?;
    let now = routes.into_iter().find(|route| (route.start, route.end) == (shard.start, shard.end));
    Ok(now.unwrap_or_else(|| shard.clone()))
}

/// Returns the routes of an operator, by key group.
pub fn routes_of(routing: &Routing, operator: &str) -> Result<Vec<Route>, Failure> {
    Ok(Table::of_operator(routing, operator)?.routes().to_vec())
}

async fn connect(address: &str) -> Result<Channel, Failure> {
    let endpoint = Endpoint::from_shared(address.to_owned()).ok();
    let known = address.starts_with("http://") || address.starts_with("unix:///");
    let endpoint = endpoint.filter(|_| known).ok_or_else(|| {
        let message = format!("address {address:?}: http://host:port or unix:///path is needed");
        Failure::usage(ErrorReason::FieldInvalid, message)
    })?;
    let endpoint = endpoint
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10));
    let unreachable =
        |error: tonic::transport::Error| Failure::Unreachable { address: address.to_owned(), cause: cause(&error) };
    endpoint.connect().await.map_err(unreachable)
}

/// Returns the innermost cause, which is the only one that says something.
fn cause(error: &tonic::transport::Error) -> String {
    let mut cause = error.source();
    while let Some(inner) = cause.and_then(|cause| cause.source()) {
        cause = Some(inner);
    }
    cause.map_or_else(|| error.to_string(), ToString::to_string)
}

fn url(address: &str) -> String {
    if address.contains("://") { address.to_owned() } else { format!("http://{address}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_no_scheme() {
        assert_eq!((url("a:1").as_str(), url("http://a:1").as_str()), ("http://a:1", "http://a:1"));
    }

    #[tokio::test]
    async fn one_after_the_other_is_asked() {
        let connection = Connection::new("127.0.0.1:1, http://127.0.0.1:2", Some(Duration::from_millis(700)));
        assert_eq!(connection.addresses(), "http://127.0.0.1:1,http://127.0.0.1:2");
        assert_eq!(connection.address(), "http://127.0.0.1:1");
        let failed = connection.call(async |mut it| it.list_jobs(ListJobsRequest {}).await).await.unwrap_err();
        assert!(matches!(failed, Failure::Unreachable { .. }), "{failed}");
        assert!(connection.current.load(Ordering::Relaxed) > 1);
        // One that stands alone is not waited for.
        let alone = Connection::new("127.0.0.1:1", None);
        alone.call(async |mut it| it.list_jobs(ListJobsRequest {}).await).await.unwrap_err();
        assert_eq!(alone.current.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_key_finds_its_shard() {
        let route = |start, end| Route { operator: "o".into(), start, end, ..Route::default() };
        let routing =
            Routing { max_parallelism: 128, routes: vec![route(0, 64), route(64, 128)], ..Default::default() };
        // "ada" is in key group 110.
        assert_eq!(route_of(&routing, "o", b"ada", None).unwrap().start, 64);
        assert_eq!(route_of_group(&routing, "o", 63).unwrap().start, 0);
        let beyond = route_of_group(&routing, "o", 128).unwrap_err().to_string();
        assert!(beyond.ends_with("(KEY_GROUP_OUT_OF_RANGE)"), "{beyond}");
        assert!(route_of(&routing, "p", b"ada", None).unwrap_err().to_string().ends_with("(OPERATOR_UNKNOWN)"));
    }
}
