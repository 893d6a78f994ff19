//! The server's own disk: local copies of checkpoints, and the live log.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_local_copy_is_not_trusted_and_the_store_is_asked() {
    let damages: [(&str, Damage); 4] =
        [(".sst", truncate), (".sst", flip_footer), ("MANIFEST-", flip), ("CURRENT", remove)];
    for (name, damage) in damages {
        let mut scene = scene(Setup::dev(), v1::Durability::None).await;
        scene.forebay.kill().await;
        let copies = files_below(&scene.forebay.setup().data().join("jobs"));
        let of_copy = |path: &&PathBuf| {
            let path = path.to_str().unwrap();
            path.contains("/copies/") && path.rsplit('/').next().unwrap().contains(name)
        };
        let copy = copies.iter().find(of_copy).unwrap_or_else(|| panic!("no {name} in {copies:#?}"));
        damage(copy);
        scene.forebay.restart().await;
        scene.restored().await;
    }
}

/// Damages what every open of an SST reads.
fn flip_footer(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let last = bytes.len() - 20;
    bytes[last] ^= 0xff;
    fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_damaged_before_its_tail_is_refused_and_the_shard_goes_back_to_its_checkpoint() {
    let mut scene = scene(Setup::dev(), v1::Durability::Wal).await;
    let before = scene.job.routes[0].incarnation;
    for key in 0..50 {
        scene.api.put(scene.job.at("last", &format!("N{key}")), raw(vec![9; 1000])).await.unwrap();
    }
    scene.forebay.kill().await;
    let log = scene.live_log();
    flip(&log);
    scene.forebay.restart().await;
    eventually("the shard goes back", || async {
        let shard = scene.api.describe("job").await.ok()?.shards.swap_remove(0).entry?;
        (shard.incarnation == before + 1).then_some(())
    })
    .await;
    scene.restored().await;
    let said = scene.forebay.process().stderr();
    assert!(said.contains("SHARD_LOST") && said.contains("orrupt"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_of_a_log_is_no_damage() {
    let mut scene = scene(Setup::dev(), v1::Durability::Wal).await;
    let before = scene.job.routes[0].incarnation;
    scene.forebay.kill().await;
    let log = scene.live_log();
    let bytes = fs::read(&log).unwrap();
    fs::write(&log, &bytes[..bytes.len() - 3]).unwrap();
    scene.forebay.restart().await;
    scene.job.refresh(&scene.api).await;
    assert_eq!(scene.job.routes[0].incarnation, before);
    assert_eq!(scene.api.digest("job").await.unwrap(), scene.digest, "all but the torn record is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_of_a_local_copy_that_cannot_be_read_makes_the_shard_go_back_to_what_the_store_holds() {
    // The length is right and the files open: only who reads the rows finds out.
    let mut found = Vec::new();
    for table in 0..3 {
        let mut scene = scene(Setup::dev(), v1::Durability::None).await;
        scene.forebay.kill().await;
        let files = files_below(&scene.forebay.setup().data().join("jobs"));
        let is_table =
            |path: &&PathBuf| path.to_str().unwrap().contains("/copies/") && path.to_str().unwrap().ends_with(".sst");
        let tables: Vec<_> = files.iter().filter(is_table).collect();
        assert_eq!(tables.len(), 3, "the shard's own and one per state: {files:#?}");
        let mut bytes = fs::read(tables[table]).unwrap();
        bytes[8] ^= 0x10;
        fs::write(tables[table], bytes).unwrap();
        scene.forebay.restart().await;
        eventually("all rows can be read", || async { scene.api.digest("job").await.ok() }).await;
        scene.restored().await;
        let said = scene.forebay.process().stderr();
        assert!(said.contains("orruption: block checksum mismatch"), "{said}");
        found.push(if said.contains("shard is lost") { "by a reader" } else { "at the open" });
    }
    found.sort_unstable();
    assert_eq!(found, ["at the open", "by a reader", "by a reader"]);
}
