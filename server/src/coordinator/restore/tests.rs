//! Heads before and after.

use super::*;

fn entry(id: u64) -> v1::CompletedCheckpoint {
    v1::CompletedCheckpoint { id, manifest: format!("chk/{id}/manifest"), ..Default::default() }
}

fn state(id: u32, name: &str, codec: &str) -> v1::RegisteredState {
    let descriptor = v1::StateDescriptor {
        name: name.into(),
        kind: v1::StateKind::Value.into(),
        key_codec: "utf8".into(),
        value_codec: codec.into(),
        ..Default::default()
    };
    v1::RegisteredState { id, operator: "op".into(), descriptor: Some(descriptor), version: 1 }
}

fn spec() -> v1::JobSpec {
    let operator =
        v1::Operator { name: "op".into(), shards: 2, access: v1::Access::Leased.into(), ..Default::default() };
    let other =
        v1::Operator { name: "shared".into(), shards: 1, access: v1::Access::Shared.into(), ..Default::default() };
    v1::JobSpec { name: "job".into(), max_parallelism: 128, operators: vec![operator, other], ..Default::default() }
}

fn head() -> v1::JobHead {
    let mut shards = spec::shards(&spec());
    for (index, shard) in shards.iter_mut().enumerate() {
        let number = index as u64;
        (shard.epoch, shard.incarnation, shard.writer_epoch) = (10 + number, 20 + number, 30 + number);
        (shard.established, shard.server) = (true, "s1".into());
        shard.writer = Some(v1::WriterGrant::default());
    }
    v1::JobHead {
        generation: 4,
        spec: Some(spec()),
        shards,
        states: vec![state(1, "mine", "i64"), state(2, "both", "utf8")],
        next_state_id: 3,
        next_checkpoint_id: 1000,
        completed: vec![entry(7), entry(8)],
        ..Default::default()
    }
}

fn target(entry: Option<v1::CompletedCheckpoint>) -> Target {
    Target { id: 50, entry, brought: None, shards: BTreeMap::new(), cause: "asked for".into() }
}

fn from(head: &v1::JobHead) -> Vec<(u32, u32, u64)> {
    head.shards.iter().map(|shard| (shard.start, shard.end, shard.restored_from)).collect()
}

#[test]
fn the_newest_checkpoint_keeps_its_id_and_an_older_one_becomes_the_newest() {
    let mut next = head();
    apply(&mut next, &target(Some(entry(8)))).unwrap();
    assert_eq!((next.generation, next.restored_checkpoint, next.completed.len()), (5, 8, 2));
    assert!(next.shards.iter().all(|shard| !shard.established && shard.writer.is_none()));
    let mut next = head();
    apply(&mut next, &target(Some(entry(7)))).unwrap();
    let ids: Vec<_> = next.completed.iter().map(|entry| (entry.id, entry.manifest.as_str())).collect();
    assert_eq!(ids, [(7, "chk/7/manifest"), (8, "chk/8/manifest"), (50, "chk/7/manifest")]);
    assert_eq!(from(&next), [(0, 64, 50), (64, 128, 50), (0, 128, 50)]);
    let mut next = head();
    apply(&mut next, &target(None)).unwrap();
    assert_eq!(from(&next), [(0, 64, 0), (64, 128, 0), (0, 128, 0)]);
}

#[test]
fn an_id_that_was_not_reserved_is_reserved_by_the_same_write() {
    let mut next = head();
    apply(&mut next, &Target { id: 1000, ..target(Some(entry(7))) }).unwrap();
    assert_eq!(next.next_checkpoint_id, 1001);
}

#[test]
fn other_shards_are_behind_every_shard_that_held_their_key_groups() {
    let mut next = head();
    let shards = BTreeMap::from([("op".to_owned(), 1)]);
    apply(&mut next, &Target { shards, ..target(Some(entry(8))) }).unwrap();
    assert_eq!(from(&next), [(0, 128, 8), (0, 128, 8)]);
    let merged = &next.shards[0];
    assert_eq!((merged.epoch, merged.incarnation, merged.writer_epoch), (11, 22, 31));
    assert_eq!(merged.server, "", "it is placed anew");
    let mut back = next.clone();
    let shards = BTreeMap::from([("op".to_owned(), 2)]);
    apply(&mut back, &Target { shards, ..target(Some(entry(8))) }).unwrap();
    assert!(back.shards[0].epoch >= 11 && back.shards[1].epoch >= 11, "never an epoch of before");
    // The same number again changes no range, and moves nothing.
    let mut same = head();
    let shards = BTreeMap::from([("op".to_owned(), 2)]);
    apply(&mut same, &Target { shards, ..target(Some(entry(8))) }).unwrap();
    assert!(same.shards.iter().all(|shard| shard.server == "s1"));
}

