//! Merge functions: what a reducing state does with an operand.
//!
//! Every function is pure, total and exact to the bit, so that all backends, replicas and SDKs agree
//! whatever the order of their flushes. Operands and accumulators are 8 bytes: `i64` and `f64` in their
//! order-preserving codecs, `u64` big endian for the bit functions.
//!
//! Invariant: no accumulator and no operand can make a fold fail. What is not 8 bytes long counts as
//! the function's identity; a server refuses such operands before ([`MergeFunction::valid_operand`]).

/// A named function that folds an operand into an accumulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MergeFunction {
    /// Sum of `i64`; wraps at overflow.
    SumI64,
    /// Sum of `f64` in the order of arrival; NaN, once in, stays.
    SumF64,
    /// Smallest `i64`.
    MinI64,
    /// Smallest `f64`; NaN is above `+inf`, so it wins only over nothing. `-0.0` is below `0.0`.
    MinF64,
    /// Largest `i64`.
    MaxI64,
    /// Largest `f64`; NaN is above `+inf`, so, once in, it stays.
    MaxF64,
    /// Number of operands, an `i64` that wraps; the operands' content is ignored.
    Count,
    /// Bitwise or of `u64`.
    BitOr,
    /// Bitwise and of `u64`.
    BitAnd,
    /// Bitwise exclusive or of `u64`.
    BitXor,
}

impl MergeFunction {
    /// Every function, in the order of the documentation.
    pub const ALL: [Self; 10] = [
        Self::SumI64,
        Self::SumF64,
        Self::MinI64,
        Self::MinF64,
        Self::MaxI64,
        Self::MaxF64,
        Self::Count,
        Self::BitOr,
        Self::BitAnd,
        Self::BitXor,
    ];

    /// Finds a function by its name in a state's descriptor.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|function| function.name() == name)
    }

    /// Returns the name in a state's descriptor; it is stored and never changes.
    pub fn name(self) -> &'static str {
        match self {
            Self::SumI64 => "sum_i64",
            Self::SumF64 => "sum_f64",
            Self::MinI64 => "min_i64",
            Self::MinF64 => "min_f64",
            Self::MaxI64 => "max_i64",
            Self::MaxF64 => "max_f64",
            Self::Count => "count",
            Self::BitOr => "bit_or",
            Self::BitAnd => "bit_and",
            Self::BitXor => "bit_xor",
        }
    }

    /// True if operands may be folded with each other before the accumulator is known.
    ///
    /// Not so for `sum_f64`, whose result depends on the order, nor for `count`, whose accumulator is
    /// not an operand.
    pub fn associative(self) -> bool {
        !matches!(self, Self::SumF64 | Self::Count)
    }

    /// True if the operand means something to the function; others would be folded as its identity.
    pub fn valid_operand(self, operand: &[u8]) -> bool {
        self == Self::Count || operand.len() == 8
    }

    /// Appends the accumulator after `operand` to `out`, always 8 bytes.
    ///
    /// No accumulator counts as the identity, so the first fold gives the operand itself. Every NaN
    /// comes out as the one positive quiet NaN, since its sign and payload differ between processors.
    pub fn fold(self, accumulator: Option<&[u8]>, operand: &[u8], out: &mut Vec<u8>) {
        let accumulator = accumulator.and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
        let operand = <[u8; 8]>::try_from(operand).ok();
        let result = match self {
            Self::SumI64 => on_i64(0, accumulator, operand, i64::wrapping_add),
            Self::MinI64 => on_i64(i64::MAX, accumulator, operand, i64::min),
            Self::MaxI64 => on_i64(i64::MIN, accumulator, operand, i64::max),
            // -0.0 and not 0.0 is what leaves every float as it is.
            Self::SumF64 => on_f64(-0.0, accumulator, operand, |a, b| a + b),
            Self::MinF64 => on_f64(f64::NAN, accumulator, operand, |a, b| if b.total_cmp(&a).is_lt() { b } else { a }),
            Self::MaxF64 => {
                on_f64(f64::NEG_INFINITY, accumulator, operand, |a, b| if b.total_cmp(&a).is_gt() { b } else { a })
            }
            Self::Count => on_i64(0, accumulator, Some(encode_i64(1)), i64::wrapping_add),
            Self::BitOr => on_u64(0, accumulator, operand, |a, b| a | b),
            Self::BitAnd => on_u64(u64::MAX, accumulator, operand, |a, b| a & b),
            Self::BitXor => on_u64(0, accumulator, operand, |a, b| a ^ b),
        };
        out.extend_from_slice(&result);
    }
}

