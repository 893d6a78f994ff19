//! `forebayctl checkpoint`: take, list, describe and verify checkpoints.

use clap::Subcommand;
use forebay_proto::v1::{
    CompletedCheckpoint, DescribeCheckpointRequest, ErrorReason, ListCheckpointsRequest, Manifest, ShardSnapshot,
    TriggerCheckpointRequest, VerifyCheckpointRequest, VerifyCheckpointResponse,
};
use serde_json::{Value as Json, json};

use crate::{
    connection::Connection,
    diff,
    failure::Failure,
    output::{Answer, bytes, columns, duration, facts, moment},
    restore,
};

/// What to do with checkpoints.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take a checkpoint now and wait until it is complete.
    Trigger {
        /// The job.
        job: String,
        /// Upload everything, not only what is new.
        #[arg(long)]
        full: bool,
    },
    /// List completed checkpoints, rounds in progress and recent failures.
    List {
        /// The job.
        job: String,
    },
    /// Describe a checkpoint: its shards and workers.
    Describe {
        /// The job.
        job: String,
        /// The checkpoint [default: the last completed one].
        id: Option<u64>,
    },
    /// Tell what changed between two completed checkpoints, key by key.
    Diff(diff::Diff),
    /// Copy a checkpoint to another directory, self-contained.
    Copy(restore::Copy),
    /// Read everything that a checkpoint consists of, and tell what is missing, damaged or too much.
    Verify {
        /// The job.
        job: String,
        /// The checkpoint [default: the last completed one].
        id: Option<u64>,
    },
}

/// Runs a command on checkpoints.
pub async fn run(connection: &Connection, command: Command) -> Result<Answer, Failure> {
    match command {
        Command::Trigger { job, full } => trigger(connection, job, full).await,
        Command::List { job } => list(connection, job).await,
        Command::Diff(diff) => diff.run(connection).await,
        Command::Copy(copy) => restore::copy(connection, copy).await,
        Command::Describe { job, id } => describe(connection, job, id.unwrap_or_default()).await,
        Command::Verify { job, id } => verify(connection, job, id.unwrap_or_default()).await,
    }
}

async fn trigger(connection: &Connection, job: String, full: bool) -> Result<Answer, Failure> {
    let request = TriggerCheckpointRequest { job, full };
    // Asked for once: a failed round is the answer, and not a reason to take another one.
    let answer = connection.call_once(async |mut coordinator| coordinator.trigger_checkpoint(request).await).await?;
    let checkpoint = answer.checkpoint.ok_or_else(|| missing("checkpoint"))?;
    Ok(Answer::new(table(std::slice::from_ref(&checkpoint)), json(&checkpoint)))
}

async fn list(connection: &Connection, job: String) -> Result<Answer, Failure> {
    let request = ListCheckpointsRequest { job };
    let found = connection.call(async |mut coordinator| coordinator.list_checkpoints(request.clone()).await).await?;
    let mut parts = Vec::new();
    if !found.completed.is_empty() {
        parts.push(table(&found.completed));
    }
    if !found.in_progress.is_empty() {
        let rows = found.in_progress.iter().map(|round| {
            let shards = format!("{}/{}", round.shards_done, round.shards);
            let workers = format!("{}/{}", round.workers_done, round.workers);
            [round.checkpoint.to_string(), moment(round.triggered_ms), shards, workers]
        });
        parts.push(columns(["IN PROGRESS", "TRIGGERED", "SHARDS", "WORKERS"], rows));
    }
    if !found.failed.is_empty() {
        let rows = found.failed.iter();
        let rows = rows.map(|round| [round.checkpoint.to_string(), moment(round.failed_ms), round.cause.clone()]);
        parts.push(columns(["FAILED", "WHEN", "CAUSE"], rows));
    }
    let in_progress = found.in_progress.iter().map(|round| {
        json!({
            "checkpoint": round.checkpoint,
            "triggered_ms": round.triggered_ms,
            "shards_done": round.shards_done,
            "shards": round.shards,
            "workers_done": round.workers_done,
            "workers": round.workers,
        })
    });
    let failed = found
        .failed
        .iter()
        .map(|round| json!({ "checkpoint": round.checkpoint, "failed_ms": round.failed_ms, "cause": round.cause }));
    let json = json!({
        "completed": found.completed.iter().map(json).collect::<Vec<_>>(),
        "in_progress": in_progress.collect::<Vec<_>>(),
        "failed": failed.collect::<Vec<_>>(),
    });
    let mut answer = Answer::new(parts.join("\n\n"), json);
    if parts.is_empty() {
        answer.notes.push("the job has no checkpoints yet".to_owned());
    }
    Ok(answer)
}

