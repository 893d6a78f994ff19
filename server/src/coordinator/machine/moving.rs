//! The machine's moves of shards: what is there already is brought to the new server while the shard serves on, and only
//! the rest while it does not.
//!
//! A lap takes a checkpoint and has the new server bring it to its disk as a local copy; laps follow each other until
//! one has brought little. Then the head says that the shard leaves ([`moves`](super::super::moves)), and from there on
//! the head is all that is needed. What is here is only who waits, and the laps.

use forebay_proto::{reason::Refused, v1};
use v1::{ErrorReason as Reason, link_response::Message as ToServer};

use super::{
    super::{
        external, moves, retention,
        round::{Kind, Place, Round, place},
    },
    Action, Answer, Machine, Now, Server, Token, answer_all, rounds, stopping,
};

/// Laps before a shard leaves, at most.
const LAPS_MAX: u32 = 5;
/// A lap that has brought no more than this, in bytes, is the last one.
const LITTLE: u64 = 8 << 20;
/// Between two laps, in milliseconds: what is flushed by then need not be read from the log.
const REST_MS: i64 = 500;
/// How long a checkpoint is kept for a server that brings it to its disk, at most, in milliseconds.
const PINNED_MS: i64 = 6 * 3_600_000;
/// Checkpoints in a row that may fail.
const TRIES_MAX: u32 = 3;

/// The moves that somebody waits for.
#[derive(Debug, Default)]
pub(super) struct Moving {
    moves: Vec<Move>,
}

#[derive(Debug)]
struct Move {
    callers: Vec<Token>,
    place: Place,
    epoch: u64,
    from: String,
    to: String,
    step: Step,
    laps: u32,
    bytes_done: u64,
    bytes: u64,
    /// Holder of the pin that keeps the checkpoint which the new server brings to its disk.
    pinned: Option<String>,
    /// Why it comes to nothing.
    failed: Option<String>,
}

/// A checkpoint of this id or a later one that is waited for, after so many that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lap {
    id: u64,
    tries: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// A lap begins, not before this time.
    Lap(i64),
    /// For a checkpoint.
    Checkpoint(Lap),
    /// For the new server, which brings this checkpoint to its disk.
    Bring(u64),
    /// The shard may leave.
    Ready,
    /// The next head says so, under this number.
    Wished(u64),
    /// The head says so.
    UnderWay(u64),
    /// It is there.
    Done,
}

impl Step {
    /// What goes on, for people.
    fn name(self) -> &'static str {
        match self {
            Self::Lap(_) | Self::Checkpoint(_) => "checkpoint",
            Self::Bring(_) => "copy",
            Self::Ready | Self::Wished(_) | Self::UnderWay(_) => "hand over",
            Self::Done => "done",
        }
    }
}

impl Moving {
    pub(super) fn callers(&mut self) -> Vec<Token> {
        self.moves.drain(..).flat_map(|it| it.callers).collect()
    }
}

impl Machine {
    /// How far the moves and cuts are that somebody waits for.
    pub fn moves(&self) -> Vec<v1::ShardProgress> {
        let job = self.head.spec.as_ref().map(|spec| spec.name.clone()).unwrap_or_default();
        let progress = |it: &Move| v1::ShardProgress {
            job: job.clone(),
            operator: it.place.0.clone(),
            start: it.place.1,
            end: it.place.2,
            step: it.step.name().to_owned(),
            bytes_done: it.bytes_done,
            bytes: it.bytes,
            from: it.from.clone(),
            to: it.to.clone(),
        };
        self.moving.moves.iter().map(progress).chain(self.cuts()).collect()
    }

    pub(super) fn wants_move(
        &mut self,
        token: Token,
        at: Place,
        to: String,
        dry_run: bool,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        if let Some(same) = self.moving.moves.iter_mut().find(|it| it.place == at && it.to == to && !dry_run) {
            return same.callers.push(token);
        }
        match self.may_move(&at, &to) {
            Err(refused) => actions.push(Action::Answer(token, Err(refused))),
            Ok(entry) if dry_run || entry.server == to => actions.push(Action::Answer(token, Ok(Answer::Done))),
            Ok(entry) => {
                let step = match entry.move_number() {
                    0 => Step::Lap(now.mono_ms),
                    number if entry.is_leaving() => Step::UnderWay(number),
                    // It serves nothing meanwhile: there is nothing to wait for.
                    _ => Step::Ready,
                };
                self.moving.moves.push(Move {
                    callers: vec![token],
                    place: at,
                    epoch: entry.epoch,
                    from: entry.server,
                    to,
                    step,
                    laps: 0,
                    bytes_done: 0,
                    bytes: 0,
                    pinned: None,
                    failed: None,
                });
            }
        }
    }

