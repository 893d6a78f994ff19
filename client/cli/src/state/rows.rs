//! The rows of a scan, as a table and as JSON. Pure.

use forebay_proto::{
    packed_list,
    v1::{Item, ScanProjection, ScanRow, StateDescriptor, StateKind},
};
use serde_json::{Value as Json, json};

use super::show::{expires, list_codec};
use crate::{
    output::{columns, filled_columns},
    text,
};

/// Lays rows out; nothing if there are none. Deadlines have a column where there are any.
pub fn table(descriptor: &StateDescriptor, projection: ScanProjection, rows: &[ScanRow]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let group = |row: &ScanRow| row.key_group.to_string();
    let shown = |item: &Option<Item>| text::shown(item.as_ref());
    let value = |row: &ScanRow| plain(&value(descriptor, row.value.as_ref()));
    let expires = |row: &ScanRow| expires(row.value.as_ref());
    match (projection, descriptor.kind()) {
        (ScanProjection::Keys, _) => {
            columns(["KEY GROUP", "KEY"], rows.iter().map(|row| [group(row), shown(&row.key)]))
        }
        (ScanProjection::KeysAndNamespaces, _) => {
            let row = |row: &ScanRow| [group(row), shown(&row.key), shown(&row.namespace)];
            columns(["KEY GROUP", "KEY", "NAMESPACE"], rows.iter().map(row))
        }
        (_, StateKind::SortedSet) => {
            let row = |row: &ScanRow| [group(row), value(row), expires(row)];
            filled_columns(["KEY GROUP", "ELEMENT", "EXPIRES"], 2, rows.iter().map(row).collect())
        }
        (_, StateKind::Map | StateKind::Multimap) => {
            let row = |row: &ScanRow| {
                let [key, namespace, map_key] = [&row.key, &row.namespace, &row.map_key].map(shown);
                [group(row), key, namespace, map_key, value(row), expires(row)]
            };
            let heads = ["KEY GROUP", "KEY", "NAMESPACE", "MAP KEY", "VALUE", "EXPIRES"];
            filled_columns(heads, 5, rows.iter().map(row).collect())
        }
        _ => {
            let row = |row: &ScanRow| [group(row), shown(&row.key), shown(&row.namespace), value(row), expires(row)];
            let heads = ["KEY GROUP", "KEY", "NAMESPACE", "VALUE", "EXPIRES"];
            filled_columns(heads, 4, rows.iter().map(row).collect())
        }
    }
}

/// Returns a row: what the projection and the kind give.
pub fn json(descriptor: &StateDescriptor, row: &ScanRow) -> Json {
    let mut json = json!({ "key_group": row.key_group });
    for (name, item) in [("key", &row.key), ("namespace", &row.namespace), ("map_key", &row.map_key)] {
        if item.is_some() && descriptor.kind() != StateKind::SortedSet {
            json[name] = text::json(item.as_ref());
        }
    }
    if let Some(item) = &row.value {
        let name = if descriptor.kind() == StateKind::SortedSet { "element" } else { "value" };
        json[name] = value(descriptor, Some(item));
        json["expires_at_ms"] = item.expires_at_ms.into();
        if descriptor.kind() == StateKind::Value {
            json["version"] = item.version.into();
        }
    }
    json
}

/// Returns a value; a scan leaves results that are lists packed.
fn value(descriptor: &StateDescriptor, item: Option<&Item>) -> Json {
    match (list_codec(descriptor), item) {
        (Some(codec), Some(item)) if packed_list::validate(&item.raw).is_ok() => {
            packed_list::iter(&item.raw).map(|element| text::json(Some(&text::item(codec, element)))).collect()
        }
        _ => text::json(item),
    }
}

fn plain(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        json => json.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use forebay_proto::v1::StateKind::{self, Aggregating, SortedSet, Value};

    use super::*;

    fn descriptor(kind: StateKind, function: &str) -> StateDescriptor {
        let (kind, function, value_codec) = (kind.into(), function.into(), "utf8".into());
        StateDescriptor { kind, function, value_codec, ..StateDescriptor::default() }
    }

    fn item(typed: &str) -> Option<Item> {
        Some(text::item("utf8", typed.as_bytes()))
    }

    #[test]
    fn a_sorted_set_has_no_keys() {
        let row = ScanRow { key_group: 3, value: item("e"), namespace: item(""), ..ScanRow::default() };
        let set = descriptor(SortedSet, "");
        let shown = table(&set, ScanProjection::Entries, std::slice::from_ref(&row));
        assert_eq!(shown, "KEY GROUP  ELEMENT\n3          e");
        assert_eq!(json(&set, &row), json!({ "key_group": 3, "element": "e", "expires_at_ms": null }));
    }

    #[test]
    fn a_result_that_is_a_list_is_shown_as_one() {
        let packed = text::item("bytes", &packed_list::pack(["b", "a"]));
        let row = ScanRow { key: item("k"), namespace: item(""), value: Some(packed), ..ScanRow::default() };
        let top = descriptor(Aggregating, "top_k(2)");
        assert_eq!(json(&top, &row)["value"], json!(["b", "a"]));
        assert!(table(&top, ScanProjection::Entries, &[row]).ends_with("[\"b\",\"a\"]"));
    }

    #[test]
    fn a_projection_has_what_it_asks_for() {
        let row = ScanRow { key: item("k"), ..ScanRow::default() };
        assert_eq!(json(&descriptor(Value, ""), &row), json!({ "key_group": 0, "key": "k" }));
        assert_eq!(table(&descriptor(Value, ""), ScanProjection::Keys, &[row]), "KEY GROUP  KEY\n0          k");
    }
}
