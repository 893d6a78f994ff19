//! A session's lanes on their way: the real [`Lane`]s with the streams they are attached to. A twin of
//! `client/rust/src/{shard_lane,stream,routing}.rs`.

use std::collections::BTreeMap;

use forebay_client::lane::{Completion, Lane, Status, Target, channel_of};
use forebay_proto::{KeyGroupRange, reason::Refused, v1};
use v1::{ErrorReason as Reason, stream_request::Message as Up, stream_response::Message as Down};

use super::{
    coordinator::Coordinator,
    env::Env,
    network::{ConnectionId, Message, Side},
    schedule::{Life, NodeId},
    server::Place,
    session::{self, Timer},
    settings::JOB,
};

const OPENING_MAX_US: i64 = 20_000_000;

/// A lane, and how far it is on its way.
#[derive(Debug)]
pub struct Driven {
    /// The lane.
    pub lane: Lane,
    /// The shard.
    pub place: Place,
    stream: Option<(ConnectionId, u32)>,
    attaching: bool,
    waiting: bool,
    fresh: bool,
    tries: u32,
}

#[derive(Debug)]
struct Stream {
    id: ConnectionId,
    window: Option<u32>,
    channels: u32,
    waiting: Vec<usize>,
}

/// The lanes of one session.
#[derive(Debug)]
pub struct Lanes {
    /// One per shard, in the order of their key groups.
    pub all: Vec<Driven>,
    node: NodeId,
    life: Life,
    session: u64,
    job_uid: String,
    generation: u64,
    routes: BTreeMap<Place, v1::Route>,
    streams: BTreeMap<String, Stream>,
    /// What became of batches: lane and completion.
    pub completions: Vec<(usize, Completion)>,
}

impl Lanes {
    /// Makes a lane to each shard of an assignment.
    pub fn new(env: &Env, node: NodeId, life: Life, session: u64, assignment: &v1::Assignment) -> Self {
        let mut all: Vec<_> = assignment.shards.iter().map(driven).collect();
        all.sort_by(|one, other| one.place.cmp(&other.place));
        let routes = assignment.shards.iter().filter_map(|leased| leased.route.clone());
        Self {
            all,
            node,
            life,
            session,
            job_uid: env.store.head.job_uid.clone(),
            generation: assignment.generation,
            routes: routes.map(|route| (place(&route), route)).collect(),
            streams: BTreeMap::new(),
            completions: Vec::new(),
        }
    }

    fn wake(&self, env: &mut Env, delay_us: i64, timer: Timer) {
        session::wake(env, self.node, self.life, self.session, delay_us, timer);
    }

    /// Does what a lane asks for, and sends what may be sent.
    pub fn drive(&mut self, env: &mut Env, index: usize) {
        let driven = &mut self.all[index];
        match driven.lane.status().clone() {
            Status::Ended(_) => {}
            Status::Opening if driven.stream.is_some() => {}
            Status::Waiting(refused) => {
                if !std::mem::replace(&mut driven.waiting, true) {
                    driven.tries += 1;
                    let wait = refused.retry_after.map_or(0, |wait| wait.as_micros() as i64);
                    let delay = session::backoff(env, self.all[index].tries).max(wait);
                    self.wake(env, delay, Timer::Retry(index));
                }
            }
            Status::Moved(_) => self.attach(env, index, true),
            Status::Open if driven.stream.is_some() => {
                (driven.tries, driven.fresh) = (0, true);
                self.send(env, index);
            }
            Status::Detached | Status::Opening | Status::Open => {
                let look_up = !driven.fresh;
                self.attach(env, index, look_up);
            }
        }
    }

    /// Goes on after waiting.
    pub fn retry(&mut self, env: &mut Env, index: usize) {
        self.all[index].waiting = false;
        self.all[index].lane.retry();
        self.drive(env, index);
    }

    fn send(&mut self, env: &mut Env, index: usize) {
        let Some((id, _)) = self.all[index].stream else { return };
        while let Some(batch) = self.all[index].lane.poll_send() {
            if !env.send(id, Side::Client, Message::StreamUp(Up::Batch(batch))) {
                self.detach(index);
                return self.drive(env, index);
            }
        }
    }

    fn detach(&mut self, index: usize) {
        self.all[index].stream = None;
        self.all[index].lane.disconnected();
    }

