//! `forebayctl job`: create, list, describe and delete jobs.

mod create;
mod show;

use clap::Subcommand;
use forebay_proto::v1::{DeleteJobRequest, DescribeJobRequest, ErrorReason, JobInfo, ListJobsRequest};
use serde_json::json;

use crate::{connection::Connection, failure::Failure, output::Answer, restore};

pub use create::{Backend, Durability};
pub use show::{jobs_table, overview};

/// What to do with jobs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a job; the same again changes nothing.
    Create(create::Create),
    /// List the jobs.
    List,
    /// Describe a job: settings, operators, states, workers.
    Describe {
        /// The job.
        name: String,
    },
    /// Make a new job that starts from a checkpoint of another and shares its files.
    Branch(restore::Branch),
    /// Delete a job and all of its state.
    Delete {
        /// The job.
        name: String,
        /// Really delete it.
        #[arg(long)]
        yes: bool,
    },
}

/// Runs a command on jobs.
pub async fn run(connection: &Connection, command: Command) -> Result<Answer, Failure> {
    match command {
        Command::Create(create) => create.run(connection).await,
        Command::List => list(connection).await,
        Command::Describe { name } => describe(connection, name).await,
        Command::Branch(branch) => restore::branch(connection, branch).await,
        Command::Delete { name, yes } => delete(connection, name, yes).await,
    }
}

async fn list(connection: &Connection) -> Result<Answer, Failure> {
    let jobs = connection.call(async |mut coordinator| coordinator.list_jobs(ListJobsRequest {}).await).await?.jobs;
    let json = json!({ "jobs": jobs.iter().map(overview).collect::<Vec<_>>() });
    let mut answer = Answer::new(jobs_table(&jobs), json);
    if jobs.is_empty() {
        answer.notes.push("there are no jobs: `forebayctl job create` makes one".to_owned());
    }
    Ok(answer)
}

async fn describe(connection: &Connection, job: String) -> Result<Answer, Failure> {
    let request = DescribeJobRequest { job };
    let answer = connection.call(async |mut coordinator| coordinator.describe_job(request.clone()).await).await?;
    let job = answer.job.unwrap_or_default();
    Ok(show::description(&job, &answer.states))
}

/// What is said of one job after a change.
pub fn one(job: &JobInfo) -> Answer {
    Answer::new(jobs_table(std::slice::from_ref(job)), overview(job))
}

async fn delete(connection: &Connection, job: String, yes: bool) -> Result<Answer, Failure> {
    if !yes {
        let message = format!("deleting job {job:?} deletes its state: say --yes to do it");
        return Err(Failure::usage(ErrorReason::FieldMissing, message));
    }
    let request = DeleteJobRequest { job: job.clone(), job_uid: String::new() };
    connection.call(async |mut coordinator| coordinator.delete_job(request.clone()).await).await?;
    Ok(Answer::new(format!("deleted job {job}"), json!({ "deleted": job })))
}
