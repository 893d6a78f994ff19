//! Statistics over a file of flights, exactly once: kill it, or the server, at any moment and start it again.
//!
//! ```sh
//! forebay dev &
//! cargo run --release -p forebay-client --example flights -- --input flights-2013.csv.zst
//! ```
//!
//! The file's columns are scheduled_departure, carrier, flight, tailnum, origin, dest, dep_delay_min,
//! arr_delay_min and distance_miles; an empty field is unknown. The source's position, the number of records
//! processed, is worker state: it is in every checkpoint with the state that those records have made.

use std::{
    cell::Cell,
    fs::File,
    io::{BufReader, IsTerminal, Read},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Parser;
use forebay_client::{
    Assigned, Client, Error, List, Map, MergeFunction, Reducing, Value, Worker, WorkerState,
    codec::{I64, Json, U64, Utf8},
    v1::{JobSpec, Operator},
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::{Deserialize, Serialize};
use tokio::time::sleep_until;

/// Per aircraft: how much it has flown.
const TOTALS: Value<Utf8, Json<Totals>> = Value::new("totals");
/// Per aircraft: its legs, in order.
const LEGS: List<Utf8, Utf8> = List::new("legs");
/// Per route: the sum of the arrival delays in minutes.
const DELAYS: Reducing<Utf8, I64> = Reducing::new("delays", MergeFunction::SumI64);
/// Per route: carrier → flights.
const CARRIERS: Map<Utf8, Utf8, I64> = Map::new("carriers");
/// Per airport, in the namespace of each hour: departures.
const DEPARTURES: Reducing<Utf8, I64> = Reducing::new("departures", MergeFunction::SumI64);

#[derive(Debug, Default, Serialize, Deserialize)]
struct Totals {
    flights: u64,
    miles: u64,
}

/// Statistics over a file of flights, kept in Forebay.
#[derive(Debug, Parser)]
struct Args {
    /// Address of the coordinator; several are separated by commas.
    #[arg(long, default_value = "http://127.0.0.1:7400")]
    server: String,
    /// File of flights: .csv or .csv.zst.
    #[arg(long)]
    input: PathBuf,
    /// Name of the job; it is created if there is none.
    #[arg(long, default_value = "flights")]
    job: String,
    /// Name of this worker; a later one of the same name takes its place.
    #[arg(long, default_value = "worker-1")]
    worker_id: String,
    /// Most records a second.
    #[arg(long)]
    throttle: Option<u32>,
}

#[derive(Debug, Deserialize)]
struct Flight {
    scheduled_departure: String,
    carrier: String,
    tailnum: String,
    origin: String,
    dest: String,
    arr_delay_min: Option<i64>,
    distance_miles: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let client = Client::connect(&args.server).await?;
    let stats = Operator { name: "stats".into(), shards: 8, source: true, ..Operator::default() };
    client.ensure_job(JobSpec { name: args.job.clone(), operators: vec![stats], ..JobSpec::default() }).await?;
    let worker = client.worker(&args.job, "stats").id(&args.worker_id);
    let worker = worker.state(&TOTALS).state(&LEGS).state(&DELAYS).state(&CARRIERS).state(&DEPARTURES);
    let mut worker = worker.join().await?;
    let progress = Progress::new(open(&args.input)?.into_records().count() as u64);
    let mut rewound = false;
    loop {
        let assigned = worker.assigned().await?;
        let position = assigned.worker_state().value::<U64, _>("position")?.unwrap_or(0);
        if rewound {
            let checkpoint = assigned.checkpoint().unwrap_or(0);
            progress.say(&format!("rewound to checkpoint {checkpoint}, position {position}"));
        } else if let Some(checkpoint) = assigned.checkpoint() {
            progress.say(&format!("restored checkpoint {checkpoint}, position {position}"));
        }
        progress.start(position);
        match process(&args, &mut worker, &assigned, position, &progress).await {
            Err(error) if error.downcast_ref().is_some_and(Error::is_rewound) => rewound = true,
            Err(error) => return Err(error),
            Ok(checkpoint) => {
                progress.say(&format!("all records are in checkpoint {checkpoint}"));
                return Ok(());
            }
        }
    }
}

/// Processes the flights from `position` on and returns the checkpoint that contains them all.
async fn process(
    args: &Args,
    worker: &mut Worker,
    assigned: &Assigned,
    mut position: u64,
    progress: &Progress,
) -> Result<u64> {
    let (totals, legs) = (assigned.open(&TOTALS)?, assigned.open(&LEGS)?);
    let (delays, carriers) = (assigned.open(&DELAYS)?, assigned.open(&CARRIERS)?);
    let departures = assigned.open(&DEPARTURES)?;
    let (started, first) = (Instant::now(), position);
    for flight in open(&args.input)?.into_deserialize::<Flight>().skip(usize::try_from(position)?) {
        let state = || WorkerState::of::<U64, _>("position", &position);
        // Between two records: a checkpoint's barrier goes through here.
        worker.boundary(state).await?;
        if let Some(throttle) = args.throttle {
            let due = started + Duration::from_secs_f64((position - first) as f64 / f64::from(throttle));
            if due > Instant::now() {
                worker.idle(state, sleep_until(due.into())).await?;
            }
        }
        let flight = flight.with_context(|| format!("record {position} of {}", args.input.display()))?;
        let route = format!("{}-{}", flight.origin, flight.dest);
        if !flight.tailnum.is_empty() {
            let mut total = totals.value(&flight.tailnum).await?.unwrap_or_default();
            total.flights += 1;
            total.miles += flight.distance_miles;
            totals.update(&flight.tailnum, &total).await?;
            legs.add(&flight.tailnum, &format!("{route}@{}", flight.scheduled_departure)).await?;
        }
        if let Some(delay) = flight.arr_delay_min {
            delays.add(&route, &delay).await?;
        }
        let flights = carriers.get(&route, &flight.carrier).await?.unwrap_or(0);
        carriers.put(&route, &flight.carrier, &(flights + 1)).await?;
        let hour = flight.scheduled_departure.get(..13).unwrap_or_default();
        departures.namespace(hour)?.add(&flight.origin, &1).await?;
        position += 1;
        progress.at(position, worker.last_completed());
    }
    Ok(worker.finish(|| WorkerState::of::<U64, _>("position", &position)).await?)
}

fn open(path: &Path) -> Result<csv::Reader<Box<dyn Read + Send>>> {
    let file = BufReader::new(File::open(path).with_context(|| format!("cannot open {}", path.display()))?);
    let packed = path.extension().is_some_and(|extension| extension == "zst");
    let input: Box<dyn Read + Send> = if packed { Box::new(zstd::Decoder::new(file)?) } else { Box::new(file) };
    Ok(csv::Reader::from_reader(input))
}

/// A bar on a terminal, a line a second elsewhere.
struct Progress {
    bar: ProgressBar,
    is_terminal: bool,
    said: Cell<Instant>,
}

impl Progress {
    fn new(records: u64) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(records), target);
        let template = "{bar:40} {human_pos}/{human_len} flights, {per_sec}, checkpoint {msg}";
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, is_terminal, said: Cell::new(Instant::now()) }
    }

    fn start(&self, position: u64) {
        self.bar.set_position(position);
        self.bar.reset_eta();
    }

    fn at(&self, position: u64, checkpoint: u64) {
        self.bar.set_position(position);
        if !position.is_multiple_of(100) || self.said.get().elapsed() < Duration::from_secs(1) {
            return;
        }
        self.said.set(Instant::now());
        self.bar.set_message(checkpoint.to_string());
        if !self.is_terminal {
            let (records, rate) = (self.bar.length().unwrap_or(0), self.bar.per_sec());
            eprintln!("{position}/{records} flights, {rate:.0}/s, checkpoint {checkpoint}");
        }
    }

    fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }
}
