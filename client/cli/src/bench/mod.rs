//! `forebayctl bench`: raw operations on values, over the stream that workers use.
//!
//! Batches are sent as soon as others are answered, so that a slow answer holds up what would have come behind it: the
//! latencies are those of a loaded server, not of one that is asked at a fixed rate.

mod load;

use std::time::Duration;

use clap::{Args, ValueEnum};
use forebay_client::{Client, raw::StreamClient};
use forebay_proto::v1::{
    Access, CheckpointSettings, CreateJobRequest, DeleteJobRequest, JobSpec, Operator, RegisterStatesRequest,
    StateDescriptor, StateKind,
};
use hdrhistogram::Histogram;
use rand::{SeedableRng as _, rngs::StdRng};
use serde_json::{Value as Json, json};

use self::load::{Load, Measured, Until};
use crate::{
    connection::Connection,
    failure::Failure,
    job::{Backend, Durability},
    output::{Answer, columns, facts},
};

const OPERATOR: &str = "bench";
const STATE: &str = "values";
/// Where the order of the keys begins.
const SEED: u64 = 2_013;
const DURATION: Duration = Duration::from_secs(10);
/// What is told of a distribution, with its name in JSON.
const PERCENTILES: [(f64, &str); 5] =
    [(50.0, "p50_us"), (90.0, "p90_us"), (99.0, "p99_us"), (99.9, "p99_9_us"), (100.0, "max_us")];

/// A measurement. It makes a job of its own, which is deleted at the end.
#[derive(Debug, Args)]
pub struct Bench {
    /// What is done.
    #[arg(value_enum, default_value = "mixed")]
    work: Work,
    /// Number of keys; each is given a value before anything is measured, and drawn as often as any other.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// Bytes of a value, which do not compress; keys have 16.
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(..=1 << 20))]
    value_size: u32,
    /// Operations of a batch.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: u32,
    /// Batches on their way at a time.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    in_flight: u32,
    /// How long is measured [default: 10s].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, conflicts_with = "ops")]
    duration: Option<Duration>,
    /// How many operations are measured, instead of how long.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    ops: Option<u64>,
    /// Shards of the job [default: 2].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    shards: Option<u32>,
    /// Where the job's shards keep their bytes [default: rocksdb].
    #[arg(long)]
    backend: Option<Backend>,
    /// What acknowledged writes survive: nothing, the process, or loss of power [default: wal; memory: none].
    #[arg(long)]
    durability: Option<Durability>,
    /// Write to a value state of this job instead: keys from bench-0000000000 on, which stay there.
    #[arg(long, requires_all = ["operator", "state"], conflicts_with_all = ["shards", "backend", "durability"])]
    job: Option<String>,
    /// The operator of that job; a shared one.
    #[arg(long, requires = "job")]
    operator: Option<String>,
    /// The state of that operator.
    #[arg(long, requires = "job")]
    state: Option<String>,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Work {
    /// Reads.
    Get,
    /// Writes.
    Put,
    /// As many writes as reads.
    Mixed,
}

