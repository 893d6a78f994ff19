//! Forebay's packed stream as a client.

use std::{collections::HashMap, ops::Range, pin::Pin};

use anyhow::{Context as _, Result};
use forebay_integration_tests::{
    bench::{
        data::{Data, Ledger, Random},
        lanes::{Batch, Lanes, STATE},
    },
    harness::{Forebay, Job, JobBuilder, Setup, value},
};
use forebay_proto::v1::OpKind;
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::runtime::{Builder, Runtime};

use crate::{
    draw,
    pace::{Client, Measured, Pace},
};

/// As many as there are cores to serve them.
const SHARDS: u32 = 2;

/// A running `forebay dev` with a job per backend.
pub struct Server {
    // Before its runtime.
    process: Forebay,
    runtime: Runtime,
}

impl Server {
    /// Starts it, and puts every key into a job of each name.
    pub fn start(setup: Setup, data: &Data, jobs: &[&str]) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let process = runtime.block_on(setup.start());
        let server = Self { process, runtime };
        for job in jobs {
            let builder = JobBuilder::shared(job, SHARDS);
            let builder = if *job == "memory" { builder.in_memory() } else { builder };
            server.runtime.block_on(async {
                Job::create(&server.process.api(), builder.build(), &[value(STATE)]).await;
                let lanes = Lanes::open(&server.process.url(), job).await?;
                lanes.fill(data).await?;
                lanes.close().await;
                anyhow::Ok(())
            })?;
        }
        Ok(server)
    }

    pub fn process_id(&self) -> u32 {
        self.process.process().id()
    }

    /// Measures a job at a pace, on a thread and a connection of its own.
    pub fn measure(
        &self,
        job: &str,
        pace: Pace,
        data: &Data,
        ledger: &mut Ledger,
        random: &mut Random,
    ) -> Result<Measured> {
        Builder::new_current_thread().enable_all().build()?.block_on(async {
            let lanes = Lanes::open(&self.process.url(), job).await?;
            let mut stream = Stream {
                lanes: &lanes,
                data,
                ledger,
                random,
                flying: FuturesUnordered::new(),
                windows: HashMap::new(),
                next_window: 0,
            };
            let measured = pace.run(&mut stream).await?;
            drop(stream);
            for (index, _) in ledger.sample() {
                let items = lanes.items(OpKind::ValueGet, data.key(index)).await?;
                ledger.check(data, index, items.first().map(|item| &item[..]))?;
            }
            lanes.close().await;
            Ok(measured)
        })
    }
}

/// A batch on its way: its window, and the numbers of its operations once they are answered.
type Flying<'a> = Pin<Box<dyn Future<Output = Result<(u64, Vec<u64>)>> + 'a>>;

struct Stream<'a> {
    lanes: &'a Lanes,
    data: &'a Data,
    ledger: &'a mut Ledger,
    random: &'a mut Random,
    flying: FuturesUnordered<Flying<'a>>,
    /// Batches that are not answered, by window.
    windows: HashMap<u64, usize>,
    next_window: u64,
}

impl Client for Stream<'_> {
    /// A batch per shard of the writes, and one of the reads.
    async fn send(&mut self, numbers: Range<u64>) -> Result<()> {
        let room = (numbers.end - numbers.start) as usize;
        let mut filling: Vec<Option<(Batch, Vec<u64>)>> = (0..2 * self.lanes.len()).map(|_| None).collect();
        for number in numbers {
            let (index, reads) = draw(number, self.data, self.random);
            let shard = self.lanes.shard(self.data.key(index))?;
            let slot = &mut filling[2 * shard + usize::from(reads)];
            let (batch, of_batch) = slot.get_or_insert_with(|| (Batch::new(room), Vec::new()));
            if reads {
                self.lanes.read(batch, OpKind::ValueGet, self.data, index);
            } else {
                self.lanes.write(batch, OpKind::ValuePut, self.data, index, self.ledger.write(index));
            }
            of_batch.push(number);
        }
        let (window, data) = (self.next_window, self.data);
        self.next_window += 1;
        for (place, (batch, numbers)) in filling.into_iter().enumerate().filter_map(|(at, it)| Some((at, it?))) {
            *self.windows.entry(window).or_default() += 1;
            let sent: Flying<'_> = if place % 2 == 1 {
                let answered = self.lanes.send_reads(place / 2, batch, data);
                Box::pin(async move { answered.await.map(|()| (window, numbers)) })
            } else {
                let answered = self.lanes.send_writes(place / 2, batch);
                Box::pin(async move { answered.await.map(|()| (window, numbers)) })
            };
            self.flying.push(sent);
        }
        Ok(())
    }

    async fn answers(&mut self, answered: impl FnMut(u64)) -> Result<()> {
        let (window, numbers) = self.flying.next().await.context("batches are in flight")??;
        numbers.into_iter().for_each(answered);
        let left = self.windows.get_mut(&window).context("a window of the batch")?;
        *left -= 1;
        if *left == 0 {
            self.windows.remove(&window);
        }
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.windows.len()
    }
}
