//! What goes wrong: the exit code, one line with the reason on stderr, nothing on stdout.

use super::ctl::{Ctl, fails, run};

#[tokio::test]
async fn what_the_cluster_refuses_exits_with_1() {
    let ctl = Ctl::with_shop().await;
    ctl.text(&["state", "register", "shop", "carts", "name", "--kind", "value"]).await;
    ctl.text(&["state", "register", "shop", "carts", "legs", "--kind", "list"]).await;
    ctl.text(&["state", "register", "shop", "stats", "name", "--kind", "value"]).await;
    ctl.text(&["state", "register", "shop", "carts", "timers", "--kind", "sorted-set"]).await;
    ctl.text(&["state", "register", "shop", "carts", "mean", "--kind", "aggregating", "--function", "avg"]).await;
    ctl.text(&["state", "register", "shop", "carts", "last", "--kind", "aggregating", "--function", "max_by"]).await;
    let long = "k".repeat(65_536);
    for (line, reason) in [
        ("job describe nope", "JOB_UNKNOWN"),
        ("job delete nope --yes", "JOB_UNKNOWN"),
        ("job create Shop --operator a", "NAME_INVALID"),
        ("job create a --operator b/c", "NAME_INVALID"),
        ("job create shop --operator carts", "ALREADY_EXISTS"),
        ("job create a --operator b --backend memory --durability wal", "SETTINGS_CONFLICT"),
        ("shards list nope", "JOB_UNKNOWN"),
        ("state list nope", "JOB_UNKNOWN"),
        ("state register shop nope s --kind value", "OPERATOR_UNKNOWN"),
        ("state register shop carts name --kind list", "STATE_INCOMPATIBLE"),
        ("state register shop carts r --kind reducing --function nope", "FIELD_INVALID"),
        ("state get nope carts name ada", "JOB_UNKNOWN"),
        ("state get shop nope name ada", "OPERATOR_UNKNOWN"),
        ("state get shop carts nope ada", "STATE_UNKNOWN"),
        ("state scan shop carts nope", "STATE_UNKNOWN"),
        ("state append shop carts name ada x", "WRONG_KIND"),
        ("state add shop carts name ada x", "WRONG_KIND"),
        ("state put shop carts legs ada x --map-key k", "WRONG_KIND"),
        ("state get shop carts name ada --map-key k", "WRONG_KIND"),
        ("state cas shop carts legs ada x --absent", "WRONG_KIND"),
        ("state append shop carts legs ada x --map-key k", "WRONG_KIND"),
        ("state merge shop carts name ada may --into june", "WRONG_KIND"),
        ("state clear shop carts legs ada --from a --to b", "WRONG_KIND"),
        ("state clear shop carts timers --key-group 3", "WRONG_KIND"),
        ("state add shop carts timers x --key-group 128", "KEY_GROUP_OUT_OF_RANGE"),
        ("state add shop carts mean ada 1 --by 1", "FIELD_INVALID"),
        ("state add shop carts last ada x", "FIELD_MISSING"),
        ("state register shop carts r --kind reducing --function avg", "FIELD_INVALID"),
        ("state register shop carts r --kind aggregating --function top_k(0)", "FIELD_INVALID"),
        ("state register shop carts r --kind value --ttl 1h --ttl-clock event", "TTL_INVALID"),
        ("state register shop carts r --kind value --ttl 0s", "TTL_INVALID"),
        ("state replace shop carts name --version 2 --ttl 1h", "SETTINGS_CONFLICT"),
        ("state replace shop carts nope --version 1 --ttl 1h", "STATE_UNKNOWN"),
        ("state count shop carts nope", "STATE_UNKNOWN"),
        ("state get shop carts legs ada --page 00", "PAGE_TOKEN_INVALID"),
        ("state scan shop carts legs --page ffff", "PAGE_TOKEN_INVALID"),
        ("state scan shop carts legs --page 000000", "PAGE_TOKEN_INVALID"),
        ("state get shop carts name ada --committed", "CHECKPOINT_UNKNOWN"),
        ("state get shop carts name hex:", "KEY_EMPTY"),
        ("state get shop carts name ada --key-group 3", "KEY_GROUP_MISMATCH"),
        (&format!("state put shop carts name {long} x"), "KEY_TOO_LONG"),
    ] {
        let words: Vec<_> = line.split(' ').collect();
        ctl.refuses(&words, 1, reason).await;
    }
}

#[tokio::test]
async fn a_leased_operator_is_written_by_its_workers_only() {
    let ctl = Ctl::with_shop().await;
    ctl.text(&["state", "register", "shop", "stats", "name", "--kind", "value"]).await;
    let message = ctl.refuses(&["state", "put", "shop", "stats", "name", "ada", "x"], 1, "NOT_LEASED").await;
    assert!(message.contains("\n  hint: ") && message.contains("NAME:shared"), "{message}");
    // Anyone may read it.
    ctl.text(&["state", "get", "shop", "stats", "name", "ada"]).await;
}

