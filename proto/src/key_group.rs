//! Key groups: how a key finds its shard.
//!
//! `key group = murmur3_x86_32(key, seed 0) mod max parallelism`, and `n` even shards cut the key groups
//! as Flink cuts them for its subtasks. The module knows keys as bytes only, and no jobs and no shards.
//!
//! Invariant: the hash and the cuts never change; stored rows start with the key group.

use std::fmt;

/// Why a number is no key group, range or max parallelism.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The max parallelism is 0 or too large.
    #[error("max parallelism {got}: 1 to {} allowed", MaxParallelism::LIMIT)]
    MaxParallelism {
        /// The number that was given.
        got: u32,
    },
    /// The key group is not below the max parallelism.
    #[error("key group {got}: 0 to {} allowed", .max - 1)]
    KeyGroup {
        /// The number that was given.
        got: u32,
        /// The first number that is too large.
        max: u32,
    },
    /// The range ends before it starts, or past the largest max parallelism.
    #[error("key groups [{start},{end}): start at most end, end at most {} allowed", MaxParallelism::LIMIT)]
    Range {
        /// The start that was given.
        start: u32,
        /// The end that was given.
        end: u32,
    },
}

/// The number of key groups of a job, 1 to 32,768; fixed for the job's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MaxParallelism(u16);

impl MaxParallelism {
    /// The largest max parallelism.
    pub const LIMIT: u32 = 32_768;
    /// The max parallelism of a job that does not choose one.
    pub const DEFAULT: Self = Self(128);

    /// Checks the number.
    pub const fn new(max: u32) -> Result<Self, Error> {
        if max == 0 || max > Self::LIMIT { Err(Error::MaxParallelism { got: max }) } else { Ok(Self(max as u16)) }
    }

    /// Returns the number.
    pub const fn get(self) -> u32 {
        self.0 as u32
    }

    /// Returns the range of all key groups.
    pub const fn all(self) -> KeyGroupRange {
        KeyGroupRange { start: 0, end: self.0 }
    }
}

impl Default for MaxParallelism {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl fmt::Display for MaxParallelism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<u32> for MaxParallelism {
    type Error = Error;
    fn try_from(max: u32) -> Result<Self, Error> {
        Self::new(max)
    }
}

/// The smallest unit of state that moves: all keys with the same hash modulo the max parallelism.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyGroup(u16);

impl KeyGroup {
    /// Returns the key group that a key belongs to (`partitioner: murmur3`).
    #[inline]
    pub fn of(key: &[u8], max: MaxParallelism) -> Self {
        Self((murmur3_x86_32(key, 0) % max.get()) as u16)
    }

    /// Checks a key group that somebody else chose (`partitioner: explicit`).
    pub const fn new(group: u32, max: MaxParallelism) -> Result<Self, Error> {
        if group >= max.get() {
            return Err(Error::KeyGroup { got: group, max: max.get() });
        }
        Ok(Self(group as u16))
    }

    /// Reads the key group that a row key starts with; `None` if the row key is too short.
    pub fn from_row(row: &[u8]) -> Option<Self> {
        row.first_chunk().map(|prefix| Self(u16::from_be_bytes(*prefix)))
    }

    /// Returns the number.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Returns what the row keys of this key group start with.
    pub const fn row_prefix(self) -> [u8; 2] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for KeyGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<KeyGroup> for u32 {
    fn from(group: KeyGroup) -> Self {
        group.0.into()
    }
}

/// A half-open range of key groups, such as those of a shard; may be empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyGroupRange {
    // u16 holds the largest end, 32,768, so that both bounds have a row prefix.
    start: u16,
    end: u16,
}

impl KeyGroupRange {
    /// Checks the bounds; `start == end` is the empty range.
    pub const fn new(start: u32, end: u32) -> Result<Self, Error> {
        if start > end || end > MaxParallelism::LIMIT {
            return Err(Error::Range { start, end });
        }
        Ok(Self { start: start as u16, end: end as u16 })
    }

    /// Returns the first key group.
    pub const fn start(self) -> u32 {
        self.start as u32
    }

    /// Returns the end, exclusive.
    pub const fn end(self) -> u32 {
        self.end as u32
    }

    /// Returns the number of key groups.
    pub const fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    /// Returns true if there is no key group in it.
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Returns true if the key group lies in the range.
    pub const fn contains(self, group: KeyGroup) -> bool {
        self.start <= group.0 && group.0 < self.end
    }

    /// Returns true if every key group of the other range lies in this one.
    pub const fn covers(self, other: Self) -> bool {
        other.is_empty() || (self.start <= other.start && other.end <= self.end)
    }

    /// Returns the key groups that lie in both ranges; `None` if there are none.
    pub fn intersection(self, other: Self) -> Option<Self> {
        let (start, end) = (self.start.max(other.start), self.end.min(other.end));
        (start < end).then_some(Self { start, end })
    }

    /// Returns the key groups in order.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = KeyGroup> + ExactSizeIterator {
        (self.start..self.end).map(KeyGroup)
    }

