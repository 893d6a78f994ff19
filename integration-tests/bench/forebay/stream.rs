//! The stream: packed batches over one lane per shard, several in flight.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use forebay_integration_tests::bench::{
    data::{Data, Ledger},
    lanes::{Batch, Lanes},
};
use forebay_proto::v1::OpKind;
use futures::{StreamExt as _, future::Either, stream::FuturesUnordered};

use crate::{
    load::{APPENDS_MAX, Books, Load},
    plan::{IN_FLIGHT, Op},
};

/// Puts every key with stamp 0.
pub async fn fill(url: &str, job: &str, data: &Data) -> Result<()> {
    let lanes = Lanes::open(url, job).await?;
    lanes.fill(data).await?;
    lanes.close().await;
    Ok(())
}

/// Returns operations per second.
pub async fn measure(url: &str, job: &str, op: Op, batch: usize, load: &mut Load<'_>) -> Result<f64> {
    let lanes = Lanes::open(url, job).await?;
    let (data, ledger) = (load.data, load.books.of(op));
    let mut draw = || load.random.below(data.len());
    timed(&lanes, op, batch, load.duration / 10, data, ledger, &mut draw).await?;
    let started = Instant::now();
    let ops = timed(&lanes, op, batch, load.duration, data, ledger, &mut draw).await?;
    let rate = ops as f64 / started.elapsed().as_secs_f64();
    check(&lanes, op, load.data, load.books).await?;
    lanes.close().await;
    Ok(rate)
}

async fn timed(
    lanes: &Lanes,
    op: Op,
    batch: usize,
    duration: Duration,
    data: &Data,
    ledger: &mut Ledger,
    draw: &mut impl FnMut() -> u32,
) -> Result<u64> {
    let (started, mut drawn) = (Instant::now(), 0_u64);
    let mut next = || {
        // The clock is not asked for every operation of a large batch.
        let over = drawn.is_multiple_of(batch as u64)
            && (started.elapsed() >= duration || (op == Op::Append && drawn >= APPENDS_MAX));
        drawn += 1;
        let which = match op {
            Op::Mixed if drawn.is_multiple_of(2) => Op::Get,
            Op::Mixed => Op::Put,
            op => op,
        };
        (!over).then(|| (draw(), which))
    };
    pipeline(lanes, op, batch, data, &mut next, &mut |index| ledger.write(index)).await
}

/// Keeps batches in flight until there is no next key and returns how many operations were answered.
async fn pipeline(
    lanes: &Lanes,
    op: Op,
    batch: usize,
    data: &Data,
    next: &mut impl FnMut() -> Option<(u32, Op)>,
    stamp: &mut impl FnMut(u32) -> u64,
) -> Result<u64> {
    // A batch reads or writes; of a mix each shard has one of both in the making.
    let parts = if op == Op::Mixed { 2 } else { 1 };
    let mut filling: Vec<_> = (0..lanes.len() * parts).map(|_| Batch::new(batch)).collect();
    let mut flying = FuturesUnordered::new();
    let send = |shard, op, batch| match op {
        Op::Get => Either::Left(lanes.send_reads(shard, batch, data)),
        _ => Either::Right(lanes.send_writes(shard, batch)),
    };
    let mut sent = 0;
    while let Some((index, op)) = next() {
        let shard = lanes.shard(data.key(index))?;
        let part = if op == Op::Get { parts - 1 } else { 0 };
        let full = &mut filling[shard * parts + part];
        match op {
            Op::Get => lanes.read(full, OpKind::ValueGet, data, index),
            Op::Append => lanes.write(full, OpKind::ListAppend, data, index, stamp(index)),
            Op::Put | Op::Mixed => lanes.write(full, OpKind::ValuePut, data, index, stamp(index)),
        }
        if full.keys.len() == batch {
            if flying.len() == IN_FLIGHT {
                flying.next().await.context("batches are in flight")??;
            }
            let full = std::mem::replace(full, Batch::new(batch));
            sent += batch as u64;
            flying.push(send(shard, op, full));
        }
    }
    for (place, rest) in filling.into_iter().enumerate().filter(|(_, rest)| !rest.keys.is_empty()) {
        let op = if op == Op::Mixed && place % parts == 0 { Op::Put } else { op };
        let op = if op == Op::Mixed { Op::Get } else { op };
        sent += rest.keys.len() as u64;
        flying.push(send(place / parts, op, rest));
    }
    while let Some(done) = flying.next().await {
        done?;
    }
    Ok(sent)
}

/// Reads the sampled keys back.
async fn check(lanes: &Lanes, op: Op, data: &Data, books: &mut Books) -> Result<()> {
    let ledger = books.of(op);
    let kind = if op == Op::Append { OpKind::ListGet } else { OpKind::ValueGet };
    for (index, _) in ledger.sample() {
        let items = lanes.items(kind, data.key(index)).await?;
        let last = items.last().map(|item| &item[..]);
        match op {
            Op::Append => ledger.check_list(data, index, items.len() as u64, last)?,
            _ => ledger.check(data, index, last)?,
        }
    }
    Ok(())
}
