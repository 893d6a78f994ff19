//! Runs the sample worker as a process of its own beside a cluster, and compares what comes out.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, bail};
use forebay_proto::v1;
use rustix::process::Signal;
use tokio::process::Command;

use super::{OPERATOR, State, expected, stored};
use crate::harness::{Api, Process, binary};

/// Name of the job.
const JOB: &str = "flights";

/// The sample worker as a process.
#[derive(Debug)]
pub struct Worker {
    process: Process,
}

impl Worker {
    /// Ends it without notice and waits until it is gone.
    pub async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// Stops it where it stands.
    pub fn pause(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Waits until it has ended by itself.
    pub async fn finished(&mut self) -> Result<()> {
        let exit = self.process.ended().await;
        if exit.code == Some(0) { Ok(()) } else { bail!("the worker failed: {exit:#?}") }
    }

    /// What it has said.
    pub fn said(&self) -> String {
        self.process.stderr()
    }

    /// How many records it says it has processed.
    pub fn position(&self) -> u64 {
        let said = self.said();
        let last = said.lines().rev().find_map(|line| line.split_once('/')?.0.parse().ok());
        last.unwrap_or(0)
    }
}

/// A run of the sample worker over a file.
#[derive(Debug)]
pub struct FlightsRun {
    input: PathBuf,
    folder: PathBuf,
    coordinator: String,
    workers: usize,
    expected: State,
    /// Number of flights in the file.
    pub flights: u64,
}

impl FlightsRun {
    /// Prepares a run: creates the job, with checkpoints at this interval, and computes what is to come out.
    pub async fn prepare(
        coordinator: &str,
        input: &Path,
        folder: &Path,
        backend: v1::Backend,
        interval: Duration,
    ) -> Result<Self> {
        let (expected, flights) = expected(input)?;
        let spec = v1::JobSpec {
            name: JOB.into(),
            operators: vec![v1::Operator { name: OPERATOR.into(), shards: 8, source: true, ..Default::default() }],
            backend: backend.into(),
            lease_ms: 3_000,
            checkpoints: Some(v1::CheckpointSettings {
                interval_ms: Some(interval.as_millis() as u64),
                ..Default::default()
            }),
            ..Default::default()
        };
        Api::to(coordinator).create(spec).await?;
        let (input, folder) = (input.to_owned(), folder.to_owned());
        Ok(Self { input, folder, coordinator: coordinator.to_owned(), workers: 0, expected, flights })
    }

    /// Starts the worker; a later one takes the place of an earlier.
    pub fn worker(&mut self, records_per_second: u32) -> Worker {
        self.workers += 1;
        let mut command = Command::new(example("flights"));
        command.arg("--server").arg(&self.coordinator).arg("--input").arg(&self.input);
        command.arg("--throttle").arg(records_per_second.to_string());
        Worker { process: Process::start(command, &self.folder, &format!("worker-{}", self.workers)) }
    }

    /// Waits until a checkpoint later than this one is complete; `None` if the worker ended before.
    pub async fn checkpoint_after(&self, last: u64, worker: &Worker) -> Result<Option<u64>> {
        let patience = tokio::time::Instant::now() + Duration::from_secs(60);
        while tokio::time::Instant::now() < patience {
            let now = self.job().await.map_or(last, |job| job.last_checkpoint);
            if now > last {
                return Ok(Some(now));
            }
            if worker.said().contains("all records are in checkpoint") {
                return Ok(None);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("no checkpoint after {last} within a minute; the worker said:\n{}", worker.said())
    }

    /// The job as the coordinator describes it.
    pub async fn job(&self) -> Result<v1::JobInfo> {
        Ok(Api::to(&self.coordinator).describe(JOB).await?)
    }

    /// The checkpoints as the coordinator lists them.
    pub async fn checkpoints(&self) -> Result<v1::ListCheckpointsResponse> {
        Ok(Api::to(&self.coordinator).checkpoints(JOB).await?)
    }

    /// What must have come out.
    pub fn expected(&self) -> &State {
        &self.expected
    }

    /// What has come out, from these servers.
    pub async fn stored(&self, servers: &[Api]) -> Result<State> {
        stored(servers, JOB).await
    }
}

/// An example of the workspace beside the running binary.
fn example(name: &str) -> PathBuf {
    let folder = binary("forebay").parent().expect("a binary is in a folder").to_owned();
    let path = folder.join("examples").join(name);
    assert!(path.is_file(), "{} is not there: build the workspace first", path.display());
    path
}
