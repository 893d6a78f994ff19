//! Which batches of a lane are in a completed checkpoint: what a writer that must survive the loss of
//! the disk waits for. Pure.

use std::collections::{BTreeMap, HashMap};

use super::lanes::LaneId;

/// Marks of lanes, as snapshots froze them and checkpoints completed them.
#[derive(Debug, Default)]
pub struct Durable {
    frozen: BTreeMap<u64, HashMap<LaneId, u64>>,
    completed: HashMap<LaneId, u64>,
    checkpoint: u64,
}

impl Durable {
    /// Takes note of the marks that a snapshot of a checkpoint froze.
    pub fn frozen(&mut self, checkpoint: u64, marks: impl IntoIterator<Item = (LaneId, u64)>) {
        self.frozen.insert(checkpoint, marks.into_iter().collect());
    }

    /// Takes note that a checkpoint is complete; snapshots of earlier ones are of no use any more.
    pub fn completed(&mut self, checkpoint: u64) {
        let later = self.frozen.split_off(&(checkpoint + 1));
        if let Some(marks) = self.frozen.remove(&checkpoint) {
            self.completed = marks;
            self.checkpoint = checkpoint;
        }
        self.frozen = later;
    }

    /// The highest batch of a lane that is in a completed checkpoint; 0 for none.
    pub fn mark(&self, lane: LaneId) -> u64 {
        self.completed.get(&lane).copied().unwrap_or(0)
    }

    /// The last completed checkpoint that this shard took part in; 0 for none since it was opened.
    pub fn checkpoint(&self) -> u64 {
        self.checkpoint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: LaneId = LaneId([1; 16]);

    #[test]
    fn only_a_completed_checkpoint_makes_its_marks_durable() {
        let mut durable = Durable::default();
        durable.frozen(1, [(LANE, 10)]);
        durable.frozen(2, [(LANE, 20)]);
        assert_eq!(durable.mark(LANE), 0);
        durable.completed(1);
        assert_eq!((durable.mark(LANE), durable.checkpoint()), (10, 1));
        durable.completed(2);
        assert_eq!((durable.mark(LANE), durable.mark(LaneId([2; 16]))), (20, 0));
    }

    #[test]
    fn an_aborted_checkpoint_never_counts() {
        let mut durable = Durable::default();
        durable.frozen(1, [(LANE, 10)]);
        durable.frozen(2, [(LANE, 20)]);
        durable.completed(2);
        durable.completed(1);
        assert_eq!(durable.mark(LANE), 20);
        durable.completed(3);
        assert_eq!(durable.mark(LANE), 20, "a checkpoint that this shard was not in changes nothing");
    }
}
