//! What all functions have in common, on operands and accumulators that make sense and on others.

use super::{MergeFunction::*, *};
use crate::{
    codec::{Codec as _, F64, I64},
    packed_list,
};

fn fold(function: MergeFunction, accumulator: Option<&[u8]>, operand: &[u8]) -> Vec<u8> {
    let mut out = b"kept".to_vec();
    function.fold(accumulator, operand, &mut out);
    assert_eq!(&out[..4], b"kept");
    out.split_off(4)
}

fn merge(function: MergeFunction, left: &[u8], right: &[u8]) -> Vec<u8> {
    let mut out = b"kept".to_vec();
    function.merge(left, right, &mut out);
    assert_eq!(&out[..4], b"kept");
    out.split_off(4)
}

fn fold_all<I: AsRef<[u8]>>(function: MergeFunction, operands: impl IntoIterator<Item = I>) -> Vec<u8> {
    let mut accumulator = None;
    for operand in operands {
        accumulator = Some(fold(function, accumulator.as_deref(), operand.as_ref()));
    }
    accumulator.unwrap()
}

/// Numbers from a fixed sequence.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.below(256) as u8).collect()
    }

    /// Words with extremes and repetitions, pairs, or anything.
    fn operand(&mut self) -> Vec<u8> {
        let words = [0, 1, 1 << 63, u64::MAX, (1 << 63) + 1, 0xfff8 << 48, 0x7 << 48, 0xfff0 << 48, 0x000f << 48, 42];
        match self.below(4) {
            0 => words[self.below(words.len())].to_be_bytes().to_vec(),
            1 => self.bytes(8),
            2 => {
                let (by, value) = (self.below(3), self.below(3));
                packed_list::pack([self.bytes(by), self.bytes(value)])
            }
            _ => {
                let len = self.below(12);
                self.bytes(len)
            }
        }
    }

    /// What the function made, the same damaged, or anything.
    fn accumulator(&mut self, function: MergeFunction) -> Vec<u8> {
        // Many now and then, so that sketches are dense and lists are full.
        let operands = match self.below(100) {
            0 => 1_500,
            few => few % 20 + 1,
        };
        let made = fold_all(function, (0..operands).map(|_| self.operand()));
        match self.below(5) {
            0 if !made.is_empty() => {
                let mut damaged = made;
                let at = self.below(damaged.len());
                damaged[at] ^= 1 << self.below(8);
                damaged.truncate(damaged.len() - self.below(2));
                damaged
            }
            1 => {
                let len = [0, 3, 8, 16, 24, 30, 3_072][self.below(7)];
                self.bytes(len)
            }
            // A dense sketch that nobody would make, all but empty.
            2 => [vec![0; 3_069], self.bytes(3)].concat(),
            _ => made,
        }
    }
}

fn functions() -> impl Iterator<Item = MergeFunction> {
    MergeFunction::ALL.into_iter().chain([1, 3, 1_000].map(|k| MergeFunction::top_k(k).unwrap()))
}

#[test]
fn every_name_is_parsed_to_its_function() {
    for function in functions() {
        assert_eq!(MergeFunction::parse(&function.name()), Some(function));
        assert_eq!(function.to_string(), function.name());
    }
    assert_eq!(MergeFunction::parse("top_k(10)"), MergeFunction::top_k(10));
    let wrong = ["", "sum", "SUM_I64", "avg_f64", "top_k", "top_k()", "top_k(0)", "top_k(1001)", "top_k(65537)"];
    let second = ["top_k(010)", "top_k(+10)", "top_k( 10)", "top_k(10) ", "top_k(10", "top_k(ten)", "top_k(-1)"];
    for name in wrong.into_iter().chain(second) {
        assert_eq!(MergeFunction::parse(name), None, "{name}");
    }
}

#[test]
fn a_function_is_described_by_what_it_does() {
    for function in functions() {
        let reducing = function.kind() == StateKind::Reducing;
        assert!(reducing || function.kind() == StateKind::Aggregating);
        let valid = if [MinBy, MaxBy].contains(&function) { packed_list::pack(["by", "value"]) } else { vec![7; 8] };
        assert!(function.valid_operand(&valid));
        let any = function.operand() == "any bytes";
        assert_eq!((function.valid_operand(b""), function.valid_operand(b"some text")), (any, any), "{function}");
        let result = function.result(&fold(function, None, &valid)).unwrap();
        match function.result_codec("the state's") {
            ResultCodec::One("i64") => assert!(I64::decode(&result).is_ok()),
            ResultCodec::One("f64") => assert!(F64::decode(&result).is_ok()),
            ResultCodec::One(codec) => {
                assert_eq!(codec, "the state's");
                assert_eq!(result, if reducing { &valid[..] } else { b"value" });
            }
            ResultCodec::List(codec) => {
                assert_eq!(codec, "the state's");
                assert_eq!(result, packed_list::pack([valid]));
            }
        }
        if let (true, Some(codec)) = (function != Count, function.value_codec()) {
            assert_eq!(function.operand(), format!("8 bytes, codec {codec}"));
        }
    }
}

