//! Request ids of unary writes: a retry within ten minutes is answered and not applied again.

use std::collections::{BTreeMap, HashMap};

use crate::storage::{TableId, Writes};

/// How long an id is remembered, in milliseconds of the shard's clock.
pub const WINDOW_MS: i64 = 600_000;
/// Longest id, in bytes.
pub const ID_BYTES_MAX: usize = 64;

/// The ids of the last ten minutes.
#[derive(Debug, Default)]
pub struct RequestIds {
    verdicts: HashMap<String, Vec<u8>>,
    by_time: BTreeMap<(i64, String), ()>,
}

impl RequestIds {
    /// The verdicts of the write with this id, one per operation or none at all; `None` if it was not applied.
    pub fn applied_with(&self, id: &str) -> Option<&[u8]> {
        self.verdicts.get(id).map(Vec::as_slice)
    }

    /// Adds an id with its verdicts to a batch, and the removal of those that are too old.
    pub fn store(&mut self, id: &str, now_ms: i64, verdicts: &[u8], writes: &mut Writes) {
        put(id, now_ms, verdicts, writes);
        while let Some(((at_ms, old), ())) = self.by_time.first_key_value() {
            if now_ms.saturating_sub(*at_ms) <= WINDOW_MS {
                break;
            }
            writes.delete(TableId::SHARD, &key(old));
            self.verdicts.remove(old);
            self.by_time.pop_first();
        }
    }

    /// The ids: when each was applied, and its verdicts.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i64, &[u8])> {
        self.by_time.keys().map(|(at_ms, id)| (id.as_str(), *at_ms, self.applied_with(id).unwrap_or_default()))
    }

    /// Counts an id as applied: once it is stored.
    pub fn applied(&mut self, id: &str, now_ms: i64, verdicts: &[u8]) {
        self.verdicts.insert(id.to_owned(), verdicts.to_vec());
        self.by_time.insert((now_ms, id.to_owned()), ());
    }
}

/// Adds an id with its verdicts to a batch.
pub fn put(id: &str, at_ms: i64, verdicts: &[u8], writes: &mut Writes) {
    writes.put(TableId::SHARD, &key(id), |out| {
        out.extend_from_slice(&at_ms.to_be_bytes());
        out.extend_from_slice(verdicts);
    });
}

/// Reads a stored id: when it was applied, and its verdicts.
pub fn parse<'a>(key: &'a [u8], value: &'a [u8]) -> Option<(&'a str, i64, &'a [u8])> {
    let id = std::str::from_utf8(key.get(1..)?).ok()?;
    let (at_ms, verdicts) = value.split_first_chunk()?;
    Some((id, i64::from_be_bytes(*at_ms), verdicts))
}

fn key(id: &str) -> Vec<u8> {
    [b"r", id.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_known_for_ten_minutes() {
        let mut requests = RequestIds::default();
        requests.applied("a", 0, &[1]);
        requests.store("b", WINDOW_MS, &[], &mut Writes::default());
        assert_eq!(requests.applied_with("a"), Some(&[1][..]));
        requests.store("c", WINDOW_MS + 1, &[], &mut Writes::default());
        assert_eq!(requests.applied_with("a"), None);
    }
}
