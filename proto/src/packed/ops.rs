//! The operations of a batch: building the columns, checking them, walking them.

use super::{Error, Op, check_column, deadline, entry, len_u32, read_deadline, trim};
use crate::{
    key_group::MaxParallelism,
    v1::{OpKind, PackedOps},
};

/// Puts operations into columns.
#[derive(Debug, Default)]
pub struct OpsBuilder {
    arena: Vec<u8>,
    kinds: Vec<u8>,
    columns: PackedOps,
}

impl OpsBuilder {
    /// Makes an empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes an empty batch with room for so many operations and bytes of keys and values.
    pub fn with_capacity(ops: usize, bytes: usize) -> Self {
        let kinds = Vec::with_capacity(ops);
        Self { arena: Vec::with_capacity(bytes), kinds, columns: PackedOps::default() }
    }

    /// Adds an operation; its parts are copied.
    ///
    /// # Panics
    /// If a part is 4 GiB or longer, which no message can carry.
    pub fn push(&mut self, op: &Op<'_>) {
        for part in [op.key, op.namespace, op.map_key, op.value] {
            self.arena.extend_from_slice(part);
        }
        self.kinds.push(op.kind as u8);
        let columns = &mut self.columns;
        columns.state_ids.push(op.state_id);
        columns.key_lens.push(len_u32(op.key));
        columns.namespace_lens.push(len_u32(op.namespace));
        columns.map_key_lens.push(len_u32(op.map_key));
        columns.value_lens.push(len_u32(op.value));
        columns.key_groups.push(op.key_group.map_or(0, |group| u32::from(group) + 1));
        columns.expires_at_ms.push(deadline(op.expires_at_ms));
        columns.versions.push(op.expected_version.map_or(0, |version| version.saturating_add(1)));
        columns.limits.push(op.limit);
    }

    /// Returns the number of operations.
    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    /// Returns true if there is no operation yet.
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// Returns the bytes of all keys, namespaces, map keys and values.
    pub fn bytes(&self) -> usize {
        self.arena.len()
    }

    /// Returns the batch; a column that is all zeros is left empty.
    pub fn finish(self) -> PackedOps {
        let columns = self.columns;
        PackedOps {
            arena: self.arena.into(),
            kinds: self.kinds.into(),
            state_ids: trim(columns.state_ids),
            key_lens: trim(columns.key_lens),
            namespace_lens: trim(columns.namespace_lens),
            map_key_lens: trim(columns.map_key_lens),
            value_lens: trim(columns.value_lens),
            key_groups: trim(columns.key_groups),
            expires_at_ms: trim(columns.expires_at_ms),
            versions: trim(columns.versions),
            limits: trim(columns.limits),
        }
    }
}

/// The operations of a batch whose columns fit each other.
#[derive(Debug, Clone, Copy)]
pub struct Ops<'a>(&'a PackedOps);

impl<'a> Ops<'a> {
    /// Checks the columns, once and as a whole.
    pub fn decode(packed: &'a PackedOps) -> Result<Self, Error> {
        let len = packed.kinds.len();
        check_column("state_ids", &packed.state_ids, len)?;
        check_column("key_groups", &packed.key_groups, len)?;
        check_column("expires_at_ms", &packed.expires_at_ms, len)?;
        check_column("versions", &packed.versions, len)?;
        check_column("limits", &packed.limits, len)?;
        let mut expected = 0_u64;
        for (name, column) in [
            ("key_lens", &packed.key_lens),
            ("namespace_lens", &packed.namespace_lens),
            ("map_key_lens", &packed.map_key_lens),
            ("value_lens", &packed.value_lens),
        ] {
            check_column(name, column, len)?;
            // A column is part of a message, so it is far too short for the u64 to overflow.
            expected += column.iter().map(|len| u64::from(*len)).sum::<u64>();
        }
        if expected != packed.arena.len() as u64 {
            return Err(Error::Arena { got: packed.arena.len(), expected });
        }
        for (index, &got) in packed.kinds.iter().enumerate() {
            if kind(got) == OpKind::Unspecified {
                return Err(Error::Kind { index, got });
            }
        }
        for (index, &group) in packed.key_groups.iter().enumerate() {
            if group > MaxParallelism::LIMIT {
                return Err(Error::KeyGroup { index, got: group - 1 });
            }
        }
        Ok(Self(packed))
    }

    /// Returns the number of operations.
    pub fn len(&self) -> usize {
        self.0.kinds.len()
    }

    /// Returns true if there is no operation.
    pub fn is_empty(&self) -> bool {
        self.0.kinds.is_empty()
    }

    /// Returns the bytes of all keys, namespaces, map keys and values.
    pub fn bytes(&self) -> usize {
        self.0.arena.len()
    }

    /// Returns the operations in order, as slices of the batch.
    pub fn iter(&self) -> OpsIter<'a> {
        OpsIter { packed: self.0, rest: &self.0.arena, index: 0 }
    }
}

impl<'a> IntoIterator for &Ops<'a> {
    type Item = Op<'a>;
    type IntoIter = OpsIter<'a>;
    fn into_iter(self) -> OpsIter<'a> {
        self.iter()
    }
}

/// Walks the operations of a batch.
#[derive(Debug, Clone)]
pub struct OpsIter<'a> {
    packed: &'a PackedOps,
    rest: &'a [u8],
    index: usize,
}

impl<'a> OpsIter<'a> {
    fn part(&mut self, lens: &[u32]) -> &'a [u8] {
        // `decode` has checked that the lengths add up to the arena.
        let (part, rest) = self.rest.split_at(entry(lens, self.index) as usize);
        self.rest = rest;
        part
    }
}

