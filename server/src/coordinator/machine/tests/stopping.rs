//! Leases and ranges that change at a stop, in virtual time.

use super::{
    world::{World, settings},
    *,
};

fn world() -> World {
    World::new(v1::CheckpointSettings { interval_ms: Some(0), ..settings() })
}

fn join_second(world: &mut World) {
    world.step(Event::Joined { connection: Connection(2), hello: join("second", "j2") });
}

/// Who holds the shards, and under which writer epoch.
fn held(world: &World) -> Vec<(String, u64)> {
    let writer = |entry: &v1::ShardEntry| entry.writer.as_ref().map(|writer| (writer.worker.clone(), writer.epoch));
    world.machine.head().shards.iter().map(|entry| writer(entry).unwrap_or_default()).collect()
}

fn ranges(world: &World) -> Vec<(u32, u32)> {
    world.machine.head().shards.iter().map(|entry| (entry.start, entry.end)).collect()
}

fn split_first(world: &mut World, token: u64, dry_run: bool) {
    let cut = Cut { operator: "op".into(), ranges: vec![(0, 16), (16, 64)] };
    world.step(Event::Cut { token: Token(token), cut, dry_run });
}

fn merge_all(world: &mut World, token: u64) {
    let cut = Cut { operator: "op".into(), ranges: vec![(0, 128)] };
    world.step(Event::Cut { token: Token(token), cut, dry_run: false });
}

fn refused(world: &World, token: u64) -> (Reason, String) {
    let refused = world.answers[&Token(token)].clone().unwrap_err();
    (refused.reason, refused.message)
}

fn says(world: &mut World, message: v1::join_request::Message) {
    world.step(Event::Worker { connection: Connection(1), message });
}

#[test]
fn a_worker_that_joins_has_the_others_stop_and_nothing_goes_back() {
    let mut world = world();
    join_second(&mut world);
    assert_eq!(world.on_their_way(), [1000]);
    assert!(world.barrier().stop && !world.barrier().unaligned);
    assert_eq!(held(&world), [("first".into(), 1), ("first".into(), 1)], "nothing has happened yet");
    world.report(1000);
    let head = world.machine.head();
    assert_eq!((head.generation, head.restored_checkpoint), (1, 1000));
    assert!(head.shards.iter().all(|entry| (entry.incarnation, entry.established) == (1, true)));
    assert_eq!(held(&world), [("first".into(), 2), ("second".into(), 2)]);
    let told = |message: &ToWorker| matches!(message, ToWorker::Rewinding(_));
    assert!(!world.to_worker.iter().any(told));
    let last = world.to_worker.iter().rev().find_map(|message| match message {
        ToWorker::Assignment(assignment) => Some(assignment.restored_checkpoint),
        _ => None,
    });
    assert_eq!(last, Some(1000));
}

#[test]
fn a_stop_that_is_aborted_lets_the_workers_go_on_and_is_tried_again() {
    let mut world = world();
    join_second(&mut world);
    let round = world.round(1000);
    says(
        &mut world,
        v1::join_request::Message::Decline(v1::Decline {
            checkpoint: 1000,
            round: round.id.clone(),
            cause: "busy".into(),
        }),
    );
    let aborted = |message: &ToWorker| matches!(message, ToWorker::Aborted(aborted) if aborted.round == round.id);
    assert!(world.to_worker.iter().any(aborted));
    assert!(world.on_their_way().is_empty(), "not at once");
    world.until(1_000);
    assert_eq!(world.on_their_way(), [1001]);
    world.report(1001);
    assert_eq!(held(&world), [("first".into(), 2), ("second".into(), 2)]);
}

