//! The flights workload and its oracle: what the sample worker (`client/rust/examples/flights.rs`) must
//! have made of a file, computed straight in memory, and a digest to compare the two by.

pub mod chaos;
mod run;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Read},
    path::Path,
};

use anyhow::{Context as _, Result};
use forebay_proto::{
    codec::{Codec, I64},
    v1,
};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::harness::Api;

pub use run::{FlightsRun, Worker};

/// The states of the sample worker, in the order of the digest.
pub const STATES: [&str; 5] = ["totals", "legs", "delays", "carriers", "departures"];
/// The sample worker's operator.
pub const OPERATOR: &str = "stats";

/// Where a row stands: state, key, namespace, map key.
type Place = (&'static str, Vec<u8>, Vec<u8>, Vec<u8>);

/// Everything that is stored in the states: place → values, of lists in their order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct State(BTreeMap<Place, Vec<Vec<u8>>>);

#[derive(Debug, Deserialize)]
struct Flight {
    scheduled_departure: String,
    carrier: String,
    tailnum: String,
    origin: String,
    dest: String,
    arr_delay_min: Option<i64>,
    distance_miles: u64,
}

#[derive(Debug, Default, Serialize)]
struct Totals {
    flights: u64,
    miles: u64,
}

/// Opens a file of flights, `.csv` or `.csv.zst`.
pub fn open(path: &Path) -> Result<csv::Reader<Box<dyn Read>>> {
    let file = BufReader::new(File::open(path).with_context(|| format!("cannot open {}", path.display()))?);
    let packed = path.extension().is_some_and(|extension| extension == "zst");
    let input: Box<dyn Read> = if packed { Box::new(zstd::Decoder::new(file)?) } else { Box::new(file) };
    Ok(csv::Reader::from_reader(input))
}

/// Copies the first records of a file of flights into a `.csv`, for shorter runs.
pub fn cut(from: &Path, to: &Path, records: usize) -> Result<()> {
    let mut reader = open(from)?;
    let mut writer = csv::Writer::from_path(to)?;
    writer.write_record(reader.headers()?)?;
    for record in reader.records().take(records) {
        writer.write_record(&record?)?;
    }
    Ok(writer.flush()?)
}

/// Computes what the worker must have stored, and the number of flights.
pub fn expected(path: &Path) -> Result<(State, u64)> {
    let mut totals: BTreeMap<String, Totals> = BTreeMap::new();
    let mut counts: BTreeMap<Place, i64> = BTreeMap::new();
    let (mut state, mut flights) = (State::default(), 0);
    for flight in open(path)?.deserialize() {
        let flight: Flight = flight?;
        let route = format!("{}-{}", flight.origin, flight.dest);
        if !flight.tailnum.is_empty() {
            let total = totals.entry(flight.tailnum.clone()).or_default();
            total.flights += 1;
            total.miles += flight.distance_miles;
            let leg = format!("{route}@{}", flight.scheduled_departure);
            let place = ("legs", flight.tailnum.into_bytes(), Vec::new(), Vec::new());
            state.0.entry(place).or_default().push(leg.into_bytes());
        }
        if let Some(delay) = flight.arr_delay_min {
            *counts.entry(("delays", route.clone().into_bytes(), Vec::new(), Vec::new())).or_default() += delay;
        }
        let carrier = flight.carrier.into_bytes();
        *counts.entry(("carriers", route.into_bytes(), Vec::new(), carrier)).or_default() += 1;
        let hour = flight.scheduled_departure.get(..13).unwrap_or_default().as_bytes().to_vec();
        *counts.entry(("departures", flight.origin.into_bytes(), hour, Vec::new())).or_default() += 1;
        flights += 1;
    }
    for (tailnum, total) in totals {
        let place = ("totals", tailnum.into_bytes(), Vec::new(), Vec::new());
        state.0.insert(place, vec![serde_json::to_vec(&total)?]);
    }
    for (place, count) in counts {
        state.0.insert(place, vec![I64::to_bytes(&count)?]);
    }
    Ok((state, flights))
}

/// Reads what is stored: every row of every state, from each server.
pub async fn stored(servers: &[Api], job: &str) -> Result<State> {
    let mut state = State::default();
    for name in STATES {
        for server in servers {
            for row in server.scan(job, OPERATOR, name).await? {
                let raw = |item: Option<v1::Item>| item.unwrap_or_default().raw.to_vec();
                let place = (name, raw(row.key), raw(row.namespace), raw(row.map_key));
                state.0.entry(place).or_default().push(raw(row.value));
            }
        }
    }
    Ok(state)
}

impl State {
    /// A digest of all of it.
    pub fn digest(&self) -> u128 {
        let mut hasher = Xxh3::new();
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        for ((state, key, namespace, map_key), values) in &self.0 {
            part(state.as_bytes());
            part(key);
            part(namespace);
            part(map_key);
            part(&(values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| part(value));
        }
        hasher.digest128()
    }

    /// Rows, as a scan counts them.
    pub fn rows(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// Where two states differ, for a failure's message: at most ten places.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let places = self.0.keys().chain(other.0.keys().filter(|place| !self.0.contains_key(*place)));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        places
            .filter(|place| self.0.get(*place) != other.0.get(*place))
            .take(10)
            .map(|place| {
                let count = |state: &Self| state.0.get(place).map_or(0, Vec::len);
                let (state, key, namespace, map_key) = place;
                format!(
                    "{state} {} [{}] [{}]: {} values against {}",
                    text(key),
                    text(namespace),
                    text(map_key),
                    count(self),
                    count(other)
                )
            })
            .collect()
    }

    /// The sums of a state by key, largest first: for the demo's table.
    pub fn largest(&self, state: &str, rows: usize) -> Vec<(String, i64)> {
        let mut sums: BTreeMap<&[u8], i64> = BTreeMap::new();
        for ((name, key, ..), values) in &self.0 {
            if *name == state {
                let sum = values.iter().filter_map(|value| I64::decode(value).ok()).sum::<i64>();
                *sums.entry(key).or_default() += if state == "legs" { values.len() as i64 } else { sum };
            }
        }
        let mut sums: Vec<_> =
            sums.into_iter().map(|(key, sum)| (String::from_utf8_lossy(key).into_owned(), sum)).collect();
        sums.sort_by_key(|(_, sum)| std::cmp::Reverse(*sum));
        sums.truncate(rows);
        sums
    }
}
