//! Objects in S3 or a store that speaks its language.
//!
//! Calls that are safe to repeat are repeated by the SDK; a conditional write never is, since after a
//! lost answer a repetition meets its own first write and takes it for somebody else's.
//!
//! A call that timed out may still take effect later. So `put` and `delete` are for names that are
//! written once; what changes is written with conditions only.
//!
//! A version is the ETag. Bodies are sent from memory, so that the signature covers them; large files go
//! in parts, of which only a bounded number is in memory.

mod connect;
mod errors;
mod upload;

use std::{ops::Range, path::Path, time::Duration};

use async_trait::async_trait;
use aws_sdk_s3::{
    Client,
    config::{Builder, Credentials, retry::RetryConfig},
    operation::get_object::GetObjectOutput,
    primitives::ByteStream,
};
use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use tokio::{sync::Semaphore, time::timeout};

use super::objects::{Condition, Error, Object, ObjectStore, Result, Version, check_path};
pub use super::store::{Checksums, S3Config};

/// A bucket, or what is below a prefix in it.
#[derive(Debug)]
pub struct S3Store {
    url: String,
    bucket: String,
    /// Empty, or ends with `/`.
    prefix: String,
    client: Client,
    config: S3Config,
    /// One for each part in memory.
    parts: Semaphore,
}

impl S3Store {
    /// Opens `s3://bucket/prefix` with the credentials of the environment. Asks the store nothing yet.
    pub async fn open(url: &str, config: &S3Config) -> Result<Self> {
        Self::connect(url, config, None).await
    }

    /// Opens `s3://bucket/prefix` with an access key, for tests within a process.
    pub async fn open_with_key(url: &str, config: &S3Config, id: &str, secret: &str) -> Result<Self> {
        Self::connect(url, config, Some(Credentials::new(id, secret, None, None, "given"))).await
    }

    async fn connect(url: &str, config: &S3Config, credentials: Option<Credentials>) -> Result<Self> {
        let (bucket, prefix) = connect::parse(url)?;
        let url = format!("s3://{bucket}/{prefix}").trim_end_matches('/').to_owned();
        if let Some(fault) = connect::fault(config) {
            return Err(Error::Refused { store: url, path: "its configuration".into(), detail: fault });
        }
        let client = connect::client(config, credentials).await;
        let parts = Semaphore::new(config.parts_parallel);
        Ok(Self { url, bucket, prefix, client, config: config.clone(), parts })
    }

    fn key(&self, path: &str) -> Result<String> {
        check_path(&self.url, path)?;
        Ok(format!("{}{path}", self.prefix))
    }

    /// Gets some bytes, again if they break off: the SDK repeats requests, not bodies. None: the range
    /// starts where the object has ended.
    async fn download(&self, path: &str, range: Option<String>) -> Result<Option<(GetObjectOutput, Bytes)>> {
        let key = self.key(path)?;
        let attempt = || async {
            let request = self.client.get_object().bucket(&self.bucket).key(&key);
            let sent = request.set_range(range.clone()).send().await;
            let mut output = match sent {
                Err(err) if err.raw_response().is_some_and(|r| r.status().as_u16() == 416) => return Ok(None),
                sent => sent.map_err(|err| Download::Failed(self.read_error(path, &err)))?,
            };
            let body = std::mem::take(&mut output.body);
            let broken = |detail| Download::Broken(self.unavailable(path, detail));
            let bytes = match timeout(self.config.attempt_timeout, body.collect()).await {
                Ok(Ok(bytes)) => bytes.into_bytes(),
                Ok(Err(err)) => return Err(broken(errors::chain(&err))),
                Err(_) => return Err(broken(format!("no whole body in {:?}", self.config.attempt_timeout))),
            };
            match output.content_length {
                Some(wanted) if wanted != bytes.len() as i64 => {
                    Err(broken(format!("the body has {} bytes, not {wanted}", bytes.len())))
                }
                _ => Ok(Some((output, bytes))),
            }
        };
        let result = attempt.retry(self.backoff()).when(|err| matches!(err, Download::Broken(_))).await;
        result.map_err(|err| match err {
            Download::Failed(err) | Download::Broken(err) => err,
        })
    }

