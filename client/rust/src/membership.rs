//! A worker's membership in its operator's group: the stream to the coordinator, kept up.
//!
//! The task reconnects with the same join id, renews the lease, and puts what it hears into the [`Inbox`];
//! what must not wait for the user's loop (ending a session, the lease) it does at once.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use forebay_proto::{
    reason::Refused,
    v1::{self, ErrorReason, join_request::Message as Request, join_response::Message as Response},
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    attention::Attention, backoff::backoff, client::Client, error::Error, inbox::Inbox, lease::Lease, session::Session,
};

const OUTGOING_MAX: usize = 64;
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// What the worker's loop asks of the task.
#[derive(Debug)]
pub(crate) enum Command {
    /// Reports a barrier; said again on a new stream until the round is over.
    Report(v1::BarrierReport),
    /// Refuses a barrier.
    Decline(v1::Decline),
    /// Joins anew, as somebody who holds nothing.
    Rejoin,
    /// Leaves for good.
    Leave(v1::Leave),
}

/// What the task and the worker's loop share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) inbox: Mutex<Inbox>,
    pub(crate) attention: Arc<Attention>,
    pub(crate) lease: Arc<Lease>,
    /// The present session.
    pub(crate) session: Mutex<Weak<Session>>,
}

impl Shared {
    pub(crate) fn inbox<T>(&self, look: impl FnOnce(&mut Inbox) -> T) -> T {
        look(&mut self.inbox.lock().expect("no panic while locked"))
    }

    fn end_session(&self, reason: Option<Error>) {
        let Some(reason) = reason else { return };
        if let Some(session) = self.session.lock().expect("no panic while locked").upgrade() {
            session.end(reason);
        }
        self.attention.call();
    }
}

pub(crate) struct Membership {
    pub(crate) client: Client,
    pub(crate) hello: v1::JoinHello,
    /// Until an assignment tells it.
    pub(crate) lease_length: Duration,
    pub(crate) shared: Arc<Shared>,
    pub(crate) commands: mpsc::Receiver<Command>,
    /// The reports of rounds that are not over.
    pub(crate) reports: Vec<v1::BarrierReport>,
    /// Set once the worker has said that it leaves.
    pub(crate) leaving: Option<v1::Leave>,
}

/// How one stream went.
enum End {
    /// It broke; another is made.
    Broken(String),
    /// The coordinator has ended the joining.
    Ended,
    /// The worker wants to join anew.
    Rejoin,
    /// The worker is gone.
    Gone,
}

impl Membership {
    pub(crate) async fn run(mut self) {
        let mut waits = backoff();
        loop {
            let started = Instant::now();
            match self.connection().await {
                End::Broken(_) if self.leaving.is_some_and(|leave| !leave.after_stop) => {
                    self.shared.inbox(|inbox| inbox.ended(&v1::JoinEnded::default()));
                    self.shared.attention.call();
                    return;
                }
                End::Broken(cause) => {
                    tracing::debug!(cause, "the stream to the coordinator ended");
                    self.client.next_coordinator();
                    if started.elapsed() > self.lease_length {
                        waits = backoff();
                    }
                    sleep(waits.next().unwrap_or(Duration::from_secs(1))).await;
                }
                End::Ended => match self.wait_for_rejoin().await {
                    true => self.join_anew(),
                    false => return,
                },
                End::Rejoin => self.join_anew(),
                End::Gone => return,
            }
        }
    }

    fn join_anew(&mut self) {
        self.hello.join_id = uuid::Uuid::new_v4().simple().to_string();
        self.reports.clear();
        self.leaving = None;
        self.shared.lease.revoke();
    }

    async fn wait_for_rejoin(&mut self) -> bool {
        loop {
            match self.commands.recv().await {
                Some(Command::Rejoin) => return true,
                Some(_) => {}
                None => return false,
            }
        }
    }

