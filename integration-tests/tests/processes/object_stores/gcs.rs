//! Google Cloud Storage against `fake-gcs-server`.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
};

use forebay_server::checkpoint::{others::OtherStore, store::CloudConfig};

use super::{servers::Beside, *};

fn start() -> Beside {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let arguments = ["-scheme", "http", "-host", "127.0.0.1", "-port", &port, "-backend", "memory"];
    let public = format!("127.0.0.1:{port}");
    let gcs = Beside::start("bin/fake-gcs-server", &[&arguments[..], &["-public-host", &public]].concat(), &[]);
    let body = format!(r#"{{"name": "{BUCKET}"}}"#);
    let mut stream = TcpStream::connect(&public).unwrap();
    write!(
        stream,
        "POST /storage/v1/b?project=test HTTP/1.0\r\nHost: {public}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.lines().next().unwrap().contains(" 200 "), "{answer}");
    gcs
}

fn config(endpoint: &str) -> CloudConfig {
    CloudConfig {
        endpoint: Some(endpoint.into()),
        anonymous: true,
        part_size: "5MiB".parse().unwrap(),
        attempts_max: 3,
        ..CloudConfig::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fake_gcs_server_knows_of_it_the_store_does_and_the_rest_is_refused() {
    let gcs = tokio::task::spawn_blocking(start).await.unwrap();
    let store = OtherStore::open_gcs("gs://state/some/prefix", &config(&gcs.endpoint)).unwrap();
    for result in [prove(&store, "cluster").await.map(|()| "proven")] {
        println!("{result:?}");
    }
    println!("{:?}", store.put("a", Bytes::from_static(b"0123456789")).await);
    println!("{:?}", store.get("a").await);
    println!("{:?}", store.get_range("a", 2..4).await);
    println!("{:?}", store.list("").await);
    println!("{:?}", store.delete("a").await);
    println!("{:?}", store.get("a").await);
    println!("{:?}", store.put_file("f", file(11 << 20).path()).await);
    println!("{:?}", store.put_if("c", Bytes::from_static(b"1"), &Condition::Absent).await);
    println!("{:?}", store.put_if("c", Bytes::from_static(b"2"), &Condition::Absent).await);
    panic!("see");
}
