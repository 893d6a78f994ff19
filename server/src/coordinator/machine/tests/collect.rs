//! Garbage collection, clause by clause (checkpoints.md): a test for each, and with the feature
//! `seeded-bugs` the proof that it fails without the clause.

use std::collections::BTreeSet;

use super::{
    super::{
        super::garbage::{CLOCK, Listed, Settings},
        collect::Done,
    },
    world::{World, settings},
    *,
};

/// The job's objects and when they were written.
struct Store {
    objects: BTreeMap<String, i64>,
    manifests: BTreeMap<String, Vec<String>>,
    tombstones: BTreeMap<String, Vec<String>>,
    deleted: Vec<String>,
}

impl Store {
    /// Checkpoint 7 with one file, and an orphan.
    fn new() -> Self {
        let mut store = Self {
            objects: BTreeMap::new(),
            manifests: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            deleted: Vec::new(),
        };
        store.manifest(7, "r", &["shared/s/seven"]);
        store.objects.insert("shared/s/orphan".into(), 0);
        store.objects.insert("head".into(), 0);
        store
    }

    fn manifest(&mut self, checkpoint: u64, round: &str, files: &[&str]) {
        let name = crate::checkpoint::layout::manifest(checkpoint, round);
        self.objects.extend(files.iter().map(|file| ((*file).to_owned(), 0)));
        self.objects.insert(name.clone(), 0);
        self.manifests.insert(name, files.iter().map(|file| (*file).to_owned()).collect());
    }

    fn done(&mut self, action: Action, now_ms: i64) -> (u64, Result<Done, String>) {
        match action {
            Action::ListObjects(run, clock) => {
                self.objects.insert(if clock { CLOCK } else { "head" }.to_owned(), now_ms);
                let listed = |(name, modified_ms): (&String, &i64)| Listed {
                    name: name.clone(),
                    length: 1,
                    modified_ms: *modified_ms,
                };
                (run, Ok(Done::Listed(self.objects.iter().map(listed).collect())))
            }
            Action::ReadNames(run, references) => {
                let mut names = BTreeSet::new();
                for reference in references {
                    let Some(files) = self.manifests.get(&reference.manifest) else {
                        return (run, Err(format!("{} cannot be read", reference.manifest)));
                    };
                    names.extend(files.iter().cloned());
                    names.insert(reference.manifest);
                }
                (run, Ok(Done::Named(names)))
            }
            Action::WriteTombstone(run, name, tombstone) => {
                self.objects.insert(name.clone(), now_ms);
                self.tombstones.insert(name, tombstone.objects);
                (run, Ok(Done::Stored))
            }
            Action::ReadTombstone(run, name) => (run, Ok(Done::Read(self.tombstones[&name].clone()))),
            Action::DeleteObjects(run, objects, _) => {
                for object in &objects {
                    self.objects.remove(object);
                }
                self.deleted.extend(objects);
                (run, Ok(Done::Deleted))
            }
            other => panic!("no step of a collection: {other:?}"),
        }
    }

    /// Does the next step; false if there is none.
    fn one(&mut self, world: &mut World) -> bool {
        let Some(action) = world.steps.pop_front() else { return false };
        let (run, done) = self.done(action, world.now.mono_ms);
        world.step(Event::Collection { run, done });
        true
    }

    fn all(&mut self, world: &mut World) {
        while self.one(world) {}
    }

    /// Asks for a collection and does all of it.
    fn collect(&mut self, world: &mut World) {
        world.step(Event::Collect { token: Token(90), dry_run: false });
        self.all(world);
    }
}

/// A job that takes checkpoints and collects garbage when asked.
fn scene() -> (World, Store) {
    let mut world = World::new(v1::CheckpointSettings { interval_ms: Some(0), max_concurrent: 8, ..settings() });
    world.until(10_000);
    (world, Store::new())
}

