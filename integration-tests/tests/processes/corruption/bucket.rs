//! Objects of a checkpoint in a bucket.

use bytes::Bytes;
use forebay_integration_tests::s3::{Fault, Operation, Rule, S3Server};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_a_bucket_is_refused_and_with_the_right_bytes_the_shard_is_restored() {
    let server = S3Server::start("state").await.unwrap();
    let mut scene = scene(Setup::dev().s3(&server, "s3://state/some/prefix"), v1::Durability::None).await;
    let object = scene.file(is_sst).object.clone();
    let key = format!("some/prefix/{}/{object}", scene.prefix);
    let right = server.object("state", &key).expect("the object is where the layout says");
    let mut wrong = right.to_vec();
    wrong[right.len() / 2] ^= 1;

    server.tamper("state", &key, Bytes::from(wrong));
    scene.lose_the_disk().await;
    scene.refused(&object).await;
    server.tamper("state", &key, right);
    scene.restored().await;

    let private = scene.file(|name| name == "CURRENT").object.clone();
    server.faults().add(Rule::new(Fault::Status(404, "NoSuchKey")).of(Operation::Get).on(&private));
    scene.lose_the_disk().await;
    scene.refused(&private).await;
    server.faults().clear();
    scene.restored().await;
}
