//! Deliberate faults, to prove that the simulation and the tests of the state model would find them. Compiled in by the cargo feature
//! `seeded-bugs` only; the fault is chosen at run time.

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// The lane's mark is written behind the data instead of with it.
    MarkOutsideTheWrite = 1,
    /// A lane's mark counts before its batch is stored, so a resend is answered too early.
    DuplicateBeforeDurable = 2,
    /// A barrier is accepted though a batch before it was refused.
    BarrierAheadOfRefusedBatch = 3,
    /// A rewind takes back the lost shards only.
    PartialRewind = 4,
    /// Elements appended together come in the opposite order.
    ListOrderSwapped = 5,
    /// A restore forgets the watermark, so what had expired by it is back.
    ExpiredBackByRestore = 6,
    /// A range of a map has its end, too.
    MapRangeOffByOne = 7,
    /// The elements of a sorted set come twice: a timer fires twice.
    TimerTwice = 8,
    /// Accumulators of namespaces are merged the wrong way round.
    MergeSwapped = 9,
    /// A merged accumulator is added as if it were an operand, so that merging is not associative.
    MergeNotAssociative = 10,
    /// A duplicate is told no verdicts.
    VerdictLost = 11,
    /// A clear of a list leaves what its own batch wrote before.
    ClearBlindToBatch = 12,
    /// A shard tells the source positions that it had when it was opened.
    StalePositions = 13,
    /// Whoever keeps a part of its shards goes on under its old epochs there.
    ShareKeepsEpochs = 14,
    /// A shard that leaves its server is served there until the other one has it.
    ServesWhileItLeaves = 15,
    /// A shard that goes back while it arrives on another server is made of what its former server held.
    RewindKeepsHandover = 16,
    /// Leases that change at a stop go on from the worker state of an earlier checkpoint.
    StopForgetsItsCheckpoint = 17,
    /// Election: a coordinator does not wait for the leader's lease.
    TakesOfficeAtOnce = 30,
    /// Election: a coordinator takes office though it has promised not to.
    PromiseBroken = 31,
    /// Election: the leader is content with the promise of one, if several could follow.
    AnyPromiseWillDo = 32,
    /// Election: a renewal that is answered late takes an office up again that had ended.
    OfficeTakenUpAgain = 34,
    /// Election: what a leader says behind its mandate counts.
    SpeaksBehindItsMandate = 33,
    /// Garbage: an object goes though a round that had begun may come to name it.
    CollectsInReach = 40,
    /// Garbage: an object goes whatever its age.
    CollectsYoung = 41,
    /// Garbage: a round that names what is being deleted completes.
    CommitsCondemned = 42,
    /// Garbage: an object is deleted before the head names the tombstone.
    CollectsUnannounced = 43,
    /// Garbage: what is pinned goes.
    CollectsPinned = 44,
    /// Garbage: a manifest that cannot be read is left out.
    CollectsBlind = 45,
}

impl Bug {
    /// The faults that the simulation finds.
    pub const ALL: [Self; 10] = [
        Self::StopForgetsItsCheckpoint,
        Self::ServesWhileItLeaves,
        Self::RewindKeepsHandover,
        Self::MarkOutsideTheWrite,
        Self::DuplicateBeforeDurable,
        Self::BarrierAheadOfRefusedBatch,
        Self::PartialRewind,
        Self::StalePositions,
        Self::ShareKeepsEpochs,
        Self::SpeaksBehindItsMandate,
    ];

    /// The faults that the tests of the state model find.
    pub const OF_STATE: [Self; 8] = [
        Self::ListOrderSwapped,
        Self::ExpiredBackByRestore,
        Self::MapRangeOffByOne,
        Self::TimerTwice,
        Self::MergeSwapped,
        Self::MergeNotAssociative,
        Self::VerdictLost,
        Self::ClearBlindToBatch,
    ];
}

#[cfg(feature = "seeded-bugs")]
mod chosen {
    use std::cell::Cell;

    thread_local! {
        pub(super) static BUG: Cell<u8> = const { Cell::new(0) };
    }

    /// Chooses the fault of this thread; `None` for none.
    pub fn choose(bug: Option<super::Bug>) {
        BUG.set(bug.map_or(0, |bug| bug as u8));
    }
}

#[cfg(feature = "seeded-bugs")]
pub use chosen::choose;

/// True if this fault is chosen.
#[cfg(feature = "seeded-bugs")]
pub fn is(bug: Bug) -> bool {
    chosen::BUG.get() == bug as u8
}

/// True if this fault is chosen; never, without the feature.
#[cfg(not(feature = "seeded-bugs"))]
#[inline(always)]
pub fn is(_: Bug) -> bool {
    false
}
