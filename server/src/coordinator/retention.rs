//! Which completed checkpoints a head keeps, and what it pins besides. Pure.
//!
//! A pin keeps objects that no completed checkpoint of the head accounts for: the base of a round that
//! outlives its place in the head, uploads of aborted rounds, what a branch or a reader still needs. An
//! object that is a manifest stands for itself and everything that it names.

use forebay_proto::v1;

use super::round::Round;

/// Objects of aborted rounds that a head pins at most; the head has to stay small.
const REUSABLE_MAX: usize = 2_000;
const OF_ROUND: &str = "round ";
const OF_ABORTED: &str = "aborted ";

/// True if a completed checkpoint's files are the job's own: only such a one is built on and collected.
pub fn is_own(completed: &v1::CompletedCheckpoint) -> bool {
    completed.location.is_empty() && completed.prefix.is_empty()
}

/// True if two entries are of one folder.
pub fn same_place(one: &v1::CompletedCheckpoint, other: &v1::CompletedCheckpoint) -> bool {
    (&one.location, &one.prefix) == (&other.location, &other.prefix)
}

/// The checkpoint that a new round builds on; 0 for none.
pub fn base(head: &v1::JobHead) -> u64 {
    let last = head.completed.iter().rev().find(|completed| !completed.savepoint);
    last.filter(|completed| is_own(completed)).map_or(0, |completed| completed.id)
}

/// Checkpoints that servers are to keep manifests and local copies of.
pub fn kept(head: &v1::JobHead) -> Vec<u64> {
    let pinned = head.pins.iter().filter(|pin| pin.holder.starts_with(OF_ROUND)).map(|pin| pin.checkpoint);
    let external = head.external_snapshots.iter().map(|snapshot| snapshot.checkpoint);
    let own = head.completed.iter().map(|completed| completed.id);
    let mut kept: Vec<u64> = own.chain(pinned).chain(external).collect();
    kept.sort_unstable();
    kept.dedup();
    kept
}

/// The aborted rounds whose uploads a head pins.
pub fn reusable(head: &v1::JobHead) -> Vec<String> {
    head.pins.iter().filter_map(|pin| pin.holder.strip_prefix(OF_ABORTED)).map(str::to_owned).collect()
}

/// The pin of an aborted round's uploads.
pub fn of_aborted(round: &str, objects: Vec<String>) -> v1::Pin {
    v1::Pin { holder: format!("{OF_ABORTED}{round}"), objects, ..Default::default() }
}

/// Commits the rounds whose manifests are stored, oldest first; the rest of `rounds` goes on.
pub fn commit(next: &mut v1::JobHead, rounds: &[Round]) {
    let mut committed = false;
    let rounds: Vec<&Round> = rounds.iter().filter(|round| round.kind.in_series()).collect();
    for round in &rounds {
        let Some(stored) = &round.stored else { continue };
        if next.completed.last().is_some_and(|newest| newest.id >= stored.id) {
            continue;
        }
        next.completed.push(stored.clone());
        committed = true;
    }
    if !committed {
        return;
    }
    next.failures = 0;
    let on: Vec<&Round> = rounds.iter().copied().filter(|round| round.stored.is_none()).collect();
    drop_surplus(next, &on);
    let told =
        |round: &Round, holder: &str| round.reusable.iter().any(|reusable| holder == format!("{OF_ABORTED}{reusable}"));
    // Whoever was told of a pin may use it; once a round that was told has completed, nobody new needs it.
    let done: Vec<&Round> = rounds.iter().copied().filter(|round| round.stored.is_some()).collect();
    next.pins.retain(|pin| {
        let holder = &pin.holder;
        !holder.starts_with(OF_ABORTED)
            || on.iter().any(|round| told(round, holder))
            || !done.iter().any(|round| told(round, holder))
    });
}

/// Takes pins into a head: one per holder.
pub fn pin(next: &mut v1::JobHead, pins: Vec<v1::Pin>) {
    for new in pins {
        match next.pins.iter_mut().find(|pin| pin.holder == new.holder) {
            Some(pin) => {
                let objects =
                    new.objects.into_iter().filter(|object| !pin.objects.contains(object)).collect::<Vec<_>>();
                pin.objects.extend(objects);
            }
            None => next.pins.push(new),
        }
    }
    let of_aborted = |pin: &v1::Pin| pin.holder.starts_with(OF_ABORTED);
    while next.pins.iter().filter(|pin| of_aborted(pin)).map(|pin| pin.objects.len()).sum::<usize>() > REUSABLE_MAX {
        let Some(oldest) = next.pins.iter().position(of_aborted) else { break };
        next.pins.remove(oldest);
    }
}

/// Drops the pins of rounds that have ended. For heads that are written anyway: it is in no hurry.
pub fn unpin_ended(next: &mut v1::JobHead, rounds: &[Round]) {
    let on = |id: &str| rounds.iter().any(|round| round.stored.is_none() && round.id == id);
    next.pins.retain(|pin| pin.holder.strip_prefix(OF_ROUND).is_none_or(on));
}

