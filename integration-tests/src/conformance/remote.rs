//! A job of one leased shard on a real server, over the packed stream.

use async_trait::async_trait;
use forebay_proto::v1;

use super::{Answered, Inside, Target, Times};
use crate::harness::{Api, Job, JobBuilder, Lane, Stream, Worker};

/// The shard of a fresh job, with one worker's lease and lane.
#[derive(Debug)]
pub struct Remote {
    _worker: Worker,
    stream: Stream,
    lane: Lane,
    sent: Vec<(v1::PackedOps, Times)>,
}

impl Remote {
    /// Creates a job with these states.
    ///
    /// # Panics
    /// If it does not serve in time.
    pub async fn create(api: &Api, name: &str, rocks: bool, states: &[v1::StateDescriptor]) -> Self {
        let builder = JobBuilder::leased(name, 1);
        Self::with(api, if rocks { builder } else { builder.in_memory() }.build(), states).await
    }

    /// Creates a job of one leased shard.
    ///
    /// # Panics
    /// If it does not serve in time.
    pub async fn with(api: &Api, spec: v1::JobSpec, states: &[v1::StateDescriptor]) -> Self {
        let job = Job::create(api, spec, states).await;
        let mut worker = Worker::join(api, &job.info, "worker").await.expect("it joins");
        let assignment = worker.assignment().await;
        let info = v1::JobInfo { generation: assignment.generation, ..job.info.clone() };
        let mut stream = Stream::open(api, &info).await.expect("a stream opens");
        let shard = &assignment.shards[0];
        let route = shard.route.as_ref().expect("a shard has a route");
        let lane = stream.lane(route, shard.writer_epoch).await.expect("a lane opens");
        Self { _worker: worker, stream, lane, sent: Vec::new() }
    }

    async fn send(&mut self, batch: v1::Batch, times: Times) -> Answered {
        let batch = v1::Batch { now_ms: times.now_ms, watermark_ms: times.watermark_ms, ..batch };
        self.stream.batch(batch).await.expect("the stream stands")
    }

    fn mark(&self) -> u64 {
        self.sent.len() as u64
    }
}

#[async_trait]
impl Target for Remote {
    async fn write(&mut self, ops: v1::PackedOps, times: Times) -> Answered {
        let batch = self.lane.write(self.mark() + 1, ops.clone());
        let answered = self.send(batch, times).await;
        if answered.is_ok() {
            self.sent.push((ops, times));
        }
        answered
    }

    async fn resend(&mut self) -> Answered {
        let (ops, times) = self.sent.last().cloned().expect("something was sent");
        let batch = self.lane.write(self.mark(), ops);
        self.send(batch, times).await
    }

    async fn read(&mut self, ops: v1::PackedOps, times: Times) -> Answered {
        let batch = self.lane.read(self.mark(), ops);
        self.send(batch, times).await
    }

    async fn describe(&mut self, descriptor: v1::StateDescriptor) {
        // Nothing tells when the shard has taken it up.
        unreachable!("{descriptor:?} behind gRPC: such scenarios are left out");
    }

    async fn inside(&mut self, what: Inside) -> usize {
        unreachable!("{what:?} behind gRPC: such scenarios are left out")
    }
}
