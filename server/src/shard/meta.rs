//! What belongs to the shard as a whole: lanes, counters, clock, source positions. Kept in the table
//! [`TableId::SHARD`], written in the same batch as the rows that go with it.

use std::ops::ControlFlow;

use forebay_proto::v1;
use prost::Message as _;

use super::{
    lanes::{LaneId, Lanes},
    ops::Counters,
    positions::{self, Positions},
    requests::{self, RequestIds},
};
use crate::{
    seeded::{self, Bug},
    storage::{self, Backend, TableId, Writes},
};

/// Keys of lane records: first, and first behind.
pub const LANES: (&[u8], &[u8]) = (b"l", b"m");
/// Keys of verdicts: first, and first behind.
pub const VERDICTS: (&[u8], &[u8]) = (b"v", b"w");
const COUNTERS: &[u8] = b"c";
const FORMAT: u8 = 1;

/// Counters and clock of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meta {
    /// Counters.
    pub counters: Counters,
    /// The processing clock: monotone, milliseconds since 1970.
    pub clock_ms: i64,
    /// The writer's watermark, milliseconds since 1970; `None` before the first.
    pub watermark_ms: Option<i64>,
}

impl Meta {
    /// Adds the record to a batch.
    pub fn store(&self, writes: &mut Writes) {
        writes.put(TableId::SHARD, COUNTERS, |out| {
            out.push(FORMAT);
            out.extend_from_slice(&self.counters.appends.to_be_bytes());
            out.extend_from_slice(&self.counters.writes.to_be_bytes());
            out.extend_from_slice(&self.clock_ms.to_be_bytes());
            if let Some(watermark_ms) = self.watermark_ms {
                out.extend_from_slice(&watermark_ms.to_be_bytes());
            }
        });
    }

    /// What several shards have together when they become one (semantics.md, section 1): numbers go on behind
    /// the highest, time does not go back, and the watermark is the one that holds for all.
    pub fn merge(parts: &[Self]) -> Self {
        let [first, rest @ ..] = parts else { return Self::default() };
        let counters = |meta: &Self| meta.counters;
        let highest = |of: fn(Counters) -> u64| {
            let highest = parts.iter().map(counters).map(of).max().unwrap_or_default();
            if rest.is_empty() { highest } else { highest + 1 }
        };
        Self {
            counters: Counters { appends: highest(|all| all.appends), writes: highest(|all| all.writes) },
            clock_ms: parts.iter().map(|meta| meta.clock_ms).fold(first.clock_ms, i64::max),
            // None, before the first, is less than any.
            watermark_ms: parts.iter().map(|meta| meta.watermark_ms).fold(first.watermark_ms, Option::min),
        }
    }

    fn parse(record: &[u8]) -> Option<Self> {
        let (format, rest) = record.split_first()?;
        if *format != FORMAT || !matches!(rest.len(), 24 | 32) {
            return None;
        }
        let field = |at: usize| rest.get(at..at + 8)?.try_into().map(u64::from_be_bytes).ok();
        Some(Self {
            counters: Counters { appends: field(0)?, writes: field(8)? },
            clock_ms: field(16)?.cast_signed(),
            watermark_ms: field(24).map(u64::cast_signed).filter(|_| !seeded::is(Bug::ExpiredBackByRestore)),
        })
    }
}

/// The key of a lane's record.
pub fn lane_key(lane: LaneId) -> [u8; 17] {
    let mut key = [b'l'; 17];
    key[1..].copy_from_slice(&lane.0);
    key
}

/// The key of the verdicts of a batch.
pub fn verdict_key(lane: LaneId, seq: u64) -> [u8; 25] {
    let mut key = [b'v'; 25];
    key[1..17].copy_from_slice(&lane.0);
    key[17..].copy_from_slice(&seq.to_be_bytes());
    key
}

fn parse_verdict_key(key: &[u8]) -> Option<(LaneId, u64)> {
    let (lane, seq) = key.get(1..)?.split_at_checked(16)?;
    Some((LaneId::from_slice(lane)?, u64::from_be_bytes(seq.try_into().ok()?)))
}

/// True for the records of lanes, which end with an incarnation.
pub fn is_of_a_lane(key: &[u8]) -> bool {
    [LANES, VERDICTS].iter().any(|(first, behind)| (*first..*behind).contains(&key))
}

/// The rows of the shard's table.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Counters and clocks.
    pub meta: Meta,
    /// Lanes.
    pub lanes: Lanes,
    /// Ids of requests that were applied.
    pub requests: RequestIds,
    /// Source positions.
    pub positions: Positions,
}

impl Loaded {
    /// Reads everything of a backend's shard table.
    pub fn read(backend: &dyn Backend) -> storage::Result<Self> {
        let (mut loaded, mut outcome) = (Self::default(), Ok(()));
        backend.scan(TableId::SHARD, b"", b"\xff", &mut |key, value| {
            outcome = loaded.row(key, value);
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        outcome.map(|()| loaded)
    }

    /// Reads one row of the shard's table.
    pub fn row(&mut self, key: &[u8], value: &[u8]) -> storage::Result<()> {
        let Self { meta, lanes, requests, positions } = self;
        let read = match key.first() {
            Some(b'l') => v1::LaneRecord::decode(value).ok().and_then(|record| lanes.load(&record)),
            Some(b'r') => {
                requests::parse(key, value).map(|(id, at_ms, verdicts)| requests.applied(id, at_ms, verdicts))
            }
            Some(b'v') => parse_verdict_key(key).map(|(lane, seq)| lanes.load_verdicts(lane, seq, value)),
            Some(b'c') => Meta::parse(value).map(|read| *meta = read),
            Some(&positions::PREFIX) => positions.load(key, value),
            _ => None,
        };
        read.ok_or_else(|| storage::Error::Corrupt {
            path: "shard table".into(),
            detail: format!("record {} is of a newer format or damaged", key.escape_ascii()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_that_become_one_go_on_from_the_furthest_counters_and_the_earliest_watermark() {
        let meta = |appends, clock_ms, watermark_ms| Meta {
            counters: Counters { appends, writes: 100 - appends },
            clock_ms,
            watermark_ms,
        };
        let merged = Meta::merge(&[meta(7, 50, Some(9)), meta(3, 60, Some(8))]);
        assert_eq!(merged, Meta { counters: Counters { appends: 8, writes: 98 }, ..meta(0, 60, Some(8)) });
        assert_eq!(Meta::merge(&[meta(7, 50, Some(9)), meta(3, 60, None)]).watermark_ms, None);
        assert_eq!(Meta::merge(&[meta(7, 50, Some(9))]), meta(7, 50, Some(9)));
        assert_eq!(Meta::merge(&[]), Meta::default());
    }

    #[test]
    fn records_of_lanes_are_told_from_the_others() {
        let lane = LaneId([255; 16]);
        assert!(is_of_a_lane(&lane_key(lane)) && is_of_a_lane(&verdict_key(lane, 1)));
        assert!(!is_of_a_lane(b"c") && !is_of_a_lane(b"r-request"));
    }
}
