//! The machine's rounds: when one starts, what ends it, who hears of it.

use forebay_proto::{reason::Refused, v1};
use v1::{ErrorReason as Reason, join_response::Message as ToWorker, link_response::Message as ToServer};

use super::{
    super::{
        external,
        members::{Connected, Member},
        retention,
        round::{Cause, Id, Kind, Round, place},
        spec, wanted,
    },
    Action, Answer, FAILED_MAX, Machine, Now, Token,
    external::given_up,
    stopping::STOP_MAX_MS,
};
use crate::checkpoint::layout;

/// How long a shard may serve nothing because what it held last is being stored, in milliseconds.
const HANDOVER_MAX_MS: i64 = 20_000;

/// A checkpoint that somebody wants.
#[derive(Debug)]
pub(super) struct Trigger {
    /// Who waits for it; nobody if a move of a shard needs it.
    pub(super) token: Option<Token>,
    pub(super) kind: Kind,
    pub(super) full: bool,
    /// Where a savepoint goes: below that folder, in one of this id.
    pub(super) savepoint: Option<(v1::SavepointTarget, String)>,
}

impl Machine {
    /// Tells of the rounds that the head just written commits, and ends those that came too late.
    pub(super) fn completed(&mut self, now: Now, actions: &mut Vec<Action>) {
        let (done, on) = std::mem::take(&mut self.rounds).into_iter().partition(|round| round.committing);
        self.rounds = on;
        let done: Vec<Round> = done;
        let mut newest = None;
        for round in done {
            match round.kind {
                Kind::External => {
                    self.registered(&round, actions);
                    continue;
                }
                Kind::Handover => {
                    self.round_ended(&round, None, actions);
                    continue;
                }
                Kind::Periodic | Kind::Manual | Kind::Stop | Kind::Savepoint => {}
            }
            let entry = self.head.completed.iter().find(|entry| entry.id == round.checkpoint).cloned();
            let Some(entry) = entry else { continue };
            self.round_ended(&round, Some(entry.clone()), actions);
            for member in self.members.connected() {
                let completed = v1::CheckpointCompleted { checkpoint: entry.id, savepoint: false };
                actions.push(Action::ToWorker(member.connection, ToWorker::Completed(completed)));
            }
            for token in &round.callers {
                actions.push(Action::Answer(*token, Ok(Answer::Checkpoint(entry.clone()))));
            }
            if round.kind == Kind::Stop {
                self.stopped(&round, actions);
            }
            self.since_full = if round.base == 0 { 0 } else { self.since_full + 1 };
            self.pause(now);
            newest = Some(entry);
        }
        let Some(newest) = newest else { return };
        let late = |round: &&Round| round.checkpoint < newest.id && round.kind.in_series();
        let late: Vec<String> = self.rounds.iter().filter(late).map(|round| round.id.clone()).collect();
        for id in late {
            // What was asked for is in the later one, too.
            let round = self.rounds.iter_mut().find(|round| round.id == id);
            for token in round.map(|round| std::mem::take(&mut round.callers)).unwrap_or_default() {
                actions.push(Action::Answer(token, Ok(Answer::Checkpoint(newest.clone()))));
            }
            self.abort(&id, Cause::Subsumed, &format!("checkpoint {} completed before it", newest.id), now, actions);
        }
    }

    fn pause(&mut self, now: Now) {
        let pause = settings(&self.head).min_pause_ms;
        self.pause_until_ms = self.pause_until_ms.max(now.mono_ms.saturating_add_unsigned(pause));
    }

    pub(super) fn round_ended(&self, round: &Round, entry: Option<v1::CompletedCheckpoint>, actions: &mut Vec<Action>) {
        // Those on their way are still uploaded from their local copies.
        let on_their_way = self.rounds.iter().map(|round| round.checkpoint);
        let retained: Vec<u64> = retention::kept(&self.head).into_iter().chain(on_their_way).collect();
        for (name, server) in &self.servers {
            if !server.address.is_empty() {
                let ended = v1::RoundEnded {
                    job_uid: self.head.job_uid.clone(),
                    checkpoint: round.checkpoint,
                    round: round.id.clone(),
                    completed: entry.is_some(),
                    retained: retained.clone(),
                    checkpoint_entry: entry.clone(),
                };
                actions.push(Action::ToServer(name.clone(), ToServer::Ended(ended)));
            }
        }
    }

