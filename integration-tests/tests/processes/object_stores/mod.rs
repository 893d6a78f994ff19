//! The S3 store against S3 servers: ours, with faults, and `moto` and `s3s-fs`, written by others.

#![cfg(feature = "s3")]

#[cfg(feature = "azure")]
mod azure;
mod credentials;
mod faults;
#[cfg(feature = "gcs")]
mod gcs;
#[cfg(any(feature = "gcs", feature = "azure"))]
mod lossy;
mod matrix;
mod moto;
mod s3s_fs;
mod servers;
mod settings;
mod uploads;

use std::{process::Command, sync::Arc, time::Duration};

use bytes::Bytes;
use forebay_integration_tests::s3::{ACCESS_KEY_ID, Fault, Operation, REGION, Rule, S3Server, SECRET_ACCESS_KEY, When};
use forebay_server::checkpoint::{
    conformance,
    frame::{self, ObjectKind},
    objects::{Condition, Error, ObjectStore, SharedStore, Version},
    s3::{Checksums, S3Config, S3Store},
    store::{StoreConfig, open, prove},
};
use futures::future::join_all;

const BUCKET: &str = "state";

async fn server() -> S3Server {
    S3Server::start(BUCKET).await.unwrap()
}

fn config(endpoint: String) -> S3Config {
    S3Config {
        endpoint: Some(endpoint),
        region: Some(REGION.into()),
        path_style: true,
        part_size: "5MiB".parse().unwrap(),
        attempts_max: 3,
        ..S3Config::default()
    }
}

async fn open_with(url: &str, config: &S3Config) -> S3Store {
    S3Store::open_with_key(url, config, ACCESS_KEY_ID, SECRET_ACCESS_KEY).await.unwrap()
}

async fn store(server: &S3Server) -> S3Store {
    open_with("s3://state/some/prefix", &config(server.endpoint())).await
}

async fn impatient(server: &S3Server) -> S3Store {
    let attempt_timeout = Duration::from_millis(1500);
    open_with("s3://state", &S3Config { attempt_timeout, ..config(server.endpoint()) }).await
}

fn file(length: usize) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![7; length]).unwrap();
    file
}

