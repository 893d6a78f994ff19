//! Leases of jobs that keep positions in their shards (`recovery: shard`): a worker that comes, goes or loses a shard
//! changes the leases of few others, and nothing goes back. Pure.
//!
//! Invariant: whoever's share changes gets a new writer epoch for every shard it holds. Its lanes of before are fenced
//! with that, so the positions that it is told next are not overtaken by writes of its own that are still on their way.

use std::collections::BTreeMap;

use forebay_proto::v1;

use super::{members::Members, spec};
use crate::seeded::{self, Bug};

/// Leases every shard that stands to a worker that is there, as evenly as can be and with as few moves.
pub fn grant(next: &mut v1::JobHead, members: &Members) {
    let spec = next.spec.clone().unwrap_or_default();
    for operator in spec.operators.iter().filter(|operator| spec::is_leased(Some(&spec), &operator.name)) {
        let mut shards: Vec<_> = next.shards.iter_mut().filter(|entry| entry.operator == operator.name).collect();
        share(&mut shards, &Group::of(members, &operator.name));
    }
}

/// The workers of an operator, by id.
struct Group<'a> {
    workers: BTreeMap<&'a str, Worker<'a>>,
}

struct Worker<'a> {
    join_id: &'a str,
    /// One that is away keeps what it has while its lease lasts, and gets nothing.
    connected: bool,
}

impl<'a> Group<'a> {
    fn of(members: &'a Members, operator: &'a str) -> Self {
        let worker = |member: &'a super::members::Member| {
            let connected = member.connection.is_some();
            (member.worker.as_str(), Worker { join_id: &member.join_id, connected })
        };
        Self { workers: members.group(operator).map(worker).collect() }
    }

    /// The worker that holds a shard, if it is the one that was granted it.
    fn holder(&self, entry: &v1::ShardEntry) -> Option<&'a str> {
        let writer = entry.writer.as_ref()?;
        let (worker, known) = self.workers.get_key_value(writer.worker.as_str())?;
        (known.join_id == writer.join_id).then_some(*worker)
    }

    /// The connected worker that holds fewest.
    fn neediest(&self, held: &BTreeMap<&'a str, usize>) -> Option<&'a str> {
        let connected = self.workers.iter().filter(|(_, worker)| worker.connected);
        connected.map(|(worker, _)| *worker).min_by_key(|worker| held.get(worker))
    }
}

/// A shard that arrives on another server has all that its writer wrote.
fn keeps_writer(entry: &v1::ShardEntry) -> bool {
    entry.established || entry.is_arriving()
}

