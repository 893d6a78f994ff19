//! redis-server, by pipelines.

use std::{
    cell::RefCell,
    collections::VecDeque,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use forebay_integration_tests::bench::{
    data::{Data, Ledger, Random},
    redis::{Connection, RedisServer, Reply},
};
use futures::future::try_join_all;

use crate::{
    load::{APPENDS_MAX, Load},
    plan::{CALLERS, IN_FLIGHT, Op, Pace, UPDATES, Work},
};

/// Databases: values, lists, and the values of read-modify-write.
const VALUES: u32 = 0;
const LISTS: u32 = 1;
const UPDATED: u32 = 2;

/// A running redis-server and what read-modify-write knows of it.
pub struct Redis {
    server: RedisServer,
    counts: Vec<u64>,
}

impl Redis {
    /// Starts one; `log` gives it an append-only file.
    pub fn start(log: bool) -> Result<Self> {
        Ok(Self { server: RedisServer::start(log)?, counts: Vec::new() })
    }

    pub fn process_id(&self) -> u32 {
        self.server.process_id()
    }

    /// Puts every key, and those of read-modify-write, with stamp 0.
    pub fn fill(&mut self, data: &Data) -> Result<()> {
        self.counts = vec![0; data.len() as usize / 10];
        self.server.fill(VALUES, data, data.len())?;
        self.server.fill(UPDATED, data, self.counts.len() as u32)
    }

    /// Removes all lists.
    pub fn empty_lists(&mut self) -> Result<()> {
        self.server.run(async {
            let mut connection = self.server.connect(LISTS).await?;
            connection.command(&[b"FLUSHDB", b"SYNC"]);
            connection.exchange(1, |_, reply| reply.stored()).await
        })
    }

    /// Returns operations (or records) per second.
    pub fn measure(&mut self, work: Work, load: &mut Load<'_>) -> Result<f64> {
        let mut counts = std::mem::take(&mut self.counts);
        let rate = self.server.run(async {
            match work {
                Work::Stream(op, batch) => self.stream(op, batch, load).await,
                Work::Unary(op) => self.unary(op, load).await,
                Work::Update(Pace::OneByOne) => self.update(1, load, &mut counts).await,
                Work::Update(Pace::Many) => self.update(UPDATES, load, &mut counts).await,
            }
        });
        self.counts = counts;
        rate
    }

    async fn stream(&self, op: Op, batch: usize, load: &mut Load<'_>) -> Result<f64> {
        let mut connection = self.server.connect(db(op)).await?;
        let (data, keys) = (load.data, load.data.len());
        let ledger = RefCell::new(load.books.of(op));
        let mut next = || load.random.below(keys);
        pipeline(&mut connection, op, batch, IN_FLIGHT, load.duration / 10, data, &ledger, &mut next).await?;
        let started = Instant::now();
        let ops = pipeline(&mut connection, op, batch, IN_FLIGHT, load.duration, data, &ledger, &mut next).await?;
        let rate = ops as f64 / started.elapsed().as_secs_f64();
        check(&mut connection, op, data, ledger.into_inner()).await?;
        Ok(rate)
    }

    async fn unary(&self, op: Op, load: &mut Load<'_>) -> Result<f64> {
        let mut connections = try_join_all((0..CALLERS).map(|_| self.server.connect(VALUES))).await?;
        let (data, duration, ledger) = (load.data, load.duration, RefCell::new(load.books.of(op)));
        let share = data.len() / CALLERS as u32;
        let started = Instant::now();
        let callers = connections.iter_mut().enumerate().map(|(caller, connection)| {
            let mut random = Random::new(load.random.draw());
            let ledger = &ledger;
            async move {
                // Each writes keys of its own, so that the last write of a key is known.
                let mut next = || random.below(share) * CALLERS as u32 + caller as u32;
                pipeline(connection, op, 1, 1, duration, data, ledger, &mut next).await
            }
        });
        let ops: u64 = try_join_all(callers).await?.into_iter().sum();
        let rate = ops as f64 / started.elapsed().as_secs_f64();
        check(&mut connections[0], op, data, ledger.into_inner()).await?;
        Ok(rate)
    }

    async fn update(&self, batch: usize, load: &mut Load<'_>, counts: &mut [u64]) -> Result<f64> {
        let mut connection = self.server.connect(UPDATED).await?;
        let order = load.random.order(counts.len() as u32);
        let (started, mut records) = (Instant::now(), 0);
        for keys in order.chunks(batch).cycle() {
            if started.elapsed() >= load.duration {
                break;
            }
            for &index in keys {
                connection.command(&[b"GET", load.data.key(index)]);
            }
            let (data, expected) = (load.data, &mut *counts);
            let checked = |place: usize, reply: Reply<'_>| {
                let (index, found) = (keys[place], reply.value());
                data.check_update(index, found, expected[index as usize])?;
                expected[index as usize] += 1;
                Ok(())
            };
            connection.exchange(keys.len(), checked).await?;
            for &index in keys {
                let value = load.data.value(index, counts[index as usize]);
                connection.command(&[b"SET", load.data.key(index), &value]);
            }
            connection.exchange(keys.len(), |_, reply| reply.stored()).await?;
            records += keys.len();
        }
        Ok(records as f64 / started.elapsed().as_secs_f64())
    }
}

