//! A key of the memory backend, without an allocation if it is short.
//!
//! A lookup in a large map compares some twenty keys, each in another place in memory; a pointer in
//! each would double the places to go to. So keys up to [`INLINE_BYTES`] lie in the map's nodes.

use std::{borrow::Borrow, cmp::Ordering, ops::Deref, sync::Arc};

/// As much as makes the key 40 bytes.
const INLINE_BYTES: usize = 38;

/// A key; compares as its bytes do.
#[derive(Clone)]
pub(super) enum Key {
    Inline { length: u8, bytes: [u8; INLINE_BYTES] },
    Long(Arc<[u8]>),
}

impl From<&[u8]> for Key {
    fn from(key: &[u8]) -> Self {
        match u8::try_from(key.len()) {
            Ok(length) if key.len() <= INLINE_BYTES => {
                let mut bytes = [0; INLINE_BYTES];
                bytes[..key.len()].copy_from_slice(key);
                Self::Inline { length, bytes }
            }
            _ => Self::Long(Arc::from(key)),
        }
    }
}

impl Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Inline { length, bytes } => &bytes[..usize::from(*length)],
            Self::Long(bytes) => bytes,
        }
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_any_length_is_its_bytes() {
        assert!(size_of::<Key>() <= 40);
        let lengths = [0, 1, INLINE_BYTES - 1, INLINE_BYTES, INLINE_BYTES + 1, 255, 256, 70_000];
        for (length, last) in lengths.into_iter().flat_map(|length| [(length, 0), (length, 0xff)]) {
            let mut bytes = vec![7; length];
            bytes.extend([last]);
            assert_eq!(&*Key::from(&bytes[..]), &bytes[..]);
            for other in lengths {
                let other = vec![7; other];
                assert_eq!(Key::from(&bytes[..]).cmp(&Key::from(&other[..])), bytes.cmp(&other));
            }
        }
    }
}
