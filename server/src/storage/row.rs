//! The header that every row and every merge operand carries in front of its payload.
//!
//! ```text
//! byte 0          bits 0-3: format, 1 · bit 4: has a deadline · bit 5: has a version · bits 6-7: zero
//! zigzag varint   write time, ms
//! zigzag varint   deadline, ms, if flagged
//! varint          version, if flagged
//! rest            payload
//! ```
//!
//! Invariant: a format that this code does not know is an error, never a guess. Rows of
//! [`TableId::SHARD`](super::TableId::SHARD) have no header.

const FORMAT: u8 = 1;
const FORMAT_MASK: u8 = 0x0f;
const HAS_DEADLINE: u8 = 1 << 4;
const HAS_VERSION: u8 = 1 << 5;

/// What a row says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// When the row was written, by the clock of its shard, in ms since the epoch.
    pub write_ms: i64,
    /// When the row expires; `None` if it never does.
    pub deadline_ms: Option<i64>,
    /// What a compare-and-set compares with; only values have one.
    pub version: Option<u64>,
}

/// Why bytes are not a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// Written by a newer server, or no row at all.
    #[error("row format {0:#04x} is unknown to this server")]
    Format(u8),
    /// The bytes end inside the header.
    #[error("row ends inside its header")]
    Truncated,
    /// A number of the header has more than 64 bits.
    #[error("row header holds a number of more than 64 bits")]
    Overlong,
}

/// Appends a row to `out`.
pub fn encode(header: &Header, payload: &[u8], out: &mut Vec<u8>) {
    encode_header(header, out);
    out.extend_from_slice(payload);
}

/// Appends a header to `out`; what is appended next is the payload.
pub fn encode_header(header: &Header, out: &mut Vec<u8>) {
    let mut first = FORMAT;
    if header.deadline_ms.is_some() {
        first |= HAS_DEADLINE;
    }
    if header.version.is_some() {
        first |= HAS_VERSION;
    }
    out.push(first);
    put_signed(header.write_ms, out);
    if let Some(deadline_ms) = header.deadline_ms {
        put_signed(deadline_ms, out);
    }
    if let Some(version) = header.version {
        put_unsigned(version, out);
    }
}

/// Splits a row into its header and its payload.
pub fn decode(row: &[u8]) -> Result<(Header, &[u8]), RowError> {
    let mut rest = row;
    let header = take_header(&mut rest)?;
    Ok((header, rest))
}

/// Returns the header and where the payload starts, for callers that slice a `Bytes`.
pub fn decode_offset(row: &[u8]) -> Result<(Header, usize), RowError> {
    let (header, payload) = decode(row)?;
    Ok((header, row.len() - payload.len()))
}

/// True if the row has a deadline at or before a time; bytes that are no row have none.
pub fn expired_by(row: &[u8], until_ms: i64) -> bool {
    // The first byte tells at once of most rows that they never expire.
    row.first().is_some_and(|first| first & HAS_DEADLINE != 0)
        && decode(row).is_ok_and(|(header, _)| header.deadline_ms.is_some_and(|deadline_ms| deadline_ms <= until_ms))
}

fn take_header(rest: &mut &[u8]) -> Result<Header, RowError> {
    let first = *rest.split_off_first().ok_or(RowError::Truncated)?;
    if first & FORMAT_MASK != FORMAT || first & !(FORMAT_MASK | HAS_DEADLINE | HAS_VERSION) != 0 {
        return Err(RowError::Format(first));
    }
    let write_ms = take_signed(rest)?;
    let deadline_ms = if first & HAS_DEADLINE != 0 { Some(take_signed(rest)?) } else { None };
    let version = if first & HAS_VERSION != 0 { Some(take_unsigned(rest)?) } else { None };
    Ok(Header { write_ms, deadline_ms, version })
}

/// Appends a zigzag varint.
pub(super) fn put_signed(value: i64, out: &mut Vec<u8>) {
    put_unsigned(((value << 1) ^ (value >> 63)).cast_unsigned(), out);
}

/// Takes a zigzag varint off the front.
pub(super) fn take_signed(rest: &mut &[u8]) -> Result<i64, RowError> {
    let value = take_unsigned(rest)?;
    Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
}

/// Appends a varint.
pub(super) fn put_unsigned(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Takes a varint off the front.
pub(super) fn take_unsigned(rest: &mut &[u8]) -> Result<u64, RowError> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *rest.split_off_first().ok_or(RowError::Truncated)?;
        if shift == 63 && byte > 1 {
            return Err(RowError::Overlong);
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(RowError::Overlong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers() -> impl Iterator<Item = Header> {
        let times = [0, 1, -1, 63, 64, -64, -65, 1_790_000_000_000, i64::MIN, i64::MAX];
        let versions = [0, 1, 127, 128, 16_384, u64::MAX];
        times.into_iter().flat_map(move |write_ms| {
            let deadlines = times.into_iter().map(Some).chain([None]);
            deadlines.flat_map(move |deadline_ms| {
                let versions = versions.into_iter().map(Some).chain([None]);
                versions.map(move |version| Header { write_ms, deadline_ms, version })
            })
        })
    }

    #[test]
    fn every_header_comes_back_with_its_payload() {
        for header in headers() {
            for payload in [&b""[..], b"p", &[0xff; 300]] {
                let mut row = Vec::new();
                encode(&header, payload, &mut row);
                assert_eq!(decode(&row), Ok((header, payload)));
                let (again, offset) = decode_offset(&row).unwrap();
                assert_eq!((again, &row[offset..]), (header, payload));
            }
        }
    }

    #[test]
    fn a_header_cut_short_is_refused() {
        for header in headers() {
            let mut row = Vec::new();
            encode(&header, b"", &mut row);
            for length in 0..row.len() {
                assert_eq!(decode(&row[..length]), Err(RowError::Truncated), "{header:?} cut to {length}");
            }
        }
    }

    #[test]
    fn an_unknown_format_is_refused() {
        for first in 0..=u8::MAX {
            let known = first & FORMAT_MASK == FORMAT && first < 0x40;
            let row = [first, 2, 2, 2, b'p'];
            assert_eq!(decode(&row).is_ok(), known, "{first:#04x}");
            assert!(known || decode(&row) == Err(RowError::Format(first)));
        }
    }

    #[test]
    fn a_number_of_more_than_64_bits_is_refused() {
        let mut row = vec![FORMAT];
        row.extend([0xff; 9]);
        assert_eq!(decode(&[&row[..], &[0x02]].concat()), Err(RowError::Overlong));
        assert_eq!(decode(&[&row[..], &[0x81, 0]].concat()), Err(RowError::Overlong));
        assert_eq!(decode(&[&row[..], &[0x01]].concat()).map(|(header, _)| header.write_ms), Ok(i64::MIN));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..20_000 {
            let mut row = Vec::new();
            for _ in 0..(random >> 60) + 1 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                row.push((random >> 32).to_le_bytes()[0]);
            }
            row[0] = FORMAT | (row[0] & (HAS_DEADLINE | HAS_VERSION));
            if let Ok((header, payload)) = decode(&row) {
                let mut again = Vec::new();
                encode(&header, payload, &mut again);
                assert!(again.len() <= row.len());
                assert_eq!(decode(&again), Ok((header, payload)));
            }
        }
    }
}
