//! Snapshots that another engine takes, beside the job's own rounds.

use super::{world::*, *};
use crate::coordinator::{
    external::{Opening, Wish},
    garbage,
    machine::collect::Done,
};

/// The world of a job with an external operator beside its own, of which a shard is open under token 1.
fn world() -> World {
    let mut head = head();
    let spec = head.spec.as_mut().unwrap();
    spec.max_parallelism = 128;
    spec.checkpoints = Some(settings());
    let access = v1::Access::External.into();
    spec.operators.push(v1::Operator { name: "ext".into(), access, ..Default::default() });
    let mut world = World::with(head, 2);
    wish(&mut world, 100, open(1));
    assert!(matches!(world.answers.get(&Token(100)), Some(Ok(Answer::Opened(_)))), "{:?}", world.answers);
    world
}

fn open(token: u64) -> Wish {
    let (operator, parts, states) = ("ext".to_owned(), Vec::new(), Vec::new());
    Wish::Open(Opening { operator, start: 0, end: 128, token, parts, states })
}

fn shard() -> v1::ExternalShard {
    v1::ExternalShard { operator: "ext".into(), end: 128, ..Default::default() }
}

fn take(id: &str) -> Wish {
    let external_id = id.to_owned();
    Wish::Take(v1::TakeSnapshotRequest { shard: Some(shard()), token: 1, external_id, ..Default::default() })
}

fn wish(world: &mut World, token: u64, wish: Wish) {
    world.step(Event::External { token: Token(token), wish: Box::new(wish) });
}

/// The last command to upload, and the round it is of.
fn commanded(world: &World) -> (v1::SnapshotCommand, Round) {
    let command = world.to_server.iter().rev().find_map(|message| match message {
        ToServer::Snapshot(command) if !command.external_id.is_empty() => Some(command.clone()),
        _ => None,
    });
    let command = command.expect("the server is told to upload");
    let round = world.round(command.checkpoint);
    (command, round)
}

fn report(world: &mut World, object: &str) {
    let (_, round) = commanded(world);
    let entry = world.machine.head().shards.iter().find(|entry| entry.external.is_some()).unwrap().clone();
    let mut report = world.shard_report(&round, 0, object);
    report.writer_epoch = 0;
    report.generation = 0;
    let snapshot = report.snapshot.as_mut().unwrap();
    (snapshot.operator, snapshot.end) = ("ext".into(), 128);
    (snapshot.epoch, snapshot.incarnation, snapshot.frozen_ms) = (entry.epoch, entry.incarnation, 77);
    world.step(Event::Snapshot(report));
}

fn registered(world: &World) -> Vec<String> {
    world.machine.head().external_snapshots.iter().map(|snapshot| snapshot.external_id.clone()).collect()
}

fn refused(world: &World, token: u64) -> Reason {
    world.answers[&Token(token)].as_ref().unwrap_err().reason
}

#[test]
fn a_snapshot_is_registered_and_the_same_id_again_is_the_same_snapshot() {
    let mut world = world();
    wish(&mut world, 1, take("a"));
    wish(&mut world, 2, take("a"));
    assert_eq!(world.answers.get(&Token(1)), None);
    report(&mut world, "shared/s/1");
    wish(&mut world, 3, take("a"));
    let told = |token| match &world.answers[&Token(token)] {
        Ok(Answer::Snapshot(snapshot)) => (snapshot.external_id.clone(), snapshot.manifest.clone(), snapshot.files),
        other => panic!("{other:?}"),
    };
    assert_eq!((told(1).0, told(1).2), ("a".to_owned(), 1));
    assert_eq!((told(1), told(1)), (told(2), told(3)));
    assert_eq!(registered(&world), ["a"]);
    assert_eq!(world.completed(), [7], "it is none of the job's checkpoints");
}

