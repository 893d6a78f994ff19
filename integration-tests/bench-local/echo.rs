//! Unary calls: how long one takes, beside one that does nothing but come back.

use std::{net::TcpListener, time::Instant};

use anyhow::{Result, ensure};
use forebay_client::v1::{GetRequest, PutRequest};
use forebay_integration_tests::{
    bench::{
        data::{Data, Random, VALUE_BYTES},
        peer::Peer,
        rows::{Rows, percentile},
    },
    harness::{Forebay, Job, JobBuilder, Setup, address, raw, value},
};
use tonic::{
    Request, Response, Status,
    body::Body,
    client::Grpc,
    codegen::{Context as Turn, Poll, Service, http, http::uri::PathAndQuery},
    server::{NamedService, UnaryService},
    transport::{Channel, Server, server::TcpIncoming},
};
use tonic_prost::ProstCodec;

/// The argument by which this program serves the echo.
pub const SERVE: &str = "--serve-echo";
const KEYS: u32 = 10_000;

/// Serves until the process is ended.
pub fn serve() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    println!("{}", listener.local_addr()?.port());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener)?).with_nodelay(Some(true));
        Ok(Server::builder().add_service(Echo).serve_with_incoming(incoming).await?)
    })
}

#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "bench.Echo";
}

impl UnaryService<Vec<u8>> for Echo {
    type Response = Vec<u8>;
    type Future = std::future::Ready<Result<Response<Vec<u8>>, Status>>;

    fn call(&mut self, request: Request<Vec<u8>>) -> Self::Future {
        std::future::ready(Ok(Response::new(request.into_inner())))
    }
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = tonic::codegen::BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Turn<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<Vec<u8>, Vec<u8>>::default());
            Ok(grpc.unary(Echo, request).await)
        })
    }
}

/// Calls both, one call at a time, so many calls a run.
pub fn measure(setup: Setup, data: &Data, runs: usize, calls: usize, rows: &mut Rows) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let peer = Peer::start(SERVE)?;
    let mut pairs = Vec::new();
    runtime.block_on(async {
        let forebay: Forebay = setup.start().await;
        let api = forebay.api();
        Job::create(&api, JobBuilder::shared("job", 2).build(), &[value("state")]).await;
        let at = |index| address("job", "op", "state", data.key(index));
        for index in 0..KEYS.min(data.len()) {
            let values = vec![raw(data.value(index, 0))];
            let put = PutRequest { address: Some(at(index)), values, ..Default::default() };
            api.state().put(put).await?;
        }
        let echo = Channel::from_shared(format!("http://127.0.0.1:{}", peer.port()))?.connect().await?;
        let (mut state, mut echo) = (api.state(), Grpc::new(echo));
        let mut random = Random::new(1);
        for _ in 0..runs {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..calls {
                let index = random.below(KEYS.min(data.len()));
                let request = GetRequest { address: Some(at(index)), ..Default::default() };
                let begun = Instant::now();
                let found = state.get(request).await?.into_inner();
                ours.push(begun.elapsed().as_secs_f64() * 1e6);
                data.check(index, found.items.first().map(|item| &item.raw[..]))?;
                let sent = data.value(index, 0).to_vec();
                let begun = Instant::now();
                let came = call(&mut echo, sent).await?;
                theirs.push(begun.elapsed().as_secs_f64() * 1e6);
                ensure!(came.len() == VALUE_BYTES, "the echo has {} bytes", came.len());
            }
            pairs.push((percentile(&ours, 99), percentile(&theirs, 99)));
        }
        anyhow::Ok(())
    })?;
    rows.ratio("unary_get_p99_vs_echo", "µs", "≤ 1.5", &pairs);
    Ok(())
}

async fn call(echo: &mut Grpc<Channel>, bytes: Vec<u8>) -> Result<Vec<u8>> {
    echo.ready().await?;
    let path = PathAndQuery::from_static("/bench.Echo/Call");
    let codec = ProstCodec::<Vec<u8>, Vec<u8>>::default();
    Ok(echo.unary(Request::new(bytes), path, codec).await?.into_inner())
}
