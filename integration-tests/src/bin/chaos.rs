//! `make chaos ROUNDS=n`: real processes killed with SIGKILL at random moments, a worker with a server and a coordinator;
//! then whole clusters, whose processes also stand still and lose each other. Exact each time.

use std::{fmt::Write as _, fs::OpenOptions, io::Write as _, ops::Range, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use forebay_integration_tests::{
    bench::machine::Machine,
    chaos::{self, Done, FAULTS, Plan},
    flights::{chaos::round, cut},
};
use forebay_proto::v1;

#[derive(Parser)]
struct Args {
    /// Number of rounds.
    #[arg(long, default_value_t = 50)]
    rounds: u64,
    /// Number of clusters behind them, of 24 faults each; four that follow each other have every plan.
    #[arg(long, default_value_t = 8)]
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

fn main() -> Result<()> {
    let args = Args::parse();
    let machine = Machine::look();
    let mut rows = Vec::new();
    if args.rounds > 0 {
        rows.push(tokio::runtime::Runtime::new()?.block_on(rounds(&args))?);
    }
    rows.extend(clusters(args.first..args.first + args.clusters)?);
    let Some(path) = &args.record else { return Ok(()) };
    let commit = commit()?;
    let mut text = format!("\n{commit} on {machine}: `{}`\n\n", std::env::args().skip(1).collect::<Vec<_>>().join(" "));
    text += "| what | seeds | faults | what came of them |\n|---|---|---|---|\n";
    for Row { what, seeds, faults, outcome } in rows {
        writeln!(text, "| {what} | {seeds} | {faults} | {outcome}; lost 0, doubled 0 |")?;
    }
    let file = OpenOptions::new().append(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).with_context(|| path.display().to_string())
}

/// What is recorded of several runs. One that is not exact has ended everything with an error.
struct Row {
    what: String,
    seeds: String,
    faults: String,
    outcome: String,
}

async fn rounds(args: &Args) -> Result<Row> {
    let folder = tempfile::tempdir()?;
    let input = folder.path().join("flights.csv");
    cut(&args.input, &input, args.records).context("the input cannot be read")?;
    let (mut kills, mut between, mut rewinds) = (0, 0, 0);
    for seed in args.first..args.first + args.rounds {
        // Every fifth round keeps its state in memory, where each kill of the server is a rewind.
        let backend = if seed % 5 == 4 { v1::Backend::Memory } else { v1::Backend::Rocksdb };
        let round = round(&input, backend, seed).await?;
        kills += round.kills;
        between += round.between_barrier_and_commit;
        rewinds += round.rewinds;
        println!(
            "round {seed}: {backend:?}, kills {}, between barrier and commit {}, rewinds {}: exact",
            round.kills, round.between_barrier_and_commit, round.rewinds
        );
    }
    println!("chaos: rounds {}, kills {kills}, between barrier and commit {between}, lost 0, doubled 0", args.rounds);
    ensure!(between > 0 || args.rounds < 5, "no kill came between a barrier and its commit: more rounds are needed");
    Ok(Row {
        what: format!("{} rounds of flights under recovery: job", args.rounds),
        seeds: format!("{}–{}", args.first, args.first + args.rounds - 1),
        faults: format!("{kills} kills, {between} of them between a barrier and its commit"),
        outcome: format!("{rewinds} rewinds"),
    })
}

/// A row for each plan.
fn clusters(seeds: Range<u64>) -> Result<Vec<Row>> {
    let mut done = Vec::new();
    for seed in seeds {
        done.push((seed, chaos::run(seed, FAULTS)?));
    }
    let plans = (0..4).map(Plan::of);
    let rows = plans.map(|plan| row(plan, &done.iter().filter(|(_, done)| done.plan == plan).collect::<Vec<_>>()));
    Ok(rows.flatten().collect())
}

fn row(plan: Plan, runs: &[&(u64, Done)]) -> Option<Row> {
    let (_, first) = runs.first()?;
    let all = |count: usize| count * runs.len();
    let sum = |of: fn(&Done) -> u64| runs.iter().map(|(_, done)| of(done)).sum::<u64>();
    let slowest = runs.iter().map(|(_, done)| done.rate()).fold(f64::INFINITY, f64::min);
    let row = Row {
        what: format!("{} clusters of {plan}, {}", runs.len(), first.network()),
        seeds: runs.iter().map(|(seed, _)| seed.to_string()).collect::<Vec<_>>().join(", "),
        faults: format!(
            "{} kills, {} pauses, {} partitions, {} workers that came or left, {} calls of the store failed",
            all(FAULTS.kills),
            all(FAULTS.pauses),
            all(FAULTS.partitions),
            all(FAULTS.rescales),
            sum(|done| done.store_faults)
        ),
        outcome: format!(
            "{} takeovers, {} rewinds, {} shards moved, {} pairs of checkpoints compared, {} lines, {slowest:.0} a second or more",
            sum(|done| done.takeovers),
            sum(|done| done.rewinds),
            sum(|done| done.moves),
            sum(|done| done.compared),
            sum(|done| done.lines)
        ),
    };
    println!("chaos: {}: {}; {}; lost 0, doubled 0", row.what, row.faults, row.outcome);
    Some(row)
}

/// The commit that is checked out.
fn commit() -> Result<String> {
    let output = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
