//! A second opinion on what S3 is: `moto`, written by others.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use super::{servers::Beside, *};

/// A second opinion on what S3 is: `moto`, from the environment that `deploy/setup.sh tests` makes.
#[tokio::test(flavor = "multi_thread")]
async fn the_s3_store_conforms_against_moto() {
    let moto = tokio::task::spawn_blocking(Moto::start).await.unwrap();
    moto.create_bucket(BUCKET);
    let store: SharedStore = Arc::new(open_with("s3://state/prefix", &config(moto.0.endpoint.clone())).await);
    conformance::check(Arc::clone(&store)).await;
    conformance::check_pages(Arc::clone(&store)).await;
    prove(store.as_ref(), "cluster").await.unwrap();
    let missing = open_with("s3://no-such-bucket", &config(moto.0.endpoint.clone())).await;
    let err = prove(&missing, "").await.unwrap_err();
    assert!(err.to_string().contains("there is no bucket no-such-bucket"), "{err}");
}

/// A running `moto_server`.
struct Moto(Beside);

impl Moto {
    fn start() -> Self {
        Self(Beside::start("venv/bin/moto_server", &["-H", "127.0.0.1", "-p", "0"], &[]))
    }

    fn create_bucket(&self, bucket: &str) {
        let address = self.0.endpoint.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "PUT /{bucket} HTTP/1.0\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.lines().next().unwrap().contains(" 200 "), "{answer}");
    }
}
