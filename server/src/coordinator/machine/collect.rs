//! The machine's collection of garbage: list, subtract, write a tombstone, name it in the head, delete.
//!
//! A collection that cannot see everything (a manifest that cannot be read, a listing that fails) ends
//! without a deed. What is about to be deleted stands in a tombstone that the head names before the first
//! DELETE; the head's write is at once the proof that this coordinator still leads. Until the deletion is
//! confirmed and every round that had begun has ended, a round that names one of these objects is aborted.

use std::collections::BTreeSet;

use forebay_proto::{reason::Refused, v1};
use v1::ErrorReason as Reason;

use super::{
    super::{
        garbage::{self, Garbage, Known, Listed, Settings},
        retention,
        round::Cause,
    },
    ASK_AGAIN_MS, Action, Answer, Machine, Now, Token,
};
use crate::seeded::{self, Bug};

/// A manifest whose objects are to be kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// Its name, relative to the job's prefix.
    pub manifest: String,
    /// Its entry in the head, if there is one.
    pub entry: Option<v1::CompletedCheckpoint>,
}

/// A step that was done, and what came of it.
#[derive(Debug, Clone)]
pub enum Done {
    /// The job's objects.
    Listed(Vec<Listed>),
    /// What manifests name, themselves included.
    Named(BTreeSet<String>),
    /// The tombstone is stored.
    Stored,
    /// What a tombstone of a former coordinator holds.
    Read(Vec<String>),
    /// The objects are deleted.
    Deleted,
}

/// Where a collection is.
#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    Listing,
    Naming {
        listed: Vec<Listed>,
        oldest_round: u64,
    },
    Storing,
    /// The tombstone is stored; the head is to name it.
    Heading,
    Reading,
    Deleting,
}

/// What is about to be deleted.
#[derive(Debug)]
struct Tombstone {
    name: String,
    objects: BTreeSet<String>,
    found: Vec<(String, u64)>,
    deleted: bool,
    /// Rounds that had begun when it was decided.
    rounds: u64,
}

/// The job's collector.
#[derive(Debug, Default)]
pub(super) struct Collector {
    pub(super) settings: Settings,
    garbage: Garbage,
    state: State,
    /// Counts the steps, so that a late answer is known as such.
    run: u64,
    next_ms: i64,
    retry_ms: i64,
    seen_version: u64,
    asked: Vec<(Token, bool)>,
    /// True while a collection that was asked for goes on to its second listing.
    again: bool,
    /// True if the time for the present collection had come, whether or not it was asked for.
    due: bool,
    tombstone: Option<Tombstone>,
    store_ms: Option<i64>,
}

impl Collector {
    pub(super) fn ask(&mut self, token: Token, dry_run: bool) {
        self.asked.push((token, dry_run));
    }

    pub(super) fn callers(&mut self) -> Vec<Token> {
        self.asked.drain(..).map(|(token, _)| token).collect()
    }

    /// The store's time, as it was seen last.
    pub(super) fn store_ms(&self) -> Option<i64> {
        self.store_ms
    }

    /// True if the object is about to be deleted.
    pub(super) fn condemns(&self, object: &str) -> bool {
        self.tombstone.as_ref().is_some_and(|tombstone| tombstone.objects.contains(object))
    }

    /// True once everything that the head says is being deleted is known.
    pub(super) fn knows(&self, head: &v1::JobHead) -> bool {
        head.tombstone.is_empty() || self.tombstone.is_some()
    }
}

impl Machine {
    /// Collects garbage so.
    pub fn collect_garbage(&mut self, settings: Settings, now: Now) {
        self.collector.settings = settings;
        self.collector.next_ms = now.mono_ms + settings.interval_ms;
    }

    /// Number of the oldest round in flight, or of the next one.
    fn oldest_round(&self) -> u64 {
        self.rounds.iter().map(|round| round.number).min().unwrap_or(self.rounds_started)
    }

    /// Starts what is due.
    pub(super) fn collect(&mut self, now: Now, actions: &mut Vec<Action>) {
        let idle = matches!(self.collector.state, State::Idle);
        if !idle || self.head.deleted || self.head.coordinator_epoch != self.epoch {
            return;
        }
        let pausing = now.mono_ms < self.collector.retry_ms;
        if !self.collector.knows(&self.head) {
            if !pausing {
                self.collector.state = State::Reading;
                self.collector.run += 1;
                actions.push(Action::ReadTombstone(self.collector.run, self.head.tombstone.clone()));
            }
            return;
        }
        let named = |tombstone: &&Tombstone| !tombstone.deleted && tombstone.name == self.head.tombstone;
        if let Some(tombstone) = self.collector.tombstone.as_ref().filter(named) {
            if !pausing {
                self.collector.state = State::Deleting;
                self.collector.run += 1;
                let bytes = tombstone.found.iter().map(|(_, bytes)| bytes).sum();
                let objects = tombstone.objects.iter().cloned().collect();
                actions.push(Action::DeleteObjects(self.collector.run, objects, bytes));
            }
            return;
        }
        if self.tombstone_stays() {
            return;
        }
        let interval = self.collector.settings.interval_ms;
        if interval > 0 && now.mono_ms >= self.collector.next_ms {
            self.collector.next_ms = now.mono_ms + interval;
            self.collector.due = true;
        }
        if self.collector.asked.is_empty() && !self.collector.due {
            return;
        }
        // The head tells the store's time if it was written since; else an object is, if anything has to age.
        let clock = self.collector.seen_version == self.head.version
            && (self.collector.garbage.waits() || !self.collector.asked.is_empty());
        self.collector.seen_version = self.head.version;
        self.collector.state = State::Listing;
        self.collector.run += 1;
        actions.push(Action::ListObjects(self.collector.run, clock));
    }

