//! Azure Blob Storage against `azurite`, Microsoft's own emulator.

use forebay_server::checkpoint::{others::OtherStore, store::CloudConfig};

use super::{servers::Beside, *};

const ACCOUNT: &str = "forebay";
/// In base64, as Azure's keys are.
const KEY: &str = "Zm9yZWJheS1zZWNyZXQtb2YtdGhlLXRlc3Rz";

/// Azurite makes a container on a signed request only, which the standard library of Python is enough for.
const MAKE_CONTAINER: &str = r#"
import base64, hashlib, hmac, sys, urllib.request
from email.utils import formatdate
endpoint, account, key, container = sys.argv[1:]
headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
named = "".join(f"{name}:{value}\n" for name, value in sorted(headers.items()))
text = "PUT" + "\n" * 12 + named + f"/{account}/{account}/{container}\nrestype:container"
signed = hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()
headers["Authorization"] = f"SharedKey {account}:{base64.b64encode(signed).decode()}"
url = f"{endpoint}/{account}/{container}?restype=container"
urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers))
"#;

fn start() -> Beside {
    let arguments = [
        "--blobHost",
        "127.0.0.1",
        "--blobPort",
        "0",
        "--inMemoryPersistence",
        "--skipApiVersionCheck",
        "--disableTelemetry",
    ];
    let accounts = format!("{ACCOUNT}:{KEY}");
    let azurite =
        Beside::start("azurite/node_modules/.bin/azurite-blob", &arguments, &[("AZURITE_ACCOUNTS", &accounts)]);
    for _ in 0..50 {
        let made = Command::new("python3")
            .args(["-c", MAKE_CONTAINER, &azurite.endpoint, ACCOUNT, KEY, BUCKET])
            .output()
            .unwrap();
        if made.status.success() {
            return azurite;
        }
        assert!(String::from_utf8_lossy(&made.stderr).contains("refused"), "{made:?}");
    }
    panic!("azurite does not listen where it says");
}

fn config(azurite: &Beside) -> CloudConfig {
    let endpoint = Some(format!("{}/{ACCOUNT}", azurite.endpoint));
    CloudConfig { endpoint, part_size: "5MiB".parse().unwrap(), attempts_max: 3, ..CloudConfig::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_azure_store_conforms_against_azurite() {
    let azurite = tokio::task::spawn_blocking(start).await.unwrap();
    let open = |url, key| OtherStore::open_azure_with_key(url, &config(&azurite), ACCOUNT, key);
    let store: SharedStore = Arc::new(open("az://state/some/prefix", KEY).unwrap());
    conformance::check(Arc::clone(&store)).await;
    conformance::check_pages(Arc::clone(&store)).await;
    prove(store.as_ref(), "cluster").await.unwrap();

    let missing = open("az://no-such-container", KEY).unwrap();
    let err = prove(&missing, "").await.unwrap_err();
    assert!(matches!(err, Error::Refused { .. }), "{err}");
    assert!(err.to_string().contains("create the bucket"), "{err}");
    let stranger = open("az://state", "bm90LXRoZS1zZWNyZXQ=").unwrap();
    let err = stranger.put_if("a", Bytes::new(), &Condition::Absent).await.unwrap_err();
    assert!(matches!(err, Error::Refused { .. }), "{err}");
    assert!(err.to_string().contains("check the credentials"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_of_azure_to_a_conditional_write_is_ambiguous_and_never_repeated() {
    let azurite = tokio::task::spawn_blocking(start).await.unwrap();
    let proxy = lossy::Lossy::before(&azurite.endpoint).await;
    let config = CloudConfig {
        endpoint: Some(format!("{}/{ACCOUNT}", proxy.endpoint())),
        attempt_timeout: Duration::from_secs(3),
        ..config(&azurite)
    };
    let store = OtherStore::open_azure_with_key("az://state", &config, ACCOUNT, KEY).unwrap();
    lossy::check(&store, &proxy).await;
}
