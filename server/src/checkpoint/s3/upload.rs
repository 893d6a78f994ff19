//! Files as objects: small ones in one request, large ones in parts.

use std::{fs::File, os::unix::fs::FileExt, path::Path, sync::Arc};

use aws_sdk_s3::{
    Client,
    error::ProvideErrorMetadata,
    primitives::ByteStream,
    types::{CompletedMultipartUpload, CompletedPart},
};
use backon::BackoffBuilder;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use tracing::warn;
use uuid::Uuid;

use super::{
    super::objects::{Error, ObjectStore, Result},
    S3Store,
};

/// What S3 takes.
const PARTS_MAX: u64 = 10_000;
/// Metadata by which an upload is known to be complete although the answer was lost.
const UPLOAD_MARK: &str = "forebay-upload";

impl S3Store {
    pub(super) async fn upload(&self, path: &str, file: &Path) -> Result<()> {
        let key = self.key(path)?;
        let unreadable = |err| self.refused(path, format!("cannot read {}: {err}", file.display()));
        let opened = blocking(file.to_owned(), |file| {
            let file = File::open(file)?;
            Ok((file.metadata()?.len(), file))
        });
        let (length, opened) = opened.await.map_err(unreadable)?;
        let opened = Arc::new(opened);
        let part_size = part_size(length, self.config.part_size.as_u64());
        if length <= part_size {
            let _memory = self.parts.acquire().await.expect("never closed");
            let bytes = read(opened, 0, length).await.map_err(unreadable)?;
            return self.put(path, bytes).await;
        }

        let mark = Uuid::new_v4().to_string();
        let request = self.client.create_multipart_upload().bucket(&self.bucket).key(&key);
        let (sse, key_id) = self.encryption();
        let request = request.set_server_side_encryption(sse).set_ssekms_key_id(key_id);
        let request = request.set_storage_class(self.storage_class()).metadata(UPLOAD_MARK, &mark);
        let created = self.send(|| request.clone().send()).await;
        let created = created.map_err(|err| self.write_error(path, &err))?;
        let id = created.upload_id.ok_or_else(|| self.unavailable(path, "an upload without an id".into()))?;
        let upload = Upload { client: self.client.clone(), bucket: self.bucket.clone(), key, id, open: true };
        let parts = (0..length.div_ceil(part_size)).map(|n| {
            let (file, upload) = (Arc::clone(&opened), &upload);
            async move {
                let start = n * part_size;
                let _memory = self.parts.acquire().await.expect("never closed");
                let bytes = read(file, start, part_size.min(length - start)).await.map_err(unreadable)?;
                self.upload_part(path, upload, n as i32 + 1, bytes).await
            }
        });
        let sent = stream::iter(parts).buffer_unordered(self.config.parts_parallel).try_collect::<Vec<_>>();
        let result = match sent.await {
            Ok(parts) => self.complete(path, &upload, parts, &mark).await,
            Err(err) => Err(err),
        };
        upload.close(result.is_ok()).await;
        result
    }

    async fn upload_part(&self, path: &str, upload: &Upload, number: i32, bytes: Bytes) -> Result<CompletedPart> {
        let sent = self.send(|| {
            let request = self.client.upload_part().bucket(&self.bucket).key(&upload.key).upload_id(&upload.id);
            request.part_number(number).body(ByteStream::from(bytes.clone())).send()
        });
        let sent = sent.await;
        let output = sent.map_err(|err| self.write_error(path, &err))?;
        let part = CompletedPart::builder().part_number(number).set_e_tag(output.e_tag);
        Ok(part
            .set_checksum_crc32(output.checksum_crc32)
            .set_checksum_crc32_c(output.checksum_crc32_c)
            .set_checksum_crc64_nvme(output.checksum_crc64_nvme)
            .set_checksum_sha1(output.checksum_sha1)
            .set_checksum_sha256(output.checksum_sha256)
            .build())
    }