    /// True while the tombstone that the head names has to stay there.
    fn tombstone_stays(&self) -> bool {
        let Some(tombstone) = &self.collector.tombstone else { return false };
        !tombstone.deleted || self.oldest_round() < tombstone.rounds
    }

    /// What the head's next write is to name: `None` leaves it as it is.
    pub(super) fn wanted_tombstone(&self) -> Option<String> {
        match (&self.collector.state, &self.collector.tombstone) {
            (State::Heading, Some(tombstone)) => Some(tombstone.name.clone()),
            _ if self.collector.knows(&self.head) && !self.tombstone_stays() => Some(String::new()),
            _ => None,
        }
    }

    /// Takes what came of a step.
    pub(super) fn collection_step(
        &mut self,
        run: u64,
        done: Result<Done, String>,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        if run != self.collector.run {
            return;
        }
        match (std::mem::take(&mut self.collector.state), done) {
            (State::Listing, Ok(Done::Listed(listed))) => {
                self.collector.store_ms = garbage::store_ms(&listed).or(self.collector.store_ms);
                self.collector.run += 1;
                self.collector.state = State::Naming { listed, oldest_round: self.oldest_round() };
                actions.push(Action::ReadNames(self.collector.run, self.references()));
            }
            (State::Naming { listed, oldest_round }, Ok(Done::Named(named))) => {
                self.decide(&listed, oldest_round, named, actions);
            }
            (State::Storing, Ok(Done::Stored)) if seeded::is(Bug::CollectsUnannounced) => {
                let objects = self.collector.tombstone.iter().flat_map(|tombstone| tombstone.objects.clone()).collect();
                actions.push(Action::DeleteObjects(run, objects, 0));
            }
            (State::Storing, Ok(Done::Stored)) => self.collector.state = State::Heading,
            (State::Naming { listed, oldest_round }, Err(_)) if seeded::is(Bug::CollectsBlind) => {
                self.decide(&listed, oldest_round, BTreeSet::new(), actions);
            }
            (State::Reading, Ok(Done::Read(objects))) => {
                let rounds = self.rounds_started;
                let (name, objects) = (self.head.tombstone.clone(), objects.into_iter().collect());
                let found = Vec::new();
                self.collector.tombstone = Some(Tombstone { name, objects, found, deleted: false, rounds });
            }
            (State::Deleting, Ok(Done::Deleted)) => {
                let Some(tombstone) = &mut self.collector.tombstone else { return };
                tombstone.deleted = true;
                let found = std::mem::take(&mut tombstone.found);
                self.answer_collected(&found, false, actions);
            }
            (state, Ok(_)) => self.collector.state = state,
            (state, Err(cause)) => {
                if matches!(state, State::Storing) {
                    self.collector.tombstone = None;
                }
                self.collector.retry_ms = now.mono_ms + ASK_AGAIN_MS;
                (self.collector.again, self.collector.due) = (false, false);
                let refused = Refused::new(Reason::StoreUnavailable, format!("garbage was not collected: {cause}"));
                for token in self.collector.callers() {
                    actions.push(Action::Answer(token, Err(refused.clone())));
                }
            }
        }
    }

