//! Where keys and the rows of a state are.

use forebay_integration_tests::harness::{Api, Cluster, Forebay, Job, JobBuilder, raw, reason};
use forebay_proto::{
    key_group::{KeyGroup, MaxParallelism},
    v1::{self, ErrorReason, StateKind},
};

use super::scene::{of, typed, written};

async fn locate(
    api: &Api,
    state: &str,
    key: &str,
    key_group: Option<u32>,
) -> Result<v1::LocateKeyResponse, ErrorReason> {
    let request = v1::LocateKeyRequest {
        job: "job".into(),
        operator: "op".into(),
        state: state.into(),
        key: Some(written(key)),
        key_group,
    };
    let answer = api.debug().locate_key(request).await;
    answer.map(tonic::Response::into_inner).map_err(|status| reason(&status))
}

async fn described(api: &Api, state: &str, exact: bool) -> v1::DescribeStateResponse {
    let (job, operator, state) = ("job".into(), "op".into(), state.into());
    api.debug().describe_state(v1::DescribeStateRequest { job, operator, state, exact }).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_located_by_its_hash_and_a_state_described_from_any_process() {
    let cluster = Cluster::start(2).await;
    let api = cluster.api();
    let states = [of("sum", StateKind::Reducing, "i64", "sum_i64"), of("due", StateKind::SortedSet, "utf8", "")];
    let job = Job::create(&api, JobBuilder::shared("job", 4).build(), &states).await;
    for number in 0..100 {
        let key = typed("i64", number);
        let group = u32::from(KeyGroup::of(&key, MaxParallelism::DEFAULT).get());
        let route = job.routes.iter().find(|route| (route.start..route.end).contains(&group)).unwrap();
        let found = locate(&api, "sum", &number.to_string(), None).await.unwrap();
        let [place] = &found.locations[..] else { panic!("{found:?}") };
        assert_eq!(
            (place.key_group, place.start, place.end, &place.address),
            (group, route.start, route.end, &route.address)
        );
        assert_eq!((place.status(), place.incarnation, found.probed), (v1::ShardStatus::Serving, 1, false));
        let address = v1::Address { key: Some(raw(key)), ..job.at("sum", "") };
        let value = Some(v1::Value { form: Some(v1::value::Form::I64(1)) });
        let add = v1::AddRequest { address: Some(address), value, ..Default::default() };
        Api::to(&route.address).state().add(add).await.unwrap();
    }
    // Text is read as UTF-8 where no state says otherwise.
    let text = u32::from(KeyGroup::of(b"5", MaxParallelism::DEFAULT).get());
    assert_eq!(locate(&api, "", "5", None).await.unwrap().locations[0].key_group, text);
    assert_eq!(locate(&api, "due", "", Some(7)).await.unwrap().locations[0].key_group, 7);
    for (state, key, key_group, expected) in [
        ("sum", "5", Some(127), ErrorReason::KeyGroupMismatch),
        ("sum", "5", Some(128), ErrorReason::KeyGroupOutOfRange),
        ("sum", "five", None, ErrorReason::FieldInvalid),
        ("", "", None, ErrorReason::KeyEmpty),
        ("due", "5", None, ErrorReason::FieldMissing),
        ("none", "5", None, ErrorReason::StateUnknown),
    ] {
        assert_eq!(locate(&api, state, key, key_group).await.unwrap_err(), expected, "{state} {key}");
    }

    // The coordinator knows all shards and reads none; every server reads its own.
    let seen = described(&api, "sum", true).await;
    assert_eq!((seen.shards.len(), seen.rows), (4, 0));
    assert!(seen.shards.iter().all(|shard| shard.error.contains("ask \"server-") && shard.error.contains("http://")));
    assert_eq!(seen.state.unwrap().descriptor.unwrap().function, "sum_i64");
    let (mut rows, mut shards, mut here) = (0, 0, 0);
    for server in &cluster.servers {
        let exact = described(&server.api(), "sum", true).await;
        assert!(exact.exact && exact.shards.iter().all(|shard| shard.error.is_empty()));
        // Two bytes of key group, two lengths, a key of eight; a value of eight.
        assert_eq!(exact.bytes, exact.rows * 20);
        let estimate = described(&server.api(), "sum", false).await;
        assert!(estimate.rows.abs_diff(exact.rows) <= exact.rows && estimate.bytes == estimate.rows * 20);
        (rows, shards) = (rows + exact.rows, shards + exact.shards.len());
        for key in 0..20 {
            match locate(&server.api(), "sum", &key.to_string(), None).await {
                Ok(found) => {
                    assert_eq!(found.locations[0].address, server.url());
                    here += 1;
                }
                Err(reason) => assert_eq!(reason, ErrorReason::ShardMoved),
            }
        }
    }
    assert_eq!((rows, shards, here), (100, 4, 20));
    let entry = v1::GetEntryRequest {
        address: Some(v1::WrittenAddress { job: "job".into(), ..Default::default() }),
        ..Default::default()
    };
    let status = api.debug().get_entry(entry).await.unwrap_err();
    assert_eq!(reason(&status), ErrorReason::ShardMoved);
    assert!(status.message().contains("holds no shards"), "{}", status.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_the_explicit_partitioner_is_looked_for_in_every_key_group() {
    let forebay = Forebay::dev().await;
    let api = forebay.api();
    let states = [of("sum", StateKind::Reducing, "i64", "sum_i64"), of("text", StateKind::Value, "utf8", "")];
    let spec = JobBuilder::shared("job", 4).with(|spec| spec.set_partitioner(v1::Partitioner::Explicit)).build();
    let job = Job::create(&api, spec, &states).await;
    for (state, group) in [("text", 3), ("text", 100), ("sum", 50)] {
        let address = v1::Address { key: Some(raw(typed("i64", -5))), key_group: Some(group), ..job.at(state, "") };
        if state == "sum" {
            let value = Some(v1::Value { form: Some(v1::value::Form::I64(1)) });
            api.state().add(v1::AddRequest { address: Some(address), value, ..Default::default() }).await.unwrap();
        } else {
            api.put(address, raw("x")).await.unwrap();
        }
    }
    let groups = |found: v1::LocateKeyResponse| {
        assert!(found.probed && found.unanswered.is_empty());
        found.locations.iter().map(|place| place.key_group).collect::<Vec<_>>()
    };
    assert_eq!(groups(locate(&api, "text", "-5", None).await.unwrap()), [3, 100]);
    assert_eq!(groups(locate(&api, "sum", "-5", None).await.unwrap()), [50]);
    assert_eq!(groups(locate(&api, "sum", "5", None).await.unwrap()), [0; 0]);
    let named = locate(&api, "sum", "5", Some(9)).await.unwrap();
    assert_eq!((named.probed, named.locations[0].key_group), (false, 9));
}