    /// Returns the first row key of the range and the first one past it.
    pub const fn row_bounds(self) -> ([u8; 2], [u8; 2]) {
        (self.start.to_be_bytes(), self.end.to_be_bytes())
    }
}

impl fmt::Display for KeyGroupRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{},{})", self.start, self.end)
    }
}

/// Cuts the key groups into `n` even ranges: `range(i) = [ceil(i·G/n), ceil((i+1)·G/n))`.
///
/// With more ranges than key groups some ranges are empty; 0 ranges are an empty list.
pub fn assign(max: MaxParallelism, n: u32) -> Vec<KeyGroupRange> {
    let cut = |i: u32| (u64::from(i) * u64::from(max.get())).div_ceil(u64::from(n)) as u16;
    (0..n).map(|i| KeyGroupRange { start: cut(i), end: cut(i + 1) }).collect()
}

/// Austin Appleby's MurmurHash3_x86_32.
#[inline]
pub fn murmur3_x86_32(data: &[u8], seed: u32) -> u32 {
    let scramble = |k: u32| k.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    let (blocks, tail) = data.as_chunks::<4>();
    let mut hash = seed;
    for block in blocks {
        hash ^= scramble(u32::from_le_bytes(*block));
        hash = hash.rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    if !tail.is_empty() {
        let mut last = [0; 4];
        last[..tail.len()].copy_from_slice(tail);
        hash ^= scramble(u32::from_le_bytes(last));
    }
    hash ^= data.len() as u32;
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn max(n: u32) -> MaxParallelism {
        MaxParallelism::new(n).unwrap()
    }

    fn bounds(n: u32, ranges: u32) -> Vec<(u32, u32)> {
        assign(max(n), ranges).into_iter().map(|r| (r.start(), r.end())).collect()
    }

    #[test]
    fn shards_are_cut_as_flink_cuts_subtasks() {
        assert_eq!(bounds(128, 3), [(0, 43), (43, 86), (86, 128)]);
        let seven = [(0, 19), (19, 37), (37, 55), (55, 74), (74, 92), (92, 110), (110, 128)];
        assert_eq!(bounds(128, 7), seven);
    }

    #[test]
    fn cuts_are_contiguous_and_complete() {
        for (groups, n) in [(1, 1), (1, 3), (5, 7), (128, 128), (32_768, 1), (32_768, 999), (7, 32_768)] {
            let ranges = assign(max(groups), n);
            assert_eq!((ranges.len() as u32, ranges[0].start(), ranges[ranges.len() - 1].end()), (n, 0, groups));
            assert!(ranges.windows(2).all(|pair| pair[0].end() == pair[1].start()));
        }
        assert_eq!(assign(max(128), 0), []);
    }

    #[test]
    fn hashes_agree_with_the_murmur3_crate() {
        let data: Vec<u8> = (0..600_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for start in 0..64 {
            for len in 0..200 {
                let key = &data[start..start + len];
                let oracle = murmur3::murmur3_32(&mut std::io::Cursor::new(key), 0).unwrap();
                assert_eq!(murmur3_x86_32(key, 0), oracle, "start {start} len {len}");
            }
        }
    }

    #[test]
    fn the_hash_is_taken_as_unsigned() {
        let high = (0..1000_u32).map(u32::to_be_bytes).find(|key| murmur3_x86_32(key, 0) > 1 << 31).unwrap();
        let expected = u64::from(murmur3_x86_32(&high, 0)) % 100;
        assert_eq!(u64::from(KeyGroup::of(&high, max(100)).get()), expected);
    }

    #[test]
    fn bad_numbers_are_refused_with_what_is_allowed() {
        assert_eq!(MaxParallelism::new(0).unwrap_err().to_string(), "max parallelism 0: 1 to 32768 allowed");
        assert!(MaxParallelism::new(32_769).is_err());
        assert_eq!(KeyGroup::new(128, max(128)).unwrap_err().to_string(), "key group 128: 0 to 127 allowed");
        assert!(KeyGroupRange::new(3, 2).is_err() && KeyGroupRange::new(0, 32_769).is_err());
    }

    #[test]
    fn a_range_is_half_open() {
        let range = KeyGroupRange::new(0, 16).unwrap();
        assert_eq!((range.to_string().as_str(), range.len()), ("[0,16)", 16));
        assert!(range.contains(KeyGroup(15)) && !range.contains(KeyGroup(16)));
        let all = max(32_768).all();
        assert!(all.covers(range) && !range.covers(all));
        assert_eq!(all.row_bounds(), ([0, 0], [0x80, 0]));
        assert_eq!(range.intersection(KeyGroupRange::new(16, 20).unwrap()), None);
    }

    #[test]
    fn a_row_starts_with_its_key_group() {
        let group = KeyGroup(0x0102);
        assert_eq!(group.row_prefix(), [1, 2]);
        assert_eq!(KeyGroup::from_row(&[1, 2, 9]), Some(group));
        assert_eq!(KeyGroup::from_row(&[1]), None);
    }
}
