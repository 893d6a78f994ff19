//! From objects, or a local copy, to the files of a backend.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use forebay_proto::v1;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::io::AsyncWriteExt as _;

use super::{Error, PARALLEL, blocking, checksum};
use crate::checkpoint::{
    layout,
    objects::{self, SharedStore},
};

/// Bytes that are asked for at a time.
const CHUNK: u64 = 8 << 20;

/// Puts the files of a snapshot into `db`, an empty directory: from a local copy where it is whole,
/// else from the store, each file verified.
pub async fn restore(
    snapshot: &v1::ShardSnapshot,
    copy: PathBuf,
    db: PathBuf,
    store: &SharedStore,
    job: &layout::Job,
) -> Result<Source, Error> {
    for file in &snapshot.files {
        if file.name.is_empty() || file.name.contains(['/', '\\']) || file.name.starts_with('.') {
            let detail = format!("a file of the shard is named {:?}", file.name);
            return Err(Error::Damaged { object: file.object.clone(), detail });
        }
    }
    let (files, into) = (snapshot.files.clone(), db.clone());
    if blocking(move || Ok(link_copy(&files, &copy, &into).is_ok())).await? {
        return Ok(Source::Local);
    }
    fs::remove_dir_all(&db).or_else(absent_is_fine).map_err(|source| Error::local(&db, source))?;
    fs::create_dir_all(&db).map_err(|source| Error::local(&db, source))?;
    let mut downloads = Vec::new();
    for file in &snapshot.files {
        downloads.push(download(file, &db, store, job));
    }
    stream::iter(downloads).buffer_unordered(PARALLEL).try_collect::<()>().await?;
    Ok(Source::Store)
}

/// Where a restore took its files from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// From a local copy, by hard links.
    Local,
    /// From the object store.
    Store,
}

async fn download(file: &v1::SnapshotFile, db: &Path, store: &SharedStore, job: &layout::Job) -> Result<(), Error> {
    let damaged = |detail: String| Error::Damaged { object: file.object.clone(), detail };
    let object = job.resolve(&file.object).ok_or_else(|| damaged("its name leaves the job's prefix".into()))?;
    let path = db.join(&file.name);
    let mut out = tokio::fs::File::create(&path).await.map_err(|source| Error::local(&path, source))?;
    let (mut at, mut crc) = (0, 0);
    while at < file.length {
        let range = file.offset + at..file.offset + file.length.min(at + CHUNK);
        let wanted = range.end - range.start;
        let bytes = match store.get_range(&object, range).await {
            Ok(bytes) => bytes,
            Err(objects::Error::NotFound { .. }) => return Err(damaged("it is missing".into())),
            Err(error) => return Err(Error::Store(error)),
        };
        if bytes.len() as u64 != wanted {
            return Err(damaged(format!("it ends after {} of {} bytes", at + bytes.len() as u64, file.length)));
        }
        crc = crc32c::crc32c_append(crc, &bytes);
        out.write_all(&bytes).await.map_err(|source| Error::local(&path, source))?;
        at += wanted;
    }
    if crc != file.crc32c {
        return Err(damaged(format!("its checksum is {crc:08x}, recorded is {:08x}", file.crc32c)));
    }
    out.sync_all().await.map_err(|source| Error::local(&path, source))
}

/// Links the files of a local copy: SSTs by size (their blocks carry checksums), the rest by checksum.
fn link_copy(files: &[v1::SnapshotFile], copy: &Path, db: &Path) -> io::Result<()> {
    fs::create_dir_all(db)?;
    for file in files {
        let (from, to) = (copy.join(&file.name), db.join(&file.name));
        if file.sst_id.is_empty() {
            fs::copy(&from, &to)?;
            if checksum(&to).map_err(io::Error::other)? != (file.crc32c, file.length) {
                return Err(io::Error::other("the local copy differs"));
            }
        } else {
            fs::hard_link(&from, &to)?;
            if fs::metadata(&to)?.len() != file.length {
                return Err(io::Error::other("the local copy differs"));
            }
        }
    }
    Ok(())
}

fn absent_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}
