//! States on a server: a worker of the SDK with its default cache.

use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use forebay_client::{
    Client, List, ListState, TimerState, Timers as DeclaredTimers, Value, ValueState, WorkerState,
    codec::{self, I64, U64},
};
use forebay_integration_tests::harness::{Forebay, JobBuilder, Setup};
use tokio::runtime::{Builder, Runtime};

use crate::{
    events::Event,
    queries::{self, Name, Results},
    states::{Keeper, Lists, States, Timer, Timers, Values},
};

const FIRST: Value<U64, codec::Bytes, I64> = Value::new("first");
const SECOND: Value<U64, codec::Bytes, I64> = Value::new("second");
const LISTS: List<U64, codec::Bytes> = List::new("lists");
const TIMERS: DeclaredTimers<U64, I64> = DeclaredTimers::new("timers");
/// As many as there are cores to serve them.
const SHARDS: u32 = 2;
const CHECKPOINTS: Duration = Duration::from_secs(10);
const POSITION: &str = "position";

/// Keeps states on a server.
pub struct Remote;

impl Keeper for Remote {
    type Values = ValueState<U64, codec::Bytes, I64>;
    type Lists = ListState<U64, codec::Bytes>;
    type Timers = TimerState<U64, I64>;
}

/// A running `forebay dev`.
pub struct Stand {
    process: Forebay,
    /// The SDK's, as `#[tokio::main]` gives it to users.
    runtime: Runtime,
}

impl Stand {
    pub fn start(setup: Setup) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let process = runtime.block_on(setup.start());
        Ok(Self { process, runtime })
    }

    pub fn process_id(&self) -> u32 {
        self.process.process().id()
    }

    /// Runs a query in a job of its own and returns how long it took until the server had acknowledged everything.
    pub fn run(&self, name: Name, job: &str, events: &[Event]) -> Result<(Duration, Results)> {
        self.runtime.block_on(async {
            let client = Client::connect(self.process.url()).await?;
            let spec = JobBuilder::leased(job, SHARDS).with(|spec| {
                let settings = spec.checkpoints.get_or_insert_default();
                settings.interval_ms = Some(CHECKPOINTS.as_millis() as u64);
            });
            client.create_job(spec.build()).await?;
            let worker = client.worker(job, "op").state(&FIRST).state(&SECOND).state(&LISTS).state(&TIMERS);
            let mut worker = worker.join().await?;
            let assigned = worker.assigned().await?;
            let states = States::<Remote> {
                first: assigned.open(&FIRST)?,
                second: assigned.open(&SECOND)?,
                lists: assigned.open(&LISTS)?,
                timers: assigned.open(&TIMERS)?,
            };
            let begun = Instant::now();
            let between =
                async |position: u64| Ok(worker.boundary(|| WorkerState::of::<U64, _>(POSITION, &position)).await?);
            let results = queries::run(name, &states, events, between).await?;
            worker.flush().await?;
            let took = begun.elapsed();
            worker.leave().await?;
            client.delete_job(job).await?;
            Ok((took, results))
        })
    }
}

impl Values for ValueState<U64, codec::Bytes, I64> {
    fn window(&self, window: i64) -> Result<Self> {
        Ok(self.namespace(&window)?)
    }

    async fn get(&self, key: u64) -> Result<Option<Bytes>> {
        Ok(self.value(&key).await?)
    }

    async fn put(&self, key: u64, value: &[u8]) -> Result<()> {
        Ok(self.update(&key, value).await?)
    }

    async fn clear(&self, key: u64) -> Result<()> {
        Ok(Self::clear(self, &key).await?)
    }

    async fn prefetch(&self, keys: &[u64]) -> Result<()> {
        Ok(Self::prefetch(self, keys).await?)
    }
}

impl Lists for ListState<U64, codec::Bytes> {
    async fn get(&self, key: u64) -> Result<Vec<Bytes>> {
        Ok(Self::get(self, &key).await?)
    }

    async fn add(&self, key: u64, element: &[u8]) -> Result<()> {
        Ok(Self::add(self, &key, element).await?)
    }

    async fn clear(&self, key: u64) -> Result<()> {
        Ok(Self::clear(self, &key).await?)
    }

    async fn prefetch(&self, keys: &[u64]) -> Result<()> {
        Ok(Self::prefetch(self, keys).await?)
    }
}

impl Timers for TimerState<U64, I64> {
    async fn register(&self, timer: Timer) -> Result<()> {
        Ok(Self::register(self, &timer.key, &timer.window, timer.time_ms).await?)
    }

    async fn delete(&self, timer: Timer) -> Result<()> {
        Ok(Self::delete(self, &timer.key, &timer.window, timer.time_ms).await?)
    }

    async fn due(&self, up_to_ms: i64, limit: usize) -> Result<Vec<Timer>> {
        let due = Self::due(self, up_to_ms, limit).await?;
        let timer = |timer: forebay_client::Timer<u64, i64>| Timer {
            time_ms: timer.timestamp,
            key: timer.key,
            window: timer.namespace,
        };
        Ok(due.into_iter().map(timer).collect())
    }
}
