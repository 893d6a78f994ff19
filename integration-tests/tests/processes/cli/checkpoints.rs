//! Checkpoints of a job that has only shared operators, which needs no workers.

use forebay_integration_tests::harness::{Api, Engine};
use serde_json::json;

use super::ctl::Ctl;

async fn shared() -> Ctl {
    let ctl = Ctl::start().await;
    ctl.text(&["job", "create", "shop", "--operator", "carts:shared:shards=2", "--checkpoint-interval", "0s"]).await;
    ctl.text(&["state", "register", "shop", "carts", "name", "--kind", "value"]).await;
    ctl.text(&["state", "put", "shop", "carts", "name", "ada", "Ada"]).await;
    ctl
}

#[tokio::test]
async fn a_checkpoint_is_taken_listed_and_described() {
    let ctl = shared().await;
    let none = ctl.run(&["checkpoint", "list", "shop"]).await;
    assert_eq!((none.code, none.stdout.as_str(), none.stderr.contains("no checkpoints yet")), (0, "", true));

    let taken = ctl.cells(&["checkpoint", "trigger", "shop"]).await;
    assert_eq!((taken[0][0].as_str(), taken[1][0].as_str()), ("CHECKPOINT", "1"));
    ctl.text(&["state", "put", "shop", "carts", "name", "bob", "Bob"]).await;
    let taken = ctl.json(&["checkpoint", "trigger", "shop", "--full"]).await;
    assert_eq!((&taken["checkpoint"], &taken["generation"]), (&json!(2), &json!(1)));
    assert!(taken["full_bytes"].as_u64() > Some(0), "{taken}");

    let list = ctl.cells(&["checkpoint", "list", "shop"]).await;
    assert_eq!(list.iter().map(|row| row[0].as_str()).collect::<Vec<_>>(), ["CHECKPOINT", "1", "2"]);
    let list = ctl.json(&["checkpoint", "list", "shop"]).await;
    assert_eq!((&list["completed"][1], &list["failed"], &list["in_progress"]), (&taken, &json!([]), &json!([])));

    let described = ctl.text(&["checkpoint", "describe", "shop", "1"]).await;
    for part in ["id:         1", "builds on:  none: full", "OPERATOR", "[64,128)"] {
        assert!(described.contains(part), "{part}: {described}");
    }
    let last = ctl.json(&["checkpoint", "describe", "shop"]).await;
    assert_eq!((&last["checkpoint"], last["shards"].as_array().map(Vec::len)), (&json!(2), Some(2)));
    assert_eq!((&last["shards"][1]["start"], &last["workers"]), (&json!(64), &json!([])));
    assert_eq!(ctl.json(&["job", "describe", "shop"]).await["last_checkpoint"], json!(2));
}

#[tokio::test]
async fn what_cannot_be_taken_or_found_is_refused() {
    let ctl = shared().await;
    ctl.refuses(&["checkpoint", "describe", "shop"], 1, "CHECKPOINT_UNKNOWN").await;
    ctl.text(&["checkpoint", "trigger", "shop"]).await;
    let message = ctl.refuses(&["checkpoint", "describe", "shop", "77"], 1, "CHECKPOINT_UNKNOWN").await;
    assert!(message.contains("checkpoint 77") && message.contains("hint: `forebayctl checkpoint list"), "{message}");
    for command in ["trigger", "list", "describe"] {
        ctl.refuses(&["checkpoint", command, "nope"], 1, "JOB_UNKNOWN").await;
    }
    ctl.text(&["job", "create", "leased", "--operator", "stats"]).await;
    ctl.refuses(&["checkpoint", "trigger", "leased"], 1, "CHECKPOINT_ABORTED").await;
}

#[tokio::test]
async fn what_another_engine_has_taken_is_listed_and_discarded() {
    let ctl = Ctl::start().await;
    ctl.text(&["job", "create", "clicks", "--operator", "windows:external"]).await;
    let none = ctl.run(&["snapshot", "list", "clicks"]).await;
    assert_eq!((none.code, none.stdout.as_str(), none.stderr.contains("no snapshots")), (0, "", true));
    assert!(ctl.text(&["job", "describe", "clicks"]).await.contains("external"));
    let engine = Engine::of(&Api::to(&ctl.url()), "clicks", "windows").await;
    let task = engine.open((0, 64), 3, &[]).await.unwrap();
    task.take("chk-7").await.unwrap();
    let list = ctl.cells(&["snapshot", "list", "clicks"]).await;
    assert_eq!(list[0], ["ID", "OPERATOR", "KEY GROUPS", "TOKEN", "FROZEN", "SIZE", "NEW"]);
    assert_eq!(list[1][..4], ["chk-7", "windows", "[0,64)", "3"].map(str::to_owned));
    assert_eq!(ctl.json(&["snapshot", "list", "clicks", "--id", "chk-8"]).await, json!([]));
    let discarded = ctl.json(&["snapshot", "discard", "clicks", "chk-7"]).await;
    assert_eq!((&discarded[0]["id"], &discarded[0]["empty"]), (&json!("chk-7"), &json!(true)));
    assert_eq!(engine.list().await.unwrap(), []);
    ctl.refuses(&["snapshot", "list", "no-such-job"], 1, "JOB_UNKNOWN").await;
}
