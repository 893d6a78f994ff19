//! A whole cluster under faults; `make chaos` runs more of them.

#![cfg(all(feature = "rocksdb", feature = "s3"))]

use forebay_integration_tests::{
    chaos::{FAULTS, Plan, Workload, run},
    matrix::Share,
};
use forebay_proto::v1::Recovery;

/// Each commit takes the next of ten seeds, and with it another workload or recovery.
#[test]
fn a_cluster_is_exact_though_its_processes_die_stand_still_and_lose_each_other() {
    let seeds = match Share::of_environment() {
        Share::All => 0..10,
        Share::Tenth(seed) => seed..seed + 1,
    };
    for seed in seeds {
        let done = run(seed, FAULTS).unwrap();
        assert!(done.takeovers > 0, "no coordinator followed another: the faults were too few to prove anything");
        assert!(done.moves > 2, "hardly a shard moved: {done:?}");
        assert!(done.store_faults > 0, "no call of the store failed: {done:?}");
        assert_eq!(done.rewinds > 0, done.plan.recovery == Recovery::Job, "{done:?}");
        assert_eq!(done.compared > 0, done.plan.workload == Workload::Bank, "{done:?}");
    }
}

#[test]
fn four_seeds_have_both_workloads_under_both_recoveries() {
    let mut plans: Vec<_> = (0..4).map(Plan::of).map(|plan| plan.to_string()).collect();
    plans.sort();
    let bank = ["bank under recovery: job", "bank under recovery: shard"];
    assert_eq!(plans, [bank, ["orders under recovery: job", "orders under recovery: shard"]].concat());
}
