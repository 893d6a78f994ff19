//! redis-server: a process of its own for the bench, and the fastest client that is still an honest one.

mod connection;

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::Future,
    net::TcpListener,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use forebay_integration_tests::{
    bench::data::{Data, Ledger, Random},
    harness::Process,
};
use futures::future::try_join_all;
use tempfile::TempDir;
use tokio::{process::Command, runtime::Runtime};

use self::connection::{Connection, Reply};
use crate::{
    load::{APPENDS_MAX, Load},
    plan::{CALLERS, IN_FLIGHT, Op, Pace, UPDATES, Work},
};

/// Databases: values, lists, and the values of read-modify-write.
const VALUES: u32 = 0;
const LISTS: u32 = 1;
const UPDATED: u32 = 2;
const FILL_BATCH: usize = 1024;
const START_MAX: Duration = Duration::from_secs(10);

/// A running redis-server and what read-modify-write knows of it.
pub struct Redis {
    // First: it must end before its folder goes and its runtime stops.
    process: Process,
    _folder: TempDir,
    runtime: Runtime,
    port: u16,
    counts: Vec<u64>,
}

impl Redis {
    /// Starts one without snapshots, on a free port; `log` gives it an append-only file.
    pub fn start(log: bool) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("forebay-bench-redis-").tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""]);
        command.args(["--appendonly", if log { "yes" } else { "no" }, "--appendfsync", "everysec"]);
        // A rewrite in the background would take half of the machine from whoever is measured then.
        command.args(["--auto-aof-rewrite-percentage", "0"]);
        command.arg("--dir").arg(folder.path());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let process = runtime.block_on(async { Process::start(command, folder.path(), "redis") });
        let redis = Self { process, _folder: folder, runtime, port, counts: Vec::new() };
        redis.run(async {
            let until = Instant::now() + START_MAX;
            while Connection::open(port, VALUES).await.is_err() {
                ensure!(Instant::now() < until, "redis-server does not start:\n{}", redis.process.stdout());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Ok(())
        })?;
        Ok(redis)
    }

    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    fn run<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime.block_on(work)
    }

    /// Puts every key, and those of read-modify-write, with stamp 0.
    pub fn fill(&mut self, data: &Data) -> Result<()> {
        self.counts = vec![0; data.len() as usize / 10];
        let updated = self.counts.len() as u32;
        self.run(async {
            for (db, keys) in [(VALUES, data.len()), (UPDATED, updated)] {
                let mut connection = Connection::open(self.port, db).await?;
                for first in (0..keys).step_by(FILL_BATCH) {
                    let batch = first..keys.min(first + FILL_BATCH as u32);
                    for index in batch.clone() {
                        connection.command(&[b"SET", data.key(index), &data.value(index, 0)]);
                    }
                    connection.exchange(batch.len(), |_, reply| stored(&reply)).await?;
                }
            }
            Ok(())
        })
    }

    /// Removes all lists.
    pub fn empty_lists(&mut self) -> Result<()> {
        self.run(async {
            let mut connection = Connection::open(self.port, LISTS).await?;
            connection.command(&[b"FLUSHDB", b"SYNC"]);
            connection.exchange(1, |_, reply| stored(&reply)).await
        })
    }

    /// Returns operations (or records) per second.
    pub fn measure(&mut self, work: Work, load: &mut Load<'_>) -> Result<f64> {
        let mut counts = std::mem::take(&mut self.counts);
        let rate = self.run(async {
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
        let mut connection = Connection::open(self.port, db(op)).await?;
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
        let mut connections = try_join_all((0..CALLERS).map(|_| Connection::open(self.port, VALUES))).await?;
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
        let mut connection = Connection::open(self.port, UPDATED).await?;
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
                let (index, found) = (keys[place], if let Reply::Value(value) = reply { Some(value) } else { None });
                data.check_update(index, found, expected[index as usize])?;
                expected[index as usize] += 1;
                Ok(())
            };
            connection.exchange(keys.len(), checked).await?;
            for &index in keys {
                let value = load.data.value(index, counts[index as usize]);
                connection.command(&[b"SET", load.data.key(index), &value]);
            }
            connection.exchange(keys.len(), |_, reply| stored(&reply)).await?;
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
                    (Op::Get, Reply::Value(value)) => data.check(index, Some(value)),
                    (Op::Get, _) => data.check(index, None),
                    (_, reply) => stored(&reply),
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
        let found = if let Reply::Value(value) = reply { Some(value) } else { None };
        match op {
            Op::Append => ledger.check_list(data, sample[place], lens[place], found),
            _ => ledger.check(data, sample[place], found),
        }
    };
    connection.exchange(sample.len(), compared).await
}

fn stored(reply: &Reply<'_>) -> Result<()> {
    ensure!(matches!(reply, Reply::Done | Reply::Number(_)), "not stored");
    Ok(())
}
