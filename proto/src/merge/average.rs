//! `avg` and `avg_i64`: accumulators are a sum and a count, the result is their quotient, an `f64`.
//!
//! An accumulator is the sum (`f64` by its codec, or `i128` big endian in two's complement), then the count
//! (`u64` big endian). No operand, no bytes: whatever else is of another length, or has a count of 0, counts
//! as that.

use super::number::{decode_f64, decode_i64, encode_f64, word};

/// What operands of 8 bytes add up to.
pub(super) trait Sum: Copy {
    /// What leaves every sum as it is.
    const ZERO: Self;
    fn of(operand: [u8; 8]) -> Self;
    fn plus(self, other: Self) -> Self;
    fn as_f64(self) -> f64;
    fn read(bytes: &[u8]) -> Option<Self>;
    fn write(self, out: &mut Vec<u8>);
}

impl Sum for f64 {
    const ZERO: Self = -0.0;
    fn of(operand: [u8; 8]) -> Self {
        decode_f64(operand)
    }
    fn plus(self, other: Self) -> Self {
        self + other
    }
    fn as_f64(self) -> f64 {
        self
    }
    fn read(bytes: &[u8]) -> Option<Self> {
        word(bytes).map(decode_f64)
    }
    fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&encode_f64(self));
    }
}

impl Sum for i128 {
    const ZERO: Self = 0;
    fn of(operand: [u8; 8]) -> Self {
        decode_i64(operand).into()
    }
    fn plus(self, other: Self) -> Self {
        self.wrapping_add(other)
    }
    fn as_f64(self) -> f64 {
        self as f64
    }
    fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self::from_be_bytes)
    }
    fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_be_bytes());
    }
}

pub(super) fn fold<S: Sum>(accumulator: &[u8], operand: &[u8], out: &mut Vec<u8>) {
    let one = word(operand).map_or(Total::<S>::EMPTY, |operand| Total { sum: S::of(operand), count: 1 });
    Total::read(accumulator).plus(one).write(out);
}

pub(super) fn merge<S: Sum>(left: &[u8], right: &[u8], out: &mut Vec<u8>) {
    Total::<S>::read(left).plus(Total::read(right)).write(out);
}

/// Returns sum / count, each rounded to the nearest `f64` before the division and the quotient once more.
pub(super) fn result<S: Sum>(accumulator: &[u8]) -> Option<Vec<u8>> {
    let Total { sum, count } = Total::<S>::read(accumulator);
    (count > 0).then(|| encode_f64(sum.as_f64() / count as f64).to_vec())
}

struct Total<S> {
    sum: S,
    count: u64,
}

impl<S: Sum> Total<S> {
    const EMPTY: Self = Self { sum: S::ZERO, count: 0 };

    fn read(accumulator: &[u8]) -> Self {
        let parts = accumulator.split_last_chunk();
        let found = parts.and_then(|(sum, count)| Some(Self { sum: S::read(sum)?, count: u64::from_be_bytes(*count) }));
        found.filter(|total| total.count > 0).unwrap_or(Self::EMPTY)
    }

    fn plus(self, other: Self) -> Self {
        // Saturates, so that a count never comes back to 0, which is empty.
        Self { sum: self.sum.plus(other.sum), count: self.count.saturating_add(other.count) }
    }

    fn write(self, out: &mut Vec<u8>) {
        if self.count > 0 {
            self.sum.write(out);
            out.extend_from_slice(&self.count.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::number::encode_i64, *};

    fn mean<S: Sum>(operands: impl IntoIterator<Item = [u8; 8]>) -> f64 {
        let accumulator = operands.into_iter().fold(Vec::new(), |accumulator, operand| {
            let mut out = Vec::new();
            fold::<S>(&accumulator, &operand, &mut out);
            out
        });
        decode_f64(result::<S>(&accumulator).unwrap().try_into().unwrap())
    }

    #[test]
    fn a_mean_is_the_sum_over_the_count() {
        assert_eq!(mean::<f64>([1.0, 2.0, 4.5].map(encode_f64)), 2.5);
        assert_eq!(mean::<i128>([1, 2, -6].map(encode_i64)), -1.0);
        assert_eq!(mean::<f64>([encode_f64(-0.0)]).to_bits(), (-0.0_f64).to_bits());
    }

    #[test]
    fn integers_are_summed_beyond_64_bits() {
        assert_eq!(mean::<i128>([i64::MAX; 4].map(encode_i64)), i64::MAX as f64);
        assert_eq!(mean::<i128>([i64::MIN, i64::MIN, i64::MAX].map(encode_i64)), (i64::MIN as f64) / 3.0);
        let big = 1 << 60;
        assert_eq!(mean::<i128>([big, 1, -big].map(encode_i64)), 1.0 / 3.0);
    }

    #[test]
    fn floats_are_summed_in_order_and_keep_nan_and_infinity() {
        assert_eq!(mean::<f64>([1e100, 1.0, -1e100].map(encode_f64)), 0.0);
        assert_eq!(mean::<f64>([f64::MAX, f64::MAX].map(encode_f64)), f64::INFINITY);
        assert!(mean::<f64>([f64::NAN, 1.0].map(encode_f64)).is_nan());
        assert!(mean::<f64>([f64::INFINITY, f64::NEG_INFINITY, 1.0].map(encode_f64)).is_nan());
    }

    #[test]
    fn what_holds_no_operand_has_no_mean() {
        for nothing in [&b""[..], &[0; 16], &[0; 24], &[1; 17], b"short"] {
            assert_eq!((result::<f64>(nothing), result::<i128>(nothing)), (None, None));
            let mut out = Vec::new();
            fold::<f64>(nothing, b"no word", &mut out);
            assert_eq!(out, b"");
        }
    }

    #[test]
    fn a_full_count_stays() {
        let mut full = Vec::new();
        Total::<i128> { sum: i128::MAX, count: u64::MAX }.write(&mut full);
        let mut out = Vec::new();
        fold::<i128>(&full, &encode_i64(1), &mut out);
        let total = Total::<i128>::read(&out);
        assert_eq!((total.sum, total.count), (i128::MIN, u64::MAX));
    }
}
