//! The fold of rows: what both backends do with merge operands.
//!
//! Only stored times decide: an accumulator is dropped before an operand iff its deadline has come by
//! the operand's write time. The result carries the header of the last operand. No clock is read, so a
//! fold gives the same row whenever and wherever it is done.
//!
//! Operands that meet before their accumulator is known (a compaction of RocksDB) may be joined. A
//! joined operand keeps the first write time, by which the accumulator is judged, so that joining
//! changes no result: byte 2, zigzag varint first write time, then a row.
//!
//! Invariant: nothing here panics. Backends refuse rows without a valid header when they are written,
//! so one that does not decode in a fold is damage: the fold returns an error, the backend answers
//! `Corrupt`, and nothing is folded around it.

use forebay_proto::merge::MergeFunction;

use super::row::{self, Header, RowError};

const JOINED: u8 = 2;

/// Folds operands, in order, into a row.
pub fn fold<'a>(
    function: MergeFunction,
    existing: Option<&[u8]>,
    operands: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<u8>, RowError> {
    let mut header = Header::default();
    let mut accumulator: Option<Vec<u8>> = None;
    if let Some(existing) = existing {
        let (found, payload) = row::decode(existing)?;
        header = found;
        accumulator = Some(payload.to_vec());
    }
    for operand in operands {
        let operand = Operand::decode(operand)?;
        let kept = accumulator.as_deref().filter(|_| !expired(&header, operand.first_write_ms));
        let mut next = Vec::with_capacity(8);
        function.fold(kept, operand.payload, &mut next);
        header = operand.header;
        accumulator = Some(next);
    }
    let mut out = Vec::with_capacity(32);
    row::encode(&header, &accumulator.ok_or(RowError::Truncated)?, &mut out);
    Ok(out)
}

/// Joins operands, in order, into one operand that folds to the same row; `None` if there is none such.
///
/// There is none if the function is not associative, or if an operand expires before the next one:
/// that would drop the accumulator too, which an operand cannot say.
pub fn join<'a>(function: MergeFunction, operands: impl IntoIterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    if !function.associative() {
        return None;
    }
    let mut operands = operands.into_iter();
    let first = Operand::decode(operands.next()?).ok()?;
    let mut header = first.header;
    let mut joined = Vec::with_capacity(8);
    function.fold(None, first.payload, &mut joined);
    for operand in operands {
        let operand = Operand::decode(operand).ok()?;
        if expired(&header, operand.first_write_ms) {
            return None;
        }
        let mut next = Vec::with_capacity(8);
        function.fold(Some(&joined), operand.payload, &mut next);
        header = operand.header;
        joined = next;
    }
    let mut out = vec![JOINED];
    row::put_signed(first.first_write_ms, &mut out);
    row::encode(&header, &joined, &mut out);
    Some(out)
}

struct Operand<'a> {
    first_write_ms: i64,
    header: Header,
    payload: &'a [u8],
}

impl<'a> Operand<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Self, RowError> {
        let Some((&JOINED, mut rest)) = bytes.split_first() else {
            let (header, payload) = row::decode(bytes)?;
            return Ok(Self { first_write_ms: header.write_ms, header, payload });
        };
        let first_write_ms = row::take_signed(&mut rest)?;
        let (header, payload) = row::decode(rest)?;
        Ok(Self { first_write_ms, header, payload })
    }
}

fn expired(accumulator: &Header, write_ms: i64) -> bool {
    accumulator.deadline_ms.is_some_and(|deadline_ms| deadline_ms <= write_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operand(write_ms: i64, deadline_ms: Option<i64>, value: u64) -> Vec<u8> {
        let mut out = Vec::new();
        row::encode(&Header { write_ms, deadline_ms, version: None }, &value.to_be_bytes(), &mut out);
        out
    }

    fn bits(row: &[u8]) -> (Header, u64) {
        let (header, payload) = row::decode(row).unwrap();
        (header, u64::from_be_bytes(payload.try_into().unwrap()))
    }

    #[test]
    fn the_result_carries_the_header_of_the_last_operand() {
        let (a, b) = (operand(1, Some(9), 0b01), operand(5, Some(20), 0b10));
        let row = fold(MergeFunction::BitOr, Some(&a), [&b[..]]).unwrap();
        assert_eq!(bits(&row), (Header { write_ms: 5, deadline_ms: Some(20), version: None }, 0b11));
    }

    #[test]
    fn an_accumulator_is_dropped_only_when_its_deadline_has_come() {
        let base = operand(1, Some(10), 0b01);
        let folded =
            |write_ms| bits(&fold(MergeFunction::BitOr, Some(&base), [&operand(write_ms, None, 0b10)[..]]).unwrap()).1;
        assert_eq!(folded(9), 0b11);
        assert_eq!(folded(10), 0b10);
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let good = operand(1, None, 1);
        assert!(fold(MergeFunction::BitOr, Some(b""), [&good[..]]).is_err());
        assert!(fold(MergeFunction::BitOr, None, [&good[..], b"\x0fjunk"]).is_err());
        assert!(fold(MergeFunction::BitOr, None, [&b"\x02"[..]]).is_err());
        assert!(fold(MergeFunction::BitOr, None, []).is_err());
        assert_eq!(join(MergeFunction::BitOr, [&good[..], b""]), None);
        assert_eq!(join(MergeFunction::SumF64, [&good[..], &good]), None);
    }

    #[test]
    fn joining_changes_no_result() {
        let deadlines = [None, Some(2), Some(4), Some(6)];
        let mut joins = 0;
        for code in 0..4_usize.pow(4) {
            let rows: Vec<Vec<u8>> =
                (0..4_u32).map(|i| operand(i64::from(i) * 2, deadlines[code / 4_usize.pow(i) % 4], 1 << i)).collect();
            let rows: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
            let plain = fold(MergeFunction::BitXor, Some(rows[0]), rows[1..].iter().copied()).unwrap();
            for range in [1..3, 2..4, 1..4] {
                let Some(joined) = join(MergeFunction::BitXor, rows[range.clone()].iter().copied()) else { continue };
                joins += 1;
                let operands = [&rows[1..range.start], &[&joined], &rows[range.end..]].concat();
                assert_eq!(fold(MergeFunction::BitXor, Some(rows[0]), operands.clone()).unwrap(), plain);
                if range.end == 3
                    && let Some(twice) = join(MergeFunction::BitXor, operands)
                {
                    assert_eq!(fold(MergeFunction::BitXor, Some(rows[0]), [&twice[..]]).unwrap(), plain);
                }
            }
        }
        assert!(joins > 100, "{joins}");
    }
}
