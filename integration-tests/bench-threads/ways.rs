//! The ways: a thread per shard (the server's), a thread per core for all of them, a lock per shard.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use forebay_integration_tests::{
    bench::data::{Data, Random},
    conformance::{Kind, Shard, Times},
    harness::value,
};
use forebay_proto::{
    packed::{Op, OpsBuilder},
    v1::{OpKind, PackedOps},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

/// Operations of a batch, and batches of a shard that are under way.
const BATCH: usize = 128;
const IN_FLIGHT: usize = 8;
/// Batches that are prepared for each shard; every other one writes.
const PREPARED: usize = 256;
/// Requests that may wait for a thread: the server's.
const QUEUE: usize = 256;
const STATE: u32 = 1;

/// Which threads do the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A thread per shard, with a queue.
    Own,
    /// As many threads as the machine has cores, each with a queue for its share of the shards.
    Shared,
    /// The runtime's threads, with a lock around each shard.
    Lock,
    /// The runtime's threads for what may block, with a lock around each shard.
    Blocking,
}

impl Way {
    /// The server's own comes first.
    pub const ALL: [Self; 4] = [Self::Own, Self::Shared, Self::Lock, Self::Blocking];

    pub fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Shared => "thread_per_core",
            Self::Lock => "lock",
            Self::Blocking => "lock_blocking",
        }
    }
}

/// Shards that hold their keys, and batches for them.
pub struct Ready {
    shards: Vec<Arc<Mutex<Held>>>,
    batches: Arc<Vec<Batch>>,
}

/// A shard with the number of the next write batch of its lane.
struct Held {
    shard: Shard,
    seq: u64,
}

#[derive(Clone)]
struct Batch {
    ops: PackedOps,
    writes: bool,
}

struct Request {
    shard: Arc<Mutex<Held>>,
    batch: Batch,
    reply: oneshot::Sender<Result<()>>,
}

impl Held {
    fn batch(&mut self, batch: Batch) -> Result<()> {
        let times = Times::default();
        if batch.writes {
            self.seq += 1;
            self.shard.write_as(self.seq, batch.ops, times).map_err(|refusal| anyhow!("{refusal:?}"))?;
        } else {
            let answer = self.shard.read(batch.ops, times).map_err(|refusal| anyhow!("{refusal:?}"))?;
            ensure!(answer.answers.is_some_and(|answers| answers.counts.len() == BATCH), "answers are missing");
        }
        Ok(())
    }
}

impl Ready {
    /// Makes shards, each with all keys.
    pub fn make(kind: Kind, count: u32, data: &Data) -> Result<Self> {
        let mut random = Random::new(count.into());
        let keys: Vec<_> = (0..data.len()).collect();
        let writes: Vec<_> = keys.chunks(BATCH).map(|keys| ops(data, keys, true)).collect();
        let fill = |_| {
            let mut held = Held { shard: Shard::new(kind, &[value("state")]), seq: 0 };
            writes.iter().try_for_each(|ops| held.batch(Batch { ops: ops.clone(), writes: true }))?;
            Ok(Arc::new(Mutex::new(held)))
        };
        let shards = (0..count).map(fill).collect::<Result<_>>()?;
        let prepare = |number: usize| {
            let keys: Vec<_> = (0..BATCH).map(|_| random.below(data.len())).collect();
            let writes = number.is_multiple_of(2);
            Batch { ops: ops(data, &keys, writes), writes }
        };
        Ok(Self { shards, batches: Arc::new((0..PREPARED).map(prepare).collect()) })
    }

    /// Sends batches to all shards; returns the operations that were answered, the seconds, and how long each batch took.
    pub async fn run(&self, way: Way, duration: Duration) -> Result<(usize, f64, Vec<Duration>)> {
        let threads = match way {
            Way::Own => self.shards.len(),
            Way::Shared => thread::available_parallelism()?.get(),
            Way::Lock | Way::Blocking => 0,
        };
        let queues: Vec<_> = (0..threads).map(|_| serve()).collect();
        let begun = Instant::now();
        let mut tasks = JoinSet::new();
        for (index, shard) in self.shards.iter().enumerate() {
            // Those in flight take turns, as the batches of a lane do.
            let next = Arc::new(AtomicUsize::new(index));
            for _ in 0..IN_FLIGHT {
                let queue = queues.get(index % queues.len().max(1)).cloned();
                let (shard, batches, next) = (shard.clone(), self.batches.clone(), next.clone());
                tasks.spawn(async move {
                    let mut latencies = Vec::new();
                    while begun.elapsed() < duration {
                        let batch = batches[next.fetch_add(1, Ordering::Relaxed) % batches.len()].clone();
                        let sent = Instant::now();
                        one(way, queue.as_ref(), &shard, batch).await?;
                        latencies.push(sent.elapsed());
                    }
                    anyhow::Ok(latencies)
                });
            }
        }
        let mut latencies = Vec::new();
        while let Some(task) = tasks.join_next().await {
            latencies.extend(task??);
        }
        Ok((latencies.len() * BATCH, begun.elapsed().as_secs_f64(), latencies))
    }
}

async fn one(way: Way, queue: Option<&mpsc::Sender<Request>>, shard: &Arc<Mutex<Held>>, batch: Batch) -> Result<()> {
    match (way, queue) {
        (_, Some(queue)) => {
            let (reply, answer) = oneshot::channel();
            let request = Request { shard: shard.clone(), batch, reply };
            queue.send(request).await.ok().context("the thread has ended")?;
            answer.await?
        }
        (Way::Blocking, None) => {
            let shard = shard.clone();
            tokio::task::spawn_blocking(move || locked(&shard, batch)).await?
        }
        (_, None) => {
            let done = locked(shard, batch);
            // A network would give other tasks their turn, too.
            tokio::task::yield_now().await;
            done
        }
    }
}

/// A thread with a queue; it ends with its senders. Nobody else takes the locks meanwhile: they cost nothing.
fn serve() -> mpsc::Sender<Request> {
    let (queue, mut requests) = mpsc::channel::<Request>(QUEUE);
    thread::spawn(move || {
        while let Some(Request { shard, batch, reply }) = requests.blocking_recv() {
            reply.send(locked(&shard, batch)).ok();
        }
    });
    queue
}

fn locked(shard: &Mutex<Held>, batch: Batch) -> Result<()> {
    shard.lock().unwrap_or_else(PoisonError::into_inner).batch(batch)
}

fn ops(data: &Data, keys: &[u32], writes: bool) -> PackedOps {
    let mut ops = OpsBuilder::new();
    for &index in keys {
        if writes {
            ops.push(&Op::new(OpKind::ValuePut, STATE, data.key(index)).with_value(&data.value(index, 0)));
        } else {
            ops.push(&Op::new(OpKind::ValueGet, STATE, data.key(index)));
        }
    }
    ops.finish()
}