    /// The manifests whose objects are to be kept: of the head in force and of the one in flight.
    fn references(&self) -> Vec<Reference> {
        let mut references: Vec<Reference> = Vec::new();
        let mut add = |manifest: &str, entry: Option<&v1::CompletedCheckpoint>| {
            if !references.iter().any(|known| known.manifest == manifest) {
                references.push(Reference { manifest: manifest.to_owned(), entry: entry.cloned() });
            }
        };
        for head in [Some(&self.head), self.in_flight.as_ref()].into_iter().flatten() {
            for completed in head.completed.iter().filter(|completed| retention::is_own(completed)) {
                add(&completed.manifest, Some(completed));
            }
            let pins = head.pins.iter().filter(|_| !seeded::is(Bug::CollectsPinned));
            let pinned = pins.flat_map(|pin| &pin.objects);
            for manifest in pinned.filter(|object| crate::checkpoint::layout::is_manifest(object)) {
                add(manifest, None);
            }
            head.shards
                .iter()
                .filter_map(v1::ShardEntry::handed_over)
                .for_each(|stored| add(&stored.manifest, Some(stored)));
            head.external_snapshots.iter().for_each(|external| add(&external.manifest, None));
            // A shard that does not stand yet is made of these, discarded or not.
            let making = head.shards.iter().filter(|entry| !entry.established);
            let parts = making.filter_map(|entry| entry.external.as_ref()).flat_map(|opening| &opening.restore);
            for snapshot in parts.filter_map(|part| part.snapshot.as_ref()) {
                add(&snapshot.manifest, None);
            }
        }
        references
    }

    /// Everything that the heads name themselves.
    fn named_by_heads(&self) -> BTreeSet<String> {
        let heads = [Some(&self.head), self.in_flight.as_ref()].into_iter().flatten();
        let pins = heads.clone().flat_map(|head| &head.pins).filter(|_| !seeded::is(Bug::CollectsPinned));
        let mut named: BTreeSet<String> = pins.flat_map(|pin| pin.objects.clone()).collect();
        named.extend(heads.flat_map(|head| [head.tombstone.clone(), head.stop_barrier_state.clone()]));
        let wished = self.wishes.pins.iter().chain(self.wishes.pin.iter().map(|(_, pin)| pin));
        named.extend(wished.flat_map(|pin| pin.objects.clone()));
        named
    }

    fn decide(&mut self, listed: &[Listed], oldest_round: u64, mut named: BTreeSet<String>, actions: &mut Vec<Action>) {
        named.extend(self.named_by_heads());
        let known = Known {
            named: &named,
            oldest_round,
            rounds_begun: self.rounds_started,
            min_age_ms: self.collector.settings.min_age_ms,
        };
        let candidates = self.collector.garbage.candidates(listed, &known);
        let found: Vec<_> = candidates.into_iter().map(|object| (object.name, object.length)).collect();
        if !self.collector.asked.is_empty() && !std::mem::replace(&mut self.collector.again, true) {
            return; // What the first listing found goes at the second.
        }
        self.collector.again = false;
        self.answer_collected(&found, true, actions);
        let wanted = std::mem::take(&mut self.collector.due) || !self.collector.asked.is_empty();
        if found.is_empty() {
            return self.answer_collected(&found, false, actions);
        }
        if !wanted {
            return;
        }
        let name = format!("tombstones/{}-{}", self.nonce, self.collector.run);
        let objects: BTreeSet<String> = found.iter().map(|(object, _)| object.clone()).collect();
        let stored = v1::Tombstone { coordinator_epoch: self.epoch, objects: objects.iter().cloned().collect() };
        let rounds = self.rounds_started;
        self.collector.tombstone = Some(Tombstone { name: name.clone(), objects, found, deleted: false, rounds });
        self.dead.clear();
        self.collector.run += 1;
        self.collector.state = State::Storing;
        actions.push(Action::WriteTombstone(self.collector.run, name, stored));
    }

    fn answer_collected(&mut self, found: &[(String, u64)], dry: bool, actions: &mut Vec<Action>) {
        let answer = Answer::Collected(found.to_vec());
        let (now, later) = std::mem::take(&mut self.collector.asked).into_iter().partition(|(_, of)| *of == dry);
        let now: Vec<(Token, bool)> = now;
        self.collector.asked = later;
        actions.extend(now.into_iter().map(|(token, _)| Action::Answer(token, Ok(answer.clone()))));
    }

    /// The head in force names the tombstone: now, and not before, its objects are deleted.
    pub(super) fn tombstone_named(&mut self) {
        let Some(tombstone) = &self.collector.tombstone else { return };
        if matches!(self.collector.state, State::Heading) && self.head.tombstone == tombstone.name {
            self.collector.state = State::Idle;
        } else if self.head.tombstone.is_empty() && tombstone.deleted {
            self.collector.tombstone = None;
        }
    }

    /// A round that names what is being deleted must not complete.
    pub(super) fn abort_condemned(&mut self, now: Now, actions: &mut Vec<Action>) {
        if seeded::is(Bug::CommitsCondemned) {
            return;
        }
        let condemned = |round: &super::Round| {
            let mut objects = round.objects();
            (!round.committing)
                .then(|| objects.find(|object| self.collector.condemns(object)).map(str::to_owned))
                .flatten()
        };
        let found = self.rounds.iter().find_map(|round| Some((round.id.clone(), condemned(round)?)));
        if let Some((id, object)) = found {
            self.avoid_base = true;
            self.abort(&id, Cause::Collected, &format!("it names {object}, which is being deleted"), now, actions);
        }
    }
}
