//! The stream: Nexmark's events, as far as the queries look at them.

use nexmark::{EventGenerator, config::NexmarkConfig, event};

/// Event time of the first event, milliseconds since 1970; a whole number of all windows.
pub const BEGIN_MS: i64 = 1_600_000_000_000;

/// What happens at the auction house.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Somebody has registered.
    Person(Person),
    /// An item is put up.
    Auction(Auction),
    /// Somebody offers a price.
    Bid(Bid),
}

/// Somebody who sells and bids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    pub id: u64,
    pub name: Box<str>,
    pub city: Box<str>,
    /// Two letters, such as `or`.
    pub state: Box<str>,
    pub time_ms: i64,
}

/// An item that is on sale for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auction {
    pub id: u64,
    pub seller: u64,
    pub category: u64,
    /// No bid counts after that.
    pub expires_ms: i64,
    pub time_ms: i64,
}

/// A price that somebody offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bid {
    pub auction: u64,
    pub bidder: u64,
    pub price: u64,
    pub time_ms: i64,
}

impl Event {
    /// Its event time. No event is earlier than the one before it.
    pub fn time_ms(&self) -> i64 {
        match self {
            Self::Person(person) => person.time_ms,
            Self::Auction(auction) => auction.time_ms,
            Self::Bid(bid) => bid.time_ms,
        }
    }
}

/// The persons among events.
pub fn persons(events: &[Event]) -> impl Iterator<Item = &Person> {
    events.iter().filter_map(|event| if let Event::Person(person) = event { Some(person) } else { None })
}

/// The auctions among events.
pub fn auctions(events: &[Event]) -> impl Iterator<Item = &Auction> {
    events.iter().filter_map(|event| if let Event::Auction(auction) = event { Some(auction) } else { None })
}

/// The bids among events.
pub fn bids(events: &[Event]) -> impl Iterator<Item = &Bid> {
    events.iter().filter_map(|event| if let Event::Bid(bid) = event { Some(bid) } else { None })
}

/// Generates so many events, the same each time: of 50 one person, three auctions and 46 bids, 10,000 for a second of
/// event time, in its order.
pub fn generate(count: usize) -> Vec<Event> {
    let config = NexmarkConfig { base_time: BEGIN_MS.unsigned_abs(), ..NexmarkConfig::default() };
    EventGenerator::new(config).take(count).map(Event::from).collect()
}

impl From<event::Event> for Event {
    fn from(event: event::Event) -> Self {
        match event {
            event::Event::Person(person) => Self::Person(Person {
                id: person.id as u64,
                name: person.name.into(),
                city: person.city.into(),
                state: person.state.into(),
                time_ms: person.date_time.cast_signed(),
            }),
            event::Event::Auction(auction) => Self::Auction(Auction {
                id: auction.id as u64,
                seller: auction.seller as u64,
                category: auction.category as u64,
                expires_ms: auction.expires.cast_signed(),
                time_ms: auction.date_time.cast_signed(),
            }),
            event::Event::Bid(bid) => Self::Bid(Bid {
                auction: bid.auction as u64,
                bidder: bid.bidder as u64,
                price: bid.price as u64,
                time_ms: bid.date_time.cast_signed(),
            }),
        }
    }
}