#[test]
fn numbers_of_shards_that_cannot_be_had_are_refused() {
    for (operator, count, reason) in
        [("nobody", 1, Reason::OperatorUnknown), ("op", 0, Reason::FieldInvalid), ("op", 129, Reason::FieldInvalid)]
    {
        let shards = BTreeMap::from([(operator.to_owned(), count)]);
        let refused = apply(&mut head(), &Target { shards, ..target(None) }).unwrap_err();
        assert_eq!(refused.reason, reason, "{operator} {count}");
    }
}

fn brought(states: Vec<v1::RegisteredState>) -> Target {
    let manifest = v1::Manifest { spec: Some(spec()), states, ..Default::default() };
    Target { brought: Some(Box::new(manifest)), ..target(Some(entry(8))) }
}

#[test]
fn a_checkpoint_from_elsewhere_brings_its_states_with_their_numbers() {
    let mut next = head();
    apply(&mut next, &brought(vec![state(5, "both", "utf8"), state(1, "theirs", "i64")])).unwrap();
    let names: Vec<_> =
        next.states.iter().map(|state| (state.id, state.descriptor.as_ref().unwrap().name.as_str())).collect();
    assert_eq!(names, [(5, "both"), (1, "theirs"), (6, "mine")]);
    // An entry of the same id is another checkpoint.
    assert_eq!(next.completed.last().unwrap().id, 50);
}

#[test]
fn states_that_do_not_agree_are_refused_with_both_and_so_are_other_key_groups_and_operators() {
    let refused = apply(&mut head(), &brought(vec![state(5, "both", "i64")])).unwrap_err();
    assert_eq!(refused.reason, Reason::StateIncompatible);
    let refused = |change: fn(&mut v1::JobSpec)| {
        let mut target = brought(Vec::new());
        change(target.brought.as_mut().unwrap().spec.as_mut().unwrap());
        apply(&mut head(), &target).unwrap_err()
    };
    assert!(refused(|spec| spec.max_parallelism = 64).message.contains("64 key groups"));
    assert!(refused(|spec| spec.partitioner = v1::Partitioner::Explicit.into()).message.contains("Explicit"));
    assert!(refused(|spec| spec.operators.truncate(1)).message.contains("shared"));
}

#[test]
fn a_new_job_starts_from_a_checkpoint_with_its_states() {
    let manifest = v1::Manifest { states: vec![state(9, "theirs", "i64")], ..Default::default() };
    let head = born(spec(), "u".into(), 3, &entry(41), &manifest, 5);
    assert_eq!((head.restored_checkpoint, head.completed[0].id, head.next_checkpoint_id), (1, 1, 2));
    assert_eq!(head.completed[0].manifest, "chk/41/manifest");
    assert_eq!((head.next_state_id, head.states.len()), (10, 1));
    assert!(head.shards.iter().all(|shard| shard.restored_from == 1 && !shard.established));
}

#[test]
fn what_another_engine_owns_stays_as_it_is() {
    let external = || v1::Operator { name: "ext".into(), access: v1::Access::External.into(), ..Default::default() };
    let mut next = head();
    next.spec.as_mut().unwrap().operators.push(external());
    let of_engine = v1::RegisteredState { operator: "ext".into(), ..state(3, "windows", "utf8") };
    next.states.push(of_engine.clone());
    let opening = Some(v1::ExternalOpening { token: 2, ..Default::default() });
    let open = v1::ShardEntry {
        operator: "ext".into(),
        end: 64,
        epoch: 9,
        established: true,
        external: opening,
        ..Default::default()
    };
    next.shards.push(open.clone());
    let mut target = brought(vec![state(5, "both", "utf8")]);
    target.brought.as_mut().unwrap().spec.as_mut().unwrap().operators.push(external());
    let before = next.clone();
    apply(&mut next, &target).unwrap();
    assert!(next.shards.contains(&open) && next.states.contains(&of_engine));
    // Its rows are kept under that number.
    target.brought.as_mut().unwrap().states = vec![state(3, "both", "utf8")];
    let refused = apply(&mut before.clone(), &target).unwrap_err();
    assert_eq!(refused.reason, Reason::SettingsConflict);
    assert!(refused.message.contains("windows"), "{}", refused.message);
    let counts = Target { shards: BTreeMap::from([("ext".to_owned(), 2)]), ..self::target(Some(entry(8))) };
    assert_eq!(apply(&mut before.clone(), &counts).unwrap_err().reason, Reason::SettingsConflict);
}
