//! `make demo`: a stream worker whose state lives in Forebay, killed with its server in mid-stream,
//! brought back, and compared with the same computed straight in memory.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use forebay_integration_tests::{
    flights::{FlightsRun, State, Worker},
    harness::Setup,
    s3::S3Server,
};
use forebay_proto::v1;
use indicatif::{ProgressBar, ProgressStyle};

/// Time between two checkpoints.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long the stream takes at least, so that there is time to kill everything.
const STREAM: Duration = Duration::from_secs(20);
/// Bucket of the S3 server.
const BUCKET: &str = "demo";

#[derive(Parser)]
struct Args {
    /// File of flights: .csv or .csv.zst.
    #[arg(long)]
    input: PathBuf,
    /// rocksdb or memory.
    #[arg(long, default_value = "rocksdb")]
    backend: String,
    /// Checkpoints go to an S3 server instead of a local directory.
    #[arg(long)]
    s3: bool,
    /// Most records a second; by default so few that all take 20 seconds.
    #[arg(long)]
    throttle: Option<u32>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let backend = match args.backend.as_str() {
        "rocksdb" => v1::Backend::Rocksdb,
        "memory" => v1::Backend::Memory,
        other => bail!("--backend {other}: rocksdb or memory"),
    };
    let s3 = if args.s3 { Some(S3Server::start(BUCKET).await?) } else { None };
    let mut setup = Setup::dev();
    if let Some(s3) = &s3 {
        setup = setup.s3(s3, &format!("s3://{BUCKET}/forebay"));
    }
    println!("forebay dev: backend {}, checkpoints in {}", args.backend, setup.checkpoints());
    let mut forebay = setup.start().await;
    let home = forebay.setup().home().to_owned();
    let mut run = FlightsRun::prepare(&forebay.url(), &args.input, &home, backend, INTERVAL)
        .await
        .context("the job could not be prepared")?;
    let a_second = u32::try_from(run.flights / STREAM.as_secs()).unwrap_or(u32::MAX);
    let throttle = args.throttle.unwrap_or(a_second);
    if throttle == 0 {
        bail!("{} flights are too few: it takes {} to kill something meanwhile", run.flights, STREAM.as_secs());
    }
    let bar = bar(run.flights);
    let mut worker = run.worker(throttle);
    let (mut kills, mut last) = (Kills::default(), 0);
    let started = Instant::now();

    for victim in [Victim::Worker, Victim::Server, Victim::ServerAndDisk] {
        // Two checkpoints on, and then into the middle of the next interval.
        for _ in 0..2 {
            last = watch(&run, last, &worker, &bar).await?;
        }
        tokio::time::sleep(INTERVAL / 2).await;
        let generation = run.job().await?.generation;
        match victim {
            Victim::Worker => {
                bar.suspend(|| println!("✗ worker killed with SIGKILL after checkpoint {last}: the job rewinds to it"));
                worker.kill().await;
                worker = run.worker(throttle);
                kills.worker += 1;
            }
            Victim::Server => {
                let then = if backend == v1::Backend::Memory {
                    "its memory is lost: the job rewinds"
                } else {
                    "nobody rewinds"
                };
                bar.suspend(|| println!("✗ server killed with SIGKILL, its disk kept (wal): {then}"));
                forebay.kill_and_restart().await;
                kills.server += 1;
            }
            Victim::ServerAndDisk => {
                bar.suspend(|| println!("✗ server killed with SIGKILL and its disk deleted: the job rewinds"));
                forebay.kill().await;
                forebay.delete_data();
                forebay.restart().await;
                kills.server += 1;
            }
        }
        // A rewind shows once the next checkpoint is complete.
        last = watch(&run, last, &worker, &bar).await?;
        let rewound = run.job().await?.generation != generation;
        let must = victim != Victim::Server || backend == v1::Backend::Memory;
        if rewound != must {
            bail!("{victim:?}: rewound is {rewound}, must be {must}");
        }
    }
    while !worker.said().contains("all records are in checkpoint") {
        bar.set_position(worker.position());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    worker.finished().await?;
    bar.finish_and_clear();
    let job = run.job().await?;
    let stored = run.stored(&[forebay.api()]).await?;
    table(&stored, &job, started.elapsed());
    let (digest, expected) = (stored.digest(), run.expected().digest());
    if digest != expected {
        println!("not exact: state digest {digest:032x}, expected {expected:032x}");
        bail!("the state is not exact: {:#?}", stored.differences(run.expected()));
    }
    println!(
        "exact: state digest {digest:032x} = expected {expected:032x}; flights {}; kills worker={} server={}; rewinds {}",
        run.flights, kills.worker, kills.server, job.rewinds
    );
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Worker,
    Server,
    ServerAndDisk,
}

#[derive(Debug, Default)]
struct Kills {
    worker: u32,
    server: u32,
}

/// Waits for the next checkpoint and moves the bar meanwhile.
async fn watch(run: &FlightsRun, last: u64, worker: &Worker, bar: &ProgressBar) -> Result<u64> {
    let next = run.checkpoint_after(last, worker);
    tokio::pin!(next);
    loop {
        tokio::select! {
            next = &mut next => {
                let next = next?.context("the worker was done before everything was killed: lower --throttle")?;
                bar.set_message(next.to_string());
                return Ok(next);
            }
            () = tokio::time::sleep(Duration::from_millis(100)) => bar.set_position(worker.position()),
        }
    }
}

fn bar(flights: u64) -> ProgressBar {
    let bar = ProgressBar::new(flights);
    let template = "{bar:40} {human_pos}/{human_len} flights, checkpoint {msg}";
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn table(state: &State, job: &v1::JobInfo, took: Duration) {
    println!("\n{:<34} {:>12}   {:<20} {:>10}", "routes by flights", "flights", "aircraft by legs", "legs");
    let (routes, aircraft) = (state.largest("carriers", 5), state.largest("legs", 5));
    for ((route, flights), (tail, legs)) in routes.iter().zip(&aircraft) {
        println!("{route:<34} {flights:>12}   {tail:<20} {legs:>10}");
    }
    let rows = state.rows();
    println!("{rows} rows in 5 states, checkpoint {}, {:.1} s\n", job.last_checkpoint, took.as_secs_f64());
}
