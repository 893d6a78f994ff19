//! Objects of a checkpoint in a local directory.

use forebay_integration_tests::harness::{Stream, Worker, append};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_sst_with_a_flipped_bit_is_refused() {
    let scene = scene(Setup::dev(), v1::Durability::None).await;
    scene.damaged_file(is_sst, flip_in).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_sst_is_refused() {
    let scene = scene(Setup::dev(), v1::Durability::None).await;
    scene.damaged_file(is_sst, remove_all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_sst_cut_short_is_refused() {
    let scene = scene(Setup::dev(), v1::Durability::None).await;
    scene.damaged_file(is_sst, cut_in).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_ssts_in_each_others_place_are_refused() {
    let mut scene = scene(Setup::dev(), v1::Durability::None).await;
    let ssts: Vec<_> = scene.manifest.shards[0].files.iter().filter(|file| is_sst(&file.name)).collect();
    assert!(ssts.len() >= 2, "{ssts:#?}");
    assert_eq!(ssts[0].object, ssts[1].object, "small files are in one pack");
    let object = ssts[0].object.clone();
    let path = scene.path(&object);
    let places = [bytes_of(ssts[0]), bytes_of(ssts[1])];
    let length = places[0].len().min(places[1].len());
    let swap = || {
        let mut bytes = fs::read(&path).unwrap();
        for at in 0..length {
            bytes.swap(places[0].start + at, places[1].start + at);
        }
        fs::write(&path, bytes).unwrap();
    };
    swap();
    scene.lose_the_disk().await;
    scene.refused(&object).await;
    swap();
    scene.restored().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_manifest_is_refused() {
    let scene = scene(Setup::dev(), v1::Durability::Wal).await;
    let object = scene.checkpoint.manifest.clone();
    scene.damaged(&object, truncate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_with_a_flipped_bit_is_refused() {
    let scene = scene(Setup::dev(), v1::Durability::Wal).await;
    let object = scene.checkpoint.manifest.clone();
    scene.damaged(&object, flip).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_manifest_is_refused() {
    let scene = scene(Setup::dev(), v1::Durability::Wal).await;
    let object = scene.checkpoint.manifest.clone();
    scene.damaged(&object, remove).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_slices_of_a_pack_are_refused_one_by_one() {
    let mut scene = scene(Setup::dev(), v1::Durability::Wal).await;
    let named: [fn(&str) -> bool; 4] = [
        |name| name.ends_with(".log"),
        |name| name.starts_with("MANIFEST-"),
        |name| name == "CURRENT",
        |name| name == "SEAL",
    ];
    let damages: [SliceDamage; 4] = [flip_in, cut_in, flip_in, remove_all];
    for (is_it, damage) in named.into_iter().zip(damages) {
        let file = scene.file(is_it).clone();
        let object = file.object.clone();
        let path = scene.path(&object);
        let right = fs::read(&path).unwrap();
        damage(&path, bytes_of(&file));
        scene.lose_the_disk().await;
        scene.refused(&object).await;
        fs::write(&path, right).unwrap();
    }
    scene.restored().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leased_job_whose_manifest_is_damaged_gives_no_worker_anything() {
    let mut forebay = Forebay::dev().await;
    let api = forebay.api();
    let mut job = Job::create(&api, JobBuilder::leased("job", 1).build(), &[list("legs")]).await;
    let mut worker = Worker::join(&api, &job.info, "w1").await.unwrap();
    let assignment = worker.assignment().await;
    let shard = &assignment.shards[0];
    let mut stream = Stream::open(&api, &job.info).await.unwrap();
    let lane = stream.lane(shard.route.as_ref().unwrap(), shard.writer_epoch).await.unwrap();
    stream.write(&lane, 1, append(&job.states[0], b"N1", b"a")).await.unwrap().unwrap();
    let (triggered, name) = (api.clone(), job.name.clone());
    let completed = tokio::spawn(async move { triggered.checkpoint(&name).await });
    let barrier = worker.barrier().await;
    stream.batch(lane.barrier(2, &barrier)).await.unwrap().unwrap();
    worker.report(&barrier, &[b"position 1"]);
    let completed = completed.await.unwrap().unwrap();
    let status = api.coordinator().get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    let objects =
        Path::new(forebay.setup().checkpoints()).join(format!("{}/job-{}", status.cluster_id, job.info.job_uid));
    let path = objects.join(&completed.manifest);
    let right = fs::read(&path).unwrap();

    truncate(&path);
    forebay.kill().await;
    forebay.delete_data();
    forebay.restart().await;
    let refused = eventually("the damage is found", || async {
        let status = api.get(job.at("legs", "N1")).await.err()?;
        (status.code() == Code::DataLoss).then_some(status)
    });
    assert!(refused.await.message().contains(&completed.manifest));
    let mut worker = Worker::join(&api, &job.info, "w1").await.unwrap();
    let describe = api.describe("job").await.unwrap();
    assert!(describe.shards.iter().all(|shard| shard.entry.as_ref().unwrap().writer.is_none()), "nobody is granted it");

    fs::write(&path, right).unwrap();
    job.refresh(&api).await;
    let assignment = worker.assignment().await;
    assert_eq!(assignment.restored_checkpoint, completed.id);
    assert_eq!(assignment.state[0].elements, ["position 1"]);
    assert_eq!(job.stored(&api, "legs", "N1").await, ["a"]);
}