fn found(world: &World, token: u64) -> Vec<String> {
    match &world.answers[&Token(token)] {
        Ok(Answer::Collected(found)) => found.iter().map(|(object, _)| object.clone()).collect(),
        other => panic!("{other:?}"),
    }
}

/// Takes a checkpoint whose file is this object.
fn checkpoint(world: &mut World, store: &mut Store, id: u64) {
    world.trigger(id, Kind::Manual, false);
    let round = world.round(id);
    let files = [0, 64].map(|start| format!("shared/s/{id}-{start}"));
    store.manifest(id, &round.id, &files.each_ref().map(String::as_str));
    world.report(id);
}

/// Clause a: one collection at a time, and none under a coordinator that does not lead.
fn one_collector() -> bool {
    let (mut world, mut store) = scene();
    world.step(Event::Collect { token: Token(1), dry_run: false });
    world.step(Event::Collect { token: Token(2), dry_run: false });
    let one = world.steps.len() == 1;
    store.all(&mut world);
    let both = found(&world, 1) == ["shared/s/orphan"] && found(&world, 2) == ["shared/s/orphan"];
    world.step(Event::Deposed);
    world.step(Event::Collect { token: Token(3), dry_run: false });
    one && both && world.steps.is_empty() && store.deleted == ["shared/s/orphan"]
}

/// Clause b: what completes between the listing and the subtraction is kept.
fn listed_first() -> bool {
    let (mut world, mut store) = scene();
    store.objects.insert("shared/s/1000-0".into(), 0);
    store.objects.insert("shared/s/1000-64".into(), 0);
    world.step(Event::Collect { token: Token(1), dry_run: false });
    store.one(&mut world); // listed
    checkpoint(&mut world, &mut store, 1000);
    store.all(&mut world);
    !store.deleted.iter().any(|object| object.contains("1000"))
}

/// Clause b: what a round in flight may still come to name is kept, however often it is seen.
fn out_of_reach() -> bool {
    let (mut world, mut store) = scene();
    world.trigger(1, Kind::Manual, false);
    store.objects.insert("shared/s/1000-0".into(), 0);
    store.collect(&mut world);
    store.collect(&mut world);
    let kept = !store.deleted.contains(&"shared/s/1000-0".to_owned());
    world.fail(1000);
    store.collect(&mut world);
    kept && store.deleted.contains(&"shared/s/1000-0".to_owned())
}

/// Clause c: a round that names what is being deleted does not complete, and the next one uploads anew.
fn condemned() -> bool {
    let (mut world, mut store) = scene();
    world.step(Event::Collect { token: Token(1), dry_run: false });
    while !matches!(world.steps.front(), Some(Action::DeleteObjects(..))) {
        store.one(&mut world);
    }
    world.trigger(2, Kind::Manual, false);
    let round = world.round(1000);
    store.manifest(1000, &round.id, &[]);
    world.step(Event::Snapshot(world.shard_report(&round, 0, "shared/s/orphan")));
    let aborted = world.on_their_way().is_empty() && world.machine.head().failures == 0;
    world.trigger(3, Kind::Manual, false);
    aborted && world.barrier().base == 0
}

