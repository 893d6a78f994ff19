//! RocksDB in this process: what a batch costs without anything between it and its user.

use std::time::Instant;

use anyhow::Result;
use forebay_integration_tests::bench::embedded::Embedded;

use crate::{load::Load, plan::Op};

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
