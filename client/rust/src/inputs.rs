//! Barriers that come with the records: what a worker with several inputs does with them. Pure.
//!
//! The coordinator sends barriers to the workers of sources; they pass them on in their streams of records
//! ([`Hooks::forward`](crate::Hooks::forward)), and so does every worker behind them. What a checkpoint then holds is
//! settled by how barriers and records are ordered here (Flink: CheckpointBarrierHandler):
//!
//! | barrier | records of an input whose barrier has come | the cut is taken |
//! |---|---|---|
//! | exactly once | wait | when all barriers have come |
//! | at least once | go on, and count again after a restore | when all barriers have come |
//! | unaligned | go on | when the first barrier comes: it overtakes all records that wait here |
//!
//! Records that an unaligned barrier has overtaken, and those that come before the barriers of the other inputs, are
//! in flight: their effects are not in the cut, and nobody sends them again. They are worker state.
//!
//! One barrier is waited for at a time. A later one that overtakes it on some input gives it up: an aligned one never is
//! overtaken, one of the others is if its inputs are further apart than two checkpoints on their way.

use std::collections::VecDeque;

use bytes::Bytes;
use forebay_proto::{
    reason::Refused,
    v1::{self, CheckpointMode, ErrorReason},
};
use prost::Message as _;

use crate::error::Result;

/// A barrier as it travels from worker to worker, in the stream of records itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Barrier(pub(crate) v1::Barrier);

impl Barrier {
    /// The checkpoint.
    pub fn checkpoint(&self) -> u64 {
        self.0.checkpoint
    }

    /// Encodes it, to be sent between records.
    pub fn to_bytes(&self) -> Bytes {
        self.0.encode_to_vec().into()
    }

    /// Decodes it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let malformed = |error| Refused::new(ErrorReason::Malformed, format!("these bytes are no barrier: {error}"));
        Ok(Self(v1::Barrier::decode(bytes).map_err(malformed)?))
    }

    fn aligns(&self) -> bool {
        !self.0.unaligned && self.0.mode() != CheckpointMode::AtLeastOnce
    }
}

/// What comes in.
#[derive(Debug, Clone, PartialEq)]
pub enum Item<R> {
    /// A record.
    Record(R),
    /// A barrier: what came before it is in the checkpoint.
    Barrier(Barrier),
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq)]
pub enum Next<R> {
    /// Process a record of this input.
    Record(usize, R),
    /// Take the cut ([`Worker::cut`](crate::Worker::cut)), and send the barrier on.
    Cut(Barrier),
    /// The barrier has come on all inputs: report ([`Worker::report`](crate::Worker::report)), with the records that
    /// were in flight.
    Passed(Barrier, Vec<R>),
    /// A later barrier has come before this one had on all inputs: decline
    /// ([`Worker::decline`](crate::Worker::decline)).
    Abandoned(Barrier),
}

/// The inputs of a worker.
#[derive(Debug)]
pub struct Inputs<R> {
    inputs: Vec<Input<R>>,
    ready: VecDeque<Next<R>>,
    pending: Option<Pending<R>>,
    /// The last checkpoint whose barrier has come on all inputs, or was given up.
    last: u64,
}

#[derive(Debug)]
struct Input<R> {
    /// What waits behind its barrier.
    held: VecDeque<Item<R>>,
    /// True once nothing comes any more: no barrier is waited for.
    ended: bool,
}

/// A barrier that has not come on all inputs.
#[derive(Debug)]
struct Pending<R> {
    barrier: Barrier,
    arrived: Vec<bool>,
    in_flight: Vec<R>,
}

impl<R: Clone> Inputs<R> {
    /// So many inputs, numbered from 0.
    pub fn new(count: usize) -> Self {
        let input = || Input { held: VecDeque::new(), ended: false };
        Self { inputs: (0..count).map(|_| input()).collect(), ready: VecDeque::new(), pending: None, last: 0 }
    }

    /// Takes what an input has brought.
    ///
    /// # Panics
    /// If there is no such input.
    pub fn arrived(&mut self, input: usize, item: Item<R>) {
        if self.is_blocked(input) {
            return self.inputs[input].held.push_back(item);
        }
        match item {
            Item::Record(record) => {
                let overtaken = |pending: &&mut Pending<R>| pending.barrier.0.unaligned && !pending.arrived[input];
                if let Some(pending) = self.pending.as_mut().filter(overtaken) {
                    pending.in_flight.push(record.clone());
                }
                self.ready.push_back(Next::Record(input, record));
            }
            Item::Barrier(barrier) => self.barrier(input, barrier),
        }
    }

