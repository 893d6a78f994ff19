//! Who watches: what must hold at every moment, whatever fails.

use std::collections::BTreeMap;

use forebay_proto::v1;
use forebay_server::shard::{
    core::{Batch, Order},
    gate::Caller,
    lanes::LaneId,
};

use super::{
    check,
    disk::Image,
    input::Input,
    server::{Place, place},
    store::Store,
};

/// A batch that a shard has done.
#[derive(Debug)]
pub struct Applied<'a> {
    /// The shard.
    pub entry: &'a v1::ShardEntry,
    /// Who asked.
    pub caller: Caller,
    /// The lane.
    pub lane: LaneId,
    /// The batch.
    pub batch: &'a Batch,
    /// True if it had been applied before.
    pub duplicate: bool,
    /// What is answered about the lane.
    pub progress: &'a v1::Progress,
}

/// The newest grants that anybody was told of.
#[derive(Debug, Default)]
struct Told {
    writer_epoch: u64,
    incarnation: u64,
}

/// The watcher.
pub struct Oracle {
    /// The input.
    pub input: Input,
    /// What was found wrong first.
    pub violation: Option<String>,
    /// True once a completed checkpoint holds the whole input.
    pub done: bool,
    /// Checkpoints that completed.
    pub checkpoints: u64,
    /// Write batches that were applied.
    pub applied: u64,
    /// True once a clock has jumped: lanes may have expired.
    pub clock_jumped: bool,
    told: BTreeMap<Place, Told>,
    told_generation: u64,
    acknowledged: BTreeMap<(Place, u64, Vec<u8>), u64>,
    /// The highest epochs in which shards took writes.
    epochs: BTreeMap<Place, u64>,
    /// Marks of lanes in completed checkpoints.
    durable: BTreeMap<Vec<u8>, u64>,
}

impl Oracle {
    /// Watches over this input.
    pub fn new(input: Input) -> Self {
        Self {
            input,
            violation: None,
            done: false,
            checkpoints: 0,
            applied: 0,
            clock_jumped: false,
            told: BTreeMap::new(),
            told_generation: 0,
            acknowledged: BTreeMap::new(),
            epochs: BTreeMap::new(),
            durable: BTreeMap::new(),
        }
    }

    /// Records that something is wrong.
    pub fn wrong(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    fn must(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.wrong(what());
        }
    }

    /// A head is in force from now on.
    pub fn head_written(&mut self, store: &Store, head: &v1::JobHead) {
        let before = &store.head;
        let last = |head: &v1::JobHead| head.completed.last().map_or(0, |completed| completed.id);
        let grew = |one: &v1::JobHead, other: &v1::JobHead| {
            one.generation <= other.generation
                && one.coordinator_epoch <= other.coordinator_epoch
                && one.next_checkpoint_id <= other.next_checkpoint_id
                && last(one) <= last(other)
        };
        self.must(grew(before, head), || format!("a head went back: {before:?} before {head:?}"));
        for entry in &before.shards {
            let next = head.shards.iter().find(|next| place(next) == place(entry));
            let grew = next.is_some_and(|next| {
                (entry.epoch, entry.incarnation, entry.writer_epoch)
                    <= (next.epoch, next.incarnation, next.writer_epoch)
                    && entry.epoch <= next.epoch
                    && entry.incarnation <= next.incarnation
                    && entry.writer_epoch <= next.writer_epoch
            });
            self.must(grew, || format!("a grant of shard {} went back: {entry:?} before {next:?}", entry.start));
        }
        for entry in &before.completed {
            let next = head.completed.iter().find(|next| next.id == entry.id);
            self.must(next.is_none_or(|next| next == entry), || format!("checkpoint {} changed", entry.id));
        }
        if let Some(entry) = head.completed.last().filter(|entry| entry.id > last(before)) {
            self.completed(store, entry);
        }
        let restored = head.restored_checkpoint;
        let known = restored == 0 || head.completed.iter().any(|entry| entry.id == restored);
        self.must(known, || format!("restored checkpoint {restored} is not in the head"));
    }

    /// An object is about to be deleted.
    pub fn deleted(&mut self, store: &Store, object: &str) {
        let needs = |entry: &v1::CompletedCheckpoint| {
            let manifest = store.manifests.get(&entry.manifest);
            let mut files = manifest.into_iter().flat_map(|manifest| &manifest.shards).flat_map(|shard| &shard.files);
            entry.manifest == object || files.any(|file| file.object == object)
        };
        let needing = store.head.completed.iter().find(|entry| needs(entry)).map(|entry| entry.id);
        self.must(needing.is_none(), || format!("{object} is deleted, checkpoint {needing:?} needs it"));
        self.must(object != "head" && object != store.head.tombstone, || format!("{object} is deleted"));
    }

