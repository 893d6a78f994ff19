//! The machine's stops: when the workers are to stand still, and for whom.
//!
//! A worker that joins, one that leaves, and shards that are split or merged wait for a checkpoint behind whose barrier
//! nobody writes; what changes is in the head that commits it ([`cuts`](super::super::cuts)). Until then nothing has
//! happened: a round that is aborted lets the workers go on.

use forebay_proto::{reason::Refused, v1};
use v1::{ErrorReason as Reason, join_response::Message as ToWorker};

use super::{
    super::{
        cuts::{self, Cut},
        external, moves,
        round::{Cause, Kind, Round, place},
        spec, wanted,
    },
    Action, Answer, Machine, Now, Restored, Token, answer_all,
    moving::Lap,
};

/// How long workers stand still at most, in milliseconds.
pub(super) const STOP_MAX_MS: i64 = 60_000;
/// How long what is asked for waits for its stop at most, in milliseconds.
const PATIENCE_MS: i64 = 60_000;
/// Between a stop that came to nothing and the next one, in milliseconds.
const REST_MS: i64 = 1_000;
/// Stops in a row that workers may decline or be too late for, before it is done without.
const FAILED_MAX: u32 = 3;

/// What the workers are to stand still for.
#[derive(Debug, Default)]
pub(super) struct Stopping {
    cuts: Vec<Awaited>,
    failed: u32,
    rest_until_ms: i64,
}

/// Shards that somebody wants to be cut.
#[derive(Debug)]
struct Awaited {
    callers: Vec<Token>,
    cut: Cut,
    step: Step,
    until_ms: i64,
    /// Why it comes to nothing.
    failed: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// A checkpoint takes what is there already, so that the stop is short.
    Checkpoint(Lap),
    /// Shards without a writer are to serve nothing any more; the head says so under this number.
    Shut(u64),
    /// For the stop.
    Ready,
    /// The head has the new ranges.
    Made,
    /// They serve.
    Done,
}

impl Step {
    /// What goes on, for people.
    fn name(self) -> &'static str {
        match self {
            Self::Checkpoint(_) => "checkpoint",
            Self::Shut(_) | Self::Ready => "stop",
            Self::Made => "cut",
            Self::Done => "done",
        }
    }
}

impl Stopping {
    pub(super) fn callers(&mut self) -> Vec<Token> {
        self.cuts.drain(..).flat_map(|it| it.callers).collect()
    }

    /// True if workers have declined so often that leases change without a stop, by taking the job back.
    pub(super) fn is_given_up(&self) -> bool {
        self.failed >= FAILED_MAX
    }

    /// What is cut at the next stop.
    pub(super) fn ready(&self) -> Vec<Cut> {
        self.cuts.iter().filter(|it| it.step == Step::Ready).map(|it| it.cut.clone()).collect()
    }
}

impl Machine {
    /// How far the cuts are that somebody waits for.
    pub(super) fn cuts(&self) -> impl Iterator<Item = v1::ShardProgress> {
        let job = self.head.spec.as_ref().map(|spec| spec.name.clone()).unwrap_or_default();
        self.stopping.cuts.iter().map(move |it| {
            let (start, end) = it.cut.span();
            let (operator, step) = (it.cut.operator.clone(), it.step.name().to_owned());
            v1::ShardProgress { job: job.clone(), operator, start, end, step, ..Default::default() }
        })
    }

    pub(super) fn wants_cut(&mut self, token: Token, cut: Cut, dry_run: bool, now: Now, actions: &mut Vec<Action>) {
        if let Some(same) = self.stopping.cuts.iter_mut().find(|it| it.cut == cut && !dry_run) {
            return same.callers.push(token);
        }
        match self.may_cut(&cut) {
            Err(refused) => actions.push(Action::Answer(token, Err(refused))),
            Ok(()) if dry_run || cut.is_in(&self.head) => actions.push(Action::Answer(token, Ok(Answer::Done))),
            Ok(()) => {
                let step = Step::Checkpoint(self.begin_lap());
                let until_ms = now.mono_ms + PATIENCE_MS;
                self.stopping.cuts.push(Awaited { callers: vec![token], cut, step, until_ms, failed: None });
            }
        }
    }

