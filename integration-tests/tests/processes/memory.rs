//! The memory budget: what is written under it stays under it, and where rows are the memory, they are refused.

#![cfg(feature = "rocksdb")]

use std::time::Duration;

use bytesize::ByteSize;
use forebay_integration_tests::{
    bench::soak,
    harness::{Job, JobBuilder, Setup, raw, reason, value},
};
use forebay_proto::v1::{self, ErrorReason};

/// The most that the kernel may ever have seen, divided by the budget.
const RATIO_MAX: f64 = 1.15;

#[tokio::test(flavor = "multi_thread")]
async fn many_shards_and_states_written_at_full_speed_stay_under_the_budget() {
    let soak = soak::run(ByteSize::mib(384), Duration::from_secs(8)).await.unwrap();
    // As much as the write buffers hold, and more.
    assert!(soak.written > ByteSize::mib(48), "it says nothing: {soak:?}");
    assert!(soak.ratio() <= RATIO_MAX, "{soak:?}");
    assert!(soak.checked > 100, "{soak:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_memory_backend_refuses_what_adds_rows_and_goes_on_once_some_are_removed() {
    const VALUE_BYTES: usize = 1 << 20;
    let budget = ByteSize::mib(192);
    let forebay = Setup::dev().set("memory.budget", &budget.to_string()).start().await;
    let api = forebay.api();
    let spec = JobBuilder::shared("job", 2).in_memory().build();
    let job = Job::create(&api, spec, &[value("last")]).await;
    let put = |key: String| {
        let (api, address) = (&api, job.at("last", &key));
        async move { api.put(address, raw(vec![7; VALUE_BYTES])).await }
    };
    let mut keys = 0_u32;
    let refused = loop {
        match put(format!("k{keys}")).await {
            Ok(_) => keys += 1,
            Err(status) => break status,
        }
        assert!(u64::from(keys) * (VALUE_BYTES as u64) < budget.0, "nothing is refused");
    };
    assert_eq!(reason(&refused), ErrorReason::Quota);
    assert!(refused.message().contains("memory.budget"), "{refused}");
    assert!(keys > 20, "there was room for {keys} values");
    let read = api.get(job.at("last", "k0")).await.unwrap();
    assert_eq!(read.items[0].raw.len(), VALUE_BYTES);
    api.checkpoint("job").await.unwrap();
    for key in 0..4 {
        let request = v1::ClearRequest { address: Some(job.at("last", &format!("k{key}"))), ..Default::default() };
        api.state().clear(request).await.unwrap();
    }
    // The last completed checkpoint is held for committed reads, and what was removed with it; the next one lets it go.
    api.checkpoint("job").await.unwrap();
    let again = tokio::time::timeout(Duration::from_secs(20), async {
        while put("again".into()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    again.await.expect("there is room again");
    let peak = soak::peak(&forebay).unwrap();
    assert!(peak.0 as f64 <= RATIO_MAX * budget.0 as f64, "{peak} of {budget}");
}
