//! State in a hash map within the process: what no store can beat, and nothing of it outlives the process.

use std::time::Instant;

use anyhow::{Context as _, Result};
use hashbrown::HashMap;

use crate::{Side, work::Work};

/// A loop with its own map.
pub struct Map {
    values: HashMap<Box<[u8]>, Box<[u8]>>,
    /// Stamp by key, which counts the writes.
    counts: Vec<u64>,
}

impl Map {
    /// Makes a map that holds every key with stamp 0.
    pub fn fill(work: &Work<'_>) -> Self {
        let pair = |index| (work.data.key(index).into(), work.data.value(index, 0).into());
        Self { values: (0..work.count).map(pair).collect(), counts: vec![0; work.count as usize] }
    }
}

impl Side for Map {
    fn measure(&mut self, work: &Work<'_>) -> Result<f64> {
        let begun = Instant::now();
        let Self { values, counts } = self;
        let records = work.each(begun, |index| {
            // Read, then written: two looks, as a state's two operations are.
            let (key, count) = (work.data.key(index), &mut counts[index as usize]);
            work.data.check_update(index, values.get(key).map(|value| &value[..]), *count)?;
            *count += 1;
            let value = values.get_mut(key).context("every key is there")?;
            value.copy_from_slice(&work.data.value(index, *count));
            Ok(())
        })?;
        Ok(records as f64 / begun.elapsed().as_secs_f64())
    }
}
