//! `make bench`: how fast Forebay is, beside redis-server and others on the same machine in the same run.
//!
//! One measurement is one kind of [`Work`] against one [`Target`]; all targets of a work are measured one
//! after the other, in an order that turns from run to run, so that a machine that drifts slows both sides
//! down. A ratio is taken within one run only. Sampled answers are checked: a wrong one ends everything.
//!
//! Clients run in this process, servers each in their own. docs/performance/README.md tells the rest.

mod embedded;
mod forebay;
mod load;
mod plan;
mod redis;
mod report;
mod tcp;

use std::{
    collections::HashMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Parser;
use forebay_integration_tests::{
    bench::{
        arguments::Common,
        data::{Data, Random},
        embedded::Embedded,
        machine::Machine,
    },
    harness::Setup,
};

use crate::{
    forebay::Forebay,
    load::{Books, Load},
    plan::{Target, Work},
    redis::Redis,
    report::Report,
    tcp::Tcp,
};

const SEED: u64 = 2_013;

/// Measures Forebay against redis-server.
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Number of keys [default: 1000000, or 20000 with --quick]. Read-modify-write takes a tenth of them.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1_000..=100_000_000))]
    keys: Option<u32>,
    /// Time of one measurement [default: 600, or 10 with --quick].
    #[arg(long)]
    millis: Option<u64>,
    /// Only measurements whose name contains this, such as "get 128" or "stream put 128 on memory".
    #[arg(long, default_value = "")]
    only: String,
    /// Reach Forebay over a Unix socket instead of TCP; figures of such a run are not those of the documents.
    #[arg(long)]
    unix: bool,
    /// Markdown file whose table, between its two marker comments, is replaced.
    #[arg(long)]
    readme: Option<PathBuf>,
}

fn main() -> Result<()> {
    if std::env::args().nth(1).is_some_and(|first| first == tcp::SERVE) {
        return tcp::serve();
    }
    let args = Args::parse();
    let keys = args.keys.unwrap_or(args.common.or_quick(1_000_000, 20_000));
    let millis = args.millis.unwrap_or(args.common.or_quick(600, 10));
    let out = args.common.out()?;
    let wanted = |work: Work, target: &Target| format!("{work} on {target}").contains(&args.only);

    let started = Instant::now();
    let mut machine = Machine::look();
    println!("{machine}");
    let data = Data::new(keys);
    let mut peers = Peers::start(&data, args.common.forebay(), args.unix)?;
    eprintln!("all servers hold {keys} keys after {:.1?}", started.elapsed());
    let mut report = Report::default();
    for run in 0..args.common.runs {
        peers.empty_lists(run)?;
        for work in plan::works() {
            let mut line = Vec::new();
            for target in work.targets(run).into_iter().filter(|target| wanted(work, target)) {
                if !args.common.quick {
                    machine.settle(&peers.processes());
                }
                let duration = Duration::from_millis(millis);
                let rate = peers.measure(target, work, duration, &data);
                let rate = rate.with_context(|| format!("{work} on {target}"))?;
                line.push(format!("{target} {}", report::human(rate)));
                report.add(target, work, rate);
            }
            if !line.is_empty() {
                eprintln!("run {}/{}: {work}: {}", run + 1, args.common.runs, line.join(", "));
            }
        }
    }
    machine.look_again();
    let rows = report.rows();
    print!("{}", report::table(&rows));
    let ratios = report::figures(&rows).write(&out)?;
    if let Some(readme) = &args.readme {
        report::write_markdown(&rows, &machine, readme)?;
    }
    println!("load average after: {}", machine.load_after());
    let seconds = started.elapsed().as_secs();
    println!("bench: runs {}, rows {}, keys {keys}, {seconds} s, {}", args.common.runs, rows.len(), ratios.display());
    Ok(())
}

/// All servers, and what must be found in each.
struct Peers {
    forebay: Forebay,
    redis: Redis,
    redis_aof: Redis,
    tcp: Tcp,
    embedded: Embedded,
    books: HashMap<Target, Books>,
    random: Random,
}

impl Peers {
    /// Starts the servers and puts every key into each.
    fn start(data: &Data, forebay: Setup, unix: bool) -> Result<Self> {
        let mut peers = Self {
            forebay: Forebay::start(data, forebay, unix)?,
            redis: Redis::start(false)?,
            redis_aof: Redis::start(true)?,
            tcp: Tcp::start()?,
            embedded: Embedded::open(true)?,
            books: Target::ALL.map(|target| (target, Books::new(data.len()))).into(),
            random: Random::new(SEED),
        };
        peers.forebay.fill(data)?;
        peers.redis.fill(data)?;
        peers.redis_aof.fill(data)?;
        peers.tcp.fill(data)?;
        peers.embedded.fill(data, data.len())?;
        Ok(peers)
    }

    /// Lists grow with every append: each run starts with none.
    fn empty_lists(&mut self, run: usize) -> Result<()> {
        for books in self.books.values_mut() {
            books.lists.clear();
        }
        self.redis.empty_lists()?;
        self.redis_aof.empty_lists()?;
        self.forebay.empty_lists(run)
    }

    fn processes(&self) -> [u32; 4] {
        let redis = [&self.redis, &self.redis_aof].map(Redis::process_id);
        [self.forebay.process_id(), self.tcp.process_id(), redis[0], redis[1]]
    }

    /// Returns operations per second.
    fn measure(&mut self, target: Target, work: Work, duration: Duration, data: &Data) -> Result<f64> {
        let books = self.books.get_mut(&target).expect("books of every target");
        let mut load = Load { data, books, random: &mut self.random, duration };
        match target {
            Target::Memory | Target::Rocks => self.forebay.measure(target, work, &mut load),
            Target::Redis => self.redis.measure(work, &mut load),
            Target::RedisAof => self.redis_aof.measure(work, &mut load),
            Target::Tcp | Target::Embedded => {
                let Work::Stream(op, batch) = work else { anyhow::bail!("{target} has nothing but batches") };
                match target {
                    Target::Tcp => self.tcp.measure(batch, &mut load),
                    _ => embedded::measure(&self.embedded, op, batch, &mut load),
                }
            }
        }
    }
}
