//! What the coordinator has said and the worker's loop has not attended to yet.
//!
//! Pure: messages in, decisions out. Invariant: a generation with the same grants is entered once; after
//! its session is lost, only a word that changes something leads on.

use std::collections::VecDeque;

use forebay_proto::{
    reason::Refused,
    v1::{self, ErrorReason},
};

use crate::error::Error;

/// The messages that wait, and what is known of the present generation.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// The newest assignment that was not taken.
    assignment: Option<v1::Assignment>,
    /// The barriers that were not taken, oldest first: rounds may overlap.
    barriers: VecDeque<v1::Barrier>,
    completed: VecDeque<u64>,
    last_completed: u64,
    /// What the worker holds by the assignment that was taken last.
    taken: Option<Grants>,
    ended: Option<Error>,
    /// Set while the worker stands still behind a barrier: its round and checkpoint.
    stop: Option<(String, u64)>,
    /// True once it has left, as it wanted.
    left: bool,
    /// True once a rewind was announced and until its assignment has come.
    pub(crate) rewinding: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Grants {
    generation: u64,
    /// Per shard: operator, start, end, writer epoch, incarnation.
    shards: Vec<(String, u32, u32, u64, u64)>,
}

impl Grants {
    fn of(assignment: &v1::Assignment) -> Self {
        let shard = |leased: &v1::LeasedShard| {
            let route = leased.route.clone().unwrap_or_default();
            (route.operator, route.start, route.end, leased.writer_epoch, route.incarnation)
        };
        let mut shards: Vec<_> = assignment.shards.iter().map(shard).collect();
        shards.sort();
        Self { generation: assignment.generation, shards }
    }
}

impl Inbox {
    /// Returns the generation that the worker is in; 0 before the first assignment.
    pub(crate) fn generation(&self) -> u64 {
        self.taken.as_ref().map_or(0, |taken| taken.generation)
    }

    /// Returns true if the coordinator has said that there is nothing to hold, or nothing at all yet.
    pub(crate) fn is_spare(&self) -> bool {
        self.taken.as_ref().is_none_or(|taken| taken.shards.is_empty())
    }

    /// Takes an assignment; returns why the present session ends, if it does.
    pub(crate) fn assigned(&mut self, assignment: v1::Assignment) -> Option<Error> {
        let grants = Grants::of(&assignment);
        let known = self.taken.as_ref();
        if known.is_some_and(|taken| *taken == grants || taken.generation > grants.generation) {
            return None;
        }
        let known = known.is_some() || self.assignment.is_some();
        if assignment.shards.is_empty() && !known {
            return None;
        }
        self.rewinding = false;
        self.ended = None;
        self.barriers.retain(|barrier| barrier.generation >= assignment.generation);
        let error = if self.generation() == assignment.generation {
            let cause = "its share of the shards changed".into();
            Error::Rewound { generation: 0, checkpoint: 0, cause }
        } else {
            let (generation, checkpoint) = (assignment.generation, assignment.restored_checkpoint);
            Error::Rewound { generation, checkpoint, cause: "a new assignment".into() }
        };
        if assignment.shards.is_empty() {
            // Others have its share now: it waits for another.
            (self.taken, self.assignment) = (Some(grants), None);
        } else {
            self.assignment = Some(assignment);
        }
        Some(error)
    }

    /// Takes the announcement of a rewind.
    pub(crate) fn rewinding(&mut self, rewinding: v1::Rewinding) -> Option<Error> {
        if rewinding.generation <= self.generation() {
            return None;
        }
        self.rewinding = true;
        self.barriers.clear();
        self.assignment.take_if(|assignment| assignment.generation < rewinding.generation);
        Some(Error::Rewound {
            generation: rewinding.generation,
            checkpoint: rewinding.checkpoint,
            cause: rewinding.cause,
        })
    }

    /// Takes a barrier; one of a former generation is of no interest. It may be there before the worker's
    /// loop has taken the assignment that it goes with.
    pub(crate) fn barrier(&mut self, barrier: v1::Barrier) {
        if barrier.generation >= self.generation() {
            self.barriers.push_back(barrier);
        }
    }

    /// Takes the end of a round.
    pub(crate) fn aborted(&mut self, aborted: &v1::CheckpointAborted) {
        self.barriers.retain(|barrier| barrier.round != aborted.round);
        self.stop.take_if(|(round, _)| *round == aborted.round);
    }

    /// Stands still behind a barrier, if it says so: until the round is aborted, or another assignment has come.
    pub(crate) fn stop_at(&mut self, barrier: &v1::Barrier) {
        if barrier.stop {
            self.stop = Some((barrier.round.clone(), barrier.checkpoint));
        }
    }

