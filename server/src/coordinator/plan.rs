//! The next job head, from the present one and what is observed. Pure.
//!
//! Every change of grants, generations, states and completed checkpoints is decided here, in one
//! place, and is in force only once the head that holds it is written.

use std::collections::BTreeMap;

use forebay_proto::{reason::Refused, v1};

use super::{
    assign,
    cuts::{self, Cut},
    descriptors,
    external::{self, Wish},
    groups,
    machine::{Answer, Connection, IDS_RESERVED, Server, Token},
    members::Members,
    moves, restore, retention,
    round::{Place, Round},
    spec,
    wanted::{applied, serves},
};
use crate::seeded::{self, Bug};

/// What a plan is made from, besides the head.
#[derive(Debug)]
pub struct Observed<'a> {
    /// This coordinator's epoch.
    pub epoch: u64,
    /// The servers.
    pub servers: &'a BTreeMap<String, Server>,
    /// What the servers have to bear.
    pub loads: &'a assign::Loads,
    /// The workers.
    pub members: &'a Members,
    /// The rounds in flight; those whose manifests are stored wait to be committed.
    pub rounds: &'a [Round],
    /// False while it is not known what is being deleted: nothing is committed.
    pub may_commit: bool,
    /// Name of the tombstone that the head is to hold; `None` leaves it as it is.
    pub tombstone: Option<String>,
    /// The store's time, as it was seen last.
    pub store_ms: Option<i64>,
    /// True once the worker state that this generation starts from has been read.
    pub worker_state_known: bool,
    /// True if the reserved checkpoint ids are used up.
    pub ids_low: bool,
    /// What is cut at a stop.
    pub cuts: &'a [Cut],
    /// True if no stop can be had of workers that are there: who joins a group takes the job back instead.
    pub without_stops: bool,
}

/// What callers want of the head.
#[derive(Debug, Default)]
pub struct Wishes {
    /// Registrations of states: caller, operator, descriptors.
    pub register: Vec<(Token, String, Vec<v1::StateDescriptor>)>,
    /// Replacements of descriptors.
    pub replace: Vec<(Token, v1::ReplaceDescriptorRequest)>,
    /// Workers that left: operator, worker, and the checkpoint behind which they wrote nothing.
    pub left: Vec<(String, String, u64)>,
    /// Restores asked for.
    pub restore: Vec<(Token, restore::Target)>,
    /// What other engines want of the head.
    pub external: Vec<(Token, Wish)>,
    /// What other engines said of checkpoints: shard, token, id, verdict. It may be lost.
    pub judged: Vec<(v1::ExternalShard, u64, String, v1::ExternalVerdict)>,
    /// Shards that are to go to other servers.
    pub moves: Vec<moves::Wish>,
    /// Moves that came to nothing: shard and number.
    pub unmove: Vec<(Place, u64)>,
    /// Deletions asked for.
    pub delete: Vec<Token>,
    /// Uploads of aborted rounds that are to be kept.
    pub pins: Vec<v1::Pin>,
    /// Pins asked for.
    pub pin: Vec<(Token, v1::Pin)>,
    /// Holders of pins that are not needed any more.
    pub unpin: Vec<String>,
    /// Claimed checkpoints whose folders are deleted.
    pub disowned: Vec<v1::CompletedCheckpoint>,
    /// Rounds that failed, as far as they count.
    pub failures: u32,
    joins: Vec<(Connection, String, Vec<v1::StateDescriptor>)>,
    promised: Vec<(Token, Promise)>,
}

#[derive(Debug)]
enum Promise {
    States(Vec<u32>),
    Opening(u64),
    Was(bool),
    Done,
}

impl Wishes {
    /// Registers the states that a joining worker brings.
    pub fn join(&mut self, connection: Connection, operator: String, states: Vec<v1::StateDescriptor>) {
        self.joins.push((connection, operator, states));
    }

    /// Answers for the wishes that the head just written fulfils.
    pub fn written(&mut self, head: &v1::JobHead) -> Vec<(Token, Answer)> {
        let state = |id: u32| head.states.iter().find(|state| state.id == id).cloned();
        self.promised
            .drain(..)
            .map(|(token, promise)| match promise {
                Promise::States(ids) => (token, Answer::States(ids.into_iter().filter_map(state).collect())),
                Promise::Opening(writer_epoch) => (token, Answer::Opening(writer_epoch)),
                Promise::Was(was) => (token, Answer::Was(was)),
                Promise::Done => (token, Answer::Done),
            })
            .collect()
    }

    /// Takes what other engines said into a head.
    pub fn judge(&self, next: &mut v1::JobHead) {
        for (shard, token, id, verdict) in &self.judged {
            external::judge(next, shard, *token, id, *verdict);
        }
    }

