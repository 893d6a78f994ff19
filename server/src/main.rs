//! The binary `forebay`: arguments, configuration, telemetry; runs a role until it is told to stop.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use forebay_server::{
    config, run,
    run::Role,
    telemetry::{self, Telemetry},
};
use tokio_util::sync::CancellationToken;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Exit code for a configuration that cannot be used.
const EXIT_CONFIG: u8 = 2;

#[derive(Parser)]
#[command(name = "forebay", version, about = "Remote state for stream workers")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Coordinator and server in one process, for one machine.
    Dev(Options),
    /// Hosts shards.
    Server(Options),
    /// Places shards, leases writers, drives checkpoints.
    Coordinator(Options),
}

#[derive(Args)]
struct Options {
    /// Configuration file, TOML or YAML.
    #[arg(long, env = "FOREBAY_CONFIG")]
    config: Option<PathBuf>,
    /// Address to listen on [default: 127.0.0.1:7400].
    #[arg(long)]
    listen: Option<String>,
    /// Where shards keep their files [default: forebay-data].
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Where checkpoints go: s3://bucket/prefix, file:///path or a path [default: a folder in the data directory].
    #[arg(long)]
    checkpoint_dir: Option<String>,
    /// Any other setting, as section.key=value.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

impl Options {
    /// The settings that were given, and what is wrong with the others.
    fn overrides(&self) -> (Vec<(String, String)>, Vec<String>) {
        let (mut overrides, mut problems) = (Vec::new(), Vec::new());
        let mut put = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                overrides.push((key.to_owned(), value));
            }
        };
        put("server.listen", self.listen.clone());
        put("server.data_dir", self.data_dir.as_ref().map(|dir| dir.display().to_string()));
        put("checkpoint.dir", self.checkpoint_dir.clone());
        for setting in &self.settings {
            match setting.split_once('=') {
                Some((key, value)) => put(key, Some(value.to_owned())),
                None => problems.push(format!("--set {setting}: KEY=VALUE is needed")),
            }
        }
        (overrides, problems)
    }
}

fn main() -> ExitCode {
    let (role, options) = match Cli::parse().command {
        Command::Dev(options) => (Role::Dev, options),
        Command::Server(options) => (Role::Server, options),
        Command::Coordinator(options) => (Role::Coordinator, options),
    };
    let (overrides, mut problems) = options.overrides();
    let read = config::read(options.config.as_deref(), &overrides).map_err(|more| problems.extend(more));
    let Some(config) = read.ok().filter(|_| problems.is_empty()) else {
        problems.iter().for_each(|problem| eprintln!("forebay: {problem}"));
        return ExitCode::from(EXIT_CONFIG);
    };
    match start(role, config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forebay: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(role: Role, config: config::Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let _telemetry: Telemetry = telemetry::start(&config.telemetry)?;
        let stop = CancellationToken::new();
        tokio::spawn(until_told_to_stop(stop.clone()));
        run::run(role, config, stop, |address| println!("forebay: listening on {address}")).await
    })
}

async fn until_told_to_stop(stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        }
        _ => std::future::pending().await,
    }
    stop.cancel();
}
