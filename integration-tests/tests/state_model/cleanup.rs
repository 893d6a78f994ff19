//! Clean-up gives bytes back.

use forebay_integration_tests::conformance::{Kind, OwnedOp, Shard, Times};
use forebay_proto::v1::{self, OpKind};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::model::{STATES, Spec};

/// State 6 is a map on the event clock, 8 a sum on the processing clock.
const STATES_USED: [u32; 2] = [6, 8];
const ROWS: u32 = 2000;

#[test]
fn expired_rows_are_given_back_by_the_sweep_and_by_compactions() {
    for kind in Kind::ALL {
        let descriptors: Vec<_> = (1..).zip(STATES).map(|(id, state)| state.descriptor(id, state.ttl_ms)).collect();
        let mut shard = Shard::new(*kind, &descriptors);
        let times = |watermark_ms| Times { now_ms: 0, watermark_ms };
        shard.write(OwnedOp::pack(&[]), times(Some(1000))).unwrap();
        let empty = shard.bytes();
        for row in 0..ROWS {
            let add = OwnedOp { value: [&[0x80, 0, 0, 0], &row.to_be_bytes()[..]].concat(), ..op(8, row) };
            let put = OwnedOp { map_key: row.to_be_bytes().to_vec(), value: noise(row), ..op(6, 0) };
            let ops = [OwnedOp { kind: OpKind::MapPut, ..put }, OwnedOp { kind: OpKind::ReducingAdd, ..add }];
            shard.write(OwnedOp::pack(&ops), times(None)).unwrap();
        }
        shard.compact();
        let full = shard.bytes();
        assert!(full > empty + u64::from(ROWS) * 10, "{kind:?}: {full} bytes with all rows");
        assert!(STATES_USED.iter().all(|id| shard.rows(*id) == ROWS as usize), "{kind:?}: nothing has expired yet");

        shard.advance(Spec::of(8).ttl_ms.unwrap());
        shard.write(OwnedOp::pack(&[]), times(Some(1050))).unwrap();
        shard.clean_up(Times::default());
        assert_eq!(STATES_USED.map(|id| shard.rows(id)), [0, 0], "{kind:?}: rows are left");
        assert!(shard.bytes() < empty + (full - empty) / 10, "{kind:?}: {} of {full} bytes are left", shard.bytes());
    }
}

#[test]
fn a_snapshot_in_memory_leaves_expired_rows_out_if_it_is_told_to() {
    for full_snapshot in [false, true] {
        let mut descriptor = Spec::of(2).descriptor(2, Some(50));
        let cleanup = v1::TtlCleanup { full_snapshot, incremental_rows: Some(0), ..Default::default() };
        let ttl = descriptor.ttl.as_mut().unwrap();
        ttl.set_clock(v1::TtlClock::Processing);
        ttl.cleanup = Some(cleanup);
        let mut shard = Shard::new(Kind::Memory, &[descriptor]);
        let put = |key| OwnedOp { kind: OpKind::ValuePut, value: noise(key), ..op(1, key) };
        for key in 0..100 {
            shard.write(OwnedOp::pack(&[put(key)]), Times::default()).unwrap();
        }
        shard.advance(50);
        shard.write(OwnedOp::pack(&[put(100)]), Times::default()).unwrap();
        assert_eq!(shard.rows(1), 101, "nothing else cleans up");
        let full = shard.bytes();
        let saved = shard.snapshot();
        shard.restore(&saved);
        let (rows, bytes) = if full_snapshot { (1, full / 50) } else { (101, full) };
        assert!(shard.rows(1) == rows && shard.bytes() <= bytes, "{} rows, {} bytes", shard.rows(1), shard.bytes());
    }
}

#[test]
fn the_backend_is_told_of_the_compaction_age_when_a_table_is_made_changed_and_opened() {
    let compacted_after = |seconds| {
        let mut descriptor = Spec::of(2).descriptor(2, Some(50));
        let periodic_compaction = Some(prost_types::Duration { seconds, nanos: 0 });
        let cleanup = v1::TtlCleanup { periodic_compaction, ..Default::default() };
        descriptor.ttl.as_mut().unwrap().cleanup = Some(cleanup);
        descriptor
    };
    for kind in Kind::ALL {
        let told = |seconds| Some(if *kind == Kind::Memory { 0 } else { seconds });
        let mut shard = Shard::new(*kind, &[compacted_after(3600)]);
        assert_eq!(shard.compaction_age_s(1), None, "{kind:?}: nothing was written, there is no table");
        let put = OwnedOp { kind: OpKind::ValuePut, value: noise(1), ..op(1, 1) };
        shard.write(OwnedOp::pack(&[put]), Times::default()).unwrap();
        assert_eq!(shard.compaction_age_s(1), told(3600), "{kind:?}: made");
        shard.describe(compacted_after(7200));
        assert_eq!(shard.compaction_age_s(1), told(7200), "{kind:?}: changed");
        shard.reopen();
        assert_eq!(shard.compaction_age_s(1), told(7200), "{kind:?}: opened");
        let saved = shard.snapshot();
        shard.restore(&saved);
        assert_eq!(shard.compaction_age_s(1), told(7200), "{kind:?}: restored");
    }
}

/// What does not get smaller when it is compressed.
fn noise(seed: u32) -> Vec<u8> {
    let word = |part: u64| xxh3_64_with_seed(b"noise", u64::from(seed) << 8 | part).to_be_bytes();
    (0..64).flat_map(word).collect()
}

fn op(state_id: u32, key: u32) -> OwnedOp {
    OwnedOp { state_id, key: key.to_be_bytes().to_vec(), ..OwnedOp::default() }
}
