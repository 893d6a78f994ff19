//! `forebayctl`, the command line of Forebay: jobs, state, checkpoints and the cluster, for people and scripts.
//!
//! A command asks the cluster and returns an [`output::Answer`]; it prints nothing. Only this file writes:
//! the answer to stdout, notes and errors to stderr.
//!
//! Invariant: on an error nothing is on stdout, and the exit code tells what to do (see [`failure`]).

mod arguments;
mod bench;
mod checkpoint;
mod cluster;
mod connection;
mod cost;
mod diff;
mod explain;
mod failure;
mod garbage;
mod job;
mod output;
mod placement;
mod restore;
mod savepoint;
mod snapshot;
mod state;
mod text;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use arguments::{Arguments, Command};
use clap::Parser as _;
use connection::Connection;
use failure::Failure;
use forebay_proto::v1;
use output::Answer;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let connection = arguments.connection();
    let answer = match arguments.command {
        Command::Completion { shell } => return print(&arguments::completion(shell), ExitCode::SUCCESS),
        Command::Explain(explain) => explain.answer(),
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let cannot = |error| Failure::Local(format!("cannot start: {error}"));
            runtime.map_err(cannot).and_then(|runtime| runtime.block_on(run(&connection, command)))
        }
    };
    match answer {
        Ok(answer) => {
            answer.notes.iter().for_each(|note| eprintln!("forebayctl: {note}"));
            let done = if answer.no { ExitCode::FAILURE } else { ExitCode::SUCCESS };
            print(&answer.print(arguments.output), done)
        }
        Err(failure) => {
            eprintln!("forebayctl: {failure}");
            if let Some(hint) = failure.hint() {
                eprintln!("  hint: {hint}");
            }
            failure.exit_code()
        }
    }
}

async fn run(connection: &Connection, command: Command) -> Result<Answer, Failure> {
    match command {
        Command::Job { command } => job::run(connection, command).await,
        Command::State { command } => state::run(connection, command).await,
        Command::Checkpoint { command } => checkpoint::run(connection, command).await,
        Command::Savepoint { command } => savepoint::run(connection, command).await,
        Command::Snapshot { command } => snapshot::run(connection, command).await,
        Command::Restore(restore) => restore::restore(connection, restore).await,
        Command::Gc(collect) => collect.run(connection).await,
        Command::Cost(cost) => cost.run(connection).await,
        Command::Bench(bench) => bench.run(connection).await,
        Command::Status => cluster::status(connection).await,
        Command::Shards { command } => match command {
            arguments::Shards::List { job } => cluster::shards(connection, job).await,
            arguments::Shards::Move { job, operator, range: (start, end), to, dry_run } => {
                let request = v1::MoveShardRequest { job, operator, start, end, server: to, dry_run };
                placement::move_shard(connection, request).await
            }
            arguments::Shards::Split { job, operator, range: (start, end), at, dry_run } => {
                let request = v1::SplitShardRequest { job, operator, start, end, at, dry_run };
                placement::split_shard(connection, request).await
            }
            arguments::Shards::Merge { job, operator, range: (start, end), dry_run } => {
                let request = v1::MergeShardsRequest { job, operator, start, end, dry_run };
                placement::merge_shards(connection, request).await
            }
        },
        Command::Servers { command } => match command {
            arguments::Servers::List => cluster::servers(connection).await,
            arguments::Servers::Drain { name, dry_run } => placement::drain(connection, name, dry_run).await,
            arguments::Servers::Undrain { name } => placement::undrain(connection, name).await,
        },
        // These ask nobody.
        Command::Completion { .. } | Command::Explain(_) => Ok(Answer::default()),
    }
}

/// Writes to stdout, and returns `done`; a reader that has seen enough, such as `head`, is no error.
fn print(text: &str, done: ExitCode) -> ExitCode {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("forebayctl: cannot write the answer: {error}");
            ExitCode::FAILURE
        }
        _ => done,
    }
}
