//! What the machine tells servers and workers, and what workers say.

use forebay_proto::{reason::Refused, v1};
use v1::{ErrorReason as Reason, join_response::Message as ToWorker, link_response::Message as ToServer};

use super::{
    super::{
        assign,
        members::{Member, fenced},
        round::{Cause, Kind},
        spec, wanted,
    },
    ASK_AGAIN_MS, Action, Answer, Connection, Machine, Now, Restored, Server, Token, lease_ms,
};

impl Machine {
    pub(super) fn read_worker_state(&mut self, now: Now, actions: &mut Vec<Action>) {
        let wanted = self.head.restored_checkpoint;
        match &self.restored {
            Restored::Reading(id) | Restored::Known(id, _) if *id == wanted => return,
            Restored::Broken { checkpoint, asked_ms, .. }
                if *checkpoint == wanted && now.mono_ms - asked_ms < ASK_AGAIN_MS =>
            {
                return;
            }
            _ => {}
        }
        if wanted == 0 {
            self.restored = Restored::Known(0, Vec::new());
            return;
        }
        if let Some(entry) = self.head.completed.iter().find(|completed| completed.id == wanted) {
            actions.push(Action::ReadWorkerState(entry.clone()));
            match &mut self.restored {
                // Still broken until it is read: whoever asks is told the cause.
                Restored::Broken { checkpoint, asked_ms, .. } if *checkpoint == wanted => *asked_ms = now.mono_ms,
                restored => *restored = Restored::Reading(wanted),
            }
        } else {
            let message = format!("checkpoint {wanted} is not in the job head any more");
            let refused = Refused::new(Reason::CheckpointUnknown, message);
            self.restored = Restored::Broken { checkpoint: wanted, refused, asked_ms: now.mono_ms };
        }
    }

    /// Takes the worker state that was read, or why it could not be.
    pub(super) fn worker_state_read(
        &mut self,
        checkpoint: u64,
        state: Result<Vec<v1::WorkerState>, Refused>,
        now: Now,
    ) {
        let asked = match &self.restored {
            Restored::Reading(id) => *id == checkpoint,
            Restored::Broken { checkpoint: id, .. } => *id == checkpoint,
            Restored::Unread | Restored::Known(..) => false,
        };
        if asked {
            self.restored = match state {
                Ok(state) => Restored::Known(checkpoint, state),
                Err(refused) if refused.reason == Reason::CheckpointCorrupt => {
                    Restored::Broken { checkpoint, refused, asked_ms: now.mono_ms }
                }
                Err(_) => Restored::Unread,
            };
        }
    }

    pub(super) fn tell_rewinding(&mut self, actions: &mut Vec<Action>) {
        let cause = self.notice.take().unwrap_or_default();
        for member in self.members.connected() {
            let rewinding = v1::Rewinding {
                generation: self.head.generation,
                checkpoint: self.head.restored_checkpoint,
                cause: cause.clone(),
            };
            actions.push(Action::ToWorker(member.connection, ToWorker::Rewinding(rewinding)));
        }
        self.members.forget_told();
    }

    pub(super) fn tell_servers(&mut self, now: Now, actions: &mut Vec<Action>) {
        if self.head.coordinator_epoch != self.epoch {
            return;
        }
        for (name, server) in self.servers.iter_mut().filter(|(_, server)| !server.address.is_empty()) {
            let wanted = wanted::assignment(&self.head, name);
            let same = |sent: &v1::JobAssignment| {
                // Commits change these in every round; a server hears of them when the round ends.
                let plain = |a: &v1::JobAssignment| v1::JobAssignment {
                    version: 0,
                    retained: Vec::new(),
                    checkpoints: Vec::new(),
                    ..a.clone()
                };
                plain(sent) == plain(&wanted)
            };
            let told = server.sent.as_ref().is_some_and(same);
            let up = wanted.shards.iter().all(|entry| wanted::serves(server, entry));
            let waiting = server.sent.as_ref().is_some_and(|sent| server.applied.version < sent.version);
            if told && (up || waiting || now.mono_ms - server.asked_ms < ASK_AGAIN_MS) {
                continue;
            }
            server.sent = Some(wanted.clone());
            server.asked_ms = now.mono_ms;
            actions.push(Action::ToServer(name.clone(), ToServer::Job(wanted)));
        }
    }

