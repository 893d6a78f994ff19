//! A row of the memory backend, which is written over in place while nobody but the backend holds it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Key;

/// A row and its key.
pub(super) struct Row {
    pub(super) key: Key,
    /// The backend's count of freezes and views when it was made: frozen maps of a later one may hold it.
    pub(super) since: u64,
    bytes: Mutex<Box<[u8]>>,
}

impl Row {
    pub(super) fn new(key: Key, since: u64, bytes: &[u8]) -> Self {
        Self { key, since, bytes: Mutex::new(bytes.into()) }
    }

    /// The bytes. Readers of frozen maps may be elsewhere, but never where a row is written over.
    pub(super) fn bytes(&self) -> MutexGuard<'_, Box<[u8]>> {
        // A row is written whole or not at all.
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of bytes.
    pub(super) fn len(&self) -> usize {
        self.bytes().len()
    }

    /// Writes over it; memory is used again if the length is the same.
    pub(super) fn set(&self, bytes: &[u8]) {
        let mut row = self.bytes();
        if row.len() == bytes.len() {
            row.copy_from_slice(bytes);
        } else {
            *row = bytes.into();
        }
    }
}