    fn may_move(&self, at: &Place, to: &str) -> Result<v1::ShardEntry, Refused> {
        let (operator, start, end) = at;
        let shard = format!("shard {operator} [{start},{end})");
        let Some(entry) = self.head.shards.iter().find(|entry| place(entry) == *at) else {
            let message = format!("there is no {shard}: `forebayctl shards list` tells the ranges");
            return Err(Refused::new(Reason::ShardUnknown, message));
        };
        if !external::is_own(entry) {
            let message = format!("{shard} is opened by another engine: it goes elsewhere when that opens it anew");
            return Err(Refused::new(Reason::SettingsConflict, message));
        }
        if !self.is_up(to) {
            let message = format!("server {to:?} is not connected: `forebayctl servers list` tells those that are");
            return Err(Refused::new(Reason::ServerUnknown, message).field("server"));
        }
        if stopping::is_shut(entry) {
            let message = format!("{shard} is about to be split or merged: wait until it is");
            return Err(Refused::new(Reason::MoveAborted, message));
        }
        let other = self.moving.moves.iter().find(|it| it.place == *at).map(|it| it.to.as_str());
        let other = other.or(entry.handover.as_ref().filter(|_| entry.is_leaving()).map(|it| it.server.as_str()));
        if let Some(other) = other.filter(|other| *other != to) {
            let message = format!("{shard} is on its way to {other:?}: wait until it is there");
            return Err(Refused::new(Reason::MoveAborted, message));
        }
        if entry.server != to && entry.handover.is_none() && !(entry.established && self.serves(entry)) {
            let message = format!("{shard} does not serve at the moment: wait until it stands");
            return Err(Refused::new(Reason::ShardRestoring, message));
        }
        Ok(entry.clone())
    }

    fn is_up(&self, server: &str) -> bool {
        self.servers.get(server).is_some_and(|known: &Server| !known.address.is_empty() && !known.gone)
    }

    /// Takes what a server says of a checkpoint that it brings to its disk.
    pub(super) fn prepared(&mut self, server: &str, said: &v1::ShardPrepared, now: Now) {
        let at = (said.operator.clone(), said.start, said.end);
        let awaits = |it: &&mut Move| it.place == at && it.to == server && it.step == Step::Bring(said.checkpoint);
        let Some(it) = self.moving.moves.iter_mut().find(awaits) else { return };
        (it.bytes_done, it.bytes) = (said.bytes_done, said.bytes);
        if !said.cause.is_empty() {
            it.failed = Some(format!("server {server:?} cannot bring it to its disk: {}", said.cause));
        } else if said.done {
            let again = said.bytes > LITTLE && it.laps < LAPS_MAX;
            it.step = if again { Step::Lap(now.mono_ms + REST_MS) } else { Step::Ready };
        }
    }

    /// Takes every move as far as it goes for now.
    pub(super) fn move_on(&mut self, now: Now, actions: &mut Vec<Action>) {
        let mut on = Vec::new();
        for mut it in std::mem::take(&mut self.moving.moves) {
            while let Some(next) = self.next_step(&mut it, now, actions) {
                it.step = next;
            }
            let brings = it.failed.is_none() && matches!(it.step, Step::Bring(_));
            self.wishes.unpin.extend(it.pinned.take_if(|_| !brings));
            if let Some(why) = &it.failed {
                let (operator, start, end) = &it.place;
                let message = format!("shard {operator} [{start},{end}) stays on {:?}: {why}", it.from);
                let refused = Refused::new(Reason::MoveAborted, message);
                answer_all(&it.callers, &Err(refused), actions);
            } else if it.step == Step::Done {
                answer_all(&it.callers, &Ok(Answer::Done), actions);
            } else {
                on.push(it);
            }
        }
        self.moving.moves = on;
    }