    fn completed(&mut self, store: &Store, entry: &v1::CompletedCheckpoint) {
        self.checkpoints += 1;
        let Some(manifest) = store.manifests.get(&entry.manifest) else {
            return self.wrong(format!("checkpoint {} is complete and has no manifest", entry.id));
        };
        for lane in manifest.shards.iter().flat_map(|shard| &shard.lanes) {
            let mark = self.durable.entry(lane.id.to_vec()).or_default();
            *mark = lane.mark.max(*mark);
        }
        let kept = store.head.spec.as_ref().is_some_and(|spec| spec.recovery() == v1::Recovery::Shard);
        let checked = if kept {
            check::kept(manifest, store, &self.input)
        } else {
            check::checkpoint(manifest, store, &self.input)
        };
        match checked {
            Ok(positions) => self.done |= positions.values().all(|position| *position >= self.input.records),
            Err(what) => self.wrong(format!("checkpoint {}: {what}", entry.id)),
        }
    }

    /// A server is told what is wanted.
    pub fn told_server(&mut self, store: &Store, wanted: &v1::JobAssignment) {
        let (told, stored) = (wanted.version, store.head.version);
        self.must(told <= stored, || format!("a server is told version {told}, in force is {stored}"));
    }

    /// A worker is told something.
    pub fn told_worker(&mut self, store: &Store, message: &v1::join_response::Message) {
        use v1::join_response::Message;
        match message {
            Message::Completed(completed) => {
                let last = store.head.completed.last().map_or(0, |last| last.id);
                let id = completed.checkpoint;
                self.must(id <= last, || format!("checkpoint {id} is told as completed, the last one is {last}"));
            }
            Message::Assignment(assignment) => {
                let (told, stored) = (assignment.generation, store.head.generation);
                self.must(told <= stored, || format!("generation {told} is told, in force is {stored}"));
                self.told_generation = self.told_generation.max(told);
                for leased in &assignment.shards {
                    let route = leased.route.clone().unwrap_or_default();
                    let told = self.told.entry((route.operator, route.start, route.end)).or_default();
                    told.writer_epoch = told.writer_epoch.max(leased.writer_epoch);
                    told.incarnation = told.incarnation.max(route.incarnation);
                }
            }
            _ => {}
        }
    }

    /// A shard has done a batch.
    pub fn applied(&mut self, applied: &Applied<'_>) {
        let Applied { entry, caller, batch, .. } = applied;
        let (told, durable) = (applied.progress.checkpointed, self.durable.get(&applied.lane.0[..]).copied());
        self.must(told <= durable.unwrap_or(0), || {
            format!("batch {told} is told to be in a checkpoint, the completed ones hold {durable:?}")
        });
        if applied.duplicate || !matches!(batch.order, Order::Write(..)) {
            return;
        }
        self.applied += 1;
        let generation = self.told_generation;
        let of = caller.generation;
        self.must(of >= generation, || format!("a write of generation {of} was applied in {generation}"));
        let highest = self.epochs.entry(place(entry)).or_default();
        *highest = entry.epoch.max(*highest);
        let highest = *highest;
        self.must(entry.epoch == highest, || {
            format!("shard {}: epoch {} took a write after epoch {highest} did", entry.start, entry.epoch)
        });
        let Some(told) = self.told.get(&place(entry)) else { return };
        let (writer, incarnation) = (told.writer_epoch, told.incarnation);
        let start = entry.start;
        self.must(caller.writer_epoch >= writer, || {
            format!("shard {start}: writer {} wrote after {writer} was granted", caller.writer_epoch)
        });
        self.must(entry.incarnation >= incarnation, || {
            format!("shard {start}: incarnation {} took a write after {incarnation}", entry.incarnation)
        });
    }

    /// A worker has heard that a batch is applied, as durable as the job is.
    pub fn acknowledged(&mut self, place: Place, incarnation: u64, lane: &[u8], seq: u64) {
        let known = self.acknowledged.entry((place, incarnation, lane.to_vec())).or_default();
        *known = seq.max(*known);
    }

    /// A worker has closed a lane.
    pub fn lane_closed(&mut self, place: Place, incarnation: u64, lane: &[u8]) {
        self.acknowledged.remove(&(place, incarnation, lane.to_vec()));
    }

    /// A process has opened what an earlier one left on its disk.
    pub fn reopened(&mut self, entry: &v1::ShardEntry, image: &Image) {
        if self.clock_jumped {
            return;
        }
        let marks = image.marks();
        let of_shard = |key: &&(Place, u64, Vec<u8>)| key.0 == place(entry) && key.1 == entry.incarnation;
        let lanes = self.acknowledged.iter().filter(|(key, _)| of_shard(key));
        let lost =
            lanes.map(|((_, _, lane), seq)| (*seq, marks.get(lane).copied())).find(|(seq, mark)| Some(*seq) > *mark);
        if let Some((seq, mark)) = lost {
            self.wrong(format!("shard {}: batch {seq} was acknowledged, the disk has {mark:?}", entry.start));
        }
    }
}
