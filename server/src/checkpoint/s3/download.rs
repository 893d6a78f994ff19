//! From an object to bytes: what breaks off goes on from where it is.

use std::ops::Range;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use backon::BackoffBuilder;
use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    super::objects::{Error, Result},
    S3Store, errors,
};

/// How an attempt went wrong.
enum Wrong {
    /// The request failed, after the SDK's own repetitions.
    Failed(Error),
    /// The body did not arrive whole; worth another request.
    Broken(Error),
}

/// What has arrived so far, of one version of the object.
#[derive(Default)]
struct Arrived {
    bytes: BytesMut,
    etag: Option<String>,
}

impl S3Store {
    /// Gets an object or some of its bytes, and its ETag. The SDK repeats requests, not bodies: a body that
    /// breaks off is asked for from there on, of the same version. None: the range starts where the object
    /// has ended.
    pub(super) async fn download(
        &self,
        path: &str,
        range: Option<Range<u64>>,
    ) -> Result<Option<(Bytes, Option<String>)>> {
        let key = self.key(path)?;
        let mut arrived = Arrived::default();
        let mut delays = self.backoff().build();
        loop {
            match self.attempt(path, &key, range.as_ref(), &mut arrived).await {
                Ok(true) => return Ok(Some((arrived.bytes.freeze(), arrived.etag))),
                Ok(false) => return Ok(None),
                Err(Wrong::Failed(err)) => return Err(err),
                Err(Wrong::Broken(err)) => sleep(delays.next().ok_or(err)?).await,
            }
        }
    }

    /// Asks for what is missing; false if there is nothing in the range.
    async fn attempt(
        &self,
        path: &str,
        key: &str,
        range: Option<&Range<u64>>,
        arrived: &mut Arrived,
    ) -> Result<bool, Wrong> {
        let resumed = !arrived.bytes.is_empty();
        let start = range.map_or(0, |range| range.start) + arrived.bytes.len() as u64;
        let mut request = self.client.get_object().bucket(&self.bucket).key(key);
        if resumed {
            request = request.set_if_match(arrived.etag.clone());
        }
        let asks_range = resumed || range.is_some();
        if asks_range {
            // Some stores take no number beyond i64 and call the whole header invalid.
            let last = range.map(|range| (range.end - 1).min(i64::MAX as u64).to_string()).unwrap_or_default();
            request = request.range(format!("bytes={start}-{last}"));
        }
        let sent = self.send(|| request.clone().send()).await;
        let mut output = match sent {
            Ok(output) => output,
            Err(err) => {
                return match err.raw_response().map(|response| response.status().as_u16()) {
                    Some(416) if !resumed => Ok(false),
                    Some(412 | 416) if resumed => {
                        *arrived = Arrived::default();
                        Err(Wrong::Broken(self.unavailable(path, "the object changed while it was read".into())))
                    }
                    _ => Err(Wrong::Failed(self.read_error(path, &err))),
                };
            }
        };
        let promised = self.promised(&output, asks_range.then_some(start)).map_err(Wrong::Failed)?;
        let missing = arrived.bytes.len() as u64;
        arrived.etag = output.e_tag.take();
        let deadline = Instant::now() + self.config.attempt_timeout;
        let broken = loop {
            match timeout_at(deadline, output.body.next()).await {
                Ok(Some(Ok(chunk))) => arrived.bytes.extend_from_slice(&chunk),
                Ok(Some(Err(err))) => break Some(errors::chain(&err)),
                Ok(None) => break None,
                Err(_) => break Some(format!("no whole body in {:?}", self.config.attempt_timeout)),
            }
        };
        let found = arrived.bytes.len() as u64 - missing;
        match (broken, promised) {
            (None, Some(promised)) if found != promised => {
                let detail = format!("the body has {found} bytes, not {promised}");
                Err(self.broken(path, detail, arrived, found > promised))
            }
            (None, _) => Ok(true),
            // All is there and yet wrong: the checksum does not hold, and which bytes are right is not known.
            (Some(detail), promised) => {
                let whole = promised.is_none_or(|promised| found >= promised);
                Err(self.broken(path, detail, arrived, whole))
            }
        }
    }

    fn broken(&self, path: &str, detail: String, arrived: &mut Arrived, suspect: bool) -> Wrong {
        // Without an ETag the rest could be of another version.
        if suspect || arrived.etag.is_none() {
            *arrived = Arrived::default();
        }
        Wrong::Broken(self.unavailable(path, detail))
    }

    /// How many bytes the answer says that it has. Of a range its place says so, too: a body that was cut
    /// short on the way, with the length of what is left, is found by it.
    fn promised(&self, output: &GetObjectOutput, start: Option<u64>) -> Result<Option<u64>> {
        let length = output.content_length.map(i64::unsigned_abs);
        let Some(start) = start else { return Ok(length) };
        let place = output.content_range.as_deref().unwrap_or_default();
        let bounds = place.strip_prefix("bytes ").and_then(|rest| rest.split_once('/')?.0.split_once('-'));
        let bounds = bounds.and_then(|(first, last)| Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?)));
        match bounds {
            Some((first, last)) if first == start && last >= first => Ok(Some(last - first + 1)),
            _ if length == Some(0) => Ok(length), // of an empty object; some stores do not call that an error
            _ => Err(Error::Unsafe {
                store: self.url.clone(),
                fault: format!("answers \"bytes {start}-\" with {place:?}"),
            }),
        }
    }
}
