//! Sessions of users: q11.

use anyhow::Result;

use super::{Query, Results, once, pack, unpacked};
use crate::{
    events::{Event, bids},
    states::{Keeper, States, Timer, Timers as _, Values as _},
};

/// A session ends if nothing comes for so long.
const GAP_MS: i64 = 10_000;

/// q11. A bidder's session is kept until it has ended. Its timer is not moved by every bid: one that finds the session
/// gone on registers itself anew.
pub(super) struct Sessions<'a, K: Keeper> {
    /// First and last bid of the session, and their number.
    sessions: &'a K::Values,
    timers: &'a K::Timers,
}

impl<'a, K: Keeper> Sessions<'a, K> {
    pub(super) fn new(states: &'a States<K>) -> Self {
        Self { sessions: &states.first, timers: &states.timers }
    }

    async fn end_later(&self, bidder: u64, last_ms: i64) -> Result<()> {
        self.timers.register(Timer { time_ms: last_ms + GAP_MS, key: bidder, window: 0 }).await
    }
}

impl<K: Keeper> Query for Sessions<'_, K> {
    async fn ahead(&self, events: &[Event]) -> Result<()> {
        self.sessions.prefetch(&once(bids(events).map(|bid| bid.bidder))).await
    }

    async fn on(&self, event: &Event, results: &mut Results) -> Result<()> {
        let Event::Bid(bid) = event else { return Ok(()) };
        let (bidder, time) = (bid.bidder, bid.time_ms.cast_unsigned());
        if let Some(session) = self.sessions.get(bidder).await? {
            let [first, last, count] = unpacked(&session)?;
            if bid.time_ms < last.cast_signed() + GAP_MS {
                return self.sessions.put(bidder, &pack([first, time, count + 1])).await;
            }
            // It has ended, and the watermark has not come to its timer yet.
            results.emit_numbers([bidder, first, last, count]);
        }
        self.sessions.put(bidder, &pack([time, time, 1])).await?;
        self.end_later(bidder, bid.time_ms).await
    }

    async fn ahead_of(&self, timers: &[Timer]) -> Result<()> {
        self.sessions.prefetch(&once(timers.iter().map(|timer| timer.key))).await
    }

    async fn fire(&self, timer: Timer, results: &mut Results) -> Result<()> {
        let Some(session) = self.sessions.get(timer.key).await? else { return Ok(()) };
        let [first, last, count] = unpacked(&session)?;
        if last.cast_signed() + GAP_MS > timer.time_ms {
            return self.end_later(timer.key, last.cast_signed()).await;
        }
        results.emit_numbers([timer.key, first, last, count]);
        self.sessions.clear(timer.key).await
    }
}
