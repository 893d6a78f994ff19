//! Uploads of rounds that were aborted: kept for the next round, so that a first upload that takes longer
//! than `checkpoints.timeout` still makes progress.
//!
//! Servers tell late what they have uploaded. It is pinned unless a collection has been decided since the
//! round ended: what nothing named then may be gone.

use forebay_proto::{reason::Refused, v1};
use v1::ErrorReason as Reason;

use super::{
    super::{
        retention,
        round::{self, Cause, Id},
    },
    ASK_AGAIN_MS, Action, FAILED_MAX, Machine, Now, Token,
};

impl Machine {
    pub(super) fn shard_reported(&mut self, report: v1::SnapshotReport, now: Now, actions: &mut Vec<Action>) {
        match self.rounds.iter_mut().find(|round| round.is(report.checkpoint, &report.round)) {
            Some(round) if report.snapshot.as_ref().is_none_or(|snapshot| round.is_in_place(snapshot)) => {
                round.shard_reported(report);
            }
            Some(round) => {
                let id = round.id.clone();
                self.abort(&id, Cause::Io, "a server did not know that it is a savepoint: upgrade it", now, actions);
            }
            None => {
                let files = report.snapshot.map(|snapshot| snapshot.files).unwrap_or_default();
                self.pin_uploads(report.checkpoint, &report.round, files.into_iter().filter(|file| file.uploaded));
            }
        }
    }

    /// Pins what a dead round uploaded; a round that nobody remembers is over for good.
    pub(super) fn pin_uploads(&mut self, checkpoint: u64, round: &str, files: impl Iterator<Item = v1::SnapshotFile>) {
        if !self.dead.iter().any(|dead| dead.checkpoint == checkpoint && dead.round == round) {
            return;
        }
        let files = files.map(|file| v1::SnapshotFile { uploaded: true, ..file });
        let files = files.filter(|file| round::reusable(file) && !self.collector.condemns(&file.object));
        let mut objects: Vec<String> = files.map(|file| file.object).collect();
        objects.sort();
        objects.dedup();
        if !objects.is_empty() {
            self.wishes.pins.push(retention::of_aborted(round, objects));
        }
    }

    /// Takes a pin that somebody asks for, unless what it names is being deleted.
    pub(super) fn pin(&mut self, token: Token, pin: v1::Pin, actions: &mut Vec<Action>) {
        match pin.objects.iter().find(|object| self.collector.condemns(object)) {
            Some(object) => {
                let refused = Refused::new(Reason::CheckpointUnknown, format!("{object} is being deleted"));
                actions.push(Action::Answer(token, Err(refused)));
            }
            None => self.wishes.pin.push((token, pin)),
        }
    }

    /// Deletes what the head in force says is not kept any more: nothing names it then, and never will again.
    pub(super) fn delete_claimed(&mut self, now: Now, actions: &mut Vec<Action>) {
        let Some(entry) = self.head.disowned.first().filter(|_| self.head.coordinator_epoch == self.epoch) else {
            return;
        };
        if self.delete_claimed_ms.take_if(|at_ms| *at_ms <= now.mono_ms).is_some() {
            actions.push(Action::DeleteClaimed(Box::new(entry.clone())));
        }
    }

    pub(super) fn claimed_deleted(&mut self, entry: v1::CompletedCheckpoint, done: bool, now: Now) {
        self.delete_claimed_ms = Some(now.mono_ms + if done { 0 } else { ASK_AGAIN_MS });
        if done {
            self.wishes.disowned.push(entry);
        }
    }

    pub(super) fn remember_dead(&mut self, id: Id) {
        self.dead.push_back(id);
        if self.dead.len() > FAILED_MAX {
            self.dead.pop_front();
        }
    }
}
