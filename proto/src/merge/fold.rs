//! Folding, merging and results: which file does it for which function.

use std::cmp::Ordering;

use super::{
    MergeFunction, TopK, average, by, distinct,
    number::{Word, encode_i64, word},
    words,
};

impl MergeFunction {
    /// Appends the accumulator after `operand` to `out`.
    ///
    /// No accumulator counts as the identity, so the first fold of a reducing function (but `count`) gives
    /// the operand itself. Every NaN comes out as the one positive quiet NaN, since its sign and payload
    /// differ between processors.
    pub fn fold(self, accumulator: Option<&[u8]>, operand: &[u8], out: &mut Vec<u8>) {
        // No function makes an empty accumulator but as its identity.
        let accumulator = accumulator.unwrap_or_default();
        match self.family() {
            Family::Words(function) => out.extend_from_slice(&function(word(accumulator), word(operand))),
            Family::Count => out.extend_from_slice(&words::sum_i64(word(accumulator), Some(encode_i64(1)))),
            Family::Mean => average::fold::<f64>(accumulator, operand, out),
            Family::MeanI64 => average::fold::<i128>(accumulator, operand, out),
            Family::Distinct => distinct::fold(accumulator, operand, out),
            Family::TopK(k) => k.fold(accumulator, operand, out),
            Family::By(wanted) => by::choose(wanted, accumulator, operand, out),
        }
    }

    /// Appends the accumulator of all operands of `left` and then all of `right` to `out`, as when windows
    /// are merged; float sums are added as they are ([`merges_exactly`](Self::merges_exactly)).
    pub fn merge(self, left: &[u8], right: &[u8], out: &mut Vec<u8>) {
        match self.family() {
            Family::Words(function) => out.extend_from_slice(&function(word(left), word(right))),
            Family::Count => out.extend_from_slice(&words::sum_i64(word(left), word(right))),
            Family::Mean => average::merge::<f64>(left, right, out),
            Family::MeanI64 => average::merge::<i128>(left, right, out),
            Family::Distinct => distinct::merge(left, right, out),
            Family::TopK(k) => k.merge(left, right, out),
            Family::By(wanted) => by::choose(wanted, left, right, out),
        }
    }

    /// Returns what users get to see; for reducing functions the accumulator itself.
    ///
    /// `None` if the accumulator holds no operand: it is damaged, or only operands that were not
    /// [valid](Self::valid_operand) came. To a user that is an absent state.
    pub fn result(self, accumulator: &[u8]) -> Option<Vec<u8>> {
        match self.family() {
            Family::Words(_) | Family::Count => word(accumulator).map(Vec::from),
            Family::Mean => average::result::<f64>(accumulator),
            Family::MeanI64 => average::result::<i128>(accumulator),
            Family::Distinct => distinct::result(accumulator),
            Family::TopK(k) => k.result(accumulator),
            Family::By(_) => by::result(accumulator),
        }
    }

    /// Returns which of the files folds it, and with what.
    pub(super) fn family(self) -> Family {
        match self {
            Self::SumI64 => Family::Words(words::sum_i64),
            Self::SumF64 => Family::Words(words::sum_f64),
            Self::MinI64 => Family::Words(words::min_i64),
            Self::MinF64 => Family::Words(words::min_f64),
            Self::MaxI64 => Family::Words(words::max_i64),
            Self::MaxF64 => Family::Words(words::max_f64),
            Self::Count => Family::Count,
            Self::BitOr => Family::Words(words::bit_or),
            Self::BitAnd => Family::Words(words::bit_and),
            Self::BitXor => Family::Words(words::bit_xor),
            Self::Avg => Family::Mean,
            Self::AvgI64 => Family::MeanI64,
            Self::CountDistinct => Family::Distinct,
            Self::TopK(k) => Family::TopK(k),
            Self::MinBy => Family::By(Ordering::Less),
            Self::MaxBy => Family::By(Ordering::Greater),
        }
    }
}

/// Functions that are folded alike.
pub(super) enum Family {
    Words(fn(Word, Word) -> [u8; 8]),
    Count,
    Mean,
    MeanI64,
    Distinct,
    TopK(TopK),
    /// Which side of the other's the `by` must be to win.
    By(Ordering),
}
