use super::*;

fn head() -> v1::JobHead {
    let operator = v1::Operator { name: "op".into(), access: v1::Access::External.into(), ..Default::default() };
    let spec =
        v1::JobSpec { name: "job".into(), max_parallelism: 128, operators: vec![operator], ..Default::default() };
    v1::JobHead { spec: Some(spec), job_uid: "u".into(), ..Default::default() }
}

fn opening(start: u32, end: u32, token: u64) -> Opening {
    Opening { operator: "op".into(), start, end, token, parts: Vec::new(), states: Vec::new() }
}

fn ranges(head: &v1::JobHead) -> Vec<(u32, u32, u64)> {
    let token = |entry: &v1::ShardEntry| entry.external.as_ref().unwrap().token;
    head.shards.iter().map(|entry| (entry.start, entry.end, token(entry))).collect()
}

fn fences(head: &v1::JobHead) -> Vec<(u32, u32, u64)> {
    head.external_fences.iter().map(|fence| (fence.start, fence.end, fence.token)).collect()
}

fn reason<T: std::fmt::Debug>(result: Result<T, Refused>) -> Reason {
    result.unwrap_err().reason
}

fn snapshot(id: &str, start: u32, end: u32, token: u64, checkpoint: u64) -> v1::ExternalSnapshot {
    v1::ExternalSnapshot {
        external_id: id.into(),
        operator: "op".into(),
        start,
        end,
        token,
        manifest: format!("chk/{checkpoint}/r/manifest"),
        checkpoint,
        files: 1,
        ..Default::default()
    }
}

fn handle(snapshot: &v1::ExternalSnapshot) -> Option<v1::SnapshotHandle> {
    let snapshot = Some(snapshot.clone());
    Some(v1::SnapshotHandle { job: "job".into(), job_uid: "u".into(), snapshot, ..Default::default() })
}

fn part(snapshot: &v1::ExternalSnapshot, start: u32, end: u32) -> v1::RestorePart {
    v1::RestorePart { handle: handle(snapshot), start, end }
}

fn shard(start: u32, end: u32) -> v1::ExternalShard {
    v1::ExternalShard { job: "job".into(), job_uid: "u".into(), operator: "op".into(), start, end }
}

#[test]
fn every_opening_has_epochs_that_no_other_has() {
    let mut head = head();
    let first = open(&mut head, &opening(0, 64, 1)).unwrap();
    let second = open(&mut head, &opening(64, 128, 1)).unwrap();
    let third = open(&mut head, &opening(0, 64, 2)).unwrap();
    assert!(first < second && second < third);
    assert_eq!(ranges(&head), [(0, 64, 2), (64, 128, 1)]);
    assert!(head.shards.iter().all(|entry| entry.epoch == entry.writer_epoch && !entry.established));
}

#[test]
fn the_same_token_again_is_the_same_opening() {
    let mut head = head();
    let epoch = open(&mut head, &opening(0, 64, 1)).unwrap();
    let before = head.clone();
    assert_eq!(open(&mut head, &opening(0, 64, 1)).unwrap(), epoch);
    assert_eq!(head, before);
    assert_eq!(reason(open(&mut head, &opening(0, 65, 1))), Reason::AlreadyExists, "other key groups");
    head.external_snapshots.push(snapshot("a", 0, 64, 0, 3));
    let parts =
        parts("u", "op", KeyGroupRange::new(0, 64).unwrap(), &[part(&head.external_snapshots[0], 0, 0)]).unwrap();
    assert_eq!(reason(open(&mut head, &Opening { parts, ..opening(0, 64, 1) })), Reason::AlreadyExists, "other parts");
}

