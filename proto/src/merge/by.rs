//! `min_by` and `max_by`: operands are pairs (by, value), and the one with the smallest or largest `by` stays.
//!
//! A pair is a packed list of exactly two elements. An accumulator is the operand that stays, as it came; the
//! result is its value. `by` is compared as bytes, which for the codecs `i64`, `u64` and `f64` is the order of
//! numbers; a NaN is above `+inf`. Of equals the first stays.

use std::cmp::Ordering;

use crate::packed_list;

/// Splits a pair into `by` and value; anything else is `None`.
pub(super) fn pair(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut elements = packed_list::iter(bytes);
    let found = (elements.next()?, elements.next()?);
    // What breaks off would end the walk as well: lengths and elements must be all there is.
    (found.0.len() + found.1.len() + 8 == bytes.len()).then_some(found)
}

/// Appends `left`, or `right` if its `by` is on the wanted side of the other's; nothing if neither is a pair.
pub(super) fn choose(wanted: Ordering, left: &[u8], right: &[u8], out: &mut Vec<u8>) {
    let chosen = match (pair(left), pair(right)) {
        (Some((left_by, _)), Some((right_by, _))) if right_by.cmp(left_by) == wanted => right,
        (Some(_), _) => left,
        (None, Some(_)) => right,
        (None, None) => return,
    };
    out.extend_from_slice(chosen);
}

pub(super) fn result(accumulator: &[u8]) -> Option<Vec<u8>> {
    pair(accumulator).map(|(_, value)| value.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(wanted: Ordering, pairs: &[(&str, &str)]) -> String {
        let accumulator = pairs.iter().fold(Vec::new(), |accumulator, (by, value)| {
            let mut out = Vec::new();
            choose(wanted, &accumulator, &packed_list::pack([by, value]), &mut out);
            out
        });
        String::from_utf8(result(&accumulator).unwrap()).unwrap()
    }

    #[test]
    fn the_value_of_the_smallest_or_largest_stays() {
        let pairs = [("b", "1"), ("c", "2"), ("a", "3"), ("ab", "4")];
        assert_eq!((chosen(Ordering::Less, &pairs), chosen(Ordering::Greater, &pairs)), ("3".into(), "2".into()));
        assert_eq!(chosen(Ordering::Less, &[("a", "1"), ("", "")]), "");
    }

    #[test]
    fn of_equals_the_first_stays() {
        for wanted in [Ordering::Less, Ordering::Greater] {
            assert_eq!(chosen(wanted, &[("a", "first"), ("a", "second")]), "first");
        }
    }

    #[test]
    fn only_a_list_of_two_is_a_pair() {
        assert_eq!(pair(&packed_list::pack(["by", ""])), Some((&b"by"[..], &b""[..])));
        let three = packed_list::pack(["a", "b", ""]);
        let mut long = packed_list::pack(["a", "b"]);
        long.push(0);
        for bad in [&b""[..], &packed_list::pack(["a"]), &three, &long, &long[..9], &[0xff; 12]] {
            assert_eq!(pair(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn what_is_no_pair_counts_as_nothing() {
        let good = packed_list::pack(["by", "value"]);
        for (left, right, expected) in
            [(&b"x"[..], &good[..], &good[..]), (&good, b"x", &good), (b"x", b"y", b""), (b"", &good, &good)]
        {
            let mut out = Vec::new();
            choose(Ordering::Less, left, right, &mut out);
            assert_eq!(out, expected);
        }
        assert_eq!(result(b"x"), None);
    }
}
