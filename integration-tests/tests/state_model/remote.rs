//! The scenarios against a real process, through gRPC: those that need nothing but its door.

use forebay_integration_tests::{
    conformance::{Remote, all, run},
    harness::Forebay,
};

async fn all_hold(rocks: bool) {
    let forebay = Forebay::dev().await;
    let api = forebay.api();
    let (mut played, mut wrong) = (0, Vec::new());
    for (_, file) in all() {
        for scenario in file.scenarios.iter().filter(|scenario| scenario.is_remote()) {
            played += 1;
            let mut remote = Remote::create(&api, &format!("job-{played}"), rocks, &scenario.descriptors()).await;
            wrong.extend(run(scenario, &mut remote).await.err());
        }
    }
    assert!(wrong.is_empty(), "{} of {played} scenarios are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(played >= 60, "only {played} scenarios can be played through gRPC");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_scenario_that_needs_no_inside_holds_through_grpc_in_memory() {
    all_hold(false).await;
}

#[cfg(feature = "rocksdb")]
#[tokio::test(flavor = "multi_thread")]
async fn every_scenario_that_needs_no_inside_holds_through_grpc_on_rocksdb() {
    all_hold(true).await;
}
