//! RocksDB in this process: what a batch costs without anything between it and its user.

use std::time::Instant;

use anyhow::Result;
use forebay_integration_tests::bench::{data::Data, embedded::Embedded};

use crate::{load::Load, plan::Op};

const FILL_BATCH: u32 = 1024;

/// Puts every key with stamp 0.
pub fn fill(embedded: &Embedded, data: &Data) -> Result<()> {
    let rows = embedded.table()?;
    for first in (0..data.len()).step_by(FILL_BATCH as usize) {
        let keys = first..data.len().min(first + FILL_BATCH);
        let values: Vec<_> = keys.clone().map(|index| data.value(index, 0)).collect();
        rows.write(keys.map(|index| data.key(index)).zip(values.iter().map(|value| &value[..])))?;
    }
    Ok(())
}

/// Returns operations per second of one thread, in batches.
pub fn measure(embedded: &Embedded, op: Op, batch: usize, load: &mut Load<'_>) -> Result<f64> {
    let rows = embedded.table()?;
    let data = load.data;
    let ledger = load.books.of(op);
    let (started, mut done) = (Instant::now(), 0);
    while started.elapsed() < load.duration {
        let keys: Vec<_> = (0..batch).map(|_| load.random.below(data.len())).collect();
        let names = keys.iter().map(|index| data.key(*index));
        if op == Op::Get {
            let names: Vec<_> = names.collect();
            rows.multi_get(&names, |place, value| data.check(keys[place], value))?;
        } else {
            let values: Vec<_> = keys.iter().map(|index| data.value(*index, ledger.write(*index))).collect();
            rows.write(names.zip(values.iter().map(|value| &value[..])))?;
        }
        done += batch;
    }
    let rate = done as f64 / started.elapsed().as_secs_f64();
    for (index, _) in ledger.sample() {
        rows.get(data.key(index), |value| ledger.check(data, index, value))?;
    }
    Ok(rate)
}
