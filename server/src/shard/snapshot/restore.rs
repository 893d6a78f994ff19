//! From objects, or a local copy, to the files of a backend.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use forebay_proto::v1;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::io::AsyncWriteExt as _;

use super::{Error, PARALLEL, blocking, checksum};
use crate::checkpoint::{manifest::Folders, objects};

/// Bytes that are asked for at a time.
const CHUNK: u64 = 8 << 20;

/// Where a restore took its files from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// From a local copy, by hard links.
    Local,
    /// From the object store.
    Store,
}

/// The slices of one file, in their order.
type Pieces = Vec<v1::SnapshotFile>;

/// The files of another snapshot that are here, for what a snapshot has in common with it.
#[derive(Debug, Clone, Default)]
pub struct Near {
    dir: PathBuf,
    /// Names by identity and length: only of files that never change.
    names: BTreeMap<(String, u64), String>,
}

impl Near {
    /// The files of a snapshot in a directory.
    pub fn new(dir: PathBuf, snapshot: &v1::ShardSnapshot) -> Self {
        let whole = |file: &&v1::SnapshotFile| !file.sst_id.is_empty() && file.at == 0;
        let named = |file: &v1::SnapshotFile| ((file.sst_id.clone(), file.length), file.name.clone());
        Self { dir, names: snapshot.files.iter().filter(whole).map(named).collect() }
    }

    /// Its directory, if files of a snapshot are taken from there.
    pub fn dir_of_what_it_has(&self, snapshot: &v1::ShardSnapshot) -> Option<&Path> {
        let mut files = snapshot.files.iter();
        files.any(|file| self.find(std::slice::from_ref(file)).is_some()).then_some(&self.dir)
    }

    /// Where a file of these pieces is, if it is here.
    fn find(&self, pieces: &[v1::SnapshotFile]) -> Option<PathBuf> {
        let [only] = pieces else { return None };
        let name = self.names.get(&(only.sst_id.clone(), only.length))?;
        let path = self.dir.join(name);
        fs::metadata(&path).is_ok_and(|found| found.len() == only.length).then_some(path)
    }
}

/// Bytes of a snapshot that are not here.
pub fn missing(snapshot: &v1::ShardSnapshot, near: &Near) -> u64 {
    let here = |file: &&v1::SnapshotFile| near.find(std::slice::from_ref(*file)).is_some();
    snapshot.files.iter().filter(|file| !here(file)).map(|file| file.length).sum()
}

/// Puts the files of a snapshot into `db`, an empty directory: from a local copy where it is whole,
/// else from the store, each piece verified, but for those that it has in common with what is near.
pub async fn restore(
    snapshot: &v1::ShardSnapshot,
    copy: PathBuf,
    near: &Near,
    db: PathBuf,
    folders: &Folders,
) -> Result<Source, Error> {
    let files = by_name(&snapshot.files)?;
    let (linked, into) = (files.clone(), db.clone());
    if blocking(move || Ok(link_copy(&linked, &copy, &into).is_ok())).await? {
        return Ok(Source::Local);
    }
    fs::remove_dir_all(&db).or_else(absent_is_fine).map_err(|source| Error::local(&db, source))?;
    fs::create_dir_all(&db).map_err(|source| Error::local(&db, source))?;
    let mut downloads = Vec::new();
    for (name, pieces) in &files {
        if let Some(here) = near.find(pieces)
            && fs::hard_link(here, db.join(name)).is_ok()
        {
            continue;
        }
        downloads.push(download(db.join(name), snapshot, pieces, folders));
    }
    stream::iter(downloads).buffer_unordered(PARALLEL).try_collect::<()>().await?;
    Ok(Source::Store)
}

/// Groups slices by their file, and checks that they are plain names and leave no gap.
fn by_name(slices: &[v1::SnapshotFile]) -> Result<BTreeMap<String, Pieces>, Error> {
    let mut files: BTreeMap<String, Pieces> = BTreeMap::new();
    for slice in slices {
        if slice.name.is_empty() || slice.name.contains(['/', '\\']) || slice.name.starts_with('.') {
            let detail = format!("a file of the shard is named {:?}", slice.name);
            return Err(Error::Damaged { object: slice.object.clone(), detail });
        }
        files.entry(slice.name.clone()).or_default().push(slice.clone());
    }
    for (name, pieces) in &mut files {
        pieces.sort_by_key(|piece| piece.at);
        let mut end = 0;
        for piece in pieces {
            if piece.at != end {
                let detail = format!("a piece of file {name} begins at {}, the one before it ends at {end}", piece.at);
                return Err(Error::Damaged { object: piece.object.clone(), detail });
            }
            end += piece.length;
        }
    }
    Ok(files)
}

