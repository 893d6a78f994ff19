//! The golden vectors, as JSON. Bytes are hex; 64-bit numbers are text, as JSON's numbers are floats in
//! many languages.

// The path is named, as the tests take this file from another folder.
#[path = "functions.rs"]
mod functions;

use forebay_proto::{
    KeyGroup, MaxParallelism,
    codec::{Bool, Codec, F64, I64, U64, Utf8},
    key_group::{assign, murmur3_x86_32},
    packed::{AnswersBuilder, Op, OpsBuilder},
    packed_list,
    v1::{OpKind, PackedAnswers, PackedOps},
};
use prost::Message as _;
use serde_json::{Value, json};

/// Returns the files with their content.
pub fn all() -> [(&'static str, Value); 6] {
    [
        ("key_groups.json", key_groups()),
        ("ranges.json", ranges()),
        ("codecs.json", codecs()),
        ("packed.json", packed()),
        ("merge.json", functions::reducing()),
        ("aggregates.json", functions::aggregating()),
    ]
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn keys() -> Vec<Vec<u8>> {
    let words = [
        "a",
        "b",
        "hello",
        "user-1",
        "user-2",
        "Forebay",
        "order/42",
        "grün",
        "Größe",
        "日本語",
        "🌊",
        "e\u{301}",
        "\u{e9}",
    ];
    let mut keys: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
    keys.extend((0..41).map(|len| b"abcdefghijklmnopqrstuvwxyz0123456789ABCDE"[..len].to_vec()));
    keys.extend((0..41_u8).map(|len| (0..len).map(|at| at.wrapping_mul(37).wrapping_add(len)).collect()));
    keys.extend((0..41).map(|len| vec![0xff; len]));
    keys.extend((1..9).map(|len| vec![0; len]));
    keys.extend((0..40_u64).map(|n| U64::to_bytes(&(n * n * n)).unwrap()));
    keys.extend([0, 1, -1, 42, i64::MIN, i64::MAX].map(|n| I64::to_bytes(&n).unwrap()));
    keys.extend((0..30).map(|n| format!("customer-{n:05}").into_bytes()));
    keys.push(vec![0x5a; 65_535]);
    keys
}

fn key_groups() -> Value {
    let parallelisms = [1, 2, 7, 128, 1_000, 4_096, 32_768].map(|max| MaxParallelism::new(max).unwrap());
    let vector = |key: Vec<u8>| {
        let groups: Vec<_> = parallelisms.iter().map(|max| KeyGroup::of(&key, *max).get()).collect();
        // One long key stands for itself: 65,535 bytes 0x5a.
        let shown = if key.len() > 1_000 { json!({"byte": key[0], "len": key.len()}) } else { json!(hex(&key)) };
        json!({"key": shown, "murmur3": murmur3_x86_32(&key, 0), "groups": groups})
    };
    json!({
        "max_parallelism": parallelisms.map(MaxParallelism::get),
        "vectors": keys().into_iter().map(vector).collect::<Vec<_>>(),
    })
}

fn ranges() -> Value {
    let cases = [
        (128, 1),
        (128, 3),
        (128, 7),
        (128, 8),
        (128, 128),
        (1, 1),
        (5, 7),
        (10, 3),
        (1_000, 9),
        (32_768, 5),
        (32_768, 1),
    ];
    let vector = |(max, n): (u32, u32)| {
        let ranges = assign(MaxParallelism::new(max).unwrap(), n);
        let ranges: Vec<_> = ranges.iter().map(|range| [range.start(), range.end()]).collect();
        json!({"max_parallelism": max, "shards": n, "ranges": ranges})
    };
    json!({"vectors": cases.map(vector)})
}

fn codecs() -> Value {
    let mut vectors = Vec::new();
    let mut add = |codec: &str, value: String, bytes: Vec<u8>| {
        vectors.push(json!({"codec": codec, "value": value, "bytes": hex(bytes)}));
    };
    for n in [i64::MIN, i64::MIN + 1, -65_536, -257, -256, -1, 0, 1, 255, 256, 1 << 53, i64::MAX] {
        add("i64", n.to_string(), I64::to_bytes(&n).unwrap());
    }
    for n in [0, 1, 255, 256, 1 << 53, (1 << 53) + 1, 1 << 63, u64::MAX] {
        add("u64", n.to_string(), U64::to_bytes(&n).unwrap());
    }
    let tiny = f64::from_bits(1);
    let floats = [
        f64::NEG_INFINITY,
        f64::MIN,
        -1.5,
        -1.0,
        -0.1,
        -f64::MIN_POSITIVE,
        -tiny,
        -0.0,
        0.0,
        tiny,
        f64::MIN_POSITIVE,
        0.1,
        1.0,
        1.5,
        1e100,
        f64::MAX,
        f64::INFINITY,
        f64::NAN,
    ];
    for float in floats {
        add("f64", format!("{float:?}"), F64::to_bytes(&float).unwrap());
    }
    for truth in [false, true] {
        add("bool", truth.to_string(), Bool::to_bytes(&truth).unwrap());
    }
    for text in ["", "a", "grün", "日本語", "🌊", "\u{0}", "e\u{301}", "\u{feff}x"] {
        add("utf8", text.to_owned(), Utf8::to_bytes(&text.to_owned()).unwrap());
    }
    for text in ["null", "{\"b\":1,\"a\":[true,\"grün\"]}", "  [1, 2]\n", "1e3"] {
        add("json", text.to_owned(), text.as_bytes().to_vec());
    }
    let bad = [
        ("i64", ""),
        ("i64", "00000000000000"),
        ("i64", "800000000000000000"),
        ("u64", "01"),
        ("f64", "0000000000000000ff"),
        ("bool", ""),
        ("bool", "02"),
        ("bool", "0001"),
        ("utf8", "ff"),
        ("utf8", "c0af"),
        ("utf8", "eda080"),
        ("utf8", "61e6"),
        ("json", ""),
        ("json", "7b"),
        ("json", "22ff22"),
    ];
    let bad: Vec<_> = bad.into_iter().map(|(codec, bytes)| json!({"codec": codec, "bytes": bytes})).collect();
    json!({"vectors": vectors, "refused": bad})
}

fn packed() -> Value {
    let refused: Vec<_> =
        refused().into_iter().map(|(why, message)| json!({"why": why, "message": hex(message)})).collect();
    let lists = [vec![], vec![""], vec!["a", "", "bcd"], vec!["grün"; 3]].map(|elements| {
        let packed = packed_list::pack(&elements);
        json!({"elements": elements.iter().map(hex).collect::<Vec<_>>(), "bytes": hex(packed)})
    });
    let cas = [("", "new"), ("old", "new"), ("old", "")].map(|(expected, replacement)| {
        let bytes = hex(packed_list::cas_value(expected.as_bytes(), replacement.as_bytes()));
        json!({"expected": hex(expected), "replacement": hex(replacement), "bytes": bytes})
    });
    let answer_vectors = [answers(), PackedAnswers::default()].map(answer_vector);
    json!({
        "batches": batches().iter().map(|ops| batch(ops)).collect::<Vec<_>>(),
        "answers": answer_vectors,
        "lists": lists,
        "lists_refused": ["00", "01000000", "ffffffff", "0100000061ff", "02000000610000"],
        "compare_and_set": cas,
        "refused": refused,
    })
}

fn batches() -> Vec<Vec<Op<'static>>> {
    let every_kind = (1..=255).filter_map(|number| OpKind::try_from(number).ok());
    vec![
        vec![],
        vec![Op::new(OpKind::ValueGet, 0, b"k")],
        vec![
            Op::new(OpKind::ValuePut, 1, b"user-1").with_value(b"42"),
            Op::new(OpKind::ValuePut, 1, b"user-2")
                .with_namespace(b"window")
                .with_value(b"")
                .with_expires_at_ms(1_700_000_000_000),
            Op::new(OpKind::ValueCasVersion, 300, b"user-3").with_expected_version(0).with_value(b"new"),
            Op::new(OpKind::ValueCasVersion, 300, b"user-3").with_expected_version(7),
        ],
        vec![
            Op::new(OpKind::MapPut, 2, b"k").with_map_key(b"m").with_value(b"v").with_expires_at_ms(-1),
            Op::new(OpKind::ListGet, 3, "grün".as_bytes()).with_limit(100),
            Op::on_group(OpKind::SortedSetAdd, 4, 0).with_map_key(b"timer"),
            Op::on_group(OpKind::SortedSetFirst, 4, 32_767).with_value(b"bound").with_limit(u32::MAX),
        ],
        every_kind.map(|kind| Op::new(kind, u32::MAX, b"\0\xff")).collect(),
    ]
}

fn pack(ops: &[Op<'_>]) -> PackedOps {
    let mut builder = OpsBuilder::new();
    ops.iter().for_each(|op| builder.push(op));
    builder.finish()
}

fn batch(ops: &[Op<'_>]) -> Value {
    let listed = ops.iter().map(|op| {
        json!({
            "kind": op.kind.as_str_name(), "state_id": op.state_id, "key": hex(op.key), "namespace": hex(op.namespace),
            "map_key": hex(op.map_key), "value": hex(op.value), "key_group": op.key_group, "limit": op.limit,
            "expires_at_ms": op.expires_at_ms.map(|ms| ms.to_string()),
            "expected_version": op.expected_version.map(|version| version.to_string()),
        })
    });
    let listed: Vec<_> = listed.collect();
    json!({"message": hex(pack(ops).encode_to_vec()), "ops": listed})
}

fn answers() -> PackedAnswers {
    let mut answers = AnswersBuilder::new();
    answers.absent();
    answers.value(b"", Some(0), None);
    answers.value("grün".as_bytes(), Some(u64::MAX - 1), Some(1_700_000_000_000));
    answers.items(["k1", "v1", "k2", ""]);
    answers.verdict(true);
    answers.verdict(false);
    answers.none();
    answers.finish()
}

fn answer_vector(packed: PackedAnswers) -> Value {
    let message = hex(packed.encode_to_vec());
    let answers = forebay_proto::packed::Answers::decode(packed).unwrap();
    let listed = answers.iter().map(|answer| {
        json!({
            "items": answer.items().map(hex).collect::<Vec<_>>(), "swapped": answer.verdict,
            "version": answer.version.map(|version| version.to_string()),
            "expires_at_ms": answer.expires_at_ms.map(|ms| ms.to_string()),
        })
    });
    let listed: Vec<_> = listed.collect();
    json!({"message": message, "answers": listed})
}

fn refused() -> Vec<(&'static str, Vec<u8>)> {
    type Damage = fn(&mut PackedOps);
    let damages: [(&str, Damage); 7] = [
        ("a column is short", |ops| ops.state_ids.truncate(2)),
        ("a column is long", |ops| ops.limits = vec![1; 5]),
        ("the arena is short", |ops| ops.arena = ops.arena.slice(1..)),
        ("the arena is long", |ops| ops.arena = [&ops.arena[..], b"x"].concat().into()),
        ("a length is far too large", |ops| ops.value_lens.fill(u32::MAX)),
        ("a kind is unknown", |ops| ops.kinds = vec![1, 1, 1, 200].into()),
        ("a key group is too large", |ops| ops.key_groups = vec![0, 0, 0, 32_769]),
    ];
    let damaged = |(why, damage): (&'static str, Damage)| {
        let mut ops = pack(&batches()[2]);
        damage(&mut ops);
        (why, ops.encode_to_vec())
    };
    damages.into_iter().map(damaged).collect()
}
