//! Bases and uploads that outlive their rounds.

use super::{
    world::{World, settings},
    *,
};

fn pins(world: &World) -> Vec<(String, Vec<String>)> {
    world.machine.head().pins.iter().map(|pin| (pin.holder.clone(), pin.objects.clone())).collect()
}

fn started(world: &World) -> Vec<String> {
    let mut started = world.to_server.iter().filter_map(|message| match message {
        ToServer::Started(started) => Some(started.reusable.clone()),
        _ => None,
    });
    started.next_back().expect("a round was started")
}

#[test]
fn the_base_of_a_round_is_pinned_while_a_concurrent_commit_drops_it_from_the_head() {
    let mut world =
        World::new(v1::CheckpointSettings { max_concurrent: 2, retained: 1, interval_ms: Some(0), ..settings() });
    (1..=2).for_each(|token| world.trigger(token, Kind::Manual, false));
    let later = world.round(1001);
    assert_eq!(later.base, 7);
    world.report(1000);
    assert_eq!(world.completed(), [1000]);
    assert_eq!(pins(&world), [(format!("round {}", later.id), vec!["chk/7/r/manifest".to_owned()])]);
    let Some(ToServer::Ended(ended)) = world.to_server.last() else { panic!("{:?}", world.to_server) };
    assert_eq!(ended.retained, [7, 1000, 1001], "its manifest and the local copies on their way are kept");
    world.report(1001);
    assert_eq!((world.completed(), pins(&world)), (vec![1001], vec![]), "the write that ends it drops the pin");
}

#[test]
fn uploads_of_an_aborted_round_are_pinned_told_of_and_let_go_when_a_later_one_completes() {
    let mut world = World::new(settings());
    world.until(1_000);
    let round = world.round(1000);
    world.step(Event::Snapshot(world.shard_report(&round, 0, "shared/s/a")));
    let late = world.shard_report(&round, 64, "shared/s/b");
    world.fail(1000);
    assert_eq!(pins(&world), [(format!("aborted {}", round.id), vec!["shared/s/a".to_owned()])]);
    world.step(Event::Snapshot(late));
    assert_eq!(pins(&world)[0].1, ["shared/s/a", "shared/s/b"], "what is reported late counts, too");
    world.until(2_000);
    assert_eq!(started(&world), [round.id]);
    world.report(1001);
    assert_eq!(pins(&world), []);
    world.until(3_000);
    assert_eq!(started(&world), [""; 0]);
}

#[test]
fn what_a_failed_shard_uploaded_all_the_same_is_pinned() {
    let mut world = World::new(settings());
    world.until(1_000);
    let round = world.round(1000).id;
    let sst = |object: &str| v1::SnapshotFile { object: object.into(), sst_id: "id".into(), ..Default::default() };
    let uploaded = vec![sst("shared/s/a"), v1::SnapshotFile { object: "chk/1000/r/b".into(), ..Default::default() }];
    let failed = v1::SnapshotFailed { checkpoint: 1000, round: round.clone(), uploaded, ..Default::default() };
    world.step(Event::SnapshotFailed(failed));
    let expected = vec!["shared/s/a".to_owned()];
    assert_eq!(pins(&world), [(format!("aborted {round}"), expected)], "what has no identity cannot be used again");
}

#[test]
fn reports_of_rounds_that_this_coordinator_does_not_know_pin_nothing() {
    let mut world = World::new(settings());
    world.until(1_000);
    let round = world.round(1000);
    let mut next = World::with(world.machine.head().clone(), 3);
    next.step(Event::Snapshot(world.shard_report(&round, 0, "shared/s/a")));
    next.until(500);
    assert_eq!(pins(&next), [], "it may have been collected since");
}
