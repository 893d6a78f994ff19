//! The hot path by hand.

use std::collections::VecDeque;

use forebay_proto::{
    packed::Answers,
    v1::{self, batch::Order, stream_request::Message as Up, stream_response::Message as Down},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;

use super::{
    api::{Api, Result},
    within,
};

/// The version that this build speaks.
const PROTOCOL_VERSION: u32 = 1;

/// A stream to one server: what a test says is sent as it is, nothing is retried.
#[derive(Debug)]
pub struct Stream {
    to: mpsc::UnboundedSender<v1::StreamRequest>,
    from: Streaming<v1::StreamResponse>,
    waiting: VecDeque<Down>,
    next_id: u64,
    next_channel: u32,
    /// What the server answered to the hello.
    pub welcome: v1::Welcome,
}

/// An open lane, as its batches must name it.
#[derive(Debug, Clone, PartialEq)]
pub struct Lane {
    /// The lane.
    pub id: Vec<u8>,
    /// Its number on the stream.
    pub channel: u32,
    /// First key group of its shard.
    pub start: u32,
    /// End of the key groups, exclusive.
    pub end: u32,
    /// Epoch of its shard.
    pub shard_epoch: u64,
    /// Epoch of the writer's lease; 0 for shared operators.
    pub writer_epoch: u64,
    /// Incarnation of its shard.
    pub incarnation: u64,
    /// The highest applied batch when it was opened or attached.
    pub mark: u64,
    /// Count of its attachments.
    pub attachment: u64,
}

impl Stream {
    /// Opens a stream as the SDK does it.
    pub async fn open(api: &Api, job: &v1::JobInfo) -> Result<Self> {
        let name = job.spec.as_ref().map(|spec| spec.name.clone()).unwrap_or_default();
        Self::hello(
            api,
            v1::Hello {
                client_id: "by-hand".into(),
                job: name,
                job_uid: job.job_uid.clone(),
                generation: job.generation,
                protocol_version: PROTOCOL_VERSION,
                features: Vec::new(),
            },
        )
        .await
    }

    /// Opens a stream with any hello.
    pub async fn hello(api: &Api, hello: v1::Hello) -> Result<Self> {
        Self::start(api, Up::Hello(hello)).await
    }

    /// Opens a stream with any first message.
    pub async fn start(api: &Api, first: Up) -> Result<Self> {
        let (to, requests) = mpsc::unbounded_channel();
        to.send(v1::StreamRequest { message: Some(first) }).ok();
        let answered =
            within("the stream is open", async { api.streams().stream(UnboundedReceiverStream::new(requests)).await });
        let from = answered.await?.into_inner();
        let (next_id, next_channel) = (1, 1);
        let mut stream =
            Self { to, from, waiting: VecDeque::new(), next_id, next_channel, welcome: v1::Welcome::default() };
        match stream.receive().await? {
            Down::Welcome(welcome) => stream.welcome = welcome,
            other => panic!("not a welcome: {other:?}"),
        }
        Ok(stream)
    }

    /// Sends any message.
    pub fn send(&self, message: Up) {
        // An error means that the stream has ended; `receive` tells why.
        self.to.send(v1::StreamRequest { message: Some(message) }).ok();
    }

    /// Waits for the next message.
    pub async fn receive(&mut self) -> Result<Down> {
        if let Some(message) = self.waiting.pop_front() {
            return Ok(message);
        }
        self.read().await
    }

    async fn read(&mut self) -> Result<Down> {
        let message = within("a message comes down the stream", self.from.message()).await?;
        let message = message.ok_or_else(|| tonic::Status::cancelled("the stream has ended"))?;
        Ok(message.message.expect("an answer is never empty"))
    }

    /// Opens a lane to a shard.
    pub async fn lane(&mut self, route: &v1::Route, writer_epoch: u64) -> Result<Lane> {
        let open = v1::OpenLane {
            operator: route.operator.clone(),
            start: route.start,
            end: route.end,
            shard_epoch: route.epoch,
            writer_epoch,
            ..Default::default()
        };
        Ok(self.open_lane(open).await?.unwrap_or_else(|refusal| panic!("no lane: {refusal:?}")))
    }

    /// Attaches a lane to this stream, the shard's epoch being the same.
    pub async fn attach(&mut self, operator: &str, lane: &Lane, acknowledged: u64) -> Result<Answered<Lane>> {
        let open = v1::OpenLane {
            operator: operator.into(),
            start: lane.start,
            end: lane.end,
            shard_epoch: lane.shard_epoch,
            writer_epoch: lane.writer_epoch,
            lane: lane.id.clone().into(),
            attachment: lane.attachment + 1,
            acknowledged,
            incarnation: lane.incarnation,
            ..Default::default()
        };
        self.open_lane(open).await
    }

    /// Opens or attaches a lane; the channel is chosen here.
    pub async fn open_lane(&mut self, open: v1::OpenLane) -> Result<Answered<Lane>> {
        let channel = self.next_channel;
        self.next_channel += 1;
        self.send(Up::OpenLane(v1::OpenLane { channel, ..open.clone() }));
        let is_it = |message: &Down| match message {
            Down::LaneOpened(opened) => opened.channel == channel,
            Down::Refusal(refusal) => refusal.channel == channel && refusal.id == 0,
            _ => false,
        };
        match self.find(is_it).await? {
            Down::LaneOpened(opened) => Ok(Ok(Lane {
                id: opened.lane.to_vec(),
                channel,
                start: open.start,
                end: open.end,
                shard_epoch: open.shard_epoch,
                writer_epoch: open.writer_epoch,
                incarnation: opened.incarnation,
                mark: opened.progress.map_or(0, |progress| progress.applied),
                attachment: open.attachment,
            })),
            Down::Refusal(refusal) => Ok(Err(refusal)),
            other => panic!("not an answer to a lane: {other:?}"),
        }
    }

    /// Sends a batch and returns its id; 0 is replaced by a fresh one.
    pub fn send_batch(&mut self, batch: v1::Batch) -> u64 {
        let id = if batch.id == 0 { self.next_id } else { batch.id };
        self.next_id = self.next_id.max(id) + 1;
        self.send(Up::Batch(v1::Batch { id, ..batch }));
        id
    }

    /// Waits for the answer to a batch; answers to others wait for their turn.
    pub async fn answer(&mut self, id: u64) -> Result<Answered<v1::BatchAnswer>> {
        let is_it = |message: &Down| match message {
            Down::Answer(answer) => answer.id == id,
            Down::Refusal(refusal) => refusal.id == id,
            _ => false,
        };
        match self.find(is_it).await? {
            Down::Answer(answer) => Ok(Ok(answer)),
            Down::Refusal(refusal) => Ok(Err(refusal)),
            other => panic!("not an answer to a batch: {other:?}"),
        }
    }

    /// Sends a batch and waits for its answer.
    pub async fn batch(&mut self, batch: v1::Batch) -> Result<Answered<v1::BatchAnswer>> {
        let id = self.send_batch(batch);
        self.answer(id).await
    }

    /// Writes and waits for the answer.
    pub async fn write(&mut self, lane: &Lane, seq: u64, ops: v1::PackedOps) -> Result<Answered<v1::BatchAnswer>> {
        self.batch(lane.write(seq, ops)).await
    }

    /// Reads and returns the items of the first operation.
    pub async fn read_items(&mut self, lane: &Lane, after: u64, ops: v1::PackedOps) -> Result<Vec<Vec<u8>>> {
        let answer = self.batch(lane.read(after, ops)).await?;
        let answer = answer.unwrap_or_else(|refusal| panic!("not read: {refusal:?}"));
        let answers = Answers::decode(answer.answers.unwrap_or_default()).expect("columns that fit");
        Ok(answers.answer(0).items().map(|item| item.to_vec()).collect())
    }

    async fn find(&mut self, is_it: impl Fn(&Down) -> bool) -> Result<Down> {
        if let Some(index) = self.waiting.iter().position(&is_it) {
            return Ok(self.waiting.remove(index).expect("it is there"));
        }
        loop {
            let message = self.read().await?;
            if is_it(&message) {
                return Ok(message);
            }
            self.waiting.push_back(message);
        }
    }
}

/// What a stream answers to one message: the answer, or the refusal of just that message.
pub type Answered<T> = std::result::Result<T, v1::Refusal>;

impl Lane {
    /// A write batch.
    pub fn write(&self, seq: u64, ops: v1::PackedOps) -> v1::Batch {
        self.batch(Order::Seq(seq), ops)
    }

    /// A read batch.
    pub fn read(&self, after: u64, ops: v1::PackedOps) -> v1::Batch {
        self.batch(Order::After(after), ops)
    }

    /// A write batch that is nothing but a barrier.
    pub fn barrier(&self, seq: u64, barrier: &v1::Barrier) -> v1::Batch {
        let op = v1::BarrierOp {
            checkpoint: barrier.checkpoint,
            round: barrier.round.clone(),
            base: barrier.base,
            coordinator_epoch: barrier.coordinator_epoch,
        };
        v1::Batch { barrier: Some(op), ..self.write(seq, v1::PackedOps::default()) }
    }

    fn batch(&self, order: Order, ops: v1::PackedOps) -> v1::Batch {
        v1::Batch {
            channel: self.channel,
            shard_epoch: self.shard_epoch,
            writer_epoch: self.writer_epoch,
            order: Some(order),
            ops: Some(ops),
            ..Default::default()
        }
    }
}
