//! `make bench` in small: it runs, finds no wrong answer and writes every ratio.

#![cfg(feature = "rocksdb")]

use std::process::Command;

use forebay_integration_tests::harness::binary;
use serde_json::Value;

/// Names that documents and later runs rely on, one of each kind.
const IDS: [&str; 10] = [
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
    assert_eq!(ratios.len(), 46);
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
