use std::collections::BTreeMap;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::*;

const LEASE_MS: i64 = 1000;

fn candidate(name: &str) -> Candidate {
    Candidate {
        name: name.into(),
        address: format!("http://{name}"),
        disk_id: format!("disk of {name}"),
        lease_ms: LEASE_MS,
        forget_ms: 20 * LEASE_MS,
        succeeds: None,
    }
}

/// The record, under conditional writes.
#[derive(Debug, Default)]
struct Store {
    record: Option<v1::LeaderRecord>,
    version: u64,
}

impl Store {
    fn read(&self) -> Option<(v1::LeaderRecord, Version)> {
        self.record.clone().map(|record| (record, Version(self.version.to_string())))
    }

    fn write(&mut self, record: &v1::LeaderRecord, condition: &Condition) -> Option<Version> {
        let holds = match condition {
            Condition::Absent => self.record.is_none(),
            Condition::Is(version) => self.record.is_some() && version.0 == self.version.to_string(),
        };
        holds.then(|| {
            self.version += 1;
            self.record = Some(record.clone());
            Version(self.version.to_string())
        })
    }
}

/// Lets one look on or write once, with the store at hand.
fn turn(election: &mut Election, store: &mut Store, now_ms: i64) {
    loop {
        match election.next(now_ms) {
            Step::Read => election.read(store.read(), now_ms),
            Step::Write(record, condition) => match store.write(&record, &condition) {
                Some(version) => election.wrote(record, version, now_ms, now_ms),
                None => election.unknown(),
            },
            Step::Wait(_) => return,
        }
    }
}

fn says(standby: &mut Election, leader: &mut Election, now_ms: i64) -> v1::StandByResponse {
    let request = standby.stand_by(now_ms).unwrap();
    let answer = leader.stands_by(&request, now_ms).unwrap();
    standby.answered(request.epoch, &answer, now_ms);
    answer
}

fn leads(election: &Election, now_ms: i64) -> bool {
    election.mandate().is_some_and(|(_, until_ms)| now_ms < until_ms)
}

/// A leader, one that stands by and is in the record, and the store.
fn pair() -> (Election, Election, Store) {
    let (mut store, mut one, mut other) =
        (Store::default(), Election::new(candidate("one"), "1".into()), Election::new(candidate("other"), "2".into()));
    turn(&mut one, &mut store, 0);
    turn(&mut other, &mut store, 0);
    says(&mut other, &mut one, 0);
    turn(&mut one, &mut store, 1);
    turn(&mut other, &mut store, 2);
    says(&mut other, &mut one, 3);
    assert_eq!(one.standbys().len(), 1);
    (one, other, store)
}

#[test]
fn the_first_one_leads_at_once_and_alone_needs_neither_store_nor_promise() {
    let (mut store, mut one) = (Store::default(), Election::new(candidate("one"), "1".into()));
    turn(&mut one, &mut store, 0);
    assert_eq!(one.mandate(), Some((1, i64::MAX)));
    one.end_if_over(1_000_000);
    assert!(leads(&one, 1_000_000));
}

#[test]
fn one_that_died_comes_back_at_once_to_its_disk() {
    let (mut store, mut one) = (Store::default(), Election::new(candidate("one"), "1".into()));
    turn(&mut one, &mut store, 0);
    let mut again = Election::new(candidate("one"), "2".into());
    turn(&mut again, &mut store, 1);
    assert_eq!(again.mandate(), Some((2, i64::MAX)));
}

#[test]
fn one_of_the_same_name_without_the_disk_waits_for_the_lease() {
    let (mut store, mut one) = (Store::default(), Election::new(candidate("one"), "1".into()));
    turn(&mut one, &mut store, 0);
    let mut again = Election::new(Candidate { disk_id: "new".into(), ..candidate("one") }, "2".into());
    for now_ms in [1, 500, 1000] {
        turn(&mut again, &mut store, now_ms);
        assert!(again.mandate().is_none(), "at {now_ms}");
    }
    turn(&mut again, &mut store, 1001);
    assert!(leads(&again, 1001));
}

