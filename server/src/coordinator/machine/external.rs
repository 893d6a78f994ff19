//! The machine's dealings with other engines: their shards stand, their snapshots are taken and registered.
//!
//! A snapshot is a round of one shard, which its server has frozen before it is asked for. It collects its file list as
//! the job's own rounds do, so that what uploads, commits and collects is the same for both.

use forebay_proto::{reason::Refused, v1};
use v1::{ErrorReason as Reason, ExternalVerdict as Verdict, ShardStatus, link_response::Message as ToServer};

use super::{
    super::{
        external::{self, Wish},
        round::{Cause, External, Round, place},
        wanted,
    },
    Action, Answer, Machine, Now, Token,
};

/// Notifications that wait for the next head.
const JUDGED_MAX: usize = 1_000;

/// What other engines wait for.
#[derive(Debug, Default)]
pub(super) struct Engines {
    /// Snapshots that are to be taken.
    taking: Vec<(Token, v1::TakeSnapshotRequest)>,
    /// Openings that are in the head, until their shards can be written.
    /// By the epochs of their writers, which no two openings share.
    pub(super) until_open: Vec<(Token, u64)>,
}

impl Engines {
    pub(super) fn callers(&mut self) -> Vec<Token> {
        let taking = self.taking.drain(..).map(|(token, _)| token);
        taking.chain(self.until_open.drain(..).map(|(token, _)| token)).collect()
    }
}

impl Machine {
    pub(super) fn wished(&mut self, token: Token, wish: Wish, now: Now, actions: &mut Vec<Action>) {
        let done = |answer| Action::Answer(token, Ok(answer));
        match wish {
            Wish::Take(request) => self.engines.taking.push((token, request)),
            Wish::Cancel(shard, of, id) => {
                let cancelled = self.give_up(&shard, of, &id, "its engine cancelled it", now, actions);
                actions.push(done(Answer::Was(cancelled)));
            }
            Wish::Judge(shard, of, id, verdict) => {
                if verdict == Verdict::Aborted {
                    self.give_up(&shard, of, &id, "its engine aborted the checkpoint", now, actions);
                }
                if self.wishes.judged.len() >= JUDGED_MAX {
                    self.wishes.judged.remove(0); // As if it had not come.
                }
                self.wishes.judged.push((shard, of, id, verdict));
                actions.push(done(Answer::Done));
            }
            wish @ (Wish::Open(_) | Wish::Close(..) | Wish::Discard(_)) => self.wishes.external.push((token, wish)),
        }
    }

    /// Ends a snapshot that is not registered yet; true if there was one.
    fn give_up(
        &mut self,
        shard: &v1::ExternalShard,
        token: u64,
        id: &str,
        why: &str,
        now: Now,
        actions: &mut Vec<Action>,
    ) -> bool {
        let (given_up, taking) = std::mem::take(&mut self.engines.taking).into_iter().partition(|(_, request)| {
            (request.shard.as_ref(), request.token, &request.external_id[..]) == (Some(shard), token, id)
        });
        self.engines.taking = taking;
        let given_up: Vec<(Token, v1::TakeSnapshotRequest)> = given_up;
        for (token, request) in &given_up {
            actions.push(Action::Answer(*token, Err(aborted(&request.external_id, why))));
        }
        let Some(round) = self.external_round(shard, token, id) else { return !given_up.is_empty() };
        if round.committing {
            return false;
        }
        let round = round.id.clone();
        self.abort(&round, Cause::Declined, why, now, actions);
        true
    }

    fn external_round(&mut self, shard: &v1::ExternalShard, token: u64, id: &str) -> Option<&mut Round> {
        let at = (shard.operator.clone(), shard.start, shard.end);
        self.rounds.iter_mut().find(|round| {
            let same = |it: &External| (it.record.token, &it.record.external_id[..]) == (token, id);
            round.external.as_ref().is_some_and(same) && round.shards().any(|place| *place == at)
        })
    }

    /// Starts the rounds that engines wait for.
    pub(super) fn start_external_rounds(&mut self, now: Now, actions: &mut Vec<Action>) {
        if self.in_flight.is_some() || self.head.coordinator_epoch != self.epoch {
            return;
        }
        for (token, request) in std::mem::take(&mut self.engines.taking) {
            if self.next_id >= self.head.next_checkpoint_id {
                self.engines.taking.push((token, request)); // The plan reserves more.
            } else if let Err(refused) = self.start_external_round(token, &request, now, actions) {
                actions.push(Action::Answer(token, Err(refused)));
            }
        }
    }

