//! `forebayctl state get`.

use forebay_proto::v1::{ErrorReason, GetRequest, GetResponse, Item, MapGetRequest, StateKind};
use serde_json::{Value as Json, json};

use super::place::Place;
use crate::{
    arguments::{StateName, Within},
    connection::Connection,
    failure::Failure,
    output::{Answer, columns},
    text,
};

/// Reads what is stored under a key, or one entry of a map.
pub async fn get(
    connection: &Connection,
    state: &StateName,
    key: &str,
    map_key: Option<String>,
    within: &Within,
) -> Result<Answer, Failure> {
    let place = Place::find(connection, state, key, within).await?;
    match map_key {
        Some(map_key) => entry(&place, &map_key).await,
        None => whole(&place).await,
    }
}

async fn whole(place: &Place<'_>) -> Result<Answer, Failure> {
    let request = GetRequest { address: place.address(), ..GetRequest::default() };
    let found = place.call(async |mut state| state.get(request.clone()).await).await?;
    let mut answer = shown(place.descriptor().kind(), &found)?;
    let mut json = place.json();
    json["found"] = found.found.into();
    if let (Json::Object(into), Json::Object(from)) = (&mut json, answer.json) {
        into.extend(from);
    }
    answer.json = json;
    if !found.found {
        answer.notes.push(format!("nothing is stored: {}", place.name()));
    }
    Ok(answer)
}

fn shown(kind: StateKind, found: &GetResponse) -> Result<Answer, Failure> {
    let items = &found.items;
    let (table, json) = match kind {
        StateKind::List => {
            let rows = items.iter().enumerate().map(|(at, item)| [at.to_string(), text::shown(Some(item))]);
            let values: Vec<_> = items.iter().map(|item| text::json(Some(item))).collect();
            (columns(["INDEX", "VALUE"], rows), json!({ "values": values }))
        }
        StateKind::Map => {
            let (pairs, []) = items.as_chunks::<2>() else {
                return Err(Failure::refused(ErrorReason::Internal, "the answer has a map key without a value"));
            };
            let rows = pairs.iter().map(|[key, value]| [text::shown(Some(key)), text::shown(Some(value))]);
            let entry = |[key, value]: &[Item; 2]| json!({ "map_key": text::json(Some(key)), "value": text::json(Some(value)) });
            (columns(["MAP KEY", "VALUE"], rows), json!({ "entries": pairs.iter().map(entry).collect::<Vec<_>>() }))
        }
        _ => one(items.first()),
    };
    Ok(Answer::new(if found.found { table } else { String::new() }, json))
}

async fn entry(place: &Place<'_>, map_key: &str) -> Result<Answer, Failure> {
    let request =
        MapGetRequest { address: place.address(), map_key: Some(place.map_key(map_key)?), ..MapGetRequest::default() };
    let found = place.call(async |mut state| state.map_get(request.clone()).await).await?;
    let (table, value) = one(found.item.as_ref());
    let mut json = place.json();
    json["map_key"] = map_key.into();
    json["found"] = found.found.into();
    json["value"] = value["value"].clone();
    let mut answer = Answer::new(if found.found { table } else { String::new() }, json);
    if !found.found {
        answer.notes.push(format!("nothing is stored: {map_key} in {}", place.name()));
    }
    Ok(answer)
}

fn one(item: Option<&Item>) -> (String, Json) {
    let table = columns(["VALUE"], item.map(|item| [text::shown(Some(item))]));
    (table, json!({ "value": text::json(item) }))
}