#[test]
fn the_jobs_own_rounds_and_rewinds_take_no_notice() {
    let mut world = world();
    wish(&mut world, 1, take("a"));
    world.until(1_000);
    let own: Vec<u64> =
        world.machine.rounds().iter().filter(|round| round.kind.in_series()).map(|it| it.checkpoint).collect();
    assert_eq!(own.len(), 1, "an external snapshot takes no place among max_concurrent");
    assert_eq!(world.machine.rounds().iter().find(|round| round.checkpoint == own[0]).unwrap().shards.len(), 2);
    world.report(own[0]);
    assert_eq!(world.completed().last(), Some(&own[0]));
    assert_eq!(world.on_their_way().len(), 1, "a later checkpoint does not subsume it");
    // The worker is gone: the job goes back, the engine's shard and its snapshot do not.
    let before = world.machine.head().shards.iter().find(|entry| entry.external.is_some()).unwrap().clone();
    world.step(Event::Disconnected { connection: Connection(1) });
    world.now.mono_ms += 60_000;
    world.step(Event::Tick);
    assert_eq!(world.machine.head().generation, 2);
    assert!(world.machine.head().shards.contains(&before));
    report(&mut world, "shared/s/1");
    assert_eq!(registered(&world), ["a"], "however long it took");
}

#[test]
fn a_snapshot_ends_with_its_shard_its_server_or_its_engines_word() {
    let why = |end: fn(&mut World)| {
        let mut world = world();
        wish(&mut world, 1, take("a"));
        end(&mut world);
        assert_eq!(world.machine.rounds().iter().filter(|round| !round.kind.in_series()).count(), 0);
        assert_eq!(registered(&world), [""; 0]);
        assert_eq!(world.machine.head().failures, 0, "it is no failure of the job");
        refused(&world, 1)
    };
    let cancel = |world: &mut World| {
        wish(world, 2, Wish::Cancel(shard(), 1, "a".into()));
        assert_eq!(world.answers[&Token(2)], Ok(Answer::Was(true)));
        wish(world, 3, Wish::Cancel(shard(), 1, "a".into()));
        assert_eq!(world.answers[&Token(3)], Ok(Answer::Was(false)));
    };
    let aborted = |world: &mut World| {
        wish(world, 2, Wish::Judge(shard(), 1, "a".into(), v1::ExternalVerdict::Aborted));
    };
    let failed = |world: &mut World| {
        let (command, _) = commanded(world);
        let (checkpoint, round) = (command.checkpoint, command.round);
        world.step(Event::SnapshotFailed(v1::SnapshotFailed { checkpoint, round, ..Default::default() }));
    };
    assert_eq!(why(cancel), Reason::CheckpointAborted);
    assert_eq!(why(aborted), Reason::CheckpointAborted);
    assert_eq!(why(failed), Reason::CheckpointAborted);
    assert_eq!(why(|world| wish(world, 2, Wish::Close(shard(), 1))), Reason::CheckpointAborted);
    assert_eq!(why(|world| wish(world, 2, open(2))), Reason::CheckpointAborted);
    assert_eq!(why(|world| world.step(Event::ServerDown { server: "s".into() })), Reason::CheckpointAborted);
}

#[test]
fn a_report_that_comes_too_late_registers_nothing() {
    let mut world = world();
    wish(&mut world, 1, take("a"));
    let (_, round) = commanded(&world);
    let late = world.shard_report(&round, 0, "shared/s/1");
    wish(&mut world, 2, Wish::Cancel(shard(), 1, "a".into()));
    world.step(Event::Snapshot(late));
    assert_eq!(registered(&world), [""; 0]);
    wish(&mut world, 3, take("a"));
    report(&mut world, "shared/s/2");
    assert_eq!(registered(&world), ["a"], "the engine may ask again");
}

#[test]
fn the_next_snapshot_builds_on_the_one_that_was_called_complete_a_moment_ago() {
    let mut world = world();
    wish(&mut world, 1, take("a"));
    report(&mut world, "shared/s/1");
    wish(&mut world, 2, take("b"));
    assert_eq!(commanded(&world).0.bases, [], "nobody has called a complete");
    report(&mut world, "shared/s/2");
    let version = world.machine.head().version;
    wish(&mut world, 3, Wish::Judge(shard(), 1, "a".into(), v1::ExternalVerdict::Completed));
    assert_eq!(world.machine.head().version, version, "a notification alone is worth no write");
    wish(&mut world, 4, take("c"));
    let bases: Vec<_> = commanded(&world).0.bases.iter().map(|base| base.external_id.clone()).collect();
    assert_eq!(bases, ["a"]);
    report(&mut world, "shared/s/3");
    let verdicts: Vec<_> = world.machine.head().external_snapshots.iter().map(v1::ExternalSnapshot::verdict).collect();
    let (said, nothing) = (v1::ExternalVerdict::Completed, v1::ExternalVerdict::Unspecified);
    assert_eq!(verdicts, [said, nothing, nothing], "it went with the next write");
}