impl std::fmt::Display for MergeFunction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

type Word = Option<[u8; 8]>;

fn on_u64(identity: u64, a: Word, b: Word, f: impl FnOnce(u64, u64) -> u64) -> [u8; 8] {
    f(a.map_or(identity, u64::from_be_bytes), b.map_or(identity, u64::from_be_bytes)).to_be_bytes()
}

fn on_i64(identity: i64, a: Word, b: Word, f: impl FnOnce(i64, i64) -> i64) -> [u8; 8] {
    encode_i64(f(a.map_or(identity, decode_i64), b.map_or(identity, decode_i64)))
}

fn on_f64(identity: f64, a: Word, b: Word, f: impl FnOnce(f64, f64) -> f64) -> [u8; 8] {
    let read = |word: Word| word.map_or(identity, |bytes| one_nan(decode_f64(bytes)));
    encode_f64(one_nan(f(read(a), read(b))))
}

const SIGN: u64 = 1 << 63;

fn encode_i64(value: i64) -> [u8; 8] {
    (value.cast_unsigned() ^ SIGN).to_be_bytes()
}

fn decode_i64(bytes: [u8; 8]) -> i64 {
    (u64::from_be_bytes(bytes) ^ SIGN).cast_signed()
}

fn encode_f64(value: f64) -> [u8; 8] {
    let bits = value.to_bits();
    let ordered = if bits & SIGN == 0 { bits | SIGN } else { !bits };
    ordered.to_be_bytes()
}

fn decode_f64(bytes: [u8; 8]) -> f64 {
    let ordered = u64::from_be_bytes(bytes);
    f64::from_bits(if ordered & SIGN == 0 { !ordered } else { ordered & !SIGN })
}

fn one_nan(value: f64) -> f64 {
    const NAN: u64 = 0x7ff8_0000_0000_0000;
    if value.is_nan() { f64::from_bits(NAN) } else { value }
}

#[cfg(test)]
mod tests {
    use super::{MergeFunction::*, *};

    fn fold_all(function: MergeFunction, operands: &[&[u8]]) -> Vec<u8> {
        let mut accumulator: Option<Vec<u8>> = None;
        for operand in operands {
            let mut out = Vec::new();
            function.fold(accumulator.as_deref(), operand, &mut out);
            accumulator = Some(out);
        }
        accumulator.unwrap()
    }

    fn on_ints(function: MergeFunction, operands: &[i64]) -> i64 {
        let encoded: Vec<[u8; 8]> = operands.iter().map(|n| encode_i64(*n)).collect();
        let folded = fold_all(function, &encoded.iter().map(|n| &n[..]).collect::<Vec<_>>());
        decode_i64(folded.try_into().unwrap())
    }

    fn on_floats(function: MergeFunction, operands: &[f64]) -> u64 {
        let encoded: Vec<[u8; 8]> = operands.iter().map(|n| encode_f64(*n)).collect();
        let folded = fold_all(function, &encoded.iter().map(|n| &n[..]).collect::<Vec<_>>());
        decode_f64(folded.try_into().unwrap()).to_bits()
    }

    #[test]
    fn every_name_is_parsed_to_its_function() {
        for function in MergeFunction::ALL {
            assert_eq!(MergeFunction::parse(function.name()), Some(function));
        }
        assert_eq!(MergeFunction::parse("sum"), None);
        assert_eq!(MergeFunction::parse(""), None);
    }