    /// Ends a round without a checkpoint; one that is being committed goes on. Only drops references.
    pub(super) fn abort(&mut self, id: &str, cause: Cause, detail: &str, now: Now, actions: &mut Vec<Action>) {
        let Some(at) = self.rounds.iter().position(|round| round.id == id && !round.committing) else { return };
        let round = self.rounds.remove(at);
        self.round_ended(&round, None, actions);
        if let Some(external) = &round.external {
            return given_up(&round, external, detail, actions);
        }
        if round.kind == Kind::Handover {
            return self.move_failed(&round, detail);
        }
        for member in self.members.connected() {
            let aborted = v1::CheckpointAborted {
                checkpoint: round.checkpoint,
                round: round.id.clone(),
                cause: detail.to_owned(),
            };
            actions.push(Action::ToWorker(member.connection, ToWorker::Aborted(aborted)));
        }
        if round.kind == Kind::Stop {
            self.stop_failed(cause, detail, now);
        }
        for token in &round.callers {
            let message = format!("checkpoint {} was aborted: {detail}", round.checkpoint);
            actions.push(Action::Answer(*token, Err(Refused::new(Reason::CheckpointAborted, message))));
        }
        self.pause(now);
        // A savepoint's failure is its caller's, not the job's; so is one before the last success.
        let last = self.head.completed.last().map_or(0, |last| last.id);
        let counted = cause.counted() && round.kind.in_series() && round.checkpoint > last;
        self.wishes.failures += u32::from(counted);
        self.failed.push_back(v1::FailedRound {
            checkpoint: round.checkpoint,
            cause: detail.to_owned(),
            failed_ms: now.wall_ms,
            counted,
        });
        if self.failed.len() > FAILED_MAX {
            self.failed.pop_front();
        }
        if !matches!(cause, Cause::Subsumed | Cause::Collected) && round.kind.in_series() {
            self.remember_dead(round.id());
            let uploads: Vec<_> = round.uploads().cloned().collect();
            self.pin_uploads(round.checkpoint, &round.id, uploads.into_iter());
        }
    }

    pub(super) fn expire(&mut self, now: Now, actions: &mut Vec<Action>) {
        self.members.expire(now.mono_ms);
        let timeout = settings(&self.head).timeout_ms.cast_signed();
        let late = |round: &&Round| {
            let timeout = match round.kind {
                // Another engine has a timeout of its own, and cancels.
                Kind::External => return false,
                Kind::Handover => HANDOVER_MAX_MS,
                Kind::Stop => timeout.min(STOP_MAX_MS),
                Kind::Periodic | Kind::Manual | Kind::Savepoint => timeout,
            };
            now.mono_ms - round.triggered_ms > timeout
        };
        let late: Vec<(String, Kind)> =
            self.rounds.iter().filter(late).map(|round| (round.id.clone(), round.kind)).collect();
        for (id, kind) in late {
            let detail = match kind {
                Kind::Handover => {
                    format!(
                        "what it held last could not be stored within {} s, in which it served nothing",
                        HANDOVER_MAX_MS / 1_000
                    )
                }
                _ => "it took longer than checkpoints.timeout".to_owned(),
            };
            self.abort(&id, Cause::Expired, &detail, now, actions);
        }
    }

    /// A server whose link broke may have frozen shards for rounds that nobody will report any more.
    pub(super) fn server_lost(&mut self, server: &str, now: Now, actions: &mut Vec<Action>) {
        let waits = |round: &&Round| round.awaits(&self.head, server);
        let waiting: Vec<String> = self.rounds.iter().filter(waits).map(|round| round.id.clone()).collect();
        for id in waiting {
            self.abort(&id, Cause::Changed, &format!("server {server:?} lost its link"), now, actions);
        }
    }

