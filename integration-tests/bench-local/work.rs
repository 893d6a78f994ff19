//! What is done: which keys come, how many, and how large the caches are.

use std::time::{Duration, Instant};

use anyhow::Result;
use forebay_integration_tests::bench::{
    data::{Data, KEY_BYTES, Random, VALUE_BYTES},
    rows::NO_TARGET,
};

/// Draws that are prepared, so that drawing costs the measurement nothing.
const DRAWS: usize = 1 << 21;
/// Records between two looks at the clock.
pub const CLOCK: usize = 16;
/// What an entry of the SDK's cache takes beside key and value (`cache.rs`): bookkeeping, and the address's head.
const ENTRY_BYTES: usize = 192 + 8;
/// The exponent of YCSB's zipfian workloads.
const ZIPF: f64 = 0.99;

/// Which keys come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// A tenth of all keys, all alike; all fit into the cache.
    Hot,
    /// All keys, some much more often than others; the cache holds a tenth.
    Zipf,
    /// All keys alike; the cache holds a tenth.
    Cold,
}

type Comparison = (&'static str, &'static str, &'static str, &'static str);

impl Keys {
    pub const ALL: [Self; 3] = [Self::Hot, Self::Zipf, Self::Cold];

    pub fn name(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Zipf => "zipf",
            Self::Cold => "cold",
        }
    }

    /// Keys that are read ahead while as many are worked on: a micro-batch.
    pub fn ahead(self) -> usize {
        if self == Self::Cold { 256 } else { 1024 }
    }

    /// Rows: id, our side, the peer's, and the target.
    pub fn comparisons(self) -> &'static [Comparison] {
        match self {
            Self::Hot => &[
                ("sdk_hot_vs_embedded", "remote", "embedded", "≥ 10"),
                ("sdk_hot_vs_embedded_cached", "remote", "twin", "≥ 0.8"),
                ("sdk_hot_rtt500us", "far", "embedded", "≥ 10"),
                ("sdk_hot_vs_uncached", "remote", "uncached", "≥ 50"),
                ("sdk_hot_vs_map", "remote", "map", NO_TARGET),
            ],
            Self::Zipf => &[
                ("sdk_zipf_vs_embedded", "remote", "embedded", "≥ 2"),
                ("sdk_zipf_rtt500us", "far", "embedded", "≥ 1.5"),
                ("sdk_zipf_vs_map", "remote", "map", NO_TARGET),
            ],
            Self::Cold => &[
                ("sdk_cold_vs_embedded", "remote", "embedded", "≥ 1"),
                ("sdk_cold_rtt500us", "far", "embedded", "≥ 0.7"),
                ("sdk_cold_vs_map", "remote", "map", NO_TARGET),
            ],
        }
    }
}

/// A scene's work.
pub struct Work<'a> {
    pub data: &'a Data,
    pub keys: Keys,
    /// Number of keys that may come.
    pub count: u32,
    /// Keys in the order in which they come.
    pub draws: Vec<u32>,
    /// How long one side is measured.
    pub duration: Duration,
}

impl<'a> Work<'a> {
    pub fn new(keys: Keys, data: &'a Data, random: &mut Random, duration: Duration) -> Self {
        let count = if keys == Keys::Hot { data.len() / 10 } else { data.len() };
        let draws = match keys {
            Keys::Zipf => zipf(count, random),
            // Never the same order twice: memory would come to lie in it.
            Keys::Hot | Keys::Cold => (0..DRAWS).map(|_| random.below(count)).collect(),
        };
        Self { data, keys, count, draws, duration }
    }

    /// Does all records that come within the time of the measurement; returns how many they were.
    pub fn each(&self, begun: Instant, mut record: impl FnMut(u32) -> Result<()>) -> Result<usize> {
        let mut records = 0;
        for keys in self.draws.chunks(CLOCK).cycle() {
            if begun.elapsed() >= self.duration {
                break;
            }
            keys.iter().try_for_each(|index| record(*index))?;
            records += keys.len();
        }
        Ok(records)
    }

    /// Bytes of the SDK's cache: all keys of the hot scene fit, and one in ten of the others.
    pub fn cache_bytes(&self) -> usize {
        let share = if self.keys == Keys::Hot { 2.0 } else { 0.1 };
        (f64::from(self.count) * (ENTRY_BYTES + KEY_BYTES + VALUE_BYTES) as f64 * share) as usize
    }
}

/// Draws by Zipf's law, by bisection of the sums of its weights. Ranks are numbers of keys, which are in no order.
fn zipf(count: u32, random: &mut Random) -> Vec<u32> {
    let mut sum = 0.0;
    let mut sums = Vec::with_capacity(count as usize);
    for rank in 1..=count {
        sum += f64::from(rank).powf(-ZIPF);
        sums.push(sum);
    }
    let mut draw = || {
        let at = (random.draw() >> 11) as f64 / (1_u64 << 53) as f64 * sum;
        (sums.partition_point(|below| *below <= at) as u32).min(count - 1)
    };
    (0..DRAWS).map(|_| draw()).collect()
}
