//! From a frozen shard to objects.

use std::{
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use forebay_proto::v1;
use futures::{StreamExt as _, future::join, stream};

use super::{
    Error, PARALLEL, blocking, checksum,
    known::{self, Known, Part},
    pack::{Packer, Piece, Target},
};
use crate::storage::{Frozen, FrozenFile};

/// A file with more is an object of its own.
const PACKED_BYTES_MAX: u64 = 16 << 20;

/// A snapshot that did not get through, and what of it did.
#[derive(Debug)]
pub struct Failed {
    /// Why.
    pub error: Arc<Error>,
    /// Slices that were stored all the same.
    pub uploaded: Vec<v1::SnapshotFile>,
}

impl Failed {
    /// A snapshot that did not even begin.
    pub fn local(dir: &Path, cause: &str) -> Self {
        Error::local(dir, io::Error::other(cause)).into()
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error: Arc::new(error), uploaded: Vec::new() }
    }
}

/// Turns a frozen shard into files in `dir`, uploads what is not known, and completes the record.
pub async fn upload(
    frozen: crate::storage::Result<Box<dyn Frozen>>,
    mut record: v1::ShardSnapshot,
    dir: PathBuf,
    known: &[&Known],
    target: &Target,
    packer: &Packer,
) -> Result<v1::ShardSnapshot, Failed> {
    let into = dir.clone();
    let written = blocking(move || {
        fs::create_dir_all(&into).map_err(|source| Error::local(&into, source))?;
        frozen.and_then(|frozen| frozen.write_files(&into)).map_err(Error::Storage)
    });
    let files = match written.await {
        Ok(files) => files,
        Err(error) => {
            // The other shards are not to wait for this one.
            packer.give(Vec::new()).await;
            return Err(error.into());
        }
    };
    let Plan { mut slices, packed, single } = Plan::of(&files, known);
    let piece = |slice: &v1::SnapshotFile| Piece { path: dir.join(&slice.name), at: slice.at, length: slice.length };
    let pieces = packed.iter().map(|index| piece(&slices[*index])).collect();
    let mut alone = Vec::new();
    for index in &single {
        alone.push(put_alone(dir.join(&slices[*index].name), slices[*index].clone(), target));
    }
    let alone = stream::iter(alone).buffered(PARALLEL).collect::<Vec<_>>();
    let (placed, alone) = join(packer.give(pieces), alone).await;

    let mut failed = None;
    for (index, answer) in packed.into_iter().zip(placed) {
        match answer {
            Ok(placed) => {
                record.puts += placed.puts;
                placed.record(&mut slices[index]);
            }
            Err(error) => failed = Some(error),
        }
    }
    for (index, stored) in single.into_iter().zip(alone) {
        match stored {
            Ok((slice, puts)) => {
                record.puts += puts;
                slices[index] = slice;
            }
            Err(error) => failed = Some(Arc::new(error)),
        }
    }
    if let Some(error) = failed {
        return Err(Failed { error, uploaded: slices.into_iter().filter(|slice| slice.uploaded).collect() });
    }
    record.full_bytes = slices.iter().map(|slice| slice.length).sum();
    record.new_bytes = slices.iter().filter(|slice| slice.uploaded).map(|slice| slice.length).sum();
    record.files = slices;
    Ok(record)
}

/// The slices of a snapshot, and which of them are to be uploaded.
#[derive(Default)]
struct Plan {
    slices: Vec<v1::SnapshotFile>,
    /// Those that go into packs.
    packed: Vec<usize>,
    /// Those that are objects of their own.
    single: Vec<usize>,
}

impl Plan {
    fn of(files: &[FrozenFile], known: &[&Known]) -> Self {
        let mut plan = Self::default();
        for file in files {
            for part in known::plan(known, file) {
                match part {
                    Part::Known(slice) => {
                        plan.slices.push(v1::SnapshotFile { name: file.name.clone(), uploaded: false, ..slice });
                    }
                    Part::New(range) => {
                        // A store takes whole files only.
                        let alone = range == (0..file.length) && file.length > PACKED_BYTES_MAX;
                        let list = if alone { &mut plan.single } else { &mut plan.packed };
                        list.push(plan.slices.len());
                        plan.slices.push(slice(file, &range));
                    }
                }
            }
        }
        plan
    }
}

/// The record of a part of a file that is nowhere yet.
fn slice(file: &FrozenFile, range: &Range<u64>) -> v1::SnapshotFile {
    v1::SnapshotFile {
        name: file.name.clone(),
        at: range.start,
        length: range.end - range.start,
        sst_id: file.immutable_id.clone().unwrap_or_default(),
        log_id: file.growing_id.clone().unwrap_or_default(),
        smallest_key: file.smallest_key.clone(),
        largest_key: file.largest_key.clone(),
        ..Default::default()
    }
}

/// Stores a whole file as an object.
async fn put_alone(path: PathBuf, slice: v1::SnapshotFile, target: &Target) -> Result<(v1::SnapshotFile, u64), Error> {
    let length = slice.length;
    let checked = path.clone();
    let crc32c = blocking(move || {
        check_length(&checked, length)?;
        checksum(&checked, 0..length)
    })
    .await?;
    let object = target.names.fresh();
    let full = target.job.resolve(&object).expect("fresh names are confined");
    let puts = target.uploads.put_file(&target.store, &full, &path, length).await?;
    Ok((v1::SnapshotFile { object, object_bytes: length, crc32c, uploaded: true, ..slice }, puts))
}

fn check_length(path: &Path, length: u64) -> Result<(), Error> {
    let found = fs::metadata(path).map_err(|source| Error::local(path, source))?.len();
    if found == length {
        return Ok(());
    }
    Err(Error::local(path, io::Error::other(format!("it has {found} bytes, frozen were {length}"))))
}