#[test]
fn where_workers_do_not_stop_the_job_goes_back_as_before() {
    let mut world = world();
    join_second(&mut world);
    for checkpoint in 1000..1003 {
        world.until(i64::try_from(checkpoint - 999).unwrap() * 1_100);
        let round = world.round(checkpoint);
        let report = v1::BarrierReport {
            checkpoint,
            round: round.id.clone(),
            coordinator_epoch: round.coordinator_epoch,
            generation: round.generation,
            ..Default::default()
        };
        says(&mut world, v1::join_request::Message::Report(report));
        assert!(world.on_their_way().is_empty(), "it did not stop, so this is no cut that anything could go on from");
    }
    world.until(4_500);
    assert_eq!((world.machine.head().generation, world.machine.head().restored_checkpoint), (2, 7));
    assert_eq!(held(&world), [("first".into(), 2), ("second".into(), 2)]);
}

#[test]
fn a_worker_that_stands_still_for_a_round_that_is_over_is_told() {
    let mut world = world();
    let report = v1::BarrierReport { checkpoint: 999, round: "gone".into(), stopped: true, ..Default::default() };
    says(&mut world, v1::join_request::Message::Report(report));
    let told = |message: &ToWorker| matches!(message, ToWorker::Aborted(aborted) if aborted.round == "gone");
    assert!(world.to_worker.iter().any(told));
}

#[test]
fn who_leaves_at_a_stop_has_left_once_its_checkpoint_is_complete() {
    let mut world = world();
    let leave = v1::Leave { checkpoint: 0, after_stop: true };
    says(&mut world, v1::join_request::Message::Leave(leave));
    let left = |world: &World| world.to_worker.iter().any(|message| matches!(message, ToWorker::Ended(_)));
    assert!(world.barrier().stop && !left(&world));
    world.report(1000);
    assert!(left(&world));
    assert_eq!(held(&world), [(String::new(), 0), (String::new(), 0)]);
    join_second(&mut world);
    assert_eq!(held(&world), [("second".into(), 2), ("second".into(), 2)]);
    let head = world.machine.head();
    assert_eq!((head.generation, head.restored_checkpoint), (1, 1000), "it goes on from there");
}

#[test]
fn who_wanted_to_leave_stays_if_the_job_goes_back_first() {
    let mut world = world();
    let leave = v1::Leave { checkpoint: 0, after_stop: true };
    says(&mut world, v1::join_request::Message::Leave(leave));
    world.step(Event::ServerGone { server: "s".into() });
    world.step(Event::ServerUp { server: "t".into(), address: "b".into() });
    assert_eq!(world.machine.head().generation, 2);
    assert_eq!(held(&world), [("first".into(), 2), ("first".into(), 2)]);
}

#[test]
fn a_shard_is_split_behind_a_checkpoint_and_a_stop() {
    let mut world = world();
    split_first(&mut world, 1, false);
    assert!(!world.barrier().stop, "what is there already goes with a checkpoint that nobody waits for");
    world.report(1000);
    assert_eq!((world.barrier().stop, world.machine.moves()[0].step.as_str()), (true, "stop"));
    assert_eq!(ranges(&world), [(0, 64), (64, 128)]);
    world.report(1001);
    assert_eq!(world.answers[&Token(1)], Ok(Answer::Done));
    assert_eq!(ranges(&world), [(0, 16), (16, 64), (64, 128)]);
    let head = world.machine.head();
    let of = |entry: &v1::ShardEntry| (entry.server.clone(), entry.epoch, entry.incarnation, entry.restored_from);
    assert_eq!(of(&head.shards[0]), ("s".into(), 2, 2, 1001));
    assert_eq!(of(&head.shards[1]), ("s".into(), 2, 2, 1001));
    assert_eq!(of(&head.shards[2]), ("s".into(), 1, 1, 0), "what is not cut stays as it is");
    assert_eq!(held(&world), [("first".into(), 2), ("first".into(), 2), ("first".into(), 2)]);
    assert_eq!((head.generation, head.restored_checkpoint), (1, 1001));
}

#[test]
fn shards_that_were_merged_order_themselves_behind_both() {
    let mut world = world();
    merge_all(&mut world, 1);
    world.report(1000);
    world.report(1001);
    assert_eq!(world.answers[&Token(1)], Ok(Answer::Done));
    let entry = &world.machine.head().shards[0];
    assert_eq!((entry.start, entry.end, entry.epoch, entry.incarnation), (0, 128, 2, 2));
    assert_eq!((entry.restored_from, entry.writer_epoch, entry.established), (1001, 2, true));
}