    pub(super) fn snapshot_failed(&mut self, failed: v1::SnapshotFailed, now: Now, actions: &mut Vec<Action>) {
        let of_round = |round: &&Round| round.is(failed.checkpoint, &failed.round) && !round.storing;
        if self.rounds.iter().any(|round| of_round(&round)) {
            let detail = format!("shard {} [{},{}): {}", failed.operator, failed.start, failed.end, failed.cause);
            self.abort(&failed.round, Cause::Io, &detail, now, actions);
        }
        self.pin_uploads(failed.checkpoint, &failed.round, failed.uploaded.into_iter());
    }

    pub(super) fn store_complete_rounds(&mut self, now: Now, actions: &mut Vec<Action>) {
        for round in self.rounds.iter_mut().filter(|round| !round.storing && round.complete()) {
            round.storing = true;
            let manifest = Box::new(round.manifest(&self.head));
            actions.push(match round.kind {
                Kind::Savepoint => {
                    let entry = round.savepoint_entry(&self.head, now.wall_ms);
                    Action::WriteSavepoint(round.id(), manifest, Box::new(entry))
                }
                Kind::Periodic | Kind::Manual | Kind::Stop | Kind::External | Kind::Handover => {
                    Action::WriteManifest(round.id(), manifest)
                }
            });
        }
    }

    /// A savepoint is whole: nothing of it goes into the head, and nothing refers to it.
    pub(super) fn savepoint_written(
        &mut self,
        id: &Id,
        stored: Result<v1::CompletedCheckpoint, String>,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let Some(at) = self.rounds.iter().position(|round| round.id() == *id) else { return };
        let entry = match stored {
            Ok(entry) => entry,
            Err(cause) => return self.abort(&id.round, Cause::Finalize, &cause, now, actions),
        };
        let round = self.rounds.remove(at);
        self.round_ended(&round, None, actions);
        for member in self.members.connected() {
            let completed = v1::CheckpointCompleted { checkpoint: round.checkpoint, savepoint: true };
            actions.push(Action::ToWorker(member.connection, ToWorker::Completed(completed)));
        }
        for token in &round.callers {
            actions.push(Action::Answer(*token, Ok(Answer::Checkpoint(entry.clone()))));
        }
        self.pause(now);
    }

    pub(super) fn manifest_written(
        &mut self,
        id: &Id,
        stored: Result<(u32, u64), String>,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let Some(round) = self.rounds.iter_mut().find(|round| round.id() == *id) else { return };
        match stored {
            Ok((crc32c, bytes)) => round.stored = Some(round.entry(crc32c, bytes, now.wall_ms)),
            Err(cause) => self.abort(&id.round, Cause::Finalize, &cause, now, actions),
        }
    }

    /// Starts what is wanted and may start: savepoints at once, then what was asked for, then what is due.
    pub(super) fn start_rounds(&mut self, now: Now, actions: &mut Vec<Action>) {
        while let Some(kind) = self.wanted(now) {
            if let Err(refused) = self.may_start() {
                // A periodic round waits; who asked for one is told.
                for token in self.triggers.drain(..).filter_map(|trigger| trigger.token) {
                    actions.push(Action::Answer(token, Err(refused.clone())));
                }
                return;
            }
            if self.next_id >= self.head.next_checkpoint_id {
                return; // The plan reserves more.
            }
            self.start_round(kind, now, actions);
        }
    }