#[test]
fn count_counts_operands_of_any_content() {
    let result = Count.result(&fold_all(Count, [&b""[..], b"x", b"a longer operand"])).unwrap();
    assert_eq!(I64::decode(&result), Ok(3));
    assert_eq!(merge(Count, &result, &result), I64::to_bytes(&6).unwrap());
    assert_eq!(fold(Count, Some(&[0xff; 8]), b""), [0; 8]);
}

#[test]
fn no_bytes_make_it_panic_or_come_out_otherwise_the_second_time() {
    let mut random = Random(1);
    for function in functions() {
        for _ in 0..3_000 {
            let (accumulator, operand) = (random.accumulator(function), random.operand());
            let folded = fold(function, Some(&accumulator), &operand);
            // What a fold made is sound: it stays what it is beside nothing.
            assert_eq!(merge(function, &folded, b""), folded, "{function} {accumulator:?} {operand:?}");
            assert_eq!(merge(function, b"", &folded), folded, "{function} {accumulator:?} {operand:?}");
            let unchanged = merge(function, &accumulator, b"");
            if function.kind() == StateKind::Aggregating {
                let result = function.result(&unchanged);
                assert_eq!(result.is_some(), !unchanged.is_empty(), "{function} {accumulator:?}");
                assert_eq!(function.result(&accumulator), result, "{function} {accumulator:?}");
            }
            if !function.valid_operand(&operand) {
                assert_eq!(folded, unchanged, "{function} {accumulator:?} {operand:?}");
            }
        }
    }
}

#[test]
fn what_is_damaged_counts_as_the_identity() {
    for function in functions() {
        let operand = if [MinBy, MaxBy].contains(&function) { packed_list::pack(["b", "v"]) } else { vec![9; 8] };
        let plain = fold(function, None, &operand);
        for damaged in [&b""[..], b"short", &[0xff; 25]] {
            assert_eq!(fold(function, Some(damaged), &operand), plain, "{function}");
            assert_eq!(function.result(damaged), None, "{function}");
            if !function.valid_operand(damaged) {
                assert_eq!(fold_all(function, [&operand[..], damaged]), plain, "{function} after");
                assert_eq!(fold_all(function, [damaged, &operand]), plain, "{function} before");
            }
        }
    }
}

#[test]
fn associative_functions_may_be_grouped_in_any_way() {
    let mut random = Random(2);
    for function in functions().filter(|function| function.associative()) {
        for _ in 0..3_000 {
            let accumulator = random.accumulator(function);
            let [a, b] = [random.operand(), random.operand()];
            let one_by_one = fold(function, Some(&fold(function, Some(&accumulator), &a)), &b);
            let grouped = fold(function, Some(&accumulator), &fold_all(function, [&a, &b]));
            assert_eq!(one_by_one, grouped, "{function} {accumulator:?} {a:?} {b:?}");
        }
    }
    let associative: Vec<String> = functions().filter(|f| f.associative()).map(|f| f.to_string()).collect();
    let expected = "min_i64 min_f64 max_i64 max_f64 bit_or bit_and bit_xor min_by max_by";
    assert_eq!(associative.join(" "), format!("sum_i64 {expected}"));
}

#[test]
fn merging_is_as_folding_one_after_the_other() {
    let mut random = Random(3);
    for function in functions().filter(|function| function.merges_exactly()) {
        for _ in 0..1_000 {
            let accumulator = random.accumulator(function);
            let operands: Vec<Vec<u8>> = (0..=random.below(6)).map(|_| random.operand()).collect();
            let folded =
                operands.iter().fold(accumulator.clone(), |left, operand| fold(function, Some(&left), operand));
            let merged = merge(function, &accumulator, &fold_all(function, &operands));
            assert_eq!(merged, folded, "{function} {accumulator:?} {operands:?}");
        }
    }
}

#[test]
fn merging_may_be_grouped_in_any_way() {
    let mut random = Random(4);
    for function in functions().filter(|function| function.merges_exactly()) {
        for _ in 0..1_000 {
            let [a, b, c] = [(); 3].map(|()| random.accumulator(function));
            let left = merge(function, &merge(function, &a, &b), &c);
            assert_eq!(left, merge(function, &a, &merge(function, &b, &c)), "{function} {a:?} {b:?} {c:?}");
            if ![MinBy, MaxBy].contains(&function) {
                assert_eq!(merge(function, &a, &b), merge(function, &b, &a), "{function} {a:?} {b:?}");
            }
        }
    }
}

#[test]
fn float_sums_are_merged_left_then_right() {
    let floats = |floats: &[f64]| floats.iter().map(|n| F64::to_bytes(n).unwrap()).collect::<Vec<_>>();
    for (function, share) in [(SumF64, 1.0), (Avg, 4.0)] {
        let left = fold_all(function, floats(&[1e16, 1.0]));
        let right = fold_all(function, floats(&[1.0, 1.0]));
        let merged = function.result(&merge(function, &left, &right)).unwrap();
        // One by one, every 1 would be rounded away.
        assert_eq!(F64::decode(&merged), Ok((1e16 + 2.0) / share));
        let one_by_one = function.result(&fold_all(function, floats(&[1e16, 1.0, 1.0, 1.0]))).unwrap();
        assert_eq!(F64::decode(&one_by_one), Ok(1e16 / share));
        assert!(!function.merges_exactly() && !function.associative());
    }
}
