//! The command line: what can be said, and nothing of what it does.

use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use crate::{
    bench, checkpoint, connection::Connection, cost, explain, garbage, job, output::Format, placement, restore,
    savepoint, snapshot, state,
};

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 refused by the cluster, not swapped by cas, or found damaged by verify; 2 wrong command line; 69 unreachable or
not able to serve now.

Keys and values are text, read by the codec of the state. To write bytes as they are stored, put hex: or
base64: in front; text: in front of text that itself starts with one of these, or with a hyphen.";

/// The command line of Forebay: remote state for stream workers.
#[derive(Debug, Parser)]
#[command(name = "forebayctl", version, about, after_help = EXIT_CODES, max_term_width = 110)]
pub struct Arguments {
    /// Address of the coordinator; of all of them, separated by commas.
    #[arg(long, short, global = true, value_name = "URL", env = "FOREBAY_SERVER")]
    #[arg(default_value = "http://127.0.0.1:7400")]
    server: String,
    /// How the answer is printed.
    #[arg(long, short, global = true, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
    /// How long to wait for an answer; `checkpoint trigger`, `checkpoint verify` and `gc` wait as long as it takes if this is not given.
    #[arg(long, global = true, value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create, list, describe and delete jobs.
    Job {
        /// Which of these.
        #[command(subcommand)]
        command: job::Command,
    },
    /// Register states; read and write what is in them.
    State {
        /// Which of these.
        #[command(subcommand)]
        command: Box<state::Command>,
    },
    /// Take, list, describe and verify checkpoints.
    Checkpoint {
        /// Which of these.
        #[command(subcommand)]
        command: checkpoint::Command,
    },
    /// Take, list, inspect and delete savepoints.
    Savepoint {
        /// Which of these.
        #[command(subcommand)]
        command: savepoint::Command,
    },
    /// List and discard what other engines have taken, such as Flink.
    Snapshot {
        /// Which of these.
        #[command(subcommand)]
        command: snapshot::Command,
    },
    /// Take a job to a checkpoint, one of its own or one from elsewhere; make the job if it does not exist.
    Restore(restore::Restore),
    /// Delete objects that no checkpoint refers to.
    Gc(garbage::Collect),
    /// Tell what a job's checkpoints take of the object store in a month.
    Cost(cost::Cost),
    /// Measure raw operations: their number per second, and how long their batches take.
    Bench(bench::Bench),
    /// Tell how the cluster is.
    Status,
    /// Where the shards are.
    Shards {
        /// Which of these.
        #[command(subcommand)]
        command: Shards,
    },
    /// The processes that host shards.
    Servers {
        /// Which of these.
        #[command(subcommand)]
        command: Servers,
    },
    /// Tell what an error means and what to do about it.
    Explain(explain::Explain),
    /// Print the completions of a shell, such as `source <(forebayctl completion bash)`.
    Completion {
        /// The shell.
        shell: Shell,
    },
}

/// What to do with shards.
#[derive(Debug, Subcommand)]
pub enum Shards {
    /// List the shards of a job, or of all jobs.
    List {
        /// The job.
        job: Option<String>,
    },
    /// Move a shard to another server, while its writer works.
    Move {
        /// The job.
        job: String,
        /// The operator.
        operator: String,
        /// Its key groups, such as 0-64: the first one and the one behind the last.
        #[arg(value_name = "START-END", value_parser = placement::range)]
        range: (u32, u32),
        /// Name of the server that it goes to.
        #[arg(long, value_name = "SERVER")]
        to: String,
        /// Only tell whether it can be moved.
        #[arg(long)]
        dry_run: bool,
    },
    /// Split a shard; its workers stand still for moments, and nothing goes back.
    Split {
        /// The job.
        job: String,
        /// The operator.
        operator: String,
        /// Its key groups, such as 0-64: the first one and the one behind the last.
        #[arg(value_name = "START-END", value_parser = placement::range)]
        range: (u32, u32),
        /// First key groups of the parts but the first, such as 16,32.
        #[arg(long, value_name = "GROUP", value_delimiter = ',', required = true)]
        at: Vec<u32>,
        /// Only tell whether it can be split.
        #[arg(long)]
        dry_run: bool,
    },
    /// Make neighbouring shards one: those on other servers than the first move there, then workers stand still for
    /// moments, and nothing goes back.
    Merge {
        /// The job.
        job: String,
        /// The operator.
        operator: String,
        /// Their key groups, such as 0-128: the first one of the first and the one behind the last of the last.
        #[arg(value_name = "START-END", value_parser = placement::range)]
        range: (u32, u32),
        /// Only tell whether they can be merged.
        #[arg(long)]
        dry_run: bool,
    },
}

