//! Multimaps, aggregating states and sorted sets; ranges and namespaces of the others.

use serde_json::json;

use super::{
    ctl::Ctl,
    states::{registered, short},
};

#[tokio::test]
async fn a_multimap_holds_a_list_under_each_map_key() {
    let ctl = registered(&["multimap", "--map-key-codec", "i64"]).await;
    let place = ["shop", "carts", "s", "ada"];
    let said = |verb: &'static str, rest: &[&'static str]| [&["state", verb], &place[..], rest].concat();
    ctl.text(&said("append", &["tea", "milk", "--map-key", "7"])).await;
    ctl.text(&said("append", &["jam", "--map-key", "-1"])).await;
    ctl.text(&said("append", &["tea", "--map-key", "7"])).await;
    let get = said("get", &[]);
    assert_eq!(ctl.text(&get).await, "MAP KEY\n-1\n7\n");
    let keys = json!({ "found": true, "map_keys": [-1, 7], "next_page": null });
    assert_eq!(short(ctl.json(&get).await), keys);
    let entry = said("get", &["--map-key", "7"]);
    assert_eq!(ctl.cells(&entry).await[1..], [["0", "tea"], ["1", "milk"], ["2", "tea"]]);
    let values = json!({ "found": true, "map_key": "7", "values": ["tea", "milk", "tea"], "next_page": null });
    assert_eq!(short(ctl.json(&entry).await), values);
    let rows = ctl.cells(&["state", "scan", "shop", "carts", "s"]).await;
    assert_eq!((rows.len(), rows[1][2..].to_vec()), (5, vec!["-1".to_owned(), "jam".to_owned()]));

    ctl.text(&said("clear", &["--map-key", "7"])).await;
    let nothing = ctl.run(&entry).await;
    assert_eq!((nothing.code, nothing.stdout.as_str()), (0, ""));
    assert!(nothing.stderr.contains("nothing is stored: 7 in s of ada"), "{nothing:?}");
    assert_eq!(ctl.json(&get).await["map_keys"], json!([-1]));
}

#[tokio::test]
async fn an_aggregating_state_gives_its_function_s_result() {
    let ctl = Ctl::with_shop().await;
    for (name, function, value_codec) in
        [("mean", "avg", "f64"), ("top", "top_k(2)", "i64"), ("many", "count_distinct", "utf8")]
    {
        let register = ["state", "register", "shop", "carts", name, "--kind", "aggregating", "--function", function];
        ctl.text(&[&register[..], &["--value-codec", value_codec]].concat()).await;
        for operand in ["3", "10", "2", "3"] {
            ctl.text(&["state", "add", "shop", "carts", name, "ada", operand]).await;
        }
    }
    let get = |name: &'static str| ["state", "get", "shop", "carts", name, "ada"];
    assert_eq!(ctl.text(&get("mean")).await, "VALUE\n4.5\n");
    assert_eq!(short(ctl.json(&get("many")).await), json!({ "found": true, "value": 3, "expires_at_ms": null }));
    assert_eq!(ctl.text(&get("top")).await, "VALUE\n10\n3\n");
    let top = json!({ "found": true, "values": [10, 3], "expires_at_ms": null });
    assert_eq!(short(ctl.json(&get("top")).await), top);
    assert_eq!(ctl.json(&["state", "scan", "shop", "carts", "top"]).await["rows"][0]["value"], json!([10, 3]));
}

#[tokio::test]
async fn the_largest_and_the_smallest_are_chosen_by_something_else() {
    let ctl = Ctl::with_shop().await;
    for (name, function, codec) in [("last", "max_by", "i64"), ("near", "min_by", "f64")] {
        let register = ["state", "register", "shop", "carts", name, "--kind", "aggregating", "--function", function];
        ctl.text(&[&register[..], &["--by-codec", codec]].concat()).await;
        for (value, by) in [("b", "9"), ("a", "10"), ("c", "-3")] {
            ctl.text(&["state", "add", "shop", "carts", name, "ada", value, "--by", by]).await;
        }
    }
    assert_eq!(ctl.text(&["state", "get", "shop", "carts", "last", "ada"]).await, "VALUE\na\n");
    assert_eq!(ctl.text(&["state", "get", "shop", "carts", "near", "ada"]).await, "VALUE\nc\n");
}