async fn describe(connection: &Connection, job: String, checkpoint: u64) -> Result<Answer, Failure> {
    let request = DescribeCheckpointRequest { job, checkpoint };
    let found = connection.call(async |mut coordinator| coordinator.describe_checkpoint(request.clone()).await).await?;
    let checkpoint = found.checkpoint.ok_or_else(|| missing("checkpoint"))?;
    let manifest = found.manifest.ok_or_else(|| missing("manifest"))?;
    let mut described = json(&checkpoint);
    described["base"] = manifest.base.into();
    described["round"] = manifest.round.as_str().into();
    described["written_by"] = manifest.written_by.as_str().into();
    described["manifest"] = checkpoint.manifest.as_str().into();
    described["shards"] = manifest.shards.iter().map(shard_json).collect();
    described["workers"] = manifest.workers.iter().map(worker_json).collect();
    Ok(Answer::new(description(&checkpoint, &manifest), described))
}

async fn verify(connection: &Connection, job: String, checkpoint: u64) -> Result<Answer, Failure> {
    let request = VerifyCheckpointRequest { job, checkpoint };
    // It takes as long as reading the whole checkpoint takes.
    let found = connection.call_once(async |mut coordinator| coordinator.verify_checkpoint(request).await).await?;
    Ok(verdict(&found))
}

/// Missing and damaged objects are a no; objects that nothing refers to are only told.
fn verdict(found: &VerifyCheckpointResponse) -> Answer {
    let VerifyCheckpointResponse { files, missing, damaged, extra, .. } = found;
    let sound = missing.is_empty() && damaged.is_empty();
    let mut text = facts([
        ("verdict", if sound { "sound" } else { "damaged" }.to_owned()),
        ("slices read", files.to_string()),
        ("bytes read", bytes(found.bytes)),
        ("missing", missing.len().to_string()),
        ("damaged", damaged.len().to_string()),
        ("garbage", extra.len().to_string()),
    ]);
    let rows = |fault: &'static str, objects: &[String]| {
        objects.iter().map(move |object| [fault.to_owned(), object.clone()]).collect::<Vec<_>>()
    };
    let rows = [rows("missing", missing), rows("damaged", damaged), rows("garbage", extra)].concat();
    if !rows.is_empty() {
        text += "\n";
        text += &columns(["WHAT", "OBJECT"], rows);
    }
    let json = json!({
        "sound": sound,
        "files": files,
        "bytes": found.bytes,
        "missing": missing,
        "damaged": damaged,
        "extra": extra,
    });
    Answer { no: !sound, ..Answer::new(text, json) }
}

