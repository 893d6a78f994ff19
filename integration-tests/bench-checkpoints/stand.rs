//! A running Forebay with one job whose state is as large as a scene wants it.

use std::{
    collections::HashMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use forebay_integration_tests::harness::{Api, Forebay, JobBuilder, Setup, value};
use forebay_proto::v1;

use crate::load::{Loader, STATE, VALUE_BYTES};

pub const JOB: &str = "job";
/// Time within which files must have come to rest.
const SETTLE: Duration = Duration::from_secs(300);

/// One process `forebay dev` with one job.
pub struct Stand {
    pub forebay: Forebay,
    pub keys: u64,
}

impl Stand {
    /// Starts it and writes so many bytes of values, each key once.
    pub async fn start(setup: Setup, shards: u32, bytes: u64) -> Result<Self> {
        let forebay = setup.set("telemetry.log", "warn").start().await;
        create(&forebay.api(), shards, &[STATE.to_owned()]).await?;
        let stand = Self { forebay, keys: (bytes / VALUE_BYTES as u64).max(1) };
        stand.loader().await?.write(0..stand.keys).await?;
        Ok(stand)
    }

    pub fn api(&self) -> Api {
        self.forebay.api()
    }

    pub async fn loader(&self) -> Result<Loader> {
        Loader::open(&self.forebay.url(), JOB, &[STATE.to_owned()]).await
    }

    pub async fn checkpoint(&self) -> Result<v1::CompletedCheckpoint> {
        Ok(self.api().checkpoint(JOB).await?)
    }

    /// Waits until compactions are over: a checkpoint without a write has nothing new to upload.
    pub async fn settle(&self) -> Result<v1::CompletedCheckpoint> {
        let until = Instant::now() + SETTLE;
        loop {
            let checkpoint = self.checkpoint().await?;
            if checkpoint.new_bytes * 500 < checkpoint.full_bytes {
                return Ok(checkpoint);
            }
            ensure!(Instant::now() < until, "the files do not come to rest: {checkpoint:?}");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Takes the job to a checkpoint, and returns the seconds until all of it serves.
    pub async fn restore(&self, checkpoint: u64, shards: u32) -> Result<f64> {
        let shards = HashMap::from([("op".to_owned(), shards)]);
        let request = v1::RestoreJobRequest { job: JOB.into(), checkpoint, shards, ..Default::default() };
        let begun = Instant::now();
        self.api().coordinator().restore_job(request).await?;
        self.api().serving(JOB).await;
        Ok(begun.elapsed().as_secs_f64())
    }
}

/// Creates the job, with states of a name each.
pub async fn create(api: &Api, shards: u32, states: &[String]) -> Result<()> {
    let spec = JobBuilder::shared(JOB, shards).with(|spec| {
        let settings = spec.checkpoints.get_or_insert_default();
        settings.retained = 3;
    });
    api.create(spec.build()).await?;
    api.register(JOB, "op", states.iter().map(|state| value(state)).collect()).await?;
    api.serving(JOB).await;
    Ok(())
}

/// Bytes of all files below a directory.
pub fn bytes_below(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { bytes_below(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
