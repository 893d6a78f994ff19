//! The sample worker of `recovery: shard` ([`partitions`](../../client/rust/examples/partitions.rs)) as a workload:
//! a log of partitions that grows, and what must be in the state at the end: every line once, in order.

use std::{fmt::Write as _, fs::OpenOptions, io::Write as _, path::Path, time::Duration};

use forebay_proto::{
    codec::{Codec as _, I64},
    v1,
};
use tempfile::TempDir;
use tokio::process::Command;

use crate::harness::{Api, JobBuilder, Process, binary, eventually};

/// Partitions of the log: key groups and shards of the job.
pub const PARTITIONS: u32 = 8;
/// Customers of a partition.
pub const CUSTOMERS: u64 = 7;
/// Name of the job.
pub const JOB: &str = "orders";

/// A log of partitions, a customer a line.
#[derive(Debug)]
pub struct Log {
    folder: TempDir,
    /// Lines of each partition.
    lines: u64,
}

impl Log {
    /// A log of so many lines in each partition.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn of(lines: u64) -> Self {
        let folder = tempfile::Builder::new().prefix("forebay-").tempdir().expect("a temporary folder can be made");
        let mut log = Self { folder, lines: 0 };
        log.grow(lines);
        log
    }

    /// Adds so many lines to each partition.
    ///
    /// # Panics
    /// If they cannot be written.
    pub fn grow(&mut self, lines: u64) {
        let mut text = String::new();
        for line in self.lines + 1..=self.lines + lines {
            writeln!(text, "customer-{}", line % CUSTOMERS).expect("text grows");
        }
        self.lines += lines;
        for partition in 0..PARTITIONS {
            let path = self.folder.path().join(format!("{partition}.log"));
            let file = OpenOptions::new().create(true).append(true).open(path);
            file.and_then(|mut file| file.write_all(text.as_bytes())).expect("the log can be written");
        }
    }

    /// Lines of all partitions.
    pub fn total(&self) -> u64 {
        u64::from(PARTITIONS) * self.lines
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Starts a worker that reads it.
    pub fn worker(&self, coordinators: &str, id: &str, lines_per_second: u32) -> Process {
        let mut command = Command::new(binary("examples/partitions"));
        command.args(["--server", coordinators, "--worker-id", id, "--throttle", &lines_per_second.to_string()]);
        command.arg("--log").arg(self.path());
        Process::start(command, self.path(), id)
    }

    /// Lines of each partition.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Waits until every line of every partition is counted, and checks that it was once and in order.
    ///
    /// # Panics
    /// If it was not.
    pub async fn is_exact(&self, servers: &[Api]) {
        reaches(servers, self.total()).await;
        self.check(servers).await.unwrap_or_else(|wrong| panic!("{wrong}"));
    }

    /// Checks that every line of every partition is counted, once and in order, and tells what is wrong.
    pub async fn check(&self, servers: &[Api]) -> Result<(), String> {
        let mut seen = vec![Vec::new(); (u64::from(PARTITIONS) * CUSTOMERS) as usize];
        for row in rows(servers, "orders").await {
            let customer = customer(&row)?;
            let line = row.value.unwrap_or_default().raw[..].try_into().map_err(|_| "an order is no line")?;
            seen[(u64::from(row.key_group) * CUSTOMERS + customer) as usize].push(u64::from_be_bytes(line));
        }
        for (index, lines) in (0..).zip(seen) {
            let customer = index % CUSTOMERS;
            let expected: Vec<_> = (1..=self.lines).filter(|line| line % CUSTOMERS == customer).collect();
            if lines != expected {
                let (partition, first) = (index / CUSTOMERS, lines.iter().zip(&expected).position(|(a, b)| a != b));
                let (found, wanted) = (lines.len(), expected.len());
                return Err(format!(
                    "customer {customer} of partition {partition}: {found} lines instead of {wanted}, wrong from {first:?} on"
                ));
            }
        }
        let counted = counted(servers).await;
        if counted == self.total() { Ok(()) } else { Err(format!("{counted} lines counted of {}", self.total())) }
    }
}

/// The number of a row's customer.
pub fn customer(row: &v1::ScanRow) -> Result<u64, String> {
    let key = row.key.as_ref().map_or(&b""[..], |key| &key.raw);
    let number = str::from_utf8(key).ok().and_then(|key| key.strip_prefix("customer-")?.parse().ok());
    number.filter(|number| *number < CUSTOMERS).ok_or_else(|| format!("a row of the strange key {key:?}"))
}

/// The job, with a lease short enough for a test to see it run out.
pub fn job(lease: Duration, backend: v1::Backend) -> v1::JobSpec {
    let spec = JobBuilder::leased(JOB, PARTITIONS).with(|spec| {
        spec.operators[0].name = "count".into();
        spec.max_parallelism = PARTITIONS;
        spec.lease_ms = lease.as_millis() as u64;
        spec.set_partitioner(v1::Partitioner::Explicit);
        spec.set_recovery(v1::Recovery::Shard);
        spec.set_backend(backend);
    });
    spec.build()
}

/// Lines that are in the shards, over all partitions.
pub async fn counted(servers: &[Api]) -> u64 {
    let rows = rows(servers, "counts").await;
    rows.into_iter().filter_map(|row| I64::decode(&row.value?.raw).ok()).map(i64::cast_unsigned).sum()
}

/// Waits until so many lines are in the shards.
pub async fn reaches(servers: &[Api], lines: u64) {
    let enough = || async { (counted(servers).await >= lines).then_some(()) };
    eventually(&format!("{lines} lines are counted"), enough).await;
}

/// The rows of a state. Each server has those of its own shards.
pub async fn rows(servers: &[Api], state: &str) -> Vec<v1::ScanRow> {
    let mut rows = Vec::new();
    for server in servers {
        rows.extend(server.scan(JOB, "count", state).await.unwrap_or_default());
    }
    rows
}
