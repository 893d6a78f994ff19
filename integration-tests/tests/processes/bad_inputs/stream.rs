//! Through the hot path.

use std::collections::HashMap;

use bytes::Bytes;
use forebay_integration_tests::harness::{Lane, Stream, reason};
use forebay_proto::{
    packed::{Op, OpsBuilder},
    v1::{OpKind, batch::Order, stream_request::Message as Up, stream_response::Message as Down},
};

use super::*;

type Change = Box<dyn FnOnce(&mut v1::Batch)>;

fn ops(ops: &[Op<'_>]) -> v1::PackedOps {
    let mut builder = OpsBuilder::new();
    ops.iter().for_each(|op| builder.push(op));
    builder.finish()
}

/// Replaces the operations.
fn with(op: Op<'_>) -> Change {
    let packed = ops(&[op]);
    Box::new(move |batch| batch.ops = Some(packed))
}

/// Changes the columns of the operations.
fn columns(change: impl FnOnce(&mut v1::PackedOps) + 'static) -> Change {
    Box::new(move |batch| change(batch.ops.as_mut().expect("it has operations")))
}

/// A key of another shard than the first.
fn elsewhere(job: &Job) -> String {
    let first = &job.routes[0];
    let outside = |key: &String| !(first.start..first.end).contains(&group_of(key.as_bytes()));
    (0..).map(|n| format!("K{n}")).find(outside).expect("half of all keys are")
}

fn here(job: &Job) -> String {
    let first = &job.routes[0];
    let inside = |key: &String| (first.start..first.end).contains(&group_of(key.as_bytes()));
    (0..).map(|n| format!("K{n}")).find(inside).expect("half of all keys are")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_batch_is_refused_by_name_and_changes_nothing() {
    use ErrorReason::*;
    let scene = scene().await;
    let job = &scene.job;
    let [last, legs, delay] = [0, 1, 2].map(|index| job.states[index].id);
    let (key, far) = (here(job), elsewhere(job));
    let group = group_of(key.as_bytes());
    let put = Op::new(OpKind::ValuePut, last, key.as_bytes()).with_value(b"x");
    let (long, large) = (vec![b'k'; 65_536], vec![b'v'; VALUE_BYTES_MAX + 1]);
    let invalid = Code::InvalidArgument;
    let spans = ops(&[put, Op { key: far.as_bytes(), ..put }]);
    let second_bad = ops(&[put, Op { key: b"", ..put }]);
    let batches: Vec<(Wanted, Change)> = vec![
        (wanted("empty key", invalid, KeyEmpty, "ops[0]: the key is empty: 1 to 65535"), with(Op { key: b"", ..put })),
        (wanted("the second is bad", invalid, KeyEmpty, "ops[1]"), Box::new(|batch| batch.ops = Some(second_bad))),
        (
            wanted("key of 65,536 bytes", invalid, KeyTooLong, "65536 bytes: at most 65535"),
            with(Op { key: &long, ..put }),
        ),
        (
            wanted("namespace of 65,536 bytes", invalid, KeyTooLong, "namespace has 65536"),
            with(put.with_namespace(&long)),
        ),
        (wanted("value over the limit", invalid, ValueTooLarge, "65 bytes: at most 64"), with(put.with_value(&large))),
        (
            wanted("element over the limit", invalid, ValueTooLarge, "65 bytes: at most 64"),
            with(Op::new(OpKind::ListAppend, legs, key.as_bytes()).with_value(&large)),
        ),
        (
            wanted("key group 128 of 128", Code::OutOfRange, KeyGroupOutOfRange, "key group 128 is out of range"),
            with(put.with_key_group(128)),
        ),
        (
            wanted("key group of no job", invalid, Malformed, "4294967294: 0 to 32767"),
            columns(|ops| ops.key_groups = vec![u32::MAX]),
        ),
        (
            wanted(
                "another key's group",
                invalid,
                KeyGroupMismatch,
                format!("key group {group}, the request says {}", group ^ 1),
            ),
            with(put.with_key_group((group ^ 1) as u16)),
        ),
        (
            wanted(
                "a key of another shard",
                invalid,
                BatchSpansShards,
                format!("key group {} is outside", group_of(far.as_bytes())),
            ),
            Box::new(|batch| batch.ops = Some(spans)),
        ),
        (wanted("unknown state", Code::NotFound, StateUnknown, "state id 999"), with(Op { state_id: 999, ..put })),
        (wanted("state id 0", Code::NotFound, StateUnknown, "state id 0"), with(Op { state_id: 0, ..put })),
        (
            wanted("append to a value", Code::FailedPrecondition, WrongKind, "\"last\" is a value"),
            with(Op { kind: OpKind::ListAppend, ..put }),
        ),
        (
            wanted("put to a list", Code::FailedPrecondition, WrongKind, "\"legs\" is a list"),
            with(Op { state_id: legs, ..put }),
        ),
        (
            wanted("operand of 3 bytes", invalid, FieldInvalid, "3 bytes: sum_i64 takes 8"),
            with(Op::new(OpKind::ReducingAdd, delay, key.as_bytes()).with_value(b"abc")),
        ),
        (
            wanted("broken packed list", invalid, Malformed, "ops[0]"),
            with(Op::new(OpKind::ListAppendAll, legs, key.as_bytes()).with_value(b"\xff\xff\xff\xff")),
        ),
        (wanted("a read among writes", invalid, Malformed, "VALUE_GET"), with(Op { kind: OpKind::ValueGet, ..put })),
        (
            wanted("a write among reads", invalid, Malformed, "VALUE_PUT"),
            Box::new(|batch| batch.order = Some(Order::After(0))),
        ),
        (wanted("kind 200", invalid, Malformed, "kind 200"), columns(|ops| ops.kinds = Bytes::from_static(&[200]))),
        (wanted("kind 0", invalid, Malformed, "kind 0"), columns(|ops| ops.kinds = Bytes::from_static(&[0]))),
        (wanted("broken compare-and-set", invalid, Malformed, "ops[0]"), with(Op { kind: OpKind::ValueCas, ..put })),
        (wanted("arena cut short", invalid, Malformed, "arena has"), columns(|ops| ops.arena.truncate(1))),
        (
            wanted("column too long", invalid, Malformed, "column state_ids has 2 entries"),
            columns(|ops| ops.state_ids.push(1)),
        ),
        (wanted("length of 4 GiB", invalid, Malformed, "add up to"), columns(|ops| ops.value_lens = vec![u32::MAX])),
        (
            wanted("1,048,577 operations", invalid, BatchTooMany, "1048577 operations: at most 1048576"),
            columns(|ops| ops.kinds = vec![2; 1_048_577].into()),
        ),
        (wanted("number 0", invalid, FieldInvalid, "start at 1"), Box::new(|batch| batch.order = Some(Order::Seq(0)))),
        (wanted("no number", invalid, FieldMissing, "seq"), Box::new(|batch| batch.order = None)),
        (
            wanted("a barrier among reads", invalid, FieldInvalid, "barrier"),
            Box::new(|batch| {
                (batch.order, batch.barrier) = (Some(Order::After(0)), Some(v1::BarrierOp::default()));
            }),
        ),
        (wanted("unknown durability", invalid, FieldInvalid, "durability 9"), Box::new(|batch| batch.durability = 9)),
        (
            wanted("durability checkpoint", Code::FailedPrecondition, SettingsConflict, "AwaitDurable"),
            Box::new(|batch| batch.set_durability(v1::Durability::Checkpoint)),
        ),
        (
            wanted("watermark of a shared operator", invalid, FieldInvalid, "watermark"),
            Box::new(|batch| batch.watermark_ms = Some(1)),
        ),
        (
            wanted("positions of a shared operator", invalid, FieldInvalid, "keeps no source positions"),
            Box::new(|batch| batch.positions = HashMap::from([("source".to_owned(), Bytes::from_static(b"7"))])),
        ),
        (
            wanted("epoch of the future", Code::Aborted, ServerBehind, "the request says 99"),
            Box::new(|batch| batch.shard_epoch = 99),
        ),
        (wanted("unknown lane", Code::FailedPrecondition, LaneExpired, "lane"), Box::new(|batch| batch.channel = 77)),
    ];
    let mut stream = Stream::open(&scene.api, &job.info).await.unwrap();
    let lane = stream.lane(&job.routes[0], 0).await.unwrap();
    let mut wrong = Vec::new();
    for (wanted, change) in batches {
        let mut batch = lane.write(1, ops(&[put]));
        change(&mut batch);
        match stream.batch(batch).await.unwrap() {
            Ok(_) => wrong.push(format!("{}: accepted", wanted.input)),
            Err(refusal) => {
                let code = Code::from(refusal.code as i32);
                wanted.compare(code, refusal.reason(), &refusal.message, &mut wrong);
            }
        }
    }
    none_wrong(&wrong);
    scene.nothing_changed().await;
    // No refusal has used up a number, and the stream still stands.
    let answer = stream.batch(lane.write(1, ops(&[put]))).await.unwrap().unwrap();
    assert!(!answer.duplicate);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_lane_is_refused_by_name() {
    use ErrorReason::*;
    let scene = scene().await;
    let route = &scene.job.routes[0];
    let open = v1::OpenLane {
        operator: "op".into(),
        start: route.start,
        end: route.end,
        shard_epoch: route.epoch,
        ..Default::default()
    };
    let lanes = [
        (
            wanted("unknown operator", Code::NotFound, OperatorUnknown, "\"noop\""),
            v1::OpenLane { operator: "noop".into(), ..open.clone() },
        ),
        (
            wanted("no such range", Code::Aborted, ShardMoved, "[0,1)"),
            v1::OpenLane { start: 0, end: 1, ..open.clone() },
        ),
        (
            wanted("lane of 3 bytes", Code::InvalidArgument, FieldInvalid, "3 bytes: 16"),
            v1::OpenLane { lane: Bytes::from_static(b"abc"), ..open.clone() },
        ),
        (
            wanted("unknown lane", Code::FailedPrecondition, LaneExpired, "lane"),
            v1::OpenLane { lane: vec![9; 16].into(), ..open.clone() },
        ),
        (
            wanted("epoch of the future", Code::Aborted, ServerBehind, "says 99"),
            v1::OpenLane { shard_epoch: 99, ..open.clone() },
        ),
    ];
    let mut stream = Stream::open(&scene.api, &scene.job.info).await.unwrap();
    let mut wrong = Vec::new();
    for (wanted, open) in lanes {
        match stream.open_lane(open).await.unwrap() {
            Ok(lane) => wrong.push(format!("{}: opened {lane:?}", wanted.input)),
            Err(refusal) => {
                let code = Code::from(refusal.code as i32);
                wanted.compare(code, refusal.reason(), &refusal.message, &mut wrong);
            }
        }
    }
    none_wrong(&wrong);
    // A second hello and an empty message are refused as such; the stream stands.
    for message in [Up::Hello(v1::Hello::default()), Up::CloseLane(v1::CloseLane { channel: 55 })] {
        let answered = matches!(message, Up::Hello(_));
        stream.send(message);
        if answered {
            let Down::Refusal(refusal) = stream.receive().await.unwrap() else { panic!("a second hello is answered") };
            assert_eq!((refusal.reason(), refusal.id, refusal.channel), (FieldInvalid, 0, 0));
            assert!(refusal.message.contains("one hello"), "{}", refusal.message);
        }
    }
    let lane: Lane = stream.open_lane(open).await.unwrap().unwrap();
    assert_eq!(lane.mark, 0);
    scene.nothing_changed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_hello_is_refused_by_name() {
    use ErrorReason::*;
    let scene = scene().await;
    let hello = v1::Hello {
        client_id: "by-hand".into(),
        job: "job".into(),
        job_uid: scene.job.info.job_uid.clone(),
        generation: 1,
        protocol_version: 1,
        features: vec!["of-the-future".into()],
    };
    let invalid = Code::InvalidArgument;
    let hellos = [
        (wanted("no hello", invalid, FieldMissing, "hello"), Up::CloseLane(v1::CloseLane { channel: 1 })),
        (
            wanted("newer protocol", Code::FailedPrecondition, FormatTooNew, "version 2 is newer than 1"),
            Up::Hello(v1::Hello { protocol_version: 2, ..hello.clone() }),
        ),
        (
            wanted("unknown job", Code::NotFound, JobUnknown, "\"nojob\""),
            Up::Hello(v1::Hello { job: "nojob".into(), ..hello.clone() }),
        ),
        (
            wanted("another uid", Code::NotFound, JobUnknown, "0123abcd"),
            Up::Hello(v1::Hello { job_uid: "0123abcd".into(), ..hello.clone() }),
        ),
    ];
    let mut wrong = Vec::new();
    for (wanted, first) in hellos {
        match Stream::start(&scene.api, first).await {
            Ok(_) => wrong.push(format!("{}: accepted", wanted.input)),
            Err(status) => wanted.compare(status.code(), reason(&status), status.message(), &mut wrong),
        }
    }
    none_wrong(&wrong);
    let stream = Stream::hello(&scene.api, hello).await.expect("features that are not known are no error");
    assert_eq!(stream.welcome.max_value_bytes, VALUE_BYTES_MAX as u64);
}
