//! The identity of an SST: what no other content ever has, read from the file's own properties.
//!
//! File numbers are reused after a rewind, and a copy has the database id of its origin; so an identity
//! is database id, session id (new at every open) and original file number together. RocksDB has no
//! call for the properties of one file, so they are read here: footer, meta index, properties.
//!
//! Invariant: the SST format is pinned in [`options`](super::options); a file of another format has no
//! identity and is an error, never a guess.

use std::{
    collections::HashMap,
    fs::File,
    os::unix::fs::FileExt,
    path::Path,
    sync::{Mutex, PoisonError},
};

use crate::storage::{Error, Result, row};

const FOOTER_BYTES: usize = 53;
const BLOCK_TRAILER_BYTES: u64 = 5;
const MAGIC: [u8; 8] = 0x88e2_41b7_85f4_cff7_u64.to_le_bytes();
const EXTENDED_MAGIC: [u8; 4] = [0x3e, 0, 0x7a, 0];
/// Meta blocks are some hundred bytes; a damaged size must not ask for gigabytes.
const BLOCK_BYTES_MAX: u64 = 1 << 20;

/// Identities of the SSTs of a database, by file name, each read once.
#[derive(Default)]
pub(super) struct Ids(Mutex<HashMap<String, String>>);

impl Ids {
    /// Returns the identity of an SST.
    pub(super) fn get(&self, name: &str, path: &Path) -> Result<String> {
        if let Some(id) = self.known().get(name) {
            return Ok(id.clone());
        }
        let file = File::open(path).map_err(|err| Error::io(path, "open", &err))?;
        let id = identity(&file).ok_or_else(|| Error::corrupt(path, "its properties cannot be read"))?;
        self.known().insert(name.to_owned(), id.clone());
        Ok(id)
    }

    /// Forgets SSTs that are not kept.
    pub(super) fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.known().retain(|name, _| keep(name));
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, String>> {
        // A cache: whatever a thread that panicked left in it is still true.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn identity(file: &File) -> Option<String> {
    let properties = properties(file)?;
    let text = |name: &str| {
        let value = properties.get(name.as_bytes())?;
        String::from_utf8(value.clone()).ok().filter(|text| !text.is_empty())
    };
    let number = row::take_unsigned(&mut &properties.get(&b"rocksdb.original.file.number"[..])?[..]).ok()?;
    let (db, session) = (text("rocksdb.creating.db.identity")?, text("rocksdb.creating.session.identity")?);
    (number > 0).then(|| format!("{db}-{session}-{number}"))
}

fn properties(file: &File) -> Option<HashMap<Vec<u8>, Vec<u8>>> {
    let length = file.metadata().ok()?.len();
    let footer_at = length.checked_sub(FOOTER_BYTES as u64)?;
    let mut footer = [0; FOOTER_BYTES];
    file.read_exact_at(&mut footer, footer_at).ok()?;
    let format = u32::from_le_bytes(footer[41..45].try_into().ok()?);
    if footer[45..] != MAGIC || !matches!(format, 6 | 7) || footer[1..5] != EXTENDED_MAGIC {
        return None;
    }
    let index_bytes = u64::from(u32::from_le_bytes(footer[13..17].try_into().ok()?));
    let index_at = footer_at.checked_sub(BLOCK_TRAILER_BYTES)?.checked_sub(index_bytes)?;
    let index = entries(&block(file, index_at, index_bytes)?)?;
    let mut handle = &index.get(&b"rocksdb.properties"[..])?[..];
    let at = row::take_unsigned(&mut handle).ok()?;
    let bytes = row::take_unsigned(&mut handle).ok()?;
    entries(&block(file, at, bytes)?)
}

fn block(file: &File, at: u64, bytes: u64) -> Option<Vec<u8>> {
    let mut block = vec![0; usize::try_from(bytes).ok().filter(|_| bytes <= BLOCK_BYTES_MAX)?];
    file.read_exact_at(&mut block, at).ok()?;
    Some(block)
}

/// Decodes a block: entries of (shared key length, other key length, value length, rest of the key,
/// value), then the offsets of the restarts and their number.
fn entries(block: &[u8]) -> Option<HashMap<Vec<u8>, Vec<u8>>> {
    let (rest, restarts) = block.split_last_chunk::<4>()?;
    let restarts = usize::try_from(u32::from_le_bytes(*restarts)).ok()?;
    let mut rest = rest.get(..rest.len().checked_sub(restarts.checked_mul(4)?)?)?;
    let mut key = Vec::new();
    let mut entries = HashMap::new();
    while !rest.is_empty() {
        let mut length = || usize::try_from(row::take_unsigned(&mut rest).ok()?).ok();
        let (shared, other, value) = (length()?, length()?, length()?);
        (shared <= key.len()).then(|| key.truncate(shared))?;
        key.extend_from_slice(rest.split_off(..other)?);
        entries.insert(key.clone(), rest.split_off(..value)?.to_vec());
    }
    Some(entries)
}