    fn start_external_round(
        &mut self,
        token: Token,
        request: &v1::TakeSnapshotRequest,
        now: Now,
        actions: &mut Vec<Action>,
    ) -> Result<(), Refused> {
        let shard = request.shard.clone().unwrap_or_default();
        if let Some(known) = external::taken(&self.head, &shard, request.token, &request.external_id) {
            actions.push(Action::Answer(token, Ok(Answer::Snapshot(Box::new(known.clone())))));
            return Ok(());
        }
        if let Some(round) = self.external_round(&shard, request.token, &request.external_id) {
            round.callers.push(token);
            return Ok(());
        }
        let entry = external::may_take(&self.head, request)?.clone();
        if !entry.established || !self.serves(&entry) {
            let message = format!("shard {} [{},{}) does not serve", entry.operator, entry.start, entry.end);
            return Err(Refused::new(Reason::ShardRestoring, message));
        }
        let policy = request.base_policy();
        let bases = if self.wishes.judged.is_empty() {
            external::bases(&self.head, &entry, policy)
        } else {
            let mut head = self.head.clone();
            self.wishes.judge(&mut head);
            external::bases(&head, &entry, policy)
        };
        let record = v1::ExternalRecord {
            external_id: request.external_id.clone(),
            token: request.token,
            user_bytes: request.user_bytes.clone(),
            frozen_ms: 0,
        };
        let (id, number) = self.next_round();
        let external = External { record, policy };
        let mut round = Round::external(&self.head, &entry, id, now.mono_ms, now.wall_ms, external);
        (round.number, round.callers) = (number, vec![token]);
        self.tell_started(&round, actions);
        let (external_id, token) = (request.external_id.clone(), request.token);
        let command = v1::SnapshotCommand { external_id, token, bases, ..round.command(&self.head, &entry) };
        actions.push(Action::ToServer(entry.server.clone(), ToServer::Snapshot(command)));
        self.rounds.push(round);
        Ok(())
    }

    /// Tells of a snapshot that the head just written registers.
    pub(super) fn registered(&self, round: &Round, actions: &mut Vec<Action>) {
        self.round_ended(round, None, actions);
        let registered = self.head.external_snapshots.iter().find(|known| known.checkpoint == round.checkpoint);
        let Some(snapshot) = registered else { return };
        for token in &round.callers {
            actions.push(Action::Answer(*token, Ok(Answer::Snapshot(Box::new(snapshot.clone())))));
        }
    }

    /// Answers for the shards that can be written now, or never will.
    pub(super) fn answer_once_open(&mut self, actions: &mut Vec<Action>) {
        for (token, writer_epoch) in std::mem::take(&mut self.engines.until_open) {
            match self.opened(writer_epoch) {
                Some(answer) => actions.push(Action::Answer(token, answer)),
                None => self.engines.until_open.push((token, writer_epoch)),
            }
        }
    }

    fn opened(&self, writer_epoch: u64) -> Option<Result<Answer, Refused>> {
        let same = |entry: &&v1::ShardEntry| !external::is_own(entry) && entry.writer_epoch == writer_epoch;
        let Some(entry) = self.head.shards.iter().find(same) else {
            let message = "the shard was closed, or taken over by a higher token, before it stood";
            return Some(Err(Refused::new(Reason::WriterFenced, message)));
        };
        let server = self.servers.get(&entry.server)?;
        let said = wanted::applied(server, entry)?;
        let (operator, start, end) = place(entry);
        if said.status() == ShardStatus::Lost {
            let message =
                format!("shard {operator} [{start},{end}) is lost: {}; restore under a higher token", said.cause);
            return Some(Err(Refused::new(Reason::ShardLost, message)));
        }
        if said.corrupt {
            return Some(Err(Refused::new(Reason::CheckpointCorrupt, said.cause.clone())));
        }
        let states: Vec<_> = self.head.states.iter().filter(|state| state.operator == operator).cloned().collect();
        let knows = |sent: &v1::JobAssignment| {
            server.applied.version >= sent.version
                && sent.shards.contains(entry)
                && states.iter().all(|state| sent.states.contains(state))
        };
        let stands = entry.established && said.status() == ShardStatus::Serving;
        (stands && server.sent.as_ref().is_some_and(knows)).then(|| {
            Ok(Answer::Opened(Box::new(v1::OpenShardResponse {
                address: server.address.clone(),
                epoch: entry.epoch,
                incarnation: entry.incarnation,
                writer_epoch: entry.writer_epoch,
                states,
                restored_bytes: said.bytes,
            })))
        })
    }
}

/// Tells the callers of a snapshot that it will not be.
pub(super) fn given_up(round: &Round, external: &External, detail: &str, actions: &mut Vec<Action>) {
    for token in &round.callers {
        actions.push(Action::Answer(*token, Err(aborted(&external.record.external_id, detail))));
    }
}

fn aborted(id: &str, why: &str) -> Refused {
    Refused::new(Reason::CheckpointAborted, format!("snapshot {id:?} was given up: {why}"))
}
