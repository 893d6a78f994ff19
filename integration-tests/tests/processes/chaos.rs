//! A whole cluster under faults; `make chaos` runs more of them.

#![cfg(all(feature = "rocksdb", feature = "s3"))]

use forebay_integration_tests::orders::chaos::{Faults, run};
use forebay_proto::v1;

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_exact_though_its_processes_die_stand_still_and_lose_each_other() {
    let faults = Faults { kills: 12, pauses: 4, partitions: 4, rescales: 2, moves: 2 };
    let done = run(1, faults, v1::Backend::Rocksdb).await.unwrap();
    println!("{done:?}");
    assert!(done.takeovers > 0, "no coordinator followed another: the faults were too few to prove anything");
    assert!(done.moves > 2, "hardly a shard moved: {done:?}");
}
