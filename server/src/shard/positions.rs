//! Source positions that are kept in the shard (`recovery: shard`, semantics.md, section 5): up to where of each source
//! the shard holds the effects. Rows of [`TableId::SHARD`], written with the effects in one atomic write, so a shard
//! always knows exactly which records it contains.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use forebay_proto::{reason::Refused, v1};
use v1::ErrorReason as Reason;

use crate::storage::{TableId, Writes};

/// First byte of the keys of their rows.
pub const PREFIX: u8 = b'p';
/// Bytes of a source's name.
const SOURCE_BYTES: std::ops::RangeInclusive<usize> = 1..=255;
/// Bytes of a position: an offset, or the name of a file and an offset.
const POSITION_BYTES_MAX: usize = 1024;
/// Sources that a shard knows positions of. A new lane is told all of them in one message.
const SOURCES_MAX: usize = 16_384;

/// The positions of a shard, by source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Positions(BTreeMap<String, Bytes>);

impl Positions {
    /// Refuses positions that cannot be kept.
    pub fn check(&self, given: &HashMap<String, Bytes>) -> Result<(), Refused> {
        let invalid = |message: String| Err(Refused::new(Reason::FieldInvalid, message));
        for (source, position) in given {
            if !SOURCE_BYTES.contains(&source.len()) {
                return invalid(format!("the name of a source has {} bytes: 1 to 255 are allowed", source.len()));
            }
            if position.len() > POSITION_BYTES_MAX {
                let bytes = position.len();
                return invalid(format!(
                    "the position of source {source:?} has {bytes} bytes: at most {POSITION_BYTES_MAX} are allowed"
                ));
            }
        }
        let new = given.keys().filter(|source| !self.0.contains_key(*source)).count();
        if self.0.len() + new > SOURCES_MAX {
            return invalid(format!("the shard would keep positions of more than {SOURCES_MAX} sources"));
        }
        Ok(())
    }

    /// Adds the rows of positions to a batch.
    pub fn store(given: &HashMap<String, Bytes>, writes: &mut Writes) {
        for (source, position) in given {
            let key = [&[PREFIX], source.as_bytes()].concat();
            writes.put(TableId::SHARD, &key, |out| out.extend_from_slice(position));
        }
    }

    /// Takes up positions that are stored.
    pub fn moved(&mut self, given: &HashMap<String, Bytes>) {
        // A slice would keep the whole message that it came with.
        self.0.extend(given.iter().map(|(source, position)| (source.clone(), Bytes::copy_from_slice(position))));
    }

    /// Reads a row; `None` if it is none.
    pub fn load(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let source = std::str::from_utf8(key.strip_prefix(&[PREFIX])?).ok()?;
        self.0.insert(source.to_owned(), Bytes::copy_from_slice(value));
        Some(())
    }

    /// What shards that become one hold together. A source's records touch only shards of its reader, and all of them
    /// have its position; so whoever has none of a source has seen nothing of it.
    ///
    /// Fails with the source if two shards hold it up to different positions: nobody could say which of its records
    /// are contained.
    pub fn merge(&mut self, other: Self) -> Result<(), String> {
        for (source, position) in other.0 {
            match self.0.get(&source) {
                Some(known) if *known != position => return Err(source),
                Some(_) => {}
                None => drop(self.0.insert(source, position)),
            }
        }
        Ok(())
    }

    /// By source.
    pub fn to_wire(&self) -> HashMap<String, Bytes> {
        self.0.iter().map(|(source, position)| (source.clone(), position.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(of: &[(&str, &'static [u8])]) -> Positions {
        Positions(of.iter().map(|(source, position)| ((*source).to_owned(), Bytes::from_static(position))).collect())
    }

    #[test]
    fn shards_that_become_one_must_agree_on_sources_that_both_know() {
        let mut one = positions(&[("a", b"1"), ("b", b"2")]);
        one.merge(positions(&[("b", b"2"), ("c", b"3")])).unwrap();
        assert_eq!(one, positions(&[("a", b"1"), ("b", b"2"), ("c", b"3")]));
        assert_eq!(one.merge(positions(&[("c", b"4")])), Err("c".to_owned()));
    }

    #[test]
    fn what_cannot_be_kept_is_refused_with_its_size() {
        let given = |source: String, bytes: usize| HashMap::from([(source, Bytes::from(vec![0; bytes]))]);
        let refused = |given| Positions::default().check(&given).unwrap_err().message;
        assert!(refused(given(String::new(), 1)).contains("has 0 bytes"));
        assert!(refused(given("s".repeat(256), 1)).contains("256 bytes"));
        assert!(refused(given("s".into(), 1025)).contains("source \"s\" has 1025 bytes"));
        assert_eq!(Positions::default().check(&given("s".repeat(255), 1024)), Ok(()));
    }

    #[test]
    fn rows_are_read_as_they_were_stored() {
        let mut read = Positions::default();
        assert_eq!(read.load(b"porders-3", b"17"), Some(()));
        assert_eq!(read, positions(&[("orders-3", b"17")]));
        assert_eq!((read.load(b"orders", b""), read.load(b"p\xff", b"")), (None, None));
    }
}
