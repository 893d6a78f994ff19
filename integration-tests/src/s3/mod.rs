//! An S3 server in this process, in memory, with faults on demand.
//!
//! It speaks S3 by the crate `s3s`, including signatures, so what passes here has been through a real
//! socket and a real parser. [`buckets`] keeps the objects, [`api`] is S3 over them, [`faults`] says
//! which call fails how, [`serve`] does it and writes the log.

mod api;
mod bodies;
mod buckets;
pub mod faults;
mod keys;
mod serve;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;
use tokio::{net::TcpListener, task::JoinHandle};

use self::{buckets::Buckets, faults::Faults, serve::Service};
pub use self::{
    faults::{Fault, Operation, Rule, When},
    keys::Keys,
    serve::Logged,
};

/// The access key that the server knows from the start.
pub const ACCESS_KEY_ID: &str = "forebay";
/// The secret of [`ACCESS_KEY_ID`].
pub const SECRET_ACCESS_KEY: &str = "forebay-secret";
/// The region that the server is in.
pub const REGION: &str = "us-east-1";

/// A running server. Dropping it cuts all connections and forgets all objects.
#[derive(Debug)]
pub struct S3Server {
    address: SocketAddr,
    service: Arc<Service>,
    accepting: JoinHandle<()>,
}

impl S3Server {
    /// Starts a server on a free port of 127.0.0.1, with one empty bucket.
    pub async fn start(bucket: &str) -> std::io::Result<Self> {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), bucket).await
    }

    /// Starts a server at an address.
    pub async fn start_at(address: SocketAddr, bucket: &str) -> std::io::Result<Self> {
        Self::listen(TcpListener::bind(address).await?, bucket, true)
    }

    /// Starts a server on a socket that listens already.
    pub fn start_on(listener: std::net::TcpListener, bucket: &str) -> std::io::Result<Self> {
        Self::listen(TcpListener::from_std(listener)?, bucket, true)
    }

    /// Starts a server that anybody may call, as Google's XML API is called: that is S3's, but for the conditions,
    /// which are of generations.
    pub async fn start_as_google(bucket: &str) -> std::io::Result<Self> {
        Self::listen(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?, bucket, false)
    }

    fn listen(listener: TcpListener, bucket: &str, signed: bool) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let service = Arc::new(Service::new(signed));
        service.buckets.create(bucket);
        let accepting = tokio::spawn(serve::accept(listener, Arc::clone(&service)));
        Ok(Self { address, service, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL, for `endpoint`; clients must ask by path style.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Which calls fail.
    pub fn faults(&self) -> &Faults {
        &self.service.faults
    }

    /// Who may call.
    pub fn keys_allowed(&self) -> &Keys {
        &self.service.keys
    }

    /// Every call so far, in the order of their ends.
    pub fn log(&self) -> Vec<Logged> {
        self.service.log()
    }

    /// How many calls of an operation there were.
    pub fn calls(&self, operation: Operation) -> usize {
        self.log().iter().filter(|call| call.operation == operation).count()
    }

    /// Forgets the calls so far.
    pub fn clear_log(&self) {
        self.service.clear_log();
    }

    /// The content of an object, past all faults.
    pub fn object(&self, bucket: &str, key: &str) -> Option<Bytes> {
        self.service.buckets.object(bucket, key)
    }

    /// The keys of a bucket, past all faults.
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        self.service.buckets.keys(bucket)
    }

    /// Replaces or creates an object past all rules: damage done behind everybody's back.
    pub fn tamper(&self, bucket: &str, key: &str, bytes: Bytes) {
        self.service.buckets.tamper(bucket, key, bytes);
    }

    /// Multipart uploads that were neither completed nor aborted.
    pub fn open_uploads(&self) -> usize {
        self.service.buckets.open_uploads()
    }

    /// Waits until the server ends, which it does only when dropped; for a `main`.
    pub async fn run(mut self) {
        let _ = (&mut self.accepting).await;
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.accepting.abort(); // and with it the connections, which it owns
    }
}

/// The same buckets for the API and for the tests.
type SharedBuckets = Arc<Buckets>;
