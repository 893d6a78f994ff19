//! Joins of persons with the auctions they put up: q3 for ever, q8 within a window.

use anyhow::Result;

use super::{Query, Results, once, window_end};
use crate::{
    events::{Event, auctions, persons},
    states::{Keeper, Lists as _, States, Timer, Timers as _, Values as _},
};

/// q3 looks at one category, and at sellers from three states.
const CATEGORY: u64 = 10;
const STATES: [&str; 3] = ["or", "id", "ca"];
/// q8's windows.
const WINDOW_MS: i64 = 10_000;

/// q3. A person waits for auctions for ever; auctions wait in a list until their seller has registered.
pub(super) struct SellersOfCategory<'a, K: Keeper> {
    sellers: &'a K::Values,
    waiting: &'a K::Lists,
}

impl<'a, K: Keeper> SellersOfCategory<'a, K> {
    pub(super) fn new(states: &'a States<K>) -> Self {
        Self { sellers: &states.first, waiting: &states.lists }
    }
}

impl<K: Keeper> Query for SellersOfCategory<'_, K> {
    async fn ahead(&self, events: &[Event]) -> Result<()> {
        let sellers = auctions(events).filter(|auction| auction.category == CATEGORY).map(|auction| auction.seller);
        let persons = persons(events).filter(|person| STATES.contains(&&*person.state)).map(|person| person.id);
        let (sellers, persons) = (once(sellers), once(persons));
        let (sellers, waiting) = futures::join!(self.sellers.prefetch(&sellers), self.waiting.prefetch(&persons));
        sellers.and(waiting)
    }

    async fn on(&self, event: &Event, results: &mut Results) -> Result<()> {
        match event {
            Event::Person(person) if STATES.contains(&&*person.state) => {
                let seller = [&*person.name, &*person.city, &*person.state].join("\n");
                let waiting = self.waiting.get(person.id).await?;
                for auction in &waiting {
                    results.emit(&[seller.as_bytes(), auction]);
                }
                if !waiting.is_empty() {
                    self.waiting.clear(person.id).await?;
                }
                self.sellers.put(person.id, seller.as_bytes()).await
            }
            Event::Auction(auction) if auction.category == CATEGORY => {
                let id = auction.id.to_le_bytes();
                match self.sellers.get(auction.seller).await? {
                    Some(seller) => results.emit(&[&seller, &id]),
                    None => self.waiting.add(auction.seller, &id).await?,
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn ahead_of(&self, _: &[Timer]) -> Result<()> {
        Ok(())
    }

    async fn fire(&self, _: Timer, _: &mut Results) -> Result<()> {
        Ok(())
    }
}

/// q8. Both sides are kept by person and window, until the window closes.
pub(super) struct NewSellers<'a, K: Keeper> {
    persons: &'a K::Values,
    /// Persons who have put something up in the window; nothing more is to be known of it.
    sellers: &'a K::Values,
    timers: &'a K::Timers,
}

impl<'a, K: Keeper> NewSellers<'a, K> {
    pub(super) fn new(states: &'a States<K>) -> Self {
        Self { persons: &states.first, sellers: &states.second, timers: &states.timers }
    }

    async fn close_later(&self, key: u64, window: i64) -> Result<()> {
        self.timers.register(Timer { time_ms: window - 1, key, window }).await
    }
}

impl<K: Keeper> Query for NewSellers<'_, K> {
    async fn ahead(&self, events: &[Event]) -> Result<()> {
        for part in events.chunk_by(|one, next| window(one) == window(next)) {
            let window = part.first().map_or(0, window);
            let sellers = || auctions(part).map(|auction| auction.seller);
            let (asked, marked) = (once(sellers()), once(persons(part).map(|person| person.id).chain(sellers())));
            let (persons, sellers) = (self.persons.window(window)?, self.sellers.window(window)?);
            let (persons, sellers) = futures::join!(persons.prefetch(&asked), sellers.prefetch(&marked));
            persons.and(sellers)?;
        }
        Ok(())
    }

    async fn on(&self, event: &Event, results: &mut Results) -> Result<()> {
        let window = window(event);
        let begin = window.to_le_bytes();
        match event {
            Event::Person(person) => {
                if self.sellers.window(window)?.get(person.id).await?.is_some() {
                    results.emit(&[person.name.as_bytes(), &person.id.to_le_bytes(), &begin]);
                }
                self.persons.window(window)?.put(person.id, person.name.as_bytes()).await?;
                self.close_later(person.id, window).await
            }
            Event::Auction(auction) => {
                let sellers = self.sellers.window(window)?;
                if sellers.get(auction.seller).await?.is_some() {
                    return Ok(());
                }
                sellers.put(auction.seller, b"").await?;
                match self.persons.window(window)?.get(auction.seller).await? {
                    Some(name) => {
                        results.emit(&[&name, &auction.seller.to_le_bytes(), &begin]);
                        Ok(())
                    }
                    None => self.close_later(auction.seller, window).await,
                }
            }
            Event::Bid(_) => Ok(()),
        }
    }

    async fn ahead_of(&self, _: &[Timer]) -> Result<()> {
        Ok(())
    }

    async fn fire(&self, timer: Timer, _: &mut Results) -> Result<()> {
        self.persons.window(timer.window)?.clear(timer.key).await?;
        self.sellers.window(timer.window)?.clear(timer.key).await
    }
}

fn window(event: &Event) -> i64 {
    window_end(event.time_ms(), WINDOW_MS)
}
