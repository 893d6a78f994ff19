//! Workers' streams at a server: a twin of `server/src/grpc/stream.rs` around the real cores.

use std::collections::BTreeMap;

use forebay_proto::{reason::Refused, v1};
use forebay_server::shard::{
    core::{Batch, Done, Moment, Order},
    gate::{self, Caller},
    lanes::LaneId,
};
use v1::{
    ErrorReason as Reason, batch::Order as WireOrder, stream_request::Message as Up, stream_response::Message as Down,
};

use super::{
    disk::{ShardDisk, lock},
    env::Env,
    faults,
    network::{ConnectionId, Message, Side},
    oracle::Applied,
    server::{Place, Server, Status, place},
};

/// A worker's stream.
#[derive(Debug)]
pub struct ClientStream {
    id: u64,
    hello: v1::Hello,
    channels: BTreeMap<u32, Channel>,
}

#[derive(Debug, Clone)]
struct Channel {
    /// The instance of the shard.
    instance: u64,
    lane: LaneId,
    place: Place,
}

impl Server {
    /// Takes a message of a worker.
    pub fn stream_heard(&mut self, env: &mut Env, disk: &BTreeMap<Place, ShardDisk>, id: ConnectionId, message: Up) {
        match message {
            Up::Hello(hello) => self.greet(env, id, hello),
            Up::OpenLane(open) => {
                let answer = match self.open_lane(env, id, &open) {
                    Ok(opened) => Down::LaneOpened(opened),
                    Err(refused) => Down::Refusal(refused.to_refusal(0, open.channel)),
                };
                self.answer(env, id, answer);
            }
            Up::Batch(batch) => {
                let (number, channel) = (batch.id, batch.channel);
                let answer = match self.batch(env, disk, id, batch) {
                    Ok(answer) => Down::Answer(v1::BatchAnswer { id: number, ..answer }),
                    Err(refused) => Down::Refusal(refused.to_refusal(number, channel)),
                };
                self.answer(env, id, answer);
            }
            Up::CloseLane(close) => {
                let closed = self.streams.get_mut(&id).and_then(|stream| stream.channels.remove(&close.channel));
                if let Some(Channel { instance, lane, .. }) = closed
                    && let Some(core) = self.cores.get_mut(&instance)
                {
                    // Nobody waits for it.
                    drop(core.close_lane(lane));
                }
            }
        }
    }

    /// Takes note of a stream's end.
    pub fn stream_closed(&mut self, id: ConnectionId) {
        let Some(stream) = self.streams.remove(&id) else { return };
        for channel in stream.channels.values() {
            if let Some(core) = self.cores.get_mut(&channel.instance) {
                core.detach(stream.id);
            }
        }
    }

    fn answer(&self, env: &mut Env, id: ConnectionId, answer: Down) {
        // A process that has died in a write call answers nothing.
        if !lock(&self.control).crashed {
            env.send(id, Side::Server, Message::StreamDown(answer));
        }
    }

    fn greet(&mut self, env: &mut Env, id: ConnectionId, hello: v1::Hello) {
        let Some(view) = &self.view else {
            let message = format!("there is no job {:?} on this server", hello.job);
            env.send(id, Side::Server, Message::Refused(Refused::new(Reason::JobUnknown, message)));
            return env.close(id, Side::Server);
        };
        if view.job_uid != hello.job_uid {
            env.send(id, Side::Server, Message::Refused(Refused::new(Reason::JobUnknown, "made anew")));
            return env.close(id, Side::Server);
        }
        self.streams_made += 1;
        self.streams.insert(id, ClientStream { id: self.streams_made, hello, channels: BTreeMap::new() });
        let welcome = v1::Welcome { batches_in_flight: env.settings.window, ..Default::default() };
        self.answer(env, id, Down::Welcome(welcome));
    }

    fn open_lane(&mut self, env: &mut Env, id: ConnectionId, open: &v1::OpenLane) -> Result<v1::LaneOpened, Refused> {
        let moment = Moment { wall_ms: env.wall_ms(), lease: self.lease_valid(env) };
        let stream = self.streams.get(&id).ok_or_else(gate::lane_expired)?;
        let caller = caller(stream, open.shard_epoch, open.writer_epoch);
        let principal = stream.hello.client_id.clone();
        let place = (open.operator.clone(), open.start, open.end);
        let instance = self.find(&place, &caller)?;
        let core = self.cores.get_mut(&instance).ok_or_else(stopped)?;
        let mut fresh = [0; 16];
        fresh[..8].copy_from_slice(&env.rng.next().to_be_bytes());
        fresh[8..].copy_from_slice(&self.life.0.to_be_bytes());
        let opened = core.open_lane(&caller, open, &principal, LaneId(fresh), moment)?;
        if let (Some(lane), Some(stream)) = (LaneId::from_slice(&opened.lane), self.streams.get_mut(&id)) {
            stream.channels.insert(open.channel, Channel { instance, lane, place });
        }
        Ok(opened)
    }

