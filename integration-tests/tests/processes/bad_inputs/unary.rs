//! Through the unary services.

use std::pin::Pin;

use forebay_integration_tests::harness::{address, raw, reason, text};
use forebay_proto::v1::value::Form;
use tonic::Status;

use super::*;

type Answer = Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>;

fn get(api: &Api, address: v1::Address) -> Answer {
    let api = api.clone();
    Box::pin(async move { api.get(address).await.map(drop) })
}

fn put(api: &Api, address: v1::Address) -> Answer {
    put_with(api, v1::PutRequest { address: Some(address), values: vec![raw("x")], ..Default::default() })
}

fn put_with(api: &Api, request: v1::PutRequest) -> Answer {
    let mut client = api.state();
    Box::pin(async move { client.put(request).await.map(drop) })
}

fn append(api: &Api, address: v1::Address, value: v1::Value) -> Answer {
    let api = api.clone();
    Box::pin(async move { api.append(address, value).await.map(drop) })
}

fn add(api: &Api, address: v1::Address, value: Option<v1::Value>) -> Answer {
    let mut client = api.state();
    let request = v1::AddRequest { address: Some(address), value, ..Default::default() };
    Box::pin(async move { client.add(request).await.map(drop) })
}

fn scan(api: &Api, request: v1::ScanRequest) -> Answer {
    let mut client = api.state();
    Box::pin(async move { client.scan(request).await.map(drop) })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_unary_call_is_refused_by_name_and_changes_nothing() {
    use ErrorReason::*;
    let scene = scene().await;
    let (api, at) = (&scene.api, |state: &str, key: &str| scene.job.at(state, key));
    let group = group_of(b"N1");
    let in_group = |group| v1::Address { key_group: Some(group), ..at("last", "N1") };
    let value = |value: v1::Value| v1::PutRequest {
        address: Some(at("last", "N1")),
        values: vec![value],
        ..Default::default()
    };
    let invalid = Code::InvalidArgument;
    let calls: Vec<(Wanted, Answer)> = vec![
        (wanted("no address", invalid, FieldMissing, "address"), put_with(api, v1::PutRequest::default())),
        (
            wanted("no key", invalid, FieldMissing, "key is missing"),
            put(api, v1::Address { key: None, ..at("last", "") }),
        ),
        (wanted("empty key", invalid, KeyEmpty, "1 to 65535"), put(api, at("last", ""))),
        (wanted("empty key, read", invalid, KeyEmpty, "1 to 65535"), get(api, at("last", ""))),
        (
            wanted("key of 65,536 bytes", invalid, KeyTooLong, "65536 bytes: at most 65535"),
            put(api, address("job", "op", "last", vec![b'k'; 65_536])),
        ),
        (
            wanted("namespace of 65,536 bytes", invalid, KeyTooLong, "65536 bytes: at most 65535"),
            put(api, v1::Address { namespace: Some(raw(vec![0; 65_536])), ..at("last", "N1") }),
        ),
        (
            wanted("value over the limit", invalid, ValueTooLarge, "65 bytes: at most 64"),
            put_with(api, value(raw(vec![0; VALUE_BYTES_MAX + 1]))),
        ),
        (
            wanted("element over the limit", invalid, ValueTooLarge, "at most 64"),
            append(api, at("legs", "N1"), raw(vec![0; VALUE_BYTES_MAX + 1])),
        ),
        (wanted("key group 128 of 128", Code::OutOfRange, KeyGroupOutOfRange, "128"), put(api, in_group(128))),
        (
            wanted("key group of no job", Code::OutOfRange, KeyGroupOutOfRange, "4294967295"),
            put(api, in_group(u32::MAX)),
        ),
        (
            wanted(
                "another key's group",
                invalid,
                KeyGroupMismatch,
                format!("hashes to key group {group}, the request says {}", group ^ 1),
            ),
            put(api, in_group(group ^ 1)),
        ),
        (
            wanted("no key group, explicit", invalid, FieldMissing, "name the key group"),
            put(api, scene.explicit.at("last", "N1")),
        ),
        (
            wanted("unknown job", Code::NotFound, JobUnknown, "\"nojob\""),
            put(api, v1::Address { job: "nojob".into(), ..at("last", "N1") }),
        ),
        (
            wanted("hostile job", Code::NotFound, JobUnknown, "../x"),
            get(api, v1::Address { job: "../x".into(), ..at("last", "N1") }),
        ),
        (
            wanted("unknown operator", Code::NotFound, OperatorUnknown, "\"noop\""),
            put(api, v1::Address { operator: "noop".into(), ..at("last", "N1") }),
        ),
        (wanted("unknown state", Code::NotFound, StateUnknown, "\"nostate\""), put(api, at("nostate", "N1"))),
        (
            wanted("append to a value", Code::FailedPrecondition, WrongKind, "\"last\""),
            append(api, at("last", "N1"), raw("x")),
        ),
        (
            wanted("put to a reducing state", Code::FailedPrecondition, WrongKind, "\"delay\""),
            put(api, at("delay", "N1")),
        ),
        (
            wanted("add to a list", Code::FailedPrecondition, WrongKind, "\"legs\""),
            add(api, at("legs", "N1"), Some(raw("x"))),
        ),
        (wanted("no operand", invalid, FieldMissing, "value"), add(api, at("delay", "N1"), None)),
        (
            wanted("operand of 3 bytes", invalid, FieldInvalid, "3 bytes: sum_i64 takes 8"),
            add(api, at("delay", "N1"), Some(raw("abc"))),
        ),
        (wanted("operand as text", invalid, FieldInvalid, "utf8"), add(api, at("delay", "N1"), Some(text("7")))),
        (
            wanted("a number for bytes", invalid, FieldInvalid, "i64"),
            put_with(api, value(v1::Value { form: Some(Form::I64(7)) })),
        ),
        (
            wanted("two values", invalid, FieldInvalid, "2"),
            put_with(api, v1::PutRequest { values: vec![raw("a"), raw("b")], ..value(raw("")) }),
        ),
        (
            wanted("no value", invalid, FieldInvalid, "0"),
            put_with(api, v1::PutRequest { values: Vec::new(), ..value(raw("")) }),
        ),
        (
            wanted("unknown durability", invalid, FieldInvalid, "durability 9"),
            put_with(api, v1::PutRequest { durability: 9, ..value(raw("x")) }),
        ),
        (
            wanted("durability checkpoint", Code::FailedPrecondition, SettingsConflict, "AwaitDurable"),
            put_with(api, v1::PutRequest { durability: v1::Durability::Checkpoint.into(), ..value(raw("x")) }),
        ),
        (
            wanted("request id of 65 bytes", invalid, FieldInvalid, "65 bytes: at most 64"),
            put_with(api, v1::PutRequest { request_id: "i".repeat(65), ..value(raw("x")) }),
        ),
        (
            wanted("scan past the last key group", Code::OutOfRange, KeyGroupOutOfRange, "[0,129)"),
            scan(api, v1::ScanRequest { end: 129, ..scan_of("last") }),
        ),
        (
            wanted("scan backwards", Code::OutOfRange, KeyGroupOutOfRange, "[9,3)"),
            scan(api, v1::ScanRequest { start: 9, end: 3, ..scan_of("last") }),
        ),
        (wanted("scan of no state", Code::NotFound, StateUnknown, "\"nostate\""), scan(api, scan_of("nostate"))),
    ];
    let mut wrong = Vec::new();
    for (wanted, call) in calls {
        match call.await {
            Ok(()) => wrong.push(format!("{}: accepted", wanted.input)),
            Err(status) => wanted.compare(status.code(), reason(&status), status.message(), &mut wrong),
        }
    }
    none_wrong(&wrong);
    scene.nothing_changed().await;
}

fn scan_of(state: &str) -> v1::ScanRequest {
    v1::ScanRequest { job: "job".into(), operator: "op".into(), state: state.into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_job_is_refused_by_name_and_not_created() {
    use ErrorReason::*;
    let forebay = Forebay::dev().await;
    let api = forebay.api();
    let invalid = Code::InvalidArgument;
    type Change = Box<dyn FnOnce(&mut v1::JobSpec)>;
    let named = |name: &str| -> Change {
        let name = name.to_owned();
        Box::new(move |spec| spec.name = name)
    };
    let operator = |name: &str| -> Change {
        let name = name.to_owned();
        Box::new(move |spec| spec.operators[0].name = name)
    };
    let specs: Vec<(Wanted, Change)> = vec![
        (wanted("no name", invalid, NameInvalid, "\"\""), named("")),
        (wanted("../x", invalid, NameInvalid, "\"../x\""), named("../x")),
        (wanted("a/b", invalid, NameInvalid, "\"a/b\""), named("a/b")),
        (wanted("NUL", invalid, NameInvalid, "a\\0"), named("a\0")),
        (wanted("64 characters", invalid, NameInvalid, "a".repeat(64)), named(&"a".repeat(64))),
        (wanted("upper case", invalid, NameInvalid, "[a-z0-9][a-z0-9_-]{0,62}"), named("Job")),
        (wanted("dash first", invalid, NameInvalid, "\"-a\""), named("-a")),
        (wanted("umlaut", invalid, NameInvalid, "ä"), named("ä")),
        (wanted("operator ../x", invalid, NameInvalid, "operator name \"../x\""), operator("../x")),
        (wanted("operator NUL", invalid, NameInvalid, "operator name"), operator("o\0")),
        (wanted("no operators", invalid, FieldMissing, "operators"), Box::new(|spec| spec.operators.clear())),
        (
            wanted("32,769 key groups", invalid, FieldInvalid, "32769: 1 to 32768"),
            Box::new(|spec| spec.max_parallelism = 32_769),
        ),
        (
            wanted("more shards than key groups", Code::FailedPrecondition, SettingsConflict, "129 shards of 128"),
            Box::new(|spec| spec.operators[0].shards = 129),
        ),
        (
            wanted("memory with a log", Code::FailedPrecondition, SettingsConflict, "memory"),
            Box::new(|spec| {
                spec.set_backend(v1::Backend::Memory);
                spec.set_durability(v1::Durability::WalSync);
            }),
        ),
        (
            wanted("values of 65 MiB", Code::FailedPrecondition, SettingsConflict, "68157440: at most 67108864"),
            Box::new(|spec| spec.limits = Some(v1::Limits { max_value_bytes: 65 << 20, ..Default::default() })),
        ),
        (wanted("unknown backend", invalid, FieldInvalid, "backend 9"), Box::new(|spec| spec.backend = 9)),
        (wanted("unknown durability", invalid, FieldInvalid, "durability 9"), Box::new(|spec| spec.durability = 9)),
        (wanted("unknown access", invalid, FieldInvalid, "access 9"), Box::new(|spec| spec.operators[0].access = 9)),
        (wanted("unknown partitioner", invalid, FieldInvalid, "partitioner 9"), Box::new(|spec| spec.partitioner = 9)),
        (wanted("unknown recovery", invalid, FieldInvalid, "recovery 9"), Box::new(|spec| spec.recovery = 9)),
    ];
    let mut wrong = Vec::new();
    for (wanted, change) in specs {
        match api.create(JobBuilder::shared("job", 1).with(change).build()).await {
            Ok(_) => wrong.push(format!("{}: created", wanted.input)),
            Err(status) => wanted.compare(status.code(), reason(&status), status.message(), &mut wrong),
        }
    }
    none_wrong(&wrong);
    let jobs = api.coordinator().list_jobs(v1::ListJobsRequest {}).await.unwrap().into_inner().jobs;
    assert_eq!(jobs, []);
    let status = api.describe("../x").await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::NotFound, JobUnknown));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_state_is_refused_by_name_and_not_registered() {
    use ErrorReason::*;
    let scene = scene().await;
    let invalid = Code::InvalidArgument;
    let states: Vec<(Wanted, v1::StateDescriptor)> = vec![
        (wanted("no name", invalid, NameInvalid, "0 bytes"), value("")),
        (wanted("256 bytes", invalid, NameInvalid, "256 bytes"), value(&"s".repeat(256))),
        (wanted("no kind", invalid, FieldMissing, "\"x\""), v1::StateDescriptor { kind: 0, ..value("x") }),
        (wanted("unknown kind", invalid, FieldInvalid, "kind 99"), v1::StateDescriptor { kind: 99, ..value("x") }),
        (
            wanted("unknown function", invalid, FieldInvalid, "\"sum_u7\""),
            v1::StateDescriptor { function: "sum_u7".into(), ..reducing("x") },
        ),
        (
            wanted("unknown codec", invalid, FieldInvalid, "\"utf9\""),
            v1::StateDescriptor { key_codec: "utf9".into(), ..value("x") },
        ),
        (
            wanted("another kind", Code::FailedPrecondition, StateIncompatible, "\"last\""),
            v1::StateDescriptor { name: "last".into(), ..list("last") },
        ),
        (
            wanted("another codec", Code::FailedPrecondition, StateIncompatible, "\"last\""),
            v1::StateDescriptor { value_codec: "i64".into(), ..value("last") },
        ),
    ];
    let before = scene.api.states("job").await.unwrap();
    let mut wrong = Vec::new();
    for (wanted, state) in states {
        // Beside a good one: all or none.
        match scene.api.register("job", "op", vec![value("good"), state]).await {
            Ok(_) => wrong.push(format!("{}: registered", wanted.input)),
            Err(status) => wanted.compare(status.code(), reason(&status), status.message(), &mut wrong),
        }
    }
    none_wrong(&wrong);
    let status = scene.api.register("job", "noop", vec![value("x")]).await.unwrap_err();
    assert_eq!(reason(&status), OperatorUnknown);
    let status = scene.api.register("nojob", "op", vec![value("x")]).await.unwrap_err();
    assert_eq!(reason(&status), JobUnknown);
    assert_eq!(scene.api.states("job").await.unwrap(), before);
    scene.nothing_changed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_contract_holds_and_this_build_does_not_serve_is_answered_so() {
    let forebay = Forebay::dev().await;
    let api = forebay.api();
    let named = [
        api.state().snapshot(v1::SnapshotRequest::default()).await.map(drop),
        api.coordinator().update_job(v1::UpdateJobRequest::default()).await.map(drop),
        api.coordinator().rescale_job(v1::RescaleJobRequest::default()).await.map(drop),
    ];
    for status in named.map(Result::unwrap_err) {
        assert_eq!((status.code(), reason(&status)), (Code::Unimplemented, ErrorReason::Unsupported), "{status:?}");
        assert!(status.message().contains("not served by this build"), "{status:?}");
    }
}
