//! Forebay: one process `forebay dev`, its jobs, and the ways to it: streams, unary calls, the SDK.

mod sdk;
mod stream;
mod unary;

use std::{collections::HashMap, future::Future};

use anyhow::Result;
use forebay_client::Client;
use forebay_integration_tests::{
    bench::{data::Data, lanes::STATE},
    harness::{self, Job, JobBuilder, Setup, list, value},
};
use tokio::runtime::{Builder, Runtime};

use self::sdk::Updater;
use crate::{
    load::Load,
    plan::{Op, Pace, Target, Work},
};

/// As many as there are cores to serve them.
const SHARDS: u32 = 2;
/// The SDK's cache if it is to have none: no entry fits, each is evicted as soon as it may be.
const NO_CACHE: usize = 1;

/// A running `forebay dev` with a job per backend and kind of work.
pub struct Forebay {
    updaters: HashMap<(Target, Pace), Updater>,
    // Before its runtime.
    process: harness::Forebay,
    url: String,
    /// The SDK's, as `#[tokio::main]` gives it to users.
    runtime: Runtime,
}

impl Forebay {
    /// Starts it and creates the jobs.
    pub fn start(data: &Data, mut setup: Setup, unix: bool) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let socket = setup.home().join("forebay.sock").display().to_string();
        if unix {
            setup = setup.set("server.unix", &socket).set("server.advertise", &format!("unix://{socket}"));
        }
        let process = runtime.block_on(setup.start());
        let url = if unix { format!("unix://{socket}") } else { process.url() };
        let mut forebay = Self { updaters: HashMap::new(), process, url, runtime };
        for target in Target::OURS {
            let values = forebay.job(target, Op::Put);
            forebay.create(target, &values, value(STATE));
            for pace in [Pace::OneByOne, Pace::Many] {
                let updater = forebay.updater(target, pace, data)?;
                forebay.updaters.insert((target, pace), updater);
            }
        }
        Ok(forebay)
    }

    pub fn process_id(&self) -> u32 {
        self.process.process().id()
    }

    /// Puts every key, and those of read-modify-write, with stamp 0.
    pub fn fill(&mut self, data: &Data) -> Result<()> {
        for target in Target::OURS {
            let (url, job) = (self.url.clone(), self.job(target, Op::Put));
            alone(stream::fill(&url, &job, data))?;
        }
        for updater in self.updaters.values_mut() {
            self.runtime.block_on(updater.fill(data))?;
        }
        Ok(())
    }

    /// Replaces the jobs that hold the lists.
    pub fn empty_lists(&mut self, run: usize) -> Result<()> {
        for target in Target::OURS {
            let job = self.job(target, Op::Append);
            if run > 0 {
                self.runtime.block_on(async { self.process.api().delete(&job).await })?;
            }
            self.create(target, &job, list(STATE));
        }
        Ok(())
    }

    /// Returns operations (or records) per second.
    pub fn measure(&mut self, target: Target, work: Work, load: &mut Load<'_>) -> Result<f64> {
        let url = self.url.clone();
        match work {
            Work::Stream(op, batch) => {
                let job = self.job(target, op);
                alone(stream::measure(&url, &job, op, batch, load))
            }
            Work::Unary(op) => {
                let job = self.job(target, op);
                alone(async { unary::measure(&Client::connect(&url).await?, &job, op, load).await })
            }
            Work::Update(pace) => {
                let updater = self.updaters.get_mut(&(target, pace)).expect("a worker of every kind");
                self.runtime.block_on(updater.measure(load))
            }
        }
    }

    fn job(&self, target: Target, op: Op) -> String {
        let what = if op == Op::Append { "lists" } else { "values" };
        format!("{what}-{}", target.id())
    }

    fn create(&self, target: Target, job: &str, state: forebay_client::v1::StateDescriptor) {
        let builder = on(target, JobBuilder::shared(job, SHARDS));
        self.runtime.block_on(async { Job::create(&self.process.api(), builder.build(), &[state]).await });
    }

    fn updater(&self, target: Target, pace: Pace, data: &Data) -> Result<Updater> {
        let job = format!("updated-{}-{}", target.id(), if pace == Pace::Many { "cached" } else { "uncached" });
        let builder = on(target, JobBuilder::leased(&job, SHARDS));
        let cache_bytes_max = (pace == Pace::OneByOne).then_some(NO_CACHE);
        self.runtime.block_on(async {
            let client = Client::connect(&self.url).await?;
            client.create_job(builder.build()).await?;
            Updater::join(&client, &job, cache_bytes_max, data.len() / 10).await
        })
    }
}

fn on(target: Target, builder: JobBuilder) -> JobBuilder {
    if target == Target::Memory { builder.in_memory() } else { builder }
}

/// Runs a client on a thread and a connection of its own, as the client of redis-server is run.
fn alone<T>(client: impl Future<Output = Result<T>>) -> Result<T> {
    Builder::new_current_thread().enable_all().build()?.block_on(client)
}
