//! The registers of a HyperLogLog sketch and their bytes.
//!
//! 4,096 registers of 6 bits. A value is placed by its XXH3-64 (seed 0): the upper 12 bits are the register's
//! index, the rank is the number of leading zeros of the lower 52 bits plus 1, so 1 to 53. A register holds the
//! largest rank that came, 0 if none did.
//!
//! ```text
//! sparse   3 bytes per register that is set: index << 6 | rank, big endian, by ascending index
//! dense    3,072 bytes: registers 0 to 4,095, 6 bits each, the highest bits first
//! ```
//!
//! Sparse while that is shorter, so up to 1,023 registers; the length tells which. Invariant: equal registers
//! have equal bytes, whatever the order they were set in. What is neither form counts as no register set,
//! which is no bytes.

use xxhash_rust::xxh3::xxh3_64;

/// Bits of a hash that choose the register.
const INDEX_BITS: u32 = 12;
/// How many registers there are.
pub(super) const REGISTERS: usize = 1 << INDEX_BITS;
/// The rank of a hash whose other bits are all zero.
pub(super) const RANK_MAX: u8 = (u64::BITS - INDEX_BITS + 1) as u8;

const RANK_BITS: u32 = 6;
const RANK_MASK: u32 = (1 << RANK_BITS) - 1;
/// Bytes of an entry of the sparse form, and of four registers of the dense one.
const UNIT: usize = 3;
const DENSE_BYTES: usize = REGISTERS / 4 * UNIT;

/// A register and the rank that it must have at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    index: usize,
    rank: u8,
}

impl Entry {
    /// Places a value.
    pub(super) fn of(value: &[u8]) -> Self {
        let hash = xxh3_64(value);
        let zeros = (hash << INDEX_BITS).leading_zeros().min(u64::BITS - INDEX_BITS);
        Self { index: (hash >> (u64::BITS - INDEX_BITS)) as usize, rank: zeros as u8 + 1 }
    }

    fn read(unit: &[u8; UNIT]) -> Self {
        let bits = unit_bits(unit);
        Self { index: (bits >> RANK_BITS) as usize, rank: (bits & RANK_MASK) as u8 }
    }

    fn bytes(self) -> [u8; UNIT] {
        bits_unit((self.index as u32) << RANK_BITS | u32::from(self.rank))
    }
}

