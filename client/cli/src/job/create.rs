//! `forebayctl job create`: from words to a job's spec. What is left out, the coordinator decides.

use std::{str::FromStr, time::Duration};

use clap::{Args, ValueEnum};
use forebay_proto::v1::{self, Access, CreateJobRequest, Operator};

use super::show;
use crate::{connection::Connection, failure::Failure, output::Answer};

/// A job to create.
#[derive(Debug, Args)]
pub struct Create {
    /// Name of the job.
    name: String,
    /// An operator; say it again for more. Without `shared` it is leased: only workers write to it; the shards of an
    /// `external` one another engine opens. Barriers go to the workers of sources, or to all if there is none.
    #[arg(long = "operator", value_name = "NAME[:shared|external][:shards=N][:source]", required = true)]
    operators: Vec<OperatorSpec>,
    /// Number of key groups, fixed for the job's life [default: 128].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=32_768))]
    max_parallelism: Option<u32>,
    /// Where shards keep their bytes [default: rocksdb].
    #[arg(long)]
    backend: Option<Backend>,
    /// What acknowledged writes survive: nothing, the process, or loss of power [default: wal; memory: none].
    #[arg(long)]
    durability: Option<Durability>,
    /// Time from checkpoint to checkpoint; 0s takes them only when asked [default: 1m].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    checkpoint_interval: Option<Duration>,
    /// Time after which a checkpoint is given up [default: 10m].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    checkpoint_timeout: Option<Duration>,
    /// Least time from the end of one checkpoint to the start of the next [default: 0s].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    checkpoint_min_pause: Option<Duration>,
    /// Checkpoints that may be on their way at a time [default: 1].
    #[arg(long, value_name = "N")]
    checkpoint_max_concurrent: Option<u32>,
    /// Failed checkpoints in a row that are tolerated; one more, and the job rewinds [default: any number].
    #[arg(long, value_name = "N")]
    checkpoint_tolerable_failures: Option<u32>,
    /// Completed checkpoints that are kept [default: 3].
    #[arg(long, value_name = "N")]
    checkpoint_retained: Option<u32>,
    /// What a failure may count twice: nothing, or records that a checkpoint's barriers let pass [default: exactly-once].
    #[arg(long)]
    checkpoint_mode: Option<Mode>,
    /// Barriers overtake records in flight, which then are in the checkpoint.
    #[arg(long)]
    checkpoint_unaligned: bool,
    /// Every n-th checkpoint uploads everything [default: none does].
    #[arg(long, value_name = "N")]
    checkpoint_full_every: Option<u32>,
    /// Delete the checkpoints with the job.
    #[arg(long)]
    checkpoint_delete_on_cancel: bool,
    /// How keys are mapped to key groups [default: murmur3].
    #[arg(long)]
    partitioner: Option<Partitioner>,
    /// What a failure takes back: the whole job to a checkpoint, or only shards that are lost, as they hold the
    /// positions of their sources themselves [default: job].
    #[arg(long)]
    recovery: Option<Recovery>,
}

/// Where shards keep their bytes.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Backend {
    /// On disk.
    Rocksdb,
    /// In memory.
    Memory,
}

/// What acknowledged writes survive.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Durability {
    /// Nothing.
    None,
    /// The end of the process.
    Wal,
    /// Loss of power.
    WalSync,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    ExactlyOnce,
    AtLeastOnce,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Partitioner {
    /// By a hash of the key.
    Murmur3,
    /// Every call names the key group.
    Explicit,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Recovery {
    /// The whole job.
    Job,
    /// Lost shards.
    Shard,
}

/// An operator as it is typed: `carts:shared:shards=4`.
#[derive(Debug, Clone, PartialEq)]
struct OperatorSpec(Operator);

impl FromStr for OperatorSpec {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        let mut parts = typed.split(':');
        let name = parts.next().unwrap_or_default().to_owned();
        let mut operator = Operator { name, ..Operator::default() };
        for part in parts {
            match part.split_once('=') {
                None if part == "shared" => operator.set_access(Access::Shared),
                None if part == "leased" => operator.set_access(Access::Leased),
                None if part == "external" => operator.set_access(Access::External),
                None if part == "source" => operator.source = true,
                Some(("shards", number)) => {
                    let parsed = number.parse().ok().filter(|shards| *shards > 0);
                    operator.shards = parsed.ok_or_else(|| format!("shards={number}: a number from 1 is needed"))?;
                }
                _ => return Err(format!("{part:?} is unknown: shared, leased, external, source or shards=N")),
            }
        }
        Ok(Self(operator))
    }
}

impl Backend {
    /// Returns it as the API names it.
    pub fn wire(self) -> v1::Backend {
        match self {
            Self::Rocksdb => v1::Backend::Rocksdb,
            Self::Memory => v1::Backend::Memory,
        }
    }
}

impl Durability {
    /// Returns it as the API names it.
    pub fn wire(self) -> v1::Durability {
        match self {
            Self::None => v1::Durability::None,
            Self::Wal => v1::Durability::Wal,
            Self::WalSync => v1::Durability::WalSync,
        }
    }
}

