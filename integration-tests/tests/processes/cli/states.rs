//! State of a shared operator: what is written is read, as it was typed.

use serde_json::{Value as Json, json};

use super::ctl::Ctl;

/// A server with the state `s` of `carts`.
pub async fn registered(kind: &[&str]) -> Ctl {
    let ctl = Ctl::with_shop().await;
    ctl.text(&[&["state", "register", "shop", "carts", "s", "--kind"], kind].concat()).await;
    ctl
}

/// Without what every answer repeats of the address.
pub fn short(mut answer: Json) -> Json {
    let fields = answer.as_object_mut().expect("an answer is an object");
    fields.retain(|name, _| !["job", "operator", "state", "kind", "key", "namespace"].contains(&name.as_str()));
    answer
}

#[tokio::test]
async fn states_are_registered_and_listed() {
    let ctl = Ctl::with_shop().await;
    assert_eq!(ctl.json(&["state", "list", "shop"]).await, json!({ "states": [] }));
    let map = ["state", "register", "shop", "carts", "m", "--kind", "map", "--key-codec", "i64"];
    let map = [&map[..], &["--map-key-codec", "utf8", "--value-codec", "json"]].concat();
    let first = ctl.json(&map).await;
    assert_eq!(ctl.json(&map).await, first);
    assert_eq!(
        (&first["kind"], &first["key_codec"], &first["value_codec"]),
        (&json!("map"), &json!("i64"), &json!("json"))
    );
    ctl.text(&["state", "register", "shop", "stats", "sum", "--kind", "reducing", "--function", "sum_i64"]).await;
    let states = ctl.cells(&["state", "list", "shop"]).await;
    assert_eq!(states[1], ["carts", "m", "map", "i64", "utf8", "utf8", "json", "-", "-", "1"]);
    assert_eq!(states[2], ["stats", "sum", "reducing", "utf8", "utf8", "-", "i64", "sum_i64", "-", "1"]);
    assert_eq!(ctl.json(&["job", "describe", "shop"]).await["states"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn a_value_is_put_read_and_cleared() {
    let ctl = registered(&["value"]).await;
    let get = ["state", "get", "shop", "carts", "s", "ada"];
    assert_eq!(ctl.text(&["state", "put", "shop", "carts", "s", "ada", "Ada Lovelace"]).await, "put: s of ada\n");
    assert_eq!(ctl.text(&get).await, "VALUE         VERSION\nAda Lovelace  1\n");
    assert_eq!(
        ctl.json(&get).await,
        json!({
            "job": "shop", "operator": "carts", "state": "s", "kind": "value", "key": "ada", "namespace": "",
            "found": true, "value": "Ada Lovelace", "version": 1, "expires_at_ms": null,
        })
    );
    let put = ctl.json(&["state", "put", "shop", "carts", "s", "ada", "in May", "--window", "may"]).await;
    assert_eq!((&put["done"], &put["namespace"]), (&json!("put"), &json!("may")));
    let may = [&get[..], &["--namespace", "may"]].concat();
    assert_eq!(ctl.text(&may).await, "VALUE   VERSION\nin May  2\n");
    ctl.text(&["state", "clear", "shop", "carts", "s", "ada", "--window", "may"]).await;
    let absent = ctl.run(&may).await;
    assert_eq!((absent.code, absent.stdout.as_str()), (0, ""));
    assert!(absent.stderr.contains("nothing is stored: s of ada in may"), "{absent:?}");
    let nothing = json!({ "found": false, "value": null, "version": 0, "expires_at_ms": null });
    assert_eq!(short(ctl.json(&may).await), nothing);
    assert_eq!(short(ctl.json(&get).await)["value"], json!("Ada Lovelace"));
}

#[tokio::test]
async fn a_list_is_put_appended_to_and_read_in_order() {
    let ctl = registered(&["list"]).await;
    ctl.text(&["state", "put", "shop", "carts", "s", "ada", "tea", "milk"]).await;
    assert_eq!(ctl.text(&["state", "append", "shop", "carts", "s", "ada", "jam", "tea"]).await, "appended: s of ada\n");
    let get = ["state", "get", "shop", "carts", "s", "ada"];
    assert_eq!(ctl.cells(&get).await[1..], [["0", "tea"], ["1", "milk"], ["2", "jam"], ["3", "tea"]]);
    let all = json!({ "found": true, "values": ["tea", "milk", "jam", "tea"], "next_page": null });
    assert_eq!(short(ctl.json(&get).await), all);
}

#[tokio::test]
async fn a_map_is_written_and_read_by_entry_or_whole() {
    let ctl = registered(&["map", "--map-key-codec", "i64", "--value-codec", "json"]).await;
    let map = ["shop", "carts", "s", "ada"];
    let put =
        |key: &'static str, value: &'static str| [&["state", "put"], &map[..], &[value, "--map-key", key]].concat();
    ctl.text(&put("-2", "{\"a\": [1]}")).await;
    ctl.text(&put("10", "[]")).await;
    let get = [&["state", "get"], &map[..]].concat();
    assert_eq!(ctl.cells(&get).await[1..], [["-2", "{\"a\":[1]}"], ["10", "[]"]]);
    let entries = json!([{ "map_key": -2, "value": { "a": [1] } }, { "map_key": 10, "value": [] }]);
    assert_eq!(short(ctl.json(&get).await), json!({ "found": true, "entries": entries, "next_page": null }));
    let entry = [&get[..], &["--map-key", "-2"]].concat();
    assert_eq!(ctl.text(&entry).await, "VALUE\n{\"a\":[1]}\n");
    let one = json!({ "found": true, "map_key": "-2", "value": { "a": [1] }, "expires_at_ms": null });
    assert_eq!(short(ctl.json(&entry).await), one);
    ctl.text(&[&["state", "clear"], &map[..], &["--map-key", "-2"]].concat()).await;
    assert_eq!(short(ctl.json(&entry).await)["found"], json!(false));
    assert_eq!(ctl.json(&get).await["entries"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_reducing_state_is_added_to() {
    let ctl = registered(&["reducing", "--function", "sum_i64"]).await;
    for operand in ["40", "-3", "5"] {
        ctl.text(&["state", "add", "shop", "carts", "s", "ada", operand]).await;
    }
    let get = ["state", "get", "shop", "carts", "s", "ada"];
    assert_eq!((ctl.text(&get).await.as_str(), &ctl.json(&get).await["value"]), ("VALUE\n42\n", &json!(42)));
}

#[tokio::test]
async fn a_scan_shows_all_shards_with_readable_keys() {
    let ctl = registered(&["value", "--key-codec", "i64", "--value-codec", "f64"]).await;
    for key in ["-1", "0", "1", "2", "3", "4", "5", "6"] {
        ctl.text(&["state", "put", "shop", "carts", "s", key, "0.5", "--window", if key == "6" { "w" } else { "" }])
            .await;
    }
    let scan = ["state", "scan", "shop", "carts", "s"];
    let rows = ctl.json(&scan).await;
    let keys = |rows: &Json| {
        let rows = rows["rows"].as_array().cloned().unwrap_or_default();
        let mut keys: Vec<_> = rows.iter().filter_map(|row| row["key"].as_i64()).collect();
        keys.sort_unstable();
        keys
    };
    assert_eq!((keys(&rows), &rows["more"]), ((-1..7).collect(), &json!(false)));
    let groups: Vec<_> = rows["rows"].as_array().into_iter().flatten().map(|row| row["key_group"].as_u64()).collect();
    assert!(groups.is_sorted() && groups.first() < groups.last() && rows["rows"][0]["value"] == json!(0.5), "{rows}");
    let window = ctl.json(&[&scan[..], &["--window", "w"]].concat()).await;
    assert_eq!((keys(&window), &window["rows"][0]["namespace"]), (vec![6], &json!("w")));
    assert_eq!(keys(&ctl.json(&[&scan[..], &["--prefix", "3"]].concat()).await), [3]);

    let some = ctl.run(&[&scan[..], &["--limit", "5"]].concat()).await;
    assert_eq!(
        (some.stdout.lines().count(), some.stderr.contains("there is more after 5 rows")),
        (6, true),
        "{some:?}"
    );
    let all = ctl.json(&[&scan[..], &["--limit", "0"]].concat()).await;
    assert_eq!(all, rows);
    assert_eq!(ctl.json(&[&scan[..], &["--limit", "5"]].concat()).await["more"], json!(true));
    let none = ctl.run(&[&scan[..], &["--prefix", "9"]].concat()).await;
    assert_eq!((none.code, none.stdout.as_str(), none.stderr.contains("nothing is stored")), (0, "", true));
}

#[tokio::test]
async fn bytes_are_written_and_shown_as_they_are() {
    let ctl = registered(&["value", "--key-codec", "bytes", "--value-codec", "bytes"]).await;
    ctl.text(&["state", "put", "shop", "carts", "s", "hex:00ff", "base64:AQID"]).await;
    assert_eq!(ctl.cells(&["state", "get", "shop", "carts", "s", "base64:AP8="]).await[1][0], "hex:010203");
    let row = &ctl.json(&["state", "scan", "shop", "carts", "s"]).await["rows"][0];
    assert_eq!((&row["key"], &row["value"]), (&json!("hex:00ff"), &json!("hex:010203")));
}

#[tokio::test]
async fn a_job_of_the_explicit_partitioner_is_told_the_key_group() {
    let ctl = Ctl::start().await;
    ctl.text(&["job", "create", "e", "--operator", "o:shared:shards=2", "--partitioner", "explicit"]).await;
    ctl.text(&["state", "register", "e", "o", "s", "--kind", "value"]).await;
    let put = ["state", "put", "e", "o", "s", "ada", "x"];
    ctl.refuses(&put, 1, "FIELD_MISSING").await;
    ctl.text(&[&put[..], &["--key-group", "127"]].concat()).await;
    assert_eq!(ctl.cells(&["state", "get", "e", "o", "s", "ada", "--key-group", "127"]).await[1][0], "x");
    ctl.refuses(&[&put[..], &["--key-group", "128"]].concat(), 1, "KEY_GROUP_OUT_OF_RANGE").await;
}

#[tokio::test]
async fn a_value_is_compared_and_set() {
    let ctl = registered(&["value"]).await;
    let cas = ["state", "cas", "shop", "carts", "s", "ada"];
    let cas = |rest: &[&'static str]| [&cas[..], rest].concat();
    let first = ctl.text(&cas(&["one", "--absent"])).await;
    assert_eq!(first, "swapped: s of ada\nVALUE  VERSION\none    1\n");
    let second = short(ctl.json(&cas(&["two", "--expect", "one"])).await);
    let current = json!({ "value": "two", "version": 2, "expires_at_ms": null });
    assert_eq!(second, json!({ "swapped": true, "current": current }));

    for refused in [&["x", "--absent"][..], &["x", "--expect", "one"], &["--version", "1"]] {
        let said = ctl.run(&cas(refused)).await;
        let text = "not swapped: s of ada\nVALUE  VERSION\ntwo    2\n";
        assert_eq!((said.code, said.stdout.as_str(), said.stderr.as_str()), (1, text, ""), "{refused:?}");
        let said = ctl.run(&cas(&[refused, &["-o", "json"]].concat())).await;
        let json: Json = serde_json::from_str(&said.stdout).expect("one document");
        assert_eq!((said.code, short(json)), (1, json!({ "swapped": false, "current": current })), "{refused:?}");
    }
    assert_eq!(ctl.text(&cas(&["--version", "2"])).await, "swapped: s of ada\nnothing is stored\n");
    assert_eq!(short(ctl.json(&cas(&["three", "--version", "0"])).await)["swapped"], json!(true));
}

#[tokio::test]
async fn a_ttl_is_registered_shown_and_replaced() {
    let ctl = registered(&["value", "--ttl", "1h"]).await;
    let register = ["state", "register", "shop", "carts", "s", "--kind", "value"];
    let usual = json!({ "ttl_ms": 3_600_000, "update": "write", "clock": "processing", "visibility": "never-expired" });
    let state = ctl.json(&[&register[..], &["--ttl", "1h"]].concat()).await;
    assert_eq!((&state["ttl"], &state["version"]), (&usual, &json!(1)));
    let other = ["--ttl", "2h", "--ttl-update", "read-and-write"];
    let state = ctl.json(&[&register[..], &other, &["--ttl-visibility", "if-not-cleaned-up"]].concat()).await;
    assert_eq!((&state["ttl"]["visibility"], &state["version"]), (&json!("if-not-cleaned-up"), &json!(2)));
    assert_eq!(ctl.cells(&["state", "list", "shop"]).await[1][8], "2h, read-and-write, if-not-cleaned-up");
    let clock = [&register[..], &["--ttl", "2h", "--ttl-clock", "writer"]].concat();
    ctl.refuses(&clock, 1, "STATE_INCOMPATIBLE").await;

    let replace = ["state", "replace", "shop", "carts", "s", "--version"];
    ctl.refuses(&[&replace[..], &["1", "--no-ttl"]].concat(), 1, "SETTINGS_CONFLICT").await;
    let replaced = ctl.text(&[&replace[..], &["2", "--ttl", "3h"]].concat()).await;
    assert_eq!(replaced, "replaced: s has version 3\n");
    let schema = "Cargo.toml";
    let state =
        ctl.json(&[&replace[..], &["3", "--no-ttl", "--schema", schema, "--schema-version", "7"]].concat()).await;
    assert_eq!((&state["ttl"], &state["schema_version"]), (&json!(null), &json!(7)));
    assert!(state["schema_bytes"].as_u64() > Some(0), "{state}");
}

#[tokio::test]
async fn a_deadline_may_be_named_and_is_shown() {
    let ctl = registered(&["value", "--ttl", "1h"]).await;
    let put = ["state", "put", "shop", "carts", "s"];
    for (key, at) in [("ada", "2100-01-01T00:00:00Z"), ("bob", "4102444800000"), ("eve", "-1")] {
        ctl.text(&[&put[..], &[key, "x", "--expires-at", at]].concat()).await;
    }
    for key in ["ada", "bob"] {
        let get = ["state", "get", "shop", "carts", "s", key];
        assert_eq!(ctl.cells(&get).await[1][2], "2100-01-01T00:00:00Z");
        assert_eq!(ctl.json(&get).await["expires_at_ms"], json!(4_102_444_800_000_u64));
    }
    assert_eq!(ctl.json(&["state", "get", "shop", "carts", "s", "eve"]).await["found"], json!(false));
    let rows = ctl.cells(&["state", "scan", "shop", "carts", "s"]).await;
    assert_eq!((rows.len(), rows[0].last().map(String::as_str)), (3, Some("EXPIRES")));
    ctl.text(&[&put[..], &["zoe", "x"]].concat()).await;
    assert!(ctl.json(&["state", "get", "shop", "carts", "s", "zoe"]).await["expires_at_ms"].is_i64());
}
