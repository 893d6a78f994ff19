//! Who gets what: shards over servers, leases over workers, worker state over workers. Pure.

use std::collections::BTreeMap;

use forebay_proto::v1;

/// What a server has to bear, of all jobs, and where it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Load {
    /// Its zone; empty if it was not told.
    pub zone: String,
    /// Its shards.
    pub shards: u32,
    /// Bytes of their state.
    pub bytes: u64,
    /// True if it is to get no more.
    pub draining: bool,
}

/// The loads of the cluster's servers, by name.
pub type Loads = BTreeMap<String, Load>;

/// The servers of these that may be given shards: those that are drained only if there are no others.
pub fn may_get(up: impl Iterator<Item = String>, loads: &Loads) -> Vec<String> {
    let (drained, others): (Vec<_>, Vec<_>) =
        up.partition(|server| loads.get(server).is_some_and(|load| load.draining));
    if others.is_empty() { drained } else { others }
}

/// The server of these that is best given one more shard of a job: it has fewest of the job's shards, then its zone
/// has, then it has fewest of all jobs', then the fewest bytes.
pub fn best<'a>(shards: &[v1::ShardEntry], servers: &'a [String], loads: &Loads) -> Option<&'a String> {
    let none = Load::default();
    let load = |server: &str| loads.get(server).unwrap_or(&none);
    let held = |server: &str| shards.iter().filter(|shard| shard.server == server).count();
    let in_zone = |server: &str| {
        let zone = &load(server).zone;
        servers.iter().filter(|other| load(other).zone == *zone).map(|other| held(other)).sum::<usize>()
    };
    servers.iter().min_by_key(|server| {
        let Load { shards, bytes, .. } = load(server);
        (held(server), in_zone(server), *shards, *bytes, *server)
    })
}

/// Gives every shard without a server to the one that is best given it.
pub fn place_shards(shards: &mut [v1::ShardEntry], servers: &[String], loads: &Loads) {
    while let Some(at) = shards.iter().position(|shard| shard.server.is_empty()) {
        let Some(server) = best(shards, servers, loads).cloned() else { return };
        let shard = &mut shards[at];
        shard.server = server;
        shard.epoch += 1;
        if let Some(handover) = shard.handover.as_mut() {
            // Nothing was written since its former server stored what it held: lanes go on.
            handover.server.clone_from(&shard.server);
            continue;
        }
        shard.incarnation += 1;
        // The state of another engine's shard was with its former server: the new one is to say that it is lost.
        shard.established &= shard.external.is_some();
    }
}

/// Leases an operator's shards to the workers of its group, in contiguous runs as even as they can be.
///
/// `workers` are (worker id, join id) in the order of their indexes.
pub fn lease_shards(shards: &mut [v1::ShardEntry], operator: &str, workers: &[(String, String)]) {
    let mut shards: Vec<_> = shards.iter_mut().filter(|shard| shard.operator == operator).collect();
    let (count, all) = (shards.len(), workers.len());
    for (index, shard) in shards.iter_mut().enumerate() {
        let Some((worker, join_id)) = workers.get(index * all.min(count) / count) else { return };
        shard.writer_epoch += 1;
        shard.writer = Some(v1::WriterGrant {
            worker: worker.clone(),
            join_id: join_id.clone(),
            epoch: shard.writer_epoch,
            token: 0,
        });
    }
}

/// A worker's share of the worker state of a checkpoint, as Flink's RoundRobinOperatorStateRepartitioner
/// hands out operator state: split lists are cut into contiguous slices, union lists go whole to all, and
/// worker i gets broadcast copy i mod the number of copies. The same number of workers get their split lists
/// back as they were, and their broadcast copies unless some worker reported none. `old` is in the order of the
/// workers' indexes.
pub fn worker_share(old: &[v1::WorkerState], index: usize, workers: usize) -> Vec<v1::WorkerList> {
    let mut names: BTreeMap<&str, v1::Redistribution> = BTreeMap::new();
    for list in old.iter().flat_map(|state| &state.lists) {
        names.entry(&list.name).or_insert(list.redistribution());
    }
    let own = if old.len() == workers { old.get(index) } else { None };
    let mut rotation = 0;
    let mut share = Vec::new();
    for (name, redistribution) in names {
        let lists = || old.iter().filter_map(|state| list_of(state, name));
        let elements = match redistribution {
            v1::Redistribution::Union => lists().flat_map(|list| list.elements.iter().cloned()).collect(),
            v1::Redistribution::Broadcast => {
                // As many copies as workers are one each.
                let copies: Vec<_> = lists().collect();
                copies.get(index % copies.len()).map(|list| list.elements.clone()).unwrap_or_default()
            }
            _ if own.is_some() => match own.and_then(|state| list_of(state, name)) {
                Some(list) => list.elements.clone(),
                None => continue,
            },
            _ => {
                let all: Vec<_> = lists().flat_map(|list| list.elements.iter().cloned()).collect();
                let (base, more) = (all.len() / workers, all.len() % workers);
                // The first slice goes to the worker at whom the list before ran out of odd elements.
                let turn = (index + workers - rotation) % workers;
                let start = turn * base + turn.min(more);
                rotation = (rotation + more) % workers;
                all[start..start + base + usize::from(turn < more)].to_vec()
            }
        };
        share.push(v1::WorkerList { name: name.to_owned(), redistribution: redistribution.into(), elements });
    }
    share
}

