//! Batches that share a sync of the log, and what becomes of them when a write fails.

use std::sync::{Mutex, mpsc as blocking};

use bytes::Bytes;
use forebay_proto::key_group::MaxParallelism;

use super::*;
use crate::{
    lease::boot_ms,
    shard::core::{Identity, Order},
    storage::{
        Backend, Error, Frozen as FrozenFiles, Logging, MemoryBackend, Read, Result, Table, TableId, Visitor, Writes,
    },
};

const WRITERS: u64 = 10;

/// A backend that waits before its first batch, counts what is synced and what was answered by then, and fails once.
#[derive(Default)]
struct Counting {
    rows: MemoryBackend,
    begin: Mutex<Option<blocking::Receiver<()>>>,
    syncs: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
    /// How the next write of that logging fails.
    fault: Option<(Logging, Error)>,
}

impl Read for Counting {
    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Bytes>> {
        self.rows.get(table, key)
    }

    fn scan(&self, table: TableId, start: &[u8], end: &[u8], visit: Visitor<'_>) -> Result<()> {
        self.rows.scan(table, start, end, visit)
    }
}

impl Backend for Counting {
    fn create_table(&mut self, table: Table) -> Result<()> {
        self.rows.create_table(table)
    }

    fn write(&mut self, writes: &Writes, logging: Logging) -> Result<()> {
        if let Some(begin) = self.begin.lock().unwrap().take() {
            begin.recv().unwrap();
        }
        if let Some((_, error)) = self.fault.take_if(|(at, _)| *at == logging) {
            return Err(error);
        }
        if logging == Logging::Synced {
            self.syncs.fetch_add(1, Ordering::SeqCst);
            assert_eq!(self.answered.load(Ordering::SeqCst), 0, "nothing is acknowledged before it is synced");
        }
        self.rows.write(writes, logging)
    }

    fn freeze(&mut self) -> Result<Box<dyn FrozenFiles>> {
        self.rows.freeze()
    }

    fn view(&self) -> Result<Arc<dyn View>> {
        self.rows.view()
    }

    fn expire(&mut self, table: TableId, until_ms: i64) {
        self.rows.expire(table, until_ms);
    }

    fn set_compaction_age(&mut self, table: TableId, age_s: u64) -> Result<()> {
        self.rows.set_compaction_age(table, age_s)
    }

    fn compact(&mut self) -> Result<()> {
        self.rows.compact()
    }

    fn estimate(&self, table: TableId) -> u64 {
        self.rows.estimate(table)
    }

    fn tables(&self) -> Vec<Table> {
        self.rows.tables()
    }

    fn clip(&mut self, range: KeyGroupRange) -> Result<()> {
        self.rows.clip(range)
    }

    fn bytes(&self) -> u64 {
        self.rows.bytes()
    }
}

fn core(backend: Counting, range: KeyGroupRange) -> Core {
    let identity = Identity {
        operator: "op".into(),
        range,
        max_parallelism: MaxParallelism::DEFAULT,
        explicit: false,
        recovery: v1::Recovery::Job,
        durability: v1::Durability::WalSync,
        max_value_bytes: 1 << 20,
        max_lanes: 1,
        backend: v1::Backend::Rocksdb,
    };
    let rights = Rights {
        access: v1::Access::Shared,
        generation: 1,
        restored_checkpoint: 0,
        shard_epoch: 1,
        incarnation: 1,
        writer_epoch: 0,
        leased: false,
        established: true,
        leaving: false,
    };
    Core::load(identity, rights, States::of_operator(&[], "op"), Box::new(backend)).unwrap()
}

fn write() -> Batch {
    Batch {
        caller: Caller { generation: 0, shard_epoch: 0, writer_epoch: 0, stream: 0 },
        order: Order::PlainWrite(None),
        ops: v1::PackedOps::default(),
        barrier: None,
        durability: v1::Durability::Unspecified,
        now_ms: 0,
        watermark_ms: None,
        positions: Default::default(),
        committed: false,
    }
}

#[test]
fn a_shard_that_keeps_no_positions_refuses_them() {
    let mut core = core(Counting::default(), KeyGroupRange::new(0, 128).unwrap());
    let batch = Batch { positions: [("file".to_owned(), vec![1].into())].into(), ..write() };
    let refused = core.batch(&batch, Moment { wall_ms: 1, lease: true }).unwrap_err();
    assert_eq!(refused.reason, v1::ErrorReason::FieldInvalid);
    assert!(refused.message.contains("recovery is not shard"), "{}", refused.message);
}

fn failing(at: Logging, error: Error) -> Core {
    core(Counting { fault: Some((at, error)), ..Counting::default() }, KeyGroupRange::new(0, 128).unwrap())
}

#[test]
fn a_sync_that_fails_is_no_acknowledgement_and_the_shard_does_nothing_more() {
    let error = Error::Io { path: "shard".into(), detail: "Input/output error".into() };
    let mut core = failing(Logging::Synced, error);
    let now = Moment { wall_ms: 1, lease: true };
    assert_eq!(core.batch(&write(), now).unwrap_err().reason, Reason::Io);
    assert!(core.failed().is_some_and(|cause| cause.contains("Input/output error")), "the process ends");
    assert_eq!(core.batch(&write(), now).unwrap_err().reason, Reason::Io);
}

#[test]
fn a_full_disk_refuses_a_batch_and_the_shard_goes_on() {
    let mut core = failing(Logging::Buffered, Error::DiskFull { path: "shard".into() });
    let now = Moment { wall_ms: 1, lease: true };
    assert_eq!(core.batch(&write(), now).unwrap_err().reason, Reason::DiskFull);
    assert_eq!((core.failed(), core.is_unsynced()), (None, false));
    core.batch(&write(), now).unwrap();
}

#[tokio::test]
async fn batches_that_wait_together_are_synced_together_before_any_is_answered() {
    let (syncs, answered) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (begin, began) = blocking::channel();
    let backend = Counting {
        begin: Mutex::new(Some(began)),
        syncs: syncs.clone(),
        answered: answered.clone(),
        ..Counting::default()
    };
    let lease = Arc::new(Lease::default());
    lease.renew(boot_ms(), 60_000);
    let range = KeyGroupRange::new(0, 128).unwrap();
    let (said, _heard) = mpsc::unbounded_channel();
    let shard = Shard::start(range, core(backend, range), (lease.clone(), lease.lapses()), said).unwrap();
    let mut answers = Vec::new();
    for _ in 0..WRITERS {
        let (sender, answer) = oneshot::channel();
        let answered = answered.clone();
        let reply = Box::new(move |result: std::result::Result<Done, Refused>| {
            answered.fetch_add(1, Ordering::SeqCst);
            sender.send(result).unwrap();
        });
        shard.batch(write(), reply).await;
        answers.push(answer);
    }
    begin.send(()).unwrap();
    for answer in answers {
        answer.await.unwrap().unwrap();
    }
    assert_eq!((syncs.load(Ordering::SeqCst), answered.load(Ordering::SeqCst)), (1, WRITERS));
    shard.stop().await;
}
