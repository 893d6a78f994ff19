//! `forebayctl state`: register states; read and write what is in them.
//!
//! A command first asks the coordinator for the state's codecs, then calls the server that holds the key.

mod place;
mod read;
mod register;
mod scan;
mod write;

use clap::Subcommand;
use forebay_proto::v1::DescribeJobRequest;
use serde_json::json;

use crate::{
    arguments::{StateName, Within},
    connection::Connection,
    failure::Failure,
    job::{state_json, states_table},
    output::Answer,
};

/// What to do with states.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Register a state; the same again changes nothing.
    Register(register::Register),
    /// List the states of a job.
    List {
        /// The job.
        job: String,
    },
    /// Read what is stored under a key.
    Get {
        /// Where.
        #[command(flatten)]
        state: StateName,
        /// The key.
        #[arg(allow_negative_numbers = true)]
        key: String,
        /// Only this entry of a map.
        #[arg(long, value_name = "K", allow_hyphen_values = true)]
        map_key: Option<String>,
        /// The rest of the address.
        #[command(flatten)]
        within: Within,
    },
    /// Replace a value or a whole list, or write an entry of a map.
    Put {
        /// Where.
        #[command(flatten)]
        state: StateName,
        /// The key.
        #[arg(allow_negative_numbers = true)]
        key: String,
        /// The value; a list takes several.
        #[arg(required = true, value_name = "VALUE", allow_negative_numbers = true)]
        values: Vec<String>,
        /// The entry of a map.
        #[arg(long, value_name = "K", allow_hyphen_values = true)]
        map_key: Option<String>,
        /// The rest of the address.
        #[command(flatten)]
        within: Within,
    },
    /// Append elements to a list.
    Append {
        /// Where.
        #[command(flatten)]
        state: StateName,
        /// The key.
        #[arg(allow_negative_numbers = true)]
        key: String,
        /// The elements, in order.
        #[arg(required = true, value_name = "VALUE", allow_negative_numbers = true)]
        values: Vec<String>,
        /// The rest of the address.
        #[command(flatten)]
        within: Within,
    },
    /// Add to a reducing state.
    Add {
        /// Where.
        #[command(flatten)]
        state: StateName,
        /// The key.
        #[arg(allow_negative_numbers = true)]
        key: String,
        /// The operand.
        #[arg(allow_negative_numbers = true)]
        value: String,
        /// The rest of the address.
        #[command(flatten)]
        within: Within,
    },
    /// Remove what is stored under a key, or an entry of a map.
    Clear {
        /// Where.
        #[command(flatten)]
        state: StateName,
        /// The key.
        #[arg(allow_negative_numbers = true)]
        key: String,
        /// Only this entry of a map.
        #[arg(long, value_name = "K", allow_hyphen_values = true)]
        map_key: Option<String>,
        /// The rest of the address.
        #[command(flatten)]
        within: Within,
    },
    /// List what a state holds, by key group and key.
    Scan(scan::Scan),
}

/// Runs a command on states.
pub async fn run(connection: &Connection, command: Box<Command>) -> Result<Answer, Failure> {
    match *command {
        Command::Register(register) => register.run(connection).await,
        Command::List { job } => list(connection, job).await,
        Command::Get { state, key, map_key, within } => read::get(connection, &state, &key, map_key, &within).await,
        Command::Put { state, key, values, map_key, within } => {
            write::put(connection, &state, &key, &values, map_key, &within).await
        }
        Command::Append { state, key, values, within } => {
            write::append(connection, &state, &key, &values, &within).await
        }
        Command::Add { state, key, value, within } => write::add(connection, &state, &key, &value, &within).await,
        Command::Clear { state, key, map_key, within } => {
            write::clear(connection, &state, &key, map_key, &within).await
        }
        Command::Scan(scan) => scan.run(connection).await,
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
