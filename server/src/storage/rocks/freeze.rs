//! Snapshots: a list of files and their lengths, taken in a fraction of a millisecond, put into a
//! directory later.
//!
//! SSTs are linked; the log and the manifest, which go on growing, are copied up to the length they had
//! at the freeze. The log's unflushed tail is part of the snapshot, so nothing need be flushed; where there
//! is too much of it a flush begins once the barrier has passed, for the snapshots after this one.
//!
//! Log and manifest are named by the open database and their number, so an uploaded beginning of one is
//! known again, and only the rest is new.
//!
//! Invariant: from the freeze to the end of the copy RocksDB deletes no file. It counts who wants that,
//! so any number of snapshots may stand at once.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{Read, Write},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use rocksdb::{FileType, FlushOptions, LiveFilesStorageInfo, LiveFilesStorageInfoOptions};
use xxhash_rust::xxh3::xxh3_128;

use super::{
    Engine,
    seal::{self, Seal},
};
use crate::storage::{Error, Frozen, FrozenFile, Result};

const COPY_BYTES: usize = 256 << 10;
/// Tries to see the same SSTs in two lists; a compaction would have to end in each of them.
const LISTINGS_MAX: usize = 100;

/// A frozen database.
pub(super) struct FrozenDb {
    files: Vec<Live>,
    kept: KeptFiles,
    /// Families to flush.
    flush: Vec<String>,
}

struct Live {
    name: String,
    length: u64,
    what: What,
}

enum What {
    Sst {
        smallest_key: Bytes,
        largest_key: Bytes,
    },
    /// Contents to write instead of the file's own, which may be another's already.
    Contents(Vec<u8>),
    /// Grows; only its first bytes belong to the snapshot.
    Growing {
        log: bool,
    },
}

impl FrozenDb {
    /// Freezes the database; the caller keeps it from being written to meanwhile. `families` are flushed
    /// later if the logs have become too long.
    pub(super) fn new(engine: Arc<Engine>, families: impl Iterator<Item = String>) -> Result<Self> {
        let kept = KeptFiles::new(engine)?;
        let files = list(&kept.engine)?;
        let logs = files.iter().filter(|file| matches!(file.what, What::Growing { log: true }));
        let engine = &kept.engine;
        let flush = engine.log.frozen(logs.map(|file| file.length).sum(), engine.shared.unflushed_log_bytes());
        Ok(Self { files, kept, flush: if flush { families.collect() } else { Vec::new() } })
    }

    fn begin_flush(&self) {
        let engine = &self.kept.engine;
        let mut options = FlushOptions::default();
        options.set_wait(false);
        let families: Vec<_> = self.flush.iter().filter_map(|name| engine.family(name).ok()).collect();
        let families: Vec<_> = families.iter().collect();
        if !families.is_empty() {
            // It is nothing that this snapshot needs, and what goes wrong with the disk the next write is told.
            let _ = engine.db.flush_cfs_opt(&families, &options);
        }
    }
}

impl Frozen for FrozenDb {
    fn write_files(self: Box<Self>, dir: &Path) -> Result<Vec<FrozenFile>> {
        self.begin_flush();
        let engine = &self.kept.engine;
        let mut seal = Seal::default();
        let mut frozen = Vec::with_capacity(self.files.len() + 1);
        for file in &self.files {
            let mut listed = FrozenFile { name: file.name.clone(), length: file.length, ..FrozenFile::default() };
            let (from, to) = (engine.path.join(&file.name), dir.join(&file.name));
            match &file.what {
                What::Sst { smallest_key, largest_key } => {
                    link_or_copy(engine, &from, &to, file.length)?;
                    listed.immutable_id = Some(engine.ids.get(&file.name, &from)?);
                    listed.smallest_key = smallest_key.clone();
                    listed.largest_key = largest_key.clone();
                    seal.add(&file.name, file.length, None);
                }
                What::Contents(contents) => {
                    let mut out = Copy::create(engine, &to)?;
                    out.write(contents)?;
                    listed.growing_id = Some(engine.id_of(&file.name, contents));
                    seal.add(&file.name, file.length, Some(out.checksum));
                }
                What::Growing { .. } => {
                    let checksum = copy(engine, &from, &to, file.length)?;
                    listed.growing_id = Some(format!("{}-{}", engine.session, file.name));
                    seal.add(&file.name, file.length, Some(checksum));
                }
            }
            frozen.push(listed);
        }
        let contents = seal.finish();
        let path = dir.join(seal::NAME);
        Copy::create(engine, &path)?.write(&contents)?;
        frozen.push(FrozenFile {
            name: seal::NAME.to_owned(),
            length: contents.len() as u64,
            growing_id: Some(engine.id_of(seal::NAME, &contents)),
            ..FrozenFile::default()
        });
        engine.ids.retain(|name| self.files.iter().any(|file| file.name == name));
        Ok(frozen)
    }
}

