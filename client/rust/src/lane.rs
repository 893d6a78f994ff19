//! The client's half of a lane: an ordered, numbered run of batches to one shard.
//!
//! A [`Lane`] decides; it does no I/O, has no clock and draws no random numbers, so that a simulation can
//! drive it with any seed. Its owner puts on the wire what [`Lane::poll_send`] returns, tells it what came
//! back ([`Lane::opened`], [`Lane::answered`], [`Lane::refused`], [`Lane::disconnected`]), and does what
//! [`Lane::status`] asks for. Batches are known to callers by *tickets*, which never change; a sequence
//! number may.
//!
//! Invariants a change must keep:
//! - Write batches carry 1, 2, 3 … in the order of their tickets and are kept, unchanged, until they are
//!   acknowledged. A number whose outcome is unknown is never given to other content.
//! - After a refusal no write is sent before the fate of every later one in flight is known. Only then are
//!   the writes behind a batch that was taken out numbered anew.
//! - A barrier that stood behind a batch that was taken out is withdrawn, so no snapshot can hold what came
//!   after that batch without what was in it.

mod batch;
mod refusal;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use forebay_proto::{
    reason::Refused,
    v1::{self, ErrorReason},
};

pub use batch::{Completion, Outcome, Status, Target, Write};
pub use refusal::Course;

/// Batch ids carry the channel above this bit, so that an answer finds its lane by its id alone.
const CHANNEL_SHIFT: u32 = 40;

/// Returns the channel of the lane that gave a batch its id.
pub fn channel_of(batch_id: u64) -> u32 {
    (batch_id >> CHANNEL_SHIFT) as u32
}

#[derive(Debug)]
struct Pending {
    what: What,
    bytes: usize,
    /// Id of the batch that carries it now; `None` if it is to be sent.
    batch: Option<u64>,
}

#[derive(Debug)]
enum What {
    Write { seq: u64, write: Write, withdrawn: bool },
    Read { after: u64, ops: v1::PackedOps, timeout_ms: u64, now_ms: i64 },
}

/// The client's half of a lane. See the [module](self) for what drives it.
#[derive(Debug)]
pub struct Lane {
    target: Target,
    status: Status,
    /// Empty until the first LaneOpened.
    id: Bytes,
    incarnation: u64,
    /// What the shard said when the lane was first opened.
    positions: HashMap<String, Bytes>,
    attachment: u64,
    channel: u32,
    /// Batches that may be in flight.
    window: usize,
    next_ticket: u64,
    next_batch: u64,
    /// The highest number given to a write.
    last_seq: u64,
    /// The highest number heard as applied.
    acknowledged: u64,
    progress: v1::Progress,
    /// By ticket, which is the order of their making.
    pending: BTreeMap<u64, Pending>,
    /// Tickets of `pending` that are to be sent.
    unsent: BTreeSet<u64>,
    /// Batch id → ticket.
    in_flight: BTreeMap<u64, u64>,
    in_flight_bytes: usize,
    writes_in_flight: BTreeSet<u64>,
    /// The lowest number refused since the lane was last in order.
    refused_from: Option<u64>,
    /// The lowest number whose batch was taken out since the lane was last in order.
    taken_out: Option<u64>,
    /// True if the refusal that it waits for was one of OpenLane.
    reopen: bool,
    /// True once a batch has carried source positions.
    carries_positions: bool,
}

