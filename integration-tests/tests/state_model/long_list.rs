//! A list that is far longer than any message, through gRPC: the server's memory does not grow with it.
//! `FOREBAY_ELEMENTS` says how long.

use std::{env, fs};

use forebay_integration_tests::{
    conformance::{OwnedOp, Remote, Target, Times},
    harness::{JobBuilder, Setup},
};
use forebay_proto::{
    packed::Answers,
    packed_list,
    v1::{self, ErrorReason, OpKind, StateKind},
};

/// Elements of a batch and of a page.
const STEP: u32 = 20_000;
/// Bytes of an element.
const BYTES: usize = 64;
/// What the process may have at most: its caches and a few batches, whatever the list has.
const PEAK_MIB_MAX: u64 = 256;

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_of_a_server_does_not_grow_with_the_length_of_a_list() {
    let elements: u32 = env::var("FOREBAY_ELEMENTS").map_or(1_000_000, |text| text.parse().expect("a number"));
    let caches = [("rocksdb.block_cache_bytes", "32MiB"), ("rocksdb.write_buffer_bytes", "64MiB")];
    let forebay = caches.into_iter().fold(Setup::dev(), |setup, (key, value)| setup.set(key, value)).start().await;
    let list = v1::StateDescriptor {
        name: "l".into(),
        kind: StateKind::List.into(),
        key_codec: "bytes".into(),
        namespace_codec: "bytes".into(),
        map_key_codec: "bytes".into(),
        value_codec: "bytes".into(),
        ..Default::default()
    };
    let mut shard = Remote::with(&forebay.api(), JobBuilder::leased("long", 1).build(), &[list]).await;
    let op = |kind| OwnedOp { kind, state_id: 1, key: b"k".to_vec(), ..OwnedOp::default() };
    let element = |number: u32| [&number.to_be_bytes()[..], &[7; BYTES - 4]].concat();

    for first in (0..elements).step_by(STEP as usize) {
        let value = packed_list::pack((first..(first + STEP).min(elements)).map(element));
        let all = OwnedOp { value, ..op(OpKind::ListAppendAll) };
        shard.write(OwnedOp::pack(&[all]), Times::default()).await.expect("it is appended");
    }
    let whole = shard.read(OwnedOp::pack(&[op(OpKind::ListGet)]), Times::default()).await;
    assert_eq!(whole.map_err(|refusal| refusal.reason()).map(drop), Err(ErrorReason::ListTooLong));

    let (mut next, mut seen, mut more) = (Vec::new(), 0, true);
    while more {
        let page = OwnedOp { limit: STEP, value: next, ..op(OpKind::ListGet) };
        let answer = shard.read(OwnedOp::pack(&[page]), Times::default()).await.expect("a page is read");
        let answers = Answers::decode(answer.answers.unwrap_or_default()).expect("columns that fit");
        let page = answers.answer(0);
        for item in page.items() {
            assert_eq!(item[..4], u32::to_be_bytes(seen), "elements come in the order of their appends");
            seen += 1;
        }
        more = page.more;
        next = page.version.expect("a page says its last number").to_be_bytes().to_vec();
    }
    assert_eq!(seen, elements);

    shard.write(OwnedOp::pack(&[op(OpKind::ListClear)]), Times::default()).await.expect("it is cleared");
    let left = shard.read(OwnedOp::pack(&[op(OpKind::ListGet)]), Times::default()).await.expect("it is short now");
    assert_eq!(left.answers.unwrap_or_default().counts, [0]);

    let peak_mib = peak_mib(forebay.process().id());
    println!("{elements} elements of {BYTES} bytes: the server's peak is {peak_mib} MiB");
    assert!(peak_mib < PEAK_MIB_MAX, "the server has had {peak_mib} MiB");
}

/// The largest resident size of a process so far.
fn peak_mib(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says the peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}
