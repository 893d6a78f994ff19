//! Multimap states: list rows under a map key.
//!
//! The map key is written so that no entry's rows lie among another's: 0x00 becomes 0x00 0xff, and 0x00 0x00
//! ends it. Entries come in the byte order of their map keys.

use std::ops::ControlFlow;

use forebay_proto::{
    packed::{AnswersBuilder, Op},
    reason::Refused,
};

use super::{Rows, State, page::Page};
use crate::shard::key;

/// Completes the prefix of a key and namespace to that of one entry.
pub fn entry(prefix: &mut Vec<u8>, map_key: &[u8]) {
    escape(prefix, map_key);
    prefix.extend_from_slice(&[0, 0]);
}

/// Reads map keys from the operation's map key to its value, exclusive, each of which may be empty.
pub(super) fn keys(
    rows: &Rows<'_>,
    state: &State,
    prefix: &[u8],
    op: &Op<'_>,
    answers: &mut AnswersBuilder,
) -> Result<(), Refused> {
    let mut page = Page::begin(state, op.limit, answers);
    let mut start = prefix.to_vec();
    escape(&mut start, op.map_key);
    let mut end = prefix.to_vec();
    if op.value.is_empty() {
        end = key::successor(prefix);
    } else {
        escape(&mut end, op.value);
    }
    loop {
        let mut next = None;
        rows.scan(state, &start, &end, &mut |row_key, _, _| {
            let suffix = &row_key[prefix.len()..];
            let (map_key, length) = unescape(suffix).ok_or_else(|| {
                super::malformed(format!("a row of state {:?} has no map key: it is damaged", state.name()))
            })?;
            if page.push(&[&map_key], answers)?.is_continue() {
                // Behind all elements of the entry: they need not be looked at.
                next = Some(key::successor(&row_key[..prefix.len() + length]));
            }
            Ok(ControlFlow::Break(()))
        })?;
        match next {
            Some(next) => start = next,
            None => return Ok(()),
        }
    }
}

/// Takes an escaped map key and its end off the front: the map key and the bytes it took.
pub fn unescape(suffix: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut map_key = Vec::new();
    let mut bytes = suffix.iter().enumerate();
    while let Some((_, byte)) = bytes.next() {
        match (byte, *byte == 0) {
            (_, false) => map_key.push(*byte),
            (_, true) => match bytes.next()? {
                (_, 0xff) => map_key.push(0),
                (at, 0) => return Some((map_key, at + 1)),
                _ => return None,
            },
        }
    }
    None
}

fn escape(out: &mut Vec<u8>, map_key: &[u8]) {
    for byte in map_key {
        out.push(*byte);
        if *byte == 0 {
            out.push(0xff);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn map_keys_come_back_and_keep_their_order() {
        let keys: [&[u8]; 8] = [b"", b"\0", b"\0\0", b"\0\xff", b"a", b"a\0", b"a\0b", b"a\x01"];
        let mut escaped = Vec::new();
        for key in keys {
            let mut out = Vec::new();
            entry(&mut out, key);
            assert_eq!(unescape(&[&out[..], b"rest"].concat()), Some((key.to_vec(), out.len())));
            escaped.push(out);
        }
        assert!(escaped.is_sorted());
        assert_eq!(unescape(b"cut"), None);
        assert_eq!(unescape(b"a\0\x07"), None);
    }

    #[test]
    fn no_entry_lies_among_another_s_rows() {
        let prefix_of = |key: &[u8]| {
            let mut out = Vec::new();
            entry(&mut out, key);
            out
        };
        for (short, long) in [(&b"a"[..], &b"a\0"[..]), (b"", b"\0\0"), (b"a", b"ab")] {
            assert!(!prefix_of(long).starts_with(&prefix_of(short)));
        }
    }
}