/// The bytes of an accumulator, known to be sound.
#[derive(Debug, Clone, Copy)]
pub(super) enum Registers<'a> {
    Sparse(&'a [[u8; UNIT]]),
    /// Always 1,024 units; a register above [`RANK_MAX`] is damage that no length tells, and counts as that.
    Dense(&'a [[u8; UNIT]]),
}

impl<'a> Registers<'a> {
    pub(super) fn read(accumulator: &'a [u8]) -> Self {
        let (units, rest) = accumulator.as_chunks();
        if accumulator.len() == DENSE_BYTES {
            return Self::Dense(units);
        }
        let in_range = |unit| {
            let Entry { index, rank } = Entry::read(unit);
            index < REGISTERS && (1..=RANK_MAX).contains(&rank)
        };
        let ascending = || units.is_sorted_by(|a, b| Entry::read(a).index < Entry::read(b).index);
        let sound = rest.is_empty() && accumulator.len() < DENSE_BYTES && units.iter().all(in_range) && ascending();
        Self::Sparse(if sound { units } else { &[] })
    }

    /// True if no register is set.
    pub(super) fn is_empty(self) -> bool {
        matches!(self, Self::Sparse([]))
    }

    /// Appends the bytes with one more value.
    pub(super) fn with(self, new: Entry, out: &mut Vec<u8>) {
        let entries = match self {
            Self::Dense(units) => {
                let start = out.len() + new.index / 4 * UNIT;
                out.extend_from_slice(units.as_flattened());
                if let Some(unit) = out[start..].first_chunk_mut() {
                    raise(unit, new);
                }
                return;
            }
            Self::Sparse(entries) => entries,
        };
        let at = entries.partition_point(|unit| Entry::read(unit).index < new.index);
        let (before, after) = entries.split_at(at);
        let (rank, after) = match after.split_first() {
            Some((old, after)) if Entry::read(old).index == new.index => (new.rank.max(Entry::read(old).rank), after),
            _ if (entries.len() + 1) * UNIT == DENSE_BYTES => {
                return self.joined(Registers::Sparse(&[new.bytes()]), out);
            }
            _ => (new.rank, after),
        };
        out.extend_from_slice(before.as_flattened());
        out.extend_from_slice(&Entry { rank, ..new }.bytes());
        out.extend_from_slice(after.as_flattened());
    }

    /// Appends the bytes of both sketches in one: each register is the larger of the two.
    pub(super) fn joined(self, other: Registers<'_>, out: &mut Vec<u8>) {
        let mut ranks = [0; REGISTERS];
        for (index, rank) in self.iter().chain(other.iter()) {
            ranks[index] = rank.max(ranks[index]);
        }
        let set = ranks.iter().filter(|rank| **rank > 0).count();
        // A dense form with few registers set is damage that no length tells; it stays dense, so that joining
        // may be grouped in any way.
        let dense = [self, other].iter().any(|registers| matches!(registers, Registers::Dense(_)));
        if dense || set * UNIT >= DENSE_BYTES {
            for four in ranks.as_chunks::<4>().0 {
                let bits = four.iter().fold(0, |bits, rank| bits << RANK_BITS | u32::from(*rank));
                out.extend_from_slice(&bits_unit(bits));
            }
        } else {
            let entries = ranks.into_iter().enumerate().filter(|(_, rank)| *rank > 0);
            entries.for_each(|(index, rank)| out.extend_from_slice(&Entry { index, rank }.bytes()));
        }
    }

    /// Returns how many registers hold each rank from 0 to [`RANK_MAX`].
    pub(super) fn histogram(self) -> [u32; RANK_MAX as usize + 1] {
        let mut counts = [0; RANK_MAX as usize + 1];
        let mut unset = REGISTERS as u32;
        for (_, rank) in self.iter().filter(|(_, rank)| *rank > 0) {
            counts[usize::from(rank.min(RANK_MAX))] += 1;
            unset -= 1;
        }
        counts[0] = unset;
        counts
    }

    /// Returns registers with their ranks; of the dense form also those that are not set.
    fn iter(self) -> impl Iterator<Item = (usize, u8)> {
        let (sparse, dense) = match self {
            Self::Sparse(entries) => (entries, &[][..]),
            Self::Dense(units) => (&[][..], units),
        };
        let sparse = sparse.iter().map(Entry::read).map(|entry| (entry.index, entry.rank));
        let ranks = dense.iter().flat_map(|unit| {
            let bits = unit_bits(unit);
            [18, 12, 6, 0].map(|shift| (bits >> shift & RANK_MASK) as u8)
        });
        sparse.chain(ranks.enumerate())
    }
}

/// Raises one of the four registers of a dense unit.
fn raise(unit: &mut [u8; UNIT], new: Entry) {
    let shift = RANK_BITS * (3 - (new.index % 4) as u32);
    let bits = unit_bits(unit);
    let old = bits >> shift & RANK_MASK;
    let rank = old.max(new.rank.into());
    *unit = bits_unit(bits & !(RANK_MASK << shift) | rank << shift);
}

fn unit_bits(&[a, b, c]: &[u8; UNIT]) -> u32 {
    u32::from_be_bytes([0, a, b, c])
}

fn bits_unit(bits: u32) -> [u8; UNIT] {
    let [_, a, b, c] = bits.to_be_bytes();
    [a, b, c]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that set so many registers, in order of the registers' index.
    fn values(registers: usize) -> Vec<[u8; 8]> {
        let mut found = std::collections::BTreeMap::new();
        for value in (0_u64..).map(u64::to_be_bytes) {
            if found.len() == registers {
                break;
            }
            found.entry(Entry::of(&value).index).or_insert(value);
        }
        found.into_values().collect()
    }

    fn sketch<'a>(values: impl IntoIterator<Item = &'a [u8; 8]>) -> Vec<u8> {
        values.into_iter().fold(Vec::new(), |accumulator, value| {
            let mut out = Vec::new();
            Registers::read(&accumulator).with(Entry::of(value), &mut out);
            out
        })
    }

    #[test]
    fn a_value_is_placed_by_its_hash() {
        // XXH3-64 of nothing is 2d06800538d394c2: index 2d0, and 6 is 0110.
        assert_eq!(Entry::of(b""), Entry { index: 0x2d0, rank: 2 });
        assert_eq!(Entry::of(b"").bytes(), [0, 0xb4, 0x02]);
        for value in (0..1_000_u32).map(u32::to_be_bytes) {
            let entry = Entry::of(&value);
            assert!(entry.index < REGISTERS && (1..=RANK_MAX).contains(&entry.rank));
            assert_eq!(Entry::read(&entry.bytes()), entry);
        }
    }

    #[test]
    fn registers_are_dense_when_that_is_not_longer() {
        let values = values(1_025);
        for (set, bytes) in [(1, 3), (1_022, 3_066), (1_023, 3_069), (1_024, 3_072), (1_025, 3_072)] {
            let accumulator = sketch(&values[..set]);
            let registers = Registers::read(&accumulator);
            assert_eq!((accumulator.len(), registers.histogram()[0] as usize), (bytes, REGISTERS - set));
            assert_eq!(matches!(registers, Registers::Dense(_)), set > 1_023);
        }
    }

    #[test]
    fn equal_registers_have_equal_bytes_in_whatever_order_they_were_set() {
        let mut values = values(1_500);
        for set in [10, 1_023, 1_024, 1_500] {
            let forward = sketch(&values[..set]);
            assert_eq!(sketch(values[..set].iter().rev().chain(&values[..set])), forward);
            for middle in [0, 1, set / 2, set] {
                let (left, right) = (sketch(&values[..middle]), sketch(&values[middle / 2..set]));
                let mut joined = Vec::new();
                Registers::read(&left).joined(Registers::read(&right), &mut joined);
                assert_eq!(joined, forward, "{middle} of {set}");
            }
        }
        values.rotate_left(700);
        assert_eq!(sketch(&values).len(), DENSE_BYTES);
    }

    #[test]
    fn a_register_keeps_the_largest_rank() {
        for dense in [false, true] {
            let base = if dense { sketch(&values(1_024)) } else { Vec::new() };
            let mut accumulator = base.clone();
            for (rank, kept) in [(3, 3), (53, 53), (7, 53)] {
                let mut out = Vec::new();
                Registers::read(&accumulator).with(Entry { index: 4_095, rank }, &mut out);
                accumulator = out;
                assert_eq!(Registers::read(&accumulator).iter().max(), Some((4_095, kept)));
            }
        }
    }

    #[test]
    fn what_is_neither_form_counts_as_empty() {
        let entry = |index, rank| Entry { index, rank }.bytes();
        let twice = [entry(1, 1), entry(1, 2)].concat();
        let backwards = [entry(2, 1), entry(1, 1)].concat();
        for bad in
            [&entry(1, 0)[..], &entry(1, 54), &entry(4_096, 1), &[0; 2], &[0; 4], &[9; 6_000], &twice, &backwards]
        {
            assert!(Registers::read(bad).is_empty(), "{bad:?}");
        }
        assert!(!Registers::read(&[0; DENSE_BYTES]).is_empty());
    }
}
