//! The workers' input, and what it comes to: a pure function of the seed.
//!
//! Each record appends (partition, offset) to the list of its key, adds to a sum, and, every third one,
//! puts the next link of a hash chain: get, then put. A lost, doubled or reordered record shows in at
//! least one of them for ever.

use std::collections::BTreeMap;

use forebay_proto::{KeyGroup, MaxParallelism, v1};

use super::rng::mix;

/// The list state: which records a key has seen.
pub const LIST: &str = "seen";
/// The reducing state: the sum of their amounts.
pub const SUM: &str = "sum";
/// The value state: their hash chain.
pub const CHAIN: &str = "chain";

/// A record of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Its source partition.
    pub partition: u32,
    /// Its place there.
    pub offset: u64,
    /// Its key.
    pub key: u32,
    /// What it adds to the sum.
    pub amount: i64,
}

impl Record {
    /// What it appends to the list.
    pub fn element(&self) -> [u8; 12] {
        element(self.partition, self.offset)
    }

    /// True if it reads and writes the hash chain.
    pub fn chained(&self) -> bool {
        self.offset.is_multiple_of(3)
    }
}

/// The input of one seed.
#[derive(Debug, Clone)]
pub struct Input {
    seed: u64,
    partitions: u32,
    /// Records of a partition.
    pub records: u64,
    /// Keys that a partition may use.
    keys: BTreeMap<u32, Vec<u32>>,
}

impl Input {
    /// Makes the input. Partition i belongs to range i alone, or, with `spread`, any partition to all.
    pub fn new(seed: u64, partitions: u32, records: u64, keys: u32, ranges: &[(u32, u32)], spread: bool) -> Self {
        let of = |partition: u32| {
            let (start, end) = ranges[partition as usize % ranges.len()];
            let belongs = |key: &u32| {
                let group = u32::from(KeyGroup::of(&key_bytes(*key), MaxParallelism::DEFAULT).get());
                spread || (start..end).contains(&group)
            };
            (0..).filter(belongs).take(keys as usize).collect()
        };
        Self { seed, partitions, records, keys: (0..partitions).map(|partition| (partition, of(partition))).collect() }
    }

    /// Returns the source partitions.
    pub fn partitions(&self) -> std::ops::Range<u32> {
        0..self.partitions
    }

    /// Returns a record; `None` behind the last one.
    pub fn record(&self, partition: u32, offset: u64) -> Option<Record> {
        let keys = self.keys.get(&partition).filter(|_| offset < self.records)?;
        let random = mix(self.seed ^ mix(u64::from(partition) << 40 | offset));
        let key = keys[(random % keys.len() as u64) as usize];
        Some(Record { partition, offset, key, amount: (random >> 40).cast_signed() + 1 })
    }

    /// Returns true if a record of the partition may have such a key.
    pub fn touches(&self, partition: u32, is_such: impl Fn(&[u8]) -> bool) -> bool {
        self.keys.get(&partition).is_some_and(|keys| keys.iter().any(|key| is_such(&key_bytes(*key))))
    }

    /// Returns what the records below these positions come to: per key the records in order of
    /// partition, and the sum.
    pub fn effects(&self, positions: &BTreeMap<u32, u64>) -> BTreeMap<Vec<u8>, (Vec<Record>, i64)> {
        let mut effects: BTreeMap<Vec<u8>, (Vec<Record>, i64)> = BTreeMap::new();
        for (partition, end) in positions {
            for record in (0..*end).filter_map(|offset| self.record(*partition, offset)) {
                let (seen, sum) = effects.entry(key_bytes(record.key)).or_default();
                seen.push(record);
                *sum += record.amount;
            }
        }
        effects
    }
}

/// The next link of a hash chain.
pub fn link(chain: u64, partition: u32, offset: u64) -> u64 {
    mix(chain ^ mix(u64::from(partition) << 40 | offset))
}

/// The bytes of a key.
pub fn key_bytes(key: u32) -> Vec<u8> {
    format!("k{key}").into_bytes()
}

/// A list element, or a position in a source.
pub fn element(partition: u32, offset: u64) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&partition.to_be_bytes());
    bytes[4..].copy_from_slice(&offset.to_be_bytes());
    bytes
}

/// Reads what [`element`] has written.
pub fn parse_element(bytes: &[u8]) -> Option<(u32, u64)> {
    let (partition, offset) = bytes.split_at_checked(4)?;
    Some((u32::from_be_bytes(partition.try_into().ok()?), u64::from_be_bytes(offset.try_into().ok()?)))
}

/// The states that workers declare.
pub fn descriptors() -> Vec<v1::StateDescriptor> {
    let state = |name: &str, kind: v1::StateKind, codec: &str, function: &str| v1::StateDescriptor {
        name: name.into(),
        kind: kind.into(),
        key_codec: "bytes".into(),
        value_codec: codec.into(),
        function: function.into(),
        ..Default::default()
    };
    vec![
        state(LIST, v1::StateKind::List, "bytes", ""),
        state(SUM, v1::StateKind::Reducing, "i64", "sum_i64"),
        state(CHAIN, v1::StateKind::Value, "u64", ""),
    ]
}
