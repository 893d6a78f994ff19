//! `forebayctl restore`, `job branch` and `checkpoint copy`: jobs go to checkpoints, and checkpoints elsewhere.

use std::collections::HashMap;

use clap::Args;
use forebay_proto::v1::{BranchJobRequest, ClaimFiles, CopyCheckpointRequest, ErrorReason, RestoreJobRequest};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::{connection::Connection, failure::Failure, job, output::Answer};

/// Take a job to a checkpoint, one of its own or one from elsewhere; make the job if it does not exist.
#[derive(Debug, Args)]
pub struct Restore {
    /// The job.
    job: String,
    /// The checkpoint [default: the last completed one].
    #[arg(long, value_name = "ID")]
    checkpoint: Option<u64>,
    /// Directory of a savepoint, of a copied checkpoint, or of a job in another bucket.
    #[arg(long, value_name = "DIRECTORY")]
    from: Option<String>,
    /// Take the newest checkpoint there that is whole, however many newer ones are not.
    #[arg(long, requires = "from")]
    newest_complete: bool,
    /// The savepoint or copy there belongs to the job from now on, and is deleted once the job does not need it any more.
    #[arg(long, requires = "from")]
    claim: bool,
    /// Another number of shards, such as `stats=16`; may be repeated.
    #[arg(long, value_name = "OPERATOR=N", value_parser = operator_shards)]
    shards: Vec<(String, u32)>,
    /// Check only.
    #[arg(long)]
    dry_run: bool,
}

/// Make a new job that starts from a checkpoint of another and shares its files.
#[derive(Debug, Args)]
pub struct Branch {
    /// The job whose checkpoint it is.
    parent: String,
    /// The new job.
    job: String,
    /// The checkpoint [default: the last completed one].
    #[arg(long, value_name = "ID")]
    checkpoint: Option<u64>,
}

/// Copy a checkpoint to another directory, self-contained.
#[derive(Debug, Args)]
pub struct Copy {
    /// The job.
    job: String,
    /// The checkpoint [default: the last completed one].
    id: Option<u64>,
    /// Where to: a URL or an absolute directory that the cluster allows (checkpoint.allowed_dirs).
    #[arg(long, value_name = "DIRECTORY")]
    to: String,
}

/// Takes a job to a checkpoint.
pub async fn restore(connection: &Connection, restore: Restore) -> Result<Answer, Failure> {
    let request = RestoreJobRequest {
        job: restore.job,
        checkpoint: restore.checkpoint.unwrap_or_default(),
        location: restore.from.unwrap_or_default(),
        claim: if restore.claim { ClaimFiles::Claim } else { ClaimFiles::NoClaim }.into(),
        validate_only: restore.dry_run,
        shards: restore.shards.into_iter().collect::<HashMap<_, _>>(),
        newest_complete: restore.newest_complete,
    };
    let answer = connection.call_once(async |mut coordinator| coordinator.restore_job(request).await).await?;
    let mut answer = job::one(&answer.job.ok_or_else(|| missing("job"))?);
    if restore.dry_run {
        answer.notes.push("checked only: nothing has changed".to_owned());
    }
    Ok(answer)
}

/// Makes a job from another's checkpoint.
pub async fn branch(connection: &Connection, branch: Branch) -> Result<Answer, Failure> {
    let request =
        BranchJobRequest { parent: branch.parent, checkpoint: branch.checkpoint.unwrap_or_default(), job: branch.job };
    let answer = connection.call_once(async |mut coordinator| coordinator.branch_job(request).await).await?;
    Ok(job::one(&answer.job.ok_or_else(|| missing("job"))?))
}

/// Copies a checkpoint, with a bar.
pub async fn copy(connection: &Connection, copy: Copy) -> Result<Answer, Failure> {
    let request = CopyCheckpointRequest { job: copy.job, checkpoint: copy.id.unwrap_or_default(), directory: copy.to };
    let mut progress = connection.call_once(async |mut coordinator| coordinator.copy_checkpoint(request).await).await?;
    // It hides itself where standard error is not a terminal.
    let bar = ProgressBar::new(0).with_style(bar_style());
    let mut last = None;
    while let Some(step) = progress.message().await? {
        bar.set_length(step.bytes);
        bar.set_position(step.bytes_done);
        last = Some(step);
    }
    bar.finish_and_clear();
    let last = last.ok_or_else(|| missing("progress"))?;
    let text = format!("{}\n", last.location);
    Ok(Answer::new(text, json!({ "location": last.location, "bytes": last.bytes })))
}

fn bar_style() -> ProgressStyle {
    let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} left");
    style.unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn operator_shards(text: &str) -> Result<(String, u32), String> {
    let parsed = text.split_once('=').and_then(|(operator, count)| Some((operator.to_owned(), count.parse().ok()?)));
    parsed.ok_or_else(|| format!("{text:?}: OPERATOR=N is needed, such as stats=16"))
}

fn missing(what: &str) -> Failure {
    Failure::refused(ErrorReason::Internal, format!("the answer has no {what}"))
}
