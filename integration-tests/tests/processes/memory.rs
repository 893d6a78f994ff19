//! The memory budget: what is written under it stays under it, and where rows are the memory, they are refused.

#![cfg(feature = "rocksdb")]

use std::time::Duration;

use bytesize::ByteSize;
use forebay_integration_tests::{
    bench::soak,
    harness::{Job, JobBuilder, Setup, binary, eventually, raw, reason, value},
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
    eventually("there is room again", || async { put("again".into()).await.ok() }).await;
    let peak = soak::peak(&forebay).unwrap();
    assert!(peak.0 as f64 <= RATIO_MAX * budget.0 as f64, "{peak} of {budget}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_makes_room_though_the_writes_that_sweep_it_are_refused() {
    let forebay = Setup::dev().set("memory.budget", "192MiB").start().await;
    let api = forebay.api();
    let mut brief = value("brief");
    let second = prost_types::Duration { seconds: 1, nanos: 0 };
    brief.ttl = Some(v1::TtlConfig { ttl: Some(second), ..Default::default() });
    let job = Job::create(&api, JobBuilder::shared("job", 1).in_memory().build(), &[brief]).await;
    let put = |key: String| {
        let (api, address) = (&api, job.at("brief", &key));
        async move { api.put(address, raw(vec![7; 8 << 20])).await }
    };
    let mut keys = 0..1000;
    let refused = loop {
        if let Err(status) = put(format!("k{}", keys.next().expect("nothing is refused"))).await {
            break status;
        }
    };
    assert_eq!(reason(&refused), ErrorReason::Quota);
    eventually("what has expired is gone", || async { put("again".into()).await.ok() }).await;
}

/// A cgroup with a limit, removed with its value; `None` where none can be made.
struct Cgroup(std::path::PathBuf);

impl Cgroup {
    fn with_limit(limit: ByteSize) -> Option<Self> {
        let name = format!("forebay-test-{}", std::process::id());
        let (one, two) = ("/sys/fs/cgroup/memory", "/sys/fs/cgroup");
        [(one, "memory.limit_in_bytes"), (two, "memory.max")].into_iter().find_map(|(root, file)| {
            let group = Self(std::path::Path::new(root).join(&name));
            std::fs::create_dir(&group.0).ok()?;
            // In a folder that is none of the kernel's nothing is there by itself.
            std::fs::write(group.0.join(file), limit.0.to_string())
                .ok()
                .filter(|()| group.0.join("cgroup.procs").exists())?;
            Some(group)
        })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        std::fs::remove_dir(&self.0).ok();
    }
}

#[test]
fn the_budget_follows_the_containers_limit() {
    let Some(group) = Cgroup::with_limit(ByteSize::mib(160)) else {
        eprintln!("no cgroup with a limit of memory can be made here: not tried");
        return;
    };
    let enter = format!("echo $$ > {}/cgroup.procs && exec \"$0\" dev --listen 127.0.0.1:0", group.0.display());
    let run = std::process::Command::new("sh").args(["-c", &enter]).arg(binary("forebay")).output().unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(2), "{said}");
    let expected =
        "memory.budget is 120.0 MiB, three quarters of the container's limit of 160.0 MiB: at least 144.0 MiB";
    assert!(said.contains(expected), "{said}");
}
