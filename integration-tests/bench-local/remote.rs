//! State on a server: a worker of the SDK.

use std::time::{Duration, Instant};

use anyhow::Result;
use forebay_client::{Client, Value, ValueState, Worker, WorkerState, codec::Bytes};
use forebay_integration_tests::harness::{Forebay, JobBuilder, Setup};
use futures::future;
use tokio::runtime::{Builder, Runtime};

use crate::{
    Side,
    delay::Delay,
    work::{CLOCK, Keys, Work},
};

/// As many as there are cores to serve them.
const SHARDS: u32 = 2;
const VALUES: Value<Bytes, Bytes> = Value::new("state");
const CHECKPOINTS: Duration = Duration::from_secs(10);
/// What the proxy adds in each direction.
const DELAY: Duration = Duration::from_micros(250);

/// A running `forebay dev`, near or behind a proxy that takes its time.
pub struct Stand {
    process: Forebay,
    url: String,
    /// The SDK's, as `#[tokio::main]` gives it to users.
    runtime: Runtime,
    _delay: Option<Delay>,
}

impl Stand {
    pub fn start(mut setup: Setup, far: bool) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let delay = if far { Some(Delay::new(DELAY)?) } else { None };
        if let Some(delay) = &delay {
            setup = setup.set("server.advertise", &delay.url());
        }
        let process = runtime.block_on(setup.start());
        let url = delay.as_ref().map_or_else(|| process.url(), Delay::url);
        if let Some(delay) = &delay {
            delay.to(process.port());
        }
        Ok(Self { process, url, runtime, _delay: delay })
    }

    pub fn process_id(&self) -> u32 {
        self.process.process().id()
    }
}

/// A worker with its state.
pub struct Remote<'a> {
    stand: &'a Stand,
    worker: Worker,
    values: ValueState<Bytes, Bytes>,
    /// Stamp by key, which counts the writes.
    counts: Vec<u64>,
}

impl<'a> Remote<'a> {
    /// Creates a job, joins as its only worker and puts every key with stamp 0.
    pub fn join(stand: &'a Stand, name: &str, work: &Work<'_>, cache_bytes: usize) -> Result<Self> {
        stand.runtime.block_on(async {
            let client = Client::connect(&stand.url).await?;
            let spec = JobBuilder::leased(name, SHARDS).with(|spec| {
                let settings = spec.checkpoints.get_or_insert_default();
                settings.interval_ms = Some(CHECKPOINTS.as_millis() as u64);
            });
            client.create_job(spec.build()).await?;
            let mut worker = client.worker(name, "op").state(&VALUES).cache_bytes_max(cache_bytes).join().await?;
            let values = worker.assigned().await?.open(&VALUES)?;
            for index in 0..work.count {
                worker.boundary(WorkerState::new).await?;
                values.update(work.data.key(index), &work.data.value(index, 0)[..]).await?;
            }
            worker.flush().await?;
            Ok(Self { stand, worker, values, counts: vec![0; work.count as usize] })
        })
    }

    /// One record after the other.
    async fn in_turn(&mut self, work: &Work<'_>) -> Result<usize> {
        let (begun, mut records) = (Instant::now(), 0);
        for keys in work.draws.chunks(CLOCK).cycle() {
            if begun.elapsed() >= work.duration {
                break;
            }
            for &index in keys {
                self.worker.boundary(WorkerState::new).await?;
                update(&self.values, &mut self.counts, work, index).await?;
            }
            records += keys.len();
        }
        Ok(records)
    }

    /// In micro-batches, each read while the one before is worked on.
    async fn ahead(&mut self, work: &Work<'_>) -> Result<usize> {
        let (begun, mut records) = (Instant::now(), 0);
        let mut batches = work.draws.chunks(work.keys.ahead()).cycle();
        let mut batch = batches.next().unwrap_or_default();
        while begun.elapsed() < work.duration {
            self.worker.boundary(WorkerState::new).await?;
            let next = batches.next().unwrap_or_default();
            let read = self.values.prefetch(next.iter().map(|index| work.data.key(*index)));
            let work_on = async {
                for &index in batch {
                    update(&self.values, &mut self.counts, work, index).await?;
                }
                anyhow::Ok(())
            };
            let (read, worked) = future::join(read, work_on).await;
            read?;
            worked?;
            records += batch.len();
            batch = next;
        }
        Ok(records)
    }
}

async fn update(values: &ValueState<Bytes, Bytes>, counts: &mut [u64], work: &Work<'_>, index: u32) -> Result<()> {
    let (key, count) = (work.data.key(index), &mut counts[index as usize]);
    let value = values.value(key).await?;
    work.data.check_update(index, value.as_deref(), *count)?;
    *count += 1;
    Ok(values.update(key, &work.data.value(index, *count)[..]).await?)
}

impl Side for Remote<'_> {
    /// The server has acknowledged all of them when the clock is stopped.
    fn measure(&mut self, work: &Work<'_>) -> Result<f64> {
        let stand = self.stand;
        stand.runtime.block_on(async {
            let begun = Instant::now();
            let records = match work.keys {
                Keys::Hot => self.in_turn(work).await?,
                Keys::Zipf | Keys::Cold => self.ahead(work).await?,
            };
            self.worker.flush().await?;
            Ok(records as f64 / begun.elapsed().as_secs_f64())
        })
    }
}