#[tokio::test]
async fn a_wrong_command_line_exits_with_2() {
    let ctl = Ctl::with_shop().await;
    ctl.text(&["state", "register", "shop", "carts", "sum", "--kind", "reducing", "--function", "sum_i64"]).await;
    ctl.text(&["state", "register", "shop", "carts", "map", "--kind", "map"]).await;
    ctl.text(&["state", "register", "shop", "carts", "tags", "--kind", "multimap"]).await;
    ctl.text(&["state", "register", "shop", "carts", "timers", "--kind", "sorted-set"]).await;
    let message = ctl.refuses(&["job", "delete", "shop"], 2, "FIELD_MISSING").await;
    assert!(message.contains("--yes"), "{message}");
    for (line, reason) in [
        ("state add shop carts sum ada many", "FIELD_INVALID"),
        ("state add shop carts sum hex:0 1", "FIELD_INVALID"),
        ("state put shop carts map ada x", "FIELD_MISSING"),
        ("state put shop carts map ada x y --map-key k", "FIELD_INVALID"),
        ("state append shop carts tags ada x", "FIELD_MISSING"),
        ("state add shop carts sum 1", "FIELD_MISSING"),
        ("state get shop carts sum", "FIELD_MISSING"),
        ("state get shop carts timers", "FIELD_MISSING"),
        ("state get shop carts timers ada --key-group 3", "FIELD_INVALID"),
        ("state get shop carts timers --key-group 3 --window may", "FIELD_INVALID"),
        ("state scan shop carts timers --keys", "FIELD_INVALID"),
        ("state get shop carts sum ada --from a", "FIELD_INVALID"),
        ("state get shop carts sum ada --limit 3", "FIELD_INVALID"),
        ("state replace shop carts sum --version 1", "FIELD_MISSING"),
        ("state register shop carts x --kind value --by-codec i64", "FIELD_INVALID"),
        ("state register shop carts x --kind value --value-codec int", "FIELD_INVALID"),
        ("state register shop carts x --kind value --function sum_i64", "FIELD_INVALID"),
        ("status --server https://127.0.0.1:1", "FIELD_INVALID"),
    ] {
        let words: Vec<_> = line.split(' ').collect();
        ctl.refuses(&words, 2, reason).await;
    }
    for line in [
        "",
        "nope",
        "job",
        "job create shop",
        "job create shop --operator a:b",
        "job create shop --operator a:shards=0",
        "job create shop --operator a --max-parallelism 32769",
        "job create shop --operator a --checkpoint-interval soon",
        "job list --output yaml",
        "state register shop carts r --kind reducing",
        "state register shop carts r --kind set",
        "state register shop carts r --kind aggregating",
        "state register shop carts r --kind value --ttl-update write",
        "state register shop carts r --kind value --ttl soon",
        "state replace shop carts sum --ttl 1h",
        "state replace shop carts sum --version 1 --ttl 1h --no-ttl",
        "state put shop carts name ada",
        "state put shop carts name ada x --expires-at tomorrow",
        "state cas shop carts name ada x",
        "state cas shop carts name ada x --absent --version 1",
        "state merge shop carts sum ada may",
        "state get shop carts map ada --page xyz",
        "state get shop carts map ada --map-key a --from b",
        "state scan shop carts map --keys --namespaces",
        "checkpoint describe shop last",
        "completion tcsh",
    ] {
        let said = ctl.run(&line.split_whitespace().collect::<Vec<_>>()).await;
        assert_eq!((said.code, said.stdout.as_str()), (2, ""), "{line:?}: {said:?}");
        assert!(said.stderr.contains("Usage:") || said.stderr.contains("For more information"), "{line:?}: {said:?}");
    }
}

#[tokio::test]
async fn an_address_where_nobody_is_exits_with_69() {
    // Taken and given back: nobody listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for server in [format!("http://{free}"), free.to_string(), "http://nowhere.invalid:7400".to_owned()] {
        for words in [&["status"][..], &["checkpoint", "trigger", "shop"], &["state", "scan", "a", "b", "c"]] {
            let said = run(&server, words).await;
            fails(&words, &said, 69, "UNREACHABLE");
            assert!(said.stderr.contains("hint: ") && said.stderr.contains("forebay dev"), "{said:?}");
        }
    }
}

#[tokio::test]
async fn an_address_where_nobody_answers_exits_with_69() {
    // Connections stand, but nothing is ever said.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("http://{}", silent.local_addr().unwrap());
    for words in [&["status", "--timeout", "100ms"][..], &["checkpoint", "trigger", "shop", "--timeout", "100ms"]] {
        fails(&words, &run(&server, words).await, 69, "TIMEOUT");
    }
}
