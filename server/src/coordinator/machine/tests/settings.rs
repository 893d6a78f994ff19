//! The settings of semantics.md, section 7, each in virtual time.

use super::{
    world::{World, settings},
    *,
};

#[test]
fn an_interval_goes_from_start_to_start() {
    let mut world = World::new(settings());
    world.until(999);
    assert!(world.on_their_way().is_empty());
    world.until(1_000);
    assert_eq!(world.on_their_way(), [1000]);
    world.until(1_800);
    world.report(1000);
    world.until(1_999);
    assert_eq!((world.on_their_way(), world.completed()), (vec![], vec![7, 1000]));
    world.until(2_000);
    assert_eq!(world.on_their_way(), [1001], "a second after the start, not after the end");
}

#[test]
fn without_an_interval_only_what_is_asked_for_is_taken() {
    let mut world = World::new(v1::CheckpointSettings { interval_ms: Some(0), ..settings() });
    world.until(100_000);
    assert!(world.on_their_way().is_empty());
    world.trigger(1, Kind::Manual, false);
    assert_eq!(world.on_their_way(), [1000]);
}

#[test]
fn a_round_that_takes_longer_than_the_timeout_is_aborted_and_its_late_reports_are_dropped() {
    let mut world = World::new(v1::CheckpointSettings { timeout_ms: 5_000, interval_ms: Some(60_000), ..settings() });
    world.trigger(1, Kind::Manual, false);
    let round = world.round(1000);
    world.until(5_000);
    assert_eq!(world.on_their_way(), [1000]);
    world.until(5_001);
    assert!(world.on_their_way().is_empty());
    assert_eq!(world.answers[&Token(1)].as_ref().unwrap_err().reason, Reason::CheckpointAborted);
    world.report_round(&round);
    assert_eq!(world.completed(), [7]);
    world.trigger(2, Kind::Manual, false);
    world.report_round(&round);
    assert_eq!((world.completed(), world.on_their_way()), (vec![7], vec![1001]), "another round is not helped");
    world.report(1001);
    assert_eq!(world.completed(), [7, 1001]);
}

#[test]
fn a_pause_goes_from_end_to_start_and_binds_periodic_rounds_only() {
    let mut world = World::new(v1::CheckpointSettings { min_pause_ms: 700, max_concurrent: 4, ..settings() });
    world.until(1_900);
    assert_eq!(world.on_their_way(), [1000]);
    world.until(2_500);
    assert_eq!(world.on_their_way(), [1000], "no second one while one is on its way");
    world.report(1000);
    world.until(3_199);
    assert!(world.on_their_way().is_empty());
    world.until(3_200);
    assert_eq!(world.on_their_way(), [1001]);
    world.report(1001);
    world.trigger(1, Kind::Manual, false);
    assert_eq!(world.on_their_way(), [1002], "who asks does not wait for the pause");
}

#[test]
fn so_many_rounds_go_on_at_a_time() {
    let mut world = World::new(v1::CheckpointSettings { max_concurrent: 2, ..settings() });
    world.until(4_000);
    assert_eq!(world.on_their_way(), [1000, 1001]);
    world.report(1000);
    assert_eq!((world.completed(), world.on_their_way()), (vec![7, 1000], vec![1001, 1002]));
    world.report(1001);
    assert_eq!(world.completed(), [7, 1000, 1001], "each in its turn");
}

#[test]
fn a_later_one_that_completes_first_subsumes_the_earlier() {
    let mut world = World::new(v1::CheckpointSettings { max_concurrent: 3, interval_ms: Some(0), ..settings() });
    (1..=3).for_each(|token| world.trigger(token, Kind::Manual, false));
    assert_eq!(world.on_their_way(), [1000, 1001, 1002]);
    world.report(1001);
    assert_eq!((world.completed(), world.on_their_way()), (vec![7, 1001], vec![1002]));
    let Ok(Answer::Checkpoint(entry)) = &world.answers[&Token(1)] else { panic!("{:?}", world.answers) };
    assert_eq!(entry.id, 1001, "what was asked for is in the later one");
    assert_eq!(world.machine.head().failures, 0, "to be subsumed is no failure");
}

#[test]
fn two_that_are_stored_while_a_head_is_written_complete_together_and_in_order() {
    let mut world = World::new(v1::CheckpointSettings { max_concurrent: 2, interval_ms: Some(0), ..settings() });
    (1..=2).for_each(|token| world.trigger(token, Kind::Manual, false));
    world.hold_heads = true;
    let codec = || "bytes".to_owned();
    let descriptor = v1::StateDescriptor {
        name: "count".into(),
        kind: v1::StateKind::Value.into(),
        key_codec: codec(),
        namespace_codec: codec(),
        value_codec: codec(),
        ..Default::default()
    };
    world.step(Event::Register { token: Token(9), operator: "op".into(), descriptors: vec![descriptor] });
    world.report(1001);
    world.report(1000);
    assert_eq!((world.completed(), world.on_their_way()), (vec![7], vec![1000, 1001]));
    world.write_heads();
    assert_eq!((world.completed(), world.on_their_way()), (vec![7, 1000, 1001], vec![]));
    let told = world.to_worker.iter().filter_map(|message| match message {
        ToWorker::Completed(completed) => Some(completed.checkpoint),
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), [1000, 1001]);
}