impl Mode {
    fn wire(self) -> v1::CheckpointMode {
        match self {
            Self::ExactlyOnce => v1::CheckpointMode::ExactlyOnce,
            Self::AtLeastOnce => v1::CheckpointMode::AtLeastOnce,
        }
    }
}

impl Create {
    /// Creates the job.
    pub async fn run(self, connection: &Connection) -> Result<Answer, Failure> {
        let request = CreateJobRequest { spec: Some(self.spec()), validate_only: false };
        let answer = connection.call(async |mut coordinator| coordinator.create_job(request.clone()).await).await?;
        let mut shown = show::description(&answer.job.unwrap_or_default(), &[]);
        shown.json["created"] = answer.created.into();
        if !answer.created {
            shown.notes.push("the job was there already, with the same settings".to_owned());
        }
        Ok(shown)
    }

    fn spec(self) -> v1::JobSpec {
        let mut spec = v1::JobSpec {
            name: self.name,
            max_parallelism: self.max_parallelism.unwrap_or_default(),
            operators: self.operators.into_iter().map(|operator| operator.0).collect(),
            ..v1::JobSpec::default()
        };
        self.backend.into_iter().for_each(|backend| spec.set_backend(backend.wire()));
        self.durability.into_iter().for_each(|durability| spec.set_durability(durability.wire()));
        match self.partitioner {
            Some(Partitioner::Murmur3) => spec.set_partitioner(v1::Partitioner::Murmur3),
            Some(Partitioner::Explicit) => spec.set_partitioner(v1::Partitioner::Explicit),
            None => {}
        }
        match self.recovery {
            Some(Recovery::Job) => spec.set_recovery(v1::Recovery::Job),
            Some(Recovery::Shard) => spec.set_recovery(v1::Recovery::Shard),
            None => {}
        }
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let settings = v1::CheckpointSettings {
            interval_ms: self.checkpoint_interval.map(ms),
            timeout_ms: self.checkpoint_timeout.map(ms).unwrap_or_default(),
            min_pause_ms: self.checkpoint_min_pause.map(ms).unwrap_or_default(),
            max_concurrent: self.checkpoint_max_concurrent.unwrap_or_default(),
            tolerable_failures: self.checkpoint_tolerable_failures,
            retained: self.checkpoint_retained.unwrap_or_default(),
            full_every: self.checkpoint_full_every.unwrap_or_default(),
            unaligned: self.checkpoint_unaligned,
            mode: self.checkpoint_mode.map_or(v1::CheckpointMode::Unspecified, Mode::wire).into(),
            delete_on_cancel: self.checkpoint_delete_on_cancel,
            ..v1::CheckpointSettings::default()
        };
        spec.checkpoints = (settings != v1::CheckpointSettings::default()).then_some(settings);
        spec
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        create: Create,
    }

    #[test]
    fn an_operator_is_read_with_its_settings() {
        let operator = "carts:shared:shards=4".parse::<OperatorSpec>().unwrap().0;
        assert_eq!((operator.name.as_str(), operator.access(), operator.shards), ("carts", Access::Shared, 4));
        let plain = "carts".parse::<OperatorSpec>().unwrap().0;
        assert_eq!((plain.access(), plain.shards, plain.source), (Access::Unspecified, 0, false));
        for typed in ["a:b", "a:shards", "a:shards=0", "a:shards=x", "a:"] {
            assert!(typed.parse::<OperatorSpec>().is_err(), "{typed}");
        }
    }

    #[test]
    fn what_is_not_said_is_left_to_the_coordinator() {
        let spec = Line::parse_from(["x", "j", "--operator", "o"]).create.spec();
        let operators = vec![Operator { name: "o".into(), ..Operator::default() }];
        assert_eq!(spec, v1::JobSpec { name: "j".into(), operators, ..v1::JobSpec::default() });
        let spec = Line::parse_from(["x", "j", "--operator", "o", "--checkpoint-interval", "1m 30s"]).create.spec();
        let checkpoints = spec.checkpoints.unwrap();
        assert_eq!((checkpoints.interval_ms, checkpoints.incremental), (Some(90_000), None));
        let words =
            ["x", "j", "--operator", "o", "--checkpoint-tolerable-failures", "0", "--checkpoint-delete-on-cancel"];
        let checkpoints = Line::parse_from(words).create.spec().checkpoints.unwrap();
        assert_eq!((checkpoints.tolerable_failures, checkpoints.delete_on_cancel), (Some(0), true));
        let words = ["x", "j", "--operator", "o:external", "--checkpoint-mode", "at-least-once"];
        let spec = Line::parse_from(words).create.spec();
        assert_eq!(spec.operators[0].access(), Access::External);
        assert_eq!(spec.checkpoints.unwrap().mode(), v1::CheckpointMode::AtLeastOnce);
        let words = ["x", "j", "--operator", "o", "--checkpoint-unaligned"];
        assert!(Line::parse_from(words).create.spec().checkpoints.unwrap().unaligned);
    }
}