    /// Makes the parts an object. Repeated if the answer is lost or is an error with status 200, which
    /// the SDK does not repeat; a repetition of what has succeeded finds no upload, but the object.
    async fn complete(&self, path: &str, upload: &Upload, mut parts: Vec<CompletedPart>, mark: &str) -> Result<()> {
        parts.sort_unstable_by_key(|part| part.part_number);
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let mut delays = self.backoff().build();
        loop {
            let request = self.client.complete_multipart_upload().bucket(&self.bucket).key(&upload.key);
            let request = request.upload_id(&upload.id).multipart_upload(parts.clone());
            let sent = self.send(|| request.clone().send()).await;
            let Err(err) = sent else { return Ok(()) };
            let gone = err.code() == Some("NoSuchUpload");
            let err = self.write_error(path, &err);
            let unclear = matches!(err, Error::Unavailable { .. });
            if (gone || unclear) && self.is_complete(upload, mark).await {
                return Ok(());
            }
            match delays.next() {
                Some(delay) if unclear && !gone => tokio::time::sleep(delay).await,
                _ => return Err(err),
            }
        }
    }

    async fn is_complete(&self, upload: &Upload, mark: &str) -> bool {
        let request = self.client.head_object().bucket(&self.bucket).key(&upload.key);
        let head = self.send(|| request.clone().send()).await;
        head.is_ok_and(|head| head.metadata().and_then(|all| all.get(UPLOAD_MARK)).is_some_and(|m| m == mark))
    }
}

/// An upload that is aborted unless it was completed: its parts are invisible, yet cost money.
struct Upload {
    client: Client,
    bucket: String,
    key: String,
    id: String,
    open: bool,
}

impl Upload {
    async fn close(mut self, complete: bool) {
        self.open = false;
        if !complete {
            self.abort().await;
        }
    }

    fn abort(&self) -> impl Future<Output = ()> + Send + 'static {
        let (key, id) = (self.key.clone(), self.id.clone());
        let request = self.client.abort_multipart_upload().bucket(&self.bucket).key(&key).upload_id(&id);
        async move {
            match request.send().await {
                Err(err) if err.code() != Some("NoSuchUpload") => {
                    let error = super::errors::chain(&err);
                    warn!(
                        key,
                        id, error, "upload not aborted: its parts stay until the bucket's lifecycle rule removes them"
                    );
                }
                _ => {}
            }
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Only where the caller has gone away in the middle, so nobody is left to wait for this task.
        if self.open
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(self.abort());
        }
    }
}

/// The size of all parts but the last: as configured, larger if there were too many.
fn part_size(length: u64, configured: u64) -> u64 {
    configured.max(length.div_ceil(PARTS_MAX))
}

/// Requests of an upload: one, or its parts and what opens and completes it.
pub(super) fn requests(length: u64, configured: u64) -> u64 {
    match part_size(length, configured) {
        part if length <= part => 1,
        part => length.div_ceil(part) + 2,
    }
}

/// Reads exactly `length` bytes; a file that became shorter is an error.
async fn read(file: Arc<File>, start: u64, length: u64) -> std::io::Result<Bytes> {
    blocking(file, move |file| {
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    })
    .await
}

async fn blocking<A: Send + 'static, T: Send + 'static>(
    argument: A,
    work: impl FnOnce(A) -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(move || work(argument)).await.map_err(std::io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_as_configured_unless_there_were_too_many() {
        const MIB: u64 = 1 << 20;
        assert_eq!(part_size(100 * MIB, 16 * MIB), 16 * MIB);
        let terabyte = 1 << 40;
        assert!(terabyte / part_size(terabyte, 16 * MIB) < PARTS_MAX);
    }

    #[test]
    fn an_upload_in_parts_is_two_requests_more_than_its_parts() {
        assert_eq!([0, 1, 10, 11, 20, 21].map(|length| requests(length, 10)), [1, 1, 1, 4, 4, 5]);
    }
}