impl Lane {
    /// Makes a lane that was never open.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            status: Status::Detached,
            id: Bytes::new(),
            incarnation: 0,
            positions: HashMap::new(),
            attachment: 0,
            channel: 0,
            window: 1,
            next_ticket: 1,
            next_batch: 1,
            last_seq: 0,
            acknowledged: 0,
            progress: v1::Progress::default(),
            pending: BTreeMap::new(),
            unsent: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            in_flight_bytes: 0,
            writes_in_flight: BTreeSet::new(),
            refused_from: None,
            taken_out: None,
            reopen: false,
            carries_positions: false,
        }
    }

    /// Returns what the lane leads to.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Returns what the lane is waiting for.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Returns the lane's id: 16 bytes, or none before the first LaneOpened.
    pub fn id(&self) -> &Bytes {
        &self.id
    }

    /// Returns the shard's incarnation; 0 before the first LaneOpened.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Returns the source positions that the shard held when the lane was first opened.
    pub fn positions(&self) -> &HashMap<String, Bytes> {
        &self.positions
    }

    /// Returns the highest number heard as applied.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Returns how far the lane is, as last heard.
    pub fn progress(&self) -> &v1::Progress {
        &self.progress
    }

    /// Returns the number of batches that are not completed.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Returns the bytes of the batches in flight.
    pub fn in_flight_bytes(&self) -> usize {
        self.in_flight_bytes
    }

    /// Adds a write batch behind all others and returns its ticket.
    pub fn write(&mut self, write: Write) -> u64 {
        self.last_seq += 1;
        self.carries_positions |= !write.positions.is_empty();
        let bytes = ops_bytes(write.ops.as_ref())
            + write.positions.iter().map(|(source, position)| source.len() + position.len()).sum::<usize>();
        self.push(What::Write { seq: self.last_seq, write, withdrawn: false }, bytes)
    }

    /// Adds a read batch and returns its ticket. It sees every write before it, and perhaps later ones.
    ///
    /// The server refuses it after `timeout_ms` if the writes before it have not arrived (0: never), and
    /// it is sent again.
    pub fn read(&mut self, ops: v1::PackedOps, timeout_ms: u64) -> u64 {
        self.read_at(ops, timeout_ms, 0)
    }

    /// Adds a read batch that says when it was made, milliseconds since 1970; sent again unchanged.
    pub fn read_at(&mut self, ops: v1::PackedOps, timeout_ms: u64, now_ms: i64) -> u64 {
        let bytes = ops_bytes(Some(&ops));
        self.push(What::Read { after: self.last_seq, ops, timeout_ms, now_ms }, bytes)
    }

    fn push(&mut self, what: What, bytes: usize) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.pending.insert(ticket, Pending { what, bytes, batch: None });
        self.unsent.insert(ticket);
        ticket
    }

    /// Completes at once, with the lane's end, what was added after the end.
    pub fn settle_if_ended(&mut self) -> Vec<Completion> {
        match &self.status {
            Status::Ended(reason) => self.end(reason.clone()),
            _ => Vec::new(),
        }
    }

    /// Starts to attach the lane to a stream and returns the message to send on it.
    ///
    /// `channel` is below 2^24 and was not used before on that stream. `window` is the number of batches
    /// that the stream's Welcome allows in flight.
    pub fn attach(&mut self, channel: u32, window: u32) -> v1::OpenLane {
        self.disconnected();
        self.channel = channel;
        self.window = window.max(1) as usize;
        self.attachment += 1;
        if !matches!(self.status, Status::Ended(_)) {
            self.status = Status::Opening;
        }
        v1::OpenLane {
            channel,
            operator: self.target.operator.clone(),
            start: self.target.range.start(),
            end: self.target.range.end(),
            shard_epoch: self.target.shard_epoch,
            lane: self.id.clone(),
            attachment: self.attachment,
            writer_epoch: self.target.writer_epoch,
            acknowledged: self.acknowledged,
            incarnation: if self.id.is_empty() { 0 } else { self.incarnation },
        }
    }

    /// Takes the shard's new epoch from the routing; the lane stays the same.
    pub fn moved(&mut self, shard_epoch: u64) {
        self.target.shard_epoch = shard_epoch;
    }

    /// Takes the answer to OpenLane. Everything that is not acknowledged is then sent again in order.
    pub fn opened(&mut self, opened: &v1::LaneOpened) -> Vec<Completion> {
        if self.status != Status::Opening || opened.channel != self.channel {
            return Vec::new();
        }
        let progress = opened.progress.unwrap_or_default();
        if self.id.is_empty() {
            self.id = opened.lane.clone();
            self.incarnation = opened.incarnation;
            self.positions.clone_from(&opened.positions);
        } else if let Some(reason) = self.not_ours(opened, &progress) {
            return self.end(reason);
        }
        self.progress = progress;
        self.status = Status::Open;
        // Nothing of a former attachment can be applied any more: what is above the mark never was.
        self.refused_from = None;
        self.settle()
    }

    fn not_ours(&self, opened: &v1::LaneOpened, progress: &v1::Progress) -> Option<Refused> {
        let (mark, acknowledged) = (progress.applied, self.acknowledged);
        let lost = |what: String| Some(Refused::new(ErrorReason::ShardLost, what));
        if opened.lane != self.id {
            return Some(Refused::new(ErrorReason::LaneExpired, "another lane was attached (a fault of the server)"));
        }
        if opened.incarnation != self.incarnation {
            return lost(format!("incarnation is {}, was {}", opened.incarnation, self.incarnation));
        }
        if mark < acknowledged {
            return lost(format!("the shard's mark is {mark}, but {acknowledged} was acknowledged"));
        }
        let applied_max = self.taken_out.map_or(self.last_seq, |taken_out| taken_out - 1);
        (mark > applied_max).then(|| {
            let message = format!("the shard's mark is {mark}, but at most {applied_max} can be applied");
            Refused::new(ErrorReason::SequenceReused, message)
        })
    }

    /// Returns the bytes of the batch that [`Lane::poll_send`] would return; `None` if it would return none.
    pub fn poll_bytes(&self) -> Option<usize> {
        self.next_to_send().map(|(_, pending)| pending.bytes)
    }

    fn next_to_send(&self) -> Option<(u64, &Pending)> {
        if self.status != Status::Open || self.in_flight.len() >= self.window {
            return None;
        }
        let ticket = *self.unsent.first()?;
        let pending = self.pending.get(&ticket)?;
        let in_order = match &pending.what {
            What::Write { .. } => self.refused_from.is_none(),
            What::Read { after, .. } => self.refused_from.is_none_or(|refused| *after < refused),
        };
        in_order.then_some((ticket, pending))
    }

    /// Returns the next batch to put on the wire; `None` while nothing may be sent.
    pub fn poll_send(&mut self) -> Option<v1::Batch> {
        let (ticket, _) = self.next_to_send()?;
        let pending = self.pending.get_mut(&ticket)?;
        let id = u64::from(self.channel) << CHANNEL_SHIFT | self.next_batch;
        let mut batch = v1::Batch {
            id,
            channel: self.channel,
            shard_epoch: self.target.shard_epoch,
            writer_epoch: self.target.writer_epoch,
            ..v1::Batch::default()
        };
        match &pending.what {
            What::Write { seq, write, .. } => {
                batch.order = Some(v1::batch::Order::Seq(*seq));
                batch.now_ms = write.now_ms;
                batch.ops = write.ops.clone();
                batch.barrier = write.barrier.clone();
                batch.watermark_ms = write.watermark_ms;
                batch.positions = write.positions.clone();
                batch.durability = write.durability.into();
                self.writes_in_flight.insert(*seq);
            }
            What::Read { after, ops, timeout_ms, now_ms } => {
                batch.now_ms = *now_ms;
                batch.order = Some(v1::batch::Order::After(*after));
                batch.ops = Some(ops.clone());
                batch.timeout_ms = *timeout_ms;
            }
        }
        self.next_batch += 1;
        pending.batch = Some(id);
        self.in_flight_bytes += pending.bytes;
        self.in_flight.insert(id, ticket);
        self.unsent.remove(&ticket);
        Some(batch)
    }

    /// Takes the answer to a batch; one that is not in flight is of no interest any more.
    pub fn answered(&mut self, answer: v1::BatchAnswer) -> Vec<Completion> {
        let Some(ticket) = self.landed(answer.id) else { return Vec::new() };
        if let Some(progress) = &answer.progress {
            self.heard(progress);
        }
        let Some(pending) = self.pending.remove(&ticket) else { return Vec::new() };
        let outcome = match pending.what {
            What::Write { seq, .. } => {
                self.acknowledged = self.acknowledged.max(seq);
                Outcome::Written { seq, answer }
            }
            What::Read { .. } => Outcome::Read(answer),
        };
        let mut completions = vec![Completion { ticket, outcome }];
        completions.extend(self.settle());
        completions
    }

    /// Takes the refusal of a batch of the lane, or of the lane itself.
    pub fn refused(&mut self, refusal: &v1::Refusal) -> Vec<Completion> {
        let refused = Refused::from_refusal(refusal);
        if refusal.id == 0 {
            return if refusal.channel == self.channel { self.lane_refused(refused) } else { Vec::new() };
        }
        let Some(ticket) = self.landed(refusal.id) else { return Vec::new() };
        let Some(pending) = self.pending.get(&ticket) else { return Vec::new() };
        let course = Course::of_batch(&refused, self.target.writer_epoch > 0);
        // What comes behind would say that the shard contains what the refused batch held.
        let leaves_gap = |what: &What| matches!(what, What::Write { write, .. } if write.has_effect());
        let leaves_gap = course == Course::TakeOut && self.carries_positions && leaves_gap(&pending.what);
        if course == Course::End || leaves_gap || self.has_forgotten(&refused) {
            return self.end(refused);
        }
        let seq = match &pending.what {
            What::Write { seq, .. } => Some(*seq),
            What::Read { .. } => None,
        };
        if let Some(seq) = seq {
            self.refused_from = Some(self.refused_from.map_or(seq, |lowest| lowest.min(seq)));
        }
        let mut completions = Vec::new();
        if course == Course::TakeOut {
            self.take_out(ticket, seq);
            completions.push(Completion { ticket, outcome: Outcome::Refused(refused) });
        } else {
            self.unsent.insert(ticket);
            // A read that has waited in vain is not asked again at once.
            let wait = course == Course::Again || (course == Course::InOrder && seq.is_none());
            match course {
                Course::Moved => self.status = Status::Moved(refused),
                _ if wait && self.status == Status::Open => self.status = Status::Waiting(refused),
                _ => {}
            }
        }
        completions.extend(self.settle());
        completions
    }

    /// Answers that waited for durability come late, so that each number is taken for itself.
    fn heard(&mut self, progress: &v1::Progress) {
        let known = &mut self.progress;
        known.generation = known.generation.max(progress.generation);
        known.incarnation = known.incarnation.max(progress.incarnation);
        known.applied = known.applied.max(progress.applied);
        known.synced = known.synced.max(progress.synced);
        known.checkpointed = known.checkpointed.max(progress.checkpointed);
        known.clock_ms = known.clock_ms.max(progress.clock_ms);
        known.watermark_ms = known.watermark_ms.max(progress.watermark_ms);
    }

    fn lane_refused(&mut self, refused: Refused) -> Vec<Completion> {
        match Course::of_lane(&refused) {
            _ if matches!(self.status, Status::Ended(_)) => Vec::new(),
            Course::Moved => {
                self.disconnected();
                self.status = Status::Moved(refused);
                Vec::new()
            }
            Course::Again | Course::InOrder => {
                self.disconnected();
                self.status = Status::Waiting(refused);
                self.reopen = true;
                Vec::new()
            }
            Course::TakeOut | Course::End => self.end(refused),
        }
    }

    /// True if the shard asks again for what it has acknowledged: it has gone back without telling.
    fn has_forgotten(&self, refused: &Refused) -> bool {
        refused.reason == ErrorReason::NotCaughtUp
            && refused
                .detail("expected")
                .and_then(|expected| expected.parse::<u64>().ok())
                .is_some_and(|expected| expected <= self.acknowledged)
    }

    /// Removes a batch that will never be applied, and marks the barriers behind it.
    fn take_out(&mut self, ticket: u64, seq: Option<u64>) {
        let Some(Pending { what: What::Write { write, .. }, .. }) = self.pending.remove(&ticket) else { return };
        let Some(seq) = seq else { return };
        self.taken_out = Some(self.taken_out.map_or(seq, |lowest| lowest.min(seq)));
        if !write.has_effect() {
            return;
        }
        for (_, later) in self.pending.range_mut(ticket..) {
            if let What::Write { write, withdrawn, .. } = &mut later.what {
                *withdrawn |= write.barrier.is_some();
            }
        }
    }

    /// Ends the disorder after a refusal once no later write is in flight: everything that was not applied
    /// is then known, may be numbered anew and is sent again.
    fn settle(&mut self) -> Vec<Completion> {
        let unsettled = self.refused_from.is_some_and(|from| self.writes_in_flight.range(from..).next().is_some());
        if unsettled || self.status == Status::Opening {
            return Vec::new();
        }
        self.refused_from = None;
        let Some(taken_out) = self.taken_out.take() else { return Vec::new() };
        let mut completions = Vec::new();
        let (pending, unsent) = (&mut self.pending, &mut self.unsent);
        pending.retain(|ticket, pending| {
            let withdrawn = matches!(pending.what, What::Write { withdrawn: true, .. });
            if withdrawn {
                unsent.remove(ticket);
                completions.push(Completion { ticket: *ticket, outcome: Outcome::Withdrawn });
            }
            !withdrawn
        });
        self.last_seq = taken_out - 1;
        for (ticket, pending) in pending.iter_mut() {
            match &mut pending.what {
                What::Write { seq, .. } if *seq > taken_out => {
                    self.last_seq += 1;
                    *seq = self.last_seq;
                }
                What::Write { .. } => {}
                What::Read { after, .. } if *after >= taken_out => {
                    *after = self.last_seq;
                    // One in flight waits for a number that may never come; its answer is ignored.
                    if let Some(batch) = pending.batch.take() {
                        self.in_flight.remove(&batch);
                        self.in_flight_bytes -= pending.bytes;
                        unsent.insert(*ticket);
                    }
                }
                What::Read { .. } => {}
            }
        }
        completions
    }

    /// Goes on after waiting. A lane whose OpenLane was refused asks to be attached again.
    pub fn retry(&mut self) {
        if matches!(self.status, Status::Waiting(_)) {
            self.status = if self.reopen { Status::Detached } else { Status::Open };
            self.reopen = false;
        }
    }

    /// Takes note that the stream is gone: nothing is in flight any more, and everything will be sent again.
    pub fn disconnected(&mut self) {
        for (_, ticket) in std::mem::take(&mut self.in_flight) {
            if let Some(pending) = self.pending.get_mut(&ticket) {
                pending.batch = None;
                self.unsent.insert(ticket);
            }
        }
        self.in_flight_bytes = 0;
        self.writes_in_flight.clear();
        self.reopen = false;
        if !matches!(self.status, Status::Ended(_)) {
            self.status = Status::Detached;
        }
    }

    /// Ends the lane: completes every pending batch, and everything that is added later is completed by
    /// [`Lane::settle_if_ended`]. The first reason stays.
    pub fn end(&mut self, reason: Refused) -> Vec<Completion> {
        self.disconnected();
        self.unsent.clear();
        if !matches!(self.status, Status::Ended(_)) {
            self.status = Status::Ended(reason.clone());
        }
        let pending = std::mem::take(&mut self.pending).into_keys();
        pending.map(|ticket| Completion { ticket, outcome: Outcome::Ended(reason.clone()) }).collect()
    }

    /// Takes a batch out of flight and returns its ticket.
    fn landed(&mut self, batch: u64) -> Option<u64> {
        let ticket = self.in_flight.remove(&batch)?;
        let pending = self.pending.get_mut(&ticket)?;
        pending.batch = None;
        self.in_flight_bytes -= pending.bytes;
        if let What::Write { seq, .. } = &pending.what {
            self.writes_in_flight.remove(seq);
        }
        Some(ticket)
    }
}

fn ops_bytes(ops: Option<&v1::PackedOps>) -> usize {
    // A column entry takes about a byte; twelve are an operation's kind, lengths and what surrounds them.
    64 + ops.map_or(0, |ops| ops.arena.len() + 12 * ops.kinds.len())
}
