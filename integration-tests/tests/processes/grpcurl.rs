//! The grpcurl sessions of the documents, run as they are written against a real server.

use std::path::PathBuf;

use forebay_integration_tests::harness::{Forebay, within};
use tokio::process::Command;

use crate::session;

/// Documents with a session of grpcurl.
const DOCUMENTS: [&str; 2] = ["docs/grpcurl.md", "README.md"];

/// Where `deploy/setup.sh tests` puts grpcurl.
fn folder() -> PathBuf {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || Some(var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache")))?.join("forebay"));
    let folder = var("FOREBAY_CACHE").or_else(cache).expect("HOME is set").join("bin");
    let binary = folder.join("grpcurl");
    assert!(binary.is_file(), "{} is not there: run deploy/setup.sh tests first", binary.display());
    folder
}

#[tokio::test]
async fn the_sessions_of_the_documents_hold() {
    for document in DOCUMENTS {
        session::holds(document, "grpcurl", &folder()).await;
    }
}

#[tokio::test]
async fn both_versions_of_reflection_answer() {
    let forebay = Forebay::dev().await;
    for version in ["v1", "v1alpha"] {
        let method = format!("grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let ask = [r#"{"listServices": ""}"#, r#"{"fileContainingSymbol": "google.rpc.ErrorInfo"}"#].join("\n");
        let child = Command::new(folder().join("grpcurl"))
            .args(["-plaintext", "-d", &ask, &format!("127.0.0.1:{}", forebay.port()), &method])
            .kill_on_drop(true)
            .output();
        let output = within(&method, child).await.expect("grpcurl starts");
        let said = String::from_utf8_lossy(&output.stdout);
        let answers = ["\"forebay.v1.StateService\"", "\"fileDescriptorResponse\""];
        assert!(output.status.success() && answers.iter().all(|answer| said.contains(answer)), "{version}: {output:?}");
    }
}