fn version() -> Version {
    Version("\"00000000000000000000000000000000\"".into())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_s3_store_conforms() {
    let server = server().await;
    for checksums in [Checksums::WhenRequired, Checksums::WhenSupported] {
        let config = S3Config { checksums, ..config(server.endpoint()) };
        conformance::check(Arc::new(open_with("s3://state/some/prefix", &config).await)).await;
    }
    conformance::check_pages(Arc::new(store(&server).await)).await;
    assert_eq!(server.keys(BUCKET), Vec::<String>::new());
    assert_eq!(server.open_uploads(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_clients_one_creates_and_no_increment_is_lost() {
    let server = server().await;
    let clients = join_all((0..16).map(|_| store(&server))).await;
    let clients: Vec<SharedStore> = clients.into_iter().map(|store| Arc::new(store) as _).collect();
    let creations = clients.iter().map(|store| {
        let store = Arc::clone(store);
        tokio::spawn(async move { store.put_if("leader", Bytes::from_static(b"me"), &Condition::Absent).await })
    });
    let created = join_all(creations).await.into_iter().filter(|result| result.as_ref().unwrap().is_ok());
    assert_eq!(created.count(), 1);
    let increments = clients.iter().map(|store| {
        let store = Arc::clone(store);
        tokio::spawn(async move { conformance::increment(store.as_ref(), "counter").await })
    });
    for result in join_all(increments).await {
        result.unwrap();
    }
    let (bytes, _) = clients[0].get("counter").await.unwrap();
    assert_eq!(bytes[..8], 16u64.to_be_bytes());
}

#[tokio::test]
async fn a_missing_bucket_is_named() {
    let server = server().await;
    let store = open_with("s3://no-such-bucket/prefix", &config(server.endpoint())).await;
    let (file, absent) = (file(6 << 20), Condition::Absent);
    let errors = [
        store.put("a", Bytes::new()).await.err(),
        store.put_file("a", file.path()).await.err(),
        store.put_if("a", Bytes::new(), &absent).await.err(),
        store.put_if("a", Bytes::new(), &Condition::Is(version())).await.err(),
        store.get("a").await.err(),
        store.get_range("a", 0..1).await.err(),
        store.list("").await.err(),
        store.delete("a").await.err(),
        prove(&store, "").await.err(),
    ];
    for (n, err) in errors.into_iter().enumerate() {
        let err = err.unwrap();
        assert!(matches!(err, Error::Refused { .. }), "{n}: {err}");
        assert!(err.to_string().contains("there is no bucket no-such-bucket: create it"), "{n}: {err}");
    }
}

#[tokio::test]
async fn wrong_credentials_are_refused_with_a_hint_and_not_shown() {
    let server = server().await;
    let config = config(server.endpoint());
    for (id, secret) in [(ACCESS_KEY_ID, "not-the-secret"), ("nobody", "not-the-secret")] {
        let store = S3Store::open_with_key("s3://state", &config, id, secret).await.unwrap();
        let err = store.put_if("a", Bytes::new(), &Condition::Absent).await.unwrap_err();
        let text = err.to_string();
        assert!(matches!(err, Error::Refused { .. }), "{text}");
        assert!(text.contains("check the credentials"), "{text}");
        assert!(!text.contains("not-the-secret") && !format!("{store:?}").contains("not-the-secret"));
    }
}

#[tokio::test]
async fn a_url_with_a_password_is_refused_and_not_shown() {
    for url in ["s3://key:secret@bucket/prefix", "s3://", "s3:///prefix", "s3://state/../prefix"] {
        let err = open(url, &StoreConfig::default()).await.unwrap_err();
        assert!(matches!(err, Error::Refused { .. }) && !err.to_string().contains("secret"), "{err}");
    }
}

#[tokio::test]
async fn a_store_that_cannot_be_reached_has_written_nothing() {
    let store = open_with("s3://state", &config("http://127.0.0.1:1".into())).await;
    let err = store.put_if("a", Bytes::new(), &Condition::Absent).await.unwrap_err();
    assert!(matches!(err, Error::Unavailable { .. }), "{err}");
    assert!(err.to_string().contains("refused") && !err.to_string().contains('\n'), "{err}");
}

/// Not a test of its own: what the process of the next test runs.
#[tokio::test]
async fn child_without_credentials() {
    let Ok(endpoint) = std::env::var("FOREBAY_TEST_S3_ENDPOINT") else { return };
    let config = StoreConfig { s3: config(endpoint), ..StoreConfig::default() };
    let store = open("s3://state", &config).await.unwrap();
    let err = store.put_if("a", Bytes::new(), &Condition::Absent).await.unwrap_err();
    assert!(matches!(err, Error::Refused { .. }), "{err}");
    assert!(err.to_string().contains("there are no credentials"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_credentials_are_said_so() {
    let server = server().await;
    let status = tokio::task::spawn_blocking({
        let endpoint = server.endpoint();
        move || {
            Command::new(std::env::current_exe().unwrap())
                .args(["child_without_credentials", "--exact"])
                .env_clear()
                .env("AWS_EC2_METADATA_DISABLED", "true")
                .env("FOREBAY_TEST_S3_ENDPOINT", endpoint)
                .status()
        }
    });
    assert!(status.await.unwrap().unwrap().success());
}

#[tokio::test]
async fn a_store_is_proven_or_refused() {
    let server = server().await;
    let store = store(&server).await;
    prove(&store, "cluster/").await.unwrap();
    assert_eq!(server.keys(BUCKET), Vec::<String>::new());

    server.faults().add(Rule::new(Fault::IgnoreConditions));
    let err = prove(&store, "cluster").await.unwrap_err();
    assert_eq!(err.to_string(), "s3://state/some/prefix ignores If-None-Match: unsafe for checkpoints");
    server.faults().clear();
    server.faults().always(Operation::PutIfMatch, Fault::IgnoreConditions);
    let err = prove(&store, "cluster").await.unwrap_err();
    assert_eq!(err.to_string(), "s3://state/some/prefix ignores If-Match: unsafe for checkpoints");
    assert_eq!(server.keys(BUCKET), Vec::<String>::new());
}