async fn download(
    path: PathBuf,
    snapshot: &v1::ShardSnapshot,
    pieces: &[v1::SnapshotFile],
    folders: &Folders,
) -> Result<(), Error> {
    let mut out = tokio::fs::File::create(&path).await.map_err(|source| Error::local(&path, source))?;
    for piece in pieces {
        let object = folders.resolve(snapshot, piece).ok_or_else(|| Error::Damaged {
            object: piece.object.clone(),
            detail: "its name leaves the job's prefix".into(),
        })?;
        append(piece, &object, &path, &mut out, folders).await?;
    }
    out.sync_all().await.map_err(|source| Error::local(&path, source))
}

async fn append(
    piece: &v1::SnapshotFile,
    object: &str,
    path: &Path,
    out: &mut tokio::fs::File,
    folders: &Folders,
) -> Result<(), Error> {
    let damaged = |detail: String| Error::Damaged { object: piece.object.clone(), detail };
    let (mut at, mut crc) = (0, 0);
    while at < piece.length {
        let range = piece.offset + at..piece.offset + piece.length.min(at + CHUNK);
        let wanted = range.end - range.start;
        let bytes = match folders.store.get_range(object, range).await {
            Ok(bytes) => bytes,
            Err(objects::Error::NotFound { .. }) => return Err(damaged("it is missing".into())),
            Err(error) => return Err(Error::Store(error)),
        };
        if bytes.len() as u64 != wanted {
            return Err(damaged(format!("it ends after {} of {} bytes", at + bytes.len() as u64, piece.length)));
        }
        crc = crc32c::crc32c_append(crc, &bytes);
        out.write_all(&bytes).await.map_err(|source| Error::local(path, source))?;
        at += wanted;
        if at < piece.length {
            // One long sync at the end would hold up the logs of shards that are served from the same disk.
            out.sync_data().await.map_err(|source| Error::local(path, source))?;
        }
    }
    if crc != piece.crc32c {
        return Err(damaged(format!("its checksum is {crc:08x}, recorded is {:08x}", piece.crc32c)));
    }
    Ok(())
}

/// Links the files of a local copy: SSTs by size (their blocks carry checksums), the rest by checksum.
fn link_copy(files: &BTreeMap<String, Pieces>, copy: &Path, db: &Path) -> io::Result<()> {
    fs::create_dir_all(db)?;
    for (name, pieces) in files {
        let (from, to) = (copy.join(name), db.join(name));
        let length: u64 = pieces.iter().map(|piece| piece.length).sum();
        if pieces.iter().all(|piece| piece.sst_id.is_empty()) {
            fs::copy(&from, &to)?;
            for piece in pieces {
                if checksum(&to, piece.at..piece.at + piece.length).map_err(io::Error::other)? != piece.crc32c {
                    return Err(io::Error::other("the local copy differs"));
                }
            }
        } else {
            fs::hard_link(&from, &to)?;
        }
        if fs::metadata(&to)?.len() != length {
            return Err(io::Error::other("the local copy differs"));
        }
    }
    Ok(())
}