    /// Takes note that an input has come to its end.
    ///
    /// # Panics
    /// If there is no such input.
    pub fn ended(&mut self, input: usize) {
        self.inputs[input].ended = true;
        self.pass();
    }

    /// True if an input had better not be read: what it brings waits for the barriers of the others.
    ///
    /// # Panics
    /// If there is no such input.
    pub fn is_blocked(&self, input: usize) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.arrived[input] && pending.barrier.aligns())
    }

    /// What is to be done next; `None` until something comes.
    pub fn pop(&mut self) -> Option<Next<R>> {
        self.ready.pop_front()
    }

    fn barrier(&mut self, input: usize, barrier: Barrier) {
        let checkpoint = barrier.checkpoint();
        while self.pending.as_ref().is_some_and(|pending| pending.barrier.checkpoint() < checkpoint) {
            self.abandon();
        }
        if self.pending.is_none() && checkpoint > self.last {
            self.begin(barrier);
        }
        // Any other one is of a checkpoint that was given up.
        if let Some(pending) = self.pending.as_mut().filter(|pending| pending.barrier.checkpoint() == checkpoint) {
            pending.arrived[input] = true;
            self.pass();
        }
    }

    fn begin(&mut self, barrier: Barrier) {
        let mut in_flight = Vec::new();
        if barrier.0.unaligned {
            let at = self.behind_barriers();
            in_flight.extend(self.ready.range(at..).filter_map(|next| match next {
                Next::Record(_, record) => Some(record.clone()),
                _ => None,
            }));
            self.ready.insert(at, Next::Cut(barrier.clone()));
        }
        self.pending = Some(Pending { barrier, arrived: vec![false; self.inputs.len()], in_flight });
    }

    /// Ends the pending barrier if it has come on all inputs.
    fn pass(&mut self) {
        let all = |pending: &mut Pending<R>| {
            pending.arrived.iter().zip(&self.inputs).all(|(arrived, input)| *arrived || input.ended)
        };
        let Some(Pending { barrier, in_flight, .. }) = self.pending.take_if(all) else { return };
        self.last = barrier.checkpoint();
        if barrier.0.unaligned {
            // A report is waited for: it need not wait for the records.
            let at = self.behind_barriers();
            self.ready.insert(at, Next::Passed(barrier, in_flight));
        } else {
            self.ready.push_back(Next::Cut(barrier.clone()));
            self.ready.push_back(Next::Passed(barrier, in_flight));
        }
        self.release();
    }

    fn abandon(&mut self) {
        if let Some(pending) = self.pending.take() {
            self.last = pending.barrier.checkpoint();
            self.ready.push_back(Next::Abandoned(pending.barrier));
            self.release();
        }
    }

    /// Lets in what has waited. The next barrier may be among it.
    fn release(&mut self) {
        for input in 0..self.inputs.len() {
            for item in std::mem::take(&mut self.inputs[input].held) {
                self.arrived(input, item);
            }
        }
    }

    /// Where a barrier comes that overtakes records, but no other barrier.
    fn behind_barriers(&self) -> usize {
        self.ready.iter().rposition(|next| !matches!(next, Next::Record(..))).map_or(0, |at| at + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn barrier(checkpoint: u64, unaligned: bool, mode: CheckpointMode) -> Barrier {
        Barrier(v1::Barrier { checkpoint, unaligned, mode: mode.into(), ..v1::Barrier::default() })
    }

    fn aligned(checkpoint: u64) -> Item<u32> {
        Item::Barrier(barrier(checkpoint, false, CheckpointMode::ExactlyOnce))
    }

    fn unaligned(checkpoint: u64) -> Item<u32> {
        Item::Barrier(barrier(checkpoint, true, CheckpointMode::ExactlyOnce))
    }

    /// Records by number, `c7` for a cut, `p7` and what was in flight for one that has passed, `a7` for one given up.
    fn all(inputs: &mut Inputs<u32>) -> Vec<String> {
        std::iter::from_fn(|| inputs.pop())
            .map(|next| match next {
                Next::Record(_, record) => record.to_string(),
                Next::Cut(barrier) => format!("c{}", barrier.checkpoint()),
                Next::Passed(barrier, in_flight) if in_flight.is_empty() => format!("p{}", barrier.checkpoint()),
                Next::Passed(barrier, in_flight) => format!("p{} {in_flight:?}", barrier.checkpoint()),
                Next::Abandoned(barrier) => format!("a{}", barrier.checkpoint()),
            })
            .collect()
    }

    fn records(inputs: &mut Inputs<u32>, records: &[(usize, u32)]) {
        for (input, record) in records {
            inputs.arrived(*input, Item::Record(*record));
        }
    }

    #[test]
    fn an_aligned_barrier_holds_back_what_comes_behind_it_until_the_others_have_come() {
        let mut inputs = Inputs::new(2);
        records(&mut inputs, &[(0, 1), (1, 2)]);
        inputs.arrived(0, aligned(7));
        assert!(inputs.is_blocked(0) && !inputs.is_blocked(1));
        records(&mut inputs, &[(0, 3), (1, 4)]);
        assert_eq!(all(&mut inputs), ["1", "2", "4"]);
        inputs.arrived(1, aligned(7));
        records(&mut inputs, &[(1, 5)]);
        assert_eq!(all(&mut inputs), ["c7", "p7", "3", "5"]);
        assert!(!inputs.is_blocked(0));
    }

    #[test]
    fn an_at_least_once_barrier_holds_nothing_back() {
        let mut inputs = Inputs::new(2);
        let barrier = || Item::Barrier(barrier(7, false, CheckpointMode::AtLeastOnce));
        inputs.arrived(0, barrier());
        assert!(!inputs.is_blocked(0));
        records(&mut inputs, &[(0, 1), (1, 2)]);
        inputs.arrived(1, barrier());
        records(&mut inputs, &[(1, 3)]);
        assert_eq!(all(&mut inputs), ["1", "2", "c7", "p7", "3"]);
    }

    #[test]
    fn an_unaligned_barrier_overtakes_what_waits_and_what_comes_before_the_others_is_in_flight() {
        let mut inputs = Inputs::new(2);
        records(&mut inputs, &[(0, 1), (1, 2)]);
        assert_eq!(inputs.pop(), Some(Next::Record(0, 1)), "that has its effects in the cut");
        records(&mut inputs, &[(0, 3)]);
        inputs.arrived(0, unaligned(7));
        records(&mut inputs, &[(0, 4), (1, 5)]);
        assert_eq!(all(&mut inputs), ["c7", "2", "3", "4", "5"], "4 came behind its barrier");
        records(&mut inputs, &[(1, 6), (0, 8)]);
        inputs.arrived(1, unaligned(7));
        records(&mut inputs, &[(1, 9)]);
        assert_eq!(all(&mut inputs), ["p7 [2, 3, 5, 6]", "6", "8", "9"]);
    }

    #[test]
    fn a_later_barrier_gives_up_the_one_before_it_and_lets_in_what_waited() {
        let mut inputs = Inputs::new(2);
        inputs.arrived(0, aligned(7));
        records(&mut inputs, &[(0, 1)]);
        inputs.arrived(0, aligned(8));
        records(&mut inputs, &[(0, 2), (1, 3)]);
        // The other input never saw 7.
        inputs.arrived(1, aligned(8));
        assert_eq!(all(&mut inputs), ["3", "a7", "1", "c8", "p8", "2"]);
        // It comes all the same, too late.
        inputs.arrived(1, aligned(7));
        records(&mut inputs, &[(1, 4)]);
        assert_eq!(all(&mut inputs), ["4"]);
    }

    #[test]
    fn an_input_that_has_ended_is_not_waited_for() {
        let mut inputs = Inputs::new(3);
        inputs.ended(2);
        inputs.arrived(0, aligned(7));
        records(&mut inputs, &[(0, 1)]);
        inputs.ended(1);
        assert_eq!(all(&mut inputs), ["c7", "p7", "1"]);
        let mut alone = Inputs::new(1);
        alone.arrived(0, unaligned(7));
        assert_eq!(all(&mut alone), ["c7", "p7"]);
    }

    #[test]
    fn a_barrier_is_what_it_was_behind_the_wire() {
        let sent = barrier(7, true, CheckpointMode::ExactlyOnce);
        assert_eq!(Barrier::from_bytes(&sent.to_bytes()).unwrap(), sent);
        assert!(Barrier::from_bytes(b"\xff").is_err());
    }
}
