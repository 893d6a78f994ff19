//! `StreamService`: the hot path.
//!
//! One task reads a stream and hands its batches to the shards' threads, in order; the answers come
//! back from there. What is in flight on a stream is bounded: a client that does not read its answers
//! is not read from.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use forebay_proto::{reason::Refused, v1};
use futures::{Stream, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use v1::{
    ErrorReason as Reason, batch::Order as WireOrder, stream_request::Message as Up, stream_response::Message as Down,
    stream_service_server::StreamService,
};

use crate::shard::{
    Shards,
    core::{Batch, Order},
    gate::{Caller, lane_expired},
    lanes::{LaneId, Lanes},
    open::{Budget, Passing},
    thread::Shard,
};

/// Version of the protocol that this build speaks.
pub const PROTOCOL_VERSION: u32 = 1;
/// Messages of a stream that are not answered yet.
const IN_FLIGHT: usize = 1024;
/// Bytes of a stream that are not answered yet, where the memory budget allows it.
const CREDIT_BYTES_MAX: u64 = 64 << 20;
/// Most operations of a batch.
const BATCH_OPS_MAX: usize = 1 << 20;

type Answers = Pin<Box<dyn Stream<Item = Result<v1::StreamResponse, Status>> + Send>>;

/// Serves streams.
#[derive(Debug)]
pub(super) struct StreamEdge {
    shards: Shards,
    streams: AtomicU64,
}

impl StreamEdge {
    pub(super) fn new(shards: Shards) -> Self {
        Self { shards, streams: AtomicU64::new(1) }
    }
}

#[tonic::async_trait]
impl StreamService for StreamEdge {
    type StreamStream = Answers;

    async fn stream(&self, request: Request<Streaming<v1::StreamRequest>>) -> Result<Response<Answers>, Status> {
        let mut requests = request.into_inner();
        let Some(Up::Hello(hello)) = requests.message().await?.and_then(|first| first.message) else {
            let message = "the first message of a stream is a hello";
            return Err(Refused::new(Reason::FieldMissing, message).into());
        };
        if hello.protocol_version > PROTOCOL_VERSION {
            let message = format!("protocol version {} is newer than {PROTOCOL_VERSION}", hello.protocol_version);
            return Err(Refused::new(Reason::FormatTooNew, message).into());
        }
        let view = self.shards.job_of_uid(&hello.job, &hello.job_uid)?;
        let budget = self.shards.environment().backends.budget().clone();
        let credit_bytes = budget.stream_max().min(CREDIT_BYTES_MAX) as usize;
        let (out, answers) = mpsc::unbounded_channel();
        let stream = ClientStream {
            id: self.streams.fetch_add(1, Ordering::Relaxed),
            shards: self.shards.clone(),
            hello: Arc::new(hello),
            channels: Arc::default(),
            out,
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT)),
            credit: Arc::new(Semaphore::new(credit_bytes)),
            credit_bytes,
            budget,
        };
        let limits = view.spec.limits.unwrap_or_default();
        stream.send(Down::Welcome(v1::Welcome {
            protocol_version: PROTOCOL_VERSION,
            features: Vec::new(),
            batches_in_flight: Lanes::WINDOW as u32,
            credit_bytes: credit_bytes as u64,
            max_value_bytes: limits.max_value_bytes,
            max_batch_ops: BATCH_OPS_MAX as u32,
        }));
        tokio::spawn(stream.run(requests));
        // The permits of an answer are given back once the transport has taken it.
        let answers = UnboundedReceiverStream::new(answers).map(|answer: Answer| Ok(answer.response));
        Ok(Response::new(Box::pin(answers)))
    }
}

/// An answer, and what its request held of the stream's bounds.
struct Answer {
    response: v1::StreamResponse,
    _permits: Option<Permits>,
}

/// What a request holds until its answer has been taken; the last is the answer's.
type Permits = (OwnedSemaphorePermit, OwnedSemaphorePermit, Passing, Option<Passing>);

#[derive(Debug, Clone)]
struct Channel {
    shard: Arc<Shard>,
    lane: LaneId,
    place: Arc<Place>,
}

