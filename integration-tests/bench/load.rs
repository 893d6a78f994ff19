//! What a measurement works with, and what each target must hold.

use std::time::Duration;

use forebay_integration_tests::bench::data::{Data, Ledger, Random};

use crate::plan::Op;

/// Appends of one measurement at most, so that lists fit into memory.
pub const APPENDS_MAX: u64 = 400_000;

/// What one target must hold.
pub struct Books {
    pub values: Ledger,
    pub lists: Ledger,
}

impl Books {
    pub fn new(keys: u32) -> Self {
        Self { values: Ledger::new(keys), lists: Ledger::new(keys) }
    }

    /// The ledger that an operation is noted in.
    pub fn of(&mut self, op: Op) -> &mut Ledger {
        match op {
            Op::Put | Op::Get | Op::Mixed => &mut self.values,
            Op::Append => &mut self.lists,
        }
    }
}

/// What one measurement works with.
pub struct Load<'a> {
    pub data: &'a Data,
    pub books: &'a mut Books,
    pub random: &'a mut Random,
    /// How long it is measured.
    pub duration: Duration,
}
