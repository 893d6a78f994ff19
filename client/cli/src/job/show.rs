//! How a job is shown.

use forebay_proto::v1::{Access, JobInfo, JobSpec, Operator, RegisteredState, ShardInfo, ShardStatus, WorkerInfo};
use serde_json::{Value as Json, json};

use crate::output::{Answer, columns, duration, facts, moment, plain};
use crate::state::descriptor::{state_json, states_table};

/// Returns the table of jobs.
pub fn jobs_table(jobs: &[JobInfo]) -> String {
    let row = |job: &JobInfo| {
        let spec = job.spec.clone().unwrap_or_default();
        [
            spec.name.clone(),
            spec.operators.iter().map(|operator| operator.name.as_str()).collect::<Vec<_>>().join(","),
            backend(&spec),
            serving(job),
            job.workers.iter().filter(|worker| worker.connected).count().to_string(),
            job.generation.to_string(),
            checkpoint(job.last_checkpoint),
            moment(job.created_ms),
        ]
    };
    let heads = ["NAME", "OPERATORS", "BACKEND", "SERVING", "WORKERS", "GENERATION", "CHECKPOINT", "CREATED"];
    if jobs.is_empty() { String::new() } else { columns(heads, jobs.iter().map(row)) }
}

/// Returns what a list says of a job.
pub fn overview(job: &JobInfo) -> Json {
    let spec = job.spec.clone().unwrap_or_default();
    json!({
        "name": spec.name,
        "uid": job.job_uid,
        "operators": spec.operators.iter().map(|operator| operator.name.as_str()).collect::<Vec<_>>(),
        "backend": backend(&spec),
        "shards": job.shards.len(),
        "shards_serving": shards_serving(job),
        "workers": job.workers.len(),
        "generation": job.generation,
        "rewinds": job.rewinds,
        "failures": job.failures,
        "last_checkpoint": job.last_checkpoint,
        "created_ms": job.created_ms,
    })
}

/// Returns all of a job.
pub fn description(job: &JobInfo, states: &[RegisteredState]) -> Answer {
    let spec = job.spec.clone().unwrap_or_default();
    let checkpoints = spec.checkpoints.unwrap_or_default();
    let interval =
        if checkpoints.interval_ms() == 0 { "when asked".to_owned() } else { duration(checkpoints.interval_ms()) };
    let mut text = facts([
        ("name", spec.name.clone()),
        ("uid", job.job_uid.clone()),
        ("created", moment(job.created_ms)),
        ("generation", job.generation.to_string()),
        ("rewinds", job.rewinds.to_string()),
        ("checkpoint", checkpoint(job.last_checkpoint)),
        ("interval", interval),
        ("backend", backend(&spec)),
        ("durability", plain(spec.durability().as_str_name(), "DURABILITY_")),
        ("partitioner", plain(spec.partitioner().as_str_name(), "PARTITIONER_")),
        ("recovery", plain(spec.recovery().as_str_name(), "RECOVERY_")),
        ("max parallelism", spec.max_parallelism.to_string()),
        ("shards serving", serving(job)),
    ]);
    text += "\n";
    text +=
        &columns(["OPERATOR", "ACCESS", "SHARDS"], spec.operators.iter().map(|operator| operator_row(job, operator)));
    if !states.is_empty() {
        text += "\n\n";
        text += &states_table(states);
    }
    if !job.workers.is_empty() {
        text += "\n\n";
        text += &columns(["WORKER", "OPERATOR", "SHARDS", "CONNECTED"], job.workers.iter().map(worker_row));
    }
    let mut json = overview(job);
    json["operators"] = spec.operators.iter().map(|operator| operator_json(job, operator)).collect();
    json["max_parallelism"] = spec.max_parallelism.into();
    json["durability"] = plain(spec.durability().as_str_name(), "DURABILITY_").into();
    json["partitioner"] = plain(spec.partitioner().as_str_name(), "PARTITIONER_").into();
    json["recovery"] = plain(spec.recovery().as_str_name(), "RECOVERY_").into();
    json["checkpoint_interval_ms"] = checkpoints.interval_ms().into();
    json["restored_checkpoint"] = job.restored_checkpoint.into();
    json["lease_ms"] = spec.lease_ms.into();
    json["states"] = states.iter().map(state_json).collect();
    json["workers"] = job.workers.iter().map(worker_json).collect();
    Answer::new(text, json)
}

fn operator_row(job: &JobInfo, operator: &Operator) -> [String; 3] {
    [operator.name.clone(), access(operator).to_owned(), shards_of(job, operator).to_string()]
}

/// How many shards an operator has now; a restore may have given it another number than it was made with.
fn shards_of(job: &JobInfo, operator: &Operator) -> usize {
    let of_operator = |shard: &&ShardInfo| shard.entry.as_ref().is_some_and(|entry| entry.operator == operator.name);
    job.shards.iter().filter(of_operator).count()
}

fn operator_json(job: &JobInfo, operator: &Operator) -> Json {
    json!({
        "name": operator.name,
        "access": access(operator),
        "shards": shards_of(job, operator),
        "source": operator.source,
    })
}

fn worker_row(worker: &WorkerInfo) -> [String; 4] {
    [worker.worker.clone(), worker.operator.clone(), worker.shards.to_string(), worker.connected.to_string()]
}

fn worker_json(worker: &WorkerInfo) -> Json {
    json!({
        "worker": worker.worker,
        "operator": worker.operator,
        "shards": worker.shards,
        "connected": worker.connected,
    })
}

fn access(operator: &Operator) -> &'static str {
    match operator.access() {
        Access::Shared => "shared",
        Access::External => "external",
        Access::Leased | Access::Unspecified => "leased",
    }
}

fn backend(spec: &JobSpec) -> String {
    plain(spec.backend().as_str_name(), "BACKEND_")
}

fn shards_serving(job: &JobInfo) -> usize {
    job.shards.iter().filter(|shard| shard.status() == ShardStatus::Serving).count()
}

fn serving(job: &JobInfo) -> String {
    format!("{}/{}", shards_serving(job), job.shards.len())
}

fn checkpoint(id: u64) -> String {
    if id == 0 { "-".to_owned() } else { id.to_string() }
}