    #[test]
    fn the_codecs_preserve_the_order() {
        let ints = [i64::MIN, -7, -1, 0, 1, 7, i64::MAX];
        assert!(ints.is_sorted_by(|a, b| encode_i64(*a) < encode_i64(*b)));
        let floats = [f64::NEG_INFINITY, -1.5, -f64::MIN_POSITIVE, -0.0, 0.0, 1.5, f64::INFINITY, f64::NAN];
        assert!(floats.is_sorted_by(|a, b| encode_f64(*a) < encode_f64(*b)));
        for n in floats {
            assert_eq!(decode_f64(encode_f64(n)).to_bits(), n.to_bits());
        }
        assert_eq!(encode_i64(1), [0x80, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(encode_f64(1.0), [0xbf, 0xf0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn sums_of_integers_wrap() {
        assert_eq!(on_ints(SumI64, &[i64::MAX, 1]), i64::MIN);
        assert_eq!(on_ints(SumI64, &[1, 2, -5]), -2);
    }

    #[test]
    fn sums_of_floats_keep_the_order_and_nan() {
        assert_eq!(on_floats(SumF64, &[1e100, 1.0, -1e100]), 0.0_f64.to_bits());
        assert_eq!(on_floats(SumF64, &[-0.0]), (-0.0_f64).to_bits());
        let nan = one_nan(f64::NAN).to_bits();
        assert_eq!(on_floats(SumF64, &[f64::INFINITY, f64::NEG_INFINITY]), nan);
        assert_eq!(on_floats(SumF64, &[-f64::NAN, 1.0]), nan);
    }

    #[test]
    fn min_and_max_are_defined_for_nan_and_zeros() {
        let nan = one_nan(f64::NAN).to_bits();
        assert_eq!(on_floats(MinF64, &[f64::NAN, 3.0, 2.0]), 2.0_f64.to_bits());
        assert_eq!(on_floats(MinF64, &[-f64::NAN]), nan);
        assert_eq!(on_floats(MaxF64, &[1.0, -f64::NAN, f64::INFINITY]), nan);
        assert_eq!(on_floats(MinF64, &[0.0, -0.0]), (-0.0_f64).to_bits());
        assert_eq!(on_floats(MaxF64, &[-0.0, 0.0]), 0.0_f64.to_bits());
        assert_eq!(on_floats(MaxF64, &[f64::NEG_INFINITY]), f64::NEG_INFINITY.to_bits());
        assert_eq!(on_ints(MinI64, &[4, -3, 9]), -3);
        assert_eq!(on_ints(MaxI64, &[4, -3, 9]), 9);
    }

    #[test]
    fn count_counts_operands_of_any_content() {
        assert_eq!(decode_i64(fold_all(Count, &[b"", b"x", b"a longer operand"]).try_into().unwrap()), 3);
        assert!(Count.valid_operand(b""));
        assert!(!SumI64.valid_operand(b""));
        assert!(SumI64.valid_operand(&[0; 8]));
    }

    #[test]
    fn bits_are_combined() {
        let (a, b) = (0b1100_u64.to_be_bytes(), 0b1010_u64.to_be_bytes());
        assert_eq!(fold_all(BitOr, &[&a, &b]), 0b1110_u64.to_be_bytes());
        assert_eq!(fold_all(BitAnd, &[&a, &b]), 0b1000_u64.to_be_bytes());
        assert_eq!(fold_all(BitXor, &[&a, &b]), 0b0110_u64.to_be_bytes());
    }

    #[test]
    fn what_is_not_eight_bytes_long_counts_as_the_identity() {
        for function in MergeFunction::ALL.into_iter().filter(|f| *f != Count) {
            let operand = encode_i64(42);
            let plain = fold_all(function, &[&operand]);
            for bad in [&b""[..], b"short", b"much too long"] {
                assert_eq!(fold_all(function, &[&operand, bad]), plain, "{function} after");
                assert_eq!(fold_all(function, &[bad, &operand]), plain, "{function} before");
                let mut out = Vec::new();
                function.fold(Some(bad), &operand, &mut out);
                assert_eq!(out, plain, "{function} as accumulator");
            }
        }
    }

    #[test]
    fn associative_functions_may_be_grouped_in_any_way() {
        let words = [0, 1, SIGN, u64::MAX, 0x8000_0000_0000_0001, 0xfff8_0000_0000_0000, 0x0007_ffff_ffff_ffff, 42];
        for function in MergeFunction::ALL.into_iter().filter(|f| f.associative()) {
            for a in words.map(u64::to_be_bytes) {
                for b in words.map(u64::to_be_bytes) {
                    for c in words.map(u64::to_be_bytes) {
                        let right = fold_all(function, &[&b, &c]);
                        assert_eq!(fold_all(function, &[&a, &b, &c]), fold_all(function, &[&a, &right]), "{function}");
                    }
                }
            }
        }
        assert!(!SumF64.associative() && !Count.associative());
    }
}
