//! The state model through unary calls, as people, scripts and plain services meet it.

#![cfg(feature = "rocksdb")]

use std::collections::HashSet;

use forebay_integration_tests::harness::{Api, Forebay, Job, JobBuilder, eventually, list, raw, reason, text, value};
use forebay_proto::v1::{self, ErrorReason, StateKind};

async fn scene(forebay: &Forebay, backend: v1::Backend, states: &[v1::StateDescriptor]) -> (Api, Job) {
    let api = forebay.api();
    let spec = JobBuilder::shared("job", 2).with(|spec| spec.set_backend(backend)).build();
    let job = Job::create(&api, spec, states).await;
    (api, job)
}

const BACKENDS: [v1::Backend; 2] = [v1::Backend::Rocksdb, v1::Backend::Memory];

fn of(name: &str, kind: StateKind, value_codec: &str, function: &str) -> v1::StateDescriptor {
    let codec = || "utf8".to_owned();
    v1::StateDescriptor {
        name: name.into(),
        kind: kind.into(),
        key_codec: "bytes".into(),
        namespace_codec: codec(),
        map_key_codec: codec(),
        value_codec: value_codec.into(),
        function: function.into(),
        ..Default::default()
    }
}

fn raws(items: &[v1::Item]) -> Vec<String> {
    items.iter().map(|item| String::from_utf8_lossy(&item.raw).into_owned()).collect()
}

