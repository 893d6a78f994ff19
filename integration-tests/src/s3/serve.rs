//! Connections, faults and the log.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::{
    Body,
    dto::StreamingBlob,
    service::{S3Service, S3ServiceBuilder},
};
use tokio::{net::TcpListener, task::JoinSet};

use super::{
    SharedBuckets,
    api::{Api, ConditionsIgnored},
    bodies::{self, Cut, whole},
    buckets::Buckets,
    faults::{Fault, Faults, Operation},
    keys::Keys,
};

/// A call as the server saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct Logged {
    /// What it asked for.
    pub operation: Operation,
    /// Which object, or the prefix of a listing; without the bucket.
    pub key: String,
    /// Bytes of its body.
    pub sent: u64,
    /// Bytes of the answer's body.
    pub received: u64,
    /// Status of the answer; none if the connection was cut.
    pub status: Option<u16>,
    /// The fault that befell it.
    pub fault: Option<Fault>,
    /// The access key that signed it.
    pub signer: String,
    /// Its headers that are S3's own, and its range and conditions.
    pub headers: BTreeMap<String, String>,
}

#[derive(Debug)]
pub(super) struct Service {
    pub buckets: SharedBuckets,
    pub faults: Faults,
    pub keys: Keys,
    signed: bool,
    s3: S3Service,
    log: Mutex<Vec<Logged>>,
}

impl Service {
    /// With or without signatures.
    pub(super) fn new(signed: bool) -> Self {
        let buckets = Arc::new(Buckets::default());
        let keys = Keys::default();
        let mut builder = S3ServiceBuilder::new(Api(Arc::clone(&buckets)));
        if signed {
            builder.set_auth(keys.clone());
        }
        Self { buckets, faults: Faults::new(), keys, signed, s3: builder.build(), log: Mutex::default() }
    }

    fn entries(&self) -> MutexGuard<'_, Vec<Logged>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn log(&self) -> Vec<Logged> {
        self.entries().clone()
    }

    pub(super) fn clear_log(&self) {
        self.entries().clear();
    }

    async fn call(&self, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
        let (operation, key) = classify(&request);
        let (signer, headers) = (signer(&request), headers(&request));
        let expired = self.keys.is_expired(&signer).then_some(Fault::Status(403, "ExpiredToken"));
        let fault = expired.or_else(|| self.faults.pick(operation, &key));
        let sent = length(request.headers());
        let result = self.answer(request.map(Body::from), fault).await;
        self.entries().push(Logged {
            operation,
            key,
            sent,
            received: result.as_ref().map_or(0, |response| length(response.headers())),
            status: result.as_ref().ok().map(|response| response.status().as_u16()),
            fault,
            signer,
            headers,
        });
        result
    }

    async fn answer(&self, mut request: Request<Body>, fault: Option<Fault>) -> Result<Response<Body>, Cut> {
        let writes = request.method() == Method::PUT;
        if !self.signed {
            request.headers_mut().remove("authorization"); // a token, which S3 does not know
        }
        match fault {
            Some(Fault::DropBefore) => return Err(Cut),
            Some(Fault::Stall(time)) => tokio::time::sleep(time).await,
            Some(Fault::IgnoreConditions) => drop(request.extensions_mut().insert(ConditionsIgnored)),
            Some(Fault::CorruptBody) if writes => {
                let body = whole(request.body_mut()).await?;
                *request.body_mut() = flipped(&body).into();
            }
            Some(Fault::CutUpload) => {
                let half = length(request.headers()) / 2;
                bodies::take(request.body_mut(), half).await?;
                return Err(Cut);
            }
            Some(Fault::StallMid(time)) if length(request.headers()) > 0 => {
                let half = length(request.headers()) / 2;
                let mut body = bodies::take(request.body_mut(), half).await?;
                tokio::time::sleep(time).await;
                body.extend_from_slice(&whole(request.body_mut()).await?);
                *request.body_mut() = body.freeze().into();
            }
            Some(Fault::Slow(rate)) => {
                let body = bodies::slowly_read(request.body_mut(), rate).await?;
                *request.body_mut() = body.into();
            }
            Some(Fault::Status(..) | Fault::SlowDown503 | Fault::CompleteError200) => {
                // Read first: an answer to an unread body may be lost when the connection closes.
                whole(request.body_mut()).await?;
                return Ok(match fault {
                    Some(Fault::Status(status, code)) => error(status, code),
                    Some(Fault::SlowDown503) => error(503, "SlowDown"),
                    _ => error(200, "InternalError"),
                });
            }
            _ => {}
        }
        let sends = length(request.headers()) > 0;
        let mut response = self.s3.call(request).await.map_err(|_| Cut)?;
        match fault {
            Some(Fault::DropAfter) => return Err(Cut),
            Some(Fault::StallAfter(time)) => tokio::time::sleep(time).await,
            Some(Fault::CorruptBody) if !writes => {
                let body = whole(response.body_mut()).await?;
                *response.body_mut() = flipped(&body).into();
            }
            Some(Fault::OwnCondition) => return Ok(error(412, "PreconditionFailed")),
            Some(Fault::WrongEtag) => bodies::mislabel(&mut response).await?,
            Some(Fault::ShortBody) => {
                let body = whole(response.body_mut()).await?;
                let half = body.slice(..body.len() / 2);
                response.headers_mut().insert(CONTENT_LENGTH, half.len().into());
                *response.body_mut() = half.into();
            }
            Some(Fault::StallMid(time)) if !sends => {
                let body = whole(response.body_mut()).await?;
                *response.body_mut() = bodies::pausing(&body, time);
            }
            Some(Fault::Slow(rate)) => {
                let body = whole(response.body_mut()).await?;
                *response.body_mut() = bodies::slowly_sent(body, rate);
            }
            Some(Fault::TruncateBody) => {
                let body = whole(response.body_mut()).await?;
                response.headers_mut().insert(CONTENT_LENGTH, body.len().into());
                let half = Ok(body.slice(..body.len() / 2));
                let cut = async {
                    tokio::task::yield_now().await; // for the half to get onto the wire
                    Err(Cut)
                };
                let chunks = stream::once(std::future::ready(half)).chain(stream::once(cut));
                *response.body_mut() = StreamingBlob::wrap(chunks).into();
            }
            _ => {}
        }
        Ok(response)
    }
}