/// Clause c: a tombstone is stored and named by the head in force before the first DELETE, and stays named
/// until the deletion is confirmed and every round that had begun has ended. Clause d: the head's write
/// is conditional, so it is the proof of the epoch.
fn announced() -> bool {
    let (mut world, mut store) = scene();
    world.step(Event::Collect { token: Token(2), dry_run: false });
    store.one(&mut world); // listed
    store.one(&mut world); // subtracted
    world.trigger(1, Kind::Manual, false);
    world.hold_heads = true;
    store.all(&mut world);
    let waits = store.deleted.is_empty() && store.tombstones.len() == 1;
    world.write_heads();
    let name = world.machine.head().tombstone.clone();
    let named = store.tombstones.get(&name).is_some_and(|objects| objects == &["shared/s/orphan"]);
    store.all(&mut world);
    let deleted = store.deleted == ["shared/s/orphan"];
    let codec = || "bytes".to_owned();
    let any_write = |world: &mut World, name: &str| {
        let descriptor = v1::StateDescriptor {
            name: name.into(),
            kind: v1::StateKind::Value.into(),
            key_codec: codec(),
            namespace_codec: codec(),
            value_codec: codec(),
            ..Default::default()
        };
        world.step(Event::Register { token: Token(9), operator: "op".into(), descriptors: vec![descriptor] });
    };
    any_write(&mut world, "one");
    let stays = world.machine.head().tombstone == name;
    world.fail(1000);
    any_write(&mut world, "two");
    waits && named && deleted && stays && world.machine.head().tombstone.is_empty()
}

/// Clause d: a coordinator that has been deposed between tombstone and DELETE deletes nothing.
fn epoch_read_again() -> bool {
    let (mut world, mut store) = scene();
    world.step(Event::Collect { token: Token(1), dry_run: false });
    world.hold_heads = true;
    store.all(&mut world);
    world.step(Event::Deposed);
    store.all(&mut world);
    store.deleted.is_empty() && world.answers[&Token(1)].is_err()
}

/// Clause e: age counts by the store's clock.
fn aged_by_the_store() -> bool {
    let (mut world, mut store) = scene();
    world.machine.collect_garbage(Settings { interval_ms: 0, min_age_ms: 60_000 }, world.now);
    store.objects.insert("shared/s/orphan".into(), 9_000);
    store.collect(&mut world);
    let young = store.deleted.is_empty();
    world.until(68_999);
    store.collect(&mut world);
    let still = store.deleted.is_empty();
    world.until(69_000);
    store.collect(&mut world);
    young && still && store.deleted == ["shared/s/orphan"]
}

/// Clause f: a manifest that cannot be read stops it.
fn unreadable() -> bool {
    let (mut world, mut store) = scene();
    store.collect(&mut world);
    store.objects.insert("shared/s/another".into(), 0);
    let seven = store.manifests.remove("chk/7/r/manifest").unwrap();
    store.deleted.clear();
    store.collect(&mut world);
    let stopped = store.deleted.is_empty() && world.answers[&Token(90)].is_err();
    store.manifests.insert("chk/7/r/manifest".into(), seven);
    world.until(20_000);
    store.collect(&mut world);
    stopped
        && store.deleted.contains(&"shared/s/another".to_owned())
        && !store.deleted.contains(&"shared/s/seven".to_owned())
}

/// Clause g: to abort a checkpoint only drops references.
fn aborted() -> bool {
    let (mut world, mut store) = scene();
    world.trigger(1, Kind::Manual, false);
    let round = world.round(1000);
    store.objects.insert("shared/s/a".into(), 0);
    world.step(Event::Snapshot(world.shard_report(&round, 0, "shared/s/a")));
    world.fail(1000);
    let nothing = world.steps.is_empty();
    store.collect(&mut world);
    nothing && !store.deleted.contains(&"shared/s/a".to_owned())
}

/// Clause h: what was brought in from elsewhere is neither read nor deleted here.
fn imported() -> bool {
    let mut head = head();
    head.completed[0].manifest = "chk/7/r/manifest".into();
    head.completed[0].location = "s3://elsewhere/dir".into();
    let (mut world, mut store) = (World::with(head, 2), Store::new());
    store.manifests.clear();
    store.collect(&mut world);
    // Only names below the job's prefix are ever listed, so only those can be deleted.
    world.answers[&Token(90)].is_ok() && store.deleted.contains(&"shared/s/orphan".to_owned())
}