#[test]
fn who_did_not_stand_by_may_not_follow_unless_it_is_told_to() {
    let (mut store, mut one) = (Store::default(), Election::new(candidate("one"), "1".into()));
    turn(&mut one, &mut store, 0);
    let mut other = Election::new(candidate("other"), "2".into());
    for now_ms in [1, 2000, 90_000] {
        turn(&mut other, &mut store, now_ms);
    }
    assert!(other.mandate().is_none());
    let refusal = other.refusal();
    assert_eq!(refusal.reason, Reason::NoCoordinator);
    assert!(refusal.message.contains("start this one with coordinator.succeeds=one"), "{}", refusal.message);
    let mut told = Election::new(Candidate { succeeds: Some("one".into()), ..candidate("other") }, "3".into());
    turn(&mut told, &mut store, 100_000);
    turn(&mut told, &mut store, 101_000);
    assert!(leads(&told, 101_000));
}

#[test]
fn one_that_stands_by_follows_a_silent_leader_within_two_leases_and_the_leader_has_ended_by_then() {
    let (mut one, mut other, mut store) = pair();
    for now_ms in (10..=2 * LEASE_MS).step_by(10) {
        turn(&mut other, &mut store, now_ms);
        assert!(!(leads(&one, now_ms) && leads(&other, now_ms)), "both at {now_ms}");
    }
    assert_eq!(other.mandate().map(|(epoch, _)| epoch), Some(2));
    // The former leader stands by again, and may follow again.
    one.end_if_over(2 * LEASE_MS);
    turn(&mut one, &mut store, 2 * LEASE_MS);
    assert!(one.mandate().is_none() && one.may_follow(store.record.as_ref().unwrap()));
}

#[test]
fn while_the_store_is_away_the_leader_leads_on_as_long_as_it_is_promised() {
    let (mut one, mut other, _) = pair();
    for now_ms in (100..30_000).step_by(250) {
        // Neither reaches the store.
        assert!(!says(&mut other, &mut one, now_ms).yields);
        one.end_if_over(now_ms);
        assert!(leads(&one, now_ms), "at {now_ms}");
    }
    // Then the other one falls silent, too.
    one.end_if_over(32_000);
    assert!(one.mandate().is_none());
}

#[test]
fn a_leader_without_the_store_yields_to_one_that_has_it() {
    let (mut one, mut other, mut store) = pair();
    let mut now_ms = 10;
    while !says(&mut other, &mut one, now_ms).yields {
        turn(&mut other, &mut store, now_ms);
        assert!(other.mandate().is_none() && now_ms < 2 * LEASE_MS);
        now_ms += 100;
    }
    assert!(one.mandate().is_none());
    turn(&mut other, &mut store, now_ms);
    assert!(leads(&other, now_ms));
}

#[test]
fn when_the_store_is_back_for_all_the_leader_may_renew_before_anybody_says_that_it_is_late() {
    let (mut one, mut other, mut store) = pair();
    for now_ms in (100..5_000).step_by(200) {
        other.unknown();
        assert!(!says(&mut other, &mut one, now_ms).yields);
    }
    turn(&mut other, &mut store, 5_000);
    assert!(!says(&mut other, &mut one, 5_010).yields);
    turn(&mut one, &mut store, 5_200);
    turn(&mut other, &mut store, 5_600);
    assert!(!says(&mut other, &mut one, 5_700).yields && leads(&one, 5_700));
}

#[test]
fn who_resigns_is_followed_at_once() {
    let (mut one, mut other, mut store) = pair();
    let (record, condition) = one.resignation(10).unwrap();
    assert!(one.mandate().is_none());
    store.write(&record, &condition).unwrap();
    turn(&mut other, &mut store, 11);
    assert!(leads(&other, 11));
}

#[test]
fn a_write_whose_answer_was_lost_counts_from_when_it_was_sent() {
    let (mut store, mut one) = (Store::default(), Election::new(candidate("one"), "1".into()));
    assert_eq!(one.next(0), Step::Read);
    one.read(None, 0);
    let Step::Write(record, condition) = one.next(5) else { panic!("nobody leads") };
    store.write(&record, &condition).unwrap();
    one.unknown();
    assert_eq!(one.next(400), Step::Read);
    one.read(store.read(), 400);
    let Office::In { renewed_ms, .. } = one.office else { panic!("it is its own") };
    assert_eq!(renewed_ms, 5);
}

