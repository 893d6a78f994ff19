//! What may go wrong. Each seed has its own mix, so that no fault always hides another.

use std::collections::BTreeMap;

use super::rng::Rng;

/// Of so many moments at which a fault hurts most, one has one.
const MOMENTS: u64 = 8;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A worker's process dies.
    WorkerCrash,
    /// A worker's process stands still, often beyond its lease.
    WorkerPause,
    /// A worker leaves its group, and comes back later.
    WorkerLeave,
    /// A worker waits for a checkpoint of all that it did, leaves its group, and comes back later.
    WorkerFinish,
    /// A server's process dies and comes back with its disk.
    ServerCrash,
    /// A server's process dies and its disk is deleted.
    ServerLost,
    /// A server's process dies in a write call: before it, or right behind it.
    WriteCrash,
    /// A server's process stands still.
    ServerPause,
    /// The coordinator's process dies.
    CoordinatorCrash,
    /// A shard is to go to another server.
    Move,
    /// Another coordinator takes office while the first one still runs.
    CoordinatorRival,
    /// A connection breaks.
    Break,
    /// Two nodes cannot reach each other for a while.
    Part,
    /// A connection delivers nothing for a while.
    Stall,
    /// Some write calls find a server's disk full.
    DiskFull,
    /// A batch is refused for good.
    BatchRefused,
    /// The answer to a conditional write is lost.
    PutAnswerLost,
    /// A conditional write is lost.
    PutRequestLost,
    /// A conditional write lands late.
    PutLate,
    /// The object store is away.
    StoreDown,
    /// Wall clocks jump.
    ClockJump,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 21] = [
        Self::Move,
        Self::WorkerCrash,
        Self::WorkerPause,
        Self::WorkerLeave,
        Self::WorkerFinish,
        Self::ServerCrash,
        Self::ServerLost,
        Self::WriteCrash,
        Self::ServerPause,
        Self::CoordinatorCrash,
        Self::CoordinatorRival,
        Self::Break,
        Self::Part,
        Self::Stall,
        Self::DiskFull,
        Self::BatchRefused,
        Self::PutAnswerLost,
        Self::PutRequestLost,
        Self::PutLate,
        Self::StoreDown,
        Self::ClockJump,
    ];

    /// Its name among what was hit.
    pub fn name(self) -> String {
        format!("{self:?}")
    }
}

/// A moment at which faults hurt most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// A worker flushes and sends barriers.
    Barrier,
    /// A shard was frozen.
    Frozen,
    /// The head is written.
    HeadWrite,
    /// A manifest is written.
    Manifest,
    /// A worker is told what it holds.
    Assignment,
    /// A server is told of a shard that comes from another one.
    Arrival,
}

impl Moment {
    fn hurt_by(self) -> &'static [Kind] {
        use Kind as K;
        match self {
            Self::Barrier => &[K::DiskFull, K::WriteCrash, K::BatchRefused, K::Break, K::WorkerCrash, K::WorkerPause],
            Self::Frozen => &[K::ServerCrash, K::ServerLost, K::StoreDown, K::Part],
            Self::HeadWrite => {
                &[K::CoordinatorCrash, K::CoordinatorRival, K::PutAnswerLost, K::PutLate, K::PutRequestLost]
            }
            Self::Manifest => &[K::CoordinatorCrash, K::StoreDown, K::ServerLost, K::WorkerLeave],
            Self::Arrival => {
                &[K::WorkerLeave, K::WorkerCrash, K::ServerLost, K::ServerCrash, K::CoordinatorRival, K::StoreDown]
            }
            Self::Assignment => &[K::WorkerPause, K::WorkerCrash, K::ServerCrash, K::ServerLost, K::CoordinatorCrash],
        }
    }
}

/// What may go wrong in a world, and what did.
#[derive(Debug, Default)]
pub struct Faults {
    /// True until everything heals.
    pub active: bool,
    enabled: Vec<Kind>,
    hits: BTreeMap<String, u64>,
    moments: Vec<Moment>,
    batches_refused: u32,
}

impl Faults {
    /// Chooses the mix of a seed, out of these kinds.
    pub fn choose(rng: &mut Rng, kinds: &[Kind]) -> Self {
        let mut enabled = kinds.to_vec();
        let count = match rng.below(4) {
            0 => enabled.len(),
            1 => enabled.len().div_ceil(2),
            _ => 1 + rng.index(3),
        };
        while enabled.len() > count {
            enabled.swap_remove(rng.index(enabled.len()));
        }
        Self { active: true, enabled, ..Self::default() }
    }

    /// Chooses what goes wrong now.
    pub fn next(&self, rng: &mut Rng) -> Option<Kind> {
        rng.pick(&self.enabled).filter(|_| self.active)
    }

    /// True if this kind may strike now.
    pub fn may(&self, kind: Kind) -> bool {
        self.active && self.enabled.contains(&kind)
    }

    /// Chooses what goes wrong at a moment, if anything does.
    pub fn next_at(&self, moment: Moment, rng: &mut Rng) -> Option<Kind> {
        let hurts: Vec<_> = self.enabled.iter().copied().filter(|kind| moment.hurt_by().contains(kind)).collect();
        rng.pick(&hurts).filter(|_| rng.one_in(MOMENTS))
    }

    /// Takes note of a moment.
    pub fn moment(&mut self, moment: Moment) {
        if self.active {
            self.moments.push(moment);
        }
    }

    /// Hands out the moments since the last call.
    pub fn take_moments(&mut self) -> Vec<Moment> {
        std::mem::take(&mut self.moments)
    }

    /// Lets the next batch be refused for good.
    pub fn refuse_batch(&mut self) {
        self.batches_refused = 1;
    }

    /// True if a batch is to be refused for good.
    pub fn take_refusal(&mut self) -> bool {
        let refuse = std::mem::take(&mut self.batches_refused) > 0 && self.active;
        if refuse {
            self.hit(&Kind::BatchRefused.name());
        }
        refuse
    }

    /// Counts something that was hit.
    pub fn hit(&mut self, what: &str) {
        *self.hits.entry(what.to_owned()).or_default() += 1;
    }

    /// What was hit, and how often.
    pub fn hits(&self) -> &BTreeMap<String, u64> {
        &self.hits
    }
}
