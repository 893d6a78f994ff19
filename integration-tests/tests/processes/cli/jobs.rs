//! Jobs and the cluster.

use serde_json::json;

use super::ctl::Ctl;

#[tokio::test]
async fn a_job_is_created_listed_described_and_deleted() {
    let ctl = Ctl::start().await;
    let create = [
        "job",
        "create",
        "shop",
        "--operator",
        "carts:shared:shards=2",
        "--operator",
        "stats:source",
        "--max-parallelism",
        "64",
        "--backend",
        "memory",
        "--durability",
        "none",
        "--checkpoint-interval",
        "30s",
        "--partitioner",
        "murmur3",
        "--recovery",
        "shard",
    ];
    let created = ctl.json(&create).await;
    assert_eq!((&created["created"], &created["checkpoint_interval_ms"]), (&json!(true), &json!(30_000)));
    assert_eq!(
        created["operators"],
        json!([
            { "name": "carts", "access": "shared", "shards": 2, "source": false },
            { "name": "stats", "access": "leased", "shards": 8, "source": true },
        ])
    );
    let again = ctl.run(&create).await;
    assert_eq!((again.code, again.stderr.contains("was there already")), (0, true), "{again:#?}");

    let list = ctl.cells(&["job", "list"]).await;
    assert_eq!(list[0][..3], ["NAME", "OPERATORS", "BACKEND"]);
    assert_eq!(list[1][..3], ["shop", "carts,stats", "memory"]);
    let list = ctl.json(&["job", "list"]).await;
    assert_eq!((&list["jobs"][0]["name"], &list["jobs"][0]["shards"]), (&json!("shop"), &json!(10)));

    let described = ctl.text(&["job", "describe", "shop"]).await;
    for part in ["interval:        30s", "recovery:        shard", "max parallelism: 64", "carts     shared  2"] {
        assert!(described.contains(part), "{part}: {described}");
    }
    let described = ctl.json(&["job", "describe", "shop"]).await;
    assert_eq!((&described["backend"], &described["max_parallelism"]), (&json!("memory"), &json!(64)));
    assert_eq!(described["uid"], created["uid"]);

    assert_eq!(ctl.text(&["job", "delete", "shop", "--yes"]).await, "deleted job shop\n");
    assert_eq!(ctl.json(&["job", "list"]).await, json!({ "jobs": [] }));
    let none = ctl.run(&["job", "list"]).await;
    assert_eq!((none.stdout.as_str(), none.stderr.contains("there are no jobs")), ("", true));
}

#[tokio::test]
async fn the_cluster_is_shown() {
    let ctl = Ctl::with_shop().await;
    // A read waits until the shards serve.
    ctl.text(&["state", "register", "shop", "carts", "name", "--kind", "value"]).await;
    ctl.text(&["state", "get", "shop", "carts", "name", "ada"]).await;

    let status = ctl.text(&["status"]).await;
    for part in ["coordinator: ", "checkpoints: file:///", "SERVER", "connected", "shop"] {
        assert!(status.contains(part), "{part}: {status}");
    }
    let status = ctl.json(&["status"]).await;
    assert_eq!((&status["servers"][0]["address"], &status["jobs"][0]["name"]), (&json!(ctl.url()), &json!("shop")));

    let shards = ctl.cells(&["shards", "list"]).await;
    assert_eq!(shards.iter().map(|row| row[0].as_str()).collect::<Vec<_>>(), ["JOB", "shop", "shop", "shop"]);
    assert_eq!(shards[1][1..3], ["carts", "[0,64)"]);
    let shards = ctl.json(&["shards", "list", "shop"]).await;
    let second = &shards["shards"][1];
    assert_eq!((&second["start"], &second["end"], &second["writer"]), (&json!(64), &json!(128), &json!(null)));
    assert_eq!(second["address"], json!(ctl.url()));

    let servers = ctl.cells(&["servers", "list"]).await;
    assert_eq!((servers.len(), servers[1][1].as_str(), servers[1][2].as_str()), (2, ctl.url().as_str(), "connected"));
    let servers = ctl.json(&["servers", "list"]).await;
    assert_eq!(
        (&servers["servers"][0]["connected"], &servers["servers"][0]["draining"]),
        (&json!(true), &json!(false))
    );
}

#[tokio::test]
async fn errors_are_explained_without_a_server() {
    let nobody = "http://127.0.0.1:1";
    let all = super::ctl::run(nobody, &["explain"]).await;
    assert!(all.code == 0 && all.stdout.lines().count() > 50 && all.stdout.contains("SHARD_RESTORING"), "{all:?}");
    let one = super::ctl::run(nobody, &["explain", "not-leased", "-o", "json"]).await;
    assert!(one.code == 0 && one.stdout.contains("\"code\": \"FAILED_PRECONDITION\""), "{one:?}");
    let none = super::ctl::run(nobody, &["explain", "NOT_LEASD"]).await;
    assert!(none.code == 2 && none.stderr.contains("is NOT_LEASED meant?") && none.stdout.is_empty(), "{none:?}");
}

#[tokio::test]
async fn completions_need_no_server() {
    for shell in ["bash", "zsh", "fish"] {
        let said = super::ctl::run("http://127.0.0.1:1", &["completion", shell]).await;
        assert!(said.code == 0 && said.stdout.contains("checkpoint") && said.stderr.is_empty(), "{said:?}");
    }
}
