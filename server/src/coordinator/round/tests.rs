//! Rounds, report by report.

use super::*;

fn head() -> v1::JobHead {
    let writer = v1::WriterGrant { worker: "w".into(), join_id: "j".into(), epoch: 4, token: 0 };
    let entry = |start| v1::ShardEntry {
        operator: "op".into(),
        start,
        end: start + 64,
        epoch: 2,
        incarnation: 3,
        writer: Some(writer.clone()),
        ..Default::default()
    };
    v1::JobHead { generation: 5, coordinator_epoch: 6, shards: vec![entry(0), entry(64)], ..Default::default() }
}

fn round() -> Round {
    Round::start(&head(), Id { checkpoint: 7, round: "r".into() }, 0, 0, 0)
}

fn snapshot(start: u32) -> v1::SnapshotReport {
    v1::SnapshotReport {
        checkpoint: 7,
        round: "r".into(),
        coordinator_epoch: 6,
        generation: 5,
        writer_epoch: 4,
        snapshot: Some(v1::ShardSnapshot {
            operator: "op".into(),
            start,
            end: start + 64,
            epoch: 2,
            incarnation: 3,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn barrier() -> v1::BarrierReport {
    let round = "r".into();
    v1::BarrierReport { checkpoint: 7, round, coordinator_epoch: 6, generation: 5, ..Default::default() }
}

#[test]
fn a_round_completes_when_all_shards_and_workers_have_reported() {
    let mut round = round();
    assert!(round.shard_reported(snapshot(0)) && round.worker_reported("op", "w", barrier()));
    assert!(!round.complete());
    assert!(round.shard_reported(snapshot(64)));
    assert!(round.complete());
    assert_eq!(round.manifest(&head()).shards.len(), 2);
}

#[test]
fn workers_of_two_operators_may_have_the_same_id() {
    let mut both = head();
    both.shards[1].operator = "other".into();
    let mut round = Round::start(&both, round().id(), 0, 0, 0);
    assert!(round.shard_reported(snapshot(0)));
    let mut of_other = snapshot(64);
    of_other.snapshot.as_mut().unwrap().operator = "other".into();
    assert!(round.shard_reported(of_other));
    assert!(round.worker_reported("op", "w", barrier()));
    assert!(!round.complete(), "the worker of the other group has not reported");
    assert!(round.worker_reported("other", "w", barrier()) && round.complete());
}

#[test]
fn reports_of_other_grants_rounds_and_generations_are_dropped() {
    let wrong = |change: fn(&mut v1::SnapshotReport)| {
        let mut report = snapshot(0);
        change(&mut report);
        round().shard_reported(report)
    };
    assert!(!wrong(|report| report.round = "older attempt".into()));
    assert!(!wrong(|report| report.checkpoint = 6));
    assert!(!wrong(|report| report.generation = 4));
    assert!(!wrong(|report| report.coordinator_epoch = 5));
    assert!(!wrong(|report| report.writer_epoch = 3));
    assert!(!wrong(|report| report.snapshot.as_mut().unwrap().epoch = 1));
    assert!(!wrong(|report| report.snapshot.as_mut().unwrap().incarnation = 2));
    assert!(!wrong(|report| report.snapshot.as_mut().unwrap().start = 1));
    assert!(!round().worker_reported("op", "stranger", barrier()));
    assert!(!round().worker_reported("op", "w", v1::BarrierReport { generation: 4, ..barrier() }));
}

#[test]
fn a_round_no_longer_agrees_once_a_grant_changed() {
    let mut changed = head();
    assert!(round().agrees_with(&changed));
    changed.shards[1].writer = None;
    assert!(!round().agrees_with(&changed));
    assert!(!round().agrees_with(&v1::JobHead { generation: 6, ..head() }));
}

#[test]
fn what_flink_does_not_count_does_not_count() {
    let counted = [Cause::Expired, Cause::Declined, Cause::Io, Cause::Finalize];
    assert!(counted.into_iter().all(Cause::counted));
    assert!(![Cause::Changed, Cause::Subsumed, Cause::Collected].into_iter().any(Cause::counted));
}

#[test]
fn requests_of_all_snapshots_are_summed_with_those_for_manifest_and_head() {
    let mut round = round();
    for (start, puts) in [(0, 3), (64, 4)] {
        let mut report = snapshot(start);
        report.snapshot.as_mut().unwrap().puts = puts;
        assert!(round.shard_reported(report));
    }
    assert_eq!(round.entry(1, 2, 3).puts, 3 + 4 + 2);
}
