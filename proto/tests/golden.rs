//! Holds the crate to `testdata/*.json`, which all languages are held to.

#[path = "../examples/golden/vectors.rs"]
mod vectors;

use forebay_proto::{
    KeyGroup, MaxParallelism,
    codec::{self, Codec as _, U64},
    key_group::assign,
    merge::MergeFunction,
    packed::{Answers, Ops},
    packed_list,
    v1::{Notation, PackedAnswers, PackedOps, Written, written::Form},
};
use prost::Message as _;
use serde_json::{Value, json};

fn file(name: &str) -> Value {
    // Tests run in their package's folder. The one it was compiled in may be another: builds share a cache.
    let path = format!("testdata/{name}");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn unhex(value: &Value) -> Vec<u8> {
    let digits = text(value);
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn hex(bytes: impl AsRef<[u8]>) -> Value {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

fn maybe(number: Option<impl ToString>) -> Value {
    number.map(|number| number.to_string()).into()
}

#[test]
fn the_vectors_are_what_the_crate_makes() {
    for (name, made) in vectors::all() {
        assert!(file(name) == made, "{name} differs: a changed format? else run the example `golden`");
    }
}

#[test]
fn keys_are_in_their_groups() {
    let file = file("key_groups.json");
    let parallelisms = list(&file["max_parallelism"]);
    assert!(list(&file["vectors"]).len() >= 200);
    for vector in list(&file["vectors"]) {
        let key = match &vector["key"] {
            Value::Object(key) => vec![key["byte"].as_u64().unwrap() as u8; key["len"].as_u64().unwrap() as usize],
            key => unhex(key),
        };
        let oracle = murmur3::murmur3_32(&mut std::io::Cursor::new(&key), 0).unwrap();
        assert_eq!(vector["murmur3"], oracle, "{vector}");
        for (max, group) in parallelisms.iter().zip(list(&vector["groups"])) {
            let max = MaxParallelism::new(max.as_u64().unwrap() as u32).unwrap();
            assert_eq!(
                (KeyGroup::of(&key, max).get(), oracle % max.get()),
                (group.as_u64().unwrap() as u16, group.as_u64().unwrap() as u32)
            );
        }
    }
}

#[test]
fn shards_have_their_ranges() {
    for vector in list(&file("ranges.json")["vectors"]) {
        let number = |name: &str| vector[name].as_u64().unwrap() as u32;
        let ranges = assign(MaxParallelism::new(number("max_parallelism")).unwrap(), number("shards"));
        let ranges: Vec<_> = ranges.iter().map(|range| [range.start(), range.end()]).collect();
        assert_eq!(json!(ranges), vector["ranges"]);
    }
}

#[test]
fn values_have_their_bytes() {
    let file = file("codecs.json");
    for vector in list(&file["vectors"]) {
        let (codec, value, bytes) = (text(&vector["codec"]), text(&vector["value"]), unhex(&vector["bytes"]));
        let written = Written { form: Some(Form::Text(value.to_owned())) };
        assert_eq!(codec::read(codec, &written), Ok(bytes.clone()), "{vector}");
        assert_eq!(codec::shown(codec, &bytes, Notation::Text, 1_000).text, value, "{vector}");
    }
    for vector in list(&file["refused"]) {
        assert_eq!(codec::render(text(&vector["codec"]), &unhex(&vector["bytes"])), None, "{vector}");
    }
}

#[test]
fn numbers_in_the_vectors_are_sorted() {
    let file = file("codecs.json");
    for codec in ["i64", "u64", "f64"] {
        let bytes = list(&file["vectors"]).iter().filter(|vector| vector["codec"] == codec);
        assert!(bytes.map(|vector| unhex(&vector["bytes"])).is_sorted_by(|a, b| a < b), "{codec}");
    }
}

#[test]
fn batches_are_read_as_they_were_packed() {
    let file = file("packed.json");
    for vector in list(&file["batches"]) {
        let packed = PackedOps::decode(unhex(&vector["message"]).as_slice()).unwrap();
        let ops = Ops::decode(&packed).unwrap();
        assert_eq!(ops.len(), list(&vector["ops"]).len());
        for (op, expected) in ops.iter().zip(list(&vector["ops"])) {
            let read = json!({
                "kind": op.kind.as_str_name(), "state_id": op.state_id, "key": hex(op.key),
                "namespace": hex(op.namespace), "map_key": hex(op.map_key), "value": hex(op.value),
                "key_group": op.key_group, "limit": op.limit,
                "expires_at_ms": maybe(op.expires_at_ms), "expected_version": maybe(op.expected_version),
            });
            assert_eq!(&read, expected);
        }
    }
    for vector in list(&file["refused"]) {
        let packed = PackedOps::decode(unhex(&vector["message"]).as_slice()).unwrap();
        assert!(Ops::decode(&packed).is_err(), "{vector}");
    }
}

#[test]
fn answers_are_read_as_they_were_packed() {
    for vector in list(&file("packed.json")["answers"]) {
        let answers = Answers::decode(PackedAnswers::decode(unhex(&vector["message"]).as_slice()).unwrap()).unwrap();
        assert_eq!(answers.len(), list(&vector["answers"]).len());
        for (answer, expected) in answers.iter().zip(list(&vector["answers"])) {
            let read = json!({
                "items": answer.items().map(hex).collect::<Vec<_>>(), "version": maybe(answer.version),
                "expires_at_ms": maybe(answer.expires_at_ms), "swapped": answer.verdict,
            });
            assert_eq!(&read, expected);
        }
    }
}

#[test]
fn lists_are_read_as_they_were_packed() {
    let file = file("packed.json");
    for vector in list(&file["lists"]) {
        let bytes = unhex(&vector["bytes"]);
        let elements: Vec<_> = packed_list::iter(&bytes).map(hex).collect();
        assert_eq!((packed_list::validate(&bytes), json!(elements)), (Ok(elements.len()), vector["elements"].clone()));
    }
    for bytes in list(&file["lists_refused"]) {
        assert!(packed_list::validate(&unhex(bytes)).is_err(), "{bytes}");
    }
    for vector in list(&file["compare_and_set"]) {
        let bytes = unhex(&vector["bytes"]);
        let (expected, replacement) = packed_list::split_cas(&bytes).unwrap();
        assert_eq!((hex(expected), hex(replacement)), (vector["expected"].clone(), vector["replacement"].clone()));
    }
}

/// The operands of a vector, one by one or as a series.
fn operands(vector: &Value) -> Vec<Vec<u8>> {
    match vector["u64_below"].as_u64() {
        Some(bound) => (0..bound).map(|n| U64::to_bytes(&n).unwrap()).collect(),
        None => list(vector).iter().map(unhex).collect(),
    }
}

#[test]
fn functions_fold_and_merge_as_the_vectors_say() {
    for file in ["merge.json", "aggregates.json"].map(file) {
        let function = |vector: &Value| MergeFunction::parse(text(&vector["function"])).unwrap();
        let sound = |vector: &Value, accumulator: Option<Vec<u8>>| {
            let accumulator = accumulator.unwrap();
            assert_eq!(hex(&accumulator), vector["accumulator"], "{vector}");
            assert_eq!(function(vector).result(&accumulator).map_or(Value::Null, hex), vector["result"], "{vector}");
        };
        for vector in list(&file["vectors"]) {
            let mut accumulator: Option<Vec<u8>> = None;
            for operand in operands(&vector["operands"]) {
                let mut out = Vec::new();
                function(vector).fold(accumulator.as_deref(), &operand, &mut out);
                accumulator = Some(out);
            }
            sound(vector, accumulator);
        }
        for vector in list(&file["merged"]) {
            let mut out = Vec::new();
            function(vector).merge(&unhex(&vector["left"]), &unhex(&vector["right"]), &mut out);
            sound(vector, Some(out));
        }
        for name in list(&file["names"]).iter().map(text) {
            assert_eq!(MergeFunction::parse(name).unwrap().name(), name);
            let alike = |vector: &&Value| text(&vector["function"]).split('(').next() == name.split('(').next();
            assert!(list(&file["vectors"]).iter().any(|vector| alike(&vector)), "{name} has no vector");
        }
        for name in list(&file["names_refused"]).iter().map(text) {
            assert_eq!(MergeFunction::parse(name), None, "{name}");
        }
    }
}
