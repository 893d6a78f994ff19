//! An operation that owns its parts, until it is packed.

use forebay_proto::{
    packed::{Op, OpsBuilder},
    v1::{OpKind, PackedOps},
};

/// An operation; see [`Op`] for its parts.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct OwnedOp {
    /// What is done.
    pub kind: OpKind,
    /// Numeric id of the state.
    pub state_id: u32,
    /// The key.
    pub key: Vec<u8>,
    /// The namespace.
    pub namespace: Vec<u8>,
    /// The map key, element or first key.
    pub map_key: Vec<u8>,
    /// The value, operand, element, bound or packed list.
    pub value: Vec<u8>,
    /// The key group, if it is named.
    pub key_group: Option<u16>,
    /// Deadline of its own.
    pub expires_at_ms: Option<i64>,
    /// Version that a compare-and-set expects.
    pub version: Option<u64>,
    /// Most items.
    pub limit: u32,
}

impl OwnedOp {
    /// Packs operations.
    pub fn pack(ops: &[Self]) -> PackedOps {
        let mut builder = OpsBuilder::new();
        for op in ops {
            builder.push(&Op {
                kind: op.kind,
                state_id: op.state_id,
                key: &op.key,
                namespace: &op.namespace,
                map_key: &op.map_key,
                value: &op.value,
                key_group: op.key_group,
                expires_at_ms: op.expires_at_ms,
                expected_version: op.version,
                limit: op.limit,
            });
        }
        builder.finish()
    }
}

impl std::fmt::Debug for OwnedOp {
    /// One short line, so that a failing sequence can be read.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = self.kind.as_str_name().trim_start_matches("OP_KIND_").to_lowercase();
        write!(f, "{kind} s{}", self.state_id)?;
        for (name, part) in
            [("key", &self.key), ("ns", &self.namespace), ("map_key", &self.map_key), ("value", &self.value)]
        {
            if !part.is_empty() {
                write!(f, " {name}={}", part.escape_ascii())?;
            }
        }
        let numbers = [
            ("group", self.key_group.map(i64::from)),
            ("expires_at", self.expires_at_ms),
            ("version", self.version.map(u64::cast_signed)),
            ("limit", (self.limit != 0).then_some(self.limit.into())),
        ];
        numbers
            .into_iter()
            .filter_map(|(name, number)| Some((name, number?)))
            .try_for_each(|(name, number)| write!(f, " {name}={number}"))
    }
}
