//! A worker of the job `job` whose every record is one write that is acknowledged: what stops, shows; what is lost or
//! doubled, too.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use forebay_client::{
    Client, Error, MergeFunction, Reducing, WorkerState,
    codec::{I64, U64, Utf8},
};
use forebay_integration_tests::harness::eventually;
use tokio::task::JoinHandle;

const SUM: Reducing<Utf8, I64> = Reducing::new("sum", MergeFunction::SumI64);
const KEYS: u64 = 50;

/// A worker that counts, and writes through at once, until it is told to end.
pub struct Counting {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    longest: Arc<AtomicU64>,
    task: JoinHandle<(u64, i64, u32)>,
}

impl Counting {
    pub async fn start(addresses: &str) -> Self {
        let client = Client::connect(addresses).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (acknowledged, longest) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let task = tokio::spawn(count(client, stop.clone(), acknowledged.clone(), longest.clone()));
        let counting = Self { stop, acknowledged, longest, task };
        counting.goes_on("the worker counts").await;
        counting
    }

    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// The longest time that a write took since the last call.
    pub fn longest(&self) -> Duration {
        Duration::from_micros(self.longest.swap(0, Ordering::Relaxed))
    }

    /// Waits until more was acknowledged.
    pub async fn goes_on(&self, what: &str) {
        let before = self.acknowledged();
        eventually(what, || async { (self.acknowledged() > before + 20).then_some(()) }).await;
    }

    /// Ends it, and checks that every record counted once. Returns how often it was assigned anew.
    pub async fn ends(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        let (position, sum, sessions) = self.task.await.unwrap();
        assert_eq!(sum, position as i64);
        sessions
    }
}

async fn count(
    client: Client,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    longest: Arc<AtomicU64>,
) -> (u64, i64, u32) {
    let mut worker = client.worker("job", "op").id("counter").state(&SUM).join().await.unwrap();
    let mut sessions = 0;
    'generation: loop {
        let assigned = worker.assigned().await.unwrap();
        sessions += 1;
        let sums = assigned.open(&SUM).unwrap();
        let mut position = assigned.worker_state().value::<U64, _>("position").unwrap().unwrap_or(0);
        loop {
            match worker.boundary(|| WorkerState::of::<U64, _>("position", &position)).await {
                Err(Error::Rewound { .. }) => continue 'generation,
                other => other.unwrap(),
            }
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let written = Instant::now();
            sums.add(&format!("key-{}", position % KEYS), &1).await.unwrap();
            position += 1;
            match worker.flush().await {
                Err(Error::Rewound { .. }) => continue 'generation,
                other => other.unwrap(),
            }
            acknowledged.fetch_add(1, Ordering::Relaxed);
            longest.fetch_max(written.elapsed().as_micros() as u64, Ordering::Relaxed);
        }
        let mut sum = 0;
        for key in 0..KEYS {
            sum += sums.get(&format!("key-{key}")).await.unwrap().unwrap_or(0);
        }
        worker.finish(|| WorkerState::of::<U64, _>("position", &position)).await.unwrap();
        return (position, sum, sessions);
    }
}
