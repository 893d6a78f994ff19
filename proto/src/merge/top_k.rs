//! `top_k(<k>)`: the k largest operands, duplicates included.
//!
//! Accumulator and result are the same: a packed list of at most k operands, the largest first. Operands are
//! compared as bytes, which for the codecs `i64`, `u64` and `f64` is the order of numbers; a NaN is above
//! `+inf`. What is no such list counts as the empty one, which is no bytes.

use crate::packed_list;

/// How many operands `top_k` keeps: 1 to 1,000.
///
/// A state may grow to k times its largest operand, and each fold copies it: operands are meant to be small.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TopK {
    k: u16,
}

impl TopK {
    /// The largest k.
    pub const K_MAX: u16 = 1_000;

    /// Stands for every k in [`MergeFunction::ALL`](super::MergeFunction::ALL).
    pub(super) const TEN: Self = Self { k: 10 };

    /// Returns `None` if k is 0 or above [`K_MAX`](Self::K_MAX).
    pub const fn new(k: u16) -> Option<Self> {
        if k == 0 || k > Self::K_MAX { None } else { Some(Self { k }) }
    }

    /// Returns k.
    pub const fn get(self) -> u16 {
        self.k
    }

    pub(super) fn fold(self, accumulator: &[u8], operand: &[u8], out: &mut Vec<u8>) {
        let operand = Some(operand).filter(|operand| valid_operand(operand));
        self.join(self.elements(accumulator), operand, out);
    }

    pub(super) fn merge(self, left: &[u8], right: &[u8], out: &mut Vec<u8>) {
        self.join(self.elements(left), self.elements(right), out);
    }

    pub(super) fn result(self, accumulator: &[u8]) -> Option<Vec<u8>> {
        let mut elements = self.elements(accumulator).peekable();
        elements.peek()?;
        Some(packed_list::pack(elements))
    }

    /// Appends the k largest of two descending runs.
    fn join<'a>(
        self,
        left: impl Iterator<Item = &'a [u8]>,
        right: impl IntoIterator<Item = &'a [u8]>,
        out: &mut Vec<u8>,
    ) {
        let (mut left, mut right) = (left.peekable(), right.into_iter().peekable());
        for _ in 0..self.k {
            let next = match (left.peek(), right.peek()) {
                (Some(a), Some(b)) if b > a => right.next(),
                (None, _) => right.next(),
                (Some(_), _) => left.next(),
            };
            let Some(next) = next else { return };
            packed_list::push(out, next);
        }
    }

    /// Returns the operands of an accumulator; none if it is damaged.
    fn elements(self, accumulator: &[u8]) -> packed_list::Iter<'_> {
        let sound = packed_list::validate(accumulator).is_ok_and(|elements| elements <= self.k.into())
            && packed_list::iter(accumulator).is_sorted_by(|a, b| a >= b);
        packed_list::iter(if sound { accumulator } else { b"" })
    }
}

/// True if the operand fits an element of a packed list, as whatever a message can carry does.
pub(super) fn valid_operand(operand: &[u8]) -> bool {
    u32::try_from(operand.len()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn top(k: u16, operands: &[&str]) -> Vec<String> {
        let k = TopK::new(k).unwrap();
        let accumulator = operands.iter().fold(Vec::new(), |accumulator, operand| {
            let mut out = Vec::new();
            k.fold(&accumulator, operand.as_bytes(), &mut out);
            out
        });
        let result = k.result(&accumulator).unwrap();
        assert_eq!(result, accumulator);
        packed_list::iter(&result).map(|element| String::from_utf8(element.to_vec()).unwrap()).collect()
    }

    #[test]
    fn the_largest_stay_in_descending_order() {
        assert_eq!(top(3, &["b", "d", "a", "c", "e"]), ["e", "d", "c"]);
        assert_eq!(top(9, &["b", "", "ab", "a"]), ["b", "ab", "a", ""]);
        assert_eq!(top(1, &["a", "b", "a"]), ["b"]);
    }

    #[test]
    fn duplicates_are_kept() {
        assert_eq!(top(4, &["a", "b", "b", "a", "b"]), ["b", "b", "b", "a"]);
    }

    #[test]
    fn k_is_from_1_to_1000() {
        assert_eq!([0, 1, 1_000, 1_001, u16::MAX].map(|k| TopK::new(k).is_some()), [false, true, true, false, false]);
        let numbers: Vec<String> = (0..2_000).map(|n| format!("{n:04}")).collect();
        let expected: Vec<String> = numbers.iter().rev().take(1_000).cloned().collect();
        assert_eq!(top(1_000, &numbers.iter().map(String::as_str).collect::<Vec<_>>()), expected);
    }

    #[test]
    fn a_list_that_top_k_did_not_make_counts_as_empty() {
        let k = TopK::new(2).unwrap();
        for bad in [packed_list::pack(["a", "b"]), packed_list::pack(["c", "b", "a"]), b"\x09junk".to_vec()] {
            assert_eq!(k.result(&bad), None);
            let mut out = Vec::new();
            k.fold(&bad, b"x", &mut out);
            assert_eq!(out, packed_list::pack(["x"]));
        }
        assert_eq!(k.result(b""), None);
    }
}
