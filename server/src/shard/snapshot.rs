//! Snapshots on their way to the object store and back: upload what the store lacks; restore is the
//! reverse.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use forebay_proto::{reason::Refused, v1};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::io::AsyncWriteExt as _;
use v1::ErrorReason as Reason;

use crate::{
    checkpoint::{
        layout,
        objects::{self, SharedStore},
    },
    storage::{Frozen, FrozenFile},
};

/// Files of one shard that travel at a time.
const PARALLEL: usize = 4;
/// Bytes that are asked for at a time.
const CHUNK: u64 = 8 << 20;

/// Files of a base checkpoint that need not be uploaded again, by SST identity.
pub type Known = HashMap<String, v1::SnapshotFile>;

/// Collects the immutable files of a checkpoint's manifest.
pub fn known_files(manifest: &v1::Manifest) -> Known {
    let files = manifest.shards.iter().flat_map(|shard| &shard.files);
    files.filter(|file| !file.sst_id.is_empty()).map(|file| (file.sst_id.clone(), file.clone())).collect()
}

/// Where a snapshot's files go.
#[derive(Debug, Clone)]
pub struct Destination {
    /// The store.
    pub store: SharedStore,
    /// The job's paths.
    pub job: layout::Job,
    /// Name of this server.
    pub server: String,
    /// The checkpoint.
    pub checkpoint: u64,
    /// The round.
    pub round: String,
}

/// Turns a frozen shard into files in `dir`, uploads those that the base does not hold, and completes
/// the record.
pub async fn upload(
    frozen: Box<dyn Frozen>,
    mut record: v1::ShardSnapshot,
    dir: PathBuf,
    known: &Known,
    to: &Destination,
) -> Result<v1::ShardSnapshot, Error> {
    let into = dir.clone();
    let files = blocking(move || {
        fs::create_dir_all(&into).map_err(|source| Error::local(&into, source))?;
        frozen.write_files(&into).map_err(Error::Storage)
    })
    .await?;
    let dir = &dir;
    let mut uploads = Vec::new();
    for file in files {
        uploads.push(upload_unless_known(file, dir, known, to));
    }
    record.files = stream::iter(uploads).buffered(PARALLEL).try_collect().await?;
    record.full_bytes = record.files.iter().map(|file| file.length).sum();
    record.new_bytes = record.files.iter().filter(|file| file.uploaded).map(|file| file.length).sum();
    Ok(record)
}

async fn upload_unless_known(
    file: FrozenFile,
    dir: &Path,
    known: &Known,
    to: &Destination,
) -> Result<v1::SnapshotFile, Error> {
    match file.immutable_id.as_ref().and_then(|id| known.get(id)) {
        Some(same) if same.length == file.length => {
            Ok(v1::SnapshotFile { name: file.name, uploaded: false, ..same.clone() })
        }
        _ => upload_file(file, dir, to).await,
    }
}

async fn upload_file(file: FrozenFile, dir: &Path, to: &Destination) -> Result<v1::SnapshotFile, Error> {
    let path = dir.join(&file.name);
    let object = match file.immutable_id {
        Some(_) => layout::shared_file(&to.server),
        None => layout::private_file(to.checkpoint, &to.round),
    };
    let checked = path.clone();
    let (crc32c, length) = blocking(move || checksum(&checked)).await?;
    if length != file.length {
        let detail = format!("{} has {length} bytes, frozen were {}", path.display(), file.length);
        return Err(Error::local(&path, io::Error::other(detail)));
    }
    let full = to.job.resolve(&object).expect("fresh names are confined");
    to.store.put_file(&full, &path).await.map_err(Error::Store)?;
    Ok(v1::SnapshotFile {
        name: file.name,
        object,
        offset: 0,
        length,
        crc32c,
        sst_id: file.immutable_id.unwrap_or_default(),
        smallest_key: file.smallest_key,
        largest_key: file.largest_key,
        uploaded: true,
    })
}

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

fn checksum(path: &Path) -> Result<(u32, u64), Error> {
    use io::Read as _;
    let read = || -> io::Result<(u32, u64)> {
        let mut file = fs::File::open(path)?;
        let (mut buffer, mut crc, mut length) = (vec![0; 1 << 18], 0, 0);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok((crc, length)),
                read => {
                    crc = crc32c::crc32c_append(crc, &buffer[..read]);
                    length += read as u64;
                }
            }
        }
    };
    read().map_err(|source| Error::local(path, source))
}

fn absent_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => Err(Error::local(Path::new(""), io::Error::other(panic))),
    }
}

/// Why a snapshot could not be stored or restored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object of the checkpoint is missing or not what was written.
    #[error("object {object} of the checkpoint is damaged: {detail}")]
    Damaged {
        /// The object, relative to the job's prefix.
        object: String,
        /// What was found.
        detail: String,
    },
    /// The object store failed.
    #[error(transparent)]
    Store(objects::Error),
    /// The backend failed.
    #[error(transparent)]
    Storage(crate::storage::Error),
    /// The local disk failed.
    #[error("local file {path}: {source}")]
    Local {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl Error {
    fn local(path: &Path, source: io::Error) -> Self {
        Self::Local { path: path.to_owned(), source }
    }

    /// True if trying again cannot help: the checkpoint itself is damaged.
    pub fn is_corrupt(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Storage(crate::storage::Error::Corrupt { .. }))
    }

    /// What clients of a shard that could not be restored are told.
    pub fn refused(&self) -> Refused {
        match self {
            Self::Damaged { object, .. } => {
                Refused::new(Reason::CheckpointCorrupt, self.to_string()).with("object", object)
            }
            Self::Storage(crate::storage::Error::Corrupt { path, .. }) => {
                Refused::new(Reason::CheckpointCorrupt, self.to_string()).with("object", path.display())
            }
            _ => Refused::new(Reason::ShardRestoring, self.to_string()),
        }
    }
}
