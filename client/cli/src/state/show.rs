//! What a read found, as a table and as JSON. Pure.
//!
//! Invariant: a table has a column of versions or deadlines where there are any; JSON has the field whether
//! or not.

use forebay_proto::{
    merge::{MergeFunction, ResultCodec},
    v1::{ErrorReason, GetResponse, Item, StateDescriptor, StateKind},
};
use serde_json::{Value as Json, json};

use super::place::Place;
use crate::{
    failure::Failure,
    output::{Answer, columns, filled_columns, moment},
    text,
};

/// Shows what was found at a place, or in an entry there. Only the `first` page has indexes.
pub fn answer(place: &Place<'_>, map_key: Option<&str>, first: bool, found: &GetResponse) -> Result<Answer, Failure> {
    let (table, part) = match shape(place.descriptor(), map_key) {
        Shape::One => one(place.kind(), found.items.first()),
        Shape::Pairs => pairs(&found.items)?,
        Shape::Several { field, head, ordered } => several(field, head, ordered && first, &found.items),
        Shape::Results => results(&found.items),
    };
    let mut json = place.json();
    if let Some(map_key) = map_key {
        json["map_key"] = map_key.into();
    }
    json["found"] = found.found.into();
    if let (Json::Object(into), Json::Object(from)) = (&mut json, part) {
        into.extend(from);
    }
    let mut answer = Answer::new(if found.found { table } else { String::new() }, json);
    if !found.next_page_token.is_empty() {
        let token = text::Token(found.next_page_token.to_vec()).to_string();
        answer.notes.push(format!("there is more: --page {token}"));
        answer.json["next_page"] = token.into();
    }
    if !found.found {
        let entry = map_key.map(|map_key| format!("{map_key} in ")).unwrap_or_default();
        answer.notes.push(format!("nothing is stored: {entry}{}", place.name()));
    }
    Ok(answer)
}

/// How the items of an answer belong together.
enum Shape {
    /// One value or result.
    One,
    /// Map key, value, map key, value.
    Pairs,
    /// A page of several, which have indexes if they are ordered by their appends.
    Several { field: &'static str, head: &'static str, ordered: bool },
    /// A result that is a list.
    Results,
}

fn shape(descriptor: &StateDescriptor, map_key: Option<&str>) -> Shape {
    let several = |field, head, ordered| Shape::Several { field, head, ordered };
    match (descriptor.kind(), map_key) {
        (StateKind::List, _) | (StateKind::Multimap, Some(_)) => several("values", "VALUE", true),
        (StateKind::Multimap, None) => several("map_keys", "MAP KEY", false),
        (StateKind::SortedSet, _) => several("elements", "ELEMENT", false),
        (StateKind::Map, None) => Shape::Pairs,
        _ if list_codec(descriptor).is_some() => Shape::Results,
        _ => Shape::One,
    }
}

/// Returns the codec of a result's elements, if the state's function gives a list.
pub fn list_codec(descriptor: &StateDescriptor) -> Option<&str> {
    match MergeFunction::parse(&descriptor.function)?.result_codec(&descriptor.value_codec) {
        ResultCodec::List(codec) => Some(codec),
        ResultCodec::One(_) => None,
    }
}

/// Shows one value with its version and deadline; only values have versions.
pub fn one(kind: StateKind, item: Option<&Item>) -> (String, Json) {
    let row = |item: &Item| [text::shown(Some(item)), version(item), expires(Some(item))];
    let table = filled_columns(["VALUE", "VERSION", "EXPIRES"], 1, item.map(row).into_iter().collect());
    let mut json = json!({ "value": text::json(item), "expires_at_ms": item.and_then(|item| item.expires_at_ms) });
    if kind == StateKind::Value {
        json["version"] = item.map(|item| item.version).unwrap_or_default().into();
    }
    (table, json)
}

/// Shows a deadline; nothing if there is none.
pub fn expires(item: Option<&Item>) -> String {
    item.and_then(|item| item.expires_at_ms).map(moment).unwrap_or_default()
}

fn version(item: &Item) -> String {
    if item.version == 0 { String::new() } else { item.version.to_string() }
}

