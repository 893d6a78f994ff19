//! Uploads, compactions, subsumed checkpoints and collections as fast as they go: no file is lost.
//!
//! A few seconds by default; `FOREBAY_ENDURANCE` says how many (`make test-long`: 600).

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use super::*;

fn seconds() -> u64 {
    std::env::var("FOREBAY_ENDURANCE").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(5)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_file_is_lost_at_maximum_rate() {
    let mut scene = scene(eager().set("coordinator.collect_interval", "20ms"), |settings| {
        (settings.interval_ms, settings.max_concurrent) = (Some(10), 4);
    })
    .await;
    let until = Instant::now() + Duration::from_secs(seconds());
    let over = AtomicBool::new(false);
    let writing = async {
        let mut number = 0u32;
        while Instant::now() < until {
            number += 1;
            // The same keys again: compactions have something to drop.
            let key = format!("N{}", number % 50);
            scene.api.put(scene.job.at("last", &key), raw(vec![number as u8; 2_000])).await.unwrap();
        }
        over.store(true, Ordering::Relaxed);
        number
    };
    let looking = async {
        let mut sound = 0u32;
        while !over.load(Ordering::Relaxed) {
            // A checkpoint may leave while it is read; then it is asked for by its id, and is not there.
            let kept = scene.api.checkpoints("job").await.unwrap().completed;
            let Some(entry) = kept.last() else { continue };
            let request = v1::VerifyCheckpointRequest { job: "job".into(), checkpoint: entry.id };
            let Ok(found) = scene.api.coordinator().verify_checkpoint(request).await else { continue };
            let found = found.into_inner();
            let kept = scene.api.checkpoints("job").await.unwrap().completed;
            if kept.iter().any(|still| still.id == entry.id) {
                assert!(found.missing.is_empty() && found.damaged.is_empty(), "{entry:?}: {found:?}");
                sound += 1;
            }
        }
        sound
    };
    let (written, sound) = tokio::join!(writing, looking);
    let last = scene.api.checkpoint("job").await.unwrap();
    println!("endurance: {written} writes, {} checkpoints, {sound} verified while they were kept", last.id);
    assert!(last.id > seconds() * 2, "only {} checkpoints", last.id);
    let said = scene.forebay.process().stderr();
    let collected = said.lines().filter(|line| line.contains("garbage is collected")).count() as u64;
    assert!(collected >= seconds() / 2, "only {collected} collections");
    if let Some(line) = said.lines().find(|line| line.contains("is being deleted")) {
        panic!("a round named what was being deleted: {line}");
    }
    scene.job.refresh(&scene.api).await;
    scene.api.checkpoint("job").await.unwrap();
    scene.is_whole().await;
}