#[test]
fn several_snapshots_of_a_shard_are_on_their_way_at_once() {
    let mut world = world();
    for (token, id) in [(1, "a"), (2, "b"), (3, "c")] {
        wish(&mut world, token, take(id));
    }
    assert_eq!(world.on_their_way().len(), 3);
    report(&mut world, "shared/s/3");
    assert_eq!(registered(&world), ["c"]);
    assert_eq!(world.on_their_way().len(), 2, "none subsumes another");
}

#[test]
fn a_shard_whose_server_is_gone_is_lost_and_is_not_made_anew_behind_its_engines_back() {
    let mut world = world();
    let before = world.machine.head().shards.iter().find(|entry| entry.external.is_some()).unwrap().clone();
    world.step(Event::ServerUp { server: "t".into(), address: "b".into() });
    world.step(Event::ServerDown { server: "s".into() });
    world.step(Event::ServerGone { server: "s".into() });
    let after = world.machine.head().shards.iter().find(|entry| entry.external.is_some()).unwrap().clone();
    assert_eq!((before.server.as_str(), after.server.as_str()), ("s", "t"));
    assert!(after.established && after.epoch > before.epoch, "the new server finds that it has nothing of it");
}

#[test]
fn what_a_snapshot_on_its_way_has_uploaded_is_not_collected_and_what_is_discarded_is() {
    let mut world = world();
    world.machine.collect_garbage(garbage::Settings { interval_ms: 0, min_age_ms: 0 }, world.now);
    wish(&mut world, 1, take("a"));
    let collect = |world: &mut World, token: u64| -> Vec<String> {
        world.step(Event::Collect { token: Token(token), dry_run: true });
        for _ in 0..2 {
            let Some(Action::ListObjects(run, _)) = world.steps.pop_front() else { panic!("a listing") };
            let listed = |name: &str| garbage::Listed { name: name.into(), length: 1, modified_ms: 0 };
            let done = Ok(Done::Listed(vec![listed("head"), listed("shared/s/1"), listed("chk/8/r/manifest")]));
            world.step(Event::Collection { run, done });
            let Some(Action::ReadNames(run, references)) = world.steps.pop_front() else { panic!("names") };
            let mut named: std::collections::BTreeSet<String> =
                references.iter().map(|reference| reference.manifest.clone()).collect();
            if named.iter().any(|name| name.starts_with("chk/1000")) {
                named.insert("shared/s/1".into());
            }
            world.step(Event::Collection { run, done: Ok(Done::Named(named)) });
        }
        match world.answers.remove(&Token(token)) {
            Some(Ok(Answer::Collected(found))) => found.into_iter().map(|(name, _)| name).collect(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(collect(&mut world, 10), ["chk/8/r/manifest"; 0], "a round that had begun may still name them");
    report(&mut world, "shared/s/1");
    let manifest = world.machine.head().external_snapshots[0].manifest.clone();
    assert!(manifest.starts_with("chk/1000"), "{manifest}");
    assert_eq!(collect(&mut world, 11), ["chk/8/r/manifest"], "the snapshot names the other");
    wish(&mut world, 2, Wish::Discard(manifest.clone()));
    assert_eq!(world.answers[&Token(2)], Ok(Answer::Was(true)));
    wish(&mut world, 3, Wish::Discard(manifest));
    assert_eq!(world.answers[&Token(3)], Ok(Answer::Was(false)), "again is nothing to do");
    assert_eq!(collect(&mut world, 12), ["shared/s/1", "chk/8/r/manifest"]);
}