#[tokio::test]
async fn a_sorted_set_is_read_in_order_by_key_group() {
    let ctl = registered(&["sorted-set", "--value-codec", "i64"]).await;
    for (element, group) in [("30", "7"), ("-4", "7"), ("200", "7"), ("5", "100"), ("30", "7")] {
        let added = ctl.text(&["state", "add", "shop", "carts", "s", element, "--key-group", group]).await;
        assert_eq!(added, format!("added: s of key group {group}\n"));
    }
    let get = ["state", "get", "shop", "carts", "s", "--key-group", "7"];
    assert_eq!(ctl.text(&get).await, "ELEMENT\n-4\n30\n200\n");
    let due = ctl.json(&[&get[..], &["--to", "31"]].concat()).await;
    assert_eq!((&due["key_group"], &due["elements"]), (&json!(7), &json!([-4, 30])));
    assert_eq!(due.get("key"), None);
    let first = ctl.json(&[&get[..], &["--limit", "1"]].concat()).await;
    assert_eq!(first["elements"], json!([-4]));
    assert!(first["next_page"].is_string(), "{first}");

    ctl.text(&["state", "clear", "shop", "carts", "s", "--key-group", "7", "--map-key", "-4"]).await;
    let rows = ctl.cells(&["state", "scan", "shop", "carts", "s"]).await;
    assert_eq!(rows, [["KEY GROUP", "ELEMENT"], ["7", "30"], ["7", "200"], ["100", "5"]]);
    let rows = ctl.json(&["state", "scan", "shop", "carts", "s"]).await;
    assert_eq!(rows["rows"][0], json!({ "key_group": 7, "element": 30, "expires_at_ms": null }));
}

#[tokio::test]
async fn a_range_of_a_map_is_read_and_cleared() {
    let ctl = registered(&["map"]).await;
    for key in ["a", "aa", "ab", "b", "c"] {
        ctl.text(&["state", "put", "shop", "carts", "s", "ada", "x", "--map-key", key]).await;
    }
    let read = async |rest: &[&str]| {
        let json = ctl.json(&[&["state", "get", "shop", "carts", "s", "ada"], rest].concat()).await;
        let entries = json["entries"].as_array().cloned().unwrap_or_default();
        entries.iter().filter_map(|entry| entry["map_key"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(read(&["--prefix", "a"]).await, ["a", "aa", "ab"]);
    assert_eq!(read(&["--from", "aa", "--to", "b"]).await, ["aa", "ab"]);
    ctl.text(&["state", "clear", "shop", "carts", "s", "ada", "--from", "aa", "--to", "c"]).await;
    assert_eq!(read(&[]).await, ["a", "c"]);
    ctl.text(&["state", "clear", "shop", "carts", "s", "ada", "--from", "b"]).await;
    assert_eq!(read(&[]).await, ["a"]);
}

#[tokio::test]
async fn namespaces_are_merged_in_the_order_given() {
    let ctl = registered(&["list"]).await;
    for (value, window) in [("1", "q2"), ("2", "may"), ("3", "june")] {
        ctl.text(&["state", "append", "shop", "carts", "s", "ada", value, "--window", window]).await;
    }
    let merged = ctl.text(&["state", "merge", "shop", "carts", "s", "ada", "june", "may", "--into", "q2"]).await;
    assert_eq!(merged, "merged: s of ada in q2\n");
    let values = &ctl.json(&["state", "get", "shop", "carts", "s", "ada", "--window", "q2"]).await["values"];
    assert_eq!(values, &json!(["1", "3", "2"]));
    let rows = ctl.cells(&["state", "scan", "shop", "carts", "s", "--namespaces"]).await;
    assert_eq!((rows[0].as_slice(), rows.len()), (["KEY GROUP", "KEY", "NAMESPACE"].map(String::from).as_slice(), 2));
}
