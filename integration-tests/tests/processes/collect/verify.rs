//! `forebayctl checkpoint verify`, `gc` and `cost`.

use forebay_integration_tests::harness::binary;
use serde_json::{Value as Json, json};
use tokio::process::Command;

use super::*;

async fn ctl(scene: &Scene, words: &[&str]) -> (i32, Json) {
    let mut command = Command::new(binary("forebayctl"));
    let output = command.args(words).args(["-o", "json"]).env("FOREBAY_SERVER", scene.forebay.url()).output();
    let output = output.await.expect("forebayctl starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let json = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words:?}: {error}: {text} {said}"));
    (output.status.code().unwrap_or(-1), json)
}

fn flip(path: &Path) {
    flip_at(path, fs::metadata(path).unwrap().len() / 2);
}

fn flip_at(path: &Path, at: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[usize::try_from(at).unwrap()] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_and_what_is_missing_is_named() {
    let scene = scene(Setup::dev(), |_| {}).await;
    scene.checkpoint(1).await;
    let entry = scene.checkpoint(2).await;
    let (code, found) = ctl(&scene, &["checkpoint", "verify", "job"]).await;
    assert_eq!((code, &found["sound"], &found["missing"]), (0, &json!(true), &json!([])), "{found}");
    assert_eq!(found["bytes"].as_u64(), Some(entry.full_bytes));

    // Each of the two has packed what was new to it.
    let files: Vec<_> =
        scene.api.manifest("job", 0).await.unwrap().shards.into_iter().flat_map(|it| it.files).collect();
    let one = files.iter().find(|file| file.length > 0).unwrap();
    let other = files.iter().find(|file| file.object != one.object).unwrap();
    let (damaged, missing) = (&one.object, &other.object);
    flip_at(&scene.folder().join(damaged), one.offset + one.length / 2);
    fs::remove_file(scene.folder().join(missing)).unwrap();
    let (code, found) = ctl(&scene, &["checkpoint", "verify", "job", &entry.id.to_string()]).await;
    assert_eq!((code, &found["sound"]), (1, &json!(false)));
    assert_eq!((&found["damaged"], &found["missing"]), (&json!([damaged]), &json!([missing])));

    flip(&scene.folder().join(&entry.manifest));
    let (code, found) = ctl(&scene, &["checkpoint", "verify", "job"]).await;
    assert_eq!((code, &found["damaged"]), (1, &json!([entry.manifest])));
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_told_of_and_deleted_and_the_cost_is_estimated() {
    let setup = Setup::dev().set("coordinator.collect_interval", "0s").set("coordinator.collect_min_age", "0s");
    let scene = scene(setup, |settings| settings.retained = 2).await;
    for number in 1..4 {
        scene.checkpoint(number).await;
    }
    let (code, told) = ctl(&scene, &["gc", "job", "--dry-run"]).await;
    assert_eq!((code, &told["dry_run"]), (0, &json!(true)));
    let objects = told["objects"].as_array().unwrap().len();
    assert!(objects > 0, "{told}");
    let (_, taken) = ctl(&scene, &["gc"]).await;
    assert_eq!(taken["objects"].as_array().map(Vec::len), Some(objects), "{taken}");
    assert!(taken["objects"][0].as_str().is_some_and(|object| object.starts_with("job-")), "{taken}");

    let (_, list) = ctl(&scene, &["checkpoint", "list", "job"]).await;
    assert!(list["completed"][0]["puts"].as_u64() >= Some(2), "{list}");
    let (code, cost) = ctl(&scene, &["cost", "job"]).await;
    assert_eq!(code, 0);
    assert!(cost["requests_per_month"].as_u64() > Some(0), "{cost}");
    assert!(cost["assumed"]["interval_ms"].as_u64() > Some(0), "{cost}");
}
