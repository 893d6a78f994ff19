//! The targets.

use forebay_proto::{
    codec,
    merge::MergeFunction,
    packed::{Answers, Ops, OpsBuilder},
    packed_list, v1,
};
use forebay_server::{
    checkpoint::frame::{self, ObjectKind},
    shard::{key, ops},
    storage::row,
};
use prost::Message as _;

/// A target: its name, and what is done with the bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 9] = [
    ("packed_ops", packed_ops),
    ("packed_answers", packed_answers),
    ("packed_list", packed_lists),
    ("row_key", row_key),
    ("row", rows),
    ("merge", merge),
    ("codec", codecs),
    ("head", |bytes| stored::<v1::JobHead>(ObjectKind::Head, bytes)),
    ("manifest", |bytes| stored::<v1::Manifest>(ObjectKind::Manifest, bytes)),
];

fn packed_ops(bytes: &[u8]) {
    let Ok(packed) = v1::PackedOps::decode(bytes) else { return };
    let Ok(ops) = Ops::decode(&packed) else { return };
    let mut again = OpsBuilder::new();
    ops.iter().for_each(|op| again.push(&op));
    let again = again.finish();
    let again = Ops::decode(&again).expect("what was built can be read");
    assert!(ops.iter().eq(again.iter()));
}

fn packed_answers(bytes: &[u8]) {
    let Ok(packed) = v1::PackedAnswers::decode(bytes) else { return };
    let Ok(answers) = Answers::decode(packed) else { return };
    for answer in answers.iter() {
        assert_eq!(answer.items().count(), answer.len());
        assert_eq!(answer.entries().count(), answer.len() / 2);
    }
}

fn packed_lists(bytes: &[u8]) {
    if let Ok(count) = packed_list::validate(bytes) {
        assert_eq!(packed_list::iter(bytes).count(), count);
        assert_eq!(packed_list::pack(packed_list::iter(bytes)), bytes);
    }
    if let Ok((expected, replacement)) = packed_list::split_cas(bytes) {
        assert_eq!(packed_list::cas_value(expected, replacement), bytes);
    }
}

fn row_key(bytes: &[u8]) {
    if let Some(parsed) = key::parse(bytes) {
        assert!(bytes.ends_with(parsed.suffix));
        assert!(parsed.namespace_prefix().starts_with(&parsed.key_prefix()));
        if let Some((map_key, length)) = ops::unescape(parsed.suffix) {
            assert!(length <= parsed.suffix.len() && map_key.len() <= length);
        }
    }
}

fn rows(bytes: &[u8]) {
    if let Ok((header, payload)) = row::decode(bytes) {
        let mut again = Vec::new();
        row::encode(&header, payload, &mut again);
        assert_eq!(row::decode(&again), Ok((header, payload)));
        assert_eq!(row::expired_by(bytes, i64::MAX), header.deadline_ms.is_some());
    }
}

fn merge(bytes: &[u8]) {
    let (left, right) = bytes.split_at(bytes.len() / 2);
    for function in MergeFunction::ALL {
        let (mut folded, mut merged) = (Vec::new(), Vec::new());
        function.fold(Some(left), right, &mut folded);
        function.merge(&folded, left, &mut merged);
        function.result(&merged);
    }
}

fn codecs(bytes: &[u8]) {
    for name in ["bytes", "utf8", "i64", "u64", "f64", "bool", "json", "msgpack", "protobuf:a.B"] {
        codec::shown(name, bytes, v1::Notation::Unspecified, 64);
        let Some(readable) = codec::render(name, bytes) else { continue };
        // What can be read by people can be written by them, to the same bytes; a NaN has many.
        if !matches!(name, "msgpack" | "f64") {
            assert_eq!(codec::parse_as(name, readable).as_deref(), Ok(bytes), "{name}");
        }
    }
}

fn stored<M: prost::Message + Default + PartialEq + std::fmt::Debug>(kind: ObjectKind, bytes: &[u8]) {
    if let Ok(message) = frame::decode::<M>(kind, "fuzzed", bytes) {
        let again = frame::encode(kind, &message);
        assert_eq!(frame::decode::<M>(kind, "fuzzed", &again).ok().as_ref(), Some(&message));
    }
    // Behind a right frame the message is read, too.
    if let Ok(message) = M::decode(bytes) {
        let framed = frame::encode(kind, &message);
        assert!(frame::decode::<M>(kind, "fuzzed", &framed).is_ok());
    }
}
