//! From a frozen shard to objects.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use forebay_proto::v1;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{Error, PARALLEL, blocking, checksum};
use crate::{
    checkpoint::{layout, objects::SharedStore},
    storage::{Frozen, FrozenFile},
};

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
    let length = fs::metadata(&path).map_err(|source| Error::local(&path, source))?.len();
    if length != file.length {
        let detail = format!("{} has {length} bytes, frozen were {}", path.display(), file.length);
        return Err(Error::local(&path, io::Error::other(detail)));
    }
    let crc32c = blocking(move || checksum(&checked, 0..length)).await?;
    let full = to.job.resolve(&object).expect("fresh names are confined");
    to.store.put_file(&full, &path).await.map_err(Error::Store)?;
    Ok(v1::SnapshotFile {
        name: file.name,
        object,
        length,
        crc32c,
        sst_id: file.immutable_id.unwrap_or_default(),
        smallest_key: file.smallest_key,
        largest_key: file.largest_key,
        uploaded: true,
        ..Default::default()
    })
}
