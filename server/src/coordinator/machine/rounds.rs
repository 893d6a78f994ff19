//! The machine's rounds: when one starts, what ends it, who hears of it.

use forebay_proto::{reason::Refused, v1};
use v1::{ErrorReason as Reason, join_response::Message as ToWorker, link_response::Message as ToServer};

use super::{
    super::{
        members::{Connected, Member},
        plan,
        round::{Cause, Id, Round, place},
    },
    Action, Answer, FAILED_MAX, Machine, Now, interval_ms, leased,
};

impl Machine {
    pub(super) fn completed(&mut self, now: Now, actions: &mut Vec<Action>) {
        self.stored = None;
        let Some(round) = self.round.take() else { return };
        let Some(entry) = self.head.completed.last().cloned() else { return };
        let retained: Vec<u64> = self.head.completed.iter().map(|completed| completed.id).collect();
        self.round_ended(&round, Some(entry.clone()), retained, actions);
        for member in self.members.connected() {
            let completed = v1::CheckpointCompleted { checkpoint: entry.id };
            actions.push(Action::ToWorker(member.connection, ToWorker::Completed(completed)));
        }
        for (token, _) in self.waiting.drain(..) {
            actions.push(Action::Answer(token, Ok(Answer::Checkpoint(entry.clone()))));
        }
        let pause =
            self.head.spec.as_ref().and_then(|spec| spec.checkpoints).map_or(0, |settings| settings.min_pause_ms);
        self.next_round_ms = self.next_round_ms.max(now.mono_ms.saturating_add_unsigned(pause));
    }

