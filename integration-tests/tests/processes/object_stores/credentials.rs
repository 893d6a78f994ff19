//! Credentials that change while the process runs.

use std::{fs, path::Path};

use forebay_integration_tests::harness::{Job, JobBuilder, Setup, eventually, raw, value};

use super::*;

const NEW_ID: &str = "forebay-renewed";
const NEW_SECRET: &str = "renewed-secret";

/// Where a process finds its key.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// A profile with the key itself.
    Profile,
    /// A profile with a program that says the key.
    Program,
}

impl Source {
    fn write(self, folder: &Path, id: &str, secret: &str) {
        let (name, text) = match self {
            Self::Profile => {
                ("credentials", format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n"))
            }
            Self::Program => (
                "key.json",
                format!(
                    r#"{{"Version": 1, "AccessKeyId": "{id}", "SecretAccessKey": "{secret}", "Expiration": "2099-01-01T00:00:00Z"}}"#
                ),
            ),
        };
        let fresh = folder.join("fresh");
        fs::write(&fresh, text).unwrap();
        fs::rename(fresh, folder.join(name)).unwrap();
    }

    fn config(self, folder: &Path) -> String {
        match self {
            Self::Profile => "[default]\n".into(),
            Self::Program => format!("[default]\ncredential_process = cat {}\n", folder.join("key.json").display()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_whose_key_expires_reads_the_new_one_and_goes_on() {
    for source in [Source::Profile, Source::Program] {
        let server = server().await;
        let folder = tempfile::tempdir().unwrap();
        source.write(folder.path(), ACCESS_KEY_ID, SECRET_ACCESS_KEY);
        fs::write(folder.path().join("config"), source.config(folder.path())).unwrap();
        let setup = Setup::dev()
            .checkpoint_dir("s3://state/prefix")
            .set("checkpoint.s3.endpoint", &server.endpoint())
            .set("checkpoint.s3.path_style", "true")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_CONFIG_FILE", folder.path().join("config").to_str().unwrap())
            .env("AWS_SHARED_CREDENTIALS_FILE", folder.path().join("credentials").to_str().unwrap());
        let forebay = setup.start().await;
        let api = forebay.api();
        let spec = JobBuilder::shared("job", 1).in_memory().build();
        let job = Job::create(&api, spec, &[value("last")]).await;
        api.put(job.at("last", "N1"), raw("before")).await.unwrap();
        api.checkpoint("job").await.unwrap();
        assert!(server.log().iter().all(|call| call.signer == ACCESS_KEY_ID), "{source:?}");

        server.keys_allowed().expire(ACCESS_KEY_ID);
        let (asked, of) = (api.clone(), job.name.clone());
        let checkpoint = tokio::spawn(async move { asked.checkpoint(&of).await });
        eventually("a call is refused", || async {
            server.log().iter().any(|call| call.status == Some(403)).then_some(())
        })
        .await;
        server.keys_allowed().allow(NEW_ID, NEW_SECRET);
        source.write(folder.path(), NEW_ID, NEW_SECRET);
        // The round under way may have failed for good in the moment between; the next must not.
        let _ = checkpoint.await.unwrap();
        eventually("a checkpoint completes with the new key", || async { api.checkpoint("job").await.ok() }).await;
        let log = server.log();
        let last = log.last().unwrap();
        assert_eq!((last.signer.as_str(), last.status), (NEW_ID, Some(200)), "{source:?}");
        let refused = log.iter().filter(|call| call.status == Some(403));
        assert!(refused.clone().all(|call| call.signer == ACCESS_KEY_ID), "{source:?}");
        assert!(refused.count() < 100, "{source:?}: the store is not asked without end");
        assert_eq!(api.get(job.at("last", "N1")).await.unwrap().items.len(), 1, "the same process goes on");
    }
}

/// Not a test of its own: what the process of the next test runs.
#[tokio::test]
async fn child_with_an_expired_key() {
    let Ok(endpoint) = std::env::var("FOREBAY_TEST_S3_EXPIRED") else { return };
    let config = StoreConfig { s3: config(endpoint), ..StoreConfig::default() };
    let store = open("s3://state", &config).await.unwrap();
    for result in [
        store.put("a", Bytes::new()).await,
        store.put_if("a", Bytes::new(), &Condition::Absent).await.map(drop),
        store.get("a").await.map(drop),
        store.list("").await.map(drop),
        store.delete("a").await,
    ] {
        let err = result.unwrap_err();
        assert!(matches!(err, Error::Refused { .. }), "{err}");
        assert!(err.to_string().contains("ExpiredToken") && err.to_string().contains("check the credentials"), "{err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_stays_expired_is_a_clear_refusal_after_bounded_attempts() {
    let server = server().await;
    server.keys_allowed().expire(ACCESS_KEY_ID);
    let endpoint = server.endpoint();
    let child = tokio::task::spawn_blocking(move || {
        Command::new(std::env::current_exe().unwrap())
            .args(["child_with_an_expired_key"])
            .env_clear()
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
            .env("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY)
            .env("FOREBAY_TEST_S3_EXPIRED", endpoint)
            .output()
    });
    let output = child.await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(server.calls(Operation::Put), 3, "attempts_max");
    assert_eq!(server.calls(Operation::PutIfAbsent), 3, "nothing has happened, so it may be repeated");
}
