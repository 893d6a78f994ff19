//! Reducing functions: accumulator, operand and result are one word of 8 bytes.
//!
//! What is no word is `None` and counts as the function's identity, which leaves every other word as it is;
//! so two that are none give the identity.

use super::number::{Word, decode_f64, decode_i64, encode_f64, encode_i64};

pub(super) fn sum_i64(a: Word, b: Word) -> [u8; 8] {
    on_i64(0, a, b, i64::wrapping_add)
}

pub(super) fn sum_f64(a: Word, b: Word) -> [u8; 8] {
    // -0.0 and not 0.0 is what leaves every float as it is.
    on_f64(-0.0, a, b, |a, b| a + b)
}

pub(super) fn min_i64(a: Word, b: Word) -> [u8; 8] {
    on_i64(i64::MAX, a, b, i64::min)
}

pub(super) fn min_f64(a: Word, b: Word) -> [u8; 8] {
    on_f64(f64::NAN, a, b, |a, b| if b.total_cmp(&a).is_lt() { b } else { a })
}

pub(super) fn max_i64(a: Word, b: Word) -> [u8; 8] {
    on_i64(i64::MIN, a, b, i64::max)
}

pub(super) fn max_f64(a: Word, b: Word) -> [u8; 8] {
    on_f64(f64::NEG_INFINITY, a, b, |a, b| if b.total_cmp(&a).is_gt() { b } else { a })
}

pub(super) fn bit_or(a: Word, b: Word) -> [u8; 8] {
    on_u64(0, a, b, |a, b| a | b)
}

pub(super) fn bit_and(a: Word, b: Word) -> [u8; 8] {
    on_u64(u64::MAX, a, b, |a, b| a & b)
}

pub(super) fn bit_xor(a: Word, b: Word) -> [u8; 8] {
    on_u64(0, a, b, |a, b| a ^ b)
}

fn on_u64(identity: u64, a: Word, b: Word, f: impl FnOnce(u64, u64) -> u64) -> [u8; 8] {
    f(a.map_or(identity, u64::from_be_bytes), b.map_or(identity, u64::from_be_bytes)).to_be_bytes()
}

fn on_i64(identity: i64, a: Word, b: Word, f: impl FnOnce(i64, i64) -> i64) -> [u8; 8] {
    encode_i64(f(a.map_or(identity, decode_i64), b.map_or(identity, decode_i64)))
}

fn on_f64(identity: f64, a: Word, b: Word, f: impl FnOnce(f64, f64) -> f64) -> [u8; 8] {
    encode_f64(f(a.map_or(identity, decode_f64), b.map_or(identity, decode_f64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Function = fn(Word, Word) -> [u8; 8];

    fn on_ints(function: Function, operands: &[i64]) -> i64 {
        decode_i64(operands.iter().fold(None, |a, b| Some(function(a, Some(encode_i64(*b))))).unwrap())
    }

    fn on_floats(function: Function, operands: &[f64]) -> u64 {
        // Not through the codec, which would make every NaN one.
        let words = operands.iter().map(|n| match n.to_bits() {
            bits if bits >> 63 == 0 => (bits | 1 << 63).to_be_bytes(),
            bits => (!bits).to_be_bytes(),
        });
        decode_f64(words.fold(None, |a, b| Some(function(a, Some(b)))).unwrap()).to_bits()
    }

    #[test]
    fn sums_of_integers_wrap() {
        assert_eq!(on_ints(sum_i64, &[i64::MAX, 1]), i64::MIN);
        assert_eq!(on_ints(sum_i64, &[i64::MIN, -1]), i64::MAX);
        assert_eq!(on_ints(sum_i64, &[1, 2, -5]), -2);
    }

    #[test]
    fn sums_of_floats_keep_the_order_and_nan() {
        assert_eq!(on_floats(sum_f64, &[1e100, 1.0, -1e100]), 0.0_f64.to_bits());
        assert_eq!(on_floats(sum_f64, &[-0.0]), (-0.0_f64).to_bits());
        assert_eq!(on_floats(sum_f64, &[f64::MAX, f64::MAX]), f64::INFINITY.to_bits());
        let nan = f64::NAN.to_bits();
        assert_eq!(on_floats(sum_f64, &[f64::INFINITY, f64::NEG_INFINITY]), nan);
        assert_eq!(on_floats(sum_f64, &[-f64::NAN, 1.0]), nan);
    }

    #[test]
    fn min_and_max_are_defined_for_nan_and_zeros() {
        let nan = f64::NAN.to_bits();
        assert_eq!(on_floats(min_f64, &[f64::NAN, 3.0, 2.0]), 2.0_f64.to_bits());
        assert_eq!(on_floats(min_f64, &[-f64::NAN]), nan);
        assert_eq!(on_floats(max_f64, &[1.0, -f64::NAN, f64::INFINITY]), nan);
        assert_eq!(on_floats(min_f64, &[0.0, -0.0]), (-0.0_f64).to_bits());
        assert_eq!(on_floats(max_f64, &[-0.0, 0.0]), 0.0_f64.to_bits());
        assert_eq!(on_floats(max_f64, &[f64::NEG_INFINITY]), f64::NEG_INFINITY.to_bits());
        assert_eq!(on_ints(min_i64, &[4, -3, 9]), -3);
        assert_eq!(on_ints(max_i64, &[4, -3, 9]), 9);
    }

    #[test]
    fn bits_are_combined() {
        let (a, b) = (Some(0b1100_u64.to_be_bytes()), Some(0b1010_u64.to_be_bytes()));
        assert_eq!(bit_or(a, b), 0b1110_u64.to_be_bytes());
        assert_eq!(bit_and(a, b), 0b1000_u64.to_be_bytes());
        assert_eq!(bit_xor(a, b), 0b0110_u64.to_be_bytes());
    }

    #[test]
    fn what_is_no_word_leaves_the_other_as_it_is() {
        let all: [Function; 9] = [sum_i64, sum_f64, min_i64, min_f64, max_i64, max_f64, bit_or, bit_and, bit_xor];
        for function in all {
            for other in [0, 1, 1 << 63, u64::MAX >> 1, 0xfff8 << 48, 42].map(|n: u64| Some(n.to_be_bytes())) {
                let plain = function(other, None);
                assert_eq!(function(None, other), plain);
                assert_eq!(function(Some(function(None, None)), other), plain);
                assert_eq!(function(Some(plain), None), plain);
            }
        }
    }
}
