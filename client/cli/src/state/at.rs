//! What a checkpoint holds, as a table and as JSON. Pure.

use forebay_proto::v1::{Notation, ReadAtCheckpointResponse, Shown, ShownEntry};
use serde_json::{Value as Json, json};

use super::place::Place;
use crate::output::{Answer, filled_columns, moment};

/// Shows what was stored at a place as of a checkpoint.
pub fn answer(place: &Place<'_>, found: &ReadAtCheckpointResponse) -> Answer {
    let entry = found.entry.clone().unwrap_or_default();
    let rows = entry.entries.iter().map(|entry| {
        let version = if entry.version == 0 { String::new() } else { entry.version.to_string() };
        [text(&entry.map_key), text(&entry.value), version, entry.expires_at_ms.map(moment).unwrap_or_default()]
    });
    let table = filled_columns(["MAP KEY", "VALUE", "VERSION", "EXPIRES"], 0, rows.collect());
    let mut json = place.json();
    json["checkpoint"] = entry.checkpoint.into();
    json["completed_ms"] = entry.completed_ms.into();
    json["found"] = entry.found.into();
    json["entries"] = entry.entries.iter().map(entry_json).collect();
    json["more"] = found.more.into();
    let mut answer = Answer::new(if entry.found { table } else { String::new() }, json);
    if !entry.found {
        answer.notes.push(format!("nothing was stored at checkpoint {}: {}", entry.checkpoint, place.name()));
    }
    if found.more {
        answer.notes.push("there is more: --limit".to_owned());
    }
    answer
}

/// An entry, with what its kind has.
pub fn entry_json(entry: &ShownEntry) -> Json {
    let mut json = json!({ "key_group": entry.key_group });
    let parts =
        [("key", &entry.key), ("namespace", &entry.namespace), ("map_key", &entry.map_key), ("value", &entry.value)];
    for (name, shown) in parts {
        if let Some(shown) = shown {
            json[name] = shown_json(shown);
        }
    }
    if entry.version != 0 {
        json["version"] = entry.version.into();
    }
    if let Some(at_ms) = entry.expires_at_ms {
        json["expires_at_ms"] = at_ms.into();
    }
    json
}

/// What is shown of a part that may not be there.
pub fn text(shown: &Option<Shown>) -> String {
    shown.as_ref().map(|shown| shown.text.clone()).unwrap_or_default()
}

fn shown_json(shown: &Shown) -> Json {
    match shown.notation() {
        Notation::Json => serde_json::from_str(&shown.text).unwrap_or_else(|_| shown.text.as_str().into()),
        _ => shown.text.as_str().into(),
    }
}