    /// A job or a state is there once every server that is up knows it: a write may follow at once.
    pub(super) fn answer_once_known(&mut self, actions: &mut Vec<Action>) {
        let up = || self.servers.values().filter(|server| !server.address.is_empty());
        let placed = up().next().is_none() || self.head.shards.iter().all(|entry| !entry.server.is_empty());
        let holds = |server: &Server| server.sent.as_ref().is_some_and(|sent| !sent.shards.is_empty());
        let knows = |server: &Server, states: &[v1::RegisteredState]| {
            let taken_up = |sent: &&v1::JobAssignment| server.applied.version >= sent.version;
            let sent = server.sent.as_ref().filter(taken_up);
            sent.is_some_and(|sent| states.iter().all(|state| sent.states.contains(state)))
        };
        let known = |answer: &Answer| {
            let states: &[_] = if let Answer::States(states) = answer { states } else { &[] };
            placed && up().filter(|server| holds(server)).all(|server| knows(server, states))
        };
        let waiting = std::mem::take(&mut self.until_known);
        let (now_known, waiting) = waiting.into_iter().partition(|(_, answer)| known(answer));
        self.until_known = waiting;
        let now_known: Vec<(Token, Answer)> = now_known;
        actions.extend(now_known.into_iter().map(|(token, answer)| Action::Answer(token, Ok(answer))));
    }

    pub(super) fn tell_workers(&mut self, actions: &mut Vec<Action>) {
        let Restored::Known(checkpoint, state) = &self.restored else { return };
        if *checkpoint != self.head.restored_checkpoint || self.head.coordinator_epoch != self.epoch {
            return;
        }
        let lease = lease_ms(&self.head);
        let keeps_positions = spec::keeps_positions(self.head.spec.as_ref());
        for operator in self.members.operators() {
            let group: Vec<Member> = self.members.group(&operator).cloned().collect();
            let of_operator: Vec<_> = state.iter().filter(|state| state.operator == operator).cloned().collect();
            // Who holds nothing gets no worker state either: nobody would have that part.
            let holders = wanted::holders(&self.head, &operator);
            for member in &group {
                let Some(connection) = member.connection else { continue };
                let Some(index) = holders.iter().position(|join_id| *join_id == member.join_id) else {
                    if (keeps_positions || !holders.is_empty()) && member.holds() && !member.leaving {
                        // Others have its share now: it waits for another.
                        let nothing = v1::Assignment {
                            generation: self.head.generation,
                            coordinator_epoch: self.head.coordinator_epoch,
                            lease_ms: lease,
                            ..Default::default()
                        };
                        self.members.told(&operator, &member.worker, &nothing);
                        actions.push(Action::ToWorker(connection, ToWorker::Assignment(nothing)));
                    }
                    continue;
                };
                let Some(mut assignment) =
                    wanted::worker_assignment(&self.head, member, &self.servers, self.granted_version)
                else {
                    continue;
                };
                assignment.lease_ms = lease;
                assignment.index = index as u32;
                assignment.workers = holders.len() as u32;
                if !keeps_positions {
                    assignment.state = assign::worker_share(&of_operator, index, holders.len());
                }
                if self.members.told(&operator, &member.worker, &assignment) {
                    actions.push(Action::ToWorker(connection, ToWorker::Assignment(assignment)));
                }
            }
        }
    }

    pub(super) fn joined(
        &mut self,
        connection: Connection,
        hello: &v1::JoinHello,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let refuse = |reason, message: String| {
            let ended = v1::JoinEnded { reason: i32::from(reason), message };
            Action::ToWorker(connection, ToWorker::Ended(ended))
        };
        if self.head.deleted || (!hello.job_uid.is_empty() && hello.job_uid != self.head.job_uid) {
            let message = format!("job {:?} has uid {}: it was made anew", hello.job, self.head.job_uid);
            actions.push(refuse(Reason::JobUnknown, message));
            return;
        }
        if !spec::is_leased(self.head.spec.as_ref(), &hello.operator) {
            let message =
                format!("operator {:?} is unknown or not leased: only leased ones have workers", hello.operator);
            actions.push(refuse(Reason::OperatorUnknown, message));
            return;
        }
        match self.members.join(connection, hello, now.mono_ms) {
            Ok(former) => {
                if let Some(former) = former {
                    actions.push(over(former, fenced(&hello.worker)));
                }
                if hello.generation != 0 && hello.generation < self.head.generation {
                    let rewinding = v1::Rewinding {
                        generation: self.head.generation,
                        checkpoint: self.head.restored_checkpoint,
                        cause: "the job was rewound while the worker was away".into(),
                    };
                    actions.push(Action::ToWorker(connection, ToWorker::Rewinding(rewinding)));
                }
                if !hello.states.is_empty() {
                    let operator = hello.operator.clone();
                    self.wishes.join(connection, operator, hello.states.clone());
                }
            }
            Err(refused) => actions.push(refuse(refused.reason, refused.message)),
        }
    }

