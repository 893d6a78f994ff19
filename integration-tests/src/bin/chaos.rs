//! `make chaos ROUNDS=n`: real processes killed with SIGKILL at random moments, a worker with a server and a coordinator;
//! then whole clusters, whose processes also stand still and lose each other. Exact each time.

use std::{fs::OpenOptions, io::Write as _, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use forebay_integration_tests::{
    flights::{chaos, cut},
    orders,
};
use forebay_proto::v1;

#[derive(Parser)]
struct Args {
    /// Number of rounds.
    #[arg(long, default_value_t = 50)]
    rounds: u64,
    /// Number of clusters behind them, of 22 faults each.
    #[arg(long, default_value_t = 5)]
    clusters: u64,
    /// Seed of the first round.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// File of flights: .csv or .csv.zst.
    #[arg(long, default_value = "integration-tests/data/flights-2013.csv.zst")]
    input: PathBuf,
    /// Records of a round.
    #[arg(long, default_value_t = 40_000)]
    records: usize,
    /// Document that a line about this run is added to.
    #[arg(long)]
    record: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let folder = tempfile::tempdir()?;
    let input = folder.path().join("flights.csv");
    cut(&args.input, &input, args.records).context("the input cannot be read")?;
    let (mut kills, mut between) = (0, 0);
    for seed in args.first..args.first + args.rounds {
        // Every fifth round keeps its state in memory, where each kill of the server is a rewind.
        let backend = if seed % 5 == 4 { v1::Backend::Memory } else { v1::Backend::Rocksdb };
        let round = chaos::round(&input, backend, seed).await?;
        kills += round.kills;
        between += round.between_barrier_and_commit;
        println!(
            "round {seed}: {backend:?}, kills {}, between barrier and commit {}, rewinds {}: exact",
            round.kills, round.between_barrier_and_commit, round.rewinds
        );
    }
    // A round that is not exact has ended the run with an error.
    println!("chaos: rounds {}, kills {kills}, between barrier and commit {between}, lost 0, doubled 0", args.rounds);
    ensure!(between > 0 || args.rounds < 5, "no kill came between a barrier and its commit: more rounds are needed");
    let clusters = clusters(&args).await?;
    println!("chaos: {clusters}, lost 0, doubled 0");
    if let Some(path) = &args.record {
        let last = args.first + args.rounds.max(args.clusters);
        let line = format!(
            "| {} | {}–{} | {kills} kills, {between} between barrier and commit | {clusters} |\n",
            commit()?,
            args.first,
            last - 1
        );
        let file = OpenOptions::new().append(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// The commit that is checked out.
fn commit() -> Result<String> {
    let output = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

async fn clusters(args: &Args) -> Result<String> {
    let faults = orders::chaos::Faults { kills: 12, pauses: 4, partitions: 4, rescales: 2, moves: 2 };
    let (mut takeovers, mut moves, mut lines) = (0, 0, 0);
    for seed in args.first..args.first + args.clusters {
        let done = orders::chaos::run(seed, faults, v1::Backend::Rocksdb).await?;
        let seconds = done.took.as_secs_f64();
        println!(
            "cluster {seed}: {faults:?} in {seconds:.0} s, takeovers {}, shards moved {}, store calls failed {}, lines {} ({:.0}/s): exact",
            done.takeovers,
            done.moves,
            done.store_faults,
            done.lines,
            done.lines as f64 / seconds
        );
        takeovers += done.takeovers;
        moves += done.moves;
        lines += done.lines;
    }
    let all = |count: usize| count as u64 * args.clusters;
    Ok(format!(
        "{} kills, {} pauses, {} partitions, {} workers that came or left; {takeovers} takeovers, {moves} shards moved, {lines} lines",
        all(faults.kills),
        all(faults.pauses),
        all(faults.partitions),
        all(faults.rescales)
    ))
}
