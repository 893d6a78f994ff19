//! Objects in Google Cloud Storage and Azure Blob Storage, by the crate `object_store`.
//!
//! There are two clients: one repeats what is safe to repeat, the other nothing, for conditional writes: after
//! a lost answer a repetition meets its own first write and takes it for somebody else's.
//!
//! A version is what the store compares: Google's generation, Azure's ETag.

#[cfg(feature = "azure")]
mod azure;
mod file;
#[cfg(feature = "gcs")]
mod gcs;

use std::{ops::Range, path::Path, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{
    BackoffConfig, ClientOptions, GetOptions, GetRange, ObjectMeta, ObjectStoreExt, PutMode, PutOptions, RetryConfig,
    UpdateVersion, client::HttpError, client::HttpErrorKind, path::Path as Location,
};
use tokio::sync::Semaphore;

use super::{
    objects::{Condition, Error, Object, ObjectStore, Result, Version, check_path},
    settings::CloudConfig,
};

/// A bucket or container, or what is below a prefix in it.
#[derive(Debug)]
pub struct OtherStore {
    url: String,
    /// Empty, or ends with `/`.
    prefix: String,
    compares: Compares,
    repeating: Arc<dyn object_store::ObjectStore>,
    once: Arc<dyn object_store::ObjectStore>,
    config: CloudConfig,
    /// One for each part in memory.
    parts: Semaphore,
}

/// What tells versions apart.
#[derive(Debug, Clone, Copy)]
enum Compares {
    #[cfg(feature = "gcs")]
    Generation,
    #[cfg(feature = "azure")]
    Etag,
}

impl OtherStore {
    fn new(
        url: &str,
        config: &CloudConfig,
        compares: Compares,
        client: impl Fn(RetryConfig) -> object_store::Result<Arc<dyn object_store::ObjectStore>>,
    ) -> Result<Self> {
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let url = format!("{scheme}://{}", rest.trim_end_matches('/'));
        let refused = |detail: String| Error::Refused { store: url.clone(), path: "its configuration".into(), detail };
        if bucket.is_empty() || !bucket.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')) {
            // Not repeated in the message: it may hold a password.
            let detail = "it must be scheme://bucket/prefix; credentials come from the environment".into();
            return Err(Error::Refused { store: format!("{scheme}://"), path: "its URL".into(), detail });
        }
        if let Some(fault) = config.fault() {
            return Err(refused(fault));
        }
        let prefix = match prefix.trim_end_matches('/') {
            "" => String::new(),
            prefix => {
                check_path(&url, prefix)?;
                format!("{prefix}/")
            }
        };
        let repeating = RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: config.attempts_max as usize - 1,
            retry_timeout: config.attempt_timeout * config.attempts_max,
        };
        let once = RetryConfig { max_retries: 0, ..repeating.clone() };
        let client = |retries| client(retries).map_err(|err| refused(chain(&err)));
        let (repeating, once) = (client(repeating)?, client(once)?);
        let parts = Semaphore::new(config.parts_parallel);
        Ok(Self { url, prefix, compares, repeating, once, config: config.clone(), parts })
    }

    fn location(&self, path: &str) -> Result<Location> {
        check_path(&self.url, path)?;
        Location::parse(format!("{}{path}", self.prefix)).map_err(|err| self.refused(path, err.to_string()))
    }

    fn version(&self, e_tag: Option<String>, version: Option<String>) -> Result<Version> {
        let (found, what) = match self.compares {
            #[cfg(feature = "gcs")]
            Compares::Generation => (version, "a generation"),
            #[cfg(feature = "azure")]
            Compares::Etag => (e_tag, "an ETag"),
        };
        found
            .map(Version)
            .ok_or_else(|| Error::Unsafe { store: self.url.clone(), fault: format!("answers without {what}") })
    }

    /// None: the version is of no object in this store.
    fn mode(&self, condition: &Condition) -> Option<PutMode> {
        let update = |e_tag, version| Some(PutMode::Update(UpdateVersion { e_tag, version }));
        match (condition, self.compares) {
            (Condition::Absent, _) => Some(PutMode::Create),
            // Google calls a request wrong whose generation is no number; 0 would mean "absent".
            #[cfg(feature = "gcs")]
            (Condition::Is(Version(generation)), Compares::Generation) => match generation.parse::<u64>() {
                Ok(1..) => update(None, Some(generation.clone())),
                _ => None,
            },
            #[cfg(feature = "azure")]
            (Condition::Is(Version(e_tag)), Compares::Etag) => update(Some(e_tag.clone()), None),
        }
    }

    fn refused(&self, path: &str, detail: String) -> Error {
        Error::Refused { store: self.url.clone(), path: path.into(), detail }
    }

    /// What an error means, of anything but a conditional write.
    fn error(&self, path: &str, err: &object_store::Error) -> Error {
        use object_store::Error as Of;
        let detail = chain(err);
        match err {
            _ if NO_BUCKET.iter().any(|code| detail.contains(code)) => {
                self.refused(path, format!("{detail}: create the bucket or correct the directory in the configuration"))
            }
            Of::NotFound { .. } => Error::NotFound { path: path.into() },
            Of::PermissionDenied { .. } | Of::Unauthenticated { .. } => {
                self.refused(path, format!("{detail}: check the credentials and the bucket's policy"))
            }
            _ if is_client_error(&detail) => self.refused(path, detail),
            Of::InvalidPath { .. } | Of::NotSupported { .. } | Of::NotImplemented { .. } => self.refused(path, detail),
            _ => Error::Unavailable { store: self.url.clone(), path: path.into(), detail },
        }
    }

    async fn head(&self, path: &str, location: &Location) -> Result<ObjectMeta> {
        self.repeating.head(location).await.map_err(|err| self.error(path, &err))
    }
}

