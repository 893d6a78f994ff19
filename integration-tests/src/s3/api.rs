//! The operations of S3 over [`Buckets`](super::buckets::Buckets).

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use s3s::{S3, S3Request, S3Response, S3Result, dto::*, s3_error};

use super::{
    REGION, SharedBuckets,
    buckets::{About, Conditions, Stored, Written},
};

/// Put into a request's extensions by a fault: the store forgets to look at conditions.
#[derive(Debug, Clone)]
pub(super) struct ConditionsIgnored;

pub(super) struct Api(pub SharedBuckets);

fn conditions<T>(
    request: &S3Request<T>,
    if_match: Option<ETagCondition>,
    if_none_match: Option<ETagCondition>,
) -> Conditions {
    match request.extensions.get::<ConditionsIgnored>() {
        Some(_) => Conditions::default(),
        None => {
            let generation = request.headers.get("x-goog-if-generation-match");
            // One that is no number is nobody's.
            let generation = generation.map(|value| value.to_str().unwrap_or_default().parse().unwrap_or(u64::MAX));
            Conditions { if_match, if_none_match, generation }
        }
    }
}

/// An answer that says a generation, as Google's store does.
fn answer<T>(output: T, generation: u64) -> S3Response<T> {
    let mut response = S3Response::new(output);
    response.headers.insert("x-goog-generation", generation.into());
    response
}

async fn whole(body: Option<StreamingBlob>) -> S3Result<Bytes> {
    let mut bytes = BytesMut::new();
    if let Some(mut body) = body {
        while let Some(chunk) = body.try_next().await.map_err(|err| s3_error!(IncompleteBody, "{err}"))? {
            bytes.extend_from_slice(&chunk);
        }
    }
    Ok(bytes.freeze())
}

fn listed(key: String, stored: &Stored) -> Object {
    Object {
        key: Some(key),
        size: Some(stored.bytes.len() as i64),
        e_tag: Some(ETag::Strong(stored.etag.clone())),
        last_modified: Some(stored.modified.into()),
        ..Default::default()
    }
}

#[async_trait::async_trait]
impl S3 for Api {
    async fn create_bucket(&self, request: S3Request<CreateBucketInput>) -> S3Result<S3Response<CreateBucketOutput>> {
        match self.0.create(&request.input.bucket) {
            true => Ok(S3Response::new(CreateBucketOutput::default())),
            false => Err(s3_error!(BucketAlreadyOwnedByYou)),
        }
    }

