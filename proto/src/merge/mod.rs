//! Merge functions: what a reducing or aggregating state does with an operand.
//!
//! Every function is pure, total and exact to the bit, so that all backends, replicas and SDKs agree
//! whatever the order of their flushes. *Reducing* functions work on 8 bytes: operand, accumulator and result
//! are one number, `i64` and `f64` in their order-preserving codecs, `u64` big endian for the bit functions.
//! *Aggregating* ones keep an accumulator of their own, from which [`MergeFunction::result`] is made.
//!
//! | function | operand | overflow | NaN | identity |
//! |---|---|---|---|---|
//! | `sum_i64` | `i64` | wraps | | 0 |
//! | `sum_f64` | `f64` | ±inf | stays; also `inf - inf` | -0.0 |
//! | `min_i64`, `max_i64` | `i64` | | | the largest, the smallest `i64` |
//! | `min_f64`, `max_f64` | `f64` | | above `+inf` | NaN, `-inf` |
//! | `count` | any | wraps | | 0 |
//! | `bit_or`, `bit_and`, `bit_xor` | `u64` | | | 0, all ones, 0 |
//! | `avg` | `f64` | sum ±inf, count stays at 2^64 - 1 | stays | no bytes |
//! | `avg_i64` | `i64` | sum of 128 bits wraps, count as above | | no bytes |
//! | `count_distinct` | any | the largest `i64` | | no bytes |
//! | `top_k(<k>)` | any | | above `+inf` | no bytes |
//! | `min_by`, `max_by` | packed list: by, value | | above `+inf` | no bytes |
//!
//! A state to which nothing was added is absent; no function makes up a result for it. The formats of
//! accumulators are described in `average.rs`, `registers.rs`, `top_k.rs` and `by.rs`; `testdata/merge.json`
//! and `testdata/aggregates.json` hold the vectors.
//!
//! Invariant: no accumulator and no operand can make a fold fail. An operand that is none of the function's
//! and an accumulator that it did not make count as its identity; a server refuses such operands before
//! ([`MergeFunction::valid_operand`]).

mod average;
mod by;
mod distinct;
mod fold;
mod number;
mod registers;
mod top_k;
mod words;

#[cfg(test)]
mod tests;

use std::{borrow::Cow, fmt};

use fold::Family;
use number::word;
pub use top_k::TopK;

use crate::v1::StateKind;

/// A named function that folds an operand into an accumulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MergeFunction {
    /// Sum of `i64`; wraps at overflow.
    SumI64,
    /// Sum of `f64` in the order of arrival; overflows to an infinity. NaN, once in, stays.
    SumF64,
    /// Smallest `i64`.
    MinI64,
    /// Smallest `f64`; NaN is above `+inf`, so it wins only over nothing. `-0.0` is below `0.0`.
    MinF64,
    /// Largest `i64`.
    MaxI64,
    /// Largest `f64`; NaN is above `+inf`, so, once in, it stays. `-0.0` is below `0.0`.
    MaxF64,
    /// Number of operands, an `i64` that wraps; the operands' content is ignored.
    Count,
    /// Bitwise or of `u64`.
    BitOr,
    /// Bitwise and of `u64`.
    BitAnd,
    /// Bitwise exclusive or of `u64`.
    BitXor,
    /// Mean of `f64`: their sum in the order of arrival over their number. NaN, once in, stays; a sum that
    /// overflows to an infinity is an infinite mean.
    Avg,
    /// Mean of `i64`, an `f64`: their exact sum of 128 bits over their number, both rounded to `f64` before
    /// the division. The sum wraps, the number stays at 2^64 - 1; neither is reached in practice.
    AvgI64,
    /// Number of different operands, an `i64`, estimated with a relative standard error of 1.6 % by
    /// HyperLogLog (Ertl's improved estimator, arXiv:1702.01284); at most 3,072 bytes per state.
    CountDistinct,
    /// The k largest operands in byte order, a packed list in descending order; duplicates are kept.
    TopK(TopK),
    /// Of pairs (by, value), the value with the smallest `by` in byte order; the first of equals.
    MinBy,
    /// Of pairs (by, value), the value with the largest `by` in byte order; the first of equals.
    MaxBy,
}

