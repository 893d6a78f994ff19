//! Calls to coordinator and servers, one message each.

use forebay_proto::v1::{
    self, coordinator_service_client::CoordinatorServiceClient, debug_service_client::DebugServiceClient,
    snapshot_service_client::SnapshotServiceClient, state_service_client::StateServiceClient,
    stream_service_client::StreamServiceClient, value::Form,
};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};
use xxhash_rust::xxh3::Xxh3;

use super::eventually;

const MESSAGE_BYTES_MAX: usize = 80 << 20;

/// Clients to one address; they connect when they are first used, and again when the connection broke.
#[derive(Debug, Clone)]
pub struct Api {
    channel: Channel,
}

/// The result of a call.
pub type Result<T> = std::result::Result<T, Status>;

impl Api {
    /// Clients to an address such as `http://127.0.0.1:7400`.
    ///
    /// # Panics
    /// If it is not one.
    pub fn to(url: &str) -> Self {
        let endpoint = Endpoint::from_shared(url.to_owned()).expect("a URL");
        Self { channel: endpoint.tcp_nodelay(true).connect_lazy() }
    }

    /// The generated client of the coordinator.
    pub fn coordinator(&self) -> CoordinatorServiceClient<Channel> {
        CoordinatorServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The generated client of unary access to state.
    pub fn state(&self) -> StateServiceClient<Channel> {
        let client = StateServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        client.max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The generated client of the hot path.
    pub fn streams(&self) -> StreamServiceClient<Channel> {
        let client = StreamServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        client.max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The generated client of snapshots that another engine owns.
    pub fn snapshots(&self) -> SnapshotServiceClient<Channel> {
        SnapshotServiceClient::new(self.channel.clone())
    }

    /// The generated client of the people's view.
    pub fn debug(&self) -> DebugServiceClient<Channel> {
        DebugServiceClient::new(self.channel.clone())
    }

    /// Creates a job.
    pub async fn create(&self, spec: v1::JobSpec) -> Result<v1::JobInfo> {
        let request = v1::CreateJobRequest { spec: Some(spec), validate_only: false };
        Ok(self.coordinator().create_job(request).await?.into_inner().job.unwrap_or_default())
    }

    /// Deletes a job.
    pub async fn delete(&self, job: &str) -> Result<()> {
        let request = v1::DeleteJobRequest { job: job.into(), job_uid: String::new() };
        self.coordinator().delete_job(request).await.map(drop)
    }

    /// How the cluster is.
    pub async fn status(&self) -> Result<v1::GetStatusResponse> {
        Ok(self.coordinator().get_status(v1::GetStatusRequest {}).await?.into_inner())
    }

    /// Describes a job.
    pub async fn describe(&self, job: &str) -> Result<v1::JobInfo> {
        let request = v1::DescribeJobRequest { job: job.into() };
        Ok(self.coordinator().describe_job(request).await?.into_inner().job.unwrap_or_default())
    }

    /// Registers states.
    pub async fn register(
        &self,
        job: &str,
        operator: &str,
        descriptors: Vec<v1::StateDescriptor>,
    ) -> Result<Vec<v1::RegisteredState>> {
        let request = v1::RegisterStatesRequest { job: job.into(), operator: operator.into(), descriptors };
        Ok(self.coordinator().register_states(request).await?.into_inner().states)
    }

    /// The registered states of a job.
    pub async fn states(&self, job: &str) -> Result<Vec<v1::RegisteredState>> {
        let request = v1::ListStatesRequest { job: job.into() };
        Ok(self.coordinator().list_states(request).await?.into_inner().states)
    }

    /// Where the shards of a job are.
    pub async fn routing(&self, job: &str) -> Result<v1::Routing> {
        let request = v1::GetRoutingRequest { job: job.into() };
        Ok(self.coordinator().get_routing(request).await?.into_inner().routing.unwrap_or_default())
    }

    /// Takes a checkpoint and waits until it is complete.
    pub async fn checkpoint(&self, job: &str) -> Result<v1::CompletedCheckpoint> {
        let request = v1::TriggerCheckpointRequest { job: job.into(), full: false };
        Ok(self.coordinator().trigger_checkpoint(request).await?.into_inner().checkpoint.unwrap_or_default())
    }

    /// The checkpoints of a job.
    pub async fn checkpoints(&self, job: &str) -> Result<v1::ListCheckpointsResponse> {
        Ok(self.coordinator().list_checkpoints(v1::ListCheckpointsRequest { job: job.into() }).await?.into_inner())
    }

    /// The manifest of a checkpoint.
    pub async fn manifest(&self, job: &str, checkpoint: u64) -> Result<v1::Manifest> {
        let request = v1::DescribeCheckpointRequest { job: job.into(), checkpoint };
        Ok(self.coordinator().describe_checkpoint(request).await?.into_inner().manifest.unwrap_or_default())
    }

    /// The servers.
    pub async fn servers(&self) -> Result<Vec<v1::ServerInfo>> {
        Ok(self.coordinator().list_servers(v1::ListServersRequest {}).await?.into_inner().servers)
    }

    /// Waits until so many servers are linked to the coordinator.
    pub async fn linked(&self, servers: usize) {
        eventually("all servers are linked", || async {
            let listed = self.servers().await.ok()?;
            (listed.iter().filter(|server| server.connected).count() == servers).then_some(())
        })
        .await;
    }

    /// Waits until every shard of a job is established and serves, and returns the job.
    pub async fn serving(&self, job: &str) -> v1::JobInfo {
        eventually(&format!("job {job:?} serves"), || async {
            let job = self.describe(job).await;
            let job = job.ok()?;
            let serves = |shard: &v1::ShardInfo| {
                shard.status() == v1::ShardStatus::Serving
                    && shard.entry.as_ref().is_some_and(|entry| entry.established)
            };
            (!job.shards.is_empty() && job.shards.iter().all(serves)).then_some(job)
        })
        .await
    }

    /// Reads an address.
    pub async fn get(&self, address: v1::Address) -> Result<v1::GetResponse> {
        let request = v1::GetRequest { address: Some(address), ..Default::default() };
        Ok(self.state().get(request).await?.into_inner())
    }

    /// Replaces a value.
    pub async fn put(&self, address: v1::Address, value: v1::Value) -> Result<v1::PutResponse> {
        let request = v1::PutRequest { address: Some(address), values: vec![value], ..Default::default() };
        Ok(self.state().put(request).await?.into_inner())
    }

    /// Appends an element to a list.
    pub async fn append(&self, address: v1::Address, value: v1::Value) -> Result<v1::AppendResponse> {
        let request = v1::AppendRequest { address: Some(address), values: vec![value], ..Default::default() };
        Ok(self.state().append(request).await?.into_inner())
    }

    /// All rows of a state, in their order.
    pub async fn scan(&self, job: &str, operator: &str, state: &str) -> Result<Vec<v1::ScanRow>> {
        let request =
            v1::ScanRequest { job: job.into(), operator: operator.into(), state: state.into(), ..Default::default() };
        let mut pages = self.state().scan(request).await?.into_inner();
        let mut rows = Vec::new();
        while let Some(page) = pages.message().await? {
            rows.extend(page.rows);
        }
        Ok(rows)
    }

    /// A digest of everything that is stored in the states of a job.
    pub async fn digest(&self, job: &str) -> Result<u64> {
        let mut hasher = Xxh3::new();
        for state in self.states(job).await? {
            let name = state.descriptor.unwrap_or_default().name;
            hasher.update(name.as_bytes());
            for row in self.scan(job, &state.operator, &name).await? {
                hasher.update(&row.key_group.to_be_bytes());
                for item in [row.key, row.namespace, row.map_key, row.value] {
                    let raw = item.unwrap_or_default().raw;
                    hasher.update(&(raw.len() as u64).to_be_bytes());
                    hasher.update(&raw);
                }
            }
        }
        Ok(hasher.digest())
    }
}

/// Bytes, as a unary call takes them.
pub fn raw(bytes: impl Into<Vec<u8>>) -> v1::Value {
    v1::Value { form: Some(Form::Raw(bytes.into().into())) }
}

/// Text, as a unary call takes it.
pub fn text(text: &str) -> v1::Value {
    v1::Value { form: Some(Form::Utf8(text.into())) }
}

/// The address of a key of raw bytes.
pub fn address(job: &str, operator: &str, state: &str, key: impl Into<Vec<u8>>) -> v1::Address {
    v1::Address {
        job: job.into(),
        operator: operator.into(),
        state: state.into(),
        key: Some(raw(key)),
        ..Default::default()
    }
}
