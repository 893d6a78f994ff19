//! The sample worker of `recovery: shard` ([`partitions`](../../../client/rust/examples/partitions.rs)) as a workload:
//! a log of partitions that grows, and what must be in the state at the end: every line once, in order.

pub mod chaos;

use std::{fmt::Write as _, fs::OpenOptions, io::Write as _, path::Path, time::Duration};

use forebay_proto::v1;
use tempfile::TempDir;
use tokio::process::Command;

use crate::harness::{Api, JobBuilder, Process, binary, eventually};

/// Partitions of the log: key groups and shards of the job.
pub const PARTITIONS: u32 = 8;
/// Customers of a partition.
const CUSTOMERS: u64 = 7;
/// Name of the job.
const JOB: &str = "orders";

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

    /// Waits until every line of every partition is counted, and checks that it was once and in order.
    ///
    /// # Panics
    /// If it was not.
    pub async fn is_exact(&self, servers: &[Api]) {
        reaches(servers, self.total()).await;
        let mut seen = vec![Vec::new(); (u64::from(PARTITIONS) * CUSTOMERS) as usize];
        for row in rows(servers, "orders").await {
            let customer = String::from_utf8_lossy(&row.key.unwrap_or_default().raw).into_owned();
            let number = customer.strip_prefix("customer-").and_then(|number| number.parse::<u64>().ok());
            let line = row.value.unwrap_or_default().raw[..].try_into().map(u64::from_be_bytes);
            let (Some(number), Ok(line)) = (number, line) else { panic!("a strange row of {customer:?}") };
            seen[(u64::from(row.key_group) * CUSTOMERS + number) as usize].push(line);
        }
        for (index, lines) in (0..).zip(seen) {
            let customer = index % CUSTOMERS;
            let expected: Vec<_> = (1..=self.lines).filter(|line| line % CUSTOMERS == customer).collect();
            assert!(lines == expected, "customer {customer} of partition {} has other lines", index / CUSTOMERS);
        }
        assert_eq!(counted(servers).await, self.total());
    }
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
    let count = |row: v1::ScanRow| row.value.unwrap_or_default().raw[..].try_into().map(u64::from_be_bytes);
    // Signed numbers are stored in their order: the sign is turned round.
    rows.into_iter().filter_map(|row| count(row).ok()).map(|count| count ^ (1 << 63)).sum()
}

/// Waits until so many lines are in the shards.
pub async fn reaches(servers: &[Api], lines: u64) {
    let enough = || async { (counted(servers).await >= lines).then_some(()) };
    eventually(&format!("{lines} lines are counted"), enough).await;
}

/// The rows of a state. Each server has those of its own shards.
async fn rows(servers: &[Api], state: &str) -> Vec<v1::ScanRow> {
    let mut rows = Vec::new();
    for server in servers {
        rows.extend(server.scan(JOB, "count", state).await.unwrap_or_default());
    }
    rows
}