    fn wanted(&self, now: Now) -> Option<Kind> {
        if self.in_flight.is_some() || self.is_stopping() {
            return None;
        }
        if self.wants_stop(now) {
            let alone = self.rounds.iter().all(|round| round.kind == Kind::External);
            return alone.then_some(Kind::Stop);
        }
        // A round over a shard that moves would be aborted by it; it takes moments.
        if self.is_handing_over() {
            return None;
        }
        let settings = settings(&self.head);
        let kind = self.triggers.iter().map(|trigger| trigger.kind).max().unwrap_or(Kind::Periodic);
        let interval = settings.interval_ms();
        let running = self.rounds.iter().filter(|round| round.kind.in_series());
        let slot = running.count() < settings.max_concurrent.max(1) as usize;
        let alone = || self.rounds.iter().all(|round| round.kind.is_of_one_shard());
        let rested = now.mono_ms >= self.pause_until_ms && (settings.min_pause_ms == 0 || alone());
        let wanted = match kind {
            Kind::Savepoint | Kind::Stop | Kind::External | Kind::Handover => true,
            Kind::Manual => slot,
            Kind::Periodic => slot && rested && interval > 0 && now.mono_ms >= self.next_round_ms,
        };
        wanted.then_some(kind)
    }

    /// The names of the next round, and its number.
    pub(super) fn next_round(&mut self) -> (Id, u64) {
        self.next_id += 1;
        self.round_of(self.next_id - 1)
    }

    /// The names of the next round, which is to have this id, and its number.
    pub(super) fn round_of(&mut self, checkpoint: u64) -> (Id, u64) {
        let number = self.rounds_started;
        self.rounds_started += 1;
        (Id { checkpoint, round: format!("{}-{number}", self.nonce) }, number)
    }

    fn start_round(&mut self, kind: Kind, now: Now, actions: &mut Vec<Action>) {
        let (id, number) = self.next_round();
        let settings = settings(&self.head);
        self.next_round_ms = now.mono_ms + settings.interval_ms().cast_signed();
        let callers = self.take_triggers(kind);
        let full = callers.iter().any(|trigger| trigger.full) || self.full_is_due(&settings);
        self.avoid_base = false;
        let base = if full { 0 } else { retention::base(&self.head) };
        let mut round = Round::start(&self.head, id, now.mono_ms, now.wall_ms, base);
        (round.kind, round.number) = (kind, number);
        round.savepoint = callers.iter().find_map(|trigger| trigger.savepoint.clone()).map(|(target, folder)| {
            let job = self.head.spec.as_ref().map_or("", |spec| &spec.name);
            let prefix = format!("{}{}", target.prefix, layout::savepoint(job, round.checkpoint, &folder));
            v1::SavepointTarget { prefix, ..target }
        });
        round.callers = callers.into_iter().filter_map(|trigger| trigger.token).collect();
        round.reusable = retention::reusable(&self.head);
        self.tell_started(&round, actions);
        let barrier = v1::Barrier {
            checkpoint: round.checkpoint,
            round: round.id.clone(),
            base: round.base,
            coordinator_epoch: round.coordinator_epoch,
            generation: round.generation,
            // A savepoint is to be read by any other job, which knows nothing of our records in flight; behind the
            // barrier of a stop there are none.
            unaligned: settings.unaligned && !matches!(kind, Kind::Savepoint | Kind::Stop),
            mode: settings.mode,
            stop: kind == Kind::Stop,
        };
        // The workers behind them get it with their records.
        let told = |member: &Connected| holds(&self.head, member) && is_source(&self.head, &member.operator);
        for member in self.members.connected().filter(told) {
            actions.push(Action::ToWorker(member.connection, ToWorker::Barrier(barrier.clone())));
        }
        let is_shared = |entry: &&v1::ShardEntry| {
            spec::access(self.head.spec.as_ref(), &entry.operator) == Some(v1::Access::Shared)
        };
        for entry in self.head.shards.iter().filter(is_shared) {
            let command = round.command(&self.head, entry);
            actions.push(Action::ToServer(entry.server.clone(), ToServer::Snapshot(command)));
        }
        self.rounds.push(round);
    }