    fn backoff(&self) -> ExponentialBuilder {
        ExponentialBuilder::default()
            .with_min_delay(BACKOFF_MIN)
            .with_max_delay(BACKOFF_MAX)
            .with_max_times(self.config.attempts_max as usize - 1)
            .with_jitter()
    }
}

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// How a download went wrong.
enum Download {
    /// The request failed, after the SDK's own repetitions.
    Failed(Error),
    /// The body did not arrive whole; worth another request.
    Broken(Error),
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn put(&self, path: &str, bytes: Bytes) -> Result<()> {
        let key = self.key(path)?;
        let request = self.client.put_object().bucket(&self.bucket).key(key);
        let sent = request.body(ByteStream::from(bytes)).send().await;
        sent.map(drop).map_err(|err| self.write_error(path, &err))
    }

    async fn put_file(&self, path: &str, file: &Path) -> Result<()> {
        self.upload(path, file).await
    }

    fn put_requests(&self, length: u64) -> u64 {
        upload::requests(length, self.config.part_size.as_u64())
    }

    async fn put_if(&self, path: &str, bytes: Bytes, condition: &Condition) -> Result<Version> {
        let key = self.key(path)?;
        let request = self.client.put_object().bucket(&self.bucket).key(key).body(ByteStream::from(bytes));
        let request = match condition {
            Condition::Absent => request.if_none_match("*"),
            Condition::Is(Version(etag)) => request.if_match(etag),
        };
        let once = Builder::new().retry_config(RetryConfig::disabled());
        let sent = request.customize().config_override(once).send().await;
        let output = sent.map_err(|err| self.conditional_error(path, &err))?;
        output.e_tag.map(Version).ok_or_else(|| Error::Ambiguous {
            path: path.into(),
            detail: format!("{} answered without an ETag", self.url),
        })
    }

    async fn get(&self, path: &str) -> Result<(Bytes, Version)> {
        match self.download(path, None).await? {
            Some((GetObjectOutput { e_tag: Some(etag), .. }, bytes)) => Ok((bytes, Version(etag))),
            _ => Err(Error::Unsafe { store: self.url.clone(), fault: "answers without an ETag".into() }),
        }
    }

    async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        // Some stores take no number beyond i64 and call the whole header invalid.
        let last = (range.end - 1).min(i64::MAX as u64);
        let header = format!("bytes={}-{last}", range.start);
        let Some((output, bytes)) = self.download(path, Some(header)).await? else { return Ok(Bytes::new()) };
        let wanted = format!("bytes {}-", range.start);
        match output.content_range {
            Some(found) if found.starts_with(&wanted) => Ok(bytes),
            _ if bytes.is_empty() => Ok(bytes), // of an empty object; some stores do not call that an error
            found => Err(Error::Unsafe {
                store: self.url.clone(),
                fault: format!("answers {wanted:?} with {:?}", found.unwrap_or_default()),
            }),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        let mut found = Vec::new();
        let mut token = None;
        loop {
            let request = self.client.list_objects_v2().bucket(&self.bucket);
            let request = request.prefix(format!("{}{prefix}", self.prefix)).set_continuation_token(token);
            let page = request.send().await.map_err(|err| self.write_error(prefix, &err))?;
            for object in page.contents() {
                let path = object.key().and_then(|key| key.strip_prefix(&self.prefix));
                // Others' folder markers (`a/`) and the like are no objects of ours.
                let Some(path) = path.filter(|path| check_path(&self.url, path).is_ok()) else { continue };
                found.push(Object {
                    path: path.into(),
                    length: object.size().unwrap_or_default().unsigned_abs(),
                    modified_ms: object.last_modified().and_then(|at| at.to_millis().ok()).unwrap_or_default(),
                });
            }
            token = page.next_continuation_token;
            match (page.is_truncated, &token) {
                (Some(true), Some(_)) => {}
                (Some(true), None) => {
                    let fault = "cuts listings off without saying where to go on".into();
                    return Err(Error::Unsafe { store: self.url.clone(), fault });
                }
                _ => break,
            }
        }
        // S3 sorts, directory buckets do not.
        found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    async fn delete(&self, path: &str) -> Result<()> {
        let key = self.key(path)?;
        match self.client.delete_object().bucket(&self.bucket).key(key).send().await {
            Ok(_) => Ok(()),
            Err(err) => match self.read_error(path, &err) {
                Error::NotFound { .. } => Ok(()),
                err => Err(err),
            },
        }
    }

    fn url(&self) -> &str {
        &self.url
    }
}