fn description(checkpoint: &CompletedCheckpoint, manifest: &Manifest) -> String {
    let base = if manifest.base == 0 { "none: full".to_owned() } else { manifest.base.to_string() };
    let mut text = facts([
        ("id", checkpoint.id.to_string()),
        ("completed", moment(checkpoint.completed_ms)),
        ("took", took(checkpoint)),
        ("size", bytes(checkpoint.full_bytes)),
        ("uploaded", bytes(checkpoint.new_bytes)),
        ("files", checkpoint.files.to_string()),
        ("puts", checkpoint.puts.to_string()),
        ("builds on", base),
        ("generation", checkpoint.generation.to_string()),
        ("manifest", checkpoint.manifest.clone()),
    ]);
    let rows = manifest.shards.iter().map(|shard| {
        [
            shard.operator.clone(),
            format!("[{},{})", shard.start, shard.end),
            shard.files.len().to_string(),
            bytes(shard.full_bytes),
            bytes(shard.new_bytes),
            shard.puts.to_string(),
            shard.lanes.len().to_string(),
        ]
    });
    text += "\n";
    text += &columns(["OPERATOR", "KEY GROUPS", "FILES", "SIZE", "UPLOADED", "PUTS", "LANES"], rows);
    if !manifest.workers.is_empty() {
        let rows = manifest.workers.iter().map(|worker| {
            let elements: usize = worker.lists.iter().map(|list| list.elements.len()).sum();
            [worker.worker.clone(), worker.operator.clone(), worker.lists.len().to_string(), elements.to_string()]
        });
        text += "\n\n";
        text += &columns(["WORKER", "OPERATOR", "LISTS", "ELEMENTS"], rows);
    }
    text
}

fn table(checkpoints: &[CompletedCheckpoint]) -> String {
    let rows = checkpoints.iter().map(|checkpoint| {
        [
            checkpoint.id.to_string(),
            moment(checkpoint.completed_ms),
            took(checkpoint),
            bytes(checkpoint.full_bytes),
            bytes(checkpoint.new_bytes),
            checkpoint.puts.to_string(),
            checkpoint.files.to_string(),
            checkpoint.generation.to_string(),
        ]
    });
    columns(["CHECKPOINT", "COMPLETED", "TOOK", "SIZE", "UPLOADED", "PUTS", "FILES", "GENERATION"], rows)
}

fn json(checkpoint: &CompletedCheckpoint) -> Json {
    json!({
        "checkpoint": checkpoint.id,
        "triggered_ms": checkpoint.triggered_ms,
        "completed_ms": checkpoint.completed_ms,
        "full_bytes": checkpoint.full_bytes,
        "new_bytes": checkpoint.new_bytes,
        "files": checkpoint.files,
        "puts": checkpoint.puts,
        "generation": checkpoint.generation,
        "savepoint": checkpoint.savepoint,
    })
}

fn shard_json(shard: &ShardSnapshot) -> Json {
    json!({
        "operator": shard.operator,
        "start": shard.start,
        "end": shard.end,
        "files": shard.files.len(),
        "full_bytes": shard.full_bytes,
        "new_bytes": shard.new_bytes,
        "puts": shard.puts,
        "lanes": shard.lanes.len(),
    })
}

fn worker_json(worker: &forebay_proto::v1::WorkerState) -> Json {
    let lists = worker.lists.iter().map(|list| json!({ "name": list.name, "elements": list.elements.len() }));
    json!({ "worker": worker.worker, "operator": worker.operator, "lists": lists.collect::<Vec<_>>() })
}

fn took(checkpoint: &CompletedCheckpoint) -> String {
    duration(u64::try_from(checkpoint.completed_ms - checkpoint.triggered_ms).unwrap_or_default())
}

fn missing(what: &str) -> Failure {
    Failure::refused(ErrorReason::Internal, format!("the answer has no {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_alone_leaves_a_checkpoint_sound() {
        let found =
            VerifyCheckpointResponse { files: 2, bytes: 7, extra: vec!["shared/s/a".into()], ..Default::default() };
        assert!(!verdict(&found).no);
        let missing = VerifyCheckpointResponse { missing: vec!["shared/s/b".into()], ..found };
        let answer = verdict(&missing);
        assert!(answer.no && answer.text.contains("missing  shared/s/b"), "{}", answer.text);
        assert_eq!(answer.json["sound"], json!(false));
    }
}
