//! Ranges of an operator that are cut anew while the job runs, and the stop that lets them. Pure.
//!
//! At a *stop* every worker stands still behind the barrier of a checkpoint: nothing is written behind it. So the write
//! that commits the checkpoint may change leases and ranges, and nothing goes back: what stays is at the checkpoint
//! already, and a range that is new is made of it. See semantics.md, sections 5 and 10.

use std::collections::BTreeSet;

use forebay_proto::v1;

use super::{
    members::Members,
    plan::Observed,
    restore,
    round::{Kind, Round},
    spec,
};
use crate::seeded::{self, Bug};

/// Key groups `[start, end)`.
pub type Range = (u32, u32);

/// Neighbouring shards that become others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// Their operator.
    pub operator: String,
    /// The ranges that there will be, in order and without gaps.
    pub ranges: Vec<Range>,
}

impl Cut {
    /// All key groups that are concerned.
    pub fn span(&self) -> Range {
        let first = self.ranges.first().map_or(0, |range| range.0);
        (first, self.ranges.last().map_or(0, |range| range.1))
    }

    /// The shards that become others.
    pub fn sources<'a>(&'a self, head: &'a v1::JobHead) -> impl Iterator<Item = &'a v1::ShardEntry> {
        let (start, end) = self.span();
        let within = move |entry: &&v1::ShardEntry| start <= entry.start && entry.end <= end;
        head.shards.iter().filter(|entry| entry.operator == self.operator).filter(within)
    }

    /// True if the ranges of a head are those that there will be.
    pub fn is_in(&self, head: &v1::JobHead) -> bool {
        self.sources(head).map(|entry| (entry.start, entry.end)).eq(self.ranges.iter().copied())
    }

    /// True while the shards that become others reach from the span's one end to its other.
    pub fn fits(&self, head: &v1::JobHead) -> bool {
        let (mut at, end) = self.span();
        for entry in self.sources(head) {
            if entry.start != at {
                return false;
            }
            at = entry.end;
        }
        at == end && !self.is_in(head)
    }
}

/// A worker that is there and waits for a share of shards which others hold.
pub fn joined(head: &v1::JobHead, members: &Members) -> Option<String> {
    if spec::keeps_positions(head.spec.as_ref()) {
        return None;
    }
    let holders = head.shards.iter().filter_map(|entry| Some((&entry.operator, &entry.writer.as_ref()?.worker)));
    let holders: BTreeSet<_> = holders.collect();
    let waits = members.all().find(|member| {
        let shards = head.shards.iter().filter(|entry| entry.operator == member.operator).count();
        let group = holders.iter().filter(|(operator, _)| **operator == member.operator).count();
        let holds = holders.contains(&(&member.operator, &member.worker));
        !holds && member.connection.is_some() && !member.leaving && (1..shards).contains(&group)
    });
    waits.map(|member| member.worker.clone())
}

/// True if others stop for a worker that joins. A worker behind several others waits for the barriers of all of them, and
/// one that joins sends none yet: there the job goes back.
pub fn stops_for_joins(head: &v1::JobHead) -> bool {
    let operators = || head.spec.iter().flat_map(|spec| &spec.operators);
    !operators().any(|operator| operator.source) || operators().all(|operator| operator.source)
}

