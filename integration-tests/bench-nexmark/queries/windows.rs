//! Windows over all bids: q5 sliding, q7 tumbling.

use anyhow::Result;
use futures::future::try_join_all;

use super::{Query, Results, once, pack, unpack, unpacked, window_end};
use crate::{
    events::{Bid, Event, bids},
    states::{Keeper, Lists as _, States, Timer, Timers as _, Values},
};

/// q5's windows are of five slices, and one ends with every slice.
const SLICE_MS: i64 = 2_000;
const SLICES: i64 = 5;
/// The key of a window's own timer.
const WINDOW: u64 = u64::MAX;
/// q7's windows.
const TUMBLING_MS: i64 = 10_000;

/// q5. Bids are counted by auction and slice. When a window ends, the counts of its slices are added up by auction, and
/// the greatest sums are gathered by window; the slice that no later window needs is removed.
pub(super) struct HotItems<'a, K: Keeper> {
    counts: &'a K::Values,
    /// The greatest sum of a window, and the auctions that have it.
    hottest: &'a K::Values,
    timers: &'a K::Timers,
}

impl<'a, K: Keeper> HotItems<'a, K> {
    pub(super) fn new(states: &'a States<K>) -> Self {
        Self { counts: &states.first, hottest: &states.second, timers: &states.timers }
    }

    /// A window's auctions are added up in its last millisecond, and the window is told after it.
    async fn add_up_later(&self, auction: u64, end_ms: i64) -> Result<()> {
        self.timers.register(Timer { time_ms: end_ms - 1, key: auction, window: end_ms }).await
    }

    async fn add_up(&self, auction: u64, end_ms: i64) -> Result<()> {
        let first = end_ms - (SLICES - 1) * SLICE_MS;
        let (mut sum, mut later) = (0, false);
        for slice in slices(end_ms) {
            let Some(count) = self.counts.window(slice)?.get(auction).await? else { continue };
            let [count] = unpacked(&count)?;
            sum += count;
            later |= slice > first;
        }
        if later {
            self.add_up_later(auction, end_ms + SLICE_MS).await?;
        }
        self.counts.window(first)?.clear(auction).await?;
        self.gather(auction, sum, end_ms).await
    }

    async fn gather(&self, auction: u64, sum: u64, end_ms: i64) -> Result<()> {
        let window = end_ms.cast_unsigned();
        let Some(hottest) = self.hottest.get(window).await? else {
            self.timers.register(Timer { time_ms: end_ms, key: WINDOW, window: end_ms }).await?;
            return self.hottest.put(window, &pack([sum, auction])).await;
        };
        let greatest = unpack(&hottest).next().unwrap_or_default();
        if sum > greatest {
            self.hottest.put(window, &pack([sum, auction])).await?;
        } else if sum == greatest {
            self.hottest.put(window, &[&hottest, &pack([auction])[..]].concat()).await?;
        }
        Ok(())
    }
}

/// The slices of the window that ends there, by their ends.
fn slices(end_ms: i64) -> impl Iterator<Item = i64> {
    (0..SLICES).rev().map(move |before| end_ms - before * SLICE_MS)
}

impl<K: Keeper> Query for HotItems<'_, K> {
    async fn ahead(&self, events: &[Event]) -> Result<()> {
        let slice = |event: &Event| window_end(event.time_ms(), SLICE_MS);
        for part in events.chunk_by(|one, next| slice(one) == slice(next)) {
            let counts = self.counts.window(part.first().map_or(0, slice))?;
            counts.prefetch(&once(bids(part).map(|bid| bid.auction))).await?;
        }
        Ok(())
    }

    async fn on(&self, event: &Event, _: &mut Results) -> Result<()> {
        let Event::Bid(bid) = event else { return Ok(()) };
        let slice = window_end(bid.time_ms, SLICE_MS);
        let counts = self.counts.window(slice)?;
        match counts.get(bid.auction).await? {
            Some(count) => {
                let [count] = unpacked(&count)?;
                counts.put(bid.auction, &pack([count + 1])).await
            }
            None => {
                counts.put(bid.auction, &pack([1])).await?;
                self.add_up_later(bid.auction, slice).await
            }
        }
    }

    async fn ahead_of(&self, timers: &[Timer]) -> Result<()> {
        for part in timers.chunk_by(|one, next| one.window == next.window) {
            let auctions = once(part.iter().map(|timer| timer.key).filter(|key| *key != WINDOW));
            let slices = slices(part.first().map_or(0, |timer| timer.window));
            let counts = slices.map(|slice| self.counts.window(slice)).collect::<Result<Vec<_>>>()?;
            try_join_all(counts.iter().map(|counts| counts.prefetch(&auctions))).await?;
        }
        Ok(())
    }

    async fn fire(&self, timer: Timer, results: &mut Results) -> Result<()> {
        if timer.key != WINDOW {
            return self.add_up(timer.key, timer.window).await;
        }
        let window = timer.window.cast_unsigned();
        if let Some(hottest) = self.hottest.get(window).await? {
            let mut numbers = unpack(&hottest);
            let sum = numbers.next().unwrap_or_default();
            numbers.for_each(|auction| results.emit_numbers([window, auction, sum]));
        }
        self.hottest.clear(window).await
    }
}

/// q7. The highest price of a window and the bids that offer it, until the window closes.
pub(super) struct HighestBid<'a, K: Keeper> {
    prices: &'a K::Values,
    highest: &'a K::Lists,
    timers: &'a K::Timers,
}

impl<'a, K: Keeper> HighestBid<'a, K> {
    pub(super) fn new(states: &'a States<K>) -> Self {
        Self { prices: &states.first, highest: &states.lists, timers: &states.timers }
    }

    async fn keep(&self, window: u64, bid: &Bid) -> Result<()> {
        self.highest.add(window, &pack([bid.auction, bid.bidder, bid.price, bid.time_ms.cast_unsigned()])).await
    }
}

impl<K: Keeper> Query for HighestBid<'_, K> {
    async fn ahead(&self, events: &[Event]) -> Result<()> {
        let windows = bids(events).map(|bid| window_end(bid.time_ms, TUMBLING_MS).cast_unsigned());
        self.prices.prefetch(&once(windows)).await
    }

    async fn on(&self, event: &Event, _: &mut Results) -> Result<()> {
        let Event::Bid(bid) = event else { return Ok(()) };
        let end_ms = window_end(bid.time_ms, TUMBLING_MS);
        let window = end_ms.cast_unsigned();
        let highest = match self.prices.get(window).await? {
            Some(price) => unpacked::<1>(&price)?[0],
            None => {
                self.timers.register(Timer { time_ms: end_ms - 1, key: window, window: end_ms }).await?;
                0
            }
        };
        if bid.price > highest {
            self.prices.put(window, &pack([bid.price])).await?;
            self.highest.clear(window).await?;
        }
        if bid.price >= highest { self.keep(window, bid).await } else { Ok(()) }
    }

    async fn ahead_of(&self, _: &[Timer]) -> Result<()> {
        Ok(())
    }

    async fn fire(&self, timer: Timer, results: &mut Results) -> Result<()> {
        for bid in self.highest.get(timer.key).await? {
            results.emit(&[&bid, &timer.window.to_le_bytes()]);
        }
        self.prices.clear(timer.key).await?;
        self.highest.clear(timer.key).await
    }
}