#[async_trait]
impl ObjectStore for OtherStore {
    async fn put(&self, path: &str, bytes: Bytes) -> Result<()> {
        let location = self.location(path)?;
        self.repeating.put(&location, bytes.into()).await.map(drop).map_err(|err| self.error(path, &err))
    }

    async fn put_file(&self, path: &str, file: &Path) -> Result<()> {
        self.upload(path, file).await
    }

    async fn put_if(&self, path: &str, bytes: Bytes, condition: &Condition) -> Result<Version> {
        use object_store::Error as Of;
        let location = self.location(path)?;
        let Some(mode) = self.mode(condition) else { return Err(Error::Conflict { path: path.into() }) };
        let options = PutOptions { mode, ..PutOptions::default() };
        match self.once.put_opts(&location, bytes.into(), options).await {
            Ok(put) => self.version(put.e_tag, put.version),
            Err(Of::AlreadyExists { .. } | Of::Precondition { .. }) => Err(Error::Conflict { path: path.into() }),
            Err(err) => match self.error(path, &err) {
                Error::NotFound { .. } => Err(Error::Conflict { path: path.into() }),
                Error::Unavailable { detail, .. } if !never_sent(&err) => {
                    Err(Error::Ambiguous { path: path.into(), detail: format!("{}: {detail}", self.url) })
                }
                err => Err(err),
            },
        }
    }

    async fn get(&self, path: &str) -> Result<(Bytes, Version)> {
        let location = self.location(path)?;
        let found = self.repeating.get(&location).await.map_err(|err| self.error(path, &err))?;
        let version = self.version(found.meta.e_tag.clone(), found.meta.version.clone())?;
        let bytes = found.bytes().await.map_err(|err| self.error(path, &err))?;
        Ok((bytes, version))
    }

    async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes> {
        let location = self.location(path)?;
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let bounded = range.start..range.end.min(i64::MAX as u64);
        let options = GetOptions { range: Some(GetRange::Bounded(bounded)), ..GetOptions::default() };
        let found = match self.repeating.get_opts(&location, options).await {
            Ok(found) => found.bytes().await,
            Err(err) => Err(err),
        };
        match found {
            Ok(bytes) => Ok(bytes),
            // The crate has no word for a range behind the end.
            Err(err) if self.head(path, &location).await?.size > range.start => Err(self.error(path, &err)),
            Err(_) => Ok(Bytes::new()),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        // The crate lists folders; a prefix may end within a name.
        let wanted = format!("{}{prefix}", self.prefix);
        let folder = wanted.rsplit_once('/').map_or("", |(folder, _)| folder);
        let folder = Location::parse(folder).map_err(|err| self.refused(prefix, err.to_string()))?;
        let listing = self.repeating.list(Some(&folder).filter(|folder| !folder.as_ref().is_empty()));
        let all: Vec<ObjectMeta> = listing.try_collect().await.map_err(|err| self.error("a listing", &err))?;
        let mut found: Vec<Object> = Vec::new();
        for object in all {
            let path = object.location.as_ref().strip_prefix(&self.prefix).filter(|path| path.starts_with(prefix));
            // Others' folder markers and the like are no objects of ours.
            let Some(path) = path.filter(|path| check_path(&self.url, path).is_ok()) else { continue };
            found.push(Object {
                path: path.into(),
                length: object.size,
                modified_ms: object.last_modified.timestamp_millis(),
            });
        }
        found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    async fn delete(&self, path: &str) -> Result<()> {
        let location = self.location(path)?;
        match self.repeating.delete(&location).await {
            Ok(()) => Ok(()),
            Err(err) => match self.error(path, &err) {
                Error::NotFound { .. } => Ok(()),
                err => Err(err),
            },
        }
    }

    fn url(&self) -> &str {
        &self.url
    }
}

fn options(config: &CloudConfig) -> ClientOptions {
    ClientOptions::new()
        .with_connect_timeout(config.connect_timeout)
        .with_timeout(config.attempt_timeout)
        .with_allow_http(config.endpoint.as_ref().is_some_and(|url| url.starts_with("http://")))
}

/// What Google and Azure call it if there is no bucket or container.
const NO_BUCKET: [&str; 2] = ["NoSuchBucket", "ContainerNotFound"];

/// Whether the store calls the request wrong. The crate keeps the status in its text only; should it ever say
/// otherwise, the store is called unavailable: harmless.
fn is_client_error(detail: &str) -> bool {
    let status = detail.split_once("status code: ").map_or("", |(_, status)| status);
    status.starts_with('4') && !status.starts_with("408") && !status.starts_with("429")
}

/// Whether a request did not leave this process.
fn never_sent(err: &object_store::Error) -> bool {
    let mut sources = std::iter::successors(Some(err as &dyn std::error::Error), |err| err.source());
    sources.any(|err| err.downcast_ref::<HttpError>().is_some_and(|err| err.kind() == HttpErrorKind::Connect))
}

/// An error and its sources in one line.
fn chain(err: &dyn std::error::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in std::iter::successors(Some(err), |err| err.source()).map(ToString::to_string) {
        if !parts.iter().any(|known| known.contains(&part)) {
            parts.push(part);
        }
    }
    parts.join(": ").replace('\n', " ")
}
