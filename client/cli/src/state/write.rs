//! `forebayctl state put`, `append`, `add` and `clear`. Each carries a request id, so that it is applied once
//! however often it is tried.

use forebay_proto::v1::{
    AddRequest, AppendRequest, ClearRequest, ErrorReason, MapEntry, MapPutRequest, MapRemoveRequest, PutRequest,
    StateKind,
};
use uuid::Uuid;

use super::place::Place;
use crate::{
    arguments::{StateName, Within},
    connection::Connection,
    failure::Failure,
    output::Answer,
};

/// Replaces a value or a whole list, or writes an entry of a map.
pub async fn put(
    connection: &Connection,
    state: &StateName,
    key: &str,
    values: &[String],
    map_key: Option<String>,
    within: &Within,
) -> Result<Answer, Failure> {
    let place = Place::find(connection, state, key, within).await?;
    let (kind, request_id) = (place.descriptor().kind(), request_id());
    if kind != StateKind::List && values.len() > 1 {
        let message = format!("{} values for one place: only a list takes several", values.len());
        return Err(Failure::usage(ErrorReason::FieldInvalid, message));
    }
    let values = place.values(values)?;
    match map_key {
        None if kind == StateKind::Map => {
            let message = format!("state {:?} is a map: name the entry by --map-key", state.name);
            return Err(Failure::usage(ErrorReason::FieldMissing, message));
        }
        None => {
            let request = PutRequest { address: place.address(), values, request_id, ..PutRequest::default() };
            place.call(async |mut state| state.put(request.clone()).await).await?;
        }
        Some(map_key) => {
            let map_key = Some(place.map_key(&map_key)?);
            let entries = values.into_iter().map(|value| MapEntry {
                map_key: map_key.clone(),
                value: Some(value),
                expires_at_ms: None,
            });
            let entries = entries.collect();
            let request = MapPutRequest { address: place.address(), entries, request_id, ..MapPutRequest::default() };
            place.call(async |mut state| state.map_put(request.clone()).await).await?;
        }
    }
    Ok(done("put", &place))
}

/// Appends elements to a list.
pub async fn append(
    connection: &Connection,
    state: &StateName,
    key: &str,
    values: &[String],
    within: &Within,
) -> Result<Answer, Failure> {
    let place = Place::find(connection, state, key, within).await?;
    let values = place.values(values)?;
    let request =
        AppendRequest { address: place.address(), values, request_id: request_id(), ..AppendRequest::default() };
    place.call(async |mut state| state.append(request.clone()).await).await?;
    Ok(done("appended", &place))
}

/// Adds to a reducing state.
pub async fn add(
    connection: &Connection,
    state: &StateName,
    key: &str,
    value: &str,
    within: &Within,
) -> Result<Answer, Failure> {
    let place = Place::find(connection, state, key, within).await?;
    let value = Some(place.value(value)?);
    let request = AddRequest { address: place.address(), value, request_id: request_id(), ..AddRequest::default() };
    place.call(async |mut state| state.add(request.clone()).await).await?;
    Ok(done("added", &place))
}

/// Removes what is stored under a key, or an entry of a map.
pub async fn clear(
    connection: &Connection,
    state: &StateName,
    key: &str,
    map_key: Option<String>,
    within: &Within,
) -> Result<Answer, Failure> {
    let place = Place::find(connection, state, key, within).await?;
    let (address, request_id) = (place.address(), request_id());
    match map_key {
        None => {
            let request = ClearRequest { address, request_id, ..ClearRequest::default() };
            place.call(async |mut state| state.clear(request.clone()).await).await?;
        }
        Some(map_key) => {
            let map_key = Some(place.map_key(&map_key)?);
            let request = MapRemoveRequest { address, map_key, request_id, ..MapRemoveRequest::default() };
            place.call(async |mut state| state.map_remove(request.clone()).await).await?;
        }
    }
    Ok(done("cleared", &place))
}

fn request_id() -> String {
    Uuid::new_v4().simple().to_string()
}

fn done(what: &str, place: &Place<'_>) -> Answer {
    let mut json = place.json();
    json["done"] = what.into();
    Answer::new(format!("{what}: {}", place.name()), json)
}