/// Where a channel's shard was found, to tell what became of it.
#[derive(Debug)]
struct Place {
    operator: String,
    start: u32,
    end: u32,
}

struct ClientStream {
    id: u64,
    shards: Shards,
    hello: Arc<v1::Hello>,
    channels: Arc<Mutex<HashMap<u32, Channel>>>,
    out: mpsc::UnboundedSender<Answer>,
    in_flight: Arc<Semaphore>,
    credit: Arc<Semaphore>,
    credit_bytes: usize,
    budget: Arc<Budget>,
}

impl ClientStream {
    async fn run(self, mut requests: Streaming<v1::StreamRequest>) {
        while let Ok(Some(request)) = requests.message().await {
            match request.message {
                Some(Up::OpenLane(open)) => self.open_lane(open).await,
                Some(Up::Batch(batch)) => self.batch(batch).await,
                Some(Up::CloseLane(close)) => self.close_lane(close.channel).await,
                Some(Up::Hello(_)) | None => {
                    let refused = Refused::new(Reason::FieldInvalid, "a stream has one hello, at its start");
                    self.refuse(&refused, 0, 0);
                }
            }
        }
        let channels: Vec<_> = self.lock().drain().map(|(_, channel)| channel).collect();
        for channel in channels {
            channel.shard.detach(self.id).await;
        }
    }

    async fn open_lane(&self, open: v1::OpenLane) {
        let caller = self.caller(open.shard_epoch, open.writer_epoch);
        let found = self.shards.job_of_uid(&self.hello.job, &self.hello.job_uid);
        let shard = match found.and_then(|view| view.shard(&open.operator, open.start, open.end, &caller)) {
            Ok(shard) => shard,
            Err(refused) => return self.refuse(&refused, 0, open.channel),
        };
        let (channel, channels, out, held) = (open.channel, self.channels.clone(), self.out.clone(), shard.clone());
        let place = Arc::new(Place { operator: open.operator.clone(), start: open.start, end: open.end });
        let reply = Box::new(move |result: Result<v1::LaneOpened, Refused>| {
            let message = match result {
                Ok(opened) => {
                    if let Some(lane) = LaneId::from_slice(&opened.lane) {
                        let opened_channel = Channel { shard: held, lane, place };
                        channels.lock().expect("no panics under this lock").insert(channel, opened_channel);
                    }
                    Down::LaneOpened(opened)
                }
                Err(refused) => Down::Refusal(refused.to_refusal(0, channel)),
            };
            send(&out, message, None);
        });
        shard.open_lane(caller, open, self.hello.client_id.clone(), reply).await;
    }

    async fn close_lane(&self, channel: u32) {
        let closed = self.lock().remove(&channel);
        if let Some(closed) = closed {
            closed.shard.close_lane(closed.lane).await;
        }
    }

    async fn batch(&self, batch: v1::Batch) {
        let (id, channel) = (batch.id, batch.channel);
        let Some(Channel { shard, lane, place }) = self.lock().get(&channel).cloned() else {
            return self.refuse(&lane_expired(), id, channel);
        };
        let batch = match self.decode(batch, lane) {
            Ok(batch) => batch,
            Err(refused) => return self.refuse(&refused, id, channel),
        };
        let mut permits = self.permits(batch.ops.arena.len()).await;
        let (out, budget) = (self.out.clone(), self.budget.clone());
        let (shards, hello, caller, held) = (self.shards.clone(), self.hello.clone(), batch.caller, shard.clone());
        let reply = Box::new(move |result: Result<crate::shard::core::Done, Refused>| {
            let message = match result {
                Ok(done) => {
                    if let Some((.., answer)) = &mut permits {
                        *answer = Some(budget.hold(done.answers.arena.len() as u64));
                    }
                    Down::Answer(v1::BatchAnswer {
                        id,
                        duplicate: done.duplicate,
                        answers: Some(done.answers),
                        progress: Some(done.progress),
                    })
                }
                Err(refused) => {
                    let refused = successor(refused, &shards, &hello, &place, &held, &caller);
                    Down::Refusal(refused.to_refusal(id, channel))
                }
            };
            send(&out, message, permits);
        });
        shard.batch(batch, reply).await;
    }

