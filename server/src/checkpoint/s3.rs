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
mod credentials;
mod download;
mod errors;
mod requests;
mod upload;

use std::{ops::Range, path::Path, time::Duration};

use async_trait::async_trait;
use aws_sdk_s3::{
    Client,
    config::{Builder, Credentials, retry::RetryConfig},
};
use backon::ExponentialBuilder;
use bytes::Bytes;
use tokio::sync::Semaphore;

use self::credentials::Identity;
use super::objects::{Condition, Error, Object, ObjectStore, Result, Version, check_path};
pub use super::settings::{Checksums, Encryption, S3Config, StorageClass};

/// A bucket, or what is below a prefix in it.
#[derive(Debug)]
pub struct S3Store {
    url: String,
    bucket: String,
    /// Empty, or ends with `/`.
    prefix: String,
    client: Client,
    /// None: the credentials were given and cannot be read anew.
    identity: Option<Identity>,
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
        let (client, identity) = connect::client(config, credentials).await;
        let parts = Semaphore::new(config.parts_parallel);
        Ok(Self { url, bucket, prefix, client, identity, config: config.clone(), parts })
    }

    fn key(&self, path: &str) -> Result<String> {
        check_path(&self.url, path)?;
        Ok(format!("{}{path}", self.prefix))
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

#[async_trait]
impl ObjectStore for S3Store {
    async fn put(&self, path: &str, bytes: Bytes) -> Result<()> {
        let key = self.key(path)?;
        let sent = self.send(|| self.put_request(&key, &bytes).set_storage_class(self.storage_class()).send()).await;
        match sent.map_err(|err| self.write_error(path, &err))?.e_tag {
            Some(_) => Ok(()),
            None => Err(self.unavailable(path, "the answer to the write has no ETag, so it is not from S3".into())),
        }
    }

    async fn put_file(&self, path: &str, file: &Path) -> Result<()> {
        self.upload(path, file).await
    }

    fn put_requests(&self, length: u64) -> u64 {
        upload::requests(length, self.config.part_size.as_u64())
    }

    async fn put_if(&self, path: &str, bytes: Bytes, condition: &Condition) -> Result<Version> {
        let key = self.key(path)?;
        let sent = self.send(|| {
            let request = self.put_request(&key, &bytes);
            let request = match condition {
                Condition::Absent => request.if_none_match("*"),
                Condition::Is(Version(etag)) => request.if_match(etag),
            };
            let once = Builder::new().retry_config(RetryConfig::disabled());
            request.customize().config_override(once).send()
        });
        let sent = sent.await;
        let output = sent.map_err(|err| self.conditional_error(path, &err))?;
        output.e_tag.map(Version).ok_or_else(|| Error::Ambiguous {
            path: path.into(),
            detail: format!("{} answered without an ETag", self.url),
        })
    }

    async fn get(&self, path: &str) -> Result<(Bytes, Version)> {
        match self.download(path, None).await? {
            Some((bytes, Some(etag))) => Ok((bytes, Version(etag))),
            _ => Err(Error::Unsafe { store: self.url.clone(), fault: "answers without an ETag".into() }),
        }
    }

    async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let found = self.download(path, Some(range)).await?;
        Ok(found.map(|(bytes, _)| bytes).unwrap_or_default())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        let mut found = Vec::new();
        let mut token = None;
        loop {
            let page = self.page(prefix, token).await?;
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
        let request = self.client.delete_object().bucket(&self.bucket).key(&key);
        match self.send(|| request.clone().send()).await {
            Ok(_) => Ok(()),
            Err(err) => match self.read_error(path, &err) {
                // S3 does not say so of a delete; some stores do, and may lag behind.
                Error::NotFound { .. } if self.is_absent(&key).await => Ok(()),
                Error::NotFound { .. } => Err(self.unavailable(path, "it is said to be absent, and is there".into())),
                err => Err(err),
            },
        }
    }

    fn url(&self) -> &str {
        &self.url
    }
}