    async fn connection(&mut self) -> End {
        let (outgoing, messages) = mpsc::channel(OUTGOING_MAX);
        let send = |message| outgoing.try_send(v1::JoinRequest { message: Some(message) }).is_ok();
        let mut hello = self.hello.clone();
        hello.generation = self.shared.inbox(|inbox| inbox.generation());
        // Counted from before the message was made, the lease never seems longer than it is.
        let mut greeted = Some(Instant::now());
        let mut asked = VecDeque::new();
        send(Request::Hello(hello));
        let mut coordinator = self.client.coordinator();
        let patience = CONNECT_MAX.min(self.lease_length / 3);
        let mut inbound = match timeout(patience, coordinator.join(ReceiverStream::new(messages))).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => return self.refused(&status),
            Err(_) => return End::Broken(format!("no answer within {patience:?}")),
        };
        let mut heartbeat = self.heartbeats();
        loop {
            tokio::select! {
                message = inbound.message() => match message {
                    Ok(Some(v1::JoinResponse { message: Some(message) })) => {
                        let first = matches!(message, Response::Assignment(_)).then(|| greeted.take()).flatten();
                        let length = self.lease_length;
                        if self.heard(message, &mut asked) {
                            return End::Ended;
                        }
                        if self.lease_length != length {
                            heartbeat = self.heartbeats();
                        }
                        if let Some(greeted) = first {
                            self.shared.lease.renew(greeted, self.lease_length);
                            // The former stream may have lost it.
                            for report in &self.reports {
                                send(Request::Report(report.clone()));
                            }
                            if let Some(leave) = self.leaving {
                                send(Request::Leave(leave));
                            }
                        }
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => return End::Broken("the coordinator has closed the stream".into()),
                    Err(status) => return self.refused(&status),
                },
                _ = heartbeat.tick() => {
                    // A quarter of the lease is left to find another coordinator.
                    if asked.front().is_some_and(|asked| asked.elapsed() > self.lease_length * 3 / 4) {
                        return End::Broken("heartbeats are not answered".into());
                    }
                    asked.push_back(Instant::now());
                    let generation = self.shared.inbox(|inbox| inbox.generation());
                    if !send(Request::Heartbeat(v1::Heartbeat { generation })) {
                        return End::Broken("messages are not taken".into());
                    }
                }
                command = self.commands.recv() => match command {
                    Some(Command::Report(report)) => {
                        self.reports.push(report.clone());
                        send(Request::Report(report));
                    }
                    Some(Command::Decline(decline)) => drop(send(Request::Decline(decline))),
                    Some(Command::Leave(leave)) => {
                        self.leaving = Some(leave);
                        send(Request::Leave(leave));
                    }
                    Some(Command::Rejoin) => return End::Rejoin,
                    None => return End::Gone,
                },
            }
        }
    }

    fn heartbeats(&self) -> tokio::time::Interval {
        let mut interval = interval((self.lease_length / 5).max(Duration::from_millis(20)));
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval
    }

    /// A refusal that is no mishap of the connection ends the joining.
    fn refused(&self, status: &tonic::Status) -> End {
        let refused = Refused::from_status(status);
        if refused.advice().is_retryable() || refused.reason == ErrorReason::Internal {
            return End::Broken(refused.message);
        }
        let ended = v1::JoinEnded { reason: refused.reason.into(), message: refused.message };
        let error = self.shared.inbox(|inbox| inbox.ended(&ended));
        self.shared.end_session(Some(error));
        End::Ended
    }

    /// Takes a message; true if it was the last.
    fn heard(&mut self, message: Response, asked: &mut VecDeque<Instant>) -> bool {
        let shared = &self.shared;
        match message {
            Response::Assignment(assignment) => {
                if assignment.lease_ms > 0 {
                    self.lease_length = Duration::from_millis(assignment.lease_ms);
                }
                let end = shared.inbox(|inbox| inbox.assigned(assignment));
                shared.end_session(end);
            }
            Response::Renewed(renewed) => {
                if let Some(asked) = asked.pop_front() {
                    shared.lease.renew(asked, Duration::from_millis(renewed.lease_ms));
                }
            }
            Response::Barrier(barrier) => {
                shared.inbox(|inbox| inbox.barrier(barrier));
                shared.attention.call();
            }
            Response::Completed(completed) => {
                self.reports.retain(|report| report.checkpoint != completed.checkpoint);
                if !completed.savepoint {
                    shared.inbox(|inbox| inbox.completed(completed.checkpoint));
                    shared.attention.call();
                }
            }
            Response::Aborted(aborted) => {
                self.reports.retain(|report| report.round != aborted.round);
                shared.inbox(|inbox| inbox.aborted(&aborted));
                shared.attention.call();
            }
            Response::Rewinding(rewinding) => {
                self.reports.clear();
                // What it wanted to leave behind is undone.
                self.leaving = None;
                let end = shared.inbox(|inbox| inbox.rewinding(rewinding));
                shared.end_session(end);
            }
            Response::Ended(ended) => {
                shared.lease.revoke();
                if self.leaving.is_some() && ended.reason() == ErrorReason::Unspecified {
                    shared.inbox(|inbox| inbox.leave());
                    shared.attention.call();
                    return true;
                }
                let error = shared.inbox(|inbox| inbox.ended(&ended));
                shared.end_session(Some(error));
                return true;
            }
        }
        false
    }
}