/// Changes leases and ranges in the write that commits a stop; true if there is one.
pub fn commit(next: &mut v1::JobHead, observed: &Observed<'_>) -> bool {
    let stops = |round: &&Round| round.kind == Kind::Stop && round.stored.is_some();
    let Some(round) = observed.rounds.iter().find(stops).filter(|round| round.is_in(next)) else { return false };
    if !seeded::is(Bug::StopForgetsItsCheckpoint) {
        next.restored_checkpoint = round.checkpoint;
    }
    let spec = next.spec.clone();
    for entry in next.shards.iter_mut().filter(|entry| spec::is_leased(spec.as_ref(), &entry.operator)) {
        if !spec::keeps_positions(spec.as_ref()) {
            // All are leased again, as evenly as can be.
            entry.writer = None;
        } else if let Some(writer) = entry.writer.as_mut() {
            // The worker goes on from the positions, in a session of its own.
            entry.writer_epoch += 1;
            writer.epoch = entry.writer_epoch;
        }
    }
    for cut in observed.cuts {
        // Without a writer that stops, only a shard that serves nothing any more is at the checkpoint.
        let stands_still =
            spec::is_leased(spec.as_ref(), &cut.operator) || cut.sources(next).all(v1::ShardEntry::is_leaving);
        if stands_still && cut.fits(next) {
            apply(next, cut, round.checkpoint);
        }
    }
    true
}

/// Cuts shards whose state is that of a checkpoint.
fn apply(next: &mut v1::JobHead, cut: &Cut, checkpoint: u64) {
    let before: Vec<_> = cut.sources(next).cloned().collect();
    restore::recut(next, &cut.operator, &cut.ranges);
    let (start, end) = cut.span();
    let concerned =
        |entry: &&mut v1::ShardEntry| entry.operator == cut.operator && start <= entry.start && entry.end <= end;
    for entry in next.shards.iter_mut().filter(concerned) {
        // They served nothing until here.
        entry.handover = None;
        if !entry.server.is_empty() {
            continue;
        }
        // Most of its files are there.
        let source = before.iter().find(|source| source.start <= entry.start && entry.start < source.end);
        entry.server = source.map(|source| source.server.clone()).unwrap_or_default();
        entry.epoch += 1;
        entry.incarnation += 1;
        entry.restored_from = checkpoint;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(ranges: &[Range]) -> v1::JobHead {
        let entry = |(start, end): &Range| v1::ShardEntry {
            operator: "op".into(),
            start: *start,
            end: *end,
            server: format!("s{start}"),
            epoch: u64::from(*start) + 1,
            incarnation: 3,
            writer_epoch: u64::from(*end),
            established: true,
            ..Default::default()
        };
        v1::JobHead { shards: ranges.iter().map(entry).collect(), ..Default::default() }
    }

    fn cut(ranges: &[Range]) -> Cut {
        Cut { operator: "op".into(), ranges: ranges.to_vec() }
    }

    #[test]
    fn only_whole_shards_side_by_side_can_be_cut() {
        let head = head(&[(0, 4), (4, 8), (8, 12)]);
        assert!(
            cut(&[(0, 8)]).fits(&head) && cut(&[(4, 6), (6, 8)]).fits(&head) && cut(&[(0, 6), (6, 12)]).fits(&head)
        );
        assert!(!cut(&[(0, 6)]).fits(&head), "a half of the second");
        assert!(!cut(&[(0, 16)]).fits(&head), "there are no such key groups");
        assert!(!cut(&[(4, 8)]).fits(&head) && cut(&[(4, 8)]).is_in(&head), "it is so already");
    }

    #[test]
    fn parts_order_themselves_behind_all_that_held_their_key_groups() {
        let mut next = head(&[(0, 4), (4, 8), (8, 12)]);
        apply(&mut next, &cut(&[(0, 6), (6, 8)]), 9);
        let of = |entry: &v1::ShardEntry| {
            (entry.start, entry.end, entry.server.clone(), entry.epoch, entry.incarnation, entry.writer_epoch)
        };
        let made: Vec<_> = next.shards.iter().map(of).collect();
        let s = |start: u32| format!("s{start}");
        assert_eq!(made, [(0, 6, s(0), 6, 4, 8), (6, 8, s(4), 6, 4, 8), (8, 12, s(8), 9, 3, 12)]);
        let from: Vec<_> = next.shards.iter().map(|entry| (entry.restored_from, entry.established)).collect();
        assert_eq!(from, [(9, false), (9, false), (0, true)]);
    }
}
