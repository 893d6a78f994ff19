//! Buckets in memory: what S3 keeps, without what it speaks.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use bytes::{Bytes, BytesMut};
use s3s::{S3Result, dto, s3_error};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_128;

/// S3 takes smaller parts only at the end.
const PART_SIZE_MIN: usize = 5 << 20;

/// All buckets and the uploads into them.
#[derive(Debug, Default)]
pub(super) struct Buckets(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    buckets: BTreeMap<String, BTreeMap<String, Stored>>,
    uploads: HashMap<String, Upload>,
    /// The last one given.
    generation: u64,
}

/// An object.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub bytes: Bytes,
    /// As in S3 it depends on the content only, so A → B → A has the ETag of A again.
    pub etag: String,
    /// As in Google's store every write has its own, and the later one the greater.
    pub generation: u64,
    pub modified: SystemTime,
    pub about: About,
}

/// What the store says of a write.
#[derive(Debug)]
pub(super) struct Written {
    pub etag: String,
    pub generation: u64,
}

/// What a client says of an object.
#[derive(Debug, Clone, Default)]
pub(super) struct About {
    pub metadata: Option<dto::Metadata>,
    pub crc32: Option<String>,
}

#[derive(Debug)]
struct Upload {
    bucket: String,
    key: String,
    about: About,
    parts: BTreeMap<i32, Bytes>,
}

/// What must hold of what is there for a write to happen.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    pub if_match: Option<dto::ETagCondition>,
    pub if_none_match: Option<dto::ETagCondition>,
    /// The generation that must be there; 0 for none.
    pub generation: Option<u64>,
}

impl Conditions {
    fn check(&self, found: Option<&Stored>) -> S3Result {
        let is = |condition: &dto::ETagCondition, found: &Stored| {
            condition.as_etag().is_none_or(|etag| etag.value() == found.etag)
        };
        if self.generation.is_some_and(|wanted| wanted != found.map_or(0, |found| found.generation)) {
            return Err(s3_error!(PreconditionFailed));
        }
        match (&self.if_match, found) {
            (Some(_), None) => return Err(s3_error!(NoSuchKey)),
            (Some(condition), Some(found)) if !is(condition, found) => {
                return Err(s3_error!(PreconditionFailed));
            }
            _ => {}
        }
        match (&self.if_none_match, found) {
            (Some(condition), Some(found)) if is(condition, found) => Err(s3_error!(PreconditionFailed)),
            _ => Ok(()),
        }
    }
}

impl State {
    fn bucket(&mut self, name: &str) -> S3Result<&mut BTreeMap<String, Stored>> {
        self.buckets.get_mut(name).ok_or_else(|| s3_error!(NoSuchBucket, "no bucket {name}"))
    }

    fn write(&mut self, bucket: &str, key: &str, stored: Stored, conditions: &Conditions) -> S3Result<Written> {
        let generation = self.generation + 1;
        let objects = self.bucket(bucket)?;
        conditions.check(objects.get(key))?;
        let etag = stored.etag.clone();
        objects.insert(key.into(), Stored { generation, ..stored });
        self.generation = generation;
        Ok(Written { etag, generation })
    }
}

impl Buckets {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a bucket; false if there is one.
    pub(super) fn create(&self, bucket: &str) -> bool {
        let mut state = self.state();
        let new = !state.buckets.contains_key(bucket);
        state.buckets.entry(bucket.into()).or_default();
        new
    }

    pub(super) fn check(&self, bucket: &str) -> S3Result {
        self.state().bucket(bucket).map(drop)
    }

    pub(super) fn get(&self, bucket: &str, key: &str) -> S3Result<Stored> {
        self.state().bucket(bucket)?.get(key).cloned().ok_or_else(|| s3_error!(NoSuchKey, "no object {key}"))
    }

    /// Writes an object.
    pub(super) fn put(
        &self,
        bucket: &str,
        key: &str,
        bytes: Bytes,
        about: About,
        conditions: &Conditions,
    ) -> S3Result<Written> {
        let stored = Stored { etag: etag(&bytes), generation: 0, bytes, modified: now(), about };
        self.state().write(bucket, key, stored, conditions)
    }

    pub(super) fn delete(&self, bucket: &str, key: &str) -> S3Result {
        self.state().bucket(bucket)?.remove(key);
        Ok(())
    }