fn i64_of(item: &v1::Item) -> Option<i64> {
    match item.readable.as_ref()?.form.as_ref()? {
        v1::value::Form::I64(number) => Some(*number),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_replaced_only_by_who_has_seen_it() {
    use v1::compare_and_set_request::Expected;
    for backend in BACKENDS {
        let forebay = Forebay::dev().await;
        let (api, job) = scene(&forebay, backend, &[value("last")]).await;
        let cas = |expected, replacement: Option<&str>, request_id: &str| {
            let request = v1::CompareAndSetRequest {
                address: Some(job.at("last", "N1")),
                expected: Some(expected),
                replacement: replacement.map(raw),
                request_id: request_id.into(),
                ..Default::default()
            };
            let mut state = api.state();
            async move { state.compare_and_set(request).await.unwrap().into_inner() }
        };
        let made = cas(Expected::Absent(true), Some("a"), "first").await;
        let current = made.current.unwrap();
        assert_eq!((made.swapped, made.duplicate, &current.raw[..]), (true, false, &b"a"[..]));
        assert!(!cas(Expected::Absent(true), Some("b"), "").await.swapped);
        assert!(cas(Expected::Version(current.version), Some("b"), "second").await.swapped);
        let late = cas(Expected::Version(current.version), Some("c"), "").await;
        assert_eq!((late.swapped, &late.current.unwrap().raw[..]), (false, &b"b"[..]), "somebody was faster");
        let again = cas(Expected::Version(current.version), Some("b"), "second").await;
        assert_eq!((again.swapped, again.duplicate), (true, true), "a retry is told what happened the first time");
        assert!(!cas(Expected::Value(raw("x")), None, "").await.swapped);
        let cleared = cas(Expected::Value(raw("b")), None, "").await;
        assert_eq!((cleared.swapped, cleared.current), (true, None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_maps_are_read_in_pages() {
    for backend in BACKENDS {
        let forebay = Forebay::dev().await;
        let states = [list("legs"), of("routes", StateKind::Map, "utf8", "")];
        let (api, job) = scene(&forebay, backend, &states).await;
        let mut expected = Vec::new();
        for number in 0..25 {
            api.append(job.at("legs", "N1"), raw(format!("{number:02}"))).await.unwrap();
            expected.push(format!("{number:02}"));
            let entry = v1::MapEntry {
                map_key: Some(text(&format!("{}-{number:02}", if number < 20 { "JFK" } else { "LGA" }))),
                value: Some(text("x")),
                expires_at_ms: None,
            };
            let put =
                v1::MapPutRequest { address: Some(job.at("routes", "N1")), entries: vec![entry], ..Default::default() };
            api.state().map_put(put).await.unwrap();
        }
        let (mut read, mut token, mut pages) = (Vec::new(), Default::default(), 0);
        loop {
            let address = Some(job.at("legs", "N1"));
            let request = v1::GetRequest { address, limit: 10, page_token: token, ..Default::default() };
            let page = api.state().get(request).await.unwrap().into_inner();
            read.extend(raws(&page.items));
            pages += 1;
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!((read, pages), (expected, 3));

        let of_lga = v1::GetRequest {
            address: Some(job.at("routes", "N1")),
            map_prefix: Some(text("LGA")),
            limit: 3,
            ..Default::default()
        };
        let page = api.state().get(of_lga.clone()).await.unwrap().into_inner();
        assert_eq!(raws(&page.items), ["LGA-20", "x", "LGA-21", "x", "LGA-22", "x"]);
        let rest = v1::GetRequest { page_token: page.next_page_token.clone(), ..of_lga.clone() };
        let rest = api.state().get(rest).await.unwrap().into_inner();
        assert_eq!((raws(&rest.items).len(), rest.next_page_token.is_empty()), (4, true));
        let broken = v1::GetRequest { page_token: "xyz".into(), ..of_lga };
        let status = api.state().get(broken).await.unwrap_err();
        assert_eq!(reason(&status), ErrorReason::PageTokenInvalid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_added_to_is_answered_by_its_function() {
    for backend in BACKENDS {
        let forebay = Forebay::dev().await;
        let states = [
            of("mean", StateKind::Aggregating, "i64", "avg_i64"),
            of("tails", StateKind::Aggregating, "utf8", "count_distinct"),
            of("best", StateKind::Aggregating, "i64", "top_k(2)"),
            of("latest", StateKind::Aggregating, "utf8", "max_by"),
        ];
        let (api, job) = scene(&forebay, backend, &states).await;
        let i64 = |number| v1::Value { form: Some(v1::value::Form::I64(number)) };
        let add = |state: &str, value, by| {
            let address = Some(job.at(state, "N1"));
            let request = v1::AddRequest { address, value: Some(value), by, ..Default::default() };
            let mut client = api.state();
            async move { client.add(request).await.map(drop) }
        };
        for number in [3, 9, 6] {
            add("mean", i64(number), None).await.unwrap();
            add("best", i64(number), None).await.unwrap();
            add("tails", text(if number == 3 { "a" } else { "b" }), None).await.unwrap();
            add("latest", text(&format!("at {number}")), Some(text(&number.to_string()))).await.unwrap();
        }
        let get = |state: &str| {
            let address = job.at(state, "N1");
            let api = api.clone();
            async move { api.get(address).await.unwrap().items }
        };
        let mean = get("mean").await;
        assert_eq!(mean[0].readable, Some(v1::Value { form: Some(v1::value::Form::F64(6.0)) }));
        assert_eq!(get("tails").await.iter().map(i64_of).collect::<Vec<_>>(), [Some(2)]);
        assert_eq!(get("best").await.iter().map(i64_of).collect::<Vec<_>>(), [Some(9), Some(6)]);
        assert_eq!(raws(&get("latest").await), ["at 9"]);
        assert_eq!(reason(&add("latest", text("x"), None).await.unwrap_err()), ErrorReason::FieldMissing);
        assert_eq!(reason(&add("mean", i64(1), Some(text("x"))).await.unwrap_err()), ErrorReason::FieldInvalid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sorted_set_is_read_in_the_order_of_its_bytes() {
    for backend in BACKENDS {
        let forebay = Forebay::dev().await;
        let (api, job) = scene(&forebay, backend, &[of("due", StateKind::SortedSet, "utf8", "")]).await;
        let at = v1::Address { key: None, key_group: Some(70), ..job.at("due", "") };
        for element in ["10:05 b", "09:30 a", "10:05 a"] {
            let request =
                v1::AddRequest { address: Some(at.clone()), value: Some(text(element)), ..Default::default() };
            api.state().add(request).await.unwrap();
        }
        let first =
            v1::GetRequest { address: Some(at.clone()), map_end: Some(text("10:06")), limit: 2, ..Default::default() };
        let first = api.state().get(first).await.unwrap().into_inner();
        assert_eq!(raws(&first.items), ["09:30 a", "10:05 a"]);
        let remove =
            v1::MapRemoveRequest { address: Some(at.clone()), map_key: Some(text("09:30 a")), ..Default::default() };
        api.state().map_remove(remove).await.unwrap();
        assert_eq!(raws(&api.get(at.clone()).await.unwrap().items), ["10:05 a", "10:05 b"]);
        let keyed = v1::Address { key: Some(raw("N1")), ..at };
        assert_eq!(reason(&api.get(keyed).await.unwrap_err()), ErrorReason::FieldInvalid);
        assert_eq!(reason(&api.get(job.at("due", "N1")).await.unwrap_err()), ErrorReason::FieldInvalid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committed_read_is_of_the_last_completed_checkpoint() {
    for backend in BACKENDS {
        let forebay = Forebay::dev().await;
        let (api, job) = scene(&forebay, backend, &[value("last")]).await;
        let committed = || {
            let address = Some(job.at("last", "N1"));
            let request = v1::GetRequest { address, view: v1::ReadView::Committed.into(), ..Default::default() };
            let mut state = api.state();
            async move { state.get(request).await.map(|answer| raws(&answer.into_inner().items)) }
        };
        api.put(job.at("last", "N1"), raw("one")).await.unwrap();
        assert_eq!(reason(&committed().await.unwrap_err()), ErrorReason::CheckpointUnknown);
        api.checkpoint("job").await.unwrap();
        api.put(job.at("last", "N1"), raw("two")).await.unwrap();
        // The server hears that the checkpoint is complete a moment after who asked for it.
        eventually("the first checkpoint is seen", || async { committed().await.ok() }).await;
        assert_eq!(committed().await.unwrap(), ["one"]);
        assert_eq!(raws(&api.get(job.at("last", "N1")).await.unwrap().items), ["two"]);
        api.checkpoint("job").await.unwrap();
        eventually("the second one is seen", || async { (committed().await.unwrap() == ["two"]).then_some(()) }).await;

        let scan = v1::ScanRequest {
            job: "job".into(),
            operator: "op".into(),
            state: "last".into(),
            view: v1::ReadView::Committed.into(),
            ..Default::default()
        };
        api.put(job.at("last", "N2"), raw("later")).await.unwrap();
        let page = api.state().scan(scan).await.unwrap().into_inner().message().await.unwrap().unwrap();
        assert_eq!(page.rows.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committed_read_may_be_the_first_for_long_and_comes_over_a_restart() {
    for backend in BACKENDS {
        let mut forebay = Forebay::dev().await;
        let (api, job) = scene(&forebay, backend, &[value("last")]).await;
        for said in ["one", "two"] {
            api.put(job.at("last", "N1"), raw(said)).await.unwrap();
            api.checkpoint("job").await.unwrap();
        }
        api.put(job.at("last", "N1"), raw("three")).await.unwrap();
        let request = v1::GetRequest {
            address: Some(job.at("last", "N1")),
            view: v1::ReadView::Committed.into(),
            ..Default::default()
        };
        let all_read = async |api: &Api| {
            let read = || async { raws(&api.state().get(request.clone()).await.unwrap().into_inner().items) };
            let read = futures::future::join_all((0..20).map(|_| read())).await;
            read.into_iter().flatten().collect::<HashSet<_>>()
        };
        assert_eq!(all_read(&api).await, HashSet::from(["two".to_owned()]));
        forebay.kill_and_restart().await;
        let api = forebay.api();
        api.serving("job").await;
        assert_eq!(all_read(&api).await, HashSet::from(["two".to_owned()]));
        // What is in memory went back to the checkpoint.
        let live = if backend == v1::Backend::Memory { "two" } else { "three" };
        assert_eq!(raws(&api.get(job.at("last", "N1")).await.unwrap().items), [live]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_yields_keys_once_and_goes_on_from_any_page() {
    for backend in BACKENDS {
        let forebay = Forebay::dev().await;
        let (api, job) = scene(&forebay, backend, &[list("legs")]).await;
        for key in 0..30 {
            for _ in 0..20 {
                api.append(job.at("legs", &format!("N{key:02}")), raw("leg")).await.unwrap();
            }
        }
        let request =
            v1::ScanRequest { job: "job".into(), operator: "op".into(), state: "legs".into(), ..Default::default() };
        let keys = v1::ScanRequest { projection: v1::ScanProjection::Keys.into(), ..request.clone() };
        let (mut rows, mut found) = (api.state().scan(keys).await.unwrap().into_inner(), Vec::new());
        while let Some(page) = rows.message().await.unwrap() {
            found.extend(page.rows.into_iter().map(|row| row.key.unwrap().raw));
        }
        found.sort();
        let expected: Vec<_> = (0..30).map(|key| format!("N{key:02}")).collect();
        assert_eq!(found, expected);

        // A new stream from the token of the first page.
        let first = api.state().scan(request.clone()).await.unwrap().into_inner().message().await.unwrap().unwrap();
        let resumed = v1::ScanRequest { page_token: first.page_token.clone(), ..request.clone() };
        let (mut rest, mut count) = (api.state().scan(resumed.clone()).await.unwrap().into_inner(), first.rows.len());
        while let Some(page) = rest.message().await.unwrap() {
            count += page.rows.len();
        }
        assert_eq!(count, 600);
        let exact = v1::CountRequest {
            job: "job".into(),
            operator: "op".into(),
            state: "legs".into(),
            exact: true,
            ..Default::default()
        };
        assert_eq!(api.state().count(exact.clone()).await.unwrap().into_inner().rows, 600);
        let estimate = v1::CountRequest { exact: false, ..exact };
        let estimate = api.state().count(estimate).await.unwrap().into_inner();
        assert!(!estimate.exact && (300..=1200).contains(&estimate.rows), "{estimate:?}");

        let broken = v1::ScanRequest { page_token: "x".into(), ..request };
        let status = api.state().scan(broken).await.map(drop).unwrap_err();
        assert_eq!(reason(&status), ErrorReason::PageTokenInvalid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_token_is_refused_over_a_rewind() {
    let mut forebay = Forebay::dev().await;
    let (api, mut job) = scene(&forebay, v1::Backend::Memory, &[list("legs")]).await;
    for _ in 0..20 {
        api.append(job.at("legs", "N1"), raw("leg")).await.unwrap();
    }
    api.checkpoint("job").await.unwrap();
    let page = v1::GetRequest { address: Some(job.at("legs", "N1")), limit: 5, ..Default::default() };
    let token = api.state().get(page.clone()).await.unwrap().into_inner().next_page_token;
    forebay.kill_and_restart().await;
    job.refresh(&api).await;
    let status = api.state().get(v1::GetRequest { page_token: token, ..page }).await.unwrap_err();
    assert_eq!(reason(&status), ErrorReason::PageTokenInvalid);
    assert!(status.message().contains("gone back"), "{}", status.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_are_merged_in_one_step() {
    for backend in BACKENDS {
        let forebay = Forebay::dev().await;
        let states = [of("legs", StateKind::List, "utf8", ""), of("sum", StateKind::Reducing, "i64", "sum_i64")];
        let (api, job) = scene(&forebay, backend, &states).await;
        let at = |state: &str, window: &str| v1::Address { namespace: Some(text(window)), ..job.at(state, "N1") };
        for (window, number) in [("w1", 1), ("w2", 2), ("w3", 4)] {
            api.append(at("legs", window), text(window)).await.unwrap();
            let value = Some(v1::Value { form: Some(v1::value::Form::I64(number)) });
            let request = v1::AddRequest { address: Some(at("sum", window)), value, ..Default::default() };
            api.state().add(request).await.unwrap();
        }
        for state in ["legs", "sum"] {
            let request = v1::MergeNamespacesRequest {
                address: Some(at(state, "w2")),
                sources: vec![text("w3"), text("w1"), text("none")],
                ..Default::default()
            };
            api.state().merge_namespaces(request).await.unwrap();
        }
        assert_eq!(raws(&api.get(at("legs", "w2")).await.unwrap().items), ["w2", "w3", "w1"]);
        assert_eq!(i64_of(&api.get(at("sum", "w2")).await.unwrap().items[0]), Some(7));
        assert!(!api.get(at("legs", "w1")).await.unwrap().found && !api.get(at("sum", "w3")).await.unwrap().found);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ttl_is_switched_on_and_off_and_a_schema_is_replaced_by_its_version() {
    let forebay = Forebay::dev().await;
    let plain = value("last");
    let (api, job) = scene(&forebay, v1::Backend::Rocksdb, std::slice::from_ref(&plain)).await;
    let ttl =
        Some(v1::TtlConfig { ttl: Some(prost_types::Duration { seconds: 3600, nanos: 0 }), ..Default::default() });
    let register = async |ttl| {
        let descriptor = v1::StateDescriptor { ttl, ..plain.clone() };
        api.register("job", "op", vec![descriptor]).await.unwrap().swap_remove(0)
    };
    let deadline = async |key: &str| api.get(job.at("last", key)).await.unwrap().items[0].expires_at_ms;
    api.put(job.at("last", "before"), raw("x")).await.unwrap();
    assert_eq!(register(ttl).await.version, 2);
    api.put(job.at("last", "with"), raw("x")).await.unwrap();
    assert!(deadline("with").await.is_some());
    assert_eq!(deadline("before").await, None, "what was written before keeps what it was written with");
    assert_eq!(register(None).await.version, 3);
    api.put(job.at("last", "behind"), raw("x")).await.unwrap();
    assert!(deadline("with").await.is_some() && deadline("behind").await.is_none());
    let put = v1::PutRequest {
        address: Some(job.at("last", "with")),
        values: vec![raw("x")],
        expires_at_ms: Some(1),
        ..Default::default()
    };
    api.state().put(put).await.unwrap();
    assert!(!api.get(job.at("last", "with")).await.unwrap().found, "a deadline of its own that has passed");

    let schema = v1::StateDescriptor { schema: "two".into(), schema_version: 2, ..plain.clone() };
    let replace = |expected_version| {
        let request = v1::ReplaceDescriptorRequest {
            job: "job".into(),
            operator: "op".into(),
            descriptor: Some(schema.clone()),
            expected_version,
        };
        let mut coordinator = api.coordinator();
        async move { coordinator.replace_descriptor(request).await.map(|answer| answer.into_inner().state.unwrap()) }
    };
    assert_eq!(reason(&replace(2).await.unwrap_err()), ErrorReason::SettingsConflict);
    let state = replace(3).await.unwrap();
    assert_eq!((state.version, state.descriptor.unwrap().schema), (4, "two".into()));
    assert!(api.get(job.at("last", "before")).await.unwrap().found);
}
