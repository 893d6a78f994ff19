//! `forebayctl savepoint`: take, list, inspect and delete savepoints.

use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use forebay_proto::v1::{
    CreateSavepointRequest, DeleteSavepointRequest, DescribeSavepointRequest, ErrorReason, ListCheckpointsRequest,
    ListSavepointsRequest, Manifest, Savepoint, SavepointFormat,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value as Json, json};

use crate::{
    connection::Connection,
    failure::Failure,
    output::{Answer, bytes, columns, facts, moment},
};

/// Time between two looks at how far a savepoint is.
const LOOK: Duration = Duration::from_millis(500);

/// What to do with savepoints.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take a savepoint and wait until it is whole: self-contained, and never deleted by the cluster.
    Create {
        /// The job.
        job: String,
        /// Directory [default: the cluster's checkpoint.savepoint_dir].
        #[arg(long, value_name = "DIRECTORY")]
        to: Option<String>,
        /// Rows that every backend and version reads, or the backend's own files.
        #[arg(long, value_enum, default_value = "canonical")]
        format: Format,
    },
    /// List the savepoints and copied checkpoints of a directory, oldest first.
    List {
        /// Only those of this job.
        job: Option<String>,
        /// Directory [default: the cluster's checkpoint.savepoint_dir].
        #[arg(long, value_name = "DIRECTORY")]
        from: Option<String>,
    },
    /// Tell what a savepoint or a copied checkpoint holds; fails if objects of it are missing.
    Inspect {
        /// Where it is.
        location: String,
    },
    /// Delete a savepoint, or what one that broke off has left.
    Delete {
        /// Where it is.
        location: String,
    },
}

/// The format of a savepoint.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Format {
    /// Readable by every backend and version.
    Canonical,
    /// The backend's own files: faster, for the same backend.
    Native,
}

/// Runs a command on savepoints.
pub async fn run(connection: &Connection, command: Command) -> Result<Answer, Failure> {
    match command {
        Command::Create { job, to, format } => create(connection, job, to.unwrap_or_default(), format).await,
        Command::List { job, from } => list(connection, job.unwrap_or_default(), from.unwrap_or_default()).await,
        Command::Inspect { location } => inspect(connection, location).await,
        Command::Delete { location } => {
            let request = DeleteSavepointRequest { location: location.clone() };
            connection.call(async |mut coordinator| coordinator.delete_savepoint(request.clone()).await).await?;
            Ok(Answer::new(format!("{location} is deleted\n"), json!({ "location": location })))
        }
    }
}

async fn create(connection: &Connection, job: String, directory: String, format: Format) -> Result<Answer, Failure> {
    let format = match format {
        Format::Canonical => SavepointFormat::Canonical,
        Format::Native => SavepointFormat::Native,
    };
    let request = CreateSavepointRequest { job: job.clone(), format: format.into(), directory };
    // Asked for once: a round that failed is the answer, and not a reason to take another one.
    let taken = connection.call_once(async |mut coordinator| coordinator.create_savepoint(request).await);
    let taken = tokio::select! {
        taken = taken => taken?,
        never = watch(connection, job) => match never {},
    };
    let savepoint = taken.savepoint.ok_or_else(|| missing("savepoint"))?;
    Ok(Answer::new(format!("{}\n", savepoint.location), json(&savepoint)))
}

/// Shows how many shards have stored their part, on standard error if that is a terminal.
async fn watch(connection: &Connection, job: String) -> std::convert::Infallible {
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} shards {elapsed}");
    let bar = ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    loop {
        tokio::time::sleep(LOOK).await;
        let request = ListCheckpointsRequest { job: job.clone() };
        // A look that fails is made up for by the next one.
        let Ok(seen) = connection.call_once(async |mut coordinator| coordinator.list_checkpoints(request).await).await
        else {
            continue;
        };
        if let Some(round) = seen.in_progress.iter().find(|round| round.savepoint) {
            bar.set_length(round.shards.into());
            bar.set_position(round.shards_done.into());
        }
    }
}

