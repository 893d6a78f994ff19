//! A second opinion on what S3 is: `moto`, written by others.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use super::*;

/// A second opinion on what S3 is: `moto`, from the environment that `deploy/setup.sh tests` makes.
#[tokio::test(flavor = "multi_thread")]
async fn the_s3_store_conforms_against_moto() {
    let moto = tokio::task::spawn_blocking(Moto::start).await.unwrap();
    moto.create_bucket(BUCKET);
    let store: SharedStore = Arc::new(open_with("s3://state/prefix", &config(moto.endpoint.clone())).await);
    conformance::check(Arc::clone(&store)).await;
    conformance::check_pages(Arc::clone(&store)).await;
    prove(store.as_ref(), "cluster").await.unwrap();
    let missing = open_with("s3://no-such-bucket", &config(moto.endpoint.clone())).await;
    let err = prove(&missing, "").await.unwrap_err();
    assert!(err.to_string().contains("there is no bucket no-such-bucket"), "{err}");
}

/// A running `moto_server`.
struct Moto {
    process: Child,
    endpoint: String,
}

impl Moto {
    fn start() -> Self {
        let dir = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let cache = dir("FOREBAY_CACHE").unwrap_or_else(|| {
            let home = || dir("HOME").expect("HOME is set").join(".cache");
            dir("XDG_CACHE_HOME").unwrap_or_else(home).join("forebay")
        });
        let program = cache.join("venv/bin/moto_server");
        let mut process = Command::new(&program)
            .args(["-H", "127.0.0.1", "-p", "0"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|err| panic!("{}: {err}: run `deploy/setup.sh tests`", program.display()));
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let endpoint = lines.by_ref().find_map(|line| {
            let line = line.unwrap();
            line.split_once("Running on ").map(|(_, url)| url.trim().to_owned())
        });
        // Read on, or it blocks once the pipe is full.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, endpoint: endpoint.expect("moto_server ended") }
    }

    fn create_bucket(&self, bucket: &str) {
        let address = self.endpoint.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "PUT /{bucket} HTTP/1.0\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.lines().next().unwrap().contains(" 200 "), "{answer}");
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