    /// What follows; `None` if something is waited for, or it is over.
    fn next_step(&mut self, it: &mut Move, now: Now, actions: &mut Vec<Action>) -> Option<Step> {
        if it.failed.is_some() || it.step == Step::Done {
            return None;
        }
        let Some(entry) = self.head.shards.iter().find(|entry| place(entry) == it.place).cloned() else {
            it.failed = Some("the job was cut into other shards meanwhile".into());
            return None;
        };
        match it.step {
            Step::Wished(number) if entry.move_number() == number => return Some(Step::UnderWay(number)),
            Step::Wished(number) => {
                let pending = self.wishes.moves.iter().any(|wish| wish.number == number);
                if !pending && self.in_flight.is_none() {
                    it.failed = Some("it did not stand when it was to leave".into());
                }
                return None;
            }
            Step::UnderWay(number) if entry.move_number() == number => return None,
            Step::UnderWay(_) if entry.server == it.to => return Some(Step::Done),
            Step::UnderWay(_) => {
                it.failed = Some("it was given up, or the job went back meanwhile".into());
                return None;
            }
            _ => {}
        }
        if entry.epoch != it.epoch || self.head.deleted {
            it.failed = Some("its place was changed meanwhile".into());
        } else if !self.is_up(&it.to) {
            it.failed = Some(format!("server {:?} lost its link", it.to));
        }
        if it.failed.is_some() {
            return None;
        }
        match it.step {
            Step::Lap(from_ms) if now.mono_ms < from_ms => None,
            Step::Lap(_) if self.may_start().is_ok() => {
                // What is flushed meanwhile comes with the next lap; a log would have to be read by the new server.
                let (operator, start, end) = it.place.clone();
                let flush = v1::FlushShard { job_uid: self.head.job_uid.clone(), operator, start, end };
                actions.push(Action::ToServer(it.from.clone(), ToServer::Flush(flush)));
                Some(Step::Checkpoint(self.begin_lap()))
            }
            // Without workers nothing is written that a checkpoint would have to take along.
            Step::Lap(_) => Some(self.bring(it, now, actions)),
            Step::Checkpoint(lap) => match self.lap(lap) {
                Ok(None) => Some(self.bring(it, now, actions)),
                Ok(Some(same)) if same == lap => None,
                Ok(Some(again)) => Some(Step::Checkpoint(again)),
                Err(why) => {
                    it.failed = Some(why);
                    None
                }
            },
            // What is on its way would be aborted.
            Step::Ready if self.rounds.iter().any(|round| round.kind != Kind::External) => None,
            Step::Ready if self.next_id >= self.head.next_checkpoint_id => None, // The plan reserves more.
            Step::Ready => {
                let number = self.next_id;
                self.next_id += 1;
                let wish = moves::Wish { place: it.place.clone(), epoch: it.epoch, to: it.to.clone(), number };
                self.wishes.moves.push(wish);
                Some(Step::Wished(number))
            }
            Step::Bring(_) | Step::Wished(_) | Step::UnderWay(_) | Step::Done => None,
        }
    }

    /// Triggers a checkpoint.
    pub(super) fn begin_lap(&mut self) -> Lap {
        let trigger = rounds::Trigger { token: None, kind: Kind::Manual, full: false, savepoint: None };
        self.triggers.push(trigger);
        Lap { id: self.next_id, tries: 0 }
    }

    /// Looks after a checkpoint that was triggered: `None` once it is complete, and another one if it failed.
    pub(super) fn lap(&mut self, lap: Lap) -> Result<Option<Lap>, String> {
        if self.head.completed.last().is_some_and(|last| last.id >= lap.id) {
            return Ok(None);
        }
        let pending = self.triggers.iter().any(|trigger| trigger.token.is_none());
        let running = self.rounds.iter().any(|round| round.kind.in_series() && round.checkpoint >= lap.id);
        if pending || running || self.in_flight.is_some() {
            return Ok(Some(lap));
        }
        if lap.tries + 1 == TRIES_MAX {
            let last = self.failed.back().map_or("", |failed| &failed.cause);
            return Err(format!("{TRIES_MAX} checkpoints failed in a row: {last}"));
        }
        Ok(Some(Lap { tries: lap.tries + 1, ..self.begin_lap() }))
    }

