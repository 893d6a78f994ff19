//! Deliberate faults, to prove that the simulation would find them. Compiled in by the cargo feature
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
}

impl Bug {
    /// All faults.
    pub const ALL: [Self; 4] = [
        Self::MarkOutsideTheWrite,
        Self::DuplicateBeforeDurable,
        Self::BarrierAheadOfRefusedBatch,
        Self::PartialRewind,
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
