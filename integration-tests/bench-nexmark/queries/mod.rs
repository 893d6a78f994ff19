//! The queries: what they do with an event and with a timer, and how a stream is run through one.
//!
//! They compute what Nexmark's queries of the same number ask for, by the state access of a stream processor: results
//! come out when a window closes or a join matches, and what cannot be needed again is removed.

mod joins;
mod sessions;
mod windows;
mod winning;

use std::fmt;

use anyhow::{Result, ensure};
use futures::future;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    events::Event,
    states::{Keeper, States, Timer, Timers},
};

/// Timers that are looked up at once.
const TIMERS: usize = 1024;
/// How often the watermark goes on, in event time.
const WATERMARK_MS: i64 = 100;
/// How far it goes on behind the last event, so that every window closes.
const CLOSING_MS: i64 = 30_000;

/// A query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// Who sells in a category in some states: an incremental join that never ends.
    Q3,
    /// The average of the prices at which auctions of a category close.
    Q4,
    /// The auctions with most bids of the last ten seconds, every two seconds.
    Q5,
    /// The highest bids of every ten seconds.
    Q7,
    /// Who has registered and put something up in the same ten seconds: a windowed join.
    Q8,
    /// The bids of a user, by sessions that end after ten seconds without any.
    Q11,
}

impl Name {
    pub const ALL: [Self; 6] = [Self::Q3, Self::Q4, Self::Q5, Self::Q7, Self::Q8, Self::Q11];

    /// Its number in the benchmark.
    pub fn number(self) -> u32 {
        match self {
            Self::Q3 => 3,
            Self::Q4 => 4,
            Self::Q5 => 5,
            Self::Q7 => 7,
            Self::Q8 => 8,
            Self::Q11 => 11,
        }
    }

    /// Events of a micro-batch: so many are read ahead while as many are worked on. Of those of a join few touch its
    /// state, so that fewer would be worked on before the answers are there.
    fn ahead(self) -> usize {
        match self {
            Self::Q3 | Self::Q8 => 8 * 1024,
            Self::Q4 | Self::Q5 | Self::Q7 | Self::Q11 => 1024,
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "q{}", self.number())
    }
}

/// What has come out: the number of results, and a sum over them that does not depend on their order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Results {
    pub count: u64,
    pub digest: u64,
}

impl Results {
    /// Adds a result.
    fn emit(&mut self, parts: &[&[u8]]) {
        self.count += 1;
        self.digest = self.digest.wrapping_add(xxh3_64(&parts.concat()));
    }

    /// Adds a result of numbers.
    fn emit_numbers<const N: usize>(&mut self, numbers: [u64; N]) {
        self.emit(&[&pack(numbers)]);
    }
}

/// Numbers as they are stored.
fn pack<const N: usize>(numbers: [u64; N]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn unpack(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.as_chunks().0.iter().map(|chunk| u64::from_le_bytes(*chunk))
}

/// The numbers of a stored value; fails if there are others than expected.
fn unpacked<const N: usize>(bytes: &[u8]) -> Result<[u64; N]> {
    ensure!(bytes.len() == 8 * N, "a value of {} bytes is no {N} numbers", bytes.len());
    let mut numbers = unpack(bytes);
    Ok(std::array::from_fn(|_| numbers.next().unwrap_or_default()))
}

/// The end of the window that holds a moment.
fn window_end(time_ms: i64, length_ms: i64) -> i64 {
    (time_ms.div_euclid(length_ms) + 1) * length_ms
}

/// Each number once.
fn once(keys: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut keys: Vec<_> = keys.collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// What a query does.
trait Query {
    /// Says what will be read for these events.
    async fn ahead(&self, events: &[Event]) -> Result<()>;
    async fn on(&self, event: &Event, results: &mut Results) -> Result<()>;
    /// Says what will be read for these timers.
    async fn ahead_of(&self, timers: &[Timer]) -> Result<()>;
    async fn fire(&self, timer: Timer, results: &mut Results) -> Result<()>;
}

/// Runs a stream through a query. `between` is called between micro-batches, with the number of events before.
pub async fn run<K: Keeper>(
    name: Name,
    states: &States<K>,
    events: &[Event],
    between: impl AsyncFnMut(u64) -> Result<()>,
) -> Result<Results> {
    let (timers, batches) = (&states.timers, events.chunks(name.ahead()));
    match name {
        Name::Q3 => drive(&joins::SellersOfCategory::new(states), timers, batches, between).await,
        Name::Q4 => drive(&winning::AveragePrice::new(states), timers, batches, between).await,
        Name::Q5 => drive(&windows::HotItems::new(states), timers, batches, between).await,
        Name::Q7 => drive(&windows::HighestBid::new(states), timers, batches, between).await,
        Name::Q8 => drive(&joins::NewSellers::new(states), timers, batches, between).await,
        Name::Q11 => drive(&sessions::Sessions::new(states), timers, batches, between).await,
    }
}

async fn drive(
    query: &impl Query,
    timers: &impl Timers,
    batches: std::slice::Chunks<'_, Event>,
    mut between: impl AsyncFnMut(u64) -> Result<()>,
) -> Result<Results> {
    let mut results = Results::default();
    let mut batches = batches.peekable();
    let first = batches.peek().and_then(|batch| batch.first());
    let mut next_ms = first.map_or(0, |event| window_end(event.time_ms(), WATERMARK_MS));
    let mut done = 0;
    query.ahead(batches.peek().copied().unwrap_or_default()).await?;
    while let Some(batch) = batches.next() {
        between(done).await?;
        let work = async {
            for event in batch {
                // No event that is still to come is earlier than this one.
                while next_ms <= event.time_ms() {
                    advance(query, timers, next_ms - 1, &mut results).await?;
                    next_ms += WATERMARK_MS;
                }
                query.on(event, &mut results).await?;
            }
            anyhow::Ok(())
        };
        let read = query.ahead(batches.peek().copied().unwrap_or_default());
        let (read, worked) = future::join(read, work).await;
        read?;
        worked?;
        done += batch.len() as u64;
    }
    let end_ms = next_ms + CLOSING_MS;
    while next_ms <= end_ms {
        advance(query, timers, next_ms - 1, &mut results).await?;
        next_ms += WATERMARK_MS;
    }
    ensure!(timers.due(i64::MAX, 1).await?.is_empty(), "a timer is left");
    Ok(results)
}

/// Fires what is due. A timer that is registered meanwhile is due later than all of these.
async fn advance(query: &impl Query, timers: &impl Timers, watermark_ms: i64, results: &mut Results) -> Result<()> {
    loop {
        let due = timers.due(watermark_ms, TIMERS).await?;
        if due.is_empty() {
            return Ok(());
        }
        query.ahead_of(&due).await?;
        for timer in due {
            query.fire(timer, results).await?;
            timers.delete(timer).await?;
        }
    }
}