async fn list(connection: &Connection, job: String, directory: String) -> Result<Answer, Failure> {
    let request = ListSavepointsRequest { job, directory };
    let found = connection.call(async |mut coordinator| coordinator.list_savepoints(request.clone()).await).await?;
    let rows = found.savepoints.iter().map(|savepoint| {
        [
            savepoint.job.clone(),
            savepoint.checkpoint.to_string(),
            moment(savepoint.completed_ms),
            format_name(savepoint).to_owned(),
            bytes(savepoint.bytes),
            savepoint.location.clone(),
        ]
    });
    let text = columns(["JOB", "CHECKPOINT", "COMPLETED", "FORMAT", "SIZE", "LOCATION"], rows);
    let mut answer = Answer::new(text, found.savepoints.iter().map(json).collect());
    if found.savepoints.is_empty() {
        answer.text.clear();
        answer.notes.push("there are no savepoints".to_owned());
    }
    Ok(answer)
}

async fn inspect(connection: &Connection, location: String) -> Result<Answer, Failure> {
    let request = DescribeSavepointRequest { location };
    let found = connection.call(async |mut coordinator| coordinator.describe_savepoint(request.clone()).await).await?;
    let savepoint = found.savepoint.ok_or_else(|| missing("savepoint"))?;
    let manifest = found.manifest.ok_or_else(|| missing("manifest"))?;
    let mut described = json(&savepoint);
    described["written_by"] = manifest.written_by.as_str().into();
    described["states"] = manifest.states.iter().map(state_json).collect();
    described["shards"] = manifest.shards.iter().map(shard_json).collect();
    Ok(Answer::new(description(&savepoint, &manifest), described))
}

fn description(savepoint: &Savepoint, manifest: &Manifest) -> String {
    let spec = manifest.spec.clone().unwrap_or_default();
    let mut text = facts([
        ("job", savepoint.job.clone()),
        ("checkpoint", savepoint.checkpoint.to_string()),
        ("completed", moment(savepoint.completed_ms)),
        ("format", format_name(savepoint).to_owned()),
        ("size", bytes(savepoint.bytes)),
        ("files", savepoint.files.to_string()),
        ("key groups", spec.max_parallelism.to_string()),
        ("written by", manifest.written_by.clone()),
        ("location", savepoint.location.clone()),
    ]);
    let rows = manifest.states.iter().map(|state| {
        let descriptor = state.descriptor.clone().unwrap_or_default();
        let kind = descriptor.kind().as_str_name().trim_start_matches("STATE_KIND_").to_lowercase();
        [state.operator.clone(), descriptor.name, kind, descriptor.key_codec, descriptor.value_codec]
    });
    text += "\n";
    text += &columns(["OPERATOR", "STATE", "KIND", "KEY", "VALUE"], rows);
    let rows = manifest.shards.iter().map(|shard| {
        let groups = format!("[{},{})", shard.start, shard.end);
        [shard.operator.clone(), groups, shard.files.len().to_string(), bytes(shard.full_bytes)]
    });
    text += "\n\n";
    text += &columns(["OPERATOR", "KEY GROUPS", "FILES", "SIZE"], rows);
    text
}

fn format_name(savepoint: &Savepoint) -> &'static str {
    match savepoint.format() {
        SavepointFormat::Canonical => "canonical",
        SavepointFormat::Native | SavepointFormat::Unspecified => "native",
    }
}

fn json(savepoint: &Savepoint) -> Json {
    json!({
        "location": savepoint.location,
        "job": savepoint.job,
        "checkpoint": savepoint.checkpoint,
        "completed_ms": savepoint.completed_ms,
        "format": format_name(savepoint),
        "bytes": savepoint.bytes,
        "files": savepoint.files,
    })
}

fn state_json(state: &forebay_proto::v1::RegisteredState) -> Json {
    let descriptor = state.descriptor.clone().unwrap_or_default();
    json!({
        "operator": state.operator,
        "name": descriptor.name,
        "kind": descriptor.kind().as_str_name(),
        "key_codec": descriptor.key_codec,
        "value_codec": descriptor.value_codec,
    })
}

fn shard_json(shard: &forebay_proto::v1::ShardSnapshot) -> Json {
    json!({
        "operator": shard.operator,
        "start": shard.start,
        "end": shard.end,
        "files": shard.files.len(),
        "bytes": shard.full_bytes,
    })
}

fn missing(what: &str) -> Failure {
    Failure::refused(ErrorReason::Internal, format!("the answer has no {what}"))
}