/// Clause i: what a branch, a reader or a round has pinned is kept, until the pin goes.
fn pinned() -> bool {
    let mut head = head();
    head.completed[0].manifest = "chk/7/r/manifest".into();
    let pin = |holder: &str, expires_ms| v1::Pin {
        holder: holder.into(),
        checkpoint: 5,
        objects: vec!["chk/5/r/manifest".into()],
        expires_ms,
    };
    head.pins = vec![pin("branch child", 0)];
    let (mut world, mut store) = (World::with(head, 2), Store::new());
    store.manifest(5, "r", &["shared/s/five"]);
    store.collect(&mut world);
    store.collect(&mut world);
    let kept = store.deleted == ["shared/s/orphan"];
    world.step(Event::Unpin { holder: "branch child".into() });
    store.collect(&mut world);
    kept && store.deleted.contains(&"shared/s/five".to_owned())
        && store.deleted.contains(&"chk/5/r/manifest".to_owned())
}

#[test]
fn only_what_is_there_can_be_pinned_and_it_keeps_its_files_when_it_leaves_the_head() {
    let retained = v1::CheckpointSettings { interval_ms: Some(0), retained: 1, ..settings() };
    let (mut world, mut store) = (World::new(retained), Store::new());
    let pin = |checkpoint| v1::Pin { holder: "branch b".into(), checkpoint, ..Default::default() };
    world.step(Event::Pin { token: Token(1), pin: pin(6) });
    assert_eq!(world.answers[&Token(1)].as_ref().unwrap_err().reason, Reason::CheckpointUnknown);
    world.step(Event::Pin { token: Token(2), pin: pin(7) });
    assert!(world.answers[&Token(2)].is_ok());
    checkpoint(&mut world, &mut store, 1000);
    store.collect(&mut world);
    assert_eq!(store.deleted, ["shared/s/orphan"]);
}

type Clause = fn() -> bool;

const CLAUSES: [(&str, Clause); 12] = [
    ("a: one collector", one_collector),
    ("b: listed first", listed_first),
    ("b: out of reach", out_of_reach),
    ("c: condemned", condemned),
    ("c: announced", announced),
    ("d: epoch read again", epoch_read_again),
    ("e: aged by the store", aged_by_the_store),
    ("f: unreadable", unreadable),
    ("g: aborted", aborted),
    ("h: imported", imported),
    ("i: pinned", pinned),
    ("taken over", taken_over),
];

/// A coordinator that takes over finishes what the former one had announced, and lets nothing of it complete.
fn taken_over() -> bool {
    let (mut world, mut store) = scene();
    world.step(Event::Collect { token: Token(1), dry_run: false });
    while !matches!(world.steps.front(), Some(Action::DeleteObjects(..))) {
        store.one(&mut world);
    }
    let mut next = World::with(world.machine.head().clone(), 3);
    let reads = matches!(next.steps.front(), Some(Action::ReadTombstone(..)));
    next.trigger(2, Kind::Manual, false);
    let id = next.on_their_way()[0];
    next.report(id);
    let waits = next.completed() == [7];
    store.all(&mut next);
    reads && waits && store.deleted == ["shared/s/orphan"] && next.completed() == [7, id]
}

#[test]
fn every_clause_holds() {
    for (name, clause) in CLAUSES {
        assert!(clause(), "{name}");
    }
}

#[cfg(feature = "seeded-bugs")]
#[test]
fn every_clause_is_missed_if_it_is_not_kept() {
    use crate::seeded::{Bug, choose};
    let broken: [(Bug, &str); 6] = [
        (Bug::CollectsInReach, "b: out of reach"),
        (Bug::CollectsYoung, "e: aged by the store"),
        (Bug::CommitsCondemned, "c: condemned"),
        (Bug::CollectsUnannounced, "c: announced"),
        (Bug::CollectsPinned, "i: pinned"),
        (Bug::CollectsBlind, "f: unreadable"),
    ];
    for (bug, name) in broken {
        let clause = CLAUSES.iter().find(|(known, _)| *known == name).unwrap().1;
        choose(Some(bug));
        let held = clause();
        choose(None);
        assert!(!held, "{bug:?} is not seen by {name}");
    }
}