fn pairs(items: &[Item]) -> Result<(String, Json), Failure> {
    let (pairs, []) = items.as_chunks::<2>() else {
        return Err(Failure::refused(ErrorReason::Internal, "the answer has a map key without a value"));
    };
    let rows =
        pairs.iter().map(|[key, value]| [text::shown(Some(key)), text::shown(Some(value)), expires(Some(value))]);
    let entry =
        |[key, value]: &[Item; 2]| json!({ "map_key": text::json(Some(key)), "value": text::json(Some(value)) });
    let entries: Vec<_> = pairs.iter().map(entry).collect();
    let table = filled_columns(["MAP KEY", "VALUE", "EXPIRES"], 2, rows.collect());
    Ok((table, json!({ "entries": entries, "next_page": null })))
}

/// Shows a result of several values, which share a deadline.
fn results(items: &[Item]) -> (String, Json) {
    let rows = items.iter().map(|item| [text::shown(Some(item)), expires(Some(item))]).collect();
    let values: Vec<_> = items.iter().map(|item| text::json(Some(item))).collect();
    let expires_at_ms = items.first().and_then(|item| item.expires_at_ms);
    let table = filled_columns(["VALUE", "EXPIRES"], 1, rows);
    (table, json!({ "values": values, "expires_at_ms": expires_at_ms }))
}

fn several(field: &str, head: &'static str, indexed: bool, items: &[Item]) -> (String, Json) {
    let shown = items.iter().map(|item| text::shown(Some(item)));
    let table = if indexed {
        columns(["INDEX", head], shown.enumerate().map(|(at, item)| [at.to_string(), item]))
    } else {
        columns([head], shown.map(|item| [item]))
    };
    let values: Vec<_> = items.iter().map(|item| text::json(Some(item))).collect();
    let mut json = json!({ "next_page": null });
    json[field] = values.into();
    (table, json)
}

#[cfg(test)]
mod tests {
    use forebay_proto::v1::{Value, value};

    use super::*;

    fn item(text: &str) -> Item {
        let readable = Some(Value { form: Some(value::Form::Utf8(text.to_owned())) });
        Item { raw: text.as_bytes().to_vec().into(), readable, ..Item::default() }
    }

    #[test]
    fn versions_and_deadlines_are_shown_where_there_are_any() {
        assert_eq!(one(StateKind::Reducing, Some(&item("a"))).0, "VALUE\na");
        let dated = Item { version: 7, expires_at_ms: Some(1_357_045_200_000), ..item("a") };
        let (table, json) = one(StateKind::Value, Some(&dated));
        assert_eq!(table, "VALUE  VERSION  EXPIRES\na      7        2013-01-01T13:00:00Z");
        assert_eq!(json, json!({ "value": "a", "version": 7, "expires_at_ms": 1_357_045_200_000_u64 }));
        let (_, absent) = one(StateKind::Value, None);
        assert_eq!(absent, json!({ "value": null, "version": 0, "expires_at_ms": null }));
    }

    #[test]
    fn a_map_comes_in_pairs() {
        let (table, json) = pairs(&[item("k"), item("v")]).unwrap();
        assert_eq!(table, "MAP KEY  VALUE\nk        v");
        assert_eq!(json["entries"], json!([{ "map_key": "k", "value": "v" }]));
        assert!(pairs(&[item("k")]).is_err());
    }

    #[test]
    fn only_top_k_gives_a_list() {
        let of = |function: &str| {
            let (kind, function, value_codec) = (StateKind::Aggregating.into(), function.into(), "i64".into());
            StateDescriptor { kind, function, value_codec, ..StateDescriptor::default() }
        };
        assert_eq!(list_codec(&of("top_k(3)")), Some("i64"));
        assert_eq!((list_codec(&of("avg")), list_codec(&of(""))), (None, None));
        assert!(matches!(shape(&of("top_k(3)"), None), Shape::Results));
        let (table, json) = results(&[item("b"), item("a")]);
        assert_eq!((table.as_str(), &json["values"]), ("VALUE\nb\na", &json!(["b", "a"])));
    }
}