    /// All callers that still wait.
    pub fn tokens(&mut self) -> Vec<Token> {
        let registering = self.register.drain(..).map(|(token, ..)| token);
        let restoring = self.restore.drain(..).map(|(token, _)| token);
        let promised = self.promised.drain(..).map(|(token, _)| token);
        let replacing = self.replace.drain(..).map(|(token, _)| token);
        let pinning = self.pin.drain(..).map(|(token, _)| token);
        let engines = self.external.drain(..).map(|(token, _)| token);
        let waiting = registering.chain(replacing).chain(restoring).chain(promised).chain(pinning).chain(engines);
        waiting.chain(self.delete.drain(..)).collect()
    }
}

/// A plan.
#[derive(Debug, Default)]
pub struct Planned {
    /// The next head; `None` if the present one is as it should be.
    pub head: Option<v1::JobHead>,
    /// Callers that can be answered at once.
    pub answers: Vec<(Token, Result<Answer, Refused>)>,
    /// Set if the plan takes the job back: why.
    pub rewind: Option<String>,
}

/// Makes the next head.
pub fn next_head(head: &v1::JobHead, observed: &Observed<'_>, wishes: &mut Wishes) -> Planned {
    let mut planned = Planned::default();
    let mut next = head.clone();
    if head.coordinator_epoch != observed.epoch {
        // A new coordinator first writes its epoch and acts on the job only then.
        next.coordinator_epoch = observed.epoch;
        planned.head = Some(next);
        return planned;
    }
    if !wishes.delete.is_empty() {
        next.deleted = true;
        wishes.promised.extend(wishes.delete.drain(..).map(|token| (token, Promise::Done)));
    }
    if !next.deleted {
        register(&mut next, wishes, &mut planned);
        serve_engines(&mut next, wishes, &mut planned);
        if observed.ids_low {
            next.next_checkpoint_id += IDS_RESERVED;
        }
        let failed = failures(&mut next, wishes);
        if observed.may_commit {
            retention::commit(&mut next, observed.rounds);
            external::commit(&mut next, observed.rounds);
            moves::commit(&mut next, observed.rounds);
        }
        wishes.unmove.drain(..).for_each(|(shard, number)| moves::cancel(&mut next, &shard, number));
        wishes.moves.drain(..).for_each(|wish| moves::begin(&mut next, &wish));
        let stopped = observed.may_commit && cuts::commit(&mut next, observed);
        pins(&mut next, observed, wishes, &mut planned);
        let restored = take_to_checkpoint(&mut next, wishes, &mut planned);
        let cause = place(&mut next, observed).or_else(|| lost(&mut next, observed));
        let cause = cause.or_else(|| membership(&mut next, observed, wishes));
        planned.rewind = cause.or(failed);
        match (&planned.rewind, restored) {
            // All shards go where they were asked to: that takes in whatever else happened.
            (_, Some(cause)) => planned.rewind = Some(cause),
            (Some(_), None) => rewind(&mut next, observed),
            // Who leaves at the stop is still there.
            (None, None) if stopped => {}
            (None, None) => grant(&mut next, observed),
        }
    }
    if next != *head {
        // These alone are worth no write.
        retention::unpin_ended(&mut next, observed.rounds);
        if let Some(store_ms) = observed.store_ms {
            retention::unpin_lapsed(&mut next, store_ms);
        }
        if observed.tombstone.as_ref().is_some_and(String::is_empty) {
            next.tombstone = String::new();
        }
        wishes.judge(&mut next);
        wishes.judged.clear();
        planned.head = Some(next);
    }
    planned
}

/// Counts failed rounds; over the limit the job goes back, and is counted anew.
fn failures(next: &mut v1::JobHead, wishes: &mut Wishes) -> Option<String> {
    next.failures += std::mem::take(&mut wishes.failures);
    let limit = next.spec.as_ref().and_then(|spec| spec.checkpoints)?.tolerable_failures?;
    let failed = (next.failures > limit).then_some(next.failures)?;
    next.failures = 0;
    Some(format!("{failed} checkpoints in a row failed, tolerated are {limit}"))
}

fn pins(next: &mut v1::JobHead, observed: &Observed<'_>, wishes: &mut Wishes, planned: &mut Planned) {
    retention::pin(next, std::mem::take(&mut wishes.pins));
    for (token, pin) in std::mem::take(&mut wishes.pin) {
        if pin.checkpoint == 0 || next.completed.iter().any(|completed| completed.id == pin.checkpoint) {
            retention::pin(next, vec![pin]);
            wishes.promised.push((token, Promise::Done));
        } else {
            let message = format!("checkpoint {} is not kept any more: it cannot be pinned", pin.checkpoint);
            planned.answers.push((token, Err(Refused::new(v1::ErrorReason::CheckpointUnknown, message))));
        }
    }
    for deleted in wishes.disowned.drain(..) {
        next.disowned.retain(|entry| !retention::same_place(entry, &deleted));
    }
    for holder in wishes.unpin.drain(..) {
        next.pins.retain(|pin| pin.holder != holder);
    }
    if let Some(tombstone) = observed.tombstone.as_ref().filter(|tombstone| !tombstone.is_empty()) {
        next.tombstone.clone_from(tombstone);
    }
}

