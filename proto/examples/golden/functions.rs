//! The golden vectors of merge functions: operands in order, the accumulator after them, its result.
//!
//! `accumulator` is what is stored; `result` is null where the accumulator holds no operand. Long series of
//! operands are written as `{"u64_below": n}`: 0 to n - 1 in the codec `u64`.

use forebay_proto::{
    codec::{Codec as _, F64, I64, U64},
    merge::MergeFunction,
    packed_list,
    v1::StateKind,
};
use serde_json::{Value, json};

use super::hex;

/// Operands of a vector.
enum Operands {
    Listed(Vec<Vec<u8>>),
    U64Below(u64),
}
use Operands::{Listed, U64Below};

impl Operands {
    fn each(&self) -> Vec<Vec<u8>> {
        match self {
            Listed(operands) => operands.clone(),
            U64Below(bound) => (0..*bound).map(|n| U64::to_bytes(&n).unwrap()).collect(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Listed(operands) => operands.iter().map(hex).collect(),
            U64Below(bound) => json!({"u64_below": bound}),
        }
    }
}

type Vector = (&'static str, &'static str, Operands);

fn i64s(numbers: &[i64]) -> Operands {
    Listed(numbers.iter().map(|n| I64::to_bytes(n).unwrap()).collect())
}

fn f64s(numbers: &[f64]) -> Operands {
    Listed(numbers.iter().map(|n| F64::to_bytes(n).unwrap()).collect())
}

fn u64s(numbers: &[u64]) -> Operands {
    Listed(numbers.iter().map(|n| U64::to_bytes(n).unwrap()).collect())
}

fn texts(texts: &[&str]) -> Operands {
    Listed(texts.iter().map(|text| text.as_bytes().to_vec()).collect())
}

fn pairs(pairs: &[(&str, &str)]) -> Operands {
    Listed(pairs.iter().map(|(by, value)| packed_list::pack([by, value])).collect())
}

/// What counts as the identity: operands that are not 8 bytes, between two that are.
fn damaged(operands: Operands) -> Operands {
    let mut operands = operands.each();
    operands.insert(1, b"short".to_vec());
    operands.insert(1, Vec::new());
    operands.push(vec![0xff; 9]);
    Listed(operands)
}

/// `merge.json`
pub fn reducing() -> Value {
    let inf = f64::INFINITY;
    let nan = f64::NAN;
    // A NaN of another sign and payload than the stored one.
    let foreign = vec![0x00, 0x07, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe];
    let vectors: Vec<Vector> = vec![
        ("sum_i64", "one", i64s(&[-7])),
        ("sum_i64", "some", i64s(&[1, 2, -5])),
        ("sum_i64", "wraps", i64s(&[i64::MAX, 1])),
        ("sum_i64", "wraps below", i64s(&[i64::MIN, -1])),
        ("sum_i64", "other lengths are 0", damaged(i64s(&[40, 2]))),
        ("sum_f64", "one negative zero", f64s(&[-0.0])),
        ("sum_f64", "zeros", f64s(&[-0.0, 0.0])),
        ("sum_f64", "in order", f64s(&[1e100, 1.0, -1e100])),
        ("sum_f64", "rounds", f64s(&[0.1, 0.2, 0.3])),
        ("sum_f64", "overflows", f64s(&[f64::MAX, f64::MAX])),
        ("sum_f64", "subnormal", f64s(&[f64::from_bits(1), f64::from_bits(1)])),
        ("sum_f64", "infinities", f64s(&[inf, -inf])),
        ("sum_f64", "nan stays", f64s(&[nan, 1.0])),
        ("sum_f64", "a foreign nan is the one nan", Listed(vec![foreign.clone()])),
        ("sum_f64", "other lengths are -0.0", damaged(f64s(&[0.5, 2.0]))),
        ("min_i64", "some", i64s(&[4, -3, 9])),
        ("min_i64", "extremes", i64s(&[i64::MAX, i64::MIN])),
        ("min_i64", "other lengths are the largest", damaged(i64s(&[4, 5]))),
        ("min_i64", "only other lengths", texts(&["short"])),
        ("min_f64", "some", f64s(&[4.0, -3.5, 9.0])),
        ("min_f64", "nan is above inf", f64s(&[nan, inf])),
        ("min_f64", "nan alone", Listed(vec![foreign.clone()])),
        ("min_f64", "zeros", f64s(&[0.0, -0.0])),
        ("min_f64", "other lengths are nan", damaged(f64s(&[inf, inf]))),
        ("min_f64", "only other lengths", texts(&["short"])),
        ("max_i64", "some", i64s(&[4, -3, 9])),
        ("max_i64", "extremes", i64s(&[i64::MIN, i64::MAX])),
        ("max_i64", "other lengths are the smallest", damaged(i64s(&[-4, -5]))),
        ("max_i64", "only other lengths", texts(&["short"])),
        ("max_f64", "some", f64s(&[4.0, -3.5, 9.0])),
        ("max_f64", "nan is above inf and stays", f64s(&[nan, inf])),
        ("max_f64", "a foreign nan", Listed(vec![F64::to_bytes(&inf).unwrap(), foreign])),
        ("max_f64", "zeros", f64s(&[-0.0, 0.0])),
        ("max_f64", "other lengths are -inf", damaged(f64s(&[-inf, -inf]))),
        ("max_f64", "only other lengths", texts(&["short"])),
        ("count", "any content", texts(&["", "x", "a longer operand"])),
        ("bit_or", "some", u64s(&[0b1100, 0b1010])),
        ("bit_or", "other lengths are 0", damaged(u64s(&[1 << 63, 1]))),
        ("bit_and", "some", u64s(&[0b1100, 0b1010])),
        ("bit_and", "other lengths are all ones", damaged(u64s(&[u64::MAX, 6]))),
        ("bit_xor", "some", u64s(&[0b1100, 0b1010])),
        ("bit_xor", "other lengths are 0", damaged(u64s(&[1 << 63, 1 << 63]))),
    ];
    let word = |n: i64| I64::to_bytes(&n).unwrap();
    let float = |n: f64| F64::to_bytes(&n).unwrap();
    let merged = [
        ("sum_i64", word(i64::MAX), word(2)),
        ("sum_f64", float(1e16), float(2.0)),
        ("min_i64", word(3), word(-3)),
        ("max_f64", float(3.0), float(nan)),
        ("count", word(40), word(2)),
        ("count", word(i64::MAX), word(1)),
        ("count", word(5), b"damaged".to_vec()),
        ("bit_xor", vec![0xf0; 8], vec![0xff; 8]),
    ];
    file(StateKind::Reducing, vectors, merged.into(), vec!["", "sum", "SUM_I64", "sum_i64 ", "average"])
}

/// `aggregates.json`
pub fn aggregating() -> Value {
    let inf = f64::INFINITY;
    let nan = f64::NAN;
    let top = F64::to_bytes(&nan).unwrap();
    let mixed = [f64s(&[-1.5, inf, 2.0, 2.0]).each(), vec![top], f64s(&[-inf]).each()].concat();
    let vectors: Vec<Vector> = vec![
        ("avg", "one", f64s(&[2.5])),
        ("avg", "some", f64s(&[1.0, 2.0, 4.0])),
        ("avg", "rounds in order", f64s(&[1e16, 1.0, 1.0])),
        ("avg", "negative zero", f64s(&[-0.0])),
        ("avg", "overflows", f64s(&[f64::MAX, f64::MAX])),
        ("avg", "infinities", f64s(&[inf, -inf, 1.0])),
        ("avg", "nan stays", f64s(&[1.0, nan, 2.0])),
        ("avg", "a foreign nan is the one nan", Listed(vec![vec![0; 8]])),
        ("avg", "other lengths do not count", damaged(f64s(&[1.0, 2.0]))),
        ("avg", "only other lengths", texts(&["short"])),
        ("avg_i64", "one", i64s(&[-7])),
        ("avg_i64", "some", i64s(&[1, 2, -5])),
        ("avg_i64", "thirds", i64s(&[1, 0, 0])),
        ("avg_i64", "beyond 64 bits", i64s(&[i64::MAX, i64::MAX, i64::MAX - 5])),
        ("avg_i64", "below 64 bits", i64s(&[i64::MIN, i64::MIN])),
        ("avg_i64", "exact where floats are not", i64s(&[1 << 60, 1, -(1 << 60)])),
        ("avg_i64", "other lengths do not count", damaged(i64s(&[1, 2]))),
        ("avg_i64", "only other lengths", texts(&["short"])),
        ("count_distinct", "nothing is a value", texts(&[""])),
        ("count_distinct", "one", texts(&["user-1"])),
        ("count_distinct", "again", texts(&["b", "a", "b", "a"])),
        ("count_distinct", "long", Listed([16, 17, 128, 129, 240, 241, 1_024, 1_025].map(|n| vec![7; n]).into())),
        ("count_distinct", "sparse", U64Below(60)),
        ("count_distinct", "nearly dense", U64Below(1_000)),
        ("count_distinct", "dense", U64Below(10_000)),
        ("count_distinct", "many", U64Below(300_000)),
        ("top_k(1)", "the largest", i64s(&[3, -1, 7, 5])),
        ("top_k(3)", "the largest first", i64s(&[3, -1, 7, 5])),
        ("top_k(3)", "duplicates", texts(&["b", "a", "b", "b", "a"])),
        ("top_k(10)", "fewer than k", texts(&["b", "", "ba", "a"])),
        ("top_k(4)", "nan is above inf", Listed(mixed)),
        ("top_k(1000)", "at most k", U64Below(1_100)),
        ("min_by", "some", pairs(&[("b", "1"), ("a", "2"), ("ab", "3")])),
        ("min_by", "the first of equals", pairs(&[("a", "first"), ("a", "second")])),
        ("min_by", "empty parts", pairs(&[("a", "x"), ("", "")])),
        ("min_by", "no pairs do not count", damaged(pairs(&[("b", "1"), ("c", "2")]))),
        ("min_by", "only no pairs", texts(&["short"])),
        ("min_by", "three are no pair", Listed(vec![packed_list::pack(["a", "b", "c"])])),
        ("max_by", "some", pairs(&[("b", "1"), ("a", "2"), ("ba", "3")])),
        ("max_by", "the first of equals", pairs(&[("a", "first"), ("a", "second")])),
        ("max_by", "no pairs do not count", damaged(pairs(&[("b", "1"), ("a", "2")]))),
    ];
    let after = |name: &str, operands: Operands| fold(name, &operands.each());
    let merged = vec![
        ("avg", after("avg", f64s(&[1e16, 1.0])), after("avg", f64s(&[1.0, 1.0]))),
        ("avg", after("avg", f64s(&[1.0])), b"damaged".to_vec()),
        ("avg", vec![0; 16], after("avg", f64s(&[1.0]))),
        ("avg_i64", after("avg_i64", i64s(&[5, 6])), after("avg_i64", i64s(&[-20]))),
        ("avg_i64", [vec![0x7f], vec![0xff; 23]].concat(), after("avg_i64", i64s(&[1]))),
        ("avg_i64", after("avg_i64", i64s(&[5, 6])), vec![1; 16]),
        ("count_distinct", after("count_distinct", U64Below(3)), after("count_distinct", texts(&["a", "b"]))),
        ("count_distinct", after("count_distinct", U64Below(900)), after("count_distinct", texts(&["a"]))),
        ("count_distinct", after("count_distinct", U64Below(3)), vec![0xff; 3]),
        ("count_distinct", vec![0xff; 3_072], Vec::new()),
        // Dense though hardly set; and a quarter of the registers full, at ranks 51, 50, 50, 53.
        ("count_distinct", vec![0; 3_072], after("count_distinct", texts(&["a"]))),
        ("count_distinct", [0xcf, 0x2c, 0xb5].repeat(1_024), Vec::new()),
        ("top_k(3)", after("top_k(3)", texts(&["a", "c", "e"])), after("top_k(3)", texts(&["b", "c", "d"]))),
        ("top_k(3)", after("top_k(4)", texts(&["a", "c", "e", "g"])), after("top_k(3)", texts(&["b"]))),
        ("top_k(3)", packed_list::pack(["a", "b"]), after("top_k(3)", texts(&["b"]))),
        ("min_by", packed_list::pack(["a", "left"]), packed_list::pack(["a", "right"])),
        ("max_by", packed_list::pack(["a", "left"]), packed_list::pack(["b", "right"])),
        ("max_by", b"damaged".to_vec(), packed_list::pack(["b", "right"])),
    ];
    let refused = vec!["top_k", "top_k()", "top_k(0)", "top_k(1001)", "top_k(010)", "top_k(+10)", "top_k( 10)", "AVG"];
    file(StateKind::Aggregating, vectors, merged, refused)
}

fn function(name: &str) -> MergeFunction {
    MergeFunction::parse(name).unwrap_or_else(|| panic!("{name}"))
}

fn fold(name: &str, operands: &[Vec<u8>]) -> Vec<u8> {
    operands.iter().fold(Vec::new(), |accumulator, operand| {
        let mut out = Vec::new();
        function(name).fold(Some(&accumulator), operand, &mut out);
        out
    })
}

fn file(
    kind: StateKind,
    vectors: Vec<Vector>,
    merged: Vec<(&str, Vec<u8>, Vec<u8>)>,
    names_refused: Vec<&str>,
) -> Value {
    let names: Vec<_> = MergeFunction::ALL.into_iter().filter(|function| function.kind() == kind).collect();
    let names: Vec<_> = names.iter().map(|function| function.name()).collect();
    let vectors = vectors.iter().map(|(name, why, operands)| {
        let accumulator = fold(name, &operands.each());
        let result = function(name).result(&accumulator).map(hex);
        json!({
            "function": name, "why": why, "operands": operands.json(),
            "accumulator": hex(&accumulator), "result": result,
        })
    });
    let merged = merged.iter().map(|(name, left, right)| {
        let mut accumulator = Vec::new();
        function(name).merge(left, right, &mut accumulator);
        let result = function(name).result(&accumulator).map(hex);
        json!({
            "function": name, "left": hex(left), "right": hex(right),
            "accumulator": hex(&accumulator), "result": result,
        })
    });
    json!({
        "vectors": vectors.collect::<Vec<_>>(), "merged": merged.collect::<Vec<_>>(),
        "names": names, "names_refused": names_refused,
    })
}