fn absent_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::checkpoint::{layout, memory::MemoryStore, objects::ObjectStore as _};

    fn slice(name: &str, object: &str, offset: u64, at: u64, content: &str) -> v1::SnapshotFile {
        v1::SnapshotFile {
            name: name.into(),
            object: object.into(),
            offset,
            at,
            length: content.len() as u64,
            crc32c: crc32c::crc32c(content.as_bytes()),
            ..Default::default()
        }
    }

    async fn folders() -> Folders {
        let store = MemoryStore::default();
        store.put("job/pack-1", Bytes::from_static(b"..one..two")).await.unwrap();
        store.put("parent/pack-2", Bytes::from_static(b"three")).await.unwrap();
        let job = |prefix| layout::Job::at(prefix).unwrap();
        Folders { store: Arc::new(store), own: job("job/") }
    }

    fn snapshot(files: Vec<v1::SnapshotFile>) -> v1::ShardSnapshot {
        v1::ShardSnapshot { files, origins: vec!["parent/".into()], ..Default::default() }
    }

    #[tokio::test]
    async fn pieces_of_a_file_are_joined_from_packs_and_origins_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let from_parent = v1::SnapshotFile { origin: 1, ..slice("log", "pack-2", 0, 3, "three") };
        let snapshot =
            snapshot(vec![from_parent, slice("log", "pack-1", 2, 0, "one"), slice("x", "pack-1", 7, 0, "two")]);
        let (copy, db) = (dir.path().join("copy"), dir.path().join("db"));
        let source = restore(&snapshot, copy.clone(), &Near::default(), db.clone(), &folders().await).await.unwrap();
        assert_eq!(source, Source::Store);
        assert_eq!(fs::read_to_string(db.join("log")).unwrap(), "onethree");
        assert_eq!(fs::read_to_string(db.join("x")).unwrap(), "two");
        fs::rename(&db, &copy).unwrap();
        assert_eq!(restore(&snapshot, copy, &Near::default(), db, &folders().await).await.unwrap(), Source::Local);
    }

    #[tokio::test]
    async fn what_is_near_is_linked_and_not_fetched() {
        let dir = tempfile::tempdir().unwrap();
        let sst = |name: &str, id: &str, object: &str, content: &str| v1::SnapshotFile {
            sst_id: id.into(),
            ..slice(name, object, 2, 0, content)
        };
        // The same file under another name, another file under the same name, and one that was cut off meanwhile.
        let before = snapshot(vec![
            sst("7.sst", "a", "gone", "one"),
            sst("8.sst", "b", "gone", "old"),
            sst("9.sst", "c", "gone", "cut"),
        ]);
        let here = dir.path().join("here");
        fs::create_dir(&here).unwrap();
        for (name, content) in [("7.sst", "one"), ("8.sst", "old"), ("9.sst", "c")] {
            fs::write(here.join(name), content).unwrap();
        }
        let near = Near::new(here, &before);
        let wanted = snapshot(vec![sst("1.sst", "a", "gone", "one"), sst("8.sst", "x", "pack-1", "one")]);
        assert_eq!(missing(&wanted, &near), 3);
        let db = dir.path().join("db");
        let folders = folders().await;
        assert_eq!(
            restore(&wanted, dir.path().join("copy"), &near, db.clone(), &folders).await.unwrap(),
            Source::Store
        );
        assert_eq!(fs::read_to_string(db.join("1.sst")).unwrap(), "one");
        assert_eq!(fs::read_to_string(db.join("8.sst")).unwrap(), "one");
        let cut = snapshot(vec![sst("9.sst", "c", "gone", "cut")]);
        assert!(restore(&cut, dir.path().join("copy"), &near, db, &folders).await.is_err());
    }

    #[tokio::test]
    async fn a_gap_a_stranger_and_a_damaged_slice_are_told_by_their_object() {
        let restore_files = restore;
        let restore = async |file: v1::SnapshotFile| {
            let dir = tempfile::tempdir().unwrap();
            let db = dir.path().join("db");
            let result =
                restore_files(&snapshot(vec![file]), dir.path().join("copy"), &Near::default(), db, &folders().await)
                    .await;
            match result.unwrap_err() {
                Error::Damaged { object, .. } => object,
                other => panic!("{other}"),
            }
        };
        assert_eq!(restore(slice("log", "pack-1", 2, 3, "one")).await, "pack-1");
        assert_eq!(restore(slice("log", "../x", 2, 0, "one")).await, "../x");
        assert_eq!(restore(slice("log", "pack-1", 2, 0, "ONE")).await, "pack-1");
        assert_eq!(restore(slice("log", "pack-9", 0, 0, "one")).await, "pack-9");
        assert_eq!(restore(slice("../log", "pack-1", 2, 0, "one")).await, "pack-1");
        assert_eq!(restore(v1::SnapshotFile { origin: 2, ..slice("log", "pack-1", 2, 0, "one") }).await, "pack-1");
        assert_eq!(restore(slice("log", "pack-1", 7, 0, "two and more")).await, "pack-1");
    }
}
