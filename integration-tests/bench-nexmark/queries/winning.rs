//! Auctions that close: q4.

use anyhow::Result;

use super::{Query, Results, once, pack, unpacked};
use crate::{
    events::{Event, bids},
    states::{Keeper, States, Timer, Timers as _, Values as _},
};

/// q4. An auction is kept with its best bid until it expires; then its category's average goes on. Bids that come
/// before their auction do not count.
pub(super) struct AveragePrice<'a, K: Keeper> {
    /// Category, expiry and best price, 0 for none.
    auctions: &'a K::Values,
    /// Sum of prices and number of auctions, by category.
    averages: &'a K::Values,
    timers: &'a K::Timers,
}

impl<'a, K: Keeper> AveragePrice<'a, K> {
    pub(super) fn new(states: &'a States<K>) -> Self {
        Self { auctions: &states.first, averages: &states.second, timers: &states.timers }
    }
}

impl<K: Keeper> Query for AveragePrice<'_, K> {
    async fn ahead(&self, events: &[Event]) -> Result<()> {
        self.auctions.prefetch(&once(bids(events).map(|bid| bid.auction))).await
    }

    async fn on(&self, event: &Event, _: &mut Results) -> Result<()> {
        match event {
            Event::Auction(auction) => {
                let kept = pack([auction.category, auction.expires_ms.cast_unsigned(), 0]);
                self.auctions.put(auction.id, &kept).await?;
                self.timers.register(Timer { time_ms: auction.expires_ms, key: auction.id, window: 0 }).await
            }
            Event::Bid(bid) => {
                let Some(kept) = self.auctions.get(bid.auction).await? else { return Ok(()) };
                let [category, expires, best] = unpacked(&kept)?;
                if bid.time_ms > expires.cast_signed() || bid.price <= best {
                    return Ok(());
                }
                self.auctions.put(bid.auction, &pack([category, expires, bid.price])).await
            }
            Event::Person(_) => Ok(()),
        }
    }

    async fn ahead_of(&self, timers: &[Timer]) -> Result<()> {
        self.auctions.prefetch(&once(timers.iter().map(|timer| timer.key))).await
    }

    async fn fire(&self, timer: Timer, results: &mut Results) -> Result<()> {
        let Some(kept) = self.auctions.get(timer.key).await? else { return Ok(()) };
        self.auctions.clear(timer.key).await?;
        let [category, _, best] = unpacked(&kept)?;
        if best == 0 {
            return Ok(());
        }
        let average = self.averages.get(category).await?;
        let [sum, count] = average.map_or(Ok([0, 0]), |average| unpacked(&average))?;
        let (sum, count) = (sum + best, count + 1);
        results.emit_numbers([category, sum / count]);
        self.averages.put(category, &pack([sum, count])).await
    }
}
