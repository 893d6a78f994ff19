//! Snapshots on their way to the object store and back: [`upload`] stores what the store lacks ([`Known`] tells
//! what it has), small files in packs ([`Packer`]); [`restore`] is the reverse.

mod known;
mod pack;
mod restore;
mod send;
#[cfg(test)]
mod tests;
mod upload;

use std::{
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

use forebay_proto::{reason::Refused, v1::ErrorReason as Reason};

pub use known::{Known, Part, plan};
pub use pack::{Names, Packer, Target};
pub use restore::{Near, Source, missing, restore};
pub use send::Uploads;
pub use upload::{Failed, upload};

use crate::checkpoint::{manifest, objects};

/// Files of one shard that travel at a time.
const PARALLEL: usize = 4;

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

impl From<manifest::Error> for Error {
    fn from(error: manifest::Error) -> Self {
        match error {
            manifest::Error::Store(error) => Self::Store(error),
            manifest::Error::Damaged { object, detail } => Self::Damaged { object, detail },
        }
    }
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

/// Checksum of some bytes of a file; fewer if it ends before.
fn checksum(path: &Path, range: Range<u64>) -> Result<u32, Error> {
    use io::{Read as _, Seek as _};
    let read = || -> io::Result<u32> {
        let mut file = fs::File::open(path)?;
        file.seek(io::SeekFrom::Start(range.start))?;
        let mut rest = file.take(range.end - range.start);
        let (mut buffer, mut crc) = (vec![0; 1 << 18], 0);
        loop {
            match rest.read(&mut buffer)? {
                0 => return Ok(crc),
                read => crc = crc32c::crc32c_append(crc, &buffer[..read]),
            }
        }
    };
    read().map_err(|source| Error::local(path, source))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => Err(Error::local(Path::new(""), io::Error::other(panic))),
    }
}