    fn attach(&mut self, env: &mut Env, index: usize, look_up: bool) {
        if std::mem::replace(&mut self.all[index].attaching, true) {
            return;
        }
        if look_up {
            let delay = env.rng.within(500..6_000);
            return self.wake(env, delay, Timer::Route(index));
        }
        self.find_stream(env, index);
    }

    /// Takes what the coordinator says of the routing; its silence changes nothing.
    pub fn routed(&mut self, env: &mut Env, index: usize, coordinator: Option<&Coordinator>) {
        if let Some(routing) = coordinator.and_then(Coordinator::routing) {
            if routing.job_uid != self.job_uid {
                return self.failed(env, index, Refused::new(Reason::JobUnknown, "made anew"));
            }
            if routing.generation > self.generation {
                return self.failed(env, index, Refused::new(Reason::Rewound, "the job is in a later generation"));
            }
            self.routes = routing.routes.into_iter().map(|route| (place(&route), route)).collect();
        }
        self.find_stream(env, index);
    }

    fn find_stream(&mut self, env: &mut Env, index: usize) {
        let address = self.routes.get(&self.all[index].place).map(|route| route.address.clone());
        let Some(address) = address.filter(|address| !address.is_empty()) else {
            return self.failed(env, index, Refused::new(Reason::ShardRestoring, "the shard has no server"));
        };
        if let Some(stream) = self.streams.get_mut(&address) {
            return match stream.window {
                Some(_) => self.attach_now(env, index, &address),
                None => stream.waiting.push(index),
            };
        }
        let Some(server) = address.strip_prefix('s').and_then(|number| number.parse().ok()) else { return };
        let id = env.connect(self.node, self.life, NodeId::Server(server));
        let hello = v1::Hello {
            client_id: self.node.name(),
            job: JOB.into(),
            job_uid: self.job_uid.clone(),
            generation: self.generation,
            protocol_version: 1,
            features: Vec::new(),
        };
        env.send(id, Side::Client, Message::StreamUp(Up::Hello(hello)));
        self.streams.insert(address, Stream { id, window: None, channels: 0, waiting: vec![index] });
    }

    fn attach_now(&mut self, env: &mut Env, index: usize, address: &str) {
        self.all[index].attaching = false;
        if matches!(self.all[index].lane.status(), Status::Ended(_)) {
            return;
        }
        self.detach(index);
        let Some(stream) = self.streams.get_mut(address) else { return };
        stream.channels += 1;
        let (id, channel, window) = (stream.id, stream.channels, stream.window.unwrap_or(1));
        let driven = &mut self.all[index];
        driven.fresh = false;
        if let Some(route) = self.routes.get(&driven.place) {
            driven.lane.moved(route.epoch);
        }
        let open = driven.lane.attach(channel, window);
        driven.stream = Some((id, channel));
        env.send(id, Side::Client, Message::StreamUp(Up::OpenLane(open)));
        self.wake(env, OPENING_MAX_US, Timer::OpeningLate(index, id, channel));
    }

    fn failed(&mut self, env: &mut Env, index: usize, refused: Refused) {
        self.all[index].attaching = false;
        // Only the coordinator knows that a job is deleted.
        if ends_lanes(&refused) || refused.reason == Reason::JobUnknown {
            return self.end(index, refused);
        }
        self.all[index].fresh = false;
        self.all[index].attaching = true;
        self.all[index].tries += 1;
        let delay = session::backoff(env, self.all[index].tries);
        self.wake(env, delay, Timer::Attach(index));
    }

    /// Tries again to attach a lane.
    pub fn attach_again(&mut self, env: &mut Env, index: usize) {
        self.all[index].attaching = false;
        self.drive(env, index);
    }

    /// Gives up on an OpenLane that nobody answers.
    pub fn opening_late(&mut self, env: &mut Env, index: usize, id: ConnectionId, channel: u32) {
        let driven = &self.all[index];
        if *driven.lane.status() == Status::Opening && driven.stream == Some((id, channel)) {
            self.detach(index);
            self.drive(env, index);
        }
    }

    fn end(&mut self, index: usize, reason: Refused) {
        let completions = self.all[index].lane.end(reason);
        self.completions.extend(completions.into_iter().map(|completion| (index, completion)));
    }

