//! What the targets start from: good bytes of every kind, to be spoilt, and what fuzzing has found worth keeping.

use std::{fs, io, path::PathBuf};

use forebay_proto::{
    merge::MergeFunction,
    packed::{AnswersBuilder, Op, OpsBuilder},
    packed_list,
    v1::{self, OpKind},
};
use forebay_server::{
    checkpoint::frame::{self, ObjectKind},
    shard::key,
    storage::row,
};
use prost::Message as _;

/// Inputs of a target.
pub type Seeds = Vec<Vec<u8>>;

/// The folder with a corpus for each target: inputs that fuzzing has found, one for each way through the code.
pub fn corpora() -> PathBuf {
    crate::folder().join("fuzz/corpus")
}

/// Reads the corpus of a target, in the order of the files' names; a target without its folder has none.
pub fn corpus(target: &str) -> io::Result<Seeds> {
    let mut files =
        fs::read_dir(corpora().join(target))?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    files.sort();
    files.into_iter().map(fs::read).collect()
}

/// Good inputs of a target; none if there is no such target.
pub fn good(target: &str) -> Seeds {
    match target {
        "packed_ops" => vec![ops().encode_to_vec()],
        "packed_answers" => vec![answers().encode_to_vec()],
        "packed_list" => vec![packed_list::pack(["a", "", "ccc"]), packed_list::cas_value(b"old", b"new")],
        "row_key" => row_keys(),
        "row" => rows(),
        "merge" => operands(),
        "codec" => [&b"text"[..], b"\x80\0\0\0\0\0\0\x07", b"{\"a\": [1, null]}", b"\x01", b"\x83\xa1a\x01"]
            .map(<[u8]>::to_vec)
            .to_vec(),
        "head" => vec![frame::encode(ObjectKind::Head, &head()).to_vec(), head().encode_to_vec()],
        "manifest" => vec![frame::encode(ObjectKind::Manifest, &manifest()).to_vec(), manifest().encode_to_vec()],
        _ => Vec::new(),
    }
}

fn ops() -> v1::PackedOps {
    let mut ops = OpsBuilder::new();
    ops.push(&Op::new(OpKind::ValuePut, 3, b"key").with_namespace(b"w").with_value(b"value"));
    ops.push(&Op::new(OpKind::ValueCasVersion, 3, b"k").with_expected_version(1).with_value(b"x"));
    ops.push(&Op::on_group(OpKind::SortedSetAdd, 4, 7).with_map_key(b"element"));
    ops.push(&Op::new(OpKind::MapPut, 5, b"k").with_map_key(b"m").with_value(b"v").with_expires_at_ms(-7));
    ops.push(&Op::new(OpKind::ListGet, 6, b"k").with_limit(9));
    ops.finish()
}

fn answers() -> v1::PackedAnswers {
    let mut answers = AnswersBuilder::new();
    answers.absent();
    answers.value(b"value", Some(7), Some(1_000));
    answers.items(["k1", "v1", "k2", ""]);
    answers.more();
    answers.verdict(true);
    answers.finish()
}

fn row_keys() -> Seeds {
    let max = forebay_proto::key_group::MaxParallelism::DEFAULT;
    let group = forebay_proto::key_group::KeyGroup::of(b"key", max);
    let (mut plain, mut set) = (Vec::new(), Vec::new());
    key::prefix(&mut plain, group, b"key", b"namespace");
    plain.extend_from_slice(b"a\0\xffb\0\0\0\0\0\0\0\0\0\x01");
    key::group_prefix(&mut set, group);
    set.extend_from_slice(b"element");
    vec![plain, set]
}

fn rows() -> Seeds {
    let headers = [
        row::Header { write_ms: 1, deadline_ms: None, version: Some(7) },
        row::Header { write_ms: i64::MIN, deadline_ms: Some(i64::MAX), version: None },
    ];
    let row = |header: &row::Header| {
        let mut out = Vec::new();
        row::encode(header, b"payload", &mut out);
        out
    };
    headers.iter().map(row).collect()
}

/// Accumulators of every function with an operand behind them.
fn operands() -> Seeds {
    let pair = packed_list::pack(["by", "value"]);
    let mut seeds = Vec::new();
    for function in MergeFunction::ALL {
        let operand: &[u8] = if function.valid_operand(&pair) { &pair } else { b"\x80\0\0\0\0\0\0\x07" };
        let mut accumulator = Vec::new();
        function.fold(None, operand, &mut accumulator);
        seeds.push([&accumulator[..], operand].concat());
    }
    seeds
}

fn head() -> v1::JobHead {
    let operators = vec![v1::Operator { name: "op".into(), shards: 2, ..Default::default() }];
    v1::JobHead {
        version: 3,
        job_uid: "uid".into(),
        spec: Some(v1::JobSpec { name: "job".into(), operators, ..Default::default() }),
        shards: vec![v1::ShardEntry { operator: "op".into(), end: 64, ..Default::default() }],
        completed: vec![v1::CompletedCheckpoint { id: 1, manifest: "chk/1".into(), ..Default::default() }],
        ..Default::default()
    }
}

fn manifest() -> v1::Manifest {
    let file = v1::SnapshotFile { name: "1.sst".into(), object: "shared/1".into(), length: 9, ..Default::default() };
    let lane = v1::LaneRecord { id: vec![1; 16].into(), mark: 4, ..Default::default() };
    let shard = v1::ShardSnapshot {
        operator: "op".into(),
        end: 64,
        files: vec![file],
        lanes: vec![lane],
        ..Default::default()
    };
    v1::Manifest { checkpoint: 1, shards: vec![shard], ..Default::default() }
}