#[test]
fn shards_stay_as_they_are_if_there_is_no_stop() {
    let mut world = world();
    split_first(&mut world, 1, false);
    world.report(1000);
    let round = world.round(1001);
    let cause = "a hook failed".to_owned();
    says(&mut world, v1::join_request::Message::Decline(v1::Decline { checkpoint: 1001, round: round.id, cause }));
    let (reason, message) = refused(&world, 1);
    assert_eq!(reason, Reason::MoveAborted);
    assert!(message.contains("stay as they are") && message.contains("a hook failed"), "{message}");
    assert_eq!(ranges(&world), [(0, 64), (64, 128)]);
    world.until(2_000);
    assert!(world.on_their_way().is_empty(), "nobody wants a stop any more");
}

#[test]
fn what_cannot_be_cut_is_told_and_a_dry_run_cuts_nothing() {
    let mut world = world();
    split_first(&mut world, 1, true);
    assert_eq!(world.answers[&Token(1)], Ok(Answer::Done));
    let unknown = Cut { operator: "op".into(), ranges: vec![(0, 100)] };
    world.step(Event::Cut { token: Token(2), cut: unknown, dry_run: false });
    assert_eq!(refused(&world, 2).0, Reason::ShardUnknown);
    let other = Cut { operator: "other".into(), ranges: vec![(0, 128)] };
    world.step(Event::Cut { token: Token(3), cut: other, dry_run: false });
    assert_eq!(refused(&world, 3).0, Reason::OperatorUnknown);
    let same = Cut { operator: "op".into(), ranges: vec![(0, 64), (64, 128)] };
    world.step(Event::Cut { token: Token(4), cut: same, dry_run: false });
    assert_eq!(world.answers[&Token(4)], Ok(Answer::Done), "it is so already");
    split_first(&mut world, 5, false);
    merge_all(&mut world, 6);
    assert_eq!(refused(&world, 6).0, Reason::MoveAborted, "one after the other");
    assert_eq!(world.on_their_way(), [1000]);
}

/// A shared operator has no writer that could stop.
#[test]
fn a_shared_shard_serves_nothing_while_it_is_cut_and_serves_again_if_it_is_not() {
    let mut head = head();
    let spec = head.spec.as_mut().unwrap();
    spec.operators[0].access = v1::Access::Shared.into();
    spec.checkpoints = Some(v1::CheckpointSettings { interval_ms: Some(0), ..settings() });
    head.shards.iter_mut().for_each(|entry| entry.writer = None);
    let mut world = World::with(head.clone(), 2);
    let report = |world: &mut World, checkpoint| {
        let round = world.round(checkpoint);
        for start in [0, 64] {
            let report = world.shard_report(&round, start, &format!("shared/s/{checkpoint}-{start}"));
            world.step(Event::Snapshot(v1::SnapshotReport { writer_epoch: 0, ..report }));
        }
    };
    split_first(&mut world, 1, false);
    report(&mut world, 1000);
    assert!(world.machine.head().shards[0].is_leaving(), "its server serves nothing of it");
    assert!(!world.machine.head().shards[1].is_leaving());
    let left = world.machine.head().clone();
    report(&mut world, 1002);
    assert_eq!(world.answers[&Token(1)], Ok(Answer::Done));
    assert_eq!(ranges(&world), [(0, 16), (16, 64), (64, 128)]);
    assert!(world.machine.head().shards.iter().all(|entry| entry.handover.is_none() && entry.established));

    // A coordinator that follows knows of no cut.
    let next = World::with(v1::JobHead { coordinator_epoch: 3, ..left }, 3);
    assert_eq!(ranges(&next), [(0, 64), (64, 128)]);
    assert!(next.machine.head().shards.iter().all(|entry| entry.handover.is_none()));
}
