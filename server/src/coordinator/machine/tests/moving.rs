//! Shards that go to another server, in virtual time.

use super::{
    world::{World, settings},
    *,
};

const MIB: u64 = 1 << 20;

/// Two servers, `s` with both shards and `t` with none, and no checkpoints but those that are asked for.
fn world() -> World {
    two_servers(World::new(v1::CheckpointSettings { interval_ms: Some(0), ..settings() }))
}

fn two_servers(mut world: World) -> World {
    world.step(Event::ServerUp { server: "t".into(), address: "b".into() });
    world
}

fn move_first(world: &mut World, token: u64, to: &str) {
    let place = ("op".to_owned(), 0, 64);
    world.step(Event::Move { token: Token(token), place, to: to.into(), dry_run: false });
}

/// The new server has brought so many bytes of a checkpoint to its disk.
fn prepared(world: &mut World, checkpoint: u64, bytes: u64) {
    let prepared = v1::ShardPrepared {
        operator: "op".into(),
        end: 64,
        checkpoint,
        bytes_done: bytes,
        bytes,
        done: true,
        ..Default::default()
    };
    world.step(Event::Prepared { server: "t".into(), prepared });
}

fn first(world: &World) -> v1::ShardEntry {
    world.machine.head().shards[0].clone()
}

/// Has the first shard leave, under the number 1001.
fn leave(world: &mut World) {
    move_first(world, 1, "t");
    world.report(1000);
    prepared(world, 1000, MIB);
    assert!(first(world).is_leaving());
}

fn hand_over(world: &mut World) {
    let round = world.round(1001);
    let report = world.shard_report(&round, 0, "shared/s/rest");
    world.step(Event::Snapshot(v1::SnapshotReport { writer_epoch: 0, ..report }));
}

fn refused(world: &World, token: u64) -> (Reason, String) {
    let refused = world.answers[&Token(token)].clone().unwrap_err();
    (refused.reason, refused.message)
}

#[test]
fn laps_bring_what_is_there_and_only_the_rest_waits() {
    let mut world = world();
    move_first(&mut world, 1, "t");
    assert_eq!((world.on_their_way(), world.machine.moves()[0].step.as_str()), (vec![1000], "checkpoint"));
    world.report(1000);
    let pins = |world: &World| world.machine.head().pins.iter().map(|pin| pin.checkpoint).collect::<Vec<_>>();
    assert_eq!((pins(&world), world.machine.moves()[0].step.as_str()), (vec![1000], "copy"));
    assert!(
        matches!(world.to_server.last(), Some(ToServer::Prepare(it)) if it.checkpoint.as_ref().unwrap().id == 1000)
    );
    // That was much: what was written meanwhile may be, too.
    prepared(&mut world, 1000, 9 * MIB);
    assert!(world.on_their_way().is_empty(), "what is flushed now need not be read from the log");
    world.until(500);
    assert_eq!(world.on_their_way(), [1001]);
    world.report(1001);
    assert_eq!(pins(&world), [1001]);
    prepared(&mut world, 1000, MIB);
    assert_eq!(pins(&world), [1001], "that is not what was asked for");
    let before = first(&world);
    prepared(&mut world, 1001, MIB);
    assert_eq!((first(&world).move_number(), pins(&world)), (1002, vec![]));
    let round = world.round(1002);
    assert_eq!((round.kind, round.base), (Kind::Handover, 1001));
    // A checkpoint over it would be aborted: it waits.
    world.trigger(2, Kind::Manual, false);
    assert_eq!(world.on_their_way(), [1002]);
    let report = world.shard_report(&round, 0, "shared/s/rest");
    world.step(Event::Snapshot(v1::SnapshotReport { writer_epoch: 0, ..report }));
    let after = first(&world);
    assert_eq!((after.server.as_str(), after.epoch, after.established), ("t", before.epoch + 1, true));
    assert_eq!((after.incarnation, &after.writer, &after.handover), (before.incarnation, &before.writer, &None));
    assert_eq!(world.answers[&Token(1)], Ok(Answer::Done));
    assert_eq!((world.machine.moves().len(), world.on_their_way()), (0, vec![1003]));
    assert_eq!(world.machine.head().failures, 0);
}