/// Drops the pins that have lapsed by the store's clock.
pub fn unpin_lapsed(next: &mut v1::JobHead, store_ms: i64) {
    next.pins.retain(|pin| pin.expires_ms == 0 || pin.expires_ms > store_ms);
}

/// Drops what is beyond `retained`. Savepoints that the job was taken to are not counted; they go when older than all
/// that stay.
fn drop_surplus(next: &mut v1::JobHead, on: &[&Round]) {
    let retained = next.spec.as_ref().and_then(|spec| spec.checkpoints).map_or(1, |settings| settings.retained.max(1));
    let plain = next.completed.iter().filter(|completed| !completed.savepoint).count();
    let surplus = plain.saturating_sub(retained as usize);
    // A restart reads worker state from the checkpoint that the generation started from; a shard that does not
    // stand yet is made from the one its entry names. They stay besides the newest ones.
    let making = next.shards.iter().filter(|entry| !entry.established).map(|entry| entry.restored_from);
    let needed: Vec<u64> = making.chain([next.restored_checkpoint]).collect();
    let (mut older, mut dropped) = (0, Vec::new());
    next.completed.retain(|completed| {
        let drop = older < surplus && !needed.contains(&completed.id);
        older += usize::from(!completed.savepoint);
        if drop {
            dropped.push(completed.clone());
        }
        !drop
    });
    for completed in dropped.iter().filter(|completed| completed.claimed) {
        // The job may have been taken there more than once.
        let stays = next.completed.iter().chain(&next.disowned).any(|other| same_place(other, completed));
        if !stays {
            next.disowned.push(completed.clone());
        }
    }
    for completed in dropped.iter().filter(|completed| is_own(completed)) {
        for pin in next.pins.iter_mut().filter(|pin| pin.checkpoint == completed.id) {
            if !pin.objects.contains(&completed.manifest) {
                pin.objects.push(completed.manifest.clone());
            }
        }
        for round in on.iter().filter(|round| round.base == completed.id) {
            next.pins.push(v1::Pin {
                holder: format!("{OF_ROUND}{}", round.id),
                checkpoint: completed.id,
                objects: vec![completed.manifest.clone()],
                expires_ms: 0,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::round::Id, *};

    fn entry(id: u64) -> v1::CompletedCheckpoint {
        v1::CompletedCheckpoint { id, manifest: format!("chk/{id}/r/manifest"), ..Default::default() }
    }

    fn head(retained: u32, completed: &[u64]) -> v1::JobHead {
        let checkpoints = Some(v1::CheckpointSettings { retained, ..Default::default() });
        v1::JobHead {
            spec: Some(v1::JobSpec { checkpoints, ..Default::default() }),
            completed: completed.iter().copied().map(entry).collect(),
            ..Default::default()
        }
    }

    fn round(checkpoint: u64, base: u64, stored: bool) -> Round {
        let id = Id { checkpoint, round: format!("r{checkpoint}") };
        let round = Round::start(&v1::JobHead::default(), id, 0, 0, base);
        Round { stored: stored.then(|| entry(checkpoint)), ..round }
    }

    fn ids(head: &v1::JobHead) -> Vec<u64> {
        head.completed.iter().map(|completed| completed.id).collect()
    }

    #[test]
    fn so_many_are_retained_and_the_one_that_the_generation_started_from() {
        let mut next = head(2, &[1, 2, 3]);
        next.restored_checkpoint = 1;
        commit(&mut next, &[round(4, 3, true)]);
        assert_eq!(ids(&next), [1, 3, 4]);
        next.restored_checkpoint = 4;
        commit(&mut next, &[round(5, 4, true)]);
        assert_eq!(ids(&next), [4, 5]);
    }

    #[test]
    fn the_newest_checkpoint_stays_however_few_are_retained() {
        let mut next = head(1, &[1]);
        next.restored_checkpoint = 1;
        commit(&mut next, &[round(2, 1, true)]);
        assert_eq!(ids(&next), [1, 2], "2 has just been taken, 1 is what the generation started from");
        commit(&mut next, &[round(3, 2, true)]);
        assert_eq!(ids(&next), [1, 3]);
    }

    #[test]
    fn a_base_that_a_concurrent_commit_drops_is_pinned_until_its_round_ends() {
        let mut next = head(1, &[1]);
        let waits = round(3, 1, false);
        commit(&mut next, &[round(2, 1, true), waits.clone()]);
        assert_eq!(ids(&next), [2]);
        let pin = v1::Pin {
            holder: "round r3".into(),
            checkpoint: 1,
            objects: vec!["chk/1/r/manifest".into()],
            ..Default::default()
        };
        assert_eq!(next.pins, [pin]);
        assert_eq!(kept(&next), [1, 2]);
        unpin_ended(&mut next, std::slice::from_ref(&waits));
        assert_eq!(next.pins.len(), 1, "the round goes on");
        unpin_ended(&mut next, &[]);
        assert_eq!(next.pins, []);
    }

    #[test]
    fn a_base_that_stays_in_the_head_needs_no_pin() {
        let mut next = head(2, &[1]);
        commit(&mut next, &[round(2, 1, true), round(3, 1, false)]);
        assert_eq!((ids(&next), next.pins.len()), (vec![1, 2], 0));
    }

    #[test]
    fn a_pinned_checkpoint_keeps_its_files_when_it_leaves_the_head() {
        let mut next = head(1, &[1]);
        next.pins.push(v1::Pin { holder: "branch b".into(), checkpoint: 1, ..Default::default() });
        commit(&mut next, &[round(2, 1, true)]);
        assert_eq!(next.pins[0].objects, ["chk/1/r/manifest"]);
    }

    #[test]
    fn uploads_of_an_aborted_round_are_pinned_until_a_round_that_was_told_of_them_completes() {
        let mut next = head(3, &[1]);
        pin(&mut next, vec![of_aborted("r2", vec!["shared/s/a".into()])]);
        pin(&mut next, vec![of_aborted("r2", vec!["shared/s/a".into(), "shared/s/b".into()])]);
        assert_eq!((next.pins.len(), next.pins[0].objects.len()), (1, 2));
        assert_eq!(reusable(&next), ["r2"]);
        commit(&mut next, &[round(3, 1, true)]);
        assert_eq!(next.pins.len(), 1, "it had begun before the other was aborted");
        let told = |round: Round| Round { reusable: vec!["r2".into()], ..round };
        commit(&mut next, &[told(round(4, 1, true)), told(round(5, 1, false))]);
        assert_eq!(next.pins.len(), 1, "another one was told, and goes on");
        commit(&mut next, &[told(round(5, 1, true))]);
        assert_eq!(next.pins, []);
    }

    #[test]
    fn pins_of_aborted_rounds_stay_few() {
        let mut next = head(3, &[1]);
        for round in 0..3 {
            let objects = (0..900).map(|object| format!("shared/s/{round}-{object}")).collect();
            pin(&mut next, vec![of_aborted(&round.to_string(), objects)]);
        }
        assert_eq!(reusable(&next), ["1", "2"], "the oldest goes");
    }

    #[test]
    fn a_pin_lapses_by_the_stores_clock() {
        let mut next = head(1, &[]);
        let pin = |expires_ms| v1::Pin { holder: format!("reader {expires_ms}"), expires_ms, ..Default::default() };
        next.pins = vec![pin(0), pin(10), pin(11)];
        unpin_lapsed(&mut next, 10);
        assert_eq!(next.pins, [pin(0), pin(11)]);
    }

    #[test]
    fn a_later_round_subsumes_an_earlier_one() {
        let mut next = head(3, &[1, 4]);
        commit(&mut next, &[round(3, 1, true)]);
        assert_eq!(ids(&next), [1, 4], "4 has completed: 3 comes too late");
        commit(&mut next, &[round(5, 4, true), round(6, 4, true)]);
        assert_eq!((ids(&next), base(&next)), (vec![4, 5, 6], 6));
    }

    #[test]
    fn a_claimed_checkpoint_is_disowned_once_no_entry_names_its_folder() {
        let claimed = |id| v1::CompletedCheckpoint { claimed: true, location: "s3://b/dir".into(), ..entry(id) };
        let mut next = head(1, &[]);
        next.completed = vec![claimed(1), claimed(2)];
        next.restored_checkpoint = 2;
        commit(&mut next, &[round(3, 0, true)]);
        assert_eq!((ids(&next), next.disowned.len()), (vec![2, 3], 0), "the other entry still reads it");
        next.restored_checkpoint = 3;
        commit(&mut next, &[round(4, 3, true)]);
        assert_eq!(ids(&next), [3, 4]);
        assert_eq!(next.disowned, [claimed(2)]);
        let mut read_only = head(1, &[]);
        read_only.completed = vec![v1::CompletedCheckpoint { claimed: false, ..claimed(1) }];
        commit(&mut read_only, &[round(2, 0, true)]);
        assert_eq!((ids(&read_only), read_only.disowned), (vec![2], vec![]), "what is not claimed stays");
    }

    #[test]
    fn what_came_from_elsewhere_is_never_a_base() {
        let mut next = head(3, &[1]);
        assert_eq!(base(&next), 1);
        next.completed.push(v1::CompletedCheckpoint { location: "s3://other/dir".into(), ..entry(2) });
        assert_eq!(base(&next), 0, "the first own checkpoint is full");
        next.completed[1] = v1::CompletedCheckpoint { prefix: "c/parent-u/".into(), ..entry(2) };
        assert_eq!(base(&next), 0, "nor is a parent's");
    }
}