/// How the bytes of a result are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResultCodec<'a> {
    /// The whole is a value of this codec.
    One(&'a str),
    /// It is a packed list of values of this codec.
    List(&'a str),
}

impl MergeFunction {
    /// Every function, in the order of the documentation; `top_k(10)` stands for every k.
    pub const ALL: [Self; 16] = [
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
        Self::Avg,
        Self::AvgI64,
        Self::CountDistinct,
        Self::TopK(TopK::TEN),
        Self::MinBy,
        Self::MaxBy,
    ];

    /// Returns `top_k(<k>)`; `None` if k is 0 or above [`TopK::K_MAX`].
    pub const fn top_k(k: u16) -> Option<Self> {
        // Option::map is not const.
        match TopK::new(k) {
            Some(k) => Some(Self::TopK(k)),
            None => None,
        }
    }

    /// Finds a function by its name in a state's descriptor.
    pub fn parse(name: &str) -> Option<Self> {
        let found = match name.strip_prefix("top_k(").and_then(|rest| rest.strip_suffix(')')) {
            Some(k) => Self::top_k(k.parse().ok()?),
            None => Self::ALL.into_iter().find(|function| function.name() == name),
        };
        // A number can be written in many ways, a function has one name.
        found.filter(|function| function.name() == name)
    }

    /// Returns the name in a state's descriptor; it is stored and never changes.
    pub fn name(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
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
            Self::Avg => "avg",
            Self::AvgI64 => "avg_i64",
            Self::CountDistinct => "count_distinct",
            Self::TopK(k) => return Cow::Owned(format!("top_k({})", k.get())),
            Self::MinBy => "min_by",
            Self::MaxBy => "max_by",
        })
    }

    /// Returns the kind of state that the function is for: reducing or aggregating.
    pub fn kind(self) -> StateKind {
        match self.family() {
            Family::Words(_) | Family::Count => StateKind::Reducing,
            Family::Mean | Family::MeanI64 | Family::Distinct | Family::TopK(_) | Family::By(_) => {
                StateKind::Aggregating
            }
        }
    }

    /// True if operands may be folded with each other before the accumulator is known: a fold of two is an
    /// operand with the same effect.
    ///
    /// Not so for `sum_f64`, whose result depends on the order of additions, nor where the accumulator is
    /// not an operand (`count` and the aggregating functions but `min_by` and `max_by`); there see
    /// [`merges_exactly`](Self::merges_exactly).
    pub fn associative(self) -> bool {
        match self.family() {
            Family::Words(_) => self != Self::SumF64,
            Family::By(_) => true,
            Family::Count | Family::Mean | Family::MeanI64 | Family::Distinct | Family::TopK(_) => false,
        }
    }

    /// True if accumulators of two runs of operands [`merge`](Self::merge) into the accumulator of both runs
    /// in order, to the bit. Not so for `sum_f64` and `avg`, since additions of `f64` are rounded.
    pub fn merges_exactly(self) -> bool {
        !matches!(self, Self::SumF64 | Self::Avg)
    }

    /// True if the operand means something to the function; others would be folded as its identity.
    pub fn valid_operand(self, operand: &[u8]) -> bool {
        match self.family() {
            Family::Words(_) | Family::Mean | Family::MeanI64 => word(operand).is_some(),
            Family::Count | Family::Distinct => true,
            Family::TopK(_) => top_k::valid_operand(operand),
            Family::By(_) => by::pair(operand).is_some(),
        }
    }

    /// Returns what an operand must be, to be said where one is refused.
    pub fn operand(self) -> &'static str {
        match self {
            Self::SumI64 | Self::MinI64 | Self::MaxI64 | Self::AvgI64 => "8 bytes, codec i64",
            Self::SumF64 | Self::MinF64 | Self::MaxF64 | Self::Avg => "8 bytes, codec f64",
            Self::BitOr | Self::BitAnd | Self::BitXor => "8 bytes, codec u64",
            Self::Count | Self::CountDistinct | Self::TopK(_) => "any bytes",
            Self::MinBy | Self::MaxBy => "a packed list of two: by, value",
        }
    }

    /// Returns the value codec that a state with this function has to have; `None` if it may have any.
    ///
    /// It is the codec of operands, for `min_by` and `max_by` of their values, for `count` of the result.
    pub fn value_codec(self) -> Option<&'static str> {
        match self {
            Self::SumI64 | Self::MinI64 | Self::MaxI64 | Self::Count | Self::AvgI64 => Some("i64"),
            Self::SumF64 | Self::MinF64 | Self::MaxF64 | Self::Avg => Some("f64"),
            Self::BitOr | Self::BitAnd | Self::BitXor => Some("u64"),
            Self::CountDistinct | Self::TopK(_) | Self::MinBy | Self::MaxBy => None,
        }
    }

    /// Returns how a result is read, in a state of this value codec.
    pub fn result_codec(self, value_codec: &str) -> ResultCodec<'_> {
        match self.family() {
            Family::Mean | Family::MeanI64 => ResultCodec::One("f64"),
            Family::Count | Family::Distinct => ResultCodec::One("i64"),
            Family::TopK(_) => ResultCodec::List(value_codec),
            Family::Words(_) | Family::By(_) => ResultCodec::One(value_codec),
        }
    }
}

impl fmt::Display for MergeFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}