fn db(op: Op) -> u32 {
    if op == Op::Append { LISTS } else { VALUES }
}

/// Keeps batches in flight until the time is over and returns how many operations were answered.
#[allow(clippy::too_many_arguments, reason = "a loop over everything a measurement consists of")]
async fn pipeline(
    connection: &mut Connection,
    op: Op,
    batch: usize,
    in_flight: usize,
    duration: Duration,
    data: &Data,
    ledger: &RefCell<&mut Ledger>,
    next: &mut impl FnMut() -> u32,
) -> Result<u64> {
    let (started, mut sent) = (Instant::now(), 0_u64);
    let mut waiting = VecDeque::with_capacity(batch * in_flight);
    loop {
        let over = started.elapsed() >= duration || (op == Op::Append && sent >= APPENDS_MAX);
        while !over && waiting.len() <= batch * (in_flight - 1) {
            for _ in 0..batch {
                let index = next();
                let (key, write) = (data.key(index), || data.value(index, ledger.borrow_mut().write(index)));
                let op = match op {
                    Op::Mixed if waiting.len() % 2 == 1 => Op::Get,
                    Op::Mixed => Op::Put,
                    op => op,
                };
                match op {
                    Op::Get => connection.command(&[b"GET", key]),
                    Op::Append => connection.command(&[b"RPUSH", key, &write()]),
                    _ => connection.command(&[b"SET", key, &write()]),
                }
                waiting.push_back((index, op));
            }
            sent += batch as u64;
        }
        if waiting.is_empty() {
            return Ok(sent);
        }
        connection.send().await?;
        connection
            .replies(|reply| {
                let (index, op) = waiting.pop_front().context("a reply to nothing")?;
                match (op, reply) {
                    (Op::Get, reply) => data.check(index, reply.value()),
                    (_, reply) => reply.stored(),
                }
            })
            .await?;
    }
}

/// Reads the sampled keys back.
async fn check(connection: &mut Connection, op: Op, data: &Data, ledger: &Ledger) -> Result<()> {
    let sample: Vec<_> = ledger.sample().map(|(index, _)| index).collect();
    let mut lens = vec![0; sample.len()];
    if op == Op::Append {
        for &index in &sample {
            connection.command(&[b"LLEN", data.key(index)]);
        }
        let counted = |place: usize, reply: Reply<'_>| {
            let Reply::Number(len) = reply else { bail!("no length") };
            lens[place] = len;
            Ok(())
        };
        connection.exchange(sample.len(), counted).await?;
    }
    for &index in &sample {
        match op {
            Op::Append => connection.command(&[b"LINDEX", data.key(index), b"-1"]),
            _ => connection.command(&[b"GET", data.key(index)]),
        }
    }
    let compared = |place: usize, reply: Reply<'_>| {
        let found = reply.value();
        match op {
            Op::Append => ledger.check_list(data, sample[place], lens[place], found),
            _ => ledger.check(data, sample[place], found),
        }
    };
    connection.exchange(sample.len(), compared).await
}