#[test]
fn a_shard_that_cannot_be_stored_stays_and_so_does_one_that_takes_too_long() {
    let mut world = world();
    leave(&mut world);
    world.fail(1001);
    assert_eq!((first(&world).server.as_str(), first(&world).handover), ("s", None));
    let (reason, message) = refused(&world, 1);
    assert!(reason == Reason::MoveAborted && message.starts_with("shard op [0,64) stays on \"s\""), "{message}");
    assert_eq!(world.machine.head().failures, 0, "it is no checkpoint of the job's");

    move_first(&mut world, 2, "t");
    world.report(1002);
    prepared(&mut world, 1002, 0);
    let late = world.round(1003);
    world.until(25_000);
    assert_eq!((first(&world).server.as_str(), first(&world).handover), ("s", None));
    assert!(refused(&world, 2).1.contains("could not be stored within 20 s"), "{}", refused(&world, 2).1);
    let report = world.shard_report(&late, 0, "shared/s/late");
    world.step(Event::Snapshot(v1::SnapshotReport { writer_epoch: 0, ..report }));
    assert_eq!(first(&world).server, "s", "what was stored for a move that was given up counts for nothing");
}

#[test]
fn a_server_that_goes_away_gets_no_shard_and_one_that_has_it_keeps_it() {
    let mut world = world();
    leave(&mut world);
    world.step(Event::ServerDown { server: "t".into() });
    assert_eq!((first(&world).server.as_str(), first(&world).handover), ("s", None));
    assert_eq!(refused(&world, 1).0, Reason::MoveAborted);

    world.step(Event::ServerUp { server: "t".into(), address: "b".into() });
    move_first(&mut world, 2, "t");
    world.report(1002);
    prepared(&mut world, 1002, 0);
    world.step(Event::ServerDown { server: "s".into() });
    assert_eq!(refused(&world, 2).0, Reason::MoveAborted);
    world.step(Event::ServerUp { server: "s".into(), address: "a".into() });
    assert_eq!((first(&world).server.as_str(), first(&world).handover), ("s", None));
    assert!(first(&world).established);
}

#[test]
fn a_successor_keeps_a_shard_where_it_is_unless_it_has_left() {
    let mut world = world();
    leave(&mut world);
    let mut head = world.machine.head().clone();
    // Nobody has linked yet, so nobody is there to take it.
    let next = two_servers(World::with(head.clone(), 3));
    assert_eq!((first(&next).server.as_str(), first(&next).handover), ("s", None));

    let entry = &mut head.shards[0];
    let snapshot = Some(v1::CompletedCheckpoint { id: 1001, ..Default::default() });
    entry.handover = Some(v1::Handover { r#move: 1001, server: "t".into(), snapshot });
    (entry.server, entry.epoch, entry.established) = ("t".into(), entry.epoch + 1, false);
    let (writer, incarnation) = (entry.writer.clone(), entry.incarnation);
    let next = two_servers(World::with(head, 3));
    let arrived = first(&next);
    assert_eq!((arrived.server.as_str(), arrived.established, arrived.handover), ("t", true, None));
    assert_eq!((arrived.writer, arrived.incarnation), (writer, incarnation));
}

#[test]
fn a_rewind_ends_a_move_where_it_is() {
    let mut world = world();
    leave(&mut world);
    let incarnation = first(&world).incarnation;
    world.step(Event::Joined { connection: Connection(2), hello: join("first", "j2") });
    let after = first(&world);
    assert_eq!((after.server.as_str(), after.handover), ("s", None));
    assert!(after.incarnation > incarnation, "a worker that was started anew takes the job back");
    assert_eq!(refused(&world, 1).0, Reason::MoveAborted);
}

#[test]
fn who_asks_again_waits_for_the_same_and_who_asks_for_another_is_refused() {
    let mut world = world();
    world.step(Event::ServerUp { server: "u".into(), address: "c".into() });
    move_first(&mut world, 1, "t");
    move_first(&mut world, 2, "t");
    move_first(&mut world, 3, "u");
    assert_eq!(refused(&world, 3).0, Reason::MoveAborted);
    move_first(&mut world, 4, "nobody");
    assert_eq!(refused(&world, 4).0, Reason::ServerUnknown);
    let place = ("op".to_owned(), 0, 63);
    world.step(Event::Move { token: Token(5), place, to: "t".into(), dry_run: false });
    assert_eq!(refused(&world, 5).0, Reason::ShardUnknown);
    world.report(1000);
    prepared(&mut world, 1000, 0);
    hand_over(&mut world);
    assert_eq!([1, 2].map(|token| world.answers[&Token(token)].clone()), [Ok(Answer::Done), Ok(Answer::Done)]);
    move_first(&mut world, 6, "t");
    assert_eq!(world.answers[&Token(6)], Ok(Answer::Done), "it is there");
}

#[test]
fn checkpoints_that_fail_again_and_again_end_a_move() {
    let mut world = world();
    move_first(&mut world, 1, "t");
    for checkpoint in 1000..1003 {
        world.fail(checkpoint);
    }
    let (reason, message) = refused(&world, 1);
    assert!(reason == Reason::MoveAborted && message.contains("3 checkpoints failed in a row"), "{message}");
}
