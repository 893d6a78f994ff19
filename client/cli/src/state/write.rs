//! `forebayctl state put`, `append`, `add` and `clear`. Each carries a request id, so that it is applied once
//! however often it is tried.

use clap::Args;
use forebay_proto::v1::{
    AddRequest, AppendRequest, ClearRequest, ErrorReason, MapEntry, MapPutRequest, MapRemoveRequest, PutRequest,
    StateKind,
};
use uuid::Uuid;

use super::{descriptor, place::Place, ttl::deadline};
use crate::{
    arguments::{StateName, Within},
    connection::Connection,
    failure::Failure,
    output::Answer,
};

/// What to put.
#[derive(Debug, Args)]
pub struct Put {
    #[command(flatten)]
    state: StateName,
    /// The key.
    #[arg(allow_negative_numbers = true)]
    pub key: String,
    /// The value; a list takes several.
    #[arg(required = true, value_name = "VALUE", allow_negative_numbers = true)]
    pub values: Vec<String>,
    /// The entry of a map.
    #[arg(long, value_name = "K", allow_hyphen_values = true)]
    map_key: Option<String>,
    /// A deadline of its own: a moment in RFC 3339, or milliseconds since 1970.
    #[arg(long, value_name = "WHEN", allow_negative_numbers = true, value_parser = deadline)]
    expires_at: Option<i64>,
    #[command(flatten)]
    pub within: Within,
}

/// What to append.
#[derive(Debug, Args)]
pub struct Append {
    #[command(flatten)]
    state: StateName,
    /// The key.
    #[arg(allow_negative_numbers = true)]
    key: String,
    /// The elements, in order.
    #[arg(required = true, value_name = "VALUE", allow_negative_numbers = true)]
    values: Vec<String>,
    /// The entry of a multimap.
    #[arg(long, value_name = "K", allow_hyphen_values = true)]
    map_key: Option<String>,
    /// A deadline of their own: a moment in RFC 3339, or milliseconds since 1970.
    #[arg(long, value_name = "WHEN", allow_negative_numbers = true, value_parser = deadline)]
    expires_at: Option<i64>,
    #[command(flatten)]
    within: Within,
}

/// What to add.
#[derive(Debug, Args)]
#[command(allow_missing_positional = true)]
pub struct Add {
    #[command(flatten)]
    state: StateName,
    /// The key; sorted sets have none, but a --key-group.
    #[arg(allow_negative_numbers = true)]
    pub key: Option<String>,
    /// The operand, or the element of a sorted set.
    #[arg(required = true, allow_negative_numbers = true)]
    pub value: String,
    /// What min_by and max_by compare.
    #[arg(long, value_name = "B", allow_hyphen_values = true)]
    by: Option<String>,
    /// A deadline of its own: a moment in RFC 3339, or milliseconds since 1970.
    #[arg(long, value_name = "WHEN", allow_negative_numbers = true, value_parser = deadline)]
    expires_at: Option<i64>,
    #[command(flatten)]
    within: Within,
}

/// What to clear.
#[derive(Debug, Args)]
pub struct Clear {
    #[command(flatten)]
    state: StateName,
    /// The key; sorted sets have none, but a --key-group.
    #[arg(allow_negative_numbers = true)]
    key: Option<String>,
    /// Only this entry of a map or multimap, or this element of a sorted set.
    #[arg(long, value_name = "K", allow_hyphen_values = true, conflicts_with_all = ["from", "to"])]
    map_key: Option<String>,
    /// Of a map: the first map key.
    #[arg(long, value_name = "K", allow_hyphen_values = true)]
    from: Option<String>,
    /// Of a map: end of the map keys, exclusive.
    #[arg(long, value_name = "K", allow_hyphen_values = true)]
    to: Option<String>,
    #[command(flatten)]
    within: Within,
}

