//! State as people look at it: written and shown by the codecs of the state.

#![cfg(feature = "rocksdb")]

mod scene;
mod whereabouts;

use forebay_integration_tests::harness::{eventually, reason};
use forebay_proto::v1::{self, ErrorReason, Notation, StateKind};

use scene::{BACKENDS, Scene, of, texts, typed, written};

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_every_kind_is_written_and_shown_by_its_codecs() {
    for backend in BACKENDS {
        let states = [
            of("value", StateKind::Value, "f64", ""),
            of("list", StateKind::List, "bool", ""),
            of("map", StateKind::Map, "json", ""),
            of("multimap", StateKind::Multimap, "u64", ""),
            of("sum", StateKind::Reducing, "i64", "sum_i64"),
            of("mean", StateKind::Aggregating, "i64", "avg_i64"),
            of("best", StateKind::Aggregating, "i64", "top_k(2)"),
            of("last", StateKind::Aggregating, "utf8", "max_by"),
            of("raw", StateKind::Value, "msgpack", ""),
        ];
        let scene = Scene::start(backend, &states).await;
        scene.put("value", &[b"\xbf\xf8\0\0\0\0\0\0"]).await;
        scene.put("list", &[b"\x01", b"\0"]).await;
        scene.put("raw", &[b"\x93\x01\x02\x03"]).await;
        for (map_key, value) in [(2, "{\"a\": [1]}"), (-1, "null")] {
            scene.map_put("map", &typed("i64", map_key), value.as_bytes()).await;
        }
        for (map_key, element) in [(7, 1_u64), (7, u64::MAX), (-7, 2)] {
            scene.append("multimap", &typed("i64", map_key), &element.to_be_bytes()).await;
        }
        for number in [3, 9, 6] {
            for state in ["sum", "mean", "best"] {
                scene.add(state, &typed("i64", number), None).await;
            }
            scene.add("last", format!("at {number}").as_bytes(), Some(&typed("i64", number))).await;
        }
        let shown = async |state: &str| {
            let entries = scene.entry(state, Notation::Unspecified, None).await.entries;
            let said = |entry: v1::ShownEntry| {
                assert_eq!(texts([&entry.key, &entry.namespace]), ["-5", ""]);
                texts([&entry.map_key, &entry.value]).join(" ").trim().to_owned()
            };
            entries.into_iter().map(said).collect::<Vec<_>>()
        };
        assert_eq!(shown("value").await, ["1.5"]);
        assert_eq!(shown("list").await, ["true", "false"]);
        assert_eq!(shown("map").await, ["-1 null", "2 {\"a\": [1]}"]);
        assert_eq!(shown("multimap").await, ["-7 2", "7 1", "7 18446744073709551615"]);
        assert_eq!(shown("sum").await, ["18"]);
        assert_eq!(shown("mean").await, ["6.0"]);
        assert_eq!(shown("best").await, ["[9,6]"]);
        assert_eq!(shown("last").await, ["at 9"]);
        assert_eq!(shown("raw").await, ["93010203"]);
        let one = scene.entry("map", Notation::Json, Some(written("2"))).await;
        assert_eq!(one.entries.len(), 1);
        let seven = scene.entry("multimap", Notation::Text, Some(written("7"))).await;
        assert_eq!(seven.entries.len(), 2);
        let wrong = scene.try_entry("sum", Notation::Text, Some(written("7"))).await.unwrap_err();
        assert_eq!(reason(&wrong), ErrorReason::FieldInvalid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_shown_as_asked_and_long_ones_in_part() {
    let scene = Scene::start(v1::Backend::Memory, &[of("text", StateKind::Value, "utf8", "")]).await;
    let text = "\"ä".repeat(3000);
    scene.put("text", &[text.as_bytes()]).await;
    for (notation, start) in [
        (Notation::Unspecified, "\"ä\"ä"),
        (Notation::Text, "\"ä\"ä"),
        (Notation::Json, "\"\\\"ä\\\"ä"),
        (Notation::Hex, "22c3a422c3a4"),
    ] {
        let entry = scene.entry("text", notation, None).await.entries.swap_remove(0);
        let value = entry.value.unwrap();
        assert!(value.text.starts_with(start), "{notation:?}: {}", &value.text[..20]);
        assert_eq!((value.bytes, value.truncated), (9000, true));
        assert!(value.text.len() <= 8192 && entry.version == 1);
        assert!(entry.written_ms.is_some_and(|ms| ms > 1_700_000_000_000) && !entry.expired);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_of_entries_goes_page_by_page_over_all_shards() {
    for backend in BACKENDS {
        let scene = Scene::start(backend, &[of("list", StateKind::List, "utf8", "")]).await;
        // Pages end by their bytes: no message is too large for a client with the usual limit of 4 MiB.
        let element = "x".repeat(100_000);
        for key in 0..40 {
            for window in ["june", "may"] {
                scene.append_at("list", key, window, element.as_bytes()).await;
            }
        }
        let request = scene.scan("list");
        let all = scene.scanned(request.clone()).await;
        assert_eq!(all.iter().map(|page| page.entries.len()).sum::<usize>(), 80);
        assert!(all.len() > 4, "{} pages", all.len());
        let resumed = v1::ScanEntriesRequest { page_token: all[0].page_token.clone(), ..request.clone() };
        let rest = scene.scanned(resumed).await;
        assert_eq!(rest.iter().map(|page| page.entries.len()).sum::<usize>(), 80 - all[0].entries.len());

        let of_one = |projection: v1::ScanProjection| v1::ScanEntriesRequest {
            projection: projection.into(),
            namespace: Some(written("june")),
            key_prefix: Some(v1::Written { form: Some(v1::written::Form::Hex("800000000000000".into())) }),
            ..request.clone()
        };
        let odd = scene.try_scan(of_one(v1::ScanProjection::Keys)).await.unwrap_err();
        assert_eq!(reason(&odd), ErrorReason::FieldInvalid, "hex comes in pairs");
        let below_32 = v1::ScanEntriesRequest {
            key_prefix: Some(v1::Written { form: Some(v1::written::Form::Hex("80000000000000".into())) }),
            ..of_one(v1::ScanProjection::KeysAndNamespaces)
        };
        let pages = scene.scanned(below_32).await;
        let entries: Vec<_> = pages.into_iter().flat_map(|page| page.entries).collect();
        assert!(entries.len() >= 40 && entries.iter().all(|entry| entry.value.is_none()));
        let limited = v1::ScanEntriesRequest { limit: 3, ..request };
        assert_eq!(scene.scanned(limited).await.iter().map(|page| page.entries.len()).sum::<usize>(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_is_shown_as_such_as_long_as_it_is_there() {
    for backend in BACKENDS {
        let short = Some(v1::TtlConfig {
            ttl: Some(prost_types::Duration { seconds: 0, nanos: 200_000_000 }),
            cleanup: Some(v1::TtlCleanup { incremental_rows: Some(0), ..Default::default() }),
            ..Default::default()
        });
        let states = [v1::StateDescriptor { ttl: short, ..of("text", StateKind::Value, "utf8", "") }];
        let scene = Scene::start(backend, &states).await;
        scene.put("text", &[b"old"]).await;
        // Nothing but scans comes to the shard: time goes on for them, too.
        let count = v1::CountRequest {
            job: "job".into(),
            operator: "op".into(),
            state: "text".into(),
            exact: true,
            ..Default::default()
        };
        eventually("the value has expired", || async {
            let rows = scene.api.state().count(count.clone()).await.unwrap().into_inner().rows;
            (rows == 0 && scene.api.scan("job", "op", "text").await.unwrap().is_empty()).then_some(())
        })
        .await;
        let found = scene.entry("text", Notation::Unspecified, None).await;
        let entry = &found.entries[0];
        assert!(found.found && entry.expired && entry.expires_at_ms <= Some(found.progress.unwrap().clock_ms));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_later_is_said_to_be_unsupported() {
    let scene = Scene::start(v1::Backend::Memory, &[]).await;
    let mut debug = scene.api.debug();
    let later = [
        debug.explain_key(v1::ExplainKeyRequest::default()).await.map(drop),
        debug.top_keys(v1::TopKeysRequest::default()).await.map(drop),
    ];
    for answer in later {
        assert_eq!(reason(&answer.unwrap_err()), ErrorReason::Unsupported);
    }
}
