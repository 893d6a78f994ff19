//! What the operations mean, in maps and lists: no rows, no headers, no clean-up. Expired things stay where
//! they are and are looked past; the real shard must be indistinguishable whenever it removes them.

mod generate;
mod read;
mod states;
mod write;

use std::collections::BTreeMap;

use forebay_integration_tests::conformance::{OwnedOp, START_MS, Times};
use forebay_proto::v1::TtlClock;

pub use read::Answer;
pub use states::{STATES, Spec};

/// Something stored, with the times it was stored with.
#[derive(Clone, Default)]
struct Item {
    payload: Vec<u8>,
    write_ms: i64,
    deadline_ms: Option<i64>,
    version: u64,
}

/// What stands at an address; which part is used depends on the state's kind.
#[derive(Clone, Default)]
struct Cell {
    /// A value or an accumulator.
    one: Option<Item>,
    list: Vec<Item>,
    map: BTreeMap<Vec<u8>, Item>,
    lists: BTreeMap<Vec<u8>, Vec<Item>>,
}

/// State id, then key and namespace, or the key group.
type Place = (u32, Vec<u8>, Vec<u8>);

/// What a restore brings back.
#[derive(Clone, Default)]
struct Stored {
    cells: BTreeMap<Place, Cell>,
    watermark_ms: Option<i64>,
    writes: u64,
}

/// The shard as it should be.
#[derive(Clone)]
pub struct Model {
    stored: Stored,
    saved: Option<Box<Stored>>,
    processing_ms: i64,
    writer_ms: i64,
    ttls: Vec<Option<i64>>,
    /// The states that the operations are on.
    focus: Vec<u32>,
    /// Verdicts of the lane's batches that may be sent again.
    pub sent: Vec<Vec<Option<bool>>>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Model")
    }
}

/// What happens next.
#[derive(Clone, Debug)]
pub enum Step {
    /// A write batch.
    Write(Vec<OwnedOp>),
    /// A read batch.
    Read(Vec<OwnedOp>),
    /// The processing clock goes on.
    Advance(i64),
    /// The writer's own clock goes on.
    WriterAdvance(i64),
    /// A write batch that is nothing but a watermark.
    Watermark(i64),
    /// Everything is compacted.
    Compact,
    /// What has expired is cleaned up.
    CleanUp,
    /// A write batch is sent again, so many before the last.
    Resend(usize),
    /// The last number is used for another content, and one is left out.
    WrongNumbers,
    /// A snapshot is taken.
    Snapshot,
    /// The shard goes back to the snapshot.
    Restore,
    /// The shard is closed and opened again.
    Reopen,
    /// A state has another TTL from now on.
    Ttl(u32, Option<i64>),
}

impl Default for Model {
    fn default() -> Self {
        Self {
            stored: Stored::default(),
            saved: None,
            processing_ms: START_MS,
            writer_ms: 500,
            ttls: STATES.iter().map(|state| state.ttl_ms).collect(),
            focus: (1..).take(STATES.len()).collect(),
            sent: Vec::new(),
        }
    }
}

impl Model {
    /// Takes a step.
    pub fn step(&mut self, step: &Step) {
        match step {
            Step::Write(ops) => {
                let verdicts = ops.iter().map(|op| self.write(op)).collect();
                self.sent.push(verdicts);
            }
            Step::Watermark(watermark_ms) => {
                self.stored.watermark_ms = self.stored.watermark_ms.max(Some(*watermark_ms));
                self.sent.push(Vec::new());
            }
            Step::Advance(ms) => self.processing_ms += ms,
            Step::WriterAdvance(ms) => self.writer_ms += ms,
            Step::Snapshot => self.saved = Some(Box::new(self.stored.clone())),
            Step::Restore => {
                self.stored = self.saved.as_deref().cloned().unwrap_or_default();
                self.sent.clear();
            }
            // Its empty batches stand between those before and those to come.
            Step::CleanUp => self.sent.clear(),
            Step::Ttl(id, ttl_ms) => self.ttls[*id as usize - 1] = *ttl_ms,
            Step::Read(_) | Step::Compact | Step::Resend(_) | Step::WrongNumbers | Step::Reopen => {}
        }
    }

    /// True if the step can be taken.
    pub fn can(&self, step: &Step) -> bool {
        match step {
            Step::Resend(back) => *back < self.sent.len(),
            Step::WrongNumbers => !self.sent.is_empty(),
            Step::Restore => self.saved.is_some(),
            _ => true,
        }
    }

    /// The times that a batch brings along now.
    pub fn times(&self) -> Times {
        Times { now_ms: self.writer_ms, watermark_ms: None }
    }

    /// A state's TTL as it is registered now.
    pub fn ttl_ms(&self, id: u32) -> Option<i64> {
        self.ttls[id as usize - 1]
    }

    /// Living rows of a state.
    pub fn rows(&self, id: u32) -> usize {
        let cells = self.stored.cells.iter().filter(|((state, ..), _)| *state == id).map(|(_, cell)| cell);
        let items = cells.flat_map(|cell| {
            cell.one.iter().chain(&cell.list).chain(cell.map.values()).chain(cell.lists.values().flatten())
        });
        items.filter(|item| self.alive(id, item)).count()
    }

    fn now_ms(&self, id: u32) -> Option<i64> {
        match Spec::of(id).clock {
            TtlClock::Event => self.stored.watermark_ms,
            TtlClock::Writer => Some(self.writer_ms),
            TtlClock::Unspecified | TtlClock::Processing => Some(self.processing_ms),
        }
    }

    fn alive(&self, id: u32, item: &Item) -> bool {
        !matches!((item.deadline_ms, self.now_ms(id)), (Some(deadline_ms), Some(now_ms)) if deadline_ms <= now_ms)
    }

    fn place(op: &OwnedOp) -> Place {
        match op.key_group {
            Some(group) => (op.state_id, group.to_be_bytes().to_vec(), Vec::new()),
            None => (op.state_id, op.key.clone(), op.namespace.clone()),
        }
    }
}