    /// Takes a message of a stream.
    pub fn heard(&mut self, env: &mut Env, id: ConnectionId, message: Message) {
        let of_stream = |channel: u32| move |driven: &Driven| driven.stream == Some((id, channel));
        let (channel, message) = match message {
            Message::StreamDown(Down::Welcome(welcome)) => return self.welcomed(env, id, welcome.batches_in_flight),
            Message::Refused(refused) => return self.over(env, id, &refused),
            Message::StreamDown(Down::Answer(answer)) => (channel_of(answer.id), Down::Answer(answer)),
            Message::StreamDown(Down::LaneOpened(opened)) => (opened.channel, Down::LaneOpened(opened)),
            Message::StreamDown(Down::Refusal(refusal)) => {
                let channel = if refusal.id == 0 { refusal.channel } else { channel_of(refusal.id) };
                (channel, Down::Refusal(refusal))
            }
            _ => return,
        };
        let Some(index) = self.all.iter().position(of_stream(channel)) else { return };
        let lane = &mut self.all[index].lane;
        let completions = match message {
            Down::Answer(answer) => lane.answered(answer),
            Down::LaneOpened(opened) => lane.opened(&opened),
            Down::Refusal(refusal) => lane.refused(&refusal),
            Down::Welcome(_) => Vec::new(),
        };
        self.completions.extend(completions.into_iter().map(|completion| (index, completion)));
        self.drive(env, index);
    }

    fn welcomed(&mut self, env: &mut Env, id: ConnectionId, window: u32) {
        let found = self.streams.iter_mut().find(|(_, stream)| stream.id == id);
        let Some((address, stream)) = found.map(|(address, stream)| (address.clone(), stream)) else { return };
        stream.window = Some(window);
        for index in std::mem::take(&mut stream.waiting) {
            self.attach_now(env, index, &address);
        }
    }

    /// Takes note that a stream has ended for this reason.
    pub fn over(&mut self, env: &mut Env, id: ConnectionId, reason: &Refused) {
        let Some(address) = self.streams.iter().find(|(_, stream)| stream.id == id).map(|it| it.0.clone()) else {
            return;
        };
        let Some(stream) = self.streams.remove(&address) else { return };
        env.close(id, Side::Client);
        // A server that has just started has not heard of its jobs yet.
        let started = reason.reason == Reason::JobUnknown;
        let refused = if started { Refused::new(Reason::ShardMoved, "not yet") } else { reason.clone() };
        for index in stream.waiting {
            self.failed(env, index, refused.clone());
        }
        for index in 0..self.all.len() {
            if self.all[index].stream.is_some_and(|(attached, _)| attached == id) {
                self.detach(index);
                if ends_lanes(reason) {
                    self.end(index, reason.clone());
                }
                self.drive(env, index);
            }
        }
    }

    /// Closes all lanes and streams.
    pub fn close(&mut self, env: &mut Env) {
        for driven in &mut self.all {
            let Some((id, channel)) = driven.stream.take() else { continue };
            env.oracle.lane_closed(driven.place.clone(), driven.lane.incarnation(), driven.lane.id());
            env.send(id, Side::Client, Message::StreamUp(Up::CloseLane(v1::CloseLane { channel })));
        }
        for stream in self.streams.values() {
            env.close(stream.id, Side::Client);
        }
    }
}

fn driven(leased: &v1::LeasedShard) -> Driven {
    let route = leased.route.clone().unwrap_or_default();
    let target = Target {
        operator: route.operator.clone(),
        range: KeyGroupRange::new(route.start, route.end).expect("the coordinator grants ranges"),
        shard_epoch: route.epoch,
        writer_epoch: leased.writer_epoch,
    };
    let (lane, place) = (Lane::new(target), place(&route));
    Driven { lane, place, stream: None, attaching: false, waiting: false, fresh: true, tries: 0 }
}

fn place(route: &v1::Route) -> Place {
    (route.operator.clone(), route.start, route.end)
}

/// True if a stream that ends for this reason cannot be made anew for the same job and generation.
fn ends_lanes(reason: &Refused) -> bool {
    use Reason as R;
    matches!(
        reason.reason,
        R::Rewound | R::WriterFenced | R::LaneExpired | R::ShardLost | R::OperatorUnknown | R::FormatTooNew
    )
}
