//! Garbage in a bucket, over the S3 protocol and its faults.

use bytes::Bytes;
use forebay_integration_tests::s3::{Fault, Operation, Rule, S3Server, When};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn orphans_in_a_bucket_go_though_lists_and_deletes_fail_at_first() {
    let server = S3Server::start("state").await.unwrap();
    let mut scene = scene(eager_with(Setup::dev().s3(&server, "s3://state/some/prefix")), |_| {}).await;
    let key = |object: &str| format!("some/prefix/{}/{object}", scene.prefix);
    scene.checkpoint(1).await;
    let orphan = key("shared/nobody/orphan");
    server.tamper("state", &orphan, Bytes::from_static(b"orphan"));
    for operation in [Operation::List, Operation::Delete] {
        server.faults().add(Rule::new(Fault::SlowDown503).of(operation).when(When::First(12)));
    }
    let first = scene.checkpoint(2).await;
    scene.checkpoint(3).await;
    eventually("the orphan and a checkpoint that is not kept are gone", || async {
        let gone = |key: &str| server.object("state", key).is_none();
        (gone(&orphan) && gone(&key(&first.manifest))).then_some(())
    })
    .await;
    for object in named(&scene.api).await {
        assert!(server.object("state", &key(&object)).is_some(), "{object} is needed");
    }
    scene.is_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_manifest_cannot_be_read_nothing_is_collected() {
    let server = S3Server::start("state").await.unwrap();
    let setup = Setup::dev().s3(&server, "s3://state/p").set("coordinator.collect_min_age", "0s");
    let scene = scene(setup, |_| {}).await;
    let last = scene.checkpoint(1).await;
    let orphan = format!("p/{}/shared/nobody/orphan", scene.prefix);
    server.tamper("state", &orphan, Bytes::from_static(b"orphan"));
    server.faults().add(Rule::new(Fault::Status(404, "NoSuchKey")).of(Operation::Get).on(&last.manifest));
    let request = || v1::CollectGarbageRequest { job: "job".into(), dry_run: false };
    let refused = scene.api.coordinator().collect_garbage(request()).await.unwrap_err();
    assert!(refused.message().contains("garbage was not collected"), "{refused:?}");
    assert!(server.object("state", &orphan).is_some());
    server.faults().clear();
    eventually("the manifest can be read again", || async {
        let taken = scene.api.coordinator().collect_garbage(request()).await.ok()?.into_inner();
        taken.objects.iter().any(|object| object.ends_with("orphan")).then_some(())
    })
    .await;
    assert!(server.object("state", &orphan).is_none());
}
