//! Large files, in parts.

use super::*;

#[tokio::test]
async fn a_large_file_goes_in_parts_and_survives_faults_of_each() {
    let server = server().await;
    let store = store(&server).await;
    let file = file((11 << 20) + 5);
    store.put_file("plain", file.path()).await.unwrap();
    assert_eq!(server.calls(Operation::UploadPart), 3);
    assert_eq!(server.calls(Operation::Put), 0);
    for operation in [Operation::CreateUpload, Operation::UploadPart, Operation::CompleteUpload] {
        for fault in [Fault::SlowDown503, Fault::DropBefore, Fault::DropAfter, Fault::CompleteError200] {
            // A lost upload id cannot be aborted, and an empty answer to the others has no id or ETag.
            if operation != Operation::CompleteUpload && fault == Fault::CompleteError200 {
                continue;
            }
            let path = format!("{operation:?}-{fault:?}");
            server.faults().once(operation, fault);
            store.put_file(&path, file.path()).await.unwrap();
            let stored = server.object(BUCKET, &format!("some/prefix/{path}")).unwrap();
            assert_eq!(stored.len(), (11 << 20) + 5, "{path}");
        }
    }
    assert_eq!(server.faults().fired(), 10);
    assert!(server.open_uploads() <= 1, "only the one whose id was lost");
}

#[tokio::test]
async fn a_failed_upload_leaves_neither_an_object_nor_parts() {
    let server = server().await;
    let store = store(&server).await;
    let file = file(11 << 20);
    for (operation, fault) in [
        (Operation::UploadPart, Fault::Status(500, "InternalError")),
        (Operation::UploadPart, Fault::Status(403, "AccessDenied")),
        (Operation::UploadPart, Fault::CorruptBody),
        (Operation::CompleteUpload, Fault::CompleteError200),
        (Operation::CompleteUpload, Fault::Status(400, "InvalidPart")),
    ] {
        server.faults().add(Rule::new(fault).of(operation).when(When::Always));
        let err = store.put_file("a", file.path()).await.unwrap_err();
        assert!(matches!(err, Error::Unavailable { .. } | Error::Refused { .. }), "{err}");
        server.faults().clear();
        assert_eq!(server.keys(BUCKET), Vec::<String>::new(), "{operation:?} {fault:?}");
        assert_eq!(server.open_uploads(), 0, "{operation:?} {fault:?}");
    }
}

#[tokio::test]
async fn an_upload_whose_caller_goes_away_is_aborted() {
    let server = server().await;
    let store = store(&server).await;
    let file = file(11 << 20);
    server.faults().always(Operation::UploadPart, Fault::Stall(Duration::from_secs(600)));
    {
        let mut upload = std::pin::pin!(store.put_file("a", file.path()));
        let parts_stall = async {
            while server.faults().fired() == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            result = &mut upload => panic!("{result:?}"),
            () = parts_stall => {}
        }
    }
    let aborted = async {
        while server.open_uploads() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), aborted).await.unwrap();
}
