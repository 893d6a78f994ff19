//! What Flink's JobManager does with a state backend of ours, over many checkpoints and attempts: subtasks that are cut
//! anew, several checkpoints on their way at once, notifications that are lost, handles of old attempts, discards that
//! come late or twice, servers that die. After each restore every key is compared with what the engine had written
//! when it took the checkpoint.

use std::collections::{BTreeMap, VecDeque};

use forebay_integration_tests::harness::{Engine, Forebay, KEY_GROUPS, Setup, Subtask, eventually, reason};
use forebay_proto::{
    key_group::{MaxParallelism, assign},
    v1::{self, Backend, ErrorReason},
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tokio::task::JoinHandle;

/// Checkpoints that Flink keeps.
const RETAINED: usize = 2;
const KEYS: u32 = 60;

type Model = BTreeMap<String, String>;

/// A checkpoint on its way: a handle to come per subtask.
struct Pending {
    id: u64,
    model: Model,
    taking: Vec<JoinHandle<Result<v1::SnapshotHandle, tonic::Status>>>,
}

struct Completed {
    id: u64,
    model: Model,
    handles: Vec<v1::SnapshotHandle>,
}

struct Flink {
    forebay: Forebay,
    engine: Engine,
    random: StdRng,
    attempt: u64,
    subtasks: Vec<Subtask>,
    model: Model,
    next: u64,
    pending: VecDeque<Pending>,
    completed: VecDeque<Completed>,
    /// Handles that Flink has thrown away but not discarded yet.
    garbage: Vec<v1::SnapshotHandle>,
    restores: u32,
}

impl Flink {
    async fn start(backend: Backend, seed: u64) -> Self {
        // Whatever nothing names goes at once.
        let forebay = Setup::dev().set("coordinator.collect_min_age", "0s").start().await;
        let engine = Engine::create(&forebay.api(), |spec| spec.set_backend(backend)).await;
        let mut flink = Self {
            forebay,
            engine,
            random: StdRng::seed_from_u64(seed),
            attempt: 0,
            subtasks: Vec::new(),
            model: Model::new(),
            next: 1,
            pending: VecDeque::new(),
            completed: VecDeque::new(),
            garbage: Vec::new(),
            restores: 0,
        };
        flink.run().await;
        flink
    }

    /// Begins an attempt: subtasks of some number, restored from the newest completed checkpoint.
    async fn run(&mut self) {
        self.attempt += 1;
        let parallelism = self.random.random_range(1..=5);
        let newest = self.completed.back();
        let handles = newest.map(|completed| completed.handles.clone()).unwrap_or_default();
        self.model = newest.map(|completed| completed.model.clone()).unwrap_or_default();
        let max = MaxParallelism::new(KEY_GROUPS).unwrap();
        let mut subtasks = Vec::new();
        for range in assign(max, parallelism) {
            let range = (range.start(), range.end());
            let subtask = eventually("the shard can be opened", || async {
                match self.engine.open(range, self.attempt, &handles).await {
                    Ok(subtask) => Some(subtask),
                    // A server that has just been started anew.
                    Err(status) if status.code() == tonic::Code::Unavailable => None,
                    Err(status) => panic!("not opened: {status:?}"),
                }
            });
            subtasks.push(subtask.await);
        }
        self.subtasks = subtasks;
        self.restores += 1;
        self.compare().await;
    }

    async fn compare(&mut self) {
        for key in (0..KEYS).map(|key| format!("key-{key}")) {
            let subtask = self.subtasks.iter_mut().find(|subtask| subtask.holds(&key)).unwrap();
            assert_eq!(subtask.get(&key).await.as_ref(), self.model.get(&key), "{key} in attempt {}", self.attempt);
        }
    }

    async fn write(&mut self) {
        for _ in 0..self.random.random_range(1..20) {
            let (key, value) = (self.random.random_range(0..KEYS), self.random.random::<u32>());
            let (key, value) = (format!("key-{key}"), value.to_string());
            self.subtasks.iter_mut().find(|subtask| subtask.holds(&key)).unwrap().put(&key, &value).await;
            self.model.insert(key, value);
        }
    }

    async fn trigger(&mut self) {
        let id = self.next;
        self.next += 1;
        let mut taking = Vec::new();
        for subtask in &self.subtasks {
            taking.push(subtask.begin(&id.to_string()).await);
        }
        self.pending.push_back(Pending { id, model: self.model.clone(), taking });
    }

    /// The oldest checkpoint on its way completes, if all its snapshots are taken.
    async fn complete(&mut self) {
        let Some(Pending { id, model, taking }) = self.pending.pop_front() else { return };
        let mut handles = Vec::new();
        for taken in taking {
            handles.push(taken.await.unwrap().unwrap_or_else(|status| panic!("checkpoint {id}: {status:?}")));
        }
        self.completed.push_back(Completed { id, model, handles });
        for subtask in &self.subtasks {
            // Half of the notifications are lost.
            if self.random.random() {
                subtask.completed(&id.to_string()).await.unwrap();
            }
        }
        while self.completed.len() > RETAINED {
            let subsumed = self.completed.pop_front().unwrap();
            self.garbage.extend(subsumed.handles);
        }
    }

    /// The oldest checkpoint on its way is given up.
    async fn abort(&mut self) {
        let Some(Pending { id, taking, .. }) = self.pending.pop_front() else { return };
        let id = id.to_string();
        for subtask in &self.subtasks {
            match self.random.random_range(0..3) {
                0 => drop(subtask.cancel(&id).await.unwrap()),
                1 => subtask.aborted(&id).await.unwrap(),
                _ => {}
            }
        }
        for taken in taking {
            // What came through all the same is thrown away.
            match taken.await.unwrap() {
                Ok(handle) => self.garbage.push(handle),
                Err(status) => assert_eq!(reason(&status), ErrorReason::CheckpointAborted, "{status:?}"),
            }
        }
    }

    async fn discard(&mut self) {
        for handle in std::mem::take(&mut self.garbage) {
            if self.random.random_bool(0.7) {
                self.engine.discard(&handle).await.unwrap();
                if self.random.random_bool(0.3) {
                    assert!(!self.engine.discard(&handle).await.unwrap(), "twice is nothing to do");
                }
            } else {
                self.garbage.push(handle);
            }
        }
    }

    /// The attempt fails, and maybe the server with it; what it has on its way is thrown away when it comes.
    async fn fail(&mut self) {
        let old = std::mem::take(&mut self.subtasks);
        if self.random.random_bool(0.3) {
            self.forebay.kill_and_restart().await;
            self.engine.api = self.forebay.api();
        }
        let pending = std::mem::take(&mut self.pending);
        self.run().await;
        for Pending { id, taking, .. } in pending {
            for taken in taking {
                taken.await.unwrap().ok();
            }
            // Some answers died with the server: what was taken is found by the engine's own id.
            let request =
                v1::ListSnapshotsRequest { job: "job".into(), external_id: id.to_string(), ..Default::default() };
            self.garbage
                .extend(self.engine.api.snapshots().list_snapshots(request).await.unwrap().into_inner().handles);
        }
        // The old attempt does not know yet.
        let stale = old.choose(&mut self.random).unwrap();
        if let Ok(handle) = self.engine.api.snapshots().take_snapshot(stale.request("stale")).await {
            panic!("a stale attempt took {handle:?}");
        }
        let request = v1::CloseShardRequest { shard: Some(stale.shard.clone()), token: stale.token };
        self.engine.api.snapshots().close_shard(request).await.ok();
        let range = (stale.shard.start, stale.shard.end);
        let refused = self.engine.open(range, stale.token, &[]).await.unwrap_err();
        assert_eq!(reason(&refused), ErrorReason::WriterFenced, "{refused:?}");
    }

    async fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..40 => self.write().await,
            40..60 => self.trigger().await,
            60..78 => self.complete().await,
            78..84 => self.abort().await,
            84..90 => self.discard().await,
            90..94 => {
                let request = v1::CollectGarbageRequest { job: "job".into(), ..Default::default() };
                self.engine.api.coordinator().collect_garbage(request).await.unwrap();
            }
            _ => self.fail().await,
        }
    }

    /// Everything that is registered is somebody's, and what is completed can be restored.
    async fn end(&mut self) {
        while !self.pending.is_empty() {
            self.complete().await;
        }
        let mut expected: Vec<String> = self
            .completed
            .iter()
            .flat_map(|completed| &completed.handles)
            .chain(&self.garbage)
            .map(|handle| handle.snapshot.clone().unwrap().manifest)
            .collect();
        let listed = self.engine.list().await.unwrap();
        let mut listed: Vec<String> = listed.into_iter().map(|handle| handle.snapshot.unwrap().manifest).collect();
        expected.sort();
        listed.sort();
        assert_eq!(listed, expected);
        self.compare().await;
        self.subtasks.clear();
        let ids: Vec<u64> = self.completed.iter().map(|completed| completed.id).collect();
        while !self.completed.is_empty() {
            self.run().await;
            self.completed.pop_back();
        }
        assert!(self.restores > 1, "{ids:?}");
    }
}

/// Plays so many courses of events as `FOREBAY_SEEDS` says, two if it says nothing.
async fn flink(backend: Backend, first: u64) {
    let seeds = std::env::var("FOREBAY_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(2);
    for seed in first..first + seeds {
        eprintln!("flink on {backend:?}, seed {seed}");
        let mut flink = Flink::start(backend, seed).await;
        for _ in 0..120 {
            flink.step().await;
        }
        flink.end().await;
    }
}

#[cfg(feature = "rocksdb")]
#[tokio::test(flavor = "multi_thread")]
async fn flink_finds_what_it_had_written_on_rocksdb() {
    flink(Backend::Rocksdb, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flink_finds_what_it_had_written_in_memory() {
    flink(Backend::Memory, 1_000).await;
}