    fn round_ended(
        &self,
        round: &Round,
        entry: Option<v1::CompletedCheckpoint>,
        retained: Vec<u64>,
        actions: &mut Vec<Action>,
    ) {
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

    pub(super) fn abort(&mut self, cause: Cause, detail: &str, now: Now, actions: &mut Vec<Action>) {
        let Some(round) = self.round.take() else { return };
        self.stored = None;
        let retained = self.head.completed.iter().map(|completed| completed.id).collect();
        self.round_ended(&round, None, retained, actions);
        for member in self.members.connected() {
            let aborted = v1::CheckpointAborted {
                checkpoint: round.checkpoint,
                round: round.id.clone(),
                cause: detail.to_owned(),
            };
            actions.push(Action::ToWorker(member.connection, ToWorker::Aborted(aborted)));
        }
        for (token, _) in self.waiting.drain(..) {
            let message = format!("checkpoint {} was aborted: {detail}", round.checkpoint);
            actions.push(Action::Answer(token, Err(Refused::new(Reason::CheckpointAborted, message))));
        }
        self.failed.push_back(v1::FailedRound {
            checkpoint: round.checkpoint,
            cause: detail.to_owned(),
            failed_ms: now.wall_ms,
            counted: cause.counted(),
        });
        if self.failed.len() > FAILED_MAX {
            self.failed.pop_front();
        }
    }

    pub(super) fn expire(&mut self, now: Now, actions: &mut Vec<Action>) {
        self.members.expire(now.mono_ms);
        let timeout =
            self.head.spec.as_ref().and_then(|spec| spec.checkpoints).map_or(0, |settings| settings.timeout_ms);
        let late = |round: &Round| now.mono_ms - round.triggered_ms > timeout.cast_signed();
        if self.in_flight.is_none() && self.round.as_ref().is_some_and(late) {
            self.abort(Cause::Expired, "it took longer than checkpoints.timeout", now, actions);
        }
    }

    /// A server whose link broke may have frozen shards for the round that nobody will report any more.
    pub(super) fn server_lost(&mut self, server: &str, now: Now, actions: &mut Vec<Action>) {
        if self.round.as_ref().is_some_and(|round| round.awaits(&self.head, server)) {
            self.abort(Cause::Changed, &format!("server {server:?} lost its link"), now, actions);
        }
    }

    pub(super) fn snapshot_failed(&mut self, failed: &v1::SnapshotFailed, now: Now, actions: &mut Vec<Action>) {
        let of_round =
            self.round.as_ref().is_some_and(|round| round.is(failed.checkpoint, &failed.round) && !round.storing);
        if of_round {
            let detail = format!("shard {} [{},{}): {}", failed.operator, failed.start, failed.end, failed.cause);
            self.abort(Cause::Io, &detail, now, actions);
        }
    }

    pub(super) fn store_complete_round(&mut self, actions: &mut Vec<Action>) {
        if let Some(round) = self.round.as_mut().filter(|round| !round.storing && round.complete()) {
            round.storing = true;
            actions.push(Action::WriteManifest(round.id(), Box::new(round.manifest(&self.head))));
        }
    }

    pub(super) fn manifest_written(
        &mut self,
        id: &Id,
        stored: Result<(u32, u64), String>,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let Some(round) = self.round.as_ref().filter(|round| round.id() == *id) else { return };
        match stored {
            Ok((manifest_crc32c, manifest_bytes)) => {
                let (new_bytes, full_bytes, files) = round.bytes();
                self.stored = Some(v1::CompletedCheckpoint {
                    id: round.checkpoint,
                    manifest: crate::checkpoint::layout::manifest(round.checkpoint, &round.id),
                    manifest_crc32c,
                    manifest_bytes,
                    triggered_ms: round.triggered_wall_ms,
                    completed_ms: now.wall_ms,
                    full_bytes,
                    new_bytes,
                    files,
                    generation: round.generation,
                    ..Default::default()
                });
            }
            Err(cause) => self.abort(Cause::Finalize, &cause, now, actions),
        }
    }

    pub(super) fn start_round(&mut self, now: Now, actions: &mut Vec<Action>) {
        let periodic = interval_ms(&self.head) > 0 && now.mono_ms >= self.next_round_ms;
        if self.round.is_some() || self.in_flight.is_some() || (self.triggers.is_empty() && !periodic) {
            return;
        }
        if let Err(refused) = self.may_start() {
            // A periodic round waits; who asked for one is told.
            for (token, _) in self.triggers.drain(..) {
                actions.push(Action::Answer(token, Err(refused.clone())));
            }
            return;
        }
        if self.next_id >= self.head.next_checkpoint_id {
            return; // The plan reserves more.
        }
        let id = Id { checkpoint: self.next_id, round: format!("{}-{}", self.nonce, self.rounds_started) };
        self.next_id += 1;
        self.rounds_started += 1;
        self.next_round_ms = now.mono_ms + interval_ms(&self.head);
        self.waiting = std::mem::take(&mut self.triggers);
        let settings = self.head.spec.as_ref().and_then(|spec| spec.checkpoints);
        let incremental = settings.is_none_or(|settings| settings.incremental());
        let full = !incremental || self.waiting.iter().any(|(_, full)| *full);
        let round = Round::start(&self.head, id, now.mono_ms, now.wall_ms, full);
        let barrier = v1::Barrier {
            checkpoint: round.checkpoint,
            round: round.id.clone(),
            base: round.base,
            coordinator_epoch: round.coordinator_epoch,
            generation: round.generation,
            unaligned: false,
        };
        for member in self.members.connected().filter(|member| holds(&self.head, member)) {
            actions.push(Action::ToWorker(member.connection, ToWorker::Barrier(barrier.clone())));
        }
        for entry in self.head.shards.iter().filter(|entry| !leased(&self.head, &entry.operator)) {
            let command = v1::SnapshotCommand {
                job_uid: self.head.job_uid.clone(),
                operator: entry.operator.clone(),
                start: entry.start,
                end: entry.end,
                checkpoint: round.checkpoint,
                round: round.id.clone(),
                base: round.base,
                coordinator_epoch: round.coordinator_epoch,
            };
            actions.push(Action::ToServer(entry.server.clone(), ToServer::Snapshot(command)));
        }
        self.round = Some(round);
    }

    /// An operator with a group is never snapshotted without its writers.
    fn may_start(&self) -> Result<(), Refused> {
        let no = |message: String| Err(Refused::new(Reason::CheckpointAborted, message));
        if self.head.deleted || self.head.shards.is_empty() {
            return no("the job has no shards yet".into());
        }
        for entry in &self.head.shards {
            let (operator, start, end) = place(entry);
            if !entry.established || !self.serves(entry) {
                return no(format!("shard {operator} [{start},{end}) does not serve"));
            }
            if leased(&self.head, &operator) {
                let Some(writer) = &entry.writer else {
                    return no(format!("operator {operator:?} has no workers: start them first"));
                };
                let knows = |member: &Member| member.knows(self.head.generation);
                if !self.members.get(&operator, &writer.worker).is_some_and(knows) {
                    return no(format!("worker {:?} is not connected, or does not know its shards yet", writer.worker));
                }
            }
        }
        Ok(())
    }

    fn serves(&self, entry: &v1::ShardEntry) -> bool {
        self.servers.get(&entry.server).is_some_and(|server| plan::serves(server, entry))
    }
}

fn holds(head: &v1::JobHead, member: &Connected) -> bool {
    head.shards.iter().filter_map(|entry| entry.writer.as_ref()).any(|writer| writer.join_id == member.join_id)
}
