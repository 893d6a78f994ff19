//! What belongs to the shard as a whole: lanes, counters, clock. Kept in the table
//! [`TableId::SHARD`], written in the same batch as the rows that go with it.

use std::ops::ControlFlow;

use forebay_proto::v1;
use prost::Message as _;

use super::{
    lanes::{LaneId, Lanes},
    ops::Counters,
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

/// Reads everything of the shard's table.
pub fn load(
    backend: &dyn Backend,
    meta: &mut Meta,
    lanes: &mut Lanes,
    requests: &mut RequestIds,
) -> storage::Result<()> {
    let mut damaged = None;
    backend.scan(TableId::SHARD, b"", b"\xff", &mut |key, value| {
        let read = match key.first() {
            Some(b'l') => v1::LaneRecord::decode(value).ok().and_then(|record| lanes.load(&record)),
            Some(b'r') => {
                requests::parse(key, value).map(|(id, at_ms, verdicts)| requests.applied(id, at_ms, verdicts))
            }
            Some(b'v') => parse_verdict_key(key).map(|(lane, seq)| lanes.load_verdicts(lane, seq, value)),
            Some(b'c') => Meta::parse(value).map(|read| *meta = read),
            _ => None,
        };
        if read.is_none() {
            damaged = Some(format!("{}", key.escape_ascii()));
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    match damaged {
        None => Ok(()),
        Some(key) => Err(storage::Error::Corrupt {
            path: "shard table".into(),
            detail: format!("record {key} is of a newer format or damaged"),
        }),
    }
}
