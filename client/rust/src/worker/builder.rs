//! Describes a worker and joins it.

use std::{fmt, sync::Arc, time::Duration};

use forebay_proto::v1;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::Worker;
use crate::{
    client::Client,
    error::Result,
    hooks::{Hooks, NoHooks},
    membership::{Membership, Shared},
    states::State,
};

const LEASE_DEFAULT: Duration = Duration::from_secs(15);
const COMMANDS_MAX: usize = 16;

/// Describes a worker before it joins.
pub struct WorkerBuilder {
    client: Client,
    job: String,
    operator: String,
    id: String,
    states: Vec<v1::StateDescriptor>,
    cache_bytes_max: usize,
    write_delay_max: Duration,
    positions_interval: Duration,
    barrier_timeout: Duration,
    hooks: Box<dyn Hooks>,
}

impl WorkerBuilder {
    pub(crate) fn new(client: Client, job: &str, operator: &str) -> Self {
        Self {
            id: client.id().into(),
            client,
            job: job.into(),
            operator: operator.into(),
            states: Vec::new(),
            cache_bytes_max: 64 << 20,
            write_delay_max: Duration::from_secs(1),
            positions_interval: Duration::from_secs(10),
            barrier_timeout: Duration::from_secs(300),
            hooks: Box::new(NoHooks),
        }
    }

    /// Names the worker; a later worker of the same id takes its place.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = id.into();
        self
    }

    /// Declares a state that the worker uses.
    #[must_use]
    pub fn state(mut self, state: &impl State) -> Self {
        self.states.push(state.descriptor());
        self
    }

    /// Bounds the cache; 64 MiB if not said.
    #[must_use]
    pub fn cache_bytes_max(mut self, bytes: usize) -> Self {
        self.cache_bytes_max = bytes;
        self
    }

    /// Bounds how long a write stays in the cache before it is sent; 1 s if not said.
    #[must_use]
    pub fn write_delay_max(mut self, delay: Duration) -> Self {
        self.write_delay_max = delay;
        self
    }

    /// How often all shards are told how far the sources are, changed or not, where positions are kept in the shards;
    /// 10 s if not said. What is read again after a failure begins behind the shard that was told last.
    #[must_use]
    pub fn positions_interval(mut self, interval: Duration) -> Self {
        self.positions_interval = interval;
        self
    }

    /// Declines a checkpoint whose barrier takes longer than this; 5 minutes if not said.
    #[must_use]
    pub fn barrier_timeout(mut self, timeout: Duration) -> Self {
        self.barrier_timeout = timeout;
        self
    }

    /// Runs hooks around checkpoints.
    #[must_use]
    pub fn hooks(mut self, hooks: impl Hooks + 'static) -> Self {
        self.hooks = Box::new(hooks);
        self
    }

    /// Joins the operator's group. [`Worker::assigned`] then waits for the shards.
    pub async fn join(self) -> Result<Worker> {
        let job = self.client.describe_job(&self.job).await?.job.unwrap_or_default();
        let lease_ms = job.spec.as_ref().map_or(0, |spec| spec.lease_ms);
        let shared = Arc::new(Shared::default());
        let (commands, inbound) = mpsc::channel(COMMANDS_MAX);
        let membership = Membership {
            client: self.client.clone(),
            hello: v1::JoinHello {
                job: self.job.clone(),
                job_uid: job.job_uid.clone(),
                operator: self.operator.clone(),
                worker: self.id.clone(),
                join_id: uuid::Uuid::new_v4().simple().to_string(),
                states: self.states,
                assign: v1::AssignMode::Balanced.into(),
                generation: 0,
            },
            lease_length: if lease_ms == 0 { LEASE_DEFAULT } else { Duration::from_millis(lease_ms) },
            shared: shared.clone(),
            commands: inbound,
            reports: Vec::new(),
            leaving: None,
        };
        let patience = 3 * membership.lease_length;
        let task = AbortOnDropHandle::new(tokio::spawn(membership.run()));
        Ok(Worker {
            client: self.client,
            job: self.job,
            job_uid: job.job_uid,
            operator: self.operator,
            id: self.id,
            cache_bytes_max: self.cache_bytes_max,
            write_delay_max: self.write_delay_max,
            positions_interval: self.positions_interval,
            barrier_timeout: self.barrier_timeout,
            patience,
            hooks: self.hooks,
            shared,
            commands,
            records: Arc::default(),
            session: None,
            index: 0,
            first_barrier: None,
            cuts: Vec::new(),
            fenced: false,
            _task: task,
        })
    }
}

impl fmt::Debug for WorkerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerBuilder").field("job", &self.job).field("id", &self.id).finish_non_exhaustive()
    }
}