fn share(shards: &mut [&mut v1::ShardEntry], group: &Group<'_>) {
    let before: Vec<_> = shards.iter().map(|entry| group.holder(entry)).collect();
    let mut after: Vec<_> =
        shards.iter().zip(&before).map(|(entry, holder)| holder.filter(|_| keeps_writer(entry))).collect();
    let mut held: BTreeMap<&str, usize> = group.workers.keys().map(|worker| (*worker, 0)).collect();
    for worker in after.iter().flatten() {
        *held.entry(worker).or_default() += 1;
    }
    let free = |(entry, holder): &(&&mut v1::ShardEntry, &mut Option<&str>)| entry.established && holder.is_none();
    for (_, holder) in shards.iter().zip(&mut after).filter(free) {
        let Some(worker) = group.neediest(&held) else { break };
        *holder = Some(worker);
        *held.entry(worker).or_default() += 1;
    }
    while let Some(poor) = group.neediest(&held)
        && let Some((rich, most)) =
            held.iter().max_by_key(|(_, count)| **count).map(|(worker, count)| (*worker, *count))
        && most > held[poor] + 1
        && let Some(moved) = after.iter().rposition(|holder| *holder == Some(rich))
    {
        after[moved] = Some(poor);
        *held.entry(rich).or_default() -= 1;
        *held.entry(poor).or_default() += 1;
    }
    let changed = |worker: &str| {
        before.iter().zip(&after).any(|(before, after)| (*before == Some(worker)) != (*after == Some(worker)))
    };
    let keeps_epochs = seeded::is(Bug::ShareKeepsEpochs);
    for (entry, holder) in shards.iter_mut().zip(&after) {
        match holder {
            Some(worker) if changed(worker) && !(keeps_epochs && group.holder(entry) == Some(worker)) => {
                entry.writer_epoch += 1;
                entry.writer = Some(v1::WriterGrant {
                    worker: (*worker).to_owned(),
                    join_id: group.workers[worker].join_id.to_owned(),
                    epoch: entry.writer_epoch,
                    token: 0,
                });
            }
            Some(_) => {}
            None => entry.writer = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::machine::Connection, *};

    fn head(shards: u32) -> v1::JobHead {
        let operators =
            vec![v1::Operator { name: "op".into(), access: v1::Access::Leased.into(), ..Default::default() }];
        let shard = |start| v1::ShardEntry {
            operator: "op".into(),
            start,
            end: start + 1,
            established: true,
            ..Default::default()
        };
        v1::JobHead {
            spec: Some(v1::JobSpec { operators, recovery: v1::Recovery::Shard.into(), ..Default::default() }),
            shards: (0..shards).map(shard).collect(),
            ..Default::default()
        }
    }

    fn join(members: &mut Members, number: u64, worker: &str, join_id: &str) {
        let hello = v1::JoinHello {
            operator: "op".into(),
            worker: worker.into(),
            join_id: join_id.into(),
            ..Default::default()
        };
        members.join(Connection(number), &hello, 0).unwrap();
    }

    /// Per shard: who holds it, and under which epoch.
    fn held(head: &v1::JobHead) -> Vec<(String, u64)> {
        let of = |entry: &v1::ShardEntry| {
            let worker = entry.writer.as_ref().map(|writer| writer.worker.clone()).unwrap_or_default();
            (worker, entry.writer_epoch)
        };
        head.shards.iter().map(of).collect()
    }

    fn of(pairs: &[(&str, u64)]) -> Vec<(String, u64)> {
        pairs.iter().map(|(worker, epoch)| ((*worker).to_owned(), *epoch)).collect()
    }

    #[test]
    fn a_worker_that_comes_or_goes_moves_no_more_than_its_share() {
        let (mut head, mut members) = (head(5), Members::new(10));
        join(&mut members, 1, "a", "a1");
        grant(&mut head, &members);
        assert_eq!(held(&head), of(&[("a", 1); 5]));
        join(&mut members, 2, "b", "b1");
        grant(&mut head, &members);
        assert_eq!(held(&head), of(&[("a", 2), ("a", 2), ("a", 2), ("b", 2), ("b", 2)]));
        join(&mut members, 3, "c", "c1");
        grant(&mut head, &members);
        assert_eq!(held(&head), of(&[("a", 3), ("a", 3), ("c", 3), ("b", 2), ("b", 2)]), "b keeps its epoch");
        let settled = head.clone();
        grant(&mut head, &members);
        assert_eq!(head, settled);
        members.leave("op", "c");
        grant(&mut head, &members);
        assert_eq!(held(&head), of(&[("a", 4), ("a", 4), ("a", 4), ("b", 2), ("b", 2)]));
    }

    #[test]
    fn whoever_is_away_keeps_its_shards_and_gets_none_until_its_lease_has_run_out() {
        let (mut head, mut members) = (head(4), Members::new(10));
        join(&mut members, 1, "a", "a1");
        join(&mut members, 2, "b", "b1");
        grant(&mut head, &members);
        members.disconnected(Connection(2));
        let before = head.clone();
        grant(&mut head, &members);
        assert_eq!(head, before);
        members.heartbeat(Connection(1), 5);
        members.expire(10);
        grant(&mut head, &members);
        assert_eq!(held(&head), of(&[("a", 2); 4]));
    }

    #[test]
    fn a_worker_that_was_started_anew_or_lost_a_shard_gets_new_epochs_for_all_it_holds() {
        let (mut head, mut members) = (head(2), Members::new(10));
        join(&mut members, 1, "a", "a1");
        grant(&mut head, &members);
        join(&mut members, 2, "a", "a2");
        grant(&mut head, &members);
        assert_eq!(held(&head), of(&[("a", 2), ("a", 2)]));
        assert_eq!(head.shards[0].writer.as_ref().unwrap().join_id, "a2");
        head.shards[0].established = false;
        grant(&mut head, &members);
        assert_eq!(held(&head), of(&[("", 2), ("a", 3)]));
        head.shards[0].established = true;
        grant(&mut head, &members);
        assert_eq!(held(&head), of(&[("a", 3), ("a", 4)]));
        members.leave("op", "a");
        grant(&mut head, &members);
        assert_eq!(held(&head), of(&[("", 3), ("", 4)]), "nobody is there");
    }

    #[test]
    fn more_workers_than_shards_leave_some_waiting() {
        let (mut head, mut members) = (head(1), Members::new(10));
        join(&mut members, 1, "a", "a1");
        join(&mut members, 2, "b", "b1");
        grant(&mut head, &members);
        assert_eq!(held(&head), of(&[("a", 1)]));
    }
}