fn register(next: &mut v1::JobHead, wishes: &mut Wishes, planned: &mut Planned) {
    for (token, operator, asked) in std::mem::take(&mut wishes.register) {
        match descriptors::register(next, &operator, &asked) {
            Ok(ids) => wishes.promised.push((token, Promise::States(ids))),
            Err(refused) => planned.answers.push((token, Err(refused))),
        }
    }
    for (token, replace) in std::mem::take(&mut wishes.replace) {
        match descriptors::replace(next, &replace) {
            Ok(id) => wishes.promised.push((token, Promise::States(vec![id]))),
            Err(refused) => planned.answers.push((token, Err(refused))),
        }
    }
    for (_, operator, asked) in std::mem::take(&mut wishes.joins) {
        // A worker with a wrong descriptor is told by RegisterStates, which its SDK calls first.
        descriptors::register(next, &operator, &asked).ok();
    }
}

/// Opens, closes and discards what other engines want.
fn serve_engines(next: &mut v1::JobHead, wishes: &mut Wishes, planned: &mut Planned) {
    for (token, wish) in std::mem::take(&mut wishes.external) {
        let promise = match &wish {
            Wish::Open(opening) => external::open(next, opening).map(Promise::Opening),
            Wish::Close(shard, of) => {
                external::close(next, &shard.operator, shard.start, shard.end, *of).map(|()| Promise::Done)
            }
            Wish::Discard(manifest) => Ok(Promise::Was(external::discard(next, manifest))),
            // These are no matter of the head.
            Wish::Take(_) | Wish::Cancel(..) | Wish::Judge(..) => continue,
        };
        match promise {
            Ok(promise) => wishes.promised.push((token, promise)),
            Err(refused) => planned.answers.push((token, Err(refused))),
        }
    }
}

/// Takes the job to the checkpoint that was asked for last, and tells why.
fn take_to_checkpoint(next: &mut v1::JobHead, wishes: &mut Wishes, planned: &mut Planned) -> Option<String> {
    let mut cause = None;
    for (token, target) in std::mem::take(&mut wishes.restore) {
        let mut taken = next.clone();
        match restore::apply(&mut taken, &target) {
            Ok(()) => {
                *next = taken;
                cause = Some(target.cause);
                wishes.promised.push((token, Promise::Done));
            }
            Err(refused) => planned.answers.push((token, Err(refused))),
        }
    }
    cause
}

/// Gives shards a server. The shards of a server that is gone are lost with it.
fn place(next: &mut v1::JobHead, observed: &Observed<'_>) -> Option<String> {
    let up = observed.servers.iter().filter(|(_, server)| !server.address.is_empty() && !server.gone);
    let up: Vec<String> = up.map(|(name, _)| name.clone()).collect();
    let servers = assign::may_get(up.iter().cloned(), observed.loads);
    moves::keep_where_nobody_waits(next, &up);
    if up.is_empty() {
        return None;
    }
    let mut cause = None;
    let (last, spec) = (last_completed(next), next.spec.clone());
    let keeps_positions = spec::keeps_positions(spec.as_ref());
    for entry in &mut next.shards {
        let gone = observed.servers.get(&entry.server).is_some_and(|server| server.gone);
        if gone && entry.is_arriving() {
            // What it is made of is stored: any other server can have it.
            entry.server = String::new();
        } else if gone {
            entry.handover = None;
            let is_leased = spec::is_leased(spec.as_ref(), &entry.operator);
            if is_leased && !keeps_positions && (entry.established || entry.writer.is_some()) {
                cause = Some(format!("server {:?} is gone", entry.server));
            }
            entry.server = String::new();
            if external::is_own(entry) {
                entry.restored_from = last;
            }
        }
    }
    assign::place_shards(&mut next.shards, &servers, observed.loads);
    cause
}

/// Shards whose servers say that the state is not there. Shared ones and those that keep positions go back alone, other
/// leased ones take the job with them, those of another engine stay lost until it restores them.
fn lost(next: &mut v1::JobHead, observed: &Observed<'_>) -> Option<String> {
    let (last, spec) = (last_completed(next), next.spec.clone());
    let mut cause = None;
    for entry in next.shards.iter_mut().filter(|entry| external::is_own(entry)) {
        let said = observed.servers.get(&entry.server).and_then(|server| applied(server, entry));
        let Some(said) = said.filter(|said| said.status() == v1::ShardStatus::Lost && entry.established) else {
            continue;
        };
        if spec::is_leased(spec.as_ref(), &entry.operator) && !spec::keeps_positions(spec.as_ref()) {
            cause = Some(format!("shard {} [{},{}) is lost: {}", entry.operator, entry.start, entry.end, said.cause));
        } else {
            restart(entry, last);
        }
    }
    cause
}

