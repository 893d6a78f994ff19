//! `forebayctl snapshot`: what other engines have taken and not discarded yet.

use clap::Subcommand;
use forebay_proto::v1::{DiscardRequest, ListSnapshotsRequest, SnapshotHandle};
use serde_json::{Value as Json, json};

use crate::{
    connection::Connection,
    failure::Failure,
    output::{Answer, bytes, columns, moment},
};

/// What to do with the snapshots of engines that open their shards themselves, such as Flink.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the registered snapshots of a job; each keeps its files.
    List {
        /// The job.
        job: String,
        /// Only of this operator.
        #[arg(long)]
        operator: Option<String>,
        /// Only under this id of the engine.
        #[arg(long)]
        id: Option<String>,
    },
    /// Discard the snapshots under an id of the engine, which has lost their handles: they cannot be restored any more.
    Discard {
        /// The job.
        job: String,
        /// The engine's id.
        id: String,
        /// Only of this operator.
        #[arg(long)]
        operator: Option<String>,
    },
}

/// Runs a command on snapshots.
pub async fn run(connection: &Connection, command: Command) -> Result<Answer, Failure> {
    match command {
        Command::List { job, operator, id } => {
            let found = list(connection, job, operator.unwrap_or_default(), id.unwrap_or_default()).await?;
            let mut answer = shown(&found);
            if found.is_empty() {
                answer.notes.push("there are no snapshots".to_owned());
            }
            Ok(answer)
        }
        Command::Discard { job, id, operator } => {
            let found = list(connection, job, operator.unwrap_or_default(), id).await?;
            for handle in &found {
                let request = DiscardRequest { handle: Some(handle.clone()) };
                connection.call_engine(async |mut engine| engine.discard(request.clone()).await).await?;
            }
            let mut answer = shown(&found);
            answer.notes.push(format!("{} snapshots are discarded", found.len()));
            Ok(answer)
        }
    }
}

async fn list(
    connection: &Connection,
    job: String,
    operator: String,
    external_id: String,
) -> Result<Vec<SnapshotHandle>, Failure> {
    let request = ListSnapshotsRequest { job, operator, external_id, ..ListSnapshotsRequest::default() };
    let found = connection.call_engine(async |mut engine| engine.list_snapshots(request.clone()).await).await?;
    Ok(found.handles)
}

fn shown(handles: &[SnapshotHandle]) -> Answer {
    let row = |handle: &SnapshotHandle| {
        let snapshot = handle.snapshot.clone().unwrap_or_default();
        [
            snapshot.external_id,
            snapshot.operator,
            format!("[{},{})", snapshot.start, snapshot.end),
            snapshot.token.to_string(),
            moment(handle.frozen_ms),
            bytes(snapshot.full_bytes),
            bytes(handle.new_bytes),
        ]
    };
    let text = if handles.is_empty() {
        String::new()
    } else {
        columns(["ID", "OPERATOR", "KEY GROUPS", "TOKEN", "FROZEN", "SIZE", "NEW"], handles.iter().map(row))
    };
    Answer::new(text, handles.iter().map(json).collect())
}

fn json(handle: &SnapshotHandle) -> Json {
    let snapshot = handle.snapshot.clone().unwrap_or_default();
    json!({
        "id": snapshot.external_id,
        "operator": snapshot.operator,
        "start": snapshot.start,
        "end": snapshot.end,
        "token": snapshot.token,
        "frozen_ms": handle.frozen_ms,
        "full_bytes": snapshot.full_bytes,
        "new_bytes": handle.new_bytes,
        "empty": handle.empty,
    })
}
