//! The object store as the rest of the server sees it.

use std::{fmt::Debug, ops::Range, path::Path, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

/// Why an operation on the object store failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such object.
    #[error("no object {path}")]
    NotFound {
        /// The object.
        path: String,
    },
    /// The object is not as the condition says, the store answers. If somebody on the way sent the request
    /// twice, it may be this very call's; who must know reads it back.
    #[error("object {path} was changed by somebody else")]
    Conflict {
        /// The object.
        path: String,
    },
    /// The answer was lost: the write may or may not have happened.
    #[error("no answer to the write of {path}: it may or may not be in force ({detail})")]
    Ambiguous {
        /// The object.
        path: String,
        /// What was seen.
        detail: String,
    },
    /// The store refuses the caller, the bucket or the request; trying again does not help.
    #[error("{store} refused {path}: {detail}")]
    Refused {
        /// The store's URL.
        store: String,
        /// The object.
        path: String,
        /// What the store said.
        detail: String,
    },
    /// The store does not keep what a commit point needs; nothing may be stored there.
    #[error("{store} {fault}: unsafe for checkpoints")]
    Unsafe {
        /// The store's URL.
        store: String,
        /// What it does wrong, such as `ignores If-Match`.
        fault: String,
    },
    /// The store cannot be reached or is overloaded; retries within the operation did not help.
    #[error("{store} is unavailable for {path}: {detail}")]
    Unavailable {
        /// The store's URL.
        store: String,
        /// The object.
        path: String,
        /// What was seen.
        detail: String,
    },
}

/// The result of an operation on the object store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The version of an object's content (an etag); two different contents never share one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(pub String);

/// What must hold for a conditional write to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The object does not exist.
    Absent,
    /// The object has this version.
    Is(Version),
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Path below the store's root.
    pub path: String,
    /// Length in bytes.
    pub length: u64,
    /// When the store wrote it, by the store's clock, milliseconds since 1970.
    pub modified_ms: i64,
}

/// Objects under paths such as `a/b/c`, relative to the store's root.
///
/// A `put` writes all of an object or nothing; no partial object is ever seen. Reads see the last
/// completed write. Calls retry what is safe to retry and only then answer
/// [`Unavailable`](Error::Unavailable).
#[async_trait]
pub trait ObjectStore: Debug + Send + Sync {
    /// Writes an object, whatever was there.
    async fn put(&self, path: &str, bytes: Bytes) -> Result<()>;

    /// Writes a file's bytes as an object, in bounded memory.
    async fn put_file(&self, path: &str, file: &Path) -> Result<()>;

    /// Requests that a [`put_file`](Self::put_file) of so many bytes is, if none has to be repeated.
    fn put_requests(&self, length: u64) -> u64 {
        let _ = length;
        1
    }

    /// Writes an object if the condition holds, and returns its new version. A lost answer is
    /// [`Ambiguous`](Error::Ambiguous), never retried inside.
    async fn put_if(&self, path: &str, bytes: Bytes, condition: &Condition) -> Result<Version>;

    /// Reads a whole object and its version.
    async fn get(&self, path: &str) -> Result<(Bytes, Version)>;

    /// Reads some bytes of an object; fewer only if it ends before.
    async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes>;

    /// Lists the objects whose path starts with a prefix, in byte order of their paths.
    async fn list(&self, prefix: &str) -> Result<Vec<Object>>;

    /// Deletes an object; an absent one is fine.
    async fn delete(&self, path: &str) -> Result<()>;

    /// The store's URL without credentials, for messages.
    fn url(&self) -> &str;
}

/// Start of file names that stores keep for themselves; no path has a segment that begins so.
pub const RESERVED: &str = ".forebay-";

/// Refuses a path that is not `a/b/c`, so that every store takes the same paths and none leaves its
/// root: no empty, `.`, `..` or reserved segment, no backslash, no control character, at most 900 bytes.
pub fn check_path(store: &str, path: &str) -> Result<()> {
    let fault = if path.is_empty() {
        "a path must not be empty"
    } else if path.len() > PATH_BYTES_MAX {
        "a path must not be longer than 900 bytes"
    } else if path.contains(|c: char| c.is_control() || c == '\\') {
        "a path must not hold a control character or a backslash"
    } else if path.split('/').any(|part| matches!(part, "" | "." | "..") || part.starts_with(RESERVED)) {
        "a path must be segments joined by `/`, none of them empty, `.`, `..` or `.forebay-…`"
    } else {
        return Ok(());
    };
    Err(Error::Refused { store: store.into(), path: format!("{path:?}"), detail: fault.into() })
}

/// S3 takes 1,024 bytes of key; the rest is for the prefix in the store's URL.
const PATH_BYTES_MAX: usize = 900;

/// A store that many tasks share.
pub type SharedStore = Arc<dyn ObjectStore>;
