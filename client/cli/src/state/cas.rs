//! `forebayctl state cas`: replaces a value if it is as expected. That it is not is an answer, and no error.

use clap::Args;
use forebay_proto::v1::{CompareAndSetRequest, CompareAndSetResponse, StateKind, compare_and_set_request::Expected};
use serde_json::json;

use super::{place::Place, show, write::request_id};
use crate::{
    arguments::{StateName, Within},
    connection::Connection,
    failure::Failure,
    output::Answer,
};

/// What to compare and set.
#[derive(Debug, Args)]
pub struct Cas {
    #[command(flatten)]
    state: StateName,
    /// The key.
    #[arg(allow_negative_numbers = true)]
    key: String,
    /// The new value; without one the value is cleared.
    #[arg(allow_negative_numbers = true)]
    new: Option<String>,
    #[command(flatten)]
    expected: Expectation,
    #[command(flatten)]
    within: Within,
}

/// What must be stored.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Expectation {
    /// Only if this value is stored.
    #[arg(long, value_name = "VALUE", allow_hyphen_values = true)]
    expect: Option<String>,
    /// Only if the value has this version; 0 means that nothing is stored.
    #[arg(long, value_name = "N")]
    version: Option<u64>,
    /// Only if nothing is stored.
    #[arg(long)]
    absent: bool,
}

impl Cas {
    /// Compares and sets.
    pub async fn run(self, connection: &Connection) -> Result<Answer, Failure> {
        let place = Place::find(connection, &self.state, Some(&self.key), &self.within).await?;
        let request = CompareAndSetRequest {
            address: place.address(),
            replacement: self.new.as_deref().map(|typed| place.value(typed)).transpose()?,
            expected: Some(self.expected.read(&place)?),
            request_id: request_id(),
            ..CompareAndSetRequest::default()
        };
        let answer = place.call(async |mut state| state.compare_and_set(request.clone()).await).await?;
        Ok(shown(&place, &answer))
    }
}

impl Expectation {
    fn read(&self, place: &Place<'_>) -> Result<Expected, Failure> {
        Ok(match (&self.expect, self.version) {
            (Some(typed), _) => Expected::Value(place.value(typed)?),
            (None, Some(version)) => Expected::Version(version),
            // One of the three is always given.
            (None, None) => Expected::Absent(true),
        })
    }
}

fn shown(place: &Place<'_>, answer: &CompareAndSetResponse) -> Answer {
    let CompareAndSetResponse { swapped, current, .. } = answer;
    let word = if *swapped { "swapped" } else { "not swapped" };
    let (table, now) = show::one(StateKind::Value, current.as_ref());
    let mut text = format!("{word}: {}\n", place.name());
    match current {
        Some(_) => text += &table,
        None => text += "nothing is stored",
    }
    let mut json = place.json();
    json["swapped"] = (*swapped).into();
    json["current"] = if current.is_some() { now } else { json!(null) };
    Answer { no: !swapped, ..Answer::new(text, json) }
}