#[test]
fn one_failure_more_than_is_tolerated_takes_the_job_back_and_it_goes_on() {
    let mut world = World::new(v1::CheckpointSettings { tolerable_failures: Some(2), ..settings() });
    for (at, checkpoint) in [(1_000, 1000), (2_000, 1001)] {
        world.until(at);
        world.fail(checkpoint);
    }
    assert_eq!((world.machine.head().failures, world.machine.head().generation), (2, 1));
    world.until(3_000);
    world.fail(1002);
    let head = world.machine.head();
    assert_eq!((head.generation, head.restored_checkpoint, head.failures), (2, 7, 0));
    let said = world.to_worker.iter().find_map(|message| match message {
        ToWorker::Rewinding(rewinding) => Some(rewinding.cause.clone()),
        _ => None,
    });
    assert_eq!(said.as_deref(), Some("3 checkpoints in a row failed, tolerated are 2"));
    world.until(3_100);
    assert!(world.machine.head().shards.iter().all(|entry| entry.writer.is_some()), "it is written again");
}

#[test]
fn a_success_ends_the_row_of_failures() {
    let mut world = World::new(v1::CheckpointSettings { tolerable_failures: Some(1), ..settings() });
    world.until(1_000);
    world.fail(1000);
    world.until(2_000);
    world.report(1001);
    assert_eq!(world.machine.head().failures, 0);
    world.until(3_000);
    world.fail(1002);
    assert_eq!((world.machine.head().failures, world.machine.head().generation), (1, 1));
}

#[test]
fn what_is_not_the_jobs_fault_and_what_a_savepoint_meets_does_not_count() {
    let mut world = World::new(v1::CheckpointSettings { tolerable_failures: Some(0), ..settings() });
    world.until(1_000);
    world.step(Event::ServerDown { server: "s".into() });
    assert!(world.on_their_way().is_empty());
    world.step(Event::ServerUp { server: "s".into(), address: "a".into() });
    world.trigger(1, Kind::Savepoint, false);
    world.fail(1001);
    assert_eq!((world.machine.head().failures, world.machine.head().generation), (0, 1));
    world.until(2_100);
    let decline = v1::Decline { checkpoint: 1002, round: world.round(1002).id, cause: "no".into() };
    let message = v1::join_request::Message::Decline(decline);
    world.step(Event::Worker { connection: Connection(1), message });
    assert_eq!(world.machine.head().generation, 2, "a worker that declines counts");
}

#[test]
fn the_next_coordinator_goes_on_counting() {
    let mut world = World::new(v1::CheckpointSettings { tolerable_failures: Some(1), ..settings() });
    world.until(1_000);
    world.fail(1000);
    let mut next = World::with(world.machine.head().clone(), 3);
    next.until(1_000);
    let checkpoint = next.on_their_way()[0];
    next.fail(checkpoint);
    assert_eq!(next.machine.head().generation, 2);
}

#[test]
fn a_round_dies_with_its_coordinator_and_the_next_one_works() {
    let mut world = World::new(settings());
    world.until(1_000);
    let round = world.round(1000);
    let mut next = World::with(world.machine.head().clone(), 3);
    next.report_round(&round);
    assert_eq!((next.completed(), next.on_their_way()), (vec![7], vec![]));
    next.until(1_000);
    next.report_round(&round);
    assert_eq!(next.completed(), [7], "the reports of the dead round help no other");
    let checkpoint = next.on_their_way()[0];
    assert!(checkpoint > 1000, "no id is used twice");
    next.report(checkpoint);
    assert_eq!(next.completed(), [7, checkpoint]);
}

#[test]
fn every_nth_checkpoint_uploads_everything() {
    let mut world = World::new(v1::CheckpointSettings { full_every: 3, ..settings() });
    let mut bases = Vec::new();
    for number in 0..6 {
        world.until(1_000 * (number + 1));
        bases.push(world.barrier().base);
        world.report(world.on_their_way()[0]);
    }
    assert_eq!(bases, [7, 1000, 0, 1002, 1003, 0]);
}

#[test]
fn incremental_is_the_jobs_choice_and_a_callers() {
    let mut world = World::new(v1::CheckpointSettings { interval_ms: Some(0), ..settings() });
    world.trigger(1, Kind::Manual, false);
    assert_eq!(world.barrier().base, 7);
    world.report(1000);
    world.trigger(2, Kind::Manual, true);
    assert_eq!(world.barrier().base, 0);
    let mut world = World::new(v1::CheckpointSettings { incremental: Some(false), ..settings() });
    world.until(1_000);
    assert_eq!(world.barrier().base, 0);
}