impl<'a> Iterator for OpsIter<'a> {
    type Item = Op<'a>;

    fn next(&mut self) -> Option<Op<'a>> {
        let packed = self.packed;
        let index = self.index;
        let op = Op {
            kind: kind(*packed.kinds.get(index)?),
            state_id: entry(&packed.state_ids, index),
            key: self.part(&packed.key_lens),
            namespace: self.part(&packed.namespace_lens),
            map_key: self.part(&packed.map_key_lens),
            value: self.part(&packed.value_lens),
            key_group: entry(&packed.key_groups, index).checked_sub(1).map(|group| group as u16),
            expires_at_ms: read_deadline(entry(&packed.expires_at_ms, index)),
            expected_version: entry(&packed.versions, index).checked_sub(1),
            limit: entry(&packed.limits, index),
        };
        self.index += 1;
        Some(op)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.packed.kinds.len() - self.index;
        (left, Some(left))
    }
}

impl ExactSizeIterator for OpsIter<'_> {}

/// Reads a kind; `Unspecified` stands for the unknown ones, too.
fn kind(byte: u8) -> OpKind {
    OpKind::try_from(i32::from(byte)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    fn batch() -> PackedOps {
        let mut ops = OpsBuilder::new();
        ops.push(&Op::new(OpKind::ValuePut, 3, b"key").with_namespace(b"w").with_value(b"value"));
        ops.push(&Op::new(OpKind::ValueCasVersion, 3, b"k").with_expected_version(0).with_value(b""));
        ops.push(&Op::on_group(OpKind::SortedSetFirst, 4, 0).with_value(b"bound").with_limit(9));
        ops.push(&Op::new(OpKind::MapPut, 5, b"k").with_map_key(b"m").with_value(b"v").with_expires_at_ms(-7));
        assert_eq!((ops.len(), ops.bytes(), ops.is_empty()), (4, 18, false));
        ops.finish()
    }

    #[test]
    fn operations_come_back_as_they_went_in() {
        let packed = PackedOps::decode(batch().encode_to_vec().as_slice()).unwrap();
        let ops: Vec<_> = Ops::decode(&packed).unwrap().iter().collect();
        assert_eq!(ops[0], Op::new(OpKind::ValuePut, 3, b"key").with_namespace(b"w").with_value(b"value"));
        assert_eq!(ops[1].expected_version, Some(0));
        assert_eq!((ops[2].key_group, ops[2].limit, ops[2].value), (Some(0), 9, &b"bound"[..]));
        assert_eq!((ops[3].map_key, ops[3].expires_at_ms, ops[3].key_group), (&b"m"[..], Some(-7), None));
    }

    #[test]
    fn a_column_of_zeros_is_left_empty() {
        let mut ops = OpsBuilder::with_capacity(1, 8);
        ops.push(&Op::new(OpKind::ValueGet, 0, b"k"));
        let packed = ops.finish();
        assert_eq!((packed.state_ids.len(), packed.value_lens.len(), packed.key_lens.len()), (0, 0, 1));
        assert_eq!(Ops::decode(&packed).unwrap().iter().next(), Some(Op::new(OpKind::ValueGet, 0, b"k")));
        assert!(Ops::decode(&PackedOps::default()).unwrap().is_empty());
    }

    #[test]
    fn columns_that_do_not_fit_are_refused() {
        type Damage = fn(&mut PackedOps);
        let damages: [(Damage, &str); 9] = [
            (|p| p.state_ids.truncate(2), "column state_ids has 2 entries"),
            (|p| p.value_lens.push(0), "column value_lens has 5 entries"),
            (|p| p.kinds = p.kinds.slice(..2), "column state_ids has 4 entries"),
            (|p| p.arena = p.arena.slice(1..), "arena has 17 bytes, its lengths add up to 18"),
            (|p| p.key_lens.clear(), "arena has 18 bytes, its lengths add up to 13"),
            (|p| p.value_lens.fill(u32::MAX), "arena has 18 bytes"),
            (|p| p.kinds = vec![1, 0, 1, 1].into(), "operation 1 has kind 0"),
            (|p| p.kinds = vec![1, 1, 1, 255].into(), "operation 3 has kind 255"),
            (|p| p.key_groups = vec![0, 0, 0, u32::MAX], "operation 3 has key group"),
        ];
        for (damage, message) in damages {
            let mut packed = batch();
            damage(&mut packed);
            let error = Ops::decode(&packed).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }

    #[test]
    fn any_bytes_are_walked_or_refused() {
        let good = batch().encode_to_vec();
        let mut random = 7_u64;
        for _ in 0..50_000 {
            let mut bytes = good.clone();
            for _ in 0..3 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = (random >> 33) as usize % bytes.len();
                bytes[at] = (random >> 20) as u8;
            }
            let Ok(packed) = PackedOps::decode(bytes.as_slice()) else { continue };
            if let Ok(ops) = Ops::decode(&packed) {
                assert_eq!(ops.iter().count(), ops.len());
            }
        }
    }

    #[test]
    fn every_kind_is_a_read_or_a_write_of_a_state() {
        for kind in (1..=u8::MAX).map(kind).filter(|kind| *kind != OpKind::Unspecified) {
            let reads = ["_GET", "_CONTAINS", "_ENTRIES", "_KEYS", "_FIRST", "_COUNT"];
            let name = kind.as_str_name();
            assert_eq!(kind.is_write(), !reads.iter().any(|end| name.ends_with(end)), "{name}");
            let Some(state) = kind.state_kind() else { continue };
            assert!(name[8..].starts_with(&state.as_str_name()[11..]), "{name}");
        }
    }
}
