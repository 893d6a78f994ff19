//! `make bench` in small: it runs, finds no wrong answer and writes every ratio.

#![cfg(feature = "rocksdb")]

use std::process::Command;

use forebay_integration_tests::harness::binary;
use serde_json::{Map, Value};
use tempfile::TempDir;

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

/// Runs a bench in small; returns what it said, its folder with the plots, and its ratios by id.
fn quick(bench: &str) -> (String, TempDir, Map<String, Value>) {
    let out = tempfile::tempdir().unwrap();
    let mut run = Command::new(binary(bench));
    run.args(["--quick", "--runs", "1", "--out"]).arg(out.path());
    if !["bench", "bench-threads", "bench-failover"].contains(&bench) {
        run.arg("--plots").arg(out.path());
    }
    let run = run.output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(run.status.success(), "{said}\n{}", String::from_utf8_lossy(&run.stderr));
    let text = std::fs::read(out.path().join("ratios.json")).unwrap();
    let Value::Object(ratios) = serde_json::from_slice(&text).unwrap() else { panic!("not by id") };
    (said, out, ratios)
}

fn has_all(ratios: &Map<String, Value>, ids: impl IntoIterator<Item = impl AsRef<str>>) {
    for id in ids {
        let id = id.as_ref();
        assert!(ratios.get(id).is_some_and(|row| row["median"].as_f64() > Some(0.0)), "{id} in {ratios:?}");
    }
}

fn plot(out: &TempDir, name: &str) -> String {
    let plot = std::fs::read_to_string(out.path().join(name)).unwrap();
    assert!(plot.contains("</svg>"), "{plot}");
    plot
}

#[test]
fn a_quick_run_measures_everything_and_finds_no_wrong_answer() {
    let (said, _, ratios) = quick("bench");
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
    let (_, out, ratios) = quick("bench-local");
    has_all(
        &ratios,
        [
            "sdk_hot_vs_embedded",
            "sdk_hot_vs_embedded_cached",
            "sdk_hot_vs_uncached",
            "sdk_zipf_vs_embedded",
            "sdk_cold_vs_embedded",
            "sdk_hot_rtt500us",
            "sdk_zipf_rtt500us",
            "sdk_cold_rtt500us",
            "sdk_hot_vs_map",
            "sdk_zipf_vs_map",
            "sdk_cold_vs_map",
            "unary_get_p99_vs_echo",
        ],
    );
    assert!(plot(&out, "local.svg").contains("sdk_hot_vs_embedded"));
}

#[test]
fn a_quick_run_of_the_bench_of_threads_measures_every_way_on_both_backends() {
    let (_, _, ratios) = quick("bench-threads");
    for backend in ["memory", "rocks"] {
        for way in ["thread_per_core", "lock", "lock_blocking"] {
            has_all(&ratios, ["", "p99_"].map(|what| format!("threads_{what}{backend}_16_shards_vs_{way}")));
        }
    }
}

#[test]
fn a_quick_run_of_the_failover_bench_measures_every_row_of_its_document() {
    let (_, _, ratios) = quick("bench-failover");
    has_all(
        &ratios,
        [
            "takeover_vs_lease",
            "takeover_p99_vs_before",
            "server_back_first_write_vs_2s",
            "server_back_last_shard_vs_allowed",
        ],
    );
}

#[test]
fn a_quick_run_of_the_checkpoint_bench_measures_every_row_of_its_document() {
    let (_, out, ratios) = quick("bench-checkpoints");
    has_all(
        &ratios,
        [
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
        ],
    );
    plot(&out, "incremental.svg");
}

#[test]
fn a_quick_run_of_nexmark_comes_to_the_same_results_on_all_sides() {
    let (_, out, ratios) = quick("bench-nexmark");
    for query in ["q3", "q4", "q5", "q7", "q8", "q11"] {
        has_all(&ratios, ["embedded", "embedded_cached", "memory"].map(|peer| format!("nexmark_{query}_vs_{peer}")));
    }
    assert!(plot(&out, "nexmark.svg").contains("q11"));
}

#[test]
fn a_quick_run_of_the_latency_bench_tells_what_every_side_does_at_a_rate() {
    let (said, out, _) = quick("bench-latency");
    // A busy machine may keep up with no rate, which is said then.
    for side in ["Forebay, memory (none)", "Forebay, RocksDB (wal)", "redis-server (none)", "redis-server (everysec)"] {
        assert_eq!(said.lines().filter(|line| line.contains(side)).count(), 4, "{side} in {said}");
    }
    assert!(plot(&out, "latency-10k.svg").contains("latency at 10000 operations a second"));
}