    /// One savepoint a round; whoever else asked shares one.
    fn take_triggers(&mut self, kind: Kind) -> Vec<Trigger> {
        let mut left = 1;
        let (taken, rest) = std::mem::take(&mut self.triggers).into_iter().partition(|trigger| {
            let taken = trigger.kind == kind && (kind != Kind::Savepoint || left > 0);
            left -= i32::from(taken);
            taken
        });
        self.triggers = rest;
        taken
    }

    fn full_is_due(&self, settings: &v1::CheckpointSettings) -> bool {
        let rounds = || self.rounds.iter().filter(|round| !round.kind.is_of_one_shard());
        let building = rounds().filter(|round| round.base != 0).count() as u32;
        let none_on_its_way = rounds().all(|round| round.base != 0);
        let every = settings.full_every;
        let counted = every > 0 && none_on_its_way && self.since_full + building + 1 >= every;
        !settings.incremental.unwrap_or(true) || self.avoid_base || counted
    }

    /// Every server hears how many of its shards take part, before their barriers can come.
    pub(super) fn tell_started(&self, round: &Round, actions: &mut Vec<Action>) {
        for name in self.servers.iter().filter(|(_, server)| !server.address.is_empty()).map(|(name, _)| name) {
            let started = v1::RoundStarted {
                job_uid: self.head.job_uid.clone(),
                checkpoint: round.checkpoint,
                round: round.id.clone(),
                shards: round.shards_on(&self.head, name) as u32,
                reusable: round.reusable.clone(),
                savepoint: round.savepoint.clone(),
            };
            actions.push(Action::ToServer(name.clone(), ToServer::Started(started)));
        }
    }

    /// An operator with a group is never snapshotted without its writers.
    pub(super) fn may_start(&self) -> Result<(), Refused> {
        let no = |message: String| Err(Refused::new(Reason::CheckpointAborted, message));
        if self.head.deleted || !self.head.shards.iter().any(external::is_own) {
            return no("the job has no shards of its own (those of external operators its engine snapshots)".into());
        }
        for entry in self.head.shards.iter().filter(|entry| external::is_own(entry)) {
            let (operator, start, end) = place(entry);
            if !entry.established || !self.serves(entry) {
                return no(format!("shard {operator} [{start},{end}) does not serve"));
            }
            if spec::is_leased(self.head.spec.as_ref(), &operator) {
                let Some(writer) = &entry.writer else {
                    return no(format!("operator {operator:?} has no workers: start them first"));
                };
                let knows = |member: &Member| member.knows(&self.head);
                if !self.members.get(&operator, &writer.worker).is_some_and(knows) {
                    return no(format!("worker {:?} is not connected, or does not know its shards yet", writer.worker));
                }
            }
        }
        Ok(())
    }

    pub(super) fn serves(&self, entry: &v1::ShardEntry) -> bool {
        self.servers.get(&entry.server).is_some_and(|server| wanted::serves(server, entry))
    }
}

fn holds(head: &v1::JobHead, member: &Connected) -> bool {
    wanted::granted(head, &member.operator, &member.join_id).next().is_some()
}

/// True if an operator's workers are sent the barriers: those of sources, or all if the job names none.
fn is_source(head: &v1::JobHead, operator: &str) -> bool {
    let operators = || head.spec.iter().flat_map(|spec| &spec.operators);
    !operators().any(|known| known.source) || operators().any(|known| known.name == operator && known.source)
}

/// The job's checkpoint settings.
pub(super) fn settings(head: &v1::JobHead) -> v1::CheckpointSettings {
    head.spec.as_ref().and_then(|spec| spec.checkpoints).unwrap_or_else(|| v1::CheckpointSettings {
        interval_ms: Some(0),
        incremental: Some(true),
        ..Default::default()
    })
}

/// How many of the last completed checkpoints build on another, as far as the head still tells.
pub(super) fn since_full(head: &v1::JobHead) -> u32 {
    let building = |entry: &&v1::CompletedCheckpoint| entry.new_bytes < entry.full_bytes;
    head.completed.iter().rev().take_while(building).count() as u32
}