#[test]
fn orphans_of_a_quiet_job_go_by_themselves_within_the_age_and_two_intervals() {
    let (mut world, mut store) = scene();
    world.machine.collect_garbage(Settings { interval_ms: 5_000, min_age_ms: 12_000 }, world.now);
    store.objects.insert("shared/s/orphan".into(), 10_000);
    let mut gone_ms = None;
    for at in (10_000..60_000).step_by(500) {
        world.until(at);
        store.all(&mut world);
        if gone_ms.is_none() && !store.objects.contains_key("shared/s/orphan") {
            gone_ms = Some(at);
        }
    }
    assert!(gone_ms.is_some_and(|at| at <= 10_000 + 12_000 + 2 * 5_000), "{gone_ms:?}");
    let left: Vec<_> = store.objects.keys().filter(|name| name.starts_with("tombstones/") && *name != CLOCK).collect();
    assert!(left.len() <= 1, "old tombstones go, too: {left:?}");
}

#[test]
fn a_dry_run_tells_and_deletes_nothing() {
    let (mut world, mut store) = scene();
    world.machine.collect_garbage(Settings { interval_ms: 60_000, min_age_ms: 0 }, world.now);
    world.step(Event::Collect { token: Token(1), dry_run: true });
    store.all(&mut world);
    assert_eq!(found(&world, 1), ["shared/s/orphan"]);
    assert_eq!((store.deleted.len(), store.tombstones.len()), (0, 0));
}

#[test]
fn checkpoints_that_are_no_longer_retained_go_and_files_that_others_share_stay() {
    let retained = v1::CheckpointSettings { interval_ms: Some(0), retained: 1, ..settings() };
    let (mut world, mut store) = (World::new(retained), Store::new());
    world.trigger(1, Kind::Manual, false);
    let round = world.round(1000);
    // It uses the file of checkpoint 7 again, and one of its own.
    store.manifest(1000, &round.id, &["shared/s/seven", "shared/s/1000-0"]);
    world.report(1000);
    store.collect(&mut world);
    assert_eq!(store.deleted, ["chk/7/r/manifest", "shared/s/orphan"]);
    checkpoint(&mut world, &mut store, 1001);
    store.deleted.clear();
    store.collect(&mut world);
    assert!(store.deleted.contains(&"shared/s/seven".to_owned()), "{:?}", store.deleted);
    assert!(!store.deleted.iter().any(|object| object.contains("1001")), "{:?}", store.deleted);
}

#[test]
fn late_uploads_of_a_dead_round_are_not_pinned_once_something_was_collected() {
    let (mut world, mut store) = scene();
    world.trigger(1, Kind::Manual, false);
    let round = world.round(1000);
    world.fail(1000);
    store.objects.insert("shared/s/late".into(), 0);
    store.collect(&mut world);
    assert!(store.deleted.contains(&"shared/s/late".to_owned()));
    world.step(Event::Snapshot(world.shard_report(&round, 0, "shared/s/late")));
    assert_eq!(world.machine.head().pins, [], "it is gone: no later round may name it");
}

#[test]
fn a_pin_that_has_lapsed_by_the_stores_clock_goes_with_the_next_write() {
    let (mut world, mut store) = scene();
    let mut head = world.machine.head().clone();
    head.pins.push(v1::Pin { holder: "reader".into(), expires_ms: 12_000, ..Default::default() });
    let id = head.next_checkpoint_id;
    let mut next = World::with(head, 3);
    assert_eq!(next.machine.head().pins.len(), 1);
    next.until(13_000);
    checkpoint(&mut next, &mut store, id);
    assert_eq!(next.machine.head().pins.len(), 1, "nobody has seen the store's clock");
    store.collect(&mut next);
    assert_eq!(next.machine.head().pins, []);
    store.collect(&mut world);
}