impl Put {
    /// Replaces a value or a whole list, or writes an entry of a map.
    pub async fn run(self, connection: &Connection) -> Result<Answer, Failure> {
        let place = Place::find(connection, &self.state, Some(&self.key), &self.within).await?;
        let (kind, request_id) = (place.kind(), request_id());
        if kind != StateKind::List && self.values.len() > 1 {
            let message = format!("{} values for one place: only a list takes several", self.values.len());
            return Err(Failure::usage(ErrorReason::FieldInvalid, message));
        }
        let (address, values, expires_at_ms) = (place.address(), place.values(&self.values)?, self.expires_at);
        match self.map_key {
            None if kind == StateKind::Map => {
                let message = format!("state {:?} is a map: name the entry by --map-key", self.state.name);
                return Err(Failure::usage(ErrorReason::FieldMissing, message));
            }
            None => {
                let request = PutRequest { address, values, expires_at_ms, request_id, ..PutRequest::default() };
                place.call(async |mut state| state.put(request.clone()).await).await?;
            }
            Some(map_key) => {
                let map_key = Some(place.map_key(&map_key)?);
                let entry = |value| MapEntry { map_key: map_key.clone(), value: Some(value), expires_at_ms };
                let entries = values.into_iter().map(entry).collect();
                let request = MapPutRequest { address, entries, request_id, ..MapPutRequest::default() };
                place.call(async |mut state| state.map_put(request.clone()).await).await?;
            }
        }
        Ok(done("put", &place))
    }
}

impl Append {
    /// Appends elements to a list, or to an entry of a multimap.
    pub async fn run(self, connection: &Connection) -> Result<Answer, Failure> {
        let place = Place::find(connection, &self.state, Some(&self.key), &self.within).await?;
        match (place.kind(), &self.map_key) {
            (StateKind::Multimap, None) => {
                let message = format!("state {:?} is a multimap: name the entry by --map-key", self.state.name);
                return Err(Failure::usage(ErrorReason::FieldMissing, message));
            }
            (StateKind::List, Some(_)) => {
                let kind = descriptor::kind(place.descriptor());
                let message = format!("state {:?} is of kind {kind}: it has no entries", self.state.name);
                return Err(Failure::refused(ErrorReason::WrongKind, message));
            }
            _ => {}
        }
        let request = AppendRequest {
            address: place.address(),
            values: place.values(&self.values)?,
            map_key: place.bound(self.map_key.as_deref())?,
            expires_at_ms: self.expires_at,
            request_id: request_id(),
            ..AppendRequest::default()
        };
        place.call(async |mut state| state.append(request.clone()).await).await?;
        Ok(done("appended", &place))
    }
}

impl Add {
    /// Adds to a reducing or aggregating state, or to a sorted set.
    pub async fn run(self, connection: &Connection) -> Result<Answer, Failure> {
        let place = Place::find(connection, &self.state, self.key.as_deref(), &self.within).await?;
        let request = AddRequest {
            address: place.address(),
            value: Some(place.value(&self.value)?),
            by: self.by.as_deref().map(|typed| place.by(typed)).transpose()?,
            expires_at_ms: self.expires_at,
            request_id: request_id(),
            ..AddRequest::default()
        };
        place.call(async |mut state| state.add(request.clone()).await).await?;
        Ok(done("added", &place))
    }
}

impl Clear {
    /// Removes what is stored under a key, a range of a map, or one entry or element.
    pub async fn run(self, connection: &Connection) -> Result<Answer, Failure> {
        let place = Place::find(connection, &self.state, self.key.as_deref(), &self.within).await?;
        let (address, request_id) = (place.address(), request_id());
        let (map_key, map_start) = (place.bound(self.map_key.as_deref())?, place.bound(self.from.as_deref())?);
        let map_end = place.bound(self.to.as_deref())?;
        match map_key {
            None => {
                let request = ClearRequest { address, map_start, map_end, request_id, ..ClearRequest::default() };
                place.call(async |mut state| state.clear(request.clone()).await).await?;
            }
            map_key => {
                let request = MapRemoveRequest { address, map_key, request_id, ..MapRemoveRequest::default() };
                place.call(async |mut state| state.map_remove(request.clone()).await).await?;
            }
        }
        Ok(done("cleared", &place))
    }
}

/// Makes an id under which a write is applied once.
pub fn request_id() -> String {
    Uuid::new_v4().simple().to_string()
}

/// Says that something was done.
pub fn done(what: &str, place: &Place<'_>) -> Answer {
    let mut json = place.json();
    json["done"] = what.into();
    Answer::new(format!("{what}: {}", place.name()), json)
}