#[test]
fn a_lower_token_never_takes_over_neither_what_is_open_nor_what_was() {
    let mut head = head();
    open(&mut head, &opening(0, 64, 5)).unwrap();
    assert_eq!(reason(open(&mut head, &opening(32, 96, 4))), Reason::WriterFenced);
    // An attempt with other key groups takes over all that it overlaps.
    open(&mut head, &opening(32, 96, 6)).unwrap();
    assert_eq!((ranges(&head), fences(&head)), (vec![(32, 96, 6)], vec![(0, 64, 5)]));
    assert_eq!(reason(open(&mut head, &opening(0, 32, 4))), Reason::WriterFenced, "these were open under 5");
    close(&mut head, "op", 32, 96, 6).unwrap();
    assert_eq!((ranges(&head), fences(&head)), (vec![], vec![(0, 32, 5), (32, 96, 6)]));
    assert_eq!(reason(open(&mut head, &opening(40, 50, 5))), Reason::WriterFenced);
    assert_eq!(reason(open(&mut head, &opening(40, 50, 6))), Reason::WriterFenced, "6 has closed it");
    open(&mut head, &opening(0, 32, 6)).unwrap();
    open(&mut head, &opening(96, 128, 1)).unwrap();
}

#[test]
fn only_the_opening_itself_or_a_later_one_closes_and_closing_again_does_nothing() {
    let mut head = head();
    open(&mut head, &opening(0, 64, 5)).unwrap();
    assert_eq!(reason(close(&mut head, "op", 0, 64, 4)), Reason::WriterFenced);
    close(&mut head, "op", 0, 32, 5).unwrap();
    assert_eq!(ranges(&head), [(0, 64, 5)], "that is no shard");
    close(&mut head, "op", 0, 64, 5).unwrap();
    close(&mut head, "op", 0, 64, 5).unwrap();
    assert_eq!(ranges(&head), []);
}

#[test]
fn parts_are_clipped_and_may_not_overlap() {
    let range = KeyGroupRange::new(10, 100).unwrap();
    let (left, right) = (snapshot("a", 0, 64, 1, 3), snapshot("a", 64, 128, 1, 4));
    let taken = |asked: &[v1::RestorePart]| -> Result<Vec<(u64, u32, u32)>, Refused> {
        let taken = parts("u", "op", range, asked)?;
        Ok(taken.iter().map(|part| (part.snapshot.as_ref().unwrap().checkpoint, part.start, part.end)).collect())
    };
    assert_eq!(taken(&[part(&right, 0, 0), part(&left, 0, 0)]).unwrap(), [(3, 10, 64), (4, 64, 100)]);
    assert_eq!(taken(&[part(&left, 20, 30), part(&left, 40, 200)]).unwrap(), [(3, 20, 30), (3, 40, 64)]);
    assert_eq!(taken(&[part(&left, 0, 10)]).unwrap(), [], "nothing of it is the shard's");
    let empty = v1::ExternalSnapshot { files: 0, ..left.clone() };
    assert_eq!(taken(&[part(&empty, 0, 0)]).unwrap(), [], "it held nothing");
    assert_eq!(reason(taken(&[part(&left, 0, 0), part(&left, 60, 64)])), Reason::FieldInvalid);
    assert_eq!(reason(taken(&[v1::RestorePart::default()])), Reason::FieldInvalid);
    let of_other = v1::ExternalSnapshot { operator: "other".into(), ..left.clone() };
    assert!(taken(&[part(&of_other, 0, 0)]).unwrap_err().message.contains("\"other\""));
    assert_eq!(reason(parts("another job", "op", range, &[part(&left, 0, 0)])), Reason::FieldInvalid);
}

#[test]
fn a_discarded_snapshot_opens_nothing() {
    let mut head = head();
    let taken = snapshot("a", 0, 64, 1, 3);
    head.external_snapshots.push(taken.clone());
    let parts = parts("u", "op", KeyGroupRange::new(0, 64).unwrap(), &[part(&taken, 0, 0)]).unwrap();
    assert!(discard(&mut head, &taken.manifest) && !discard(&mut head, &taken.manifest));
    let refused = open(&mut head, &Opening { parts, ..opening(0, 64, 2) });
    assert_eq!(reason(refused), Reason::CheckpointUnknown);
    assert_eq!(head.shards, []);
}

