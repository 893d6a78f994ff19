//! A proxy that passes requests on and can swallow the answers, and what a store must say then.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::*;

/// A proxy of TCP. While it swallows, connections end as soon as their answer begins.
pub(super) struct Lossy {
    endpoint: String,
    swallows: Arc<AtomicBool>,
    swallowed: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Lossy {
    pub(super) async fn before(endpoint: &str) -> Self {
        let target = endpoint.strip_prefix("http://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (swallows, swallowed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (seen, count) = (Arc::clone(&swallows), Arc::clone(&swallowed));
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&target).await.unwrap();
                tokio::spawn(pass(client, server, Arc::clone(&seen), Arc::clone(&count)));
            }
        });
        Self { endpoint, swallows, swallowed, accepting }
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    fn swallow(&self, yes: bool) {
        self.swallows.store(yes, Ordering::SeqCst);
    }
}

impl Drop for Lossy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn pass(client: TcpStream, server: TcpStream, swallows: Arc<AtomicBool>, count: Arc<AtomicUsize>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    });
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
        if swallows.load(Ordering::SeqCst) {
            count.fetch_add(1, Ordering::SeqCst);
            return; // which closes the client's side
        }
        if to_client.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// A conditional write whose answer is lost is ambiguous, was sent once, and reading back settles it.
pub(super) async fn check(store: &dyn ObjectStore, proxy: &Lossy) {
    let write = |content: &'static [u8], condition: Condition| async move {
        store.put_if("head", Bytes::from_static(content), &condition).await
    };
    proxy.swallow(true);
    let result = write(b"1", Condition::Absent).await;
    assert!(matches!(result, Err(Error::Ambiguous { .. })), "{result:?}");
    assert_eq!(proxy.swallowed.load(Ordering::SeqCst), 1, "it was repeated");
    proxy.swallow(false);
    let (bytes, version) = store.get("head").await.unwrap();
    assert_eq!(bytes, "1", "it was in force");
    proxy.swallow(true);
    let result = write(b"2", Condition::Is(version.clone())).await;
    assert!(matches!(result, Err(Error::Ambiguous { .. })), "{result:?}");
    assert_eq!(proxy.swallowed.load(Ordering::SeqCst), 2, "it was repeated");
    proxy.swallow(false);
    assert_eq!(store.get("head").await.unwrap().0, "2");
    let result = write(b"3", Condition::Is(version)).await;
    assert!(matches!(result, Err(Error::Conflict { .. })), "{result:?}");
}
