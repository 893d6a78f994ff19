//! Addresses: where something is stored, and the one byte string that the cache finds it by.

use forebay_proto::{packed::Op, v1::OpKind};

/// Where something is stored, and which shard holds it.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    /// Numeric id of the state.
    pub state: u32,
    /// The key.
    pub key: &'a [u8],
    /// The namespace.
    pub namespace: &'a [u8],
    /// Number of the shard in the worker's table.
    pub shard: usize,
    /// The key group, where the job's partitioner wants it named.
    pub key_group: Option<u16>,
}

impl<'a> At<'a> {
    /// Makes an operation at the address.
    pub fn op(&self, kind: OpKind) -> Op<'a> {
        let op = Op { key_group: self.key_group, ..Op::new(kind, self.state, self.key) };
        op.with_namespace(self.namespace)
    }
}

/// Writes `state · key group + 1, or 0 if it follows from the key · length of the key · key · namespace`: where requests
/// name the key group, the same key may be in several.
#[inline]
pub(super) fn join(address: &mut Vec<u8>, at: At<'_>) {
    debug_assert!(at.key.len() <= usize::from(u16::MAX), "keys are checked when they are located");
    address.clear();
    address.extend_from_slice(&at.state.to_be_bytes());
    address.extend_from_slice(&at.key_group.map_or(0, |group| group + 1).to_be_bytes());
    address.extend_from_slice(&(at.key.len() as u16).to_be_bytes());
    address.extend_from_slice(at.key);
    address.extend_from_slice(at.namespace);
}

/// Reads what [`join`] has written.
pub(super) fn split(address: &[u8]) -> (u32, &[u8], &[u8]) {
    let state = address[..4].try_into().map(u32::from_be_bytes).unwrap_or_default();
    let length = address[6..8].try_into().map(u16::from_be_bytes).unwrap_or_default();
    let (key, namespace) = address[8..].split_at(length.into());
    (state, key, namespace)
}
