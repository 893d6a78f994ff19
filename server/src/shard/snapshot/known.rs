//! What the store holds already, and so what of a file is still to be uploaded.
//!
//! Pure. Known are the slices of the base checkpoint and those that an aborted round has left. A file that never
//! changes is known whole or not at all; of one that grows the known pieces stay, and what lies between or behind
//! them is new.
//!
//! Invariant: a slice is known only under an identity that no other content ever has, and by its length.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use forebay_proto::v1;

use crate::storage::FrozenFile;

/// Pieces of one file, beyond which it is sent anew: a restore has to ask for each.
const PIECES_MAX: usize = 64;

/// Slices that need not be uploaded again.
#[derive(Debug, Default)]
pub struct Known {
    files: HashMap<String, v1::SnapshotFile>,
    logs: HashMap<String, Vec<v1::SnapshotFile>>,
}

/// A part of a file.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// The store holds it.
    Known(v1::SnapshotFile),
    /// These bytes are to be uploaded.
    New(Range<u64>),
}

impl Known {
    /// The slices of a checkpoint, but for those in packs of which more than half is dead: they are to go into a
    /// new pack, so that the old one can be deleted. Nor those of other prefixes, which are not this job's to keep.
    pub fn of(manifest: &v1::Manifest) -> Self {
        let own = || manifest.shards.iter().flat_map(|shard| &shard.files).filter(|file| file.origin == 0);
        let mut seen = HashSet::new();
        let mut objects: HashMap<&str, (u64, u64)> = HashMap::new();
        for file in own() {
            let (used, length) = objects.entry(&file.object).or_default();
            // Shards that were split refer to the same slice.
            if seen.insert((&file.object, file.offset)) {
                *used += file.length;
            }
            *length = (*length).max(file.object_bytes).max(file.offset + file.length);
        }
        let sparse = |file: &&v1::SnapshotFile| objects.get(&file.object[..]).is_some_and(|(used, of)| used * 2 < *of);
        Self::new(own().filter(|file| !sparse(file)))
    }

    /// These slices, as far as they have identities.
    pub fn new<'a>(slices: impl IntoIterator<Item = &'a v1::SnapshotFile>) -> Self {
        let mut known = Self::default();
        for slice in slices {
            if !slice.sst_id.is_empty() {
                known.files.insert(slice.sst_id.clone(), slice.clone());
            } else if !slice.log_id.is_empty() {
                known.logs.entry(slice.log_id.clone()).or_default().push(slice.clone());
            }
        }
        known
    }
}

/// Cuts a file into what is known and what is not, in its order. Never empty.
pub fn plan(known: &[&Known], file: &FrozenFile) -> Vec<Part> {
    let whole = || vec![Part::New(0..file.length)];
    if let Some(id) = &file.immutable_id {
        let same = known.iter().filter_map(|known| known.files.get(id)).find(|same| same.length == file.length);
        return same.map_or_else(whole, |same| vec![Part::Known(same.clone())]);
    }
    let Some(id) = &file.growing_id else { return whole() };
    let pieces = known.iter().filter_map(|known| known.logs.get(id)).flatten();
    let pieces: Vec<_> = pieces.filter(|piece| piece.at + piece.length <= file.length).collect();
    let parts = if file.length == 0 {
        pieces.first().map_or_else(whole, |same| vec![Part::Known((*same).clone())])
    } else {
        chain(&pieces, file.length)
    };
    if parts.len() > PIECES_MAX { whole() } else { parts }
}

