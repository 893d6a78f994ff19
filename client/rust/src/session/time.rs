//! The clocks of a session: what is written when lives until when, and what a watermark tells the shards.

use std::time::Instant;

use forebay_proto::v1::TtlClock;

use super::Session;
use crate::{cache::At, error::Result, expiry::Expiry, lane::Write};

impl Session {
    /// Returns the time on a state's clock; `None` if there is none yet.
    pub(crate) fn clock_ms(&self, clock: TtlClock, shard: usize) -> Option<i64> {
        match clock {
            TtlClock::Event => {
                let ours = self.watermarks.lock().expect("no panic while locked").current_ms();
                ours.max(self.lanes[shard].watermark_ms())
            }
            TtlClock::Writer => Some(crate::clock::now_ms()),
            TtlClock::Processing | TtlClock::Unspecified => self.lanes[shard].clock_ms(Instant::now()),
        }
    }

    /// Returns the deadline of what is written now. Waits until the shard has told its time once; on event
    /// time there is no deadline before the first watermark.
    pub(crate) async fn deadline_ms(&self, expiry: &Expiry, shard: usize) -> Result<Option<i64>> {
        let mut clock_ms = self.clock_ms(expiry.clock, shard);
        if clock_ms.is_none() && expiry.clock != TtlClock::Event {
            self.unless_ended(self.lanes[shard].opened()).await??;
            clock_ms = self.clock_ms(expiry.clock, shard);
        }
        Ok(clock_ms.map(|clock_ms| expiry.deadline(clock_ms)))
    }

    /// Returns the deadline that a read gives what it has read, if it is to; for what the cache does not keep.
    pub(crate) fn touch_ms(&self, expiry: Option<&Expiry>, at: At<'_>, map_key: &[u8]) -> Option<i64> {
        let expiry = expiry.filter(|expiry| expiry.on_read)?;
        let clock_ms = self.clock_ms(expiry.clock, at.shard)?;
        let length = (at.key.len() as u32).to_be_bytes();
        let group = at.key_group.unwrap_or_default().to_be_bytes();
        let address = [&at.state.to_be_bytes()[..], &group, &length, at.key, at.namespace, &[0], map_key].concat();
        self.touches.lock().expect("no panic while locked").touch(expiry, address, clock_ms)
    }

    /// Takes a watermark; each shard hears of it with the next writes, or on its own soon.
    pub(crate) fn watermark(&self, watermark_ms: i64) {
        self.watermarks.lock().expect("no panic while locked").advance(watermark_ms);
    }

    pub(super) fn take_watermark(&self, shard: usize) -> Option<i64> {
        self.watermarks.lock().expect("no panic while locked").take(shard)
    }

    /// Tells a shard the watermark, if it has not heard it.
    pub(super) fn send_watermark(&self, shard: usize) {
        // Where positions are kept it goes with what it is behind, for it must not be ahead of what is read again.
        if self.kept.is_none()
            && let Some(watermark_ms) = self.take_watermark(shard)
        {
            self.lanes[shard]
                .write_behind(Write { watermark_ms: Some(watermark_ms), ..Write::default() }, &self.backlog);
        }
    }

    pub(super) fn send_watermarks(&self) {
        (0..self.lanes.len()).for_each(|shard| self.send_watermark(shard));
    }
}