impl Bench {
    /// Measures.
    pub async fn run(self, connection: &Connection) -> Result<Answer, Failure> {
        if let (Some(job), Some(operator), Some(state)) = (&self.job, &self.operator, &self.state) {
            let measured = interruptible(self.measure(connection, job, operator, state)).await?;
            let mut answer = self.shown(job, &measured);
            answer.notes.push(format!("{} keys stay in state {state:?} of job {job:?}", self.keys));
            return Ok(answer);
        }
        let job = format!("forebayctl-bench-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
        let measured = interruptible(self.in_a_new_job(connection, &job)).await;
        // Whatever came of it, also if it is not known whether the job was made.
        let request = DeleteJobRequest { job: job.clone(), job_uid: String::new() };
        let deleted = connection.call(async |mut coordinator| coordinator.delete_job(request.clone()).await).await;
        let mut answer = self.shown(&job, &measured?);
        if let Err(failure) = deleted {
            answer.notes.push(format!("job {job} is left, for it could not be deleted: {failure}"));
        }
        Ok(answer)
    }

    async fn in_a_new_job(&self, connection: &Connection, job: &str) -> Result<Measured, Failure> {
        let request = CreateJobRequest { spec: Some(self.spec(job)), validate_only: false };
        connection.call(async |mut coordinator| coordinator.create_job(request.clone()).await).await?;
        let request = RegisterStatesRequest {
            job: job.to_owned(),
            operator: OPERATOR.to_owned(),
            descriptors: vec![StateDescriptor {
                name: STATE.to_owned(),
                kind: StateKind::Value.into(),
                key_codec: "utf8".to_owned(),
                namespace_codec: "utf8".to_owned(),
                value_codec: "bytes".to_owned(),
                ..StateDescriptor::default()
            }],
        };
        connection.call(async |mut coordinator| coordinator.register_states(request.clone()).await).await?;
        self.measure(connection, job, OPERATOR, STATE).await
    }

    fn spec(&self, job: &str) -> JobSpec {
        let shards = self.shards.unwrap_or(2);
        let operator = Operator { name: OPERATOR.to_owned(), access: Access::Shared.into(), shards, source: false };
        // A checkpoint in between would be measured, too.
        let checkpoints = CheckpointSettings { interval_ms: Some(0), ..CheckpointSettings::default() };
        let mut spec = JobSpec {
            name: job.to_owned(),
            operators: vec![operator],
            checkpoints: Some(checkpoints),
            ..JobSpec::default()
        };
        self.backend.into_iter().for_each(|backend| spec.set_backend(backend.wire()));
        self.durability.into_iter().for_each(|durability| spec.set_durability(durability.wire()));
        spec
    }

    async fn measure(
        &self,
        connection: &Connection,
        job: &str,
        operator: &str,
        state: &str,
    ) -> Result<Measured, Failure> {
        // Asked here first, for it says what is wrong with an address.
        connection.routing(job).await?;
        let stream = StreamClient::connect(&Client::lazy(connection.addresses())?, job).await?;
        let until = self.ops.map_or_else(|| Until::Time(self.duration.unwrap_or(DURATION)), Until::Ops);
        let mut load = Load {
            table: stream.table(operator)?,
            state: stream.state_id(operator, state)?,
            lanes: stream.lanes(operator).await?,
            keys: self.keys,
            value_bytes: self.value_size as usize,
            batch: self.batch as usize,
            in_flight: self.in_flight as usize,
            random: StdRng::seed_from_u64(SEED),
        };
        load.fill().await?;
        load.measure(self.work, until).await
    }

    fn shown(&self, job: &str, measured: &Measured) -> Answer {
        let seconds = measured.took.as_secs_f64();
        let ops = measured.gets.ops + measured.puts.ops;
        let text = facts([
            ("job", job.to_owned()),
            ("keys", format!("{}, values of {} bytes", self.keys, self.value_size)),
            ("batches", format!("{} operations, {} in flight", self.batch, self.in_flight)),
            ("measured", format!("{ops} operations in {seconds:.2} s")),
        ]);
        let mut rows = Vec::new();
        let mut results = Vec::new();
        for (name, part) in [("put", &measured.puts), ("get", &measured.gets)] {
            if part.ops > 0 {
                let rate = part.ops as f64 / seconds;
                let latencies = PERCENTILES.map(|(percentile, _)| micros(&part.latencies, percentile));
                let [p50, p90, p99, p999, max] = latencies.map(readable);
                rows.push([name.to_owned(), part.ops.to_string(), format!("{rate:.0}"), p50, p90, p99, p999, max]);
                let mut result = json!({ "op": name, "ops": part.ops, "ops_per_second": rate.round() });
                for ((_, name), latency) in PERCENTILES.iter().zip(latencies) {
                    result[name] = Json::from(latency);
                }
                results.push(result);
            }
        }
        let table = columns(["OP", "OPS", "OPS/S", "P50", "P90", "P99", "P99.9", "MAX"], rows);
        let json = json!({
            "job": job,
            "keys": self.keys,
            "value_bytes": self.value_size,
            "batch": self.batch,
            "in_flight": self.in_flight,
            "seconds": seconds,
            "ops": ops,
            "ops_per_second": (ops as f64 / seconds).round(),
            "results": results,
        });
        Answer::new(format!("{text}\n{table}"), json)
    }
}

/// Lets an interrupt end the work, but not what is to be done after it.
async fn interruptible<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => Err(Failure::Local("interrupted".to_owned())),
    }
}

fn micros(latencies: &Histogram<u64>, percentile: f64) -> f64 {
    (latencies.value_at_percentile(percentile) as f64 / 100.0).round() / 10.0
}

/// Shows a time, given in microseconds.
fn readable(micros: f64) -> String {
    match micros {
        micros if micros >= 1e6 => format!("{:.2}s", micros / 1e6),
        micros if micros >= 1e4 => format!("{:.1}ms", micros / 1e3),
        micros => format!("{micros:.0}µs"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        bench: Bench,
    }

    #[test]
    fn a_job_of_the_user_is_named_whole_or_not_at_all() {
        let parses = |words: &[&str]| Line::try_parse_from([&["x"], words].concat()).is_ok();
        for right in [&[][..], &["get"], &["put", "--ops", "9"], &["--job", "j", "--operator", "o", "--state", "s"]] {
            assert!(parses(right), "{right:?}");
        }
        for wrong in [
            &["--job", "j"][..],
            &["--state", "s"],
            &["--job", "j", "--operator", "o", "--state", "s", "--shards", "2"],
            &["--ops", "9", "--duration", "1s"],
            &["--keys", "0"],
            &["scan"],
        ] {
            assert!(!parses(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn its_own_job_takes_no_checkpoints_and_may_be_written_by_anyone() {
        let bench = Line::parse_from(["x", "--backend", "memory", "--shards", "4"]).bench;
        let spec = bench.spec("j");
        assert_eq!((spec.operators[0].access(), spec.operators[0].shards), (Access::Shared, 4));
        assert_eq!(spec.checkpoints.unwrap_or_default().interval_ms, Some(0));
    }

    #[test]
    fn times_are_readable() {
        assert_eq!([7.3, 9_999.0, 12_345.0, 2_500_000.0].map(readable), ["7µs", "9999µs", "12.3ms", "2.50s"]);
    }
}
