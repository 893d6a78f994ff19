//! The simulation's own promises: no seed of the first hundred violates anything, every kind of fault was
//! really there, a seed is one world for ever, and the seeded bugs are found.

use std::{collections::BTreeMap, time::Instant};

use forebay_integration_tests::simulation::{self, Kind, Options, Run};

fn run(seed: u64, options: &Options) -> Run {
    let run = simulation::run(seed, options);
    if let Some(what) = &run.violation {
        println!("seed {seed}: {what}\n  again: {}", run.again());
    }
    run
}

#[test]
fn a_hundred_seeds_violate_nothing_and_hit_every_fault() {
    let started = Instant::now();
    let runs: Vec<_> = (0..100).map(|seed| run(seed, &Options::default())).collect();
    println!("simulate: {:.1} seeds/s", runs.len() as f64 / started.elapsed().as_secs_f64());
    let wrong: Vec<_> = runs.iter().filter(|run| run.violation.is_some()).map(|run| run.seed).collect();
    assert!(wrong.is_empty(), "violations in seeds {wrong:?}");
    let mut hits: BTreeMap<&str, u64> = BTreeMap::new();
    for (what, count) in runs.iter().flat_map(|run| &run.hits) {
        *hits.entry(what).or_default() += count;
    }
    println!("hit: {hits:?}");
    for kind in Kind::ALL {
        assert!(hits.contains_key(kind.name().as_str()), "{kind:?} was never hit");
    }
    for effect in simulation::EFFECTS {
        assert!(hits.contains_key(effect), "{effect:?} never happened");
    }
    let (applied, checkpoints): (u64, u64) =
        runs.iter().fold((0, 0), |(applied, checkpoints), run| (applied + run.applied, checkpoints + run.checkpoints));
    assert!(
        applied > 20_000 && checkpoints > 1_000,
        "too little was done: {applied} batches, {checkpoints} checkpoints"
    );
}

#[test]
fn a_seed_is_one_world_for_ever() {
    for seed in 0..4 {
        let (one, other) = (run(seed, &Options::default()), run(seed, &Options::default()));
        assert_eq!((one.trace, one.events), (other.trace, other.events), "seed {seed}");
    }
    let traces: Vec<_> = (0..4).map(|seed| run(seed, &Options::default()).trace).collect();
    assert!(traces.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn servers_and_coordinators_that_come_back_in_time_cost_no_rewind() {
    let kinds = vec![Kind::ServerCrash, Kind::WriteCrash, Kind::CoordinatorCrash, Kind::PutAnswerLost, Kind::DiskFull];
    let options = Options { kinds, one_worker: true, ..Options::default() };
    for seed in 0..30 {
        let run = run(seed, &options);
        assert_eq!((run.violation, run.generation), (None, 1), "seed {seed}");
    }
}

#[cfg(feature = "seeded-bugs")]
mod seeded {
    use forebay_integration_tests::simulation::Bug;

    use super::*;

    const SEEDS: u64 = 500;

    fn is_found(bug: Bug) {
        let options = Options { bug: Some(bug), ..Options::default() };
        let found = (0..SEEDS).map(|seed| simulation::run(seed, &options)).find(|run| run.violation.is_some());
        let Some(found) = found else { panic!("{bug:?} was not found in {SEEDS} seeds") };
        println!("{bug:?} found by seed {}: {}", found.seed, found.violation.unwrap_or_default());
        let clean = simulation::run(found.seed, &Options::default());
        assert_eq!(clean.violation, None, "the seed is wrong without the bug, too");
    }

    #[test]
    fn a_mark_outside_the_write_is_found() {
        is_found(Bug::MarkOutsideTheWrite);
    }

    #[test]
    fn a_duplicate_answered_before_it_is_durable_is_found() {
        is_found(Bug::DuplicateBeforeDurable);
    }

    #[test]
    fn a_barrier_ahead_of_a_refused_batch_is_found() {
        is_found(Bug::BarrierAheadOfRefusedBatch);
    }

    #[test]
    fn positions_that_are_told_late_are_found() {
        is_found(Bug::StalePositions);
    }

    #[test]
    fn a_share_that_keeps_its_epochs_is_found() {
        is_found(Bug::ShareKeepsEpochs);
    }

    #[test]
    fn a_coordinator_that_speaks_behind_its_mandate_is_found() {
        is_found(Bug::SpeaksBehindItsMandate);
    }

    #[test]
    fn a_shard_that_is_served_while_it_leaves_is_found() {
        is_found(Bug::ServesWhileItLeaves);
    }

    #[test]
    fn a_rewind_that_keeps_a_handover_is_found() {
        is_found(Bug::RewindKeepsHandover);
    }

    #[test]
    fn leases_that_change_at_a_stop_without_its_checkpoint_are_found() {
        is_found(Bug::StopForgetsItsCheckpoint);
    }

    #[test]
    fn a_partial_rewind_is_found() {
        is_found(Bug::PartialRewind);
    }
}
