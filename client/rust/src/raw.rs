//! Lanes without cache or lease: for tools, benchmarks and tests.
//!
//! A [`StreamClient`] opens lanes explicitly and sends packed batches with many in flight. Workers have no
//! use for it: it does not know what is cached, nor when a lease ends.

use std::sync::Arc;

use forebay_proto::{KeyGroupRange, reason::Refused, v1};

use crate::{
    client::Client,
    error::{Error, Result},
    lane::Target,
    routing::{Router, Table, range},
    stream::Streams,
};

pub use crate::{
    lane::Write,
    shard_lane::{LaneHandle, Phase, Reply},
};

/// Streams to the servers of one job, in the generation that it had when this was made.
#[derive(Debug, Clone)]
pub struct StreamClient {
    routing: Arc<v1::Routing>,
    states: Arc<Vec<v1::RegisteredState>>,
    streams: Arc<Streams>,
    router: Arc<Router>,
}

impl StreamClient {
    /// Looks up a job and its shards.
    pub async fn connect(client: &Client, job: &str) -> Result<Self> {
        let description = client.describe_job(job).await?;
        let routing = client.routing(job).await?;
        let (uid, generation) = (&routing.job_uid, routing.generation);
        let streams = Streams::new(client.channels().clone(), client.id(), job, uid, generation);
        let router = Router::new(client.clone(), job, uid, generation, &routing.routes);
        Ok(Self {
            states: Arc::new(description.states),
            streams: Arc::new(streams),
            router: Arc::new(router),
            routing: Arc::new(routing),
        })
    }

    /// Returns the shards of an operator.
    pub fn table(&self, operator: &str) -> Result<Table> {
        Table::of_operator(&self.routing, operator)
    }

    /// Returns the numeric id of a state.
    pub fn state_id(&self, operator: &str, state: &str) -> Result<u32> {
        let named = |registered: &&v1::RegisteredState| {
            registered.operator == operator
                && registered.descriptor.as_ref().is_some_and(|descriptor| descriptor.name == state)
        };
        self.states.iter().find(named).map(|registered| registered.id).ok_or_else(|| {
            let message = format!("no state {state:?} in operator {operator:?}");
            Refused::new(v1::ErrorReason::StateUnknown, message).into()
        })
    }

    /// Opens a lane to a shard and waits until it is open. `writer_epoch` is 0 for shared operators.
    pub async fn lane(&self, operator: &str, shard: KeyGroupRange, writer_epoch: u64) -> Result<LaneHandle> {
        let table = self.table(operator)?;
        let route = table.routes().iter().find(|route| range(route) == shard).ok_or_else(|| {
            let message = format!("operator {operator:?} has no shard {shard}");
            Error::from(Refused::new(v1::ErrorReason::ShardUnknown, message))
        })?;
        let target = Target { operator: operator.into(), range: shard, shard_epoch: route.epoch, writer_epoch };
        let lane = LaneHandle::open(target, self.streams.clone(), self.router.clone());
        lane.opened().await?;
        Ok(lane)
    }

    /// Opens a lane to every shard of a shared operator, in the order of [`Table::routes`].
    pub async fn lanes(&self, operator: &str) -> Result<Vec<LaneHandle>> {
        let mut lanes = Vec::new();
        for route in self.table(operator)?.routes() {
            lanes.push(self.lane(operator, range(route), 0).await?);
        }
        Ok(lanes)
    }
}
