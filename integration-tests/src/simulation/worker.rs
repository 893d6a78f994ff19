//! A worker node: its membership in the operator's group, and the loop around its sessions. A twin of
//! `client/rust/src/{membership,worker}.rs`.

use std::collections::VecDeque;

use forebay_proto::v1;
use v1::{join_request::Message as Up, join_response::Message as Down};

use super::{
    coordinator::Coordinator,
    env::Env,
    inbox::Inbox,
    input,
    network::{ConnectionId, Message, Side},
    schedule::{Life, NodeId, Timer as AnyTimer},
    session::{self, Said, Session},
    settings::{JOB, OPERATOR},
};

/// What a worker's process waits for.
#[derive(Debug)]
pub enum Timer {
    /// It dials the coordinator.
    Dial,
    /// It renews its lease on this connection.
    Heartbeat(ConnectionId),
    /// It joins anew.
    Rejoin,
    /// It has waited long for word of its shards.
    Patience(u64),
    /// Something of a session.
    Session(u64, session::Timer),
}

/// A worker's process.
pub struct Worker {
    index: usize,
    /// Which process it is.
    pub life: Life,
    /// True once it has left its group.
    pub gone: bool,
    leaving: bool,
    /// True while it works no further, and waits for the stop at which it leaves.
    finishing: bool,
    joins: u64,
    connection: Option<ConnectionId>,
    greeted_us: Option<i64>,
    asked_us: VecDeque<i64>,
    lease_until_us: i64,
    inbox: Inbox,
    reports: Vec<v1::BarrierReport>,
    session: Option<Session>,
    sessions: u64,
    rejoining: bool,
    tries: u32,
}

impl Worker {
    /// Starts a process.
    pub fn start(env: &mut Env, index: usize) -> Self {
        let worker = Self {
            index,
            life: env.new_life(),
            gone: false,
            leaving: false,
            finishing: false,
            joins: 1,
            connection: None,
            greeted_us: None,
            asked_us: VecDeque::new(),
            lease_until_us: 0,
            inbox: Inbox::default(),
            reports: Vec::new(),
            session: None,
            sessions: 0,
            rejoining: false,
            tries: 0,
        };
        worker.wake(env, 1_000, Timer::Dial);
        worker.wait_for_shards(env);
        worker
    }

    fn node(&self) -> NodeId {
        NodeId::Worker(self.index)
    }

    fn wake(&self, env: &mut Env, delay_us: i64, timer: Timer) {
        env.timer(self.node(), self.life, delay_us, AnyTimer::Worker(timer));
    }

    fn lease_us(env: &Env) -> i64 {
        env.settings.lease_ms.cast_signed() * 1000
    }

    /// Takes what was waited for.
    pub fn woken(&mut self, env: &mut Env, coordinator: Option<&Coordinator>, timer: Timer) {
        match timer {
            Timer::Dial => self.dial(env),
            Timer::Heartbeat(id) => self.heartbeat(env, id),
            Timer::Rejoin => self.rejoin(env),
            Timer::Patience(sessions) => self.patience(env, sessions),
            Timer::Session(number, timer) => {
                // Who has no lease, stands still or is about to leave, takes no records.
                let lease = env.now_us < self.lease_until_us && !self.finishing && !self.inbox.is_stopped();
                if let Some(session) = self.session.as_mut().filter(|session| session.number == number) {
                    session.woken(env, timer, lease, coordinator);
                }
            }
        }
        self.go_on(env);
    }

    fn dial(&mut self, env: &mut Env) {
        if self.connection.is_some() || self.rejoining || self.gone {
            return;
        }
        let id = env.connect(self.node(), self.life, NodeId::Coordinator);
        let hello = v1::JoinHello {
            job: JOB.into(),
            operator: OPERATOR.into(),
            worker: self.node().name(),
            join_id: format!("{}-{}-{}", self.node().name(), self.life.0, self.joins),
            states: input::descriptors(),
            assign: v1::AssignMode::Balanced.into(),
            generation: self.inbox.generation(),
            ..Default::default()
        };
        env.send(id, Side::Client, Message::JoinUp(Up::Hello(hello)));
        self.connection = Some(id);
        self.greeted_us = Some(env.now_us);
        self.asked_us.clear();
        self.wake(env, 100, Timer::Heartbeat(id));
    }

    fn heartbeat(&mut self, env: &mut Env, id: ConnectionId) {
        if self.connection != Some(id) {
            return;
        }
        if self.asked_us.front().is_some_and(|asked| env.now_us - asked > Self::lease_us(env) * 3 / 4) {
            env.close(id, Side::Client);
            return self.disconnected(env);
        }
        self.asked_us.push_back(env.now_us);
        let heartbeat = v1::Heartbeat { generation: self.inbox.generation() };
        env.send(id, Side::Client, Message::JoinUp(Up::Heartbeat(heartbeat)));
        self.wake(env, Self::lease_us(env) / 5, Timer::Heartbeat(id));
    }

    fn disconnected(&mut self, env: &mut Env) {
        self.connection = None;
        self.gone |= self.leaving;
        self.tries += 1;
        let delay = session::backoff(env, self.tries);
        self.wake(env, delay, Timer::Dial);
    }

    /// Joins as somebody who holds nothing.
    fn rejoin(&mut self, env: &mut Env) {
        if let Some(id) = self.connection.take() {
            env.close(id, Side::Client);
        }
        self.rejoining = false;
        self.gone |= self.leaving;
        self.joins += 1;
        self.finishing = false;
        self.reports.clear();
        self.lease_until_us = 0;
        env.note(format_args!("{} joins anew", self.node().name()));
        self.dial(env);
    }