/// What to do with servers.
#[derive(Debug, Subcommand)]
pub enum Servers {
    /// List the servers.
    List,
    /// Move all shards off a server, which gets no more until it is started anew.
    Drain {
        /// Its name.
        name: String,
        /// Only tell where its shards would go.
        #[arg(long)]
        dry_run: bool,
    },
    /// Let a server get shards again that was drained; what has left stays where it is.
    Undrain {
        /// Its name.
        name: String,
    },
}

/// Where a state is.
#[derive(Debug, Clone, Args)]
pub struct StateName {
    /// The job.
    pub job: String,
    /// The operator.
    pub operator: String,
    /// The state.
    #[arg(value_name = "STATE")]
    pub name: String,
}

/// The parts of an address that come after the key.
#[derive(Debug, Clone, Args)]
pub struct Within {
    /// The namespace, such as a window.
    #[arg(long, visible_alias = "window", value_name = "NS", allow_hyphen_values = true)]
    pub namespace: Option<String>,
    /// The key group; for jobs of the explicit partitioner.
    #[arg(long, value_name = "N")]
    pub key_group: Option<u32>,
}

impl Arguments {
    /// Returns the connection to the cluster, which is made with the first call.
    pub fn connection(&self) -> Connection {
        Connection::new(&self.server, self.timeout)
    }
}

/// Returns the completions of a shell.
pub fn completion(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "forebayctl", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_negative_number_is_a_value_and_a_flag_is_a_flag() {
        let words = ["forebayctl", "state", "put", "j", "o", "s", "-1", "-2", "-0.5", "--window", "-3", "-o", "json"];
        let arguments = Arguments::try_parse_from(words).unwrap();
        assert_eq!(arguments.output, Format::Json);
        let Command::State { command } = arguments.command else { panic!("a command on states") };
        let state::Command::Put(put) = *command else { panic!("a put") };
        assert_eq!(
            (put.key.as_str(), put.values, put.within.namespace.as_deref()),
            ("-1", vec!["-2".into(), "-0.5".into()], Some("-3"))
        );
    }

    #[test]
    fn what_is_added_to_a_sorted_set_has_no_key() {
        for (words, key, value) in [(&["-1", "-2"][..], Some("-1"), "-2"), (&["-2", "--key-group", "3"], None, "-2")] {
            let words = [&["forebayctl", "state", "add", "j", "o", "s"], words].concat();
            let Command::State { command } = Arguments::try_parse_from(words).unwrap().command else { panic!() };
            let state::Command::Add(add) = *command else { panic!("an add") };
            assert_eq!((add.key.as_deref(), add.value.as_str()), (key, value));
        }
    }

    #[test]
    fn a_compare_and_set_expects_one_thing() {
        let parses = |words: &[&str]| {
            let words = [&["forebayctl", "state", "cas", "j", "o", "s", "k"], words].concat();
            Arguments::try_parse_from(words).is_ok()
        };
        for right in [&["new", "--absent"][..], &["--expect", "-old"], &["new", "--version", "3"]] {
            assert!(parses(right), "{right:?}");
        }
        for wrong in [&["new"][..], &["new", "--absent", "--version", "3"], &["a", "b", "--absent"]] {
            assert!(!parses(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn every_shell_is_completed() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            assert!(completion(shell).contains("checkpoint"), "{shell}");
        }
    }
}
