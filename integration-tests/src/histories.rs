//! Histories of concurrent calls on one key, checked for linearizability: is there an order of all calls, each between its
//! beginning and its end, in which every one answers as it did? (Wing and Gong's search, with Lowe's memory of what was
//! tried.)

use std::{collections::HashSet, fmt::Debug, hash::Hash};

/// A call that was answered.
#[derive(Debug, Clone)]
pub struct Call<A> {
    /// When it was begun and when its answer was there, on one clock.
    pub span: (u64, u64),
    /// What was asked, and answered.
    pub act: A,
}

/// What a call does to the state of a key.
pub trait Act: Debug {
    /// The state of a key.
    type State: Clone + Eq + Hash + Default;

    /// The state behind it; `None` if it cannot have been answered so in this state.
    fn step(&self, state: &Self::State) -> Option<Self::State>;
}

/// A value of its own, or an answer about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// It was put.
    Put(u64),
    /// It was cleared.
    Clear,
    /// It was read.
    Get(Option<u64>),
    /// The first was expected, the second put if it was there; and whether it was.
    CompareAndSet(Option<u64>, u64, bool),
}

impl Act for Value {
    type State = Option<u64>;

    fn step(&self, state: &Option<u64>) -> Option<Option<u64>> {
        match self {
            Self::Put(value) => Some(Some(*value)),
            Self::Clear => Some(None),
            Self::Get(seen) => (seen == state).then_some(*state),
            Self::CompareAndSet(expected, value, swapped) => {
                let swaps = expected == state;
                (swaps == *swapped).then_some(if swaps { Some(*value) } else { *state })
            }
        }
    }
}

/// A list, or an answer about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum List {
    /// An element was appended.
    Append(u64),
    /// It was read.
    Get(Vec<u64>),
}

impl Act for List {
    type State = Vec<u64>;

    fn step(&self, state: &Vec<u64>) -> Option<Vec<u64>> {
        match self {
            Self::Append(element) => Some(state.iter().copied().chain([*element]).collect()),
            Self::Get(seen) => (seen == state).then(|| state.clone()),
        }
    }
}

/// Finds an order of the calls; an error shows those behind which none goes on, at the farthest that was reached.
pub fn check<A: Act + Clone>(history: &[Call<A>]) -> Result<(), String> {
    let mut calls = history.to_vec();
    calls.sort_by_key(|call| call.span);
    let mut search =
        Search { calls: &calls, done: vec![false; calls.len()], tried: HashSet::new(), farthest: Vec::new() };
    if search.goes_on(&A::State::default(), 0) {
        return Ok(());
    }
    let open = calls.iter().zip(&search.farthest).filter(|(_, done)| !**done).take(12);
    let open: Vec<_> = open.map(|(call, _)| format!("{:?} in {:?}", call.act, call.span)).collect();
    Err(format!("no order of {} calls; it ends before these:\n{}", calls.len(), open.join("\n")))
}

struct Search<'a, A: Act> {
    calls: &'a [Call<A>],
    done: Vec<bool>,
    /// Calls that were done, and the state behind them: no order goes on from there.
    tried: HashSet<(Vec<bool>, A::State)>,
    farthest: Vec<bool>,
}

impl<A: Act> Search<'_, A> {
    /// True if the calls that are not done have an order that begins with this state.
    fn goes_on(&mut self, state: &A::State, ordered: usize) -> bool {
        if ordered == self.calls.len() {
            return true;
        }
        if self.farthest.iter().filter(|done| **done).count() <= ordered {
            self.farthest.clone_from(&self.done);
        }
        if !self.tried.insert((self.done.clone(), state.clone())) {
            return false;
        }
        let open = || self.calls.iter().zip(&self.done).enumerate().filter(|(_, (_, done))| !**done);
        // Whoever begins behind the end of another comes behind it.
        let first_end = open().map(|(_, (call, _))| call.span.1).min().unwrap_or(u64::MAX);
        let next: Vec<_> = open().filter(|(_, (call, _))| call.span.0 <= first_end).map(|(index, _)| index).collect();
        for index in next {
            let Some(behind) = self.calls[index].act.step(state) else { continue };
            self.done[index] = true;
            if self.goes_on(&behind, ordered + 1) {
                return true;
            }
            self.done[index] = false;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with a history, and its calls: when they began and ended.
    type Bad<'a, A> = (&'a str, &'a [(u64, u64, A)]);

    fn history<A: Clone>(calls: &[(u64, u64, A)]) -> Vec<Call<A>> {
        calls.iter().map(|(from, to, act)| Call { span: (*from, *to), act: act.clone() }).collect()
    }

    #[test]
    fn what_overlaps_may_have_been_in_any_order() {
        use Value::*;
        let calls = [(0, 9, Put(1)), (1, 8, Put(2)), (2, 3, Get(Some(2))), (4, 5, Get(Some(1))), (6, 7, Get(Some(1)))];
        check(&history(&calls)).unwrap();
        check(&history(&[(0, 9, CompareAndSet(None, 1, true)), (0, 9, CompareAndSet(Some(1), 2, true))])).unwrap();
    }

    #[test]
    fn each_kind_of_bad_history_is_found() {
        use Value::*;
        let bad: [Bad<'_, Value>; 6] = [
            ("a stale read", &[(0, 1, Put(1)), (2, 3, Put(2)), (4, 5, Get(Some(1)))]),
            ("a lost write", &[(0, 1, Put(1)), (2, 3, Get(None))]),
            ("a read of what is not written yet", &[(0, 1, Get(Some(1))), (2, 3, Put(1))]),
            ("two that win", &[(0, 9, CompareAndSet(None, 1, true)), (0, 9, CompareAndSet(None, 2, true))]),
            ("one that loses against nobody", &[(0, 1, CompareAndSet(None, 1, false)), (2, 3, Get(None))]),
            (
                "a value that comes back",
                &[(0, 9, Put(1)), (1, 2, Get(Some(1))), (3, 4, Clear), (5, 6, Get(None)), (7, 8, Get(Some(1)))],
            ),
        ];
        for (what, calls) in bad {
            assert!(check(&history(calls)).is_err(), "{what}");
        }
        let bad: [Bad<'_, List>; 3] = [
            ("a lost append", &[(0, 1, List::Append(1)), (2, 3, List::Append(2)), (4, 5, List::Get(vec![2]))]),
            ("one that is there twice", &[(0, 1, List::Append(1)), (2, 3, List::Get(vec![1, 1]))]),
            (
                "an order that changes",
                &[
                    (0, 9, List::Append(1)),
                    (0, 9, List::Append(2)),
                    (2, 3, List::Get(vec![1, 2])),
                    (4, 5, List::Get(vec![2, 1])),
                ],
            ),
        ];
        for (what, calls) in bad {
            let found = check(&history(calls)).unwrap_err();
            assert!(found.contains("no order of"), "{what}: {found}");
        }
    }
}