    fn rejoin_soon(&mut self, env: &mut Env) {
        if !std::mem::replace(&mut self.rejoining, true) {
            let delay = env.rng.within(1_000..300_000);
            self.wake(env, delay, Timer::Rejoin);
        }
    }

    fn wait_for_shards(&self, env: &mut Env) {
        self.wake(env, 3 * Self::lease_us(env), Timer::Patience(self.sessions));
    }

    fn patience(&mut self, env: &mut Env, sessions: u64) {
        if self.session.is_some() || self.sessions != sessions {
            return;
        }
        if !self.inbox.rewinding && !self.inbox.is_spare() {
            self.rejoin_soon(env);
        }
        self.wait_for_shards(env);
    }

    /// Takes no more records, and leaves once all have stood still behind a barrier.
    pub fn finish(&mut self, env: &mut Env) {
        if self.session.is_some() {
            self.finishing = true;
            self.say(env, Up::Leave(v1::Leave { checkpoint: 0, after_stop: true }));
        }
    }

    /// Says that it leaves, and stops.
    pub fn leave(&mut self, env: &mut Env) {
        let Some(id) = self.connection else { return };
        self.leaving = true;
        env.send(id, Side::Client, Message::JoinUp(Up::Leave(v1::Leave::default())));
        if let Some(session) = self.session.take() {
            session.close(env);
        }
    }

    /// Takes a message.
    pub fn heard(&mut self, env: &mut Env, id: ConnectionId, message: Message) {
        match message {
            Message::JoinDown(message) if self.connection == Some(id) => self.coordinator_says(env, message),
            message => {
                if let Some(session) = &mut self.session {
                    session.heard(env, id, message);
                }
            }
        }
        self.go_on(env);
    }

    /// Takes note of a connection's end.
    pub fn closed(&mut self, env: &mut Env, id: ConnectionId) {
        if self.connection == Some(id) {
            self.disconnected(env);
        } else if let Some(session) = &mut self.session {
            session.stream_broken(env, id);
        }
        self.go_on(env);
    }

    fn coordinator_says(&mut self, env: &mut Env, message: Down) {
        let end = match message {
            Down::Assignment(assignment) => {
                let end = self.inbox.assigned(assignment);
                if let Some(greeted_us) = self.greeted_us.take() {
                    self.tries = 0;
                    self.lease_until_us = self.lease_until_us.max(greeted_us + Self::lease_us(env));
                    // The former stream may have lost it.
                    for report in self.reports.clone() {
                        self.say(env, Up::Report(report));
                    }
                    if self.finishing {
                        self.say(env, Up::Leave(v1::Leave { checkpoint: 0, after_stop: true }));
                    }
                }
                end
            }
            Down::Renewed(renewed) => {
                if let Some(asked_us) = self.asked_us.pop_front() {
                    let until_us = asked_us + renewed.lease_ms.cast_signed() * 1000;
                    self.lease_until_us = self.lease_until_us.max(until_us);
                }
                None
            }
            Down::Barrier(barrier) => {
                self.inbox.barrier(barrier);
                None
            }
            Down::Completed(completed) => {
                self.reports.retain(|report| report.checkpoint != completed.checkpoint);
                None
            }
            Down::Aborted(aborted) => {
                self.reports.retain(|report| report.round != aborted.round);
                self.inbox.aborted(&aborted);
                None
            }
            Down::Rewinding(rewinding) => {
                self.reports.clear();
                // It has to do again what it did.
                self.finishing = false;
                self.inbox.rewinding(rewinding)
            }
            Down::Ended(ended) => {
                let has_left = self.finishing && ended.reason() == v1::ErrorReason::Unspecified;
                if has_left {
                    env.faults.hit("left at a stop");
                }
                self.gone |= self.leaving || has_left;
                self.lease_until_us = 0;
                Some(self.inbox.ended(&ended))
            }
        };
        if let (Some(end), Some(session)) = (end, &mut self.session) {
            session.end(end);
        }
    }

    fn say(&mut self, env: &mut Env, message: Up) {
        if let Some(id) = self.connection {
            env.send(id, Side::Client, Message::JoinUp(message));
        }
    }

    /// The worker's loop: from one session to the next, and the barriers of the present one.
    fn go_on(&mut self, env: &mut Env) {
        if self.leaving {
            return;
        }
        if let Some(session) = &mut self.session {
            let said = session.attend(env, &mut self.inbox, self.index);
            match said {
                Some(Said::Report(report)) => {
                    if report.stopped {
                        env.faults.hit("stood still");
                        self.inbox.stop_at(&report.round);
                    }
                    self.reports.push(report.clone());
                    self.say(env, Up::Report(report));
                }
                Some(Said::Decline(decline)) => self.say(env, Up::Decline(decline)),
                None => {}
            }
        }
        if let Some(ended) = self.session.take_if(|session| session.ended().is_some()) {
            let rewound = ended.ended().is_some_and(forebay_client::Error::is_rewound);
            env.note(format_args!("{} session ends: {:?}", self.node().name(), ended.ended()));
            ended.close(env);
            // It is told that it went back, and has to do it all again.
            self.finishing = false;
            if !rewound {
                // A session that the worker itself gave up is over for the others, too.
                self.inbox.take_ended();
                self.rejoin_soon(env);
            }
            self.wait_for_shards(env);
        }
        if self.session.is_none() {
            if self.inbox.take_ended().is_some() {
                self.rejoin_soon(env);
            }
            if let Some(assignment) = self.inbox.take_assignment().filter(|_| !self.rejoining) {
                self.sessions += 1;
                let session = Session::enter(env, self.node(), self.life, self.sessions, &assignment);
                self.session = Some(session);
            }
        }
    }
}
