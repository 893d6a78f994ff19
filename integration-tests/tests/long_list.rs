//! A list that is far longer than any message and any cache, appended to, paged and cleared by a worker of the
//! SDK: neither the server's memory nor the worker's grows with it. `FOREBAY_ELEMENTS` says how long. A binary
//! of its own, so that its memory is the worker's.

#![cfg(feature = "rocksdb")]

use std::{env, fs};

use forebay_client::{
    Client, List,
    codec::{Bytes, Utf8},
};
use forebay_integration_tests::harness::{JobBuilder, Setup};
use forebay_proto::v1::ErrorReason;

const ELEMENTS: List<Utf8, Bytes> = List::new("l");

/// Elements of a batch and of a page.
const STEP: u32 = 20_000;
/// Bytes of an element.
const BYTES: usize = 64;
/// What the cache may hold.
const CACHE_BYTES: usize = 16 << 20;
/// What each process may have at most: its caches and a few batches, whatever the list has.
const PEAK_MIB_MAX: u64 = 256;

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_of_server_and_worker_does_not_grow_with_the_length_of_a_list() {
    let elements: u32 = env::var("FOREBAY_ELEMENTS").map_or(1_000_000, |text| text.parse().expect("a number"));
    let caches = [("rocksdb.block_cache_bytes", "32MiB"), ("rocksdb.write_buffer_bytes", "64MiB")];
    let forebay = caches.into_iter().fold(Setup::dev(), |setup, (key, value)| setup.set(key, value)).start().await;
    forebay.api().create(JobBuilder::leased("long", 1).build()).await.expect("the job can be created");
    let client = Client::connect(&forebay.url()).await.expect("the server is there");
    let worker = client.worker("long", "op").id("worker").cache_bytes_max(CACHE_BYTES).state(&ELEMENTS);
    let mut worker = worker.join().await.expect("the worker joins");
    let list = worker.assigned().await.and_then(|assigned| assigned.open(&ELEMENTS)).expect("the state opens");
    let element = |number: u32| [&number.to_be_bytes()[..], &[7; BYTES - 4]].concat();

    for first in (0..elements).step_by(STEP as usize) {
        let step = (first..(first + STEP).min(elements)).map(element);
        list.add_all("k", step).await.expect("it is appended");
    }
    worker.flush().await.expect("everything is acknowledged");
    let whole = list.get("k").await.map(drop).unwrap_err();
    let reason = whole.refused().map(|refused| refused.reason);
    assert_eq!(reason, Some(ErrorReason::ListTooLong), "a list over the limit of an answer is refused whole: {whole}");

    let (mut pages, mut seen) = (list.pages("k", STEP).expect("pages of some elements"), 0);
    while let Some(page) = pages.next().await.expect("a page is read") {
        for item in page {
            assert_eq!(item[..4], u32::to_be_bytes(seen), "elements come in the order of their appends");
            seen += 1;
        }
    }
    assert_eq!(seen, elements);

    list.clear("k").await.expect("it is cleared");
    worker.flush().await.expect("the clear is acknowledged");
    assert_eq!(list.pages("k", STEP).expect("pages").next().await.expect("it is short now"), None);

    let peaks = [forebay.process().id(), std::process::id()].map(peak_mib);
    println!("{elements} elements of {BYTES} bytes: peaks of server and worker are {peaks:?} MiB");
    assert!(peaks.iter().all(|peak| *peak < PEAK_MIB_MAX), "server and worker have had {peaks:?} MiB");
}

/// The largest resident size of a process so far.
fn peak_mib(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says the peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}