    fn may_cut(&self, cut: &Cut) -> Result<(), Refused> {
        let ((start, end), operator) = (cut.span(), &cut.operator);
        let spec = self.head.spec.as_ref();
        if spec::access(spec, operator).is_none() {
            return Err(Refused::new(Reason::OperatorUnknown, format!("the job has no operator {operator:?}")));
        }
        if spec.is_some_and(|spec| external::is_external(spec, operator)) {
            let message = format!("the shards of operator {operator:?} are opened by another engine: it cuts them");
            return Err(Refused::new(Reason::SettingsConflict, message));
        }
        if cut.is_in(&self.head) {
            return Ok(());
        }
        if !cut.fits(&self.head) {
            let message = format!(
                "no shards of operator {operator:?} reach from {start} to {end}: `forebayctl shards list` tells the ranges"
            );
            return Err(Refused::new(Reason::ShardUnknown, message));
        }
        let overlaps = |it: &&Awaited| {
            let (from, to) = it.cut.span();
            it.cut.operator == *operator && from < end && start < to
        };
        if let Some(other) = self.stopping.cuts.iter().find(overlaps) {
            let (from, to) = other.cut.span();
            let message = format!("shards of {operator} [{from},{to}) are being cut already: wait until they are");
            return Err(Refused::new(Reason::MoveAborted, message));
        }
        if let Some(moves) = cut.sources(&self.head).find(|entry| entry.handover.is_some()) {
            let (from, to) = (moves.start, moves.end);
            let message =
                format!("shard {operator} [{from},{to}) is on its way to another server: wait until it is there");
            return Err(Refused::new(Reason::MoveAborted, message));
        }
        // What no checkpoint could be taken of cannot be cut either.
        self.may_start()
    }

    /// Takes every cut as far as it goes for now.
    pub(super) fn cut_on(&mut self, now: Now, actions: &mut Vec<Action>) {
        let mut on = Vec::new();
        for mut it in std::mem::take(&mut self.stopping.cuts) {
            while let Some(next) = self.next_of_cut(&mut it, now) {
                it.step = next;
            }
            if let Some(why) = &it.failed {
                let (start, end) = it.cut.span();
                let message = format!("shards of {} [{start},{end}) stay as they are: {why}", it.cut.operator);
                let refused = Refused::new(Reason::MoveAborted, message);
                answer_all(&it.callers, &Err(refused), actions);
            } else if it.step == Step::Done {
                answer_all(&it.callers, &Ok(Answer::Done), actions);
            } else {
                on.push(it);
            }
        }
        self.stopping.cuts = on;
    }

    /// What follows; `None` if something is waited for, or it is over.
    fn next_of_cut(&mut self, it: &mut Awaited, now: Now) -> Option<Step> {
        if it.failed.is_some() {
            return None;
        }
        let stands = |entry: &v1::ShardEntry| entry.established && self.serves(entry);
        match it.step {
            Step::Done => return None,
            Step::Made if !it.cut.is_in(&self.head) => {
                it.failed = Some("the job was cut into other shards meanwhile".into());
                return None;
            }
            Step::Made => return it.cut.sources(&self.head).all(stands).then_some(Step::Done),
            _ => {}
        }
        if it.cut.is_in(&self.head) {
            return Some(Step::Made);
        }
        if !it.cut.fits(&self.head) || self.head.deleted {
            it.failed = Some("their ranges were changed meanwhile".into());
        } else if now.mono_ms > it.until_ms {
            let why = self.may_start().err().map_or_else(String::new, |refused| format!(" ({})", refused.message));
            it.failed = Some(format!("there was no stop within {} s{why}", PATIENCE_MS / 1_000));
        }
        if it.failed.is_some() {
            return None;
        }
        match it.step {
            Step::Checkpoint(lap) => match self.lap(lap) {
                Ok(None) => self.shut(it),
                Ok(Some(same)) if same == lap => None,
                Ok(Some(again)) => Some(Step::Checkpoint(again)),
                Err(why) => {
                    it.failed = Some(why);
                    None
                }
            },
            Step::Shut(number) => {
                let sources: Vec<_> = it.cut.sources(&self.head).cloned().collect();
                if sources.iter().all(|entry| entry.move_number() == number) {
                    return sources.iter().all(|entry| self.has_shut(entry)).then_some(Step::Ready);
                }
                if self.in_flight.is_none() && self.wishes.moves.iter().all(|wish| wish.number != number) {
                    it.failed = Some("a shard did not stand when it was to be cut".into());
                }
                None
            }
            Step::Ready | Step::Made | Step::Done => None,
        }
    }

