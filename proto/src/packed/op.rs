//! One operation of a batch, and what its kind implies.

use crate::v1::{OpKind, StateKind};

/// An operation whose parts are slices of the batch it came in, or of what its builder's caller holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Op<'a> {
    /// What is done.
    pub kind: OpKind,
    /// Numeric id of the state.
    pub state_id: u32,
    /// The key; empty for operations on a key group.
    pub key: &'a [u8],
    /// The namespace.
    pub namespace: &'a [u8],
    /// The map key, or the element of a sorted set.
    pub map_key: &'a [u8],
    /// The value, operand, element, bound or packed list.
    pub value: &'a [u8],
    /// The key group, where the caller names it.
    pub key_group: Option<u16>,
    /// Deadline of its own, in milliseconds of the state's clock; 0 is sent as -1.
    pub expires_at_ms: Option<i64>,
    /// Version that a compare-and-set expects; 0 is absent.
    pub expected_version: Option<u64>,
    /// Most items that are answered; 0 is all.
    pub limit: u32,
}

impl<'a> Op<'a> {
    /// Makes an operation on a key, with everything else empty.
    pub const fn new(kind: OpKind, state_id: u32, key: &'a [u8]) -> Self {
        Self {
            kind,
            state_id,
            key,
            namespace: &[],
            map_key: &[],
            value: &[],
            key_group: None,
            expires_at_ms: None,
            expected_version: None,
            limit: 0,
        }
    }

    /// Makes an operation on a key group, such as those of sorted sets.
    pub const fn on_group(kind: OpKind, state_id: u32, key_group: u16) -> Self {
        Self::new(kind, state_id, &[]).with_key_group(key_group)
    }

    /// Sets the namespace.
    pub const fn with_namespace(self, namespace: &'a [u8]) -> Self {
        Self { namespace, ..self }
    }

    /// Sets the map key or element.
    pub const fn with_map_key(self, map_key: &'a [u8]) -> Self {
        Self { map_key, ..self }
    }

    /// Sets the value.
    pub const fn with_value(self, value: &'a [u8]) -> Self {
        Self { value, ..self }
    }

    /// Names the key group.
    pub const fn with_key_group(self, key_group: u16) -> Self {
        Self { key_group: Some(key_group), ..self }
    }

    /// Sets a deadline of its own.
    pub const fn with_expires_at_ms(self, expires_at_ms: i64) -> Self {
        Self { expires_at_ms: Some(expires_at_ms), ..self }
    }

    /// Sets the version that a compare-and-set expects.
    pub const fn with_expected_version(self, version: u64) -> Self {
        Self { expected_version: Some(version), ..self }
    }

    /// Bounds the number of items that are answered.
    pub const fn with_limit(self, limit: u32) -> Self {
        Self { limit, ..self }
    }
}

impl OpKind {
    /// Returns true if the operation changes state, and so belongs into a write batch.
    pub const fn is_write(self) -> bool {
        match self {
            Self::Unspecified
            | Self::ValueGet
            | Self::ListGet
            | Self::MapGet
            | Self::MapContains
            | Self::MapEntries
            | Self::MapKeys
            | Self::MultimapGet
            | Self::MultimapKeys
            | Self::ReducingGet
            | Self::AggregatingGet
            | Self::SortedSetFirst
            | Self::SortedSetCount => false,
            Self::ValuePut
            | Self::ValueClear
            | Self::ValueCas
            | Self::ValueCasVersion
            | Self::ValueCasClear
            | Self::ValueCasVersionClear
            | Self::ListAppend
            | Self::ListAppendAll
            | Self::ListPut
            | Self::ListClear
            | Self::MapPut
            | Self::MapRemove
            | Self::MapClear
            | Self::MapClearRange
            | Self::MultimapAppend
            | Self::MultimapRemove
            | Self::MultimapClear
            | Self::ReducingAdd
            | Self::ReducingClear
            | Self::AggregatingAdd
            | Self::AggregatingClear
            | Self::SortedSetAdd
            | Self::SortedSetRemove
            | Self::MergeNamespaces
            | Self::Touch => true,
        }
    }

    /// Returns the kind of state that the operation is for; `None` if it is for several.
    pub const fn state_kind(self) -> Option<StateKind> {
        match self {
            Self::Unspecified | Self::MergeNamespaces | Self::Touch => None,
            Self::ValueGet
            | Self::ValuePut
            | Self::ValueClear
            | Self::ValueCas
            | Self::ValueCasVersion
            | Self::ValueCasClear
            | Self::ValueCasVersionClear => Some(StateKind::Value),
            Self::ListGet | Self::ListAppend | Self::ListAppendAll | Self::ListPut | Self::ListClear => {
                Some(StateKind::List)
            }
            Self::MapGet
            | Self::MapPut
            | Self::MapRemove
            | Self::MapContains
            | Self::MapEntries
            | Self::MapKeys
            | Self::MapClear
            | Self::MapClearRange => Some(StateKind::Map),
            Self::MultimapAppend
            | Self::MultimapGet
            | Self::MultimapKeys
            | Self::MultimapRemove
            | Self::MultimapClear => Some(StateKind::Multimap),
            Self::ReducingAdd | Self::ReducingGet | Self::ReducingClear => Some(StateKind::Reducing),
            Self::AggregatingAdd | Self::AggregatingGet | Self::AggregatingClear => Some(StateKind::Aggregating),
            Self::SortedSetAdd | Self::SortedSetRemove | Self::SortedSetFirst | Self::SortedSetCount => {
                Some(StateKind::SortedSet)
            }
        }
    }
}
