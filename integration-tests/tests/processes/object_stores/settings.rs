//! What the settings make of the requests.

use forebay_server::checkpoint::s3::{Encryption, StorageClass};

use super::*;

/// Headers of the calls that write, as (operation, the three that matter).
async fn written(change: impl FnOnce(&mut S3Config)) -> Vec<(Operation, [Option<String>; 3])> {
    let server = server().await;
    let mut config = config(server.endpoint());
    change(&mut config);
    let store = open_with("s3://state", &config).await;
    let (small, large) = (file(10), file(6 << 20));
    store.put("manifest", Bytes::from_static(b"x")).await.unwrap();
    store.put_file("small", small.path()).await.unwrap();
    store.put_file("large", large.path()).await.unwrap();
    let version = store.put_if("head", Bytes::from_static(b"x"), &Condition::Absent).await.unwrap();
    store.put_if("head", Bytes::from_static(b"y"), &Condition::Is(version)).await.unwrap();
    let names = ["x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id", "x-amz-storage-class"];
    let writes = [Operation::Put, Operation::CreateUpload, Operation::PutIfAbsent, Operation::PutIfMatch];
    let calls = server.log().into_iter().filter(|call| writes.contains(&call.operation));
    calls.map(|call| (call.operation, names.map(|name| call.headers.get(name).cloned()))).collect()
}

#[tokio::test]
async fn by_default_the_bucket_decides_on_encryption_and_class() {
    let calls = written(|_| {}).await;
    assert_eq!(calls.len(), 5);
    assert!(calls.iter().all(|(_, headers)| *headers == [None, None, None]), "{calls:?}");
}

#[tokio::test]
async fn every_write_is_encrypted_as_the_settings_say() {
    let calls = written(|config| config.sse = Encryption::Aes256).await;
    assert!(calls.iter().all(|(_, [sse, key, _])| sse.as_deref() == Some("AES256") && key.is_none()), "{calls:?}");

    let calls = written(|config| config.sse = Encryption::AwsKms).await;
    assert!(calls.iter().all(|(_, [sse, key, _])| sse.as_deref() == Some("aws:kms") && key.is_none()), "{calls:?}");

    let calls = written(|config| {
        config.sse = Encryption::AwsKms;
        config.kms_key_id = Some("alias/forebay".into());
    });
    let calls = calls.await;
    let right = |[sse, key, _]: &[Option<String>; 3]| {
        sse.as_deref() == Some("aws:kms") && key.as_deref() == Some("alias/forebay")
    };
    assert_eq!(calls.len(), 5);
    assert!(calls.iter().all(|(_, headers)| right(headers)), "{calls:?}");
}

#[tokio::test]
async fn files_and_manifests_have_the_storage_class_and_heads_are_always_standard() {
    for (class, header) in [
        (StorageClass::StandardIa, "STANDARD_IA"),
        (StorageClass::OnezoneIa, "ONEZONE_IA"),
        (StorageClass::IntelligentTiering, "INTELLIGENT_TIERING"),
        (StorageClass::GlacierIr, "GLACIER_IR"),
        (StorageClass::ReducedRedundancy, "REDUCED_REDUNDANCY"),
    ] {
        for (operation, [.., found]) in written(|config| config.storage_class = class).await {
            let once = matches!(operation, Operation::Put | Operation::CreateUpload);
            assert_eq!(found.as_deref(), once.then_some(header), "{operation:?}");
        }
    }
}

#[tokio::test]
async fn checksums_are_sent_where_they_are_wanted() {
    for (checksums, sent) in [(Checksums::WhenRequired, false), (Checksums::WhenSupported, true)] {
        let server = server().await;
        let store = open_with("s3://state", &S3Config { checksums, ..config(server.endpoint()) }).await;
        store.put("a", Bytes::from_static(b"x")).await.unwrap();
        store.get("a").await.unwrap();
        let log = server.log();
        assert_eq!(log[0].headers.contains_key("x-amz-checksum-crc32"), sent, "{:?}", log[0]);
        assert_eq!(log[1].headers.contains_key("x-amz-checksum-mode"), sent, "{:?}", log[1]);
    }
}

#[tokio::test]
async fn a_key_without_encryption_by_it_is_refused() {
    let config = S3Config { kms_key_id: Some("alias/forebay".into()), ..config("http://127.0.0.1:1".into()) };
    let err = S3Store::open_with_key("s3://state", &config, "id", "secret").await.unwrap_err();
    assert!(err.to_string().contains("kms_key_id is \"alias/forebay\""), "{err}");
}
