//! The edge: the only folder that names tonic. One file per service; [`dial`] is the server's side of
//! its link to the coordinator.
//!
//! A request is decoded here, finds its shard or the coordinator, and its answer is encoded here.
//! Nothing is decided.

mod coordinator;
mod debug;
pub mod dial;
pub mod election;
mod join;
mod link;
mod snapshot;
mod state;
mod stream;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytesize::ByteSize;
use forebay_proto::{DESCRIPTOR, reason::Refused, v1};
use futures::{FutureExt as _, future::OptionFuture};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    service::{Routes, RoutesBuilder},
    transport::{Server, server::TcpIncoming},
};
use tonic_health::{ServingStatus, server::HealthReporter};
use v1::{
    ErrorReason as Reason, coordinator_service_server::CoordinatorServiceServer,
    debug_service_server::DebugServiceServer, election_service_server::ElectionServiceServer,
    server_link_service_server::ServerLinkServiceServer, snapshot_service_server::SnapshotServiceServer,
    state_service_server::StateServiceServer, stream_service_server::StreamServiceServer,
};

use crate::{coordinator::office::Office, shard::Shards};

/// Largest message that is taken, in bytes: a batch with one value of the largest size, and room.
const MESSAGE_BYTES_MAX: usize = 72 << 20;
/// Windows that a small memory budget leaves at least.
const WINDOW_MIN: u64 = 1 << 20;
/// What HTTP/2 allows a frame to hold.
const FRAME_BYTES: std::ops::Range<u64> = 1 << 14..1 << 24;
/// What HTTP/2 allows a window to be.
const WINDOW_BYTES: std::ops::Range<u64> = (1 << 16) - 1..1 << 31;

/// `[server.http2]`: flow control of what clients send.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Http2 {
    /// Bytes that a stream may send before they are read: a few batches in flight on each lane. Less where the memory
    /// budget is small.
    pub stream_window: ByteSize,
    /// The same of all streams of a connection.
    pub connection_window: ByteSize,
    /// Bytes of the largest frame that clients may send.
    pub frame: ByteSize,
}

impl Default for Http2 {
    fn default() -> Self {
        Self { stream_window: ByteSize::mib(8), connection_window: ByteSize::mib(32), frame: ByteSize::kib(16) }
    }
}

impl Http2 {
    /// Everything that is wrong with it.
    pub fn check(&self) -> impl Iterator<Item = String> {
        let sizes = [
            ("stream_window", self.stream_window, WINDOW_BYTES),
            ("connection_window", self.connection_window, WINDOW_BYTES),
            ("frame", self.frame, FRAME_BYTES),
        ];
        sizes.into_iter().filter(|(_, size, range)| !range.contains(&size.0)).map(|(key, size, range)| {
            format!("server.http2.{key} is {size}: HTTP/2 allows {} to {} bytes", range.start, range.end - 1)
        })
    }
}

/// What a process serves.
#[derive(Debug, Clone, Default)]
pub struct Served {
    /// Where clients reach this process.
    pub address: String,
    /// Flow control of their connections.
    pub http2: Http2,
    /// The data plane, if this process hosts shards.
    pub shards: Option<Shards>,
    /// The control plane, if this process coordinates.
    pub coordinator: Option<Arc<Office>>,
    /// Where the control plane is, if this process does not coordinate.
    pub coordinators: Vec<String>,
}

/// Serves until `stop` is cancelled, then lets requests end for a bounded time.
pub async fn serve(
    listener: TcpListener,
    unix: Option<UnixListener>,
    served: Served,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let routes = routes(&served).await?;
    let (stream_window, connection_window) = windows(&served);
    let server = || {
        Server::builder()
            .initial_stream_window_size(stream_window)
            .initial_connection_window_size(connection_window)
            .max_frame_size(served.http2.frame.0 as u32)
            .max_concurrent_streams(1024)
            .http2_keepalive_interval(Some(Duration::from_secs(20)))
            .http2_keepalive_timeout(Some(Duration::from_secs(20)))
            .add_routes(routes.clone())
    };
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let over_tcp = server().serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    let over_unix = unix.map(|unix| {
        server().serve_with_incoming_shutdown(UnixListenerStream::new(unix), stop.clone().cancelled_owned())
    });
    let both = async { tokio::try_join!(over_tcp, OptionFuture::from(over_unix).map(Option::transpose)) };
    tokio::select! {
        result = both => Ok(result.map(drop)?),
        // Streams of workers do not end by themselves.
        () = async { stop.cancelled().await; tokio::time::sleep(Duration::from_secs(2)).await } => Ok(()),
    }
}

/// Windows of a stream and of a connection: what lies in them unread is of the memory budget, too.
fn windows(served: &Served) -> (u32, u32) {
    let stream_max = served.shards.as_ref().map(|shards| shards.environment().backends.budget().stream_max());
    let of = |window: ByteSize| {
        let least = WINDOW_MIN.min(window.0);
        stream_max.map_or(window.0, |stream_max| (stream_max / 2).clamp(least, window.0)) as u32
    };
    (of(served.http2.stream_window), of(served.http2.connection_window))
}

async fn routes(served: &Served) -> anyhow::Result<Routes> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", ServingStatus::Serving).await;
    health.set_service_status("readiness", ServingStatus::Serving).await;
    let mut routes = RoutesBuilder::default();
    routes.add_service(health_service);
    let descriptors = |builder: tonic_reflection::server::Builder<'static>| {
        builder
            .register_encoded_file_descriptor_set(DESCRIPTOR)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET)
    };
    routes.add_service(descriptors(tonic_reflection::server::Builder::configure()).build_v1()?);
    routes.add_service(descriptors(tonic_reflection::server::Builder::configure()).build_v1alpha()?);
    routes.add_service(DebugServiceServer::new(debug::DebugEdge::new(served.clone())));
    routes.add_service(
        SnapshotServiceServer::new(snapshot::SnapshotEdge::new(served))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX),
    );
    if let Some(shards) = &served.shards {
        routes.add_service(
            StateServiceServer::new(state::StateEdge::new(shards.clone()))
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        );
        routes.add_service(
            StreamServiceServer::new(stream::StreamEdge::new(shards.clone()))
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        );
    }
    if let Some(office) = &served.coordinator {
        tokio::spawn(show_leading(health, office.clone()));
        routes.add_service(ElectionServiceServer::new(election::ElectionEdge::new(office.clone())));
        routes.add_service(
            CoordinatorServiceServer::new(coordinator::CoordinatorEdge::new(office.clone()))
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        );
        routes.add_service(
            ServerLinkServiceServer::new(link::LinkEdge::new(office.clone()))
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
        );
    }
    Ok(routes.routes())
}

/// Keeps the health of `coordinator`: it serves while this process leads.
async fn show_leading(health: HealthReporter, office: Arc<Office>) {
    let mut leads = office.watch();
    loop {
        let leading = leads.borrow_and_update().is_some();
        let status = if leading { ServingStatus::Serving } else { ServingStatus::NotServing };
        health.set_service_status("coordinator", status).await;
        if leads.changed().await.is_err() {
            return;
        }
    }
}

/// Refuses what the contract holds and this build does not serve.
fn unsupported(what: &str) -> Refused {
    Refused::new(Reason::Unsupported, format!("{what} is not served by this build"))
}

/// The address that clients can reach a listener at, where the config names none.
pub fn address_of(listener: &TcpListener) -> std::io::Result<String> {
    let address: SocketAddr = listener.local_addr()?;
    Ok(format!("http://{address}"))
}
