//! Numbers of 8 bytes, as operands and accumulators hold them: the codecs `i64`, `f64` and `u64` without a
//! way to fail.
//!
//! Invariant: a NaN that leaves here is the one positive quiet NaN, since sign and payload of others differ
//! between processors and languages.

/// Bytes that may be a number; others are `None`.
pub(super) type Word = Option<[u8; 8]>;

const SIGN: u64 = 1 << 63;
const NAN: u64 = 0x7ff8_0000_0000_0000;

/// Takes 8 bytes as they are; any other number of bytes is no word.
pub(super) fn word(bytes: &[u8]) -> Word {
    bytes.try_into().ok()
}

pub(super) fn encode_i64(value: i64) -> [u8; 8] {
    (value.cast_unsigned() ^ SIGN).to_be_bytes()
}

pub(super) fn decode_i64(bytes: [u8; 8]) -> i64 {
    (u64::from_be_bytes(bytes) ^ SIGN).cast_signed()
}

pub(super) fn encode_f64(value: f64) -> [u8; 8] {
    let bits = one_nan(value).to_bits();
    let ordered = if bits & SIGN == 0 { bits | SIGN } else { !bits };
    ordered.to_be_bytes()
}

pub(super) fn decode_f64(bytes: [u8; 8]) -> f64 {
    let ordered = u64::from_be_bytes(bytes);
    one_nan(f64::from_bits(if ordered & SIGN == 0 { !ordered } else { ordered & !SIGN }))
}

fn one_nan(value: f64) -> f64 {
    if value.is_nan() { f64::from_bits(NAN) } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Codec as _, F64, I64};

    #[test]
    fn numbers_have_the_bytes_of_their_codecs() {
        for n in [i64::MIN, -7, -1, 0, 1, 7, i64::MAX] {
            assert_eq!((&encode_i64(n)[..], decode_i64(encode_i64(n))), (&I64::to_bytes(&n).unwrap()[..], n));
        }
        let floats = [f64::NEG_INFINITY, -1.5, -f64::MIN_POSITIVE, -0.0, 0.0, 1.5, f64::INFINITY, f64::NAN, -f64::NAN];
        for n in floats {
            assert_eq!(encode_f64(n)[..], F64::to_bytes(&n).unwrap());
            let bits = F64::decode(&encode_f64(n)).unwrap().to_bits();
            assert_eq!(decode_f64(encode_f64(n)).to_bits(), bits);
        }
        for bytes in [[0; 8], [0xff; 8], [0, 7, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]] {
            assert_eq!(decode_f64(bytes).to_bits(), F64::decode(&bytes).unwrap().to_bits());
        }
    }
}