    /// Up to `max` objects whose keys start with a prefix and are greater than `after`, and whether
    /// there are more.
    pub(super) fn list(
        &self,
        bucket: &str,
        prefix: &str,
        after: &str,
        max: usize,
    ) -> S3Result<(Vec<(String, Stored)>, bool)> {
        let mut state = self.state();
        let from = match after < prefix {
            true => Bound::Included(prefix),
            false => Bound::Excluded(after),
        };
        let found = state.bucket(bucket)?.range::<str, _>((from, Bound::Unbounded));
        let mut found = found.take_while(|(key, _)| key.starts_with(prefix));
        let page = found.by_ref().take(max).map(|(key, stored)| (key.clone(), stored.clone())).collect();
        Ok((page, found.next().is_some()))
    }

    pub(super) fn create_upload(&self, bucket: &str, key: &str, about: About) -> S3Result<String> {
        let mut state = self.state();
        state.bucket(bucket)?;
        let id = Uuid::new_v4().to_string();
        let upload = Upload { bucket: bucket.into(), key: key.into(), about, parts: BTreeMap::new() };
        state.uploads.insert(id.clone(), upload);
        Ok(id)
    }

    pub(super) fn upload_part(&self, id: &str, number: i32, bytes: Bytes) -> S3Result<String> {
        let etag = etag(&bytes);
        let mut state = self.state();
        let upload = state.uploads.get_mut(id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        upload.parts.insert(number, bytes);
        Ok(etag)
    }

    pub(super) fn complete_upload(
        &self,
        id: &str,
        wanted: &[dto::CompletedPart],
        conditions: &Conditions,
    ) -> S3Result<Written> {
        let mut state = self.state();
        let upload = state.uploads.get(id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        let mut bytes = BytesMut::new();
        let mut last = 0;
        for (n, part) in wanted.iter().enumerate() {
            let number = part.part_number.unwrap_or_default();
            if number <= last {
                return Err(s3_error!(InvalidPartOrder));
            }
            last = number;
            let content = upload.parts.get(&number).ok_or_else(|| s3_error!(InvalidPart))?;
            if part.e_tag.as_ref().is_none_or(|wanted| wanted.value() != etag(content)) {
                return Err(s3_error!(InvalidPart, "part {number} has another ETag"));
            }
            if content.len() < PART_SIZE_MIN && n + 1 < wanted.len() {
                return Err(s3_error!(EntityTooSmall));
            }
            bytes.extend_from_slice(content);
        }
        let bytes = bytes.freeze();
        let stored = Stored {
            etag: format!("{}-{}", etag(&bytes), wanted.len()),
            generation: 0,
            bytes,
            modified: now(),
            about: upload.about.clone(),
        };
        let (bucket, key) = (upload.bucket.clone(), upload.key.clone());
        let written = state.write(&bucket, &key, stored, conditions)?;
        state.uploads.remove(id);
        Ok(written)
    }

    pub(super) fn abort_upload(&self, id: &str) -> S3Result {
        self.state().uploads.remove(id).map(drop).ok_or_else(|| s3_error!(NoSuchUpload))
    }

    pub(super) fn open_uploads(&self) -> usize {
        self.state().uploads.len()
    }

    pub(super) fn object(&self, bucket: &str, key: &str) -> Option<Bytes> {
        Some(self.state().buckets.get(bucket)?.get(key)?.bytes.clone())
    }

    pub(super) fn keys(&self, bucket: &str) -> Vec<String> {
        self.state().buckets.get(bucket).map(|objects| objects.keys().cloned().collect()).unwrap_or_default()
    }

    pub(super) fn tamper(&self, bucket: &str, key: &str, bytes: Bytes) {
        let about = self.get(bucket, key).map(|stored| stored.about).unwrap_or_default();
        let mut state = self.state();
        state.generation += 1;
        let stored = Stored { etag: etag(&bytes), generation: state.generation, bytes, modified: now(), about };
        state.buckets.entry(bucket.into()).or_default().insert(key.into(), stored);
    }
}

fn etag(bytes: &[u8]) -> String {
    format!("{:032x}", xxh3_128(bytes))
}

#[expect(clippy::disallowed_methods, reason = "the server's own clock, as Last-Modified shows it")]
fn now() -> SystemTime {
    SystemTime::now()
}
