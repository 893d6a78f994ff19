//! The watermark of a worker, and how far each shard has been told. Pure.

/// Event time as the worker has said it.
#[derive(Debug, Default)]
pub(super) struct Watermarks {
    current_ms: Option<i64>,
    /// Per shard, what was sent last.
    sent_ms: Vec<Option<i64>>,
}

impl Watermarks {
    pub(super) fn new(shards: usize) -> Self {
        Self { current_ms: None, sent_ms: vec![None; shards] }
    }

    /// Takes a watermark; one that goes back changes nothing.
    pub(super) fn advance(&mut self, watermark_ms: i64) {
        self.current_ms = self.current_ms.max(Some(watermark_ms));
    }

    pub(super) fn current_ms(&self) -> Option<i64> {
        self.current_ms
    }

    /// Returns what is to be sent to a shard, once.
    pub(super) fn take(&mut self, shard: usize) -> Option<i64> {
        let sent_ms = self.sent_ms.get_mut(shard)?;
        if *sent_ms == self.current_ms {
            return None;
        }
        *sent_ms = self.current_ms;
        self.current_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shard_hears_the_highest_watermark_once() {
        let mut watermarks = Watermarks::new(2);
        assert_eq!((watermarks.take(0), watermarks.current_ms()), (None, None));
        watermarks.advance(10);
        assert_eq!((watermarks.take(0), watermarks.take(0)), (Some(10), None));
        watermarks.advance(30);
        watermarks.advance(20);
        assert_eq!((watermarks.take(0), watermarks.take(1), watermarks.take(1)), (Some(30), Some(30), None));
        assert_eq!(watermarks.take(2), None);
    }
}
