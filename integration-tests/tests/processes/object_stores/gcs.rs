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
async fn the_gcs_store_conforms_against_a_server_of_its_xml_api() {
    let server = S3Server::start_as_google(BUCKET).await.unwrap();
    let store: SharedStore =
        Arc::new(OtherStore::open_gcs("gs://state/some/prefix", &config(&server.endpoint())).unwrap());
    conformance::check(Arc::clone(&store)).await;
    conformance::check_pages(Arc::clone(&store)).await;
    prove(store.as_ref(), "cluster").await.unwrap();
    assert_eq!(server.keys(BUCKET), Vec::<String>::new());
    assert_eq!(server.open_uploads(), 0);
    let conditional = server.log().into_iter().filter(|call| call.headers.contains_key("x-goog-if-generation-match"));
    assert!(conditional.count() > 50, "conditions are of generations");

    let missing = OtherStore::open_gcs("gs://no-such-bucket", &config(&server.endpoint())).unwrap();
    let err = prove(&missing, "").await.unwrap_err();
    assert!(matches!(err, Error::Refused { .. }), "{err}");
    server.faults().add(Rule::new(Fault::IgnoreConditions));
    let err = prove(store.as_ref(), "cluster").await.unwrap_err();
    assert_eq!(err.to_string(), "gs://state/some/prefix ignores If-None-Match: unsafe for checkpoints");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_of_google_to_a_conditional_write_is_ambiguous_and_never_repeated() {
    let server = S3Server::start_as_google(BUCKET).await.unwrap();
    let config = CloudConfig { attempt_timeout: Duration::from_secs(2), ..config(&server.endpoint()) };
    let store = OtherStore::open_gcs("gs://state", &config).unwrap();
    let faults = [
        (Fault::DropAfter, true),
        (Fault::DropBefore, false),
        (Fault::SlowDown503, false),
        (Fault::StallAfter(Duration::from_secs(60)), true),
    ];
    for (n, (fault, in_force)) in faults.into_iter().enumerate() {
        let path = format!("head{n}"); // no sign that the crate escapes in the URL
        server.faults().add(Rule::new(fault).of(Operation::Put).on(&path).when(When::First(1)));
        let fired = server.faults().fired();
        let result = store.put_if(&path, Bytes::from_static(b"1"), &Condition::Absent).await;
        assert!(matches!(result, Err(Error::Ambiguous { .. })), "{fault:?}: {result:?}");
        assert_eq!(server.faults().fired(), fired + 1, "{fault:?}");
        assert_eq!(server.object(BUCKET, &path).is_some(), in_force, "{fault:?}: it was repeated");
    }
    // What is safe to repeat is repeated.
    server.faults().once(Operation::Put, Fault::SlowDown503);
    store.put("plain", Bytes::from_static(b"x")).await.unwrap();
    server.faults().once(Operation::Get, Fault::SlowDown503);
    assert_eq!(store.get("plain").await.unwrap().0, "x");
    let unreachable = CloudConfig { endpoint: Some("http://127.0.0.1:1".into()), ..config };
    let store = OtherStore::open_gcs("gs://state", &unreachable).unwrap();
    let result = store.put_if("a", Bytes::new(), &Condition::Absent).await;
    assert!(matches!(result, Err(Error::Unavailable { .. })), "it was never sent: {result:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fake_gcs_server_which_takes_no_writes_of_the_xml_api_is_refused() {
    let gcs = tokio::task::spawn_blocking(start).await.unwrap();
    let store = OtherStore::open_gcs("gs://state/some/prefix", &config(&gcs.endpoint)).unwrap();
    assert_eq!(store.list("").await.unwrap(), []);
    let err = prove(&store, "cluster").await.unwrap_err();
    assert!(matches!(err, Error::Refused { .. }), "{err}");
    assert!(err.to_string().contains("400"), "{err}");
}