#[test]
fn two_of_one_name_are_told() {
    let (mut one, _, store) = pair();
    let mut same = Election::new(Candidate { disk_id: "another".into(), ..candidate("one") }, "3".into());
    assert_eq!(same.next(10), Step::Read);
    same.read(store.read(), 10);
    let refused = one.stands_by(&same.stand_by(10).unwrap(), 10).unwrap_err();
    assert!(refused.reason == Reason::SettingsConflict && refused.message.contains("server.name"), "{refused:?}");
}

#[test]
fn who_is_silent_for_long_is_forgotten_and_its_promise_not_needed() {
    let (mut one, _, mut store) = pair();
    for now_ms in (0..30_000).step_by(200) {
        turn(&mut one, &mut store, now_ms);
    }
    assert!(store.record.as_ref().unwrap().standbys.is_empty());
    assert_eq!(one.mandate(), Some((1, i64::MAX)));
}

/// A write on its way to the store.
struct Sent {
    lands_ms: i64,
    sent_ms: i64,
    record: v1::LeaderRecord,
    condition: Condition,
    answered: bool,
}

/// A node of a world.
struct Node {
    election: Election,
    name: String,
    starts: u32,
    /// Until when it is not there, stands still, has no store, is not reached.
    dead_until_ms: i64,
    paused_until_ms: i64,
    no_store_until_ms: i64,
    apart_until_ms: i64,
    wake_ms: i64,
    told_ms: i64,
    write: Option<Sent>,
}

enum Said {
    Request(v1::StandByRequest),
    Answer(u64, v1::StandByResponse),
}

/// Nodes that stand still, die, lose the store and each other; writes that land late or whose answers are lost.
struct World {
    rng: StdRng,
    faults: bool,
    store: Store,
    nodes: Vec<Node>,
    /// Writes of the dead.
    orphans: Vec<Sent>,
    /// What is said: when it arrives, who said it, and to whom.
    said: Vec<(i64, usize, usize, Said)>,
}

impl Node {
    fn start(name: &str, starts: u32, disk_id: String) -> Election {
        Election::new(Candidate { disk_id, ..candidate(name) }, format!("{name}-{starts}"))
    }

    fn new(index: usize) -> Self {
        let name = format!("c{index}");
        Self {
            election: Self::start(&name, 0, "first".to_owned() + &name),
            name,
            starts: 0,
            dead_until_ms: 0,
            paused_until_ms: 0,
            no_store_until_ms: 0,
            apart_until_ms: 0,
            wake_ms: 0,
            told_ms: 0,
            write: None,
        }
    }

    fn goes(&self, now_ms: i64) -> bool {
        now_ms >= self.dead_until_ms && now_ms >= self.paused_until_ms
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let nodes = (0..rng.random_range(2..4)).map(Node::new).collect();
        Self { rng, faults: true, store: Store::default(), nodes, orphans: Vec::new(), said: Vec::new() }
    }

    fn strike(&mut self, index: usize, now_ms: i64) {
        let until_ms = now_ms + self.rng.random_range(10..4_000);
        let node = &mut self.nodes[index];
        match self.rng.random_range(0..4) {
            0 => node.paused_until_ms = until_ms,
            1 => node.no_store_until_ms = until_ms,
            2 => node.apart_until_ms = until_ms,
            _ => {
                node.starts += 1;
                let disk = if self.rng.random_ratio(1, 3) { node.starts.to_string() } else { "first".into() };
                node.election = Node::start(&node.name, node.starts, disk + &node.name);
                (node.dead_until_ms, node.paused_until_ms, node.wake_ms) = (until_ms, 0, 0);
                self.orphans.extend(node.write.take());
            }
        }
    }

    fn land(&mut self, now_ms: i64) {
        let due;
        (due, self.orphans) = self.orphans.drain(..).partition(|sent| sent.lands_ms <= now_ms);
        due.into_iter().for_each(|sent: Sent| drop(self.store.write(&sent.record, &sent.condition)));
        for node in &mut self.nodes {
            if let Some(sent) = node.write.take_if(|sent| sent.lands_ms <= now_ms) {
                match self.store.write(&sent.record, &sent.condition).filter(|_| sent.answered) {
                    Some(version) => node.election.wrote(sent.record, version, sent.sent_ms, now_ms),
                    None => node.election.unknown(),
                }
            }
        }
    }

