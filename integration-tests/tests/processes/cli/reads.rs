//! Pages, projections, counts and the committed view.

use serde_json::{Value as Json, json};

use super::{ctl::Ctl, states::registered};

/// Reads page after page until there is none, and returns what `items` finds in each.
async fn pages(ctl: &Ctl, words: &[&str], items: &str) -> Vec<Vec<Json>> {
    let mut found = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let page = token.as_deref().map_or_else(Vec::new, |token| vec!["--page", token]);
        let answer = ctl.json(&[words, &page].concat()).await;
        found.push(answer[items].as_array().cloned().unwrap_or_default());
        assert!(found.len() <= 20, "{words:?} has no end: {found:?}");
        match answer["next_page"].as_str() {
            Some(next) => token = Some(next.to_owned()),
            None => return found,
        }
    }
}

#[tokio::test]
async fn a_list_is_read_in_pages() {
    let ctl = registered(&["list"]).await;
    ctl.text(&["state", "append", "shop", "carts", "s", "ada", "1", "2", "3", "4", "5"]).await;
    let get = ["state", "get", "shop", "carts", "s", "ada", "--limit", "2"];
    assert_eq!(
        pages(&ctl, &get, "values").await,
        [vec![json!("1"), json!("2")], vec![json!("3"), json!("4")], vec![json!("5")]]
    );
    let first = ctl.run(&get).await;
    assert_eq!(first.stdout, "INDEX  VALUE\n0      1\n1      2\n");
    let token = first.stderr.trim().strip_prefix("forebayctl: there is more: --page ");
    let second = ctl.run(&[&get[..], &["--page", token.expect("a note tells the token")]].concat()).await;
    assert_eq!(second.stdout, "VALUE\n3\n4\n");
}

#[tokio::test]
async fn a_map_is_read_in_pages_within_a_range() {
    let ctl = registered(&["map"]).await;
    for key in ["a", "b", "c", "d", "e"] {
        ctl.text(&["state", "put", "shop", "carts", "s", "ada", "x", "--map-key", key]).await;
    }
    let get = ["state", "get", "shop", "carts", "s", "ada", "--from", "b", "--to", "e", "--limit", "2"];
    let pages = pages(&ctl, &get, "entries").await;
    let keys: Vec<Vec<_>> = pages
        .iter()
        .map(|page| page.iter().map(|entry| entry["map_key"].as_str().unwrap_or_default()).collect())
        .collect();
    assert_eq!(keys, [vec!["b", "c"], vec!["d"]]);
}

#[tokio::test]
async fn a_scan_goes_on_over_shards_without_gap_or_repetition() {
    let ctl = registered(&["value"]).await;
    for key in 0..10 {
        for window in ["may", "june"] {
            ctl.text(&["state", "put", "shop", "carts", "s", &format!("k{key}"), "x", "--window", window]).await;
        }
    }
    for (projection, rows) in [(&[][..], 20), (&["--keys"], 10), (&["--namespaces"], 20)] {
        let scan = [&["state", "scan", "shop", "carts", "s"], projection].concat();
        let whole = ctl.json(&scan).await["rows"].as_array().cloned().unwrap_or_default();
        assert_eq!(whole.len(), rows, "{projection:?}");
        for limit in ["1", "3", "10", "20"] {
            let pages = pages(&ctl, &[&scan[..], &["--limit", limit]].concat(), "rows").await;
            assert_eq!(pages.concat(), whole, "{projection:?} {limit}");
            assert!(pages.iter().all(|page| !page.is_empty()), "{projection:?} {limit}: {pages:?}");
        }
    }
    let keys = ctl.cells(&["state", "scan", "shop", "carts", "s", "--keys"]).await;
    assert_eq!((keys[0].join(" "), keys.len()), ("KEY GROUP KEY".to_owned(), 11));
}

#[tokio::test]
async fn rows_are_counted_or_estimated() {
    let ctl = registered(&["list"]).await;
    for key in ["ada", "bob", "eve"] {
        ctl.text(&["state", "append", "shop", "carts", "s", key, "1", "2"]).await;
    }
    let count = ["state", "count", "shop", "carts", "s"];
    assert_eq!(ctl.text(&[&count[..], &["--exact"]].concat()).await, "ROWS\n6\n");
    assert_eq!(ctl.json(&[&count[..], &["--exact"]].concat()).await, json!({ "rows": 6, "exact": true }));
    let estimate = ctl.run(&count).await;
    assert_eq!((estimate.code, estimate.stderr.contains("an estimate")), (0, true), "{estimate:?}");
    assert_eq!(ctl.json(&count).await["exact"], json!(false));
}

#[tokio::test]
async fn the_committed_view_is_of_the_last_completed_checkpoint() {
    let ctl = Ctl::start().await;
    ctl.text(&["job", "create", "shop", "--operator", "carts:shared:shards=2", "--checkpoint-interval", "0s"]).await;
    ctl.text(&["state", "register", "shop", "carts", "s", "--kind", "value"]).await;
    ctl.text(&["state", "put", "shop", "carts", "s", "ada", "old"]).await;
    ctl.text(&["checkpoint", "trigger", "shop"]).await;
    ctl.text(&["state", "put", "shop", "carts", "s", "ada", "new"]).await;
    for command in ["get", "scan"] {
        let key: &[&str] = if command == "get" { &["ada"] } else { &[] };
        let live = [&["state", command, "shop", "carts", "s"], key].concat();
        let committed = [&live[..], &["--committed"]].concat();
        assert!(ctl.text(&live).await.contains("new"), "{command}");
        assert!(ctl.text(&committed).await.contains("old"), "{command}");
    }
}
