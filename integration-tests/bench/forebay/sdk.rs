//! Read-modify-write by a worker of the SDK, as a user's loop does it.

use std::time::Instant;

use anyhow::Result;
use forebay_client::{Client, Value, ValueState, Worker, WorkerState, codec::Bytes};

use forebay_integration_tests::bench::{data::Data, lanes::STATE};

use crate::load::Load;

const VALUES: Value<Bytes, Bytes> = Value::new(STATE);
/// Records between two looks at the clock.
const CLOCK: usize = 16;

/// A worker with its state, and what every key of it must hold.
pub struct Updater {
    worker: Worker,
    values: ValueState<Bytes, Bytes>,
    /// Stamp by key, which counts the writes.
    counts: Vec<u64>,
}

impl Updater {
    /// Joins as the only worker of a job.
    pub async fn join(client: &Client, job: &str, cache_bytes_max: Option<usize>, keys: u32) -> Result<Self> {
        let mut builder = client.worker(job, "op").state(&VALUES);
        if let Some(bytes) = cache_bytes_max {
            builder = builder.cache_bytes_max(bytes);
        }
        let mut worker = builder.join().await?;
        let values = worker.assigned().await?.open(&VALUES)?;
        Ok(Self { worker, values, counts: vec![0; keys as usize] })
    }

    /// Puts every key with stamp 0.
    pub async fn fill(&mut self, data: &Data) -> Result<()> {
        for index in 0..self.counts.len() as u32 {
            self.values.update(data.key(index), &data.value(index, 0)[..]).await?;
        }
        Ok(self.worker.flush().await?)
    }

    /// Returns records per second. The server has acknowledged all of them when the clock is stopped.
    pub async fn measure(&mut self, load: &mut Load<'_>) -> Result<f64> {
        let order = load.random.order(self.counts.len() as u32);
        let (data, started, mut records) = (load.data, Instant::now(), 0);
        // The clock is not asked for every record.
        for keys in order.chunks(CLOCK).cycle() {
            if started.elapsed() >= load.duration {
                break;
            }
            for &index in keys {
                self.update(data, index).await?;
            }
            records += keys.len();
        }
        self.worker.flush().await?;
        Ok(records as f64 / started.elapsed().as_secs_f64())
    }
    async fn update(&mut self, data: &Data, index: u32) -> Result<()> {
        self.worker.boundary(WorkerState::new).await?;
        let (key, count) = (data.key(index), &mut self.counts[index as usize]);
        let value = self.values.value(key).await?;
        data.check_update(index, value.as_deref(), *count)?;
        *count += 1;
        self.values.update(key, &data.value(index, *count)[..]).await?;
        Ok(())
    }
}
