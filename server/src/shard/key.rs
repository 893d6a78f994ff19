//! The row key: where a piece of state stands in its table.
//!
//! `key group (u16 BE) · varint len(key) · key · varint len(namespace) · namespace · suffix`, so that a
//! key group is one contiguous run and no two addresses collide. The suffix is a map key, a list's
//! append number (u64 BE) or nothing.

use forebay_proto::key_group::KeyGroup;

/// Longest key, namespace or map key, in bytes.
pub const PART_BYTES_MAX: usize = 65_535;

/// Writes the prefix that all rows of a key and namespace share.
pub fn prefix(out: &mut Vec<u8>, group: KeyGroup, key: &[u8], namespace: &[u8]) {
    out.clear();
    out.extend_from_slice(&group.row_prefix());
    part(out, key);
    part(out, namespace);
}

/// Writes the prefix that all elements of a key group's sorted set share: a key's length is never 0.
pub fn group_prefix(out: &mut Vec<u8>, group: KeyGroup) {
    out.clear();
    out.extend_from_slice(&group.row_prefix());
    out.push(0);
}

/// Turns the first key of a run into the first key behind it.
///
/// Correct for any prefix that is not all 0xff; a key group is below 32,768, so none is.
pub fn successor(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

/// A row key taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowKey<'a> {
    /// The key group.
    pub group: u16,
    /// The user's key.
    pub key: &'a [u8],
    /// The namespace.
    pub namespace: &'a [u8],
    /// Map key, element or append number; empty for values.
    pub suffix: &'a [u8],
}

impl RowKey<'_> {
    /// The prefix of all rows of the key.
    pub fn key_prefix(&self) -> Vec<u8> {
        let mut out = self.group.to_be_bytes().to_vec();
        part(&mut out, self.key);
        out
    }

    /// The prefix of all rows of the key and namespace.
    pub fn namespace_prefix(&self) -> Vec<u8> {
        let mut out = self.key_prefix();
        if !self.key.is_empty() {
            part(&mut out, self.namespace);
        }
        out
    }
}

/// Takes a row key apart; `None` if it is not one.
pub fn parse(row_key: &[u8]) -> Option<RowKey<'_>> {
    let (group, rest) = row_key.split_at_checked(2)?;
    if let Some((0, element)) = rest.split_first() {
        // A sorted set.
        return Some(RowKey {
            group: u16::from_be_bytes([group[0], group[1]]),
            key: &[],
            namespace: &[],
            suffix: element,
        });
    }
    let (key, rest) = split_part(rest)?;
    let (namespace, suffix) = split_part(rest)?;
    Some(RowKey { group: u16::from_be_bytes([group[0], group[1]]), key, namespace, suffix })
}

fn part(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
}

fn split_part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut length = 0usize;
    for (index, byte) in bytes.iter().take(3).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return bytes[index + 1..].split_at_checked(length);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use forebay_proto::key_group::{KeyGroup, MaxParallelism};

    use super::*;

    const MAX: MaxParallelism = match MaxParallelism::new(MaxParallelism::LIMIT) {
        Ok(max) => max,
        Err(_) => MaxParallelism::DEFAULT,
    };

    #[test]
    fn a_row_key_comes_apart_as_it_was_put_together() {
        let long = vec![7u8; PART_BYTES_MAX];
        for (key, namespace, suffix) in
            [(&b"k"[..], &b""[..], &b""[..]), (b"key", b"window", b"map key"), (&long, &long, b"\xff")]
        {
            let mut row = Vec::new();
            prefix(&mut row, KeyGroup::new(513, MAX).unwrap(), key, namespace);
            row.extend_from_slice(suffix);
            assert_eq!(parse(&row), Some(RowKey { group: 513, key, namespace, suffix }));
        }
        let mut row = Vec::new();
        group_prefix(&mut row, KeyGroup::new(513, MAX).unwrap());
        row.extend_from_slice(b"\0element");
        assert_eq!(parse(&row), Some(RowKey { group: 513, key: b"", namespace: b"", suffix: b"\0element" }));
    }

    #[test]
    fn truncated_row_keys_are_refused() {
        let mut row = Vec::new();
        prefix(&mut row, KeyGroup::new(1, MAX).unwrap(), b"key", b"namespace");
        for length in 0..row.len() {
            assert_eq!(parse(&row[..length]), None, "{length}");
        }
        assert_eq!(parse(&[0, 0, 0x80, 0x80, 0x80, 0x80]), None);
    }

    #[test]
    fn the_successor_is_behind_every_key_of_the_run() {
        assert_eq!(successor(b"ab"), b"ac");
        assert_eq!(successor(b"a\xff\xff"), b"b");
    }
}
