//! What the coordinator has said to a worker: the rules of `client/rust/src/inbox.rs`.

use std::collections::VecDeque;

use forebay_client::Error;
use forebay_proto::{reason::Refused, v1};

/// The messages that wait, and what is known of the present generation.
#[derive(Debug, Default)]
pub struct Inbox {
    assignment: Option<v1::Assignment>,
    barriers: VecDeque<v1::Barrier>,
    taken: Option<Grants>,
    ended: Option<Error>,
    /// The round of the barrier behind which the worker stands still.
    stop: Option<String>,
    /// True once a rewind was announced and until its assignment has come.
    pub rewinding: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Grants {
    generation: u64,
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
    /// The generation that the worker is in; 0 before the first assignment.
    pub fn generation(&self) -> u64 {
        self.taken.as_ref().map_or(0, |taken| taken.generation)
    }

    /// True if there is nothing to hold, as far as was said.
    pub fn is_spare(&self) -> bool {
        self.taken.as_ref().is_none_or(|taken| taken.shards.is_empty())
    }

    /// Takes an assignment; returns why the present session ends, if it does.
    pub fn assigned(&mut self, assignment: v1::Assignment) -> Option<Error> {
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
        let error = Error::Rewound {
            generation: assignment.generation,
            checkpoint: assignment.restored_checkpoint,
            cause: "a new assignment".into(),
        };
        if assignment.shards.is_empty() {
            (self.taken, self.assignment) = (Some(grants), None);
        } else {
            self.assignment = Some(assignment);
        }
        Some(error)
    }

    /// Takes the announcement of a rewind.
    pub fn rewinding(&mut self, rewinding: v1::Rewinding) -> Option<Error> {
        if rewinding.generation <= self.generation() {
            return None;
        }
        self.rewinding = true;
        self.barriers.clear();
        self.assignment.take_if(|assignment| assignment.generation < rewinding.generation);
        let v1::Rewinding { generation, checkpoint, cause } = rewinding;
        Some(Error::Rewound { generation, checkpoint, cause })
    }

    /// Takes a barrier; one of a former generation is of no interest.
    pub fn barrier(&mut self, barrier: v1::Barrier) {
        if barrier.generation >= self.generation() {
            self.barriers.push_back(barrier);
        }
    }

    /// Takes the end of a round.
    pub fn aborted(&mut self, aborted: &v1::CheckpointAborted) {
        self.barriers.retain(|barrier| barrier.round != aborted.round);
        self.stop.take_if(|round| *round == aborted.round);
    }

    /// Stands still behind a barrier that was taken, until its round is aborted or another assignment has come.
    pub fn stop_at(&mut self, round: &str) {
        self.stop = Some(round.to_owned());
    }

    /// True while the worker is to stand still.
    pub fn is_stopped(&self) -> bool {
        self.stop.is_some()
    }

    /// Takes the end of the joining.
    pub fn ended(&mut self, ended: &v1::JoinEnded) -> Error {
        let error = Error::from(Refused::new(ended.reason(), ended.message.clone()));
        self.ended = Some(error.clone());
        self.barriers.clear();
        self.assignment = None;
        error
    }

    /// Hands out the newest assignment, which is then the present one.
    pub fn take_assignment(&mut self) -> Option<v1::Assignment> {
        let assignment = self.assignment.take()?;
        self.taken = Some(Grants::of(&assignment));
        self.stop = None;
        Some(assignment)
    }

    /// Hands out the oldest barrier of the present generation.
    pub fn take_barrier(&mut self) -> Option<v1::Barrier> {
        let generation = self.generation();
        let present = self.barriers.iter().position(|barrier| barrier.generation == generation)?;
        self.barriers.remove(present)
    }

    /// Hands out the end.
    pub fn take_ended(&mut self) -> Option<Error> {
        self.ended.take()
    }
}
