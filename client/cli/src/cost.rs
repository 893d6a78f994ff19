//! `forebayctl cost`: what a job's checkpoints take of the object store, from those that completed.

use clap::Args;
use forebay_proto::v1::{CompletedCheckpoint, DescribeJobRequest, JobSpec, ListCheckpointsRequest};
use serde_json::json;

use crate::{
    connection::Connection,
    failure::Failure,
    output::{Answer, bytes, duration, facts},
};

/// 30 days.
const MONTH_MS: u64 = 30 * 24 * 3600 * 1000;

/// What a job's checkpoints cost.
#[derive(Debug, Args)]
pub struct Cost {
    /// The job.
    job: String,
}

/// What is expected of a month.
#[derive(Debug, PartialEq)]
struct Estimate {
    /// Checkpoints that it is made from.
    samples: u64,
    interval_ms: u64,
    checkpoints: u64,
    puts_each: f64,
    puts: u64,
    uploaded_each: u64,
    uploaded: u64,
    stored: u64,
}

impl Cost {
    /// Estimates.
    pub async fn run(self, connection: &Connection) -> Result<Answer, Failure> {
        let job = DescribeJobRequest { job: self.job.clone() };
        let job = connection.call(async |mut coordinator| coordinator.describe_job(job.clone()).await).await?;
        let spec = job.job.and_then(|job| job.spec).unwrap_or_default();
        let list = ListCheckpointsRequest { job: self.job };
        let found = connection.call(async |mut coordinator| coordinator.list_checkpoints(list.clone()).await).await?;
        Ok(shown(&estimate(&spec, &found.completed)))
    }
}

fn estimate(spec: &JobSpec, completed: &[CompletedCheckpoint]) -> Option<Estimate> {
    // What was brought in from elsewhere was not written by this job; a savepoint is not taken every time.
    let own = completed.iter().filter(|it| it.location.is_empty() && !it.savepoint).collect::<Vec<_>>();
    // The first one uploads everything, which the others do not: it counts only if it is all there is.
    let usual: Vec<_> = own.iter().filter(|it| it.new_bytes < it.full_bytes || it.full_bytes == 0).copied().collect();
    let samples = if usual.is_empty() { own.clone() } else { usual };
    let count = samples.len() as u64;
    let last = own.last()?;
    let interval_ms =
        spec.checkpoints.map(|settings| settings.interval_ms()).filter(|ms| *ms > 0).or_else(|| measured(&own))?;
    let checkpoints = MONTH_MS / interval_ms.max(1);
    let puts_each = samples.iter().map(|it| it.puts).sum::<u64>() as f64 / count as f64;
    let uploaded_each = samples.iter().map(|it| it.new_bytes).sum::<u64>() / count;
    // Each retained checkpoint holds on to what later ones have replaced.
    let stored = last.full_bytes + own.iter().skip(1).map(|it| it.new_bytes).sum::<u64>();
    Some(Estimate {
        samples: count,
        interval_ms,
        checkpoints,
        puts_each,
        puts: (puts_each * checkpoints as f64).round() as u64,
        uploaded_each,
        uploaded: uploaded_each.saturating_mul(checkpoints),
        stored,
    })
}

/// The time between checkpoints that are taken only when asked for.
fn measured(own: &[&CompletedCheckpoint]) -> Option<u64> {
    let (first, last) = (own.first()?, own.last()?);
    let gaps = own.len().checked_sub(1).filter(|gaps| *gaps > 0)? as u64;
    u64::try_from(last.triggered_ms - first.triggered_ms).ok().map(|ms| ms / gaps).filter(|ms| *ms > 0)
}

fn shown(estimate: &Option<Estimate>) -> Answer {
    let Some(of) = estimate else {
        let mut answer = Answer::new(String::new(), json!(null));
        let note =
            "nothing to estimate from: there is no completed checkpoint, or neither an interval nor two checkpoints";
        answer.notes.push(note.to_owned());
        return answer;
    };
    let text = facts([
        ("checkpoints", format!("{} a month", of.checkpoints)),
        ("requests", format!("{} a month", of.puts)),
        ("uploaded", format!("{} a month", bytes(of.uploaded))),
        ("stored", bytes(of.stored)),
        ("assumed interval", duration(of.interval_ms)),
        ("assumed requests", format!("{:.1} a checkpoint, the mean of {}", of.puts_each, of.samples)),
        ("assumed upload", format!("{} a checkpoint, the mean of {}", bytes(of.uploaded_each), of.samples)),
        ("assumed month", "30 days".to_owned()),
    ]);
    let json = json!({
        "checkpoints_per_month": of.checkpoints,
        "requests_per_month": of.puts,
        "uploaded_bytes_per_month": of.uploaded,
        "stored_bytes": of.stored,
        "assumed": {
            "interval_ms": of.interval_ms,
            "requests_per_checkpoint": of.puts_each,
            "uploaded_bytes_per_checkpoint": of.uploaded_each,
            "samples": of.samples,
            "month_ms": MONTH_MS,
        },
    });
    let mut answer = Answer::new(text, json);
    answer.notes.push("requests are those that write; lists, reads and deletes of collections come on top".to_owned());
    answer
}

#[cfg(test)]
mod tests {
    use forebay_proto::v1::{CheckpointSettings, Operator};

    use super::*;

    fn completed(id: u64, puts: u64, new_bytes: u64) -> CompletedCheckpoint {
        let triggered_ms = id as i64 * 1000;
        CompletedCheckpoint { id, puts, new_bytes, full_bytes: 1000, triggered_ms, ..Default::default() }
    }

    fn spec(interval_ms: u64) -> JobSpec {
        let checkpoints = Some(CheckpointSettings { interval_ms: Some(interval_ms), ..Default::default() });
        JobSpec { checkpoints, operators: vec![Operator::default()], ..Default::default() }
    }

    #[test]
    fn a_month_is_estimated_from_incremental_checkpoints() {
        let found = [completed(1, 50, 1000), completed(2, 4, 100), completed(3, 6, 200)];
        let of = estimate(&spec(60_000), &found).unwrap();
        assert_eq!((of.samples, of.checkpoints, of.puts_each), (2, 43_200, 5.0));
        assert_eq!((of.puts, of.uploaded, of.stored), (216_000, 43_200 * 150, 1_300));
    }

    #[test]
    fn full_checkpoints_count_where_there_are_no_others() {
        let of = estimate(&spec(60_000), &[completed(1, 50, 1000)]).unwrap();
        assert_eq!((of.samples, of.puts_each, of.stored), (1, 50.0, 1000));
    }

    #[test]
    fn without_an_interval_the_time_between_checkpoints_counts() {
        let found = [completed(1, 1, 1), completed(2, 1, 1), completed(5, 1, 1)];
        assert_eq!(estimate(&spec(0), &found).unwrap().interval_ms, 2_000);
        assert_eq!(estimate(&spec(0), &found[..1]), None);
        assert_eq!(estimate(&spec(60_000), &[]), None);
    }
}
