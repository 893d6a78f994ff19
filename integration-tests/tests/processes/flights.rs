//! The sample worker with real processes: killed at random, exact each time.

use std::path::Path;

use forebay_integration_tests::flights::{chaos, cut};
use forebay_proto::v1;

const INPUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/flights-2013.csv.zst");

#[tokio::test(flavor = "multi_thread")]
async fn five_rounds_of_kills_at_random_moments_are_exact() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("flights.csv");
    cut(Path::new(INPUT), &input, 30_000).unwrap();
    let (mut kills, mut between) = (0, 0);
    for seed in 1..=5 {
        let backend = if seed == 5 { v1::Backend::Memory } else { v1::Backend::Rocksdb };
        let round = chaos::round(&input, backend, seed).await.unwrap();
        kills += round.kills;
        between += round.between_barrier_and_commit;
    }
    assert!(kills >= 10, "only {kills} kills: the rounds were too short to prove anything");
    assert!(between > 0, "no kill came between a barrier and its commit");
}