impl Engine {
    /// The identity of a small file that is written anew each time, by its content.
    fn id_of(&self, name: &str, contents: &[u8]) -> String {
        format!("{}-{name}-{:032x}", self.session, xxh3_128(contents))
    }
}

/// Keeps RocksDB from deleting files, and its database open, until dropped.
struct KeptFiles {
    engine: Arc<Engine>,
}

impl KeptFiles {
    fn new(engine: Arc<Engine>) -> Result<Self> {
        engine.db.disable_file_deletions().map_err(|err| engine.error(err))?;
        Ok(Self { engine })
    }
}

impl Drop for KeptFiles {
    fn drop(&mut self) {
        // It only decrements a count and deletes what may go; a failure leaves files for the next one.
        let _ = self.engine.db.enable_file_deletions();
    }
}

fn list(engine: &Engine) -> Result<Vec<Live>> {
    let mut options = LiveFilesStorageInfoOptions::new();
    // Never a flush.
    options.set_wal_size_for_flush(u64::MAX);
    for _ in 0..LISTINGS_MAX {
        let info = engine.db.get_livefiles_storage_info(&options).map_err(|err| engine.error(err))?;
        let mut bounds = HashMap::new();
        for file in engine.db.live_files().map_err(|err| engine.error(err))? {
            let name = file.name.trim_start_matches('/').to_owned();
            bounds.insert(name, (file.start_key.unwrap_or_default(), file.end_key.unwrap_or_default()));
        }
        // A flush or compaction that ended between the two lists makes them disagree.
        if let Some(files) = live(engine, &info, &bounds)? {
            return Ok(files);
        }
    }
    Err(engine.io(format!("the list of files changed {LISTINGS_MAX} times in a row")))
}

type Bounds = HashMap<String, (Vec<u8>, Vec<u8>)>;

fn live(engine: &Engine, info: &LiveFilesStorageInfo, bounds: &Bounds) -> Result<Option<Vec<Live>>> {
    let mut files = Vec::with_capacity(info.len());
    for entry in info {
        let name = entry.relative_filename_lossy().into_owned();
        let what = match entry.file_type() {
            FileType::TableFile => {
                let Some((smallest, largest)) = bounds.get(&name) else { return Ok(None) };
                let (smallest_key, largest_key) = (smallest.clone().into(), largest.clone().into());
                What::Sst { smallest_key, largest_key }
            }
            FileType::CurrentFile => What::Contents(entry.replacement_contents().to_vec()),
            FileType::DescriptorFile => What::Growing { log: false },
            FileType::WalFile => What::Growing { log: true },
            // Options are ours to give, at every open.
            FileType::OptionsFile => continue,
            other => return Err(engine.io(format!("file {name} of kind {other:?} in a snapshot"))),
        };
        files.push(Live { name, length: entry.size(), what });
    }
    Ok(Some(files))
}

fn link_or_copy(engine: &Engine, from: &Path, to: &Path, length: u64) -> Result<()> {
    // Links fail across devices and where there are too many; any reason to copy is a good one.
    if fs::hard_link(from, to).is_err() {
        copy(engine, from, to, length)?;
    }
    let found = fs::metadata(to).map_err(|err| file_error(engine, "read", to, &err))?.len();
    if found != length {
        return Err(Error::corrupt(&engine.path, format!("{} has {found} of {length} bytes", from.display())));
    }
    Ok(())
}

/// Copies the first `length` bytes and returns their checksum.
fn copy(engine: &Engine, from: &Path, to: &Path, length: u64) -> Result<u32> {
    let read_failed = |err| file_error(engine, "read", from, &err);
    let mut out = Copy::create(engine, to)?;
    let mut rest = File::open(from).map_err(read_failed)?.take(length);
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let read = rest.read(&mut buffer).map_err(read_failed)?;
        if read == 0 {
            break;
        }
        out.write(&buffer[..read])?;
    }
    if rest.limit() > 0 {
        let missing = rest.limit();
        return Err(Error::corrupt(&engine.path, format!("{} lacks {missing} of {length} bytes", from.display())));
    }
    Ok(out.checksum)
}

/// A new file, checksummed while it is written. Never synced: what power takes of it the seal tells, and the store has
/// it; a sync would hold up the writes of the live database.
struct Copy<'a> {
    engine: &'a Engine,
    path: &'a Path,
    file: File,
    checksum: u32,
}

impl<'a> Copy<'a> {
    fn create(engine: &'a Engine, path: &'a Path) -> Result<Self> {
        let file = File::create_new(path).map_err(|err| file_error(engine, "create", path, &err))?;
        Ok(Self { engine, path, file, checksum: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.checksum = crc32c::crc32c_append(self.checksum, bytes);
        self.file.write_all(bytes).map_err(|err| file_error(self.engine, "write", self.path, &err))
    }
}

fn file_error(engine: &Engine, doing: &str, path: &Path, err: &std::io::Error) -> Error {
    Error::io(&engine.path, &format!("{doing} {}", path.display()), err)
}