    fn go(&mut self, index: usize, now_ms: i64) {
        let late = |rng: &mut StdRng, faults: bool, usual: i64| {
            now_ms + if faults && rng.random_ratio(1, 8) { rng.random_range(0..3_000) } else { usual }
        };
        let node = &mut self.nodes[index];
        node.election.end_if_over(now_ms);
        if node.write.is_none() && now_ms >= node.wake_ms {
            let there = now_ms >= node.no_store_until_ms;
            match node.election.next(now_ms) {
                Step::Read if there => node.election.read(self.store.read(), now_ms),
                Step::Write(record, condition) if there => {
                    let lands_ms = late(&mut self.rng, self.faults, 5);
                    let answered = !self.rng.random_ratio(1, 8);
                    node.write = Some(Sent { lands_ms, sent_ms: now_ms, record, condition, answered });
                }
                Step::Read | Step::Write(..) => {
                    node.election.unknown();
                    node.wake_ms = now_ms + 100;
                }
                Step::Wait(pause_ms) => node.wake_ms = now_ms + pause_ms,
            }
        }
        let Some(request) = node.election.stand_by(now_ms).filter(|_| now_ms - node.told_ms > LEASE_MS / 4) else {
            return;
        };
        node.told_ms = now_ms;
        let leader = node.election.leader().map(|(name, _)| name.to_owned());
        if let Some(to) =
            self.nodes.iter().position(|node| leader.as_ref() == Some(&node.name)).filter(|to| *to != index)
        {
            let at_ms = late(&mut self.rng, self.faults, 3);
            self.said.push((at_ms, index, to, Said::Request(request)));
        }
    }

    fn hear(&mut self, now_ms: i64) {
        let due: Vec<_>;
        (due, self.said) = self.said.drain(..).partition(|(at_ms, ..)| *at_ms <= now_ms);
        for (_, from, to, said) in due {
            let node = &mut self.nodes[to];
            if !node.goes(now_ms) || now_ms < node.apart_until_ms {
                continue;
            }
            match said {
                Said::Request(request) => {
                    if let Ok(answer) = node.election.stands_by(&request, now_ms) {
                        self.said.push((now_ms + 3, to, from, Said::Answer(request.epoch, answer)));
                    }
                }
                Said::Answer(epoch, answer) => node.election.answered(epoch, &answer, now_ms),
            }
        }
    }

    /// Runs it. An error is the moment at which two have a mandate; otherwise it tells how many terms there were.
    fn run(mut self) -> Result<usize, i64> {
        let mut terms = BTreeMap::new();
        for now_ms in (1..40_000).step_by(7) {
            self.faults = now_ms < 30_000;
            self.land(now_ms);
            self.hear(now_ms);
            for index in 0..self.nodes.len() {
                if self.faults && self.rng.random_ratio(1, 700) {
                    self.strike(index, now_ms);
                }
                if self.nodes[index].goes(now_ms) {
                    self.go(index, now_ms);
                }
            }
            let leading = self.nodes.iter().filter(|node| leads(&node.election, now_ms));
            let leading: Vec<_> =
                leading.filter_map(|node| Some((node.election.mandate()?.0, node.name.clone()))).collect();
            if leading.len() > 1 {
                return Err(now_ms);
            }
            terms.extend(leading);
        }
        assert!(self.nodes.iter().any(|node| leads(&node.election, 40_000)), "nobody leads in the end");
        Ok(terms.len())
    }
}

#[test]
fn never_do_two_have_a_mandate_and_in_the_end_one_leads() {
    let terms = |seed| World::new(seed).run().unwrap_or_else(|at_ms| panic!("seed {seed}: two lead at {at_ms}"));
    let terms: usize = (0..400).map(terms).sum();
    assert!(terms > 2000, "too little went on: {terms} terms of office");
}

#[cfg(feature = "seeded-bugs")]
#[test]
fn each_bug_of_the_election_is_found() {
    for bug in [Bug::TakesOfficeAtOnce, Bug::PromiseBroken, Bug::AnyPromiseWillDo, Bug::OfficeTakenUpAgain] {
        seeded::choose(Some(bug));
        let found = (0..2000).find(|seed| World::new(*seed).run().is_err());
        seeded::choose(None);
        assert!(found.is_some(), "{bug:?} is not found");
    }
}
