//! A third opinion on what S3 is: `s3s-fs`, which keeps objects as files.

use std::net::{Ipv4Addr, SocketAddr};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use s3s::{Body, auth::SimpleAuth, service::S3ServiceBuilder};
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    sync::Mutex,
    task::{JoinHandle, JoinSet},
};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_s3_store_conforms_against_s3s_fs() {
    let server = S3sFs::start().await;
    let config = config(format!("http://{}", server.address));
    let store: SharedStore = Arc::new(open_with("s3://state/prefix", &config).await);
    conformance::check(Arc::clone(&store)).await;
    conformance::check_pages(Arc::clone(&store)).await;
    prove(store.as_ref(), "cluster").await.unwrap();
    let missing = open_with("s3://no-such-bucket", &config).await;
    let err = prove(&missing, "").await.unwrap_err();
    assert!(err.to_string().contains("there is no bucket no-such-bucket"), "{err}");
}

/// A running server, in this process.
struct S3sFs {
    address: SocketAddr,
    accepting: JoinHandle<()>,
    _folder: TempDir,
}

impl S3sFs {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
        let mut builder = S3ServiceBuilder::new(::s3s_fs::FileSystem::new(folder.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY_ID, SECRET_ACCESS_KEY));
        // It looks at a condition and then writes: one call at a time, or of two writers both win.
        let service = Arc::new(Mutex::new(builder.build()));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let service = Arc::clone(&service);
                let call = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let service = Arc::clone(&service);
                    async move { service.lock().await.call(request.map(Body::from)).await }
                });
                connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), call));
            }
        });
        Self { address, accepting, _folder: folder }
    }
}

impl Drop for S3sFs {
    fn drop(&mut self) {
        self.accepting.abort(); // and with it the connections, which it owns
    }
}