    pub(super) fn worker(
        &mut self,
        connection: Connection,
        message: v1::join_request::Message,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        use v1::join_request::Message;
        let Some((operator, worker)) = self.members.of(connection) else {
            actions.push(over(connection, self.members.why_over(connection)));
            return;
        };
        match message {
            Message::Heartbeat(_) => {
                self.members.heartbeat(connection, now.mono_ms);
                let renewed = v1::LeaseRenewed { lease_ms: lease_ms(&self.head) };
                actions.push(Action::ToWorker(connection, ToWorker::Renewed(renewed)));
            }
            Message::Report(report) => self.reported(connection, (&operator, &worker), report, now, actions),
            Message::Decline(decline) => {
                let detail = format!("worker {worker:?} declined: {}", decline.cause);
                self.abort(&decline.round, Cause::Declined, &detail, now, actions);
            }
            Message::Leave(leave) if leave.after_stop && self.may_leave_at_stop(connection) => {
                self.members.leave_at_stop(&operator, &worker);
            }
            Message::Leave(leave) => {
                self.members.leave(&operator, &worker);
                self.wishes.left.push((operator, worker, leave.checkpoint));
                let message = "the worker left".to_owned();
                let ended = v1::JoinEnded { reason: Reason::Unspecified.into(), message };
                actions.push(Action::ToWorker(connection, ToWorker::Ended(ended)));
            }
            Message::Claim(_) | Message::Release(_) => {
                let message = "explicit claims are not served by this build: join with assign balanced".to_owned();
                let ended = v1::JoinEnded { reason: Reason::Unsupported.into(), message };
                actions.push(Action::ToWorker(connection, ToWorker::Ended(ended)));
            }
            Message::Hello(_) => {}
        }
    }

    fn reported(
        &mut self,
        connection: Connection,
        (operator, worker): (&str, &str),
        report: v1::BarrierReport,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let Some(round) = self.rounds.iter_mut().find(|round| round.is(report.checkpoint, &report.round)) else {
            // It stands still, and would for ever if it missed that the round was aborted.
            let came_to_nothing = self.head.completed.iter().all(|completed| completed.id != report.checkpoint);
            if report.stopped && came_to_nothing && self.head.coordinator_epoch == self.epoch {
                let cause = "the round is over".to_owned();
                let aborted = v1::CheckpointAborted { checkpoint: report.checkpoint, round: report.round, cause };
                actions.push(Action::ToWorker(connection, ToWorker::Aborted(aborted)));
            }
            return;
        };
        if round.kind == Kind::Stop && !report.stopped {
            let id = round.id.clone();
            let detail = format!("worker {worker:?} does not stop at a barrier: its SDK knows of no stops, update it");
            return self.abort(&id, Cause::Declined, &detail, now, actions);
        }
        round.worker_reported(operator, worker, report);
    }

    /// True if others have to stand still before a worker can leave without a rewind.
    fn may_leave_at_stop(&self, connection: Connection) -> bool {
        let is_it = |member: &&Member| member.connection == Some(connection);
        let Some(member) = self.members.all().find(is_it) else { return false };
        let holds = wanted::granted(&self.head, &member.operator, &member.join_id).next().is_some();
        holds && !spec::keeps_positions(self.head.spec.as_ref())
    }
}

fn over(connection: Connection, why: Refused) -> Action {
    Action::ToWorker(connection, ToWorker::Ended(v1::JoinEnded { reason: why.reason.into(), message: why.message }))
}