/// Serves connections until it is dropped, and then cuts them.
pub(super) async fn accept(listener: TcpListener, service: Arc<Service>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let _ = stream.set_nodelay(true);
                let service = Arc::clone(&service);
                connections.spawn(async move {
                    let call = service_fn(move |request| {
                        let service = Arc::clone(&service);
                        async move { service.call(request).await }
                    });
                    // Errors are the clients' and the faults'.
                    let _ = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .serve_connection(TokioIo::new(stream), call)
                        .await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

fn classify(request: &Request<Incoming>) -> (Operation, String) {
    use Operation::*;
    let path = request.uri().path().trim_start_matches('/');
    let (_, key) = path.split_once('/').unwrap_or((path, ""));
    let query = request.uri().query().unwrap_or_default();
    let asks = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    let has = |name: &str| request.headers().contains_key(name);
    let operation = match (request.method(), key.is_empty()) {
        (&Method::GET, true) if asks("list-type") => List,
        (&Method::PUT, true) => CreateBucket,
        (&Method::HEAD, true) => HeadBucket,
        (&Method::POST, true) if asks("delete") => DeleteMany,
        (_, true) => Other,
        (&Method::PUT, _) if asks("partNumber") => UploadPart,
        (&Method::PUT, _) if has("if-none-match") => PutIfAbsent,
        (&Method::PUT, _) if has("if-match") => PutIfMatch,
        (&Method::PUT, _) => Put,
        (&Method::POST, _) if asks("uploads") => CreateUpload,
        (&Method::POST, _) if asks("uploadId") => CompleteUpload,
        (&Method::DELETE, _) if asks("uploadId") => AbortUpload,
        (&Method::DELETE, _) => Delete,
        (&Method::GET, _) => Get,
        (&Method::HEAD, _) => Head,
        _ => Other,
    };
    let prefix = query.split('&').find_map(|pair| pair.strip_prefix("prefix="));
    let key = if operation == List { prefix.unwrap_or_default().replace("%2F", "/") } else { key.to_owned() };
    (operation, key)
}

fn length(headers: &hyper::HeaderMap) -> u64 {
    let value = headers.get("x-amz-decoded-content-length").or_else(|| headers.get(CONTENT_LENGTH));
    value.and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or_default()
}

/// The access key that a request is signed with.
fn signer(request: &Request<Incoming>) -> String {
    let header = request.headers().get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let key = header.split_once("Credential=").and_then(|(_, rest)| rest.split('/').next());
    key.unwrap_or_default().to_owned()
}

fn headers(request: &Request<Incoming>) -> BTreeMap<String, String> {
    let of_s3 = |name: &str| {
        name.starts_with("x-amz-") || name.starts_with("x-goog-") || name == "range" || name.starts_with("if-")
    };
    let found = request.headers().iter().filter(|(name, _)| of_s3(name.as_str()));
    found.map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect()
}

fn flipped(bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
    bytes.into()
}

fn error(status: u16, code: &str) -> Response<Body> {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>injected</Message></Error>"
    );
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).expect("a fault has a status of HTTP");
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/xml"));
    response
}