#[test]
fn a_barrier_tells_the_cut() {
    let mode = v1::CheckpointMode::AtLeastOnce.into();
    let mut world = World::new(v1::CheckpointSettings { mode, ..settings() });
    world.until(1_000);
    assert_eq!((world.barrier().mode(), world.barrier().unaligned), (v1::CheckpointMode::AtLeastOnce, false));
    let mut world = World::new(v1::CheckpointSettings { unaligned: true, ..settings() });
    world.until(1_000);
    assert!(world.barrier().unaligned);
    world.report(1000);
    world.trigger(1, Kind::Savepoint, false);
    assert!(!world.barrier().unaligned, "a savepoint holds no records in flight");
}

#[test]
fn only_the_workers_of_sources_are_sent_barriers_and_all_have_to_report() {
    let mut head = head();
    let spec = head.spec.as_mut().unwrap();
    spec.checkpoints = Some(settings());
    spec.operators[0].source = true;
    let access = v1::Access::Leased.into();
    spec.operators.push(v1::Operator { name: "behind".into(), access, ..Default::default() });
    let mut behind = head.shards[0].clone();
    behind.operator = "behind".into();
    behind.writer = Some(v1::WriterGrant { worker: "second".into(), join_id: "j2".into(), epoch: 1, token: 0 });
    head.shards.push(behind);
    let mut world = World::with(head, 2);
    let hello = v1::JoinHello { operator: "behind".into(), ..join("second", "j2") };
    world.step(Event::Joined { connection: Connection(2), hello });
    let mut sent = Vec::new();
    world.now.mono_ms = 1_000;
    for action in world.machine.step(Event::Trigger { token: Token(1), full: false }, world.now) {
        if let Action::ToWorker(connection, ToWorker::Barrier(_)) = action {
            sent.push(connection);
        }
    }
    assert_eq!(sent, [Connection(1)]);
    let round = world.machine.rounds()[0].clone();
    assert_eq!(round.workers.len(), 2);
    world.report_round(&round);
    assert_eq!(world.completed(), [7], "the worker behind has not reported");
}

#[test]
fn savepoints_come_before_what_was_asked_for_and_that_before_what_is_due() {
    let mut world = World::new(settings());
    world.until(1_000);
    assert_eq!(world.on_their_way(), [1000]);
    world.trigger(1, Kind::Manual, false);
    world.trigger(2, Kind::Savepoint, false);
    world.trigger(3, Kind::Savepoint, false);
    let kinds: Vec<_> = world.machine.rounds().iter().map(|round| (round.checkpoint, round.kind)).collect();
    let expected = [(1000, Kind::Periodic), (1001, Kind::Savepoint), (1002, Kind::Savepoint)];
    assert_eq!(kinds, expected, "savepoints wait for nobody; the other one for a slot");
    world.until(2_000);
    world.report(1000);
    assert_eq!(world.round(1003).kind, Kind::Manual, "though a periodic one is due, too");
    world.report(1003);
    assert_eq!(world.on_their_way()[..2], [1001, 1002], "savepoints are not subsumed");
    world.report(1001);
    assert_eq!(world.completed(), [7, 1000, 1003], "a savepoint is no checkpoint that the job goes back to");
    let Ok(Answer::Checkpoint(entry)) = &world.answers[&Token(2)] else { panic!("{:?}", world.answers) };
    assert_eq!((entry.id, entry.savepoint, &entry.prefix[..]), (1001, true, "savepoints/job-1001-id/"));
    let told = world.to_worker.iter().rev().find_map(|message| match message {
        ToWorker::Completed(completed) => Some((completed.checkpoint, completed.savepoint)),
        _ => None,
    });
    assert_eq!(told, Some((1001, true)), "workers must not commit anything for it");
}

#[test]
fn a_savepoint_stands_alone_and_its_servers_must_know_that_it_is_one() {
    let mut world = World::new(v1::CheckpointSettings { interval_ms: Some(0), ..settings() });
    world.until(1_000);
    world.trigger(1, Kind::Savepoint, false);
    let round = world.round(1000);
    assert_eq!(round.base, 0, "nothing of an earlier checkpoint is referred to");
    let started = world.to_server.iter().rev().find_map(|message| match message {
        ToServer::Started(started) => started.savepoint.clone(),
        _ => None,
    });
    assert_eq!(started, round.savepoint);
    world.step(Event::Snapshot(world.shard_report(&round, 0, "shared/s/x")));
    assert!(world.on_their_way().is_empty());
    let refused = world.answers[&Token(1)].as_ref().unwrap_err();
    assert!(refused.message.contains("savepoint"), "{}", refused.message);
    assert!(world.machine.head().pins.is_empty(), "what a savepoint uploaded is of no use to a checkpoint");
}

#[test]
fn servers_hear_how_many_of_their_shards_take_part_before_the_barrier() {
    let mut world = World::new(settings());
    world.until(1_000);
    let Some(ToServer::Started(started)) = world.to_server.last() else { panic!("{:?}", world.to_server) };
    assert_eq!((started.checkpoint, started.shards, &started.reusable[..]), (1000, 2, &[][..]));
}
