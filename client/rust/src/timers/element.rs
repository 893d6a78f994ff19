//! A timer as an element of a sorted set: `timestamp · varint len(key) · key · namespace`.
//!
//! The timestamp is in the order-preserving codec of `i64`, so that elements are in the order of time, and
//! timers of one time in that of their keys. The varint is that of row keys: 7 bits a byte, lowest first.

/// Bytes of the timestamp.
const TIMESTAMP_BYTES: usize = 8;

/// A timer as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Element<'a> {
    pub(super) timestamp: i64,
    pub(super) key: &'a [u8],
    pub(super) namespace: &'a [u8],
}

impl<'a> Element<'a> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(TIMESTAMP_BYTES + 3 + self.key.len() + self.namespace.len());
        out.extend_from_slice(&encode_timestamp(self.timestamp));
        let mut length = self.key.len();
        while length >= 0x80 {
            out.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(self.key);
        out.extend_from_slice(self.namespace);
        out
    }

    /// Reads an element; `None` if it is no timer.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (timestamp, mut rest) = bytes.split_first_chunk::<TIMESTAMP_BYTES>()?;
        let mut length = 0_usize;
        for shift in [0, 7, 14] {
            let (byte, later) = rest.split_first()?;
            rest = later;
            length |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let (key, namespace) = rest.split_at_checked(length)?;
                return Some(Self { timestamp: decode_timestamp(*timestamp), key, namespace });
            }
        }
        None
    }
}

/// The bytes below which all elements up to and with this time are; `None` if all elements are.
pub(super) fn end_of(timestamp: i64) -> Option<[u8; TIMESTAMP_BYTES]> {
    timestamp.checked_add(1).map(encode_timestamp)
}

fn encode_timestamp(timestamp: i64) -> [u8; TIMESTAMP_BYTES] {
    (timestamp.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

fn decode_timestamp(bytes: [u8; TIMESTAMP_BYTES]) -> i64 {
    (u64::from_be_bytes(bytes) ^ (1 << 63)).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timer<'a>(timestamp: i64, key: &'a [u8], namespace: &'a [u8]) -> Element<'a> {
        Element { timestamp, key, namespace }
    }

    #[test]
    fn a_timer_comes_back_as_it_went_in() {
        let long = vec![7; 65_535];
        for element in [timer(5, b"key", b"window"), timer(i64::MIN, b"k", b""), timer(i64::MAX, &long, b"\0")] {
            assert_eq!(Element::decode(&element.encode()), Some(element));
        }
        let bytes = timer(-1, b"ab", b"c").encode();
        assert_eq!(bytes, [0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, b'a', b'b', b'c']);
    }

    #[test]
    fn timers_are_in_the_order_of_time() {
        let mut last = Vec::new();
        for timestamp in [i64::MIN, -1, 0, 1, 1_000, i64::MAX] {
            let bytes = timer(timestamp, b"z", b"").encode();
            assert!(bytes > last);
            let end = end_of(timestamp);
            assert!(end.is_none_or(|end| bytes.as_slice() < &end[..]));
            assert!(last.is_empty() || end.is_none_or(|end| last.as_slice() < &end[..]));
            last = bytes;
        }
        assert!(timer(2, b"a", b"").encode().as_slice() >= &end_of(1).unwrap()[..]);
    }

    #[test]
    fn what_is_no_timer_is_none() {
        let bytes = timer(5, b"key", b"").encode();
        for end in 0..bytes.len() {
            assert_eq!(Element::decode(&bytes[..end]), None, "{end}");
        }
        assert_eq!(Element::decode(&[0xff; 20]), None);
    }
}