    fn bring(&mut self, it: &mut Move, now: Now, actions: &mut Vec<Action>) -> Step {
        let Some(last) = self.head.completed.last() else { return Step::Ready };
        it.laps += 1;
        (it.bytes_done, it.bytes) = (0, 0);
        // It may take longer than the checkpoint is kept. The pin lapses if this coordinator does not see the end.
        let holder = format!("move {} {} {}", it.place.0, it.place.1, last.id);
        let expires_ms = now.wall_ms + PINNED_MS;
        self.wishes.pins.push(v1::Pin {
            holder: holder.clone(),
            checkpoint: last.id,
            expires_ms,
            ..Default::default()
        });
        self.wishes.unpin.extend(it.pinned.replace(holder));
        let (operator, start, end) = it.place.clone();
        let prepare = v1::PrepareShard {
            job_uid: self.head.job_uid.clone(),
            job: self.head.spec.as_ref().map(|spec| spec.name.clone()).unwrap_or_default(),
            operator,
            start,
            end,
            checkpoint: Some(last.clone()),
        };
        actions.push(Action::ToServer(it.to.clone(), ToServer::Prepare(prepare)));
        Step::Bring(last.id)
    }

    /// True while a shard is about to leave, or arrives.
    pub(super) fn is_handing_over(&self) -> bool {
        self.moving.moves.iter().any(|it| matches!(it.step, Step::Ready | Step::Wished(_)))
            || self.head.shards.iter().any(|entry| entry.handover.is_some())
    }

    /// True while a shard is about to leave its server for another one, or arrives.
    pub(super) fn is_moving(&self) -> bool {
        self.moving.moves.iter().any(|it| matches!(it.step, Step::Wished(_)))
            || self.head.shards.iter().any(|entry| entry.handover.is_some() && !stopping::is_shut(entry))
    }

    /// A shard that was to leave could not be stored: its server goes on with it.
    pub(super) fn move_failed(&mut self, round: &Round, why: &str) {
        let Some(at) = round.shards().next().cloned() else { return };
        let under_way = |it: &&mut Move| it.place == at && it.step == Step::UnderWay(round.checkpoint);
        if let Some(it) = self.moving.moves.iter_mut().find(under_way) {
            it.failed = Some(why.to_owned());
        }
        self.wishes.unmove.push((at, round.checkpoint));
    }

    /// Has the shards stored that leave, once their servers serve nothing of them.
    pub(super) fn start_handovers(&mut self, now: Now, actions: &mut Vec<Action>) {
        if self.in_flight.is_some() || self.head.coordinator_epoch != self.epoch {
            return;
        }
        let leaving: Vec<_> =
            self.head.shards.iter().filter(|entry| entry.is_leaving() && !stopping::is_shut(entry)).cloned().collect();
        for entry in leaving {
            let number = entry.move_number();
            let begun = self.rounds.iter().any(|round| round.kind == Kind::Handover && round.checkpoint == number);
            let given_up = self.wishes.unmove.iter().any(|(_, given_up)| *given_up == number);
            if begun || given_up || !self.has_shut(&entry) {
                continue;
            }
            let (id, count) = self.round_of(number);
            let base = retention::base(&self.head);
            let mut round = Round::handover(&self.head, &entry, id, now.mono_ms, now.wall_ms, base);
            round.number = count;
            self.tell_started(&round, actions);
            let command = round.command(&self.head, &entry);
            actions.push(Action::ToServer(entry.server.clone(), ToServer::Snapshot(command)));
            self.rounds.push(round);
        }
    }

    /// True once a shard's server has taken up that the shard leaves.
    pub(super) fn has_shut(&self, entry: &v1::ShardEntry) -> bool {
        let Some(server) = self.servers.get(&entry.server) else { return false };
        let knows = |sent: &v1::JobAssignment| server.applied.version >= sent.version && sent.shards.contains(entry);
        self.serves(entry) && server.sent.as_ref().is_some_and(knows)
    }
}