    fn find(&self, wanted: &Place, caller: &Caller) -> Result<u64, Refused> {
        let view = self.view.as_ref().ok_or_else(stopped)?;
        if caller.generation != 0 && caller.generation < view.generation {
            return Err(Refused::new(Reason::Rewound, "the job went back")
                .with("generation", view.generation)
                .with("checkpoint", view.restored_checkpoint));
        }
        match self.slots.iter().find(|slot| place(&slot.entry) == *wanted).map(|slot| &slot.status) {
            Some(Status::Serving(instance)) => Ok(*instance),
            Some(Status::Restoring) => Err(Refused::new(Reason::ShardRestoring, "the shard is being restored")),
            Some(Status::Unavailable(refused)) => Err(refused.clone()),
            None => Err(Refused::new(Reason::ShardMoved, "the shard is not on this server")),
        }
    }

    fn batch(
        &mut self,
        env: &mut Env,
        disk: &BTreeMap<Place, ShardDisk>,
        id: ConnectionId,
        batch: v1::Batch,
    ) -> Result<v1::BatchAnswer, Refused> {
        let stream = self.streams.get(&id).ok_or_else(gate::lane_expired)?;
        let Channel { instance, lane, place: at } =
            stream.channels.get(&batch.channel).cloned().ok_or_else(gate::lane_expired)?;
        let caller = caller(stream, batch.shard_epoch, batch.writer_epoch);
        let writes = matches!(batch.order, Some(WireOrder::Seq(_)));
        if writes && batch.barrier.is_none() && env.faults.take_refusal() {
            // As if it had been damaged on its way: refused for good, without effect.
            return Err(Refused::new(Reason::Malformed, "a batch was damaged"));
        }
        let order = match batch.order {
            Some(WireOrder::Seq(seq)) => Order::Write(lane, seq),
            Some(WireOrder::After(after)) => Order::Read(lane, after),
            None => return Err(Refused::new(Reason::FieldMissing, "a batch has seq or after")),
        };
        let barrier = batch.barrier;
        let ops = batch.ops.unwrap_or_default();
        let batch = Batch {
            caller,
            order,
            ops,
            barrier,
            durability: v1::Durability::Unspecified,
            now_ms: 0,
            watermark_ms: None,
            positions: batch.positions,
            committed: false,
        };
        let moment = Moment { wall_ms: env.wall_ms(), lease: self.lease_valid(env) };
        let entry = self.slots.iter().find(|slot| matches!(slot.status, Status::Serving(it) if it == instance));
        let (Some(entry), Some(core)) = (entry.map(|slot| &slot.entry), self.cores.get_mut(&instance)) else {
            // What stands in its place says why.
            return Err(self.find(&at, &caller).map_or_else(|why| why, |_| gate::lane_expired()));
        };
        let mut done = core.batch(&batch, moment)?;
        let Done { duplicate, progress, .. } = &done;
        env.oracle.applied(&Applied { entry, caller, lane, batch: &batch, duplicate: *duplicate, progress });
        if done.duplicate {
            env.faults.hit("duplicate answered");
        }
        if let Some(snapshot) = done.snapshot.take() {
            let image = disk.get(&place(entry)).and_then(ShardDisk::take_frozen).unwrap_or_default();
            env.faults.moment(faults::Moment::Frozen);
            self.upload(env, snapshot, image);
        }
        gate::own_right(self.lease_valid(env))?;
        let (answers, progress) = (Some(done.answers), Some(done.progress));
        Ok(v1::BatchAnswer { id: 0, duplicate: done.duplicate, answers, progress })
    }
}

fn caller(stream: &ClientStream, shard_epoch: u64, writer_epoch: u64) -> Caller {
    Caller { generation: stream.hello.generation, shard_epoch, writer_epoch, stream: stream.id }
}

fn stopped() -> Refused {
    Refused::new(Reason::ShardMoved, "the shard has left this server: look up the routing again")
}