fn list_of<'a>(state: &'a v1::WorkerState, name: &str) -> Option<&'a v1::WorkerList> {
    state.lists.iter().find(|list| list.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards(count: u32) -> Vec<v1::ShardEntry> {
        (0..count)
            .map(|start| v1::ShardEntry { operator: "op".into(), start, end: start + 1, ..Default::default() })
            .collect()
    }

    fn workers(count: usize) -> Vec<(String, String)> {
        (0..count).map(|index| (format!("w{index}"), format!("j{index}"))).collect()
    }

    fn state(lists: &[(&str, v1::Redistribution, &[&'static str])]) -> v1::WorkerState {
        let lists = lists.iter().map(|(name, redistribution, elements)| v1::WorkerList {
            name: (*name).to_owned(),
            redistribution: (*redistribution).into(),
            elements: elements.iter().map(|element| bytes::Bytes::from_static(element.as_bytes())).collect(),
        });
        v1::WorkerState { lists: lists.collect(), ..Default::default() }
    }

    fn elements(lists: &[v1::WorkerList]) -> Vec<Vec<&str>> {
        let text = |bytes| as_text(bytes);
        lists.iter().map(|list| list.elements.iter().map(text).collect()).collect()
    }

    fn as_text(bytes: &bytes::Bytes) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn shards_are_spread_evenly_and_placed_ones_stay() {
        let mut shards = shards(8);
        shards[0].server = "b".into();
        place_shards(&mut shards, &["a".into(), "b".into()], &Loads::new());
        let on = |server: &str| shards.iter().filter(|shard| shard.server == server).count();
        assert_eq!((on("a"), on("b")), (4, 4));
        assert_eq!((shards[0].epoch, shards[1].epoch), (0, 1));
    }

    #[test]
    fn zones_other_jobs_and_bytes_decide_between_servers_that_have_as_many_shards() {
        let load = |zone: &str, shards, bytes| Load { zone: zone.into(), shards, bytes, draining: false };
        let names = ["a", "b", "c", "d"].map(str::to_owned);
        let loads = [load("east", 9, 1), load("east", 2, 1), load("west", 1, 7), load("west", 1, 5)];
        let mut loads: Loads = names.iter().cloned().zip(loads).collect();
        let mut placed = shards(4);
        place_shards(&mut placed, &names, &loads);
        let servers: Vec<_> = placed.iter().map(|shard| shard.server.as_str()).collect();
        assert_eq!(servers, ["d", "b", "c", "a"]);

        loads.get_mut("d").unwrap().draining = true;
        assert_eq!(may_get(names.iter().cloned(), &loads), ["a", "b", "c"]);
        loads.values_mut().for_each(|load| load.draining = true);
        assert_eq!(may_get(names.iter().cloned(), &loads), names);
    }

    #[test]
    fn a_shard_that_arrives_goes_elsewhere_with_its_lanes_if_its_server_is_gone() {
        let mut shards = shards(2);
        shards.iter_mut().for_each(|shard| (shard.epoch, shard.incarnation) = (4, 3));
        let snapshot = Some(v1::CompletedCheckpoint::default());
        shards[1].handover = Some(v1::Handover { server: "gone".into(), snapshot, ..Default::default() });
        place_shards(&mut shards, &["a".into()], &Loads::new());
        assert_eq!([shards[0].incarnation, shards[1].incarnation], [4, 3]);
        assert_eq!((shards[1].epoch, shards[1].handover.as_ref().unwrap().server.as_str()), (5, "a"));
    }

    #[test]
    fn leases_are_contiguous_even_and_fence_the_former_writer() {
        let mut shards = shards(8);
        lease_shards(&mut shards, "op", &workers(3));
        let holders: Vec<_> = shards.iter().map(|shard| shard.writer.as_ref().unwrap().worker.clone()).collect();
        assert_eq!(holders, ["w0", "w0", "w0", "w1", "w1", "w1", "w2", "w2"]);
        lease_shards(&mut shards, "op", &workers(1));
        assert!(shards.iter().all(|shard| shard.writer.as_ref().unwrap().epoch == 2));
    }

    #[test]
    fn more_workers_than_shards_leave_some_idle() {
        let mut shards = shards(2);
        lease_shards(&mut shards, "op", &workers(3));
        let holders: Vec<_> = shards.iter().map(|shard| shard.writer.as_ref().unwrap().worker.clone()).collect();
        assert_eq!(holders, ["w0", "w1"]);
    }

    #[test]
    fn worker_state_comes_back_as_it_was_or_is_cut_as_flink_cuts_it() {
        use v1::Redistribution::{Broadcast, Split, Union};
        let old = [
            state(&[("b", Broadcast, &["x"]), ("s", Split, &["1", "2", "3"])]),
            state(&[("b", Broadcast, &["y"]), ("s", Split, &["4", "5"])]),
        ];
        assert_eq!(elements(&worker_share(&old, 1, 2)), [vec!["y"], vec!["4", "5"]]);
        let three: Vec<_> = (0..3).map(|index| worker_share(&old, index, 3)).collect();
        assert_eq!(elements(&three[0]), [vec!["x"], vec!["1", "2"]]);
        assert_eq!(elements(&three[1]), [vec!["y"], vec!["3", "4"]]);
        assert_eq!(elements(&three[2]), [vec!["x"], vec!["5"]]);
        let union = [state(&[("u", Union, &["1"])]), state(&[("u", Union, &["2"])])];
        assert_eq!(elements(&worker_share(&union, 0, 2)), [vec!["1", "2"]]);
    }

    /// Worked out by hand from RoundRobinOperatorStateRepartitioner.repartitionSplitState: slices begin at a
    /// worker that moves on by the odd elements of the list before.
    #[test]
    fn split_lists_are_cut_as_flink_s_repartitioner_cuts_them() {
        use v1::Redistribution::{Broadcast, Split, Union};
        let one = [state(&[("a", Split, &["1", "2", "3"]), ("b", Split, &["4", "5", "6"]), ("c", Split, &["7"])])];
        let two: Vec<_> = (0..2).map(|index| worker_share(&one, index, 2)).collect();
        assert_eq!(elements(&two[0]), [vec!["1", "2"], vec!["6"], vec!["7"]]);
        assert_eq!(elements(&two[1]), [vec!["3"], vec!["4", "5"], vec![]]);

        let down = [
            state(&[("s", Split, &["1"])]),
            state(&[("s", Split, &["2", "3"])]),
            state(&[("s", Split, &[])]),
            state(&[("s", Split, &["4"])]),
        ];
        assert_eq!(elements(&worker_share(&down, 0, 1)), [vec!["1", "2", "3", "4"]]);
        let three: Vec<_> = (0..3).map(|index| elements(&worker_share(&down, index, 3)).concat().join("")).collect();
        assert_eq!(three, ["12", "3", "4"]);
        let nine: Vec<_> = (0..9).map(|index| elements(&worker_share(&down, index, 9)).concat().join("")).collect();
        assert_eq!(nine, ["1", "2", "3", "4", "", "", "", "", ""]);

        let mixed = [
            state(&[("b", Broadcast, &["x"]), ("s", Split, &["1"]), ("u", Union, &["p"])]),
            state(&[("b", Broadcast, &["y"]), ("s", Split, &["2"]), ("u", Union, &["q"])]),
        ];
        for (index, copy) in [(0, "x"), (1, "y"), (2, "x"), (3, "y"), (4, "x")] {
            let lists = worker_share(&mixed, index, 5);
            let share = elements(&lists);
            assert_eq!((&share[0], &share[2]), (&vec![copy], &vec!["p", "q"]));
        }
        assert_eq!(elements(&worker_share(&mixed, 1, 2)), [vec!["y"], vec!["2"], vec!["p", "q"]]);
    }

    /// RoundRobinOperatorStateRepartitioner hands out anew only union lists and broadcast lists that some worker
    /// did not report, where the number of workers is the same; positions of sources stay with their workers.
    #[test]
    fn the_same_number_of_workers_keep_their_split_lists_beside_unions_and_partly_reported_broadcasts() {
        use v1::Redistribution::{Broadcast, Split, Union};
        let old = [
            state(&[("b", Broadcast, &["x"]), ("s", Split, &["1", "2", "3"]), ("u", Union, &["p"])]),
            state(&[("u", Union, &["q"])]),
            state(&[("b", Broadcast, &["z"]), ("s", Split, &["4"]), ("u", Union, &[])]),
        ];
        let share: Vec<_> = (0..3).map(|index| worker_share(&old, index, 3)).collect();
        assert_eq!(elements(&share[0]), [vec!["x"], vec!["1", "2", "3"], vec!["p", "q"]]);
        assert_eq!(elements(&share[1]), [vec!["z"], vec!["p", "q"]]);
        assert_eq!(elements(&share[2]), [vec!["x"], vec!["4"], vec!["p", "q"]]);
        // Another number of workers cuts the split lists, and all get a copy.
        let two: Vec<_> = (0..2).map(|index| worker_share(&old, index, 2)).collect();
        assert_eq!(elements(&two[0]), [vec!["x"], vec!["1", "2"], vec!["p", "q"]]);
        assert_eq!(elements(&two[1]), [vec!["z"], vec!["3", "4"], vec!["p", "q"]]);
    }
}
