//! `forebayctl state`: register states; read and write what is in them. A file per command.
//!
//! A command first asks the coordinator for the state's codecs, then calls the server that holds the key.

pub mod at;
mod cas;
mod count;
mod cursor;
pub mod descriptor;
mod get;
mod merge;
mod place;
mod register;
mod replace;
mod rows;
mod scan;
mod show;
mod ttl;
mod write;

use clap::Subcommand;
use forebay_proto::v1::DescribeJobRequest;
use serde_json::json;

use self::descriptor::{state_json, states_table};
use crate::{connection::Connection, failure::Failure, output::Answer};

/// What to do with states.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Register a state; the same again changes nothing, and another TTL is taken over.
    Register(register::Register),
    /// Replace the TTL or the schema of a registered state.
    Replace(replace::Replace),
    /// List the states of a job.
    List {
        /// The job.
        job: String,
    },
    /// Read what is stored under a key, or the elements of a sorted set.
    Get(get::Get),
    /// Replace a value or a whole list, or write an entry of a map.
    Put(write::Put),
    /// Replace a value if it is as expected; exits with 1 if it is not.
    Cas(cas::Cas),
    /// Append elements to a list, or to an entry of a multimap.
    Append(write::Append),
    /// Add to a reducing or aggregating state, or to a sorted set.
    Add(write::Add),
    /// Remove what is stored under a key, a range of a map, or one entry or element.
    Clear(write::Clear),
    /// Merge namespaces of a list, reducing or aggregating state into one.
    Merge(merge::Merge),
    /// List what a state holds, by key group and key.
    Scan(scan::Scan),
    /// Count the rows of a state; list elements and map entries count singly.
    Count(count::Count),
}

/// Runs a command on states.
pub async fn run(connection: &Connection, command: Box<Command>) -> Result<Answer, Failure> {
    match *command {
        Command::Register(register) => register.run(connection).await,
        Command::Replace(replace) => replace.run(connection).await,
        Command::List { job } => list(connection, job).await,
        Command::Get(get) => get.run(connection).await,
        Command::Put(put) => put.run(connection).await,
        Command::Cas(cas) => cas.run(connection).await,
        Command::Append(append) => append.run(connection).await,
        Command::Add(add) => add.run(connection).await,
        Command::Clear(clear) => clear.run(connection).await,
        Command::Merge(merge) => merge.run(connection).await,
        Command::Scan(scan) => scan.run(connection).await,
        Command::Count(count) => count.run(connection).await,
    }
}

async fn list(connection: &Connection, job: String) -> Result<Answer, Failure> {
    let request = DescribeJobRequest { job };
    let answer = connection.call(async |mut coordinator| coordinator.describe_job(request.clone()).await);
    let states = answer.await?.states;
    let json = json!({ "states": states.iter().map(state_json).collect::<Vec<_>>() });
    if states.is_empty() {
        let notes = vec!["the job has no states: `forebayctl state register` adds one".to_owned()];
        return Ok(Answer { notes, ..Answer::new(String::new(), json) });
    }
    Ok(Answer::new(states_table(&states), json))
}