    async fn head_bucket(&self, request: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.0.check(&request.input.bucket)?;
        let output = HeadBucketOutput { bucket_region: Some(REGION.into()), ..Default::default() };
        Ok(S3Response::new(output))
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let mut request = request;
        let body = request.input.body.take();
        let bytes = whole(body).await?;
        let (if_match, if_none_match) = (request.input.if_match.take(), request.input.if_none_match.take());
        let conditions = conditions(&request, if_match, if_none_match);
        let PutObjectInput { bucket, key, metadata, checksum_crc32, .. } = request.input;
        let about = About { metadata, crc32: checksum_crc32 };
        let Written { etag, generation } = self.0.put(&bucket, &key, bytes, about, &conditions)?;
        Ok(answer(PutObjectOutput { e_tag: Some(ETag::Strong(etag)), ..Default::default() }, generation))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let GetObjectInput { bucket, key, range, checksum_mode, if_match, .. } = request.input;
        let Stored { bytes, etag, generation, modified, about } = self.0.get(&bucket, &key)?;
        if if_match.is_some_and(|wanted| wanted.as_etag().is_some_and(|wanted| wanted.value() != etag)) {
            return Err(s3_error!(PreconditionFailed));
        }
        let total = bytes.len() as u64;
        let mut output = GetObjectOutput {
            accept_ranges: Some("bytes".into()),
            e_tag: Some(ETag::Strong(etag)),
            last_modified: Some(modified.into()),
            metadata: about.metadata,
            ..Default::default()
        };
        let bytes = match range {
            None => {
                output.checksum_crc32 = about.crc32.filter(|_| checksum_mode.is_some());
                bytes
            }
            Some(range) => {
                let range = range.check(total)?;
                output.content_range = Some(format!("bytes {}-{}/{total}", range.start, range.end - 1));
                bytes.slice(range.start as usize..range.end as usize)
            }
        };
        output.content_length = Some(bytes.len() as i64);
        output.body = Some(s3s::Body::from(bytes).into());
        Ok(answer(output, generation))
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let Stored { bytes, etag, generation, modified, about } =
            self.0.get(&request.input.bucket, &request.input.key)?;
        let output = HeadObjectOutput {
            content_length: Some(bytes.len() as i64),
            e_tag: Some(ETag::Strong(etag)),
            last_modified: Some(modified.into()),
            metadata: about.metadata,
            ..Default::default()
        };
        Ok(answer(output, generation))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let ListObjectsV2Input { bucket, prefix, continuation_token, start_after, max_keys, delimiter, .. } =
            request.input;
        let under = prefix.clone().unwrap_or_default();
        let after = continuation_token.clone().or(start_after).unwrap_or_default();
        let max = max_keys.unwrap_or(1000).clamp(1, 1000);
        let (found, more) = self.0.list(&bucket, &under, &after, max as usize)?;
        let last = found.last().map(|(key, _)| key.clone());
        let (mut objects, mut folders) = (Vec::new(), BTreeSet::new());
        for (key, stored) in &found {
            let rest = &key[under.len()..];
            match delimiter.as_deref().and_then(|delimiter| Some(rest.find(delimiter)? + delimiter.len())) {
                Some(end) => drop(folders.insert(key[..under.len() + end].to_owned())),
                None => objects.push(listed(key.clone(), stored)),
            }
        }
        let folders = folders.into_iter().map(|prefix| CommonPrefix { prefix: Some(prefix) }).collect();
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(bucket),
            prefix,
            max_keys: Some(max),
            key_count: Some(found.len() as i32),
            is_truncated: Some(more),
            continuation_token,
            next_continuation_token: last.filter(|_| more),
            contents: Some(objects),
            common_prefixes: Some(folders),
            delimiter,
            ..Default::default()
        }))
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.0.delete(&request.input.bucket, &request.input.key)?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let DeleteObjectsInput { bucket, delete, .. } = request.input;
        let mut deleted = Vec::new();
        for ObjectIdentifier { key, .. } in delete.objects {
            self.0.delete(&bucket, &key)?;
            deleted.push(DeletedObject { key: Some(key), ..Default::default() });
        }
        Ok(S3Response::new(DeleteObjectsOutput { deleted: Some(deleted), ..Default::default() }))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let CreateMultipartUploadInput { bucket, key, metadata, .. } = request.input;
        let id = self.0.create_upload(&bucket, &key, About { metadata, crc32: None })?;
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(bucket),
            key: Some(key),
            upload_id: Some(id),
            ..Default::default()
        }))
    }

    async fn upload_part(&self, request: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let UploadPartInput { body, upload_id, part_number, .. } = request.input;
        let etag = self.0.upload_part(&upload_id, part_number, whole(body).await?)?;
        Ok(S3Response::new(UploadPartOutput { e_tag: Some(ETag::Strong(etag)), ..Default::default() }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let mut request = request;
        let (if_match, if_none_match) = (request.input.if_match.take(), request.input.if_none_match.take());
        let conditions = conditions(&request, if_match, if_none_match);
        let CompleteMultipartUploadInput { bucket, key, upload_id, multipart_upload, .. } = request.input;
        let parts = multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let Written { etag, generation } = self.0.complete_upload(&upload_id, &parts, &conditions)?;
        let output = CompleteMultipartUploadOutput {
            bucket: Some(bucket),
            key: Some(key),
            e_tag: Some(ETag::Strong(etag)),
            ..Default::default()
        };
        Ok(answer(output, generation))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.0.abort_upload(&request.input.upload_id)?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }
}