    /// Returns true while the worker is to stand still.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.is_some()
    }

    /// Takes the end of a joining that was to end. Behind a stop its checkpoint is complete: nobody lets go earlier.
    pub(crate) fn leave(&mut self) {
        if let Some((_, checkpoint)) = self.stop.take() {
            self.completed(checkpoint);
        }
        self.left = true;
    }

    /// Returns true once the worker has left.
    pub(crate) fn has_left(&self) -> bool {
        self.left
    }

    /// Takes a completion; one that is heard twice counts once.
    pub(crate) fn completed(&mut self, checkpoint: u64) {
        if checkpoint > self.last_completed {
            self.last_completed = checkpoint;
            self.completed.push_back(checkpoint);
        }
    }

    /// Takes the end of the joining. A worker that was silent beyond its lease has lost what it held, and
    /// goes on like after any rewind; only one whose place was taken is told so.
    pub(crate) fn ended(&mut self, ended: &v1::JoinEnded) -> Error {
        let error = match ended.reason() {
            ErrorReason::LeaseExpired => Error::Rewound { generation: 0, checkpoint: 0, cause: ended.message.clone() },
            reason => Error::from(Refused::new(reason, ended.message.clone())),
        };
        self.ended = Some(error.clone());
        self.barriers.clear();
        self.assignment = None;
        error
    }

    /// Hands out the newest assignment, which is then the present one.
    pub(crate) fn take_assignment(&mut self) -> Option<v1::Assignment> {
        let assignment = self.assignment.take()?;
        self.taken = Some(Grants::of(&assignment));
        self.stop = None;
        // What completes from here on belongs to this generation.
        self.last_completed = 0;
        self.completed.clear();
        self.completed(assignment.restored_checkpoint);
        Some(assignment)
    }

    /// Hands out the oldest barrier of the present generation.
    pub(crate) fn take_barrier(&mut self) -> Option<v1::Barrier> {
        let generation = self.generation();
        let present = self.barriers.iter().position(|barrier| barrier.generation == generation)?;
        self.barriers.remove(present)
    }

    pub(crate) fn take_completed(&mut self) -> Option<u64> {
        self.completed.pop_front()
    }

    pub(crate) fn take_ended(&mut self) -> Option<Error> {
        self.ended.take()
    }

    /// Returns the last completed checkpoint.
    pub(crate) fn last_completed(&self) -> u64 {
        self.last_completed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assignment(generation: u64, writer_epoch: u64) -> v1::Assignment {
        let route = v1::Route { operator: "stats".into(), end: 16, ..Default::default() };
        let shards = vec![v1::LeasedShard { route: Some(route), writer_epoch, ..Default::default() }];
        v1::Assignment { generation, shards, restored_checkpoint: 10 * generation, ..Default::default() }
    }

    #[test]
    fn the_same_grants_are_entered_once() {
        let mut inbox = Inbox::default();
        assert!(inbox.assigned(assignment(1, 1)).is_some());
        assert_eq!(inbox.take_assignment().unwrap().generation, 1);
        assert!(inbox.assigned(assignment(1, 1)).is_none(), "a reconnect hears it again");
        assert!(inbox.take_assignment().is_none());
        assert!(inbox.assigned(assignment(1, 2)).is_some(), "another lease");
        assert!(inbox.assigned(assignment(2, 3)).is_some());
        assert_eq!(inbox.take_assignment().unwrap().generation, 2);
        assert!(inbox.assigned(assignment(1, 1)).is_none(), "an old word");
        assert_eq!(inbox.generation(), 2);
    }

    #[test]
    fn a_worker_whose_share_went_to_others_waits_for_another() {
        let nothing = || v1::Assignment { generation: 1, ..v1::Assignment::default() };
        let mut inbox = Inbox::default();
        assert!(inbox.assigned(nothing()).is_none(), "it never had one");
        inbox.assigned(assignment(1, 1));
        inbox.take_assignment();
        let ends = inbox.assigned(nothing()).unwrap().to_string();
        assert!(ends.contains("its share of the shards changed"), "{ends}");
        assert!(inbox.is_spare() && inbox.take_assignment().is_none());
        assert!(inbox.assigned(nothing()).is_none());
        assert!(inbox.assigned(assignment(1, 3)).is_some());
        assert!(inbox.take_assignment().is_some() && !inbox.is_spare());
    }

    #[test]
    fn a_rewind_takes_barrier_and_assignment_with_it() {
        let mut inbox = Inbox::default();
        inbox.assigned(assignment(1, 1));
        inbox.take_assignment();
        inbox.barrier(v1::Barrier { generation: 1, ..Default::default() });
        let error = inbox.rewinding(v1::Rewinding { generation: 2, checkpoint: 17, cause: "disk".into() });
        assert!(matches!(error, Some(Error::Rewound { generation: 2, checkpoint: 17, .. })));
        assert!(inbox.take_barrier().is_none());
        inbox.barrier(v1::Barrier { generation: 1, ..Default::default() });
        assert!(inbox.rewinding);
        inbox.assigned(assignment(2, 2));
        assert!(!inbox.rewinding);
        inbox.take_assignment();
        assert!(inbox.take_barrier().is_none());
    }

    #[test]
    fn a_barrier_may_come_before_its_assignment_is_taken() {
        let mut inbox = Inbox::default();
        inbox.assigned(assignment(1, 1));
        inbox.barrier(v1::Barrier { generation: 1, ..Default::default() });
        assert!(inbox.take_barrier().is_none(), "not in that generation yet");
        inbox.take_assignment();
        assert!(inbox.take_barrier().is_some());
    }

    #[test]
    fn barriers_of_rounds_that_overlap_are_taken_in_their_order() {
        let mut inbox = Inbox::default();
        for checkpoint in 1..=3 {
            let round = checkpoint.to_string();
            inbox.barrier(v1::Barrier { checkpoint, round, ..Default::default() });
        }
        inbox.aborted(&v1::CheckpointAborted { round: "2".into(), ..Default::default() });
        let taken: Vec<_> = std::iter::from_fn(|| inbox.take_barrier()).map(|barrier| barrier.checkpoint).collect();
        assert_eq!(taken, [1, 3]);
    }

    #[test]
    fn an_aborted_round_takes_its_barrier_back() {
        let mut inbox = Inbox::default();
        inbox.barrier(v1::Barrier { round: "a".into(), ..Default::default() });
        inbox.aborted(&v1::CheckpointAborted { round: "b".into(), ..Default::default() });
        inbox.aborted(&v1::CheckpointAborted { round: "a".into(), ..Default::default() });
        assert!(inbox.take_barrier().is_none());
    }

    #[test]
    fn a_worker_stands_still_until_its_round_is_aborted_or_it_is_given_something_else() {
        let stop = |round: &str| v1::Barrier { stop: true, checkpoint: 12, round: round.into(), ..Default::default() };
        let mut inbox = Inbox::default();
        inbox.assigned(assignment(1, 1));
        inbox.take_assignment();
        inbox.stop_at(&v1::Barrier { round: "a".into(), ..Default::default() });
        assert!(!inbox.is_stopped());
        inbox.stop_at(&stop("b"));
        inbox.aborted(&v1::CheckpointAborted { round: "a".into(), ..Default::default() });
        assert!(inbox.is_stopped(), "that is another round");
        inbox.assigned(assignment(1, 1));
        assert!(inbox.is_stopped(), "a reconnect tells nothing new");
        inbox.aborted(&v1::CheckpointAborted { round: "b".into(), ..Default::default() });
        assert!(!inbox.is_stopped());
        inbox.stop_at(&stop("c"));
        assert!(inbox.assigned(assignment(1, 2)).is_some(), "another lease");
        inbox.take_assignment();
        assert!(!inbox.is_stopped());
    }

    #[test]
    fn who_leaves_behind_a_stop_knows_that_its_checkpoint_is_complete() {
        let mut inbox = Inbox::default();
        inbox.assigned(assignment(1, 1));
        inbox.take_assignment();
        inbox.stop_at(&v1::Barrier { stop: true, checkpoint: 12, ..Default::default() });
        inbox.leave();
        assert!(inbox.has_left() && !inbox.is_stopped());
        assert_eq!((inbox.take_completed(), inbox.take_completed()), (Some(10), Some(12)));
    }

    #[test]
    fn the_restored_checkpoint_is_completed_again() {
        let mut inbox = Inbox::default();
        inbox.assigned(assignment(1, 1));
        inbox.take_assignment();
        assert_eq!(inbox.take_completed(), Some(10));
        for checkpoint in [11, 12, 12] {
            inbox.completed(checkpoint);
        }
        inbox.assigned(v1::Assignment { restored_checkpoint: 11, ..assignment(2, 2) });
        inbox.take_assignment();
        assert_eq!((inbox.take_completed(), inbox.take_completed()), (Some(11), None));
        inbox.completed(12);
        assert_eq!(inbox.take_completed(), Some(12));
    }

    #[test]
    fn a_worker_whose_lease_ran_out_goes_on_and_one_whose_place_was_taken_is_told() {
        let ended = |reason: ErrorReason| v1::JoinEnded { reason: reason.into(), message: "over".into() };
        assert!(Inbox::default().ended(&ended(ErrorReason::LeaseExpired)).is_rewound());
        assert!(matches!(Inbox::default().ended(&ended(ErrorReason::WriterFenced)), Error::Fenced(_)));
    }
}