    /// Writers stop at the barrier; a shard without one has to be told that it serves nothing.
    fn shut(&mut self, it: &Awaited) -> Option<Step> {
        if spec::is_leased(self.head.spec.as_ref(), &it.cut.operator) {
            return Some(Step::Ready);
        }
        if self.next_id >= self.head.next_checkpoint_id {
            return None; // The plan reserves more.
        }
        let number = self.next_id;
        self.next_id += 1;
        let leaves = |entry: &v1::ShardEntry| moves::Wish {
            place: place(entry),
            epoch: entry.epoch,
            to: entry.server.clone(),
            number,
        };
        self.wishes.moves.extend(it.cut.sources(&self.head).map(leaves));
        Some(Step::Shut(number))
    }

    /// Shards that were to be cut, by this coordinator or a former one, and are not, serve again.
    pub(super) fn serve_what_nobody_cuts(&mut self) {
        let awaited = |entry: &v1::ShardEntry| {
            let number = entry.move_number();
            let cuts = |it: &Awaited| {
                it.step == Step::Shut(number)
                    || it.step == Step::Ready && it.cut.sources(&self.head).any(|it| it == entry)
            };
            self.stopping.cuts.iter().any(cuts) || self.wishes.unmove.iter().any(|(_, given_up)| *given_up == number)
        };
        let left: Vec<_> = self.head.shards.iter().filter(|entry| is_shut(entry) && !awaited(entry)).collect();
        let left: Vec<_> = left.into_iter().map(|entry| (place(entry), entry.move_number())).collect();
        self.wishes.unmove.extend(left);
    }

    /// True if a stop is wanted and nothing is in its way.
    pub(super) fn wants_stop(&self, now: Now) -> bool {
        let leaves = || {
            let mut leaving = self.members.all().filter(|member| member.leaving && member.connection.is_some());
            leaving.any(|it| wanted::granted(&self.head, &it.operator, &it.join_id).next().is_some())
        };
        let joins = || {
            let stops = !self.stopping.is_given_up() && cuts::stops_for_joins(&self.head);
            stops && cuts::joined(&self.head, &self.members).is_some()
        };
        now.mono_ms >= self.stopping.rest_until_ms
            && !self.is_moving()
            && (self.stopping.cuts.iter().any(|it| it.step == Step::Ready) || leaves() || joins())
    }

    /// A stop is committed: who was to leave has left, and the others are told what they hold now.
    pub(super) fn stopped(&mut self, round: &Round, actions: &mut Vec<Action>) {
        self.stopping.failed = 0;
        if self.head.restored_checkpoint == round.checkpoint {
            let states = round.workers.values().flatten().cloned().collect();
            self.restored = Restored::Known(round.checkpoint, states);
        }
        for connection in self.members.stopped() {
            let message = "the worker left".to_owned();
            let ended = v1::JoinEnded { reason: Reason::Unspecified.into(), message };
            actions.push(Action::ToWorker(connection, ToWorker::Ended(ended)));
        }
    }

    /// A stop came to nothing: the workers go on, and what waited for it is told or waits for the next one.
    pub(super) fn stop_failed(&mut self, cause: Cause, detail: &str, now: Now) {
        self.stopping.rest_until_ms = now.mono_ms + REST_MS;
        self.stopping.failed += u32::from(matches!(cause, Cause::Declined | Cause::Expired));
        for it in self.stopping.cuts.iter_mut().filter(|it| it.step == Step::Ready) {
            it.failed = Some(detail.to_owned());
        }
    }

    /// The job went back: who was to leave has to do again what it did.
    pub(super) fn stop_forgotten(&mut self) {
        self.stopping.failed = 0;
        self.members.stay();
    }

    /// True while workers stand still, or are to.
    pub(super) fn is_stopping(&self) -> bool {
        self.rounds.iter().any(|round| round.kind == Kind::Stop)
    }
}

/// True if a shard serves nothing because it is to be cut: it leaves for where it is.
pub(super) fn is_shut(entry: &v1::ShardEntry) -> bool {
    entry.is_leaving() && entry.handover.as_ref().is_some_and(|handover| handover.server == entry.server)
}
