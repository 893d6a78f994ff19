//! What all requests have in common.

use aws_sdk_s3::{
    error::{ProvideErrorMetadata, SdkError},
    operation::{list_objects_v2::ListObjectsV2Output, put_object::builders::PutObjectFluentBuilder},
    primitives::ByteStream,
    types::{self, ServerSideEncryption},
};
use backon::BackoffBuilder;
use bytes::Bytes;

use super::{super::objects, Encryption, S3Store, StorageClass, credentials};

impl S3Store {
    /// Sends a request, again with credentials that are read anew where the store blames the old ones.
    ///
    /// Such a refusal is clear, nothing has happened; so conditional writes may be repeated after it, too.
    pub(super) async fn send<T, E, F>(&self, request: impl Fn() -> F) -> Result<T, SdkError<E>>
    where
        E: ProvideErrorMetadata,
        F: Future<Output = Result<T, SdkError<E>>>,
    {
        let Some(identity) = &self.identity else { return request().await };
        let mut delays = self.backoff().build();
        let mut repeated = 0;
        loop {
            let reading = identity.reading();
            let result = request().await;
            let blames = |err| credentials::repetitions(err, self.config.attempts_max);
            let Some(limit) = result.as_ref().err().and_then(blames) else { return result };
            identity.forget(reading);
            match delays.next().filter(|_| repeated < limit) {
                Some(delay) => tokio::time::sleep(delay).await,
                None => return result,
            }
            repeated += 1;
        }
    }

    /// Whether the store clearly says that there is no such object.
    pub(super) async fn is_absent(&self, key: &str) -> bool {
        let request = self.client.head_object().bucket(&self.bucket).key(key);
        let found = self.send(|| request.clone().send()).await;
        found.is_err_and(|err| err.raw_response().is_some_and(|response| response.status().as_u16() == 404))
    }

    /// One page of a listing, whole: the SDK reads what is left of one that was cut off on the way, down to
    /// nothing, as a listing of fewer objects. The count tells.
    pub(super) async fn page(&self, prefix: &str, token: Option<String>) -> objects::Result<ListObjectsV2Output> {
        let request = self.client.list_objects_v2().bucket(&self.bucket);
        let request = request.prefix(format!("{}{prefix}", self.prefix)).set_continuation_token(token);
        let mut delays = self.backoff().build();
        loop {
            let page = self.send(|| request.clone().send()).await.map_err(|err| self.write_error(prefix, &err))?;
            let found = page.contents().len();
            if page.key_count.is_some_and(|wanted| usize::try_from(wanted) == Ok(found)) && page.is_truncated.is_some()
            {
                return Ok(page);
            }
            let cut = || {
                let wanted = page.key_count.map_or("an unknown number of".to_owned(), |wanted| wanted.to_string());
                self.unavailable("a listing", format!("it was cut off: it has {found} keys, not {wanted}"))
            };
            tokio::time::sleep(delays.next().ok_or_else(cut)?).await;
        }
    }

    /// A request to write an object.
    pub(super) fn put_request(&self, key: &str, bytes: &Bytes) -> PutObjectFluentBuilder {
        let (sse, key_id) = self.encryption();
        let request = self.client.put_object().bucket(&self.bucket).key(key).body(ByteStream::from(bytes.clone()));
        request.set_server_side_encryption(sse).set_ssekms_key_id(key_id)
    }

    /// How the store is to encrypt what is written, and with which key.
    pub(super) fn encryption(&self) -> (Option<ServerSideEncryption>, Option<String>) {
        let sse = match self.config.sse {
            Encryption::None => None,
            Encryption::Aes256 => Some(ServerSideEncryption::Aes256),
            Encryption::AwsKms => Some(ServerSideEncryption::AwsKms),
        };
        (sse, self.config.kms_key_id.clone())
    }

    /// The class of what is written once.
    pub(super) fn storage_class(&self) -> Option<types::StorageClass> {
        match self.config.storage_class {
            StorageClass::Standard => None,
            StorageClass::StandardIa => Some(types::StorageClass::StandardIa),
            StorageClass::OnezoneIa => Some(types::StorageClass::OnezoneIa),
            StorageClass::IntelligentTiering => Some(types::StorageClass::IntelligentTiering),
            StorageClass::GlacierIr => Some(types::StorageClass::GlacierIr),
            StorageClass::ReducedRedundancy => Some(types::StorageClass::ReducedRedundancy),
        }
    }
}