/// Compares the grants with who is there.
fn membership(next: &mut v1::JobHead, observed: &Observed<'_>, wishes: &mut Wishes) -> Option<String> {
    let left = std::mem::take(&mut wishes.left);
    if spec::keeps_positions(next.spec.as_ref()) {
        // The shards know what they contain: whoever is granted one goes on from there.
        return None;
    }
    for (operator, worker, checkpoint) in left {
        let mut written =
            next.shards.iter().filter_map(|entry| Some((&entry.operator, &entry.writer.as_ref()?.worker)));
        let alone = written.all(|writer| writer == (&operator, &worker));
        if alone && checkpoint != 0 && checkpoint == last_completed(next) {
            // Nothing was written behind the last completed checkpoint: the next worker goes on from there.
            next.shards.iter_mut().for_each(|entry| entry.writer = None);
            next.restored_checkpoint = checkpoint;
        }
    }
    let granted: BTreeMap<(&str, &str), &str> = next
        .shards
        .iter()
        .filter_map(|entry| {
            let writer = entry.writer.as_ref()?;
            Some(((entry.operator.as_str(), writer.worker.as_str()), writer.join_id.as_str()))
        })
        .collect();
    for ((operator, worker), join_id) in &granted {
        match observed.members.get(operator, worker) {
            None => return Some(format!("worker {worker:?} is gone")),
            Some(member) if member.join_id != **join_id => return Some(format!("worker {worker:?} was started anew")),
            Some(_) => {}
        }
    }
    // Who is away cannot stop, and may never be back.
    let is_away = |(operator, worker): &(&str, &str)| {
        observed.members.get(operator, worker).is_none_or(|member| member.connection.is_none())
    };
    let goes_back = observed.without_stops || !cuts::stops_for_joins(next) || granted.keys().any(is_away);
    let joined = cuts::joined(next, observed.members).filter(|_| goes_back);
    joined.map(|worker| format!("worker {worker:?} joined"))
}

/// Takes every leased shard back to the last completed checkpoint, under a new generation.
fn rewind(next: &mut v1::JobHead, observed: &Observed<'_>) {
    next.generation += 1;
    next.restored_checkpoint = last_completed(next);
    let (last, spec) = (next.restored_checkpoint, next.spec.clone());
    for entry in next.shards.iter_mut().filter(|entry| spec::is_leased(spec.as_ref(), &entry.operator)) {
        let said = observed.servers.get(&entry.server).and_then(|server| applied(server, entry));
        let is_lost = said.is_none_or(|said| said.status() == v1::ShardStatus::Lost);
        entry.writer = None;
        if seeded::is(Bug::PartialRewind) && !is_lost {
            continue;
        }
        restart(entry, last);
    }
}

fn restart(entry: &mut v1::ShardEntry, from: u64) {
    entry.handover.take_if(|_| !seeded::is(Bug::RewindKeepsHandover));
    entry.incarnation += 1;
    entry.restored_from = from;
    entry.established = false;
}

/// Establishes shards that stand, and leases them once their whole operator does.
fn grant(next: &mut v1::JobHead, observed: &Observed<'_>) {
    for entry in &mut next.shards {
        let stands = observed.servers.get(&entry.server).is_some_and(|server| serves(server, entry));
        entry.established |= stands;
        entry.handover.take_if(|handover| stands && handover.snapshot.is_some());
    }
    if spec::keeps_positions(next.spec.as_ref()) {
        return groups::grant(next, observed.members);
    }
    if !observed.worker_state_known {
        return;
    }
    for operator in observed.members.operators() {
        let ready = |entry: &v1::ShardEntry| entry.established && entry.writer.is_none();
        let mut shards = next.shards.iter().filter(|entry| entry.operator == operator);
        if !spec::is_leased(next.spec.as_ref(), &operator) || !shards.all(ready) {
            continue;
        }
        let connected = observed.members.group(&operator).filter(|it| it.connection.is_some() && !it.leaving);
        let workers: Vec<_> = connected.map(|member| (member.worker.clone(), member.join_id.clone())).collect();
        if !workers.is_empty() {
            assign::lease_shards(&mut next.shards, &operator, &workers);
        }
    }
}

fn last_completed(head: &v1::JobHead) -> u64 {
    head.completed.last().map_or(0, |completed| completed.id)
}