    fn decode(&self, batch: v1::Batch, lane: LaneId) -> Result<Batch, Refused> {
        let ops = batch.ops.unwrap_or_default();
        if ops.kinds.len() > BATCH_OPS_MAX {
            let message = format!("the batch has {} operations: at most {BATCH_OPS_MAX}", ops.kinds.len());
            return Err(Refused::new(Reason::BatchTooMany, message));
        }
        let durability = v1::Durability::try_from(batch.durability).map_err(|_| {
            let message = format!("durability {} is unknown: none, wal, wal_sync, checkpoint", batch.durability);
            Refused::new(Reason::FieldInvalid, message)
        })?;
        let order = match batch.order {
            Some(WireOrder::Seq(0)) => {
                return Err(Refused::new(Reason::FieldInvalid, "sequence numbers start at 1"));
            }
            Some(WireOrder::Seq(seq)) => Order::Write(lane, seq),
            Some(WireOrder::After(after)) if batch.barrier.is_none() => Order::Read(lane, after),
            Some(WireOrder::After(_)) => {
                return Err(Refused::new(Reason::FieldInvalid, "a barrier goes with a write batch (seq)"));
            }
            None => return Err(Refused::new(Reason::FieldMissing, "a batch has seq (write) or after (read)")),
        };
        let caller = self.caller(batch.shard_epoch, batch.writer_epoch);
        if !matches!(order, Order::Write(..)) && (batch.watermark_ms.is_some() || !batch.positions.is_empty()) {
            return Err(Refused::new(Reason::FieldInvalid, "watermark and positions go with a write batch (seq)"));
        }
        Ok(Batch {
            caller,
            order,
            ops,
            barrier: batch.barrier,
            durability,
            now_ms: batch.now_ms,
            watermark_ms: batch.watermark_ms,
            positions: batch.positions,
            committed: false,
        })
    }

    /// Waits for room. A single batch over the whole credit waits for all of it.
    async fn permits(&self, bytes: usize) -> Option<Permits> {
        let credit = u32::try_from(bytes.min(self.credit_bytes)).unwrap_or(u32::MAX);
        let message = self.in_flight.clone().acquire_owned().await.ok()?;
        let credit = self.credit.clone().acquire_many_owned(credit).await.ok()?;
        Some((message, credit, self.budget.admit(bytes as u64).await, None))
    }

    fn caller(&self, shard_epoch: u64, writer_epoch: u64) -> Caller {
        Caller { generation: self.hello.generation, shard_epoch, writer_epoch, stream: self.id }
    }

    fn refuse(&self, refused: &Refused, id: u64, channel: u32) {
        self.send(Down::Refusal(refused.to_refusal(id, channel)));
    }

    fn send(&self, message: Down) {
        send(&self.out, message, None);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Channel>> {
        self.channels.lock().expect("no panics under this lock")
    }
}

/// A shard that has ended says no more than that. What stands in its place says why: the job was
/// rewound or is gone, or the shard was made anew, and its lanes ended with its incarnation.
fn successor(
    refused: Refused,
    shards: &Shards,
    hello: &v1::Hello,
    place: &Place,
    held: &Arc<Shard>,
    caller: &Caller,
) -> Refused {
    if refused.reason != Reason::ShardMoved {
        return refused;
    }
    let view = shards.job_of_uid(&hello.job, &hello.job_uid);
    match view.and_then(|view| view.shard(&place.operator, place.start, place.end, caller)) {
        Ok(shard) if Arc::ptr_eq(&shard, held) => refused,
        Ok(_) => lane_expired(),
        Err(why) => why,
    }
}

fn send(out: &mpsc::UnboundedSender<Answer>, message: Down, permits: Option<Permits>) {
    let response = v1::StreamResponse { message: Some(message) };
    // An error means that the client has gone away.
    out.send(Answer { response, _permits: permits }).ok();
}
