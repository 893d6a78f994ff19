//! What a seed chooses about its world.

use forebay_proto::v1;
use forebay_server::coordinator::{garbage, spec};

use super::rng::Rng;

/// Name of the job's operator.
pub const OPERATOR: &str = "op";
/// Name of the job.
pub const JOB: &str = "job";

/// The settings of a world.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Servers.
    pub servers: usize,
    /// Workers.
    pub workers: usize,
    /// Shards of the operator.
    pub shards: u32,
    /// Source partitions; one per shard unless any record may go anywhere.
    pub partitions: u32,
    /// True if any record may go to any shard; only with one worker.
    pub spread: bool,
    /// Records of a partition.
    pub records: u64,
    /// Keys of a partition.
    pub keys: u32,
    /// True if the worker has its write-back cache.
    pub cached: bool,
    /// Batches of a lane that may be in flight.
    pub window: u32,
    /// Operations of a flushed batch.
    pub batch_ops: usize,
    /// Longest time that the cache keeps a write back.
    pub write_delay_ms: u64,
    /// Usual time that a message travels.
    pub latency_us: i64,
    /// A worker's lease.
    pub lease_ms: u64,
    /// A server's lease.
    pub server_lease_ms: i64,
    /// Time after its lease that a server may stay away.
    pub return_wait_ms: i64,
    /// From one checkpoint to the next.
    pub interval_ms: u64,
    /// Longest time of a checkpoint.
    pub timeout_ms: u64,
    /// Mean time between two steps of a worker.
    pub step_us: i64,
    /// Most records of a step.
    pub burst: u64,
    /// Most time between two faults.
    pub fault_gap_us: i64,
    /// How long faults go on.
    pub faults_us: i64,
    /// Checkpoints at a time.
    pub max_concurrent: u32,
    /// Checkpoints that are kept.
    pub retained: u32,
    /// Failed checkpoints in a row that are tolerated.
    pub tolerable_failures: Option<u32>,
    /// When garbage is collected.
    pub garbage: garbage::Settings,
    /// True if positions are kept in the shards (`recovery: shard`).
    pub keeps_positions: bool,
}

impl Settings {
    /// Chooses the settings of a seed.
    pub fn choose(rng: &mut Rng, one_worker: bool) -> Self {
        let shards = rng.within(2..6).cast_unsigned() as u32;
        let workers = if one_worker { 1 } else { rng.within(1..4).cast_unsigned() as usize };
        let spread = workers == 1 && rng.one_in(2);
        let partitions = if spread { rng.within(1..4).cast_unsigned() as u32 } else { shards };
        let step_us = rng.pick(&[10_000, 25_000, 60_000]).unwrap_or(25_000);
        let burst: u64 = rng.pick(&[1, 4, 12]).unwrap_or(4);
        let faults_us = rng.within(3_000_000..15_000_000);
        // The input lasts about as long as the faults.
        let all = (faults_us / step_us).cast_unsigned() * burst.div_ceil(2) * workers as u64;
        let records = (all / u64::from(partitions)).clamp(40, 400);
        Self {
            servers: rng.within(1..4).cast_unsigned() as usize,
            workers,
            shards,
            partitions,
            spread,
            records,
            keys: rng.within(1..9).cast_unsigned() as u32,
            cached: rng.one_in(2),
            window: rng.pick(&[1, 3, 8, 64]).unwrap_or(64),
            batch_ops: rng.pick(&[1, 2, 5, 100]).unwrap_or(5),
            write_delay_ms: rng.pick(&[20, 100, 500]).unwrap_or(100),
            latency_us: rng.pick(&[500, 3_000, 15_000]).unwrap_or(500),
            // A worker that nobody is to replace has time to come back: its SDK waits up to two seconds.
            lease_ms: if one_worker { 6_000 } else { rng.pick(&[600, 1_000, 1_500]).unwrap_or(1_000) },
            server_lease_ms: rng.pick(&[600, 1_000, 1_500]).unwrap_or(1_000),
            return_wait_ms: rng.pick(&[500, 1_500, 3_000]).unwrap_or(1_500),
            interval_ms: rng.pick(&[60, 200, 500]).unwrap_or(200),
            timeout_ms: rng.pick(&[1_500, 4_000, 12_000]).unwrap_or(4_000),
            step_us,
            burst,
            fault_gap_us: rng.pick(&[300_000, 1_000_000, 3_000_000]).unwrap_or(800_000),
            faults_us,
            max_concurrent: rng.pick(&[1, 1, 2, 4]).unwrap_or(1),
            retained: rng.pick(&[1, 2, 3]).unwrap_or(3),
            tolerable_failures: if one_worker { None } else { rng.pick(&[None, None, Some(0), Some(2)]).flatten() },
            garbage: garbage::Settings {
                interval_ms: rng.pick(&[60, 250, 1_000]).unwrap_or(250),
                min_age_ms: rng.pick(&[0, 0, 300]).unwrap_or(0),
            },
            keeps_positions: rng.one_in(3),
        }
    }

    /// The job's specification, complete.
    pub fn spec(&self) -> v1::JobSpec {
        let operator = v1::Operator {
            name: OPERATOR.into(),
            access: v1::Access::Leased.into(),
            shards: self.shards,
            source: true,
        };
        let checkpoints = v1::CheckpointSettings {
            interval_ms: Some(self.interval_ms),
            timeout_ms: self.timeout_ms,
            max_concurrent: self.max_concurrent,
            retained: self.retained,
            tolerable_failures: self.tolerable_failures,
            ..Default::default()
        };
        let spec = v1::JobSpec {
            name: JOB.into(),
            operators: vec![operator],
            backend: v1::Backend::Memory.into(),
            checkpoints: Some(checkpoints),
            lease_ms: self.lease_ms,
            recovery: if self.keeps_positions { v1::Recovery::Shard } else { v1::Recovery::Job }.into(),
            ..Default::default()
        };
        let mut spec = spec::complete(spec).expect("the simulation's specification is right");
        // The disks are simulated, with a log that survives; the build may be without RocksDB.
        spec.set_backend(v1::Backend::Rocksdb);
        spec.set_durability(v1::Durability::Wal);
        spec
    }
}
