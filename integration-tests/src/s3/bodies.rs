//! Bodies that come late, slowly, not whole or wrongly labelled.

use std::{fmt, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use hyper::{Response, header::ETAG};
use s3s::{Body, dto::StreamingBlob};

/// The connection ends without an answer.
#[derive(Debug)]
pub(super) struct Cut;

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("connection cut by a fault")
    }
}

impl std::error::Error for Cut {}

/// Larger than any body in the tests.
const BODY_BYTES_MAX: usize = 1 << 30;
/// How often a slow body moves.
const BEAT: Duration = Duration::from_millis(100);

pub(super) async fn whole(body: &mut Body) -> Result<Bytes, Cut> {
    body.store_all_limited(BODY_BYTES_MAX).await.map_err(|_| Cut)
}

/// Takes at least so many bytes of a body, if it has them.
pub(super) async fn take(body: &mut Body, bytes: u64) -> Result<BytesMut, Cut> {
    let mut taken = BytesMut::new();
    while (taken.len() as u64) < bytes {
        match body.next().await {
            Some(chunk) => taken.extend_from_slice(&chunk.map_err(|_| Cut)?),
            None => break,
        }
    }
    Ok(taken)
}

/// Takes a body in the time that it needs at that rate.
pub(super) async fn slowly_read(body: &mut Body, bytes_per_second: u64) -> Result<Bytes, Cut> {
    let mut taken = BytesMut::new();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|_| Cut)?;
        tokio::time::sleep(Duration::from_secs_f64(chunk.len() as f64 / bytes_per_second as f64)).await;
        taken.extend_from_slice(&chunk);
    }
    Ok(taken.freeze())
}

/// A body that flows at that rate.
pub(super) fn slowly_sent(bytes: Bytes, bytes_per_second: u64) -> Body {
    let step = (bytes_per_second as f64 * BEAT.as_secs_f64()).max(1.0) as usize;
    let chunks: Vec<Bytes> =
        (0..bytes.len()).step_by(step).map(|at| bytes.slice(at..bytes.len().min(at + step))).collect();
    let beats = stream::iter(chunks).then(|chunk| async move {
        tokio::time::sleep(BEAT).await;
        Ok::<_, Cut>(chunk)
    });
    StreamingBlob::wrap(beats).into()
}

/// A body that stands still in its middle.
pub(super) fn pausing(bytes: &Bytes, time: Duration) -> Body {
    let (first, second) = (bytes.slice(..bytes.len() / 2), bytes.slice(bytes.len() / 2..));
    let rest = async move {
        tokio::time::sleep(time).await;
        Ok::<_, Cut>(second)
    };
    StreamingBlob::wrap(stream::once(std::future::ready(Ok(first))).chain(stream::once(rest))).into()
}

/// Replaces ETags, in the header and in a body of XML.
pub(super) async fn mislabel(response: &mut Response<Body>) -> Result<(), Cut> {
    const WRONG: &str = "ffffffffffffffffffffffffffffffff";
    if response.headers().contains_key(ETAG) {
        let wrong = format!("\"{WRONG}\"").parse().expect("an ETag is a header");
        response.headers_mut().insert(ETAG, wrong);
    }
    let is_xml = response.headers().get("content-type").is_some_and(|kind| kind.as_bytes().ends_with(b"xml"));
    if is_xml {
        let body = whole(response.body_mut()).await?;
        let text = String::from_utf8_lossy(&body);
        let mut mislabelled = String::new();
        let mut parts = text.split("<ETag>");
        mislabelled.push_str(parts.next().unwrap_or_default());
        for part in parts {
            let rest = part.split_once("</ETag>").map_or("", |(_, rest)| rest);
            mislabelled.push_str(&format!("<ETag>&quot;{WRONG}&quot;</ETag>{rest}"));
        }
        response.headers_mut().remove("content-length");
        *response.body_mut() = Bytes::from(mislabelled).into();
    }
    Ok(())
}