/// Goes from known piece to known piece, the longest first; what they leave out is new.
fn chain(pieces: &[&v1::SnapshotFile], length: u64) -> Vec<Part> {
    let pieces = || pieces.iter().filter(|piece| piece.length > 0);
    let mut parts = Vec::new();
    let mut end = 0;
    while end < length {
        match pieces().filter(|piece| piece.at == end).max_by_key(|piece| piece.length) {
            Some(piece) => {
                parts.push(Part::Known((*piece).clone()));
                end += piece.length;
            }
            None => {
                let next = pieces().map(|piece| piece.at).filter(|at| *at > end).min().unwrap_or(length);
                parts.push(Part::New(end..next));
                end = next;
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sst(object: &str, offset: u64, length: u64, id: &str) -> v1::SnapshotFile {
        v1::SnapshotFile { object: object.into(), offset, length, sst_id: id.into(), ..Default::default() }
    }

    fn log(at: u64, length: u64) -> v1::SnapshotFile {
        let object = format!("log-{at}-{length}");
        v1::SnapshotFile { object, at, length, log_id: "log".into(), ..Default::default() }
    }

    fn file(length: u64) -> FrozenFile {
        FrozenFile { name: "000004.log".into(), length, growing_id: Some("log".into()), ..Default::default() }
    }

    fn manifest(files: Vec<v1::SnapshotFile>) -> v1::Manifest {
        let shards = vec![v1::ShardSnapshot { files, ..Default::default() }];
        v1::Manifest { shards, ..Default::default() }
    }

    #[test]
    fn a_file_is_known_by_identity_and_length() {
        let known = Known::new(&[sst("o", 0, 7, "id")]);
        let file = |id: &str, length| FrozenFile { immutable_id: Some(id.into()), length, ..Default::default() };
        assert_eq!(plan(&[&known], &file("id", 7)), [Part::Known(sst("o", 0, 7, "id"))]);
        assert_eq!(plan(&[&known], &file("id", 8)), [Part::New(0..8)]);
        assert_eq!(plan(&[&known], &file("other", 7)), [Part::New(0..7)]);
        assert_eq!(plan(&[], &file("id", 7)), [Part::New(0..7)]);
        // Without any identity nothing is known, not even nothing.
        assert_eq!(plan(&[&Known::new(&[sst("o", 0, 0, "")])], &FrozenFile::default()), [Part::New(0..0)]);
    }

    #[test]
    fn of_a_log_only_what_lies_beyond_the_known_pieces_is_new() {
        let known = Known::new(&[log(0, 10), log(10, 5)]);
        assert_eq!(plan(&[&known], &file(20)), [Part::Known(log(0, 10)), Part::Known(log(10, 5)), Part::New(15..20)]);
        assert_eq!(plan(&[&known], &file(15)), [Part::Known(log(0, 10)), Part::Known(log(10, 5))]);
        // A log that has become shorter is not the one whose piece is known.
        assert_eq!(plan(&[&known], &file(12)), [Part::Known(log(0, 10)), Part::New(10..12)]);
        assert_eq!(plan(&[&known], &file(0)), [Part::New(0..0)]);
        assert_eq!(plan(&[&Known::new(&[log(0, 0)])], &file(0)), [Part::Known(log(0, 0))]);
        assert_eq!(plan(&[&Known::new(&[log(0, 0)])], &file(3)), [Part::New(0..3)]);
    }

    #[test]
    fn pieces_of_aborted_rounds_fit_behind_those_of_the_base() {
        let (base, one, two) = (Known::new(&[log(0, 10)]), Known::new(&[log(10, 5)]), Known::new(&[log(10, 9)]));
        assert_eq!(
            plan(&[&base, &one, &two], &file(30)),
            [Part::Known(log(0, 10)), Part::Known(log(10, 9)), Part::New(19..30)]
        );
    }

    #[test]
    fn a_gap_between_known_pieces_is_filled_and_nothing_else() {
        let known = Known::new(&[log(0, 10), log(14, 6)]);
        assert_eq!(plan(&[&known], &file(20)), [Part::Known(log(0, 10)), Part::New(10..14), Part::Known(log(14, 6))]);
    }

    #[test]
    fn a_log_in_too_many_pieces_is_sent_anew() {
        let pieces: Vec<_> = (0..64).map(|n| log(n, 1)).collect();
        assert_eq!(plan(&[&Known::new(&pieces)], &file(64)).len(), 64);
        assert_eq!(plan(&[&Known::new(&pieces)], &file(65)), [Part::New(0..65)]);
    }

    #[test]
    fn what_is_left_of_a_pack_that_is_more_than_half_dead_is_not_known() {
        let left = |used, object_bytes| {
            let slice = v1::SnapshotFile { object_bytes, ..sst("pack", 0, used, "id") };
            // Two shards that were one refer to the same slice.
            Known::of(&manifest(vec![slice.clone(), slice])).files.len()
        };
        assert_eq!(left(50, 100), 1);
        assert_eq!(left(49, 100), 0);
        assert_eq!(left(49, 0), 1);
        let both = manifest(vec![sst("pack", 0, 10, "a"), sst("pack", 90, 10, "b"), sst("other", 0, 10, "c")]);
        assert_eq!(Known::of(&both).files.into_keys().collect::<Vec<_>>(), ["c"]);
    }

    #[test]
    fn files_of_other_prefixes_are_not_known() {
        let foreign = v1::SnapshotFile { origin: 1, ..sst("o", 0, 7, "id") };
        assert!(Known::of(&manifest(vec![foreign])).files.is_empty());
    }
}