#[test]
fn a_snapshot_builds_on_the_newest_that_its_engine_called_complete() {
    let mut head = head();
    open(&mut head, &opening(0, 64, 2)).unwrap();
    for (id, checkpoint) in [("a", 3), ("b", 4), ("c", 5)] {
        head.external_snapshots.push(snapshot(id, 0, 64, 2, checkpoint));
    }
    let base = |head: &v1::JobHead, policy| -> Vec<u64> {
        bases(head, &head.shards[0], policy).iter().map(|base| base.checkpoint).collect()
    };
    let both = BasePolicy::ForwardBackward;
    assert_eq!(base(&head, both), [0; 0], "no notification has come");
    judge(&mut head, &shard(0, 64), 2, "b", Verdict::Completed);
    judge(&mut head, &shard(0, 64), 2, "unknown", Verdict::Completed);
    judge(&mut head, &shard(0, 64), 1, "c", Verdict::Completed);
    assert_eq!(base(&head, both), [4], "that of c was of another attempt");
    judge(&mut head, &shard(0, 64), 2, "c", Verdict::Completed);
    assert_eq!((base(&head, both), base(&head, BasePolicy::Unspecified)), (vec![5], vec![5]));
    assert_eq!((base(&head, BasePolicy::Forward), base(&head, BasePolicy::NoSharing)), (vec![], vec![]));
    judge(&mut head, &shard(0, 64), 2, "c", Verdict::Aborted);
    assert_eq!(base(&head, both), [4]);
    head.external_snapshots[1].base_policy = BasePolicy::NoSharing.into();
    assert_eq!(base(&head, both), [0; 0]);
}

#[test]
fn a_restored_shard_builds_on_what_it_was_restored_from_until_that_is_discarded() {
    let mut head = head();
    let (left, right) = (snapshot("a", 0, 64, 1, 3), snapshot("a", 64, 128, 1, 4));
    head.external_snapshots = vec![left.clone(), right.clone()];
    let range = KeyGroupRange::new(32, 96).unwrap();
    let parts = parts("u", "op", range, &[part(&left, 0, 0), part(&right, 0, 0)]).unwrap();
    open(&mut head, &Opening { parts, ..opening(32, 96, 2) }).unwrap();
    let base = |head: &v1::JobHead| -> Vec<u64> {
        bases(head, &head.shards[0], BasePolicy::ForwardBackward).iter().map(|base| base.checkpoint).collect()
    };
    assert_eq!(base(&head), [3, 4]);
    discard(&mut head, &left.manifest);
    assert_eq!(base(&head), [4]);
}

#[test]
fn a_snapshot_is_refused_with_what_was_wrong() {
    let mut head = head();
    open(&mut head, &opening(0, 64, 2)).unwrap();
    let request =
        v1::TakeSnapshotRequest { shard: Some(shard(0, 64)), token: 2, external_id: "a".into(), ..Default::default() };
    assert!(may_take(&head, &request).is_ok());
    let refused = |change: fn(&mut v1::TakeSnapshotRequest)| {
        let mut wrong = request.clone();
        change(&mut wrong);
        reason(may_take(&head, &wrong))
    };
    assert_eq!(refused(|request| request.token = 1), Reason::WriterFenced);
    assert_eq!(refused(|request| request.external_id = String::new()), Reason::FieldInvalid);
    assert_eq!(refused(|request| request.user_bytes = vec![0; USER_BYTES_MAX + 1].into()), Reason::FieldInvalid);
    assert_eq!(refused(|request| request.shard = Some(shard(0, 32))), Reason::ShardUnknown);
    assert_eq!(refused(|request| request.shard = Some(shard(0, 129))), Reason::KeyGroupOutOfRange);
    assert_eq!(
        refused(|request| request.shard.as_mut().unwrap().job_uid = "the job before".into()),
        Reason::JobUnknown
    );
    assert_eq!(refused(|request| request.shard.as_mut().unwrap().operator = "unknown".into()), Reason::OperatorUnknown);
    let mut full = head.clone();
    full.external_snapshots = vec![snapshot("x", 0, 64, 2, 3); REGISTERED_MAX];
    assert_eq!(reason(may_take(&full, &request)), Reason::Quota);
}
