//! `make bench` in small: it runs, finds no wrong answer and writes every ratio.

#![cfg(feature = "rocksdb")]

use std::process::Command;

use forebay_integration_tests::harness::binary;
use serde_json::Value;

/// Names that documents and later runs rely on, one of each kind.
const IDS: [&str; 13] = [
    "stream_memory_vs_redis",
    "stream_memory_vs_tcp",
    "stream_rocks_get_vs_embedded",
    "stream_memory_put_1_vs_redis",
    "stream_memory_get_128_vs_redis",
    "stream_rocks_append_1024_vs_redis",
    "stream_rocks_put_128_vs_redis_aof",
    "unary_memory_get_vs_redis",
    "unary_rocks_put_vs_redis_aof",
    "sdk_memory_cached_vs_redis",
    "sdk_memory_uncached_vs_redis",
    "sdk_rocks_cached_vs_redis_pipelined",
    "sdk_rocks_cached_vs_redis_aof_pipelined",
];

#[test]
fn a_quick_run_measures_everything_and_finds_no_wrong_answer() {
    let out = tempfile::tempdir().unwrap();
    let run = Command::new(binary("bench")).args(["--quick", "--runs", "1", "--out"]).arg(out.path()).output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}\n{}", String::from_utf8_lossy(&run.stderr));
    let text = std::fs::read(out.path().join("ratios.json")).unwrap();
    let Value::Object(ratios) = serde_json::from_slice(&text).unwrap() else { panic!("not by id") };
    assert_eq!(ratios.len(), 51);
    for id in IDS {
        assert!(said.contains(id) && ratios.contains_key(id), "{id} is missing");
    }
    for (id, ratio) in ratios {
        for field in ["median", "min", "max", "ours", "theirs"] {
            assert!(ratio[field].as_f64().is_some_and(|number| number > 0.0), "{id}: {field} in {ratio}");
        }
        assert_eq!((&ratio["runs"], &ratio["unit"]), (&1.into(), &"ops/s".into()), "{id}");
    }
}

#[test]
fn a_quick_run_of_the_local_bench_measures_every_row_of_its_document_and_finds_no_wrong_answer() {
    let out = tempfile::tempdir().unwrap();
    let run = Command::new(binary("bench-local")).args(["--quick", "--runs", "1", "--out"]).arg(out.path()).output();
    let run = run.unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let text = std::fs::read(out.path().join("ratios.json")).unwrap();
    let Value::Object(ratios) = serde_json::from_slice(&text).unwrap() else { panic!("not by id") };
    for id in [
        "sdk_hot_vs_embedded",
        "sdk_hot_vs_embedded_cached",
        "sdk_hot_vs_uncached",
        "sdk_zipf_vs_embedded",
        "sdk_cold_vs_embedded",
        "sdk_hot_rtt500us",
        "sdk_zipf_rtt500us",
        "sdk_cold_rtt500us",
        "unary_get_p99_vs_echo",
    ] {
        assert!(ratios.get(id).is_some_and(|row| row["median"].as_f64() > Some(0.0)), "{id} in {ratios:?}");
    }
}

#[test]
fn a_quick_run_of_the_checkpoint_bench_measures_every_row_of_its_document() {
    let out = tempfile::tempdir().unwrap();
    let run = Command::new(binary("bench-checkpoints"))
        .args(["--quick", "--runs", "1", "--out"])
        .arg(out.path())
        .arg("--plots")
        .arg(out.path())
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let text = std::fs::read(out.path().join("ratios.json")).unwrap();
    let Value::Object(ratios) = serde_json::from_slice(&text).unwrap() else { panic!("not by id") };
    for id in [
        "barrier_pause_p99_ms_0g1",
        "barrier_pause_p99_ms_1g",
        "barrier_pause_p99_ms_5g",
        "barrier_pause_vs_flush",
        "throughput_while_checkpointing",
        "incremental_bytes",
        "incremental_ms_5g_vs_0g1",
        "upload_amplification",
        "puts_per_checkpoint",
        "restore_vs_raw_get",
        "local_restore_s",
        "split_s",
    ] {
        assert!(ratios.get(id).is_some_and(|row| row["median"].as_f64() > Some(0.0)), "{id} in {ratios:?}");
    }
    assert!(std::fs::read_to_string(out.path().join("incremental.svg")).unwrap().contains("</svg>"));
}

#[test]
fn a_quick_run_of_nexmark_comes_to_the_same_results_on_all_sides() {
    let out = tempfile::tempdir().unwrap();
    let run = Command::new(binary("bench-nexmark"))
        .args(["--quick", "--runs", "1", "--out"])
        .arg(out.path())
        .arg("--plots")
        .arg(out.path())
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let text = std::fs::read(out.path().join("ratios.json")).unwrap();
    let Value::Object(ratios) = serde_json::from_slice(&text).unwrap() else { panic!("not by id") };
    for query in ["q3", "q4", "q5", "q7", "q8", "q11"] {
        for peer in ["embedded", "embedded_cached", "memory"] {
            let id = format!("nexmark_{query}_vs_{peer}");
            assert!(ratios.get(&id).is_some_and(|row| row["median"].as_f64() > Some(0.0)), "{id} in {ratios:?}");
        }
    }
    assert!(std::fs::read_to_string(out.path().join("nexmark.svg")).unwrap().contains("q11"));
}

#[test]
fn a_quick_run_of_the_latency_bench_tells_what_every_side_does_at_a_rate() {
    let out = tempfile::tempdir().unwrap();
    let run = Command::new(binary("bench-latency"))
        .args(["--quick", "--runs", "1", "--out"])
        .arg(out.path())
        .arg("--plots")
        .arg(out.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}\n{}", String::from_utf8_lossy(&run.stderr));
    // A busy machine may keep up with no rate, which is said then.
    for side in ["Forebay, memory (none)", "Forebay, RocksDB (wal)", "redis-server (none)", "redis-server (everysec)"] {
        assert_eq!(said.lines().filter(|line| line.contains(side)).count(), 4, "{side} in {said}");
    }
    let plot = std::fs::read_to_string(out.path().join("latency-10k.svg")).unwrap();
    assert!(plot.contains("latency at 10000 operations a second"), "{plot}");
}
