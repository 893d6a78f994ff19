//! Two sources and a worker behind them, whose barriers come with the records: whatever dies in between, every record
//! counts once; at least once where that is what was asked for.

#![cfg(feature = "rocksdb")]

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use forebay_client::{
    Assigned, Barrier, Client, Error, HookResult, Hooks, MergeFunction, Reducing, Worker, WorkerState,
    codec::{I64, U64, Utf8},
    inputs::{Inputs, Item, Next},
    v1,
};
use forebay_integration_tests::harness::{Forebay, JobBuilder, eventually};
use forebay_proto::{codec::Codec, v1::CheckpointMode};
use futures::future::BoxFuture;
use tokio::{sync::mpsc, task::JoinHandle, time::sleep};

/// Per record: how often it was seen.
const SEEN: Reducing<Utf8, I64> = Reducing::new("seen", MergeFunction::SumI64);
/// Records of a source.
const RECORDS: u64 = 3_000;
const SOURCES: usize = 2;

type Sender = mpsc::Sender<(usize, Item<String>)>;
type Receiver = mpsc::Receiver<(usize, Item<String>)>;

/// What carries records from the sources to the worker behind them: another one in every generation.
#[derive(Clone, Default)]
struct Wires(Arc<Mutex<HashMap<u64, Wire>>>);

/// The receiver is there until somebody takes it.
type Wire = (Sender, Option<Receiver>);

impl Wires {
    fn sender(&self, generation: u64) -> Sender {
        self.with(generation, |(sender, _)| sender.clone())
    }

    fn receiver(&self, generation: u64) -> Receiver {
        self.with(generation, |(_, receiver)| receiver.take()).expect("one worker reads in a generation")
    }

    fn with<T>(&self, generation: u64, take: impl FnOnce(&mut Wire) -> T) -> T {
        take(self.0.lock().unwrap().entry(generation).or_insert_with(|| {
            let (sender, receiver) = mpsc::channel(256);
            (sender, Some(receiver))
        }))
    }
}

/// Sends barriers on.
struct Forward {
    source: usize,
    wire: Arc<Mutex<Option<Sender>>>,
}

impl Hooks for Forward {
    fn forward(&mut self, barrier: &Barrier) -> BoxFuture<'_, HookResult> {
        let item = (self.source, Item::Barrier(barrier.clone()));
        let wire = self.wire.lock().unwrap().clone();
        Box::pin(async move {
            if let Some(wire) = wire {
                // Nobody reads it: the worker behind is dead, and the checkpoint comes to nothing.
                wire.send(item).await.ok();
            }
            Ok(())
        })
    }
}

async fn source(client: Client, wires: Wires, source: usize) -> Result<(), Error> {
    let wire = Arc::new(Mutex::new(None));
    let hooks = Forward { source, wire: wire.clone() };
    let mut worker = client.worker("job", "source").id(format!("source-{source}")).hooks(hooks).join().await?;
    loop {
        let assigned = worker.assigned().await?;
        match emit(&mut worker, &assigned, &wires, source, &wire).await {
            Err(error) if error.is_rewound() => {}
            other => return other,
        }
    }
}

async fn emit(
    worker: &mut Worker,
    assigned: &Assigned,
    wires: &Wires,
    source: usize,
    wire: &Mutex<Option<Sender>>,
) -> Result<(), Error> {
    let name = format!("position-{source}");
    // Sources may change places: each finds its own position among all.
    let mut position = assigned.worker_state().value::<U64, _>(&name)?.unwrap_or(0);
    let sender = wires.sender(assigned.generation());
    *wire.lock().unwrap() = Some(sender.clone());
    let state = |position: u64| {
        let bytes = <U64 as Codec<u64>>::to_bytes(&position).unwrap();
        WorkerState::new().list(&format!("position-{source}"), v1::Redistribution::Union, [bytes])
    };
    while position < RECORDS {
        // One looks for barriers seldom, so that its own come later than the other's, behind more records.
        if source == 0 || position.is_multiple_of(50) {
            worker.boundary(|| state(position)).await?;
        }
        // A full wire is not waited for: a barrier may have come.
        if sender.try_send((source, Item::Record(format!("{source}-{position}")))).is_err() {
            worker.idle(|| state(position), sleep(Duration::from_millis(1))).await?;
            continue;
        }
        position += 1;
        if position.is_multiple_of(if source == 0 { 10 } else { 5 }) {
            sleep(Duration::from_millis(1)).await;
        }
    }
    worker.idle(|| state(position), std::future::pending::<()>()).await
}

/// Counts of checkpoints that had records in flight, and of records that came back.
#[derive(Default)]
struct Tally {
    in_flight: u64,
    came_back: u64,
}

async fn behind(client: Client, wires: Wires, tally: Arc<Mutex<Tally>>) -> Result<(), Error> {
    let mut worker = client.worker("job", "behind").id("behind").state(&SEEN).join().await?;
    loop {
        let assigned = worker.assigned().await?;
        match count(&mut worker, &assigned, &wires, &tally).await {
            Err(error) if error.is_rewound() => {}
            other => return other,
        }
    }
}

async fn count(worker: &mut Worker, assigned: &Assigned, wires: &Wires, tally: &Mutex<Tally>) -> Result<(), Error> {
    let seen = assigned.open(&SEEN)?;
    let mut wire = wires.receiver(assigned.generation());
    for record in assigned.in_flight::<Utf8, String>()? {
        assert!(assigned.holds(record.as_bytes()), "it holds all shards");
        seen.add(&record, &1).await?;
        tally.lock().unwrap().came_back += 1;
    }
    let mut inputs = Inputs::new(SOURCES);
    loop {
        worker.boundary(WorkerState::new).await?;
        while let Ok((input, item)) = wire.try_recv() {
            inputs.arrived(input, item);
        }
        match inputs.pop() {
            Some(Next::Record(_, record)) => {
                seen.add(&record, &1).await?;
            }
            Some(Next::Cut(barrier)) => worker.cut(&barrier, WorkerState::new).await?,
            Some(Next::Passed(barrier, records)) => {
                tally.lock().unwrap().in_flight += u64::from(!records.is_empty());
                worker.report(&barrier, records.into_iter().map(Into::into)).await?;
            }
            Some(Next::Abandoned(barrier)) => worker.decline(&barrier, "a later barrier has come").await?,
            None => {
                let come = worker.idle(WorkerState::new, wire.recv());
                match tokio::time::timeout(Duration::from_millis(100), come).await {
                    Ok(Ok(Some((input, item)))) => inputs.arrived(input, item),
                    Ok(other) => drop(other?),
                    // For whoever looks from outside.
                    Err(_) => worker.flush().await?,
                }
            }
        }
    }
}

async fn counted(forebay: &Forebay) -> HashMap<String, i64> {
    let rows = forebay.api().scan("job", "behind", "seen").await.unwrap_or_default();
    let count = |row: &v1::ScanRow| {
        let value = row.value.as_ref().map(|value| value.readable.clone());
        let text = value.and_then(|value| match value?.form? {
            v1::value::Form::I64(count) => Some(count),
            _ => None,
        });
        (String::from_utf8_lossy(&row.key.as_ref().unwrap().raw).into_owned(), text.unwrap_or(-1))
    };
    rows.iter().map(count).collect()
}

/// Runs to the end, with workers that die on the way, and returns how often each record was seen.
async fn run(change: impl FnOnce(&mut v1::CheckpointSettings)) -> (HashMap<String, i64>, Tally) {
    let forebay = Forebay::dev().await;
    let api = forebay.api();
    let spec = JobBuilder::leased("job", 2).with(|spec| {
        let operator = spec.operators.remove(0);
        spec.operators.push(v1::Operator { name: "source".into(), ..operator.clone() });
        spec.operators.push(v1::Operator { name: "behind".into(), source: false, ..operator });
        let settings = spec.checkpoints.as_mut().unwrap();
        settings.interval_ms = Some(100);
        change(settings);
    });
    api.create(spec.build()).await.unwrap();
    let client = Client::connect(&forebay.url()).await.unwrap();
    let (wires, tally) = (Wires::default(), Arc::new(Mutex::new(Tally::default())));
    let start = |index: usize| -> JoinHandle<Result<(), Error>> {
        let (client, wires, tally) = (client.clone(), wires.clone(), tally.clone());
        if index < SOURCES {
            tokio::spawn(source(client, wires, index))
        } else {
            tokio::spawn(behind(client, wires, tally))
        }
    };
    let mut workers: Vec<_> = (0..=SOURCES).map(start).collect();
    for victim in [SOURCES, 0, SOURCES, 1] {
        let before = api.describe("job").await.unwrap().last_checkpoint;
        eventually("two checkpoints complete", || async {
            for worker in &workers {
                assert!(!worker.is_finished(), "a worker has ended");
            }
            (api.describe("job").await.ok()?.last_checkpoint >= before + 2).then_some(())
        })
        .await;
        // Somewhere within the next one.
        sleep(Duration::from_millis(130)).await;
        workers[victim].abort();
        workers[victim] = start(victim);
    }
    let all = SOURCES as u64 * RECORDS;
    let counted = eventually("all records are counted", || async {
        let counted = counted(&forebay).await;
        (counted.len() as u64 == all).then_some(counted)
    });
    let counted = counted.await;
    // What would be counted twice is in front of the barriers of the next checkpoints.
    let before = api.describe("job").await.unwrap().last_checkpoint;
    eventually("two checkpoints complete behind them", || async {
        (api.describe("job").await.ok()?.last_checkpoint >= before + 2).then_some(())
    })
    .await;
    let again = self::counted(&forebay).await;
    assert_eq!(counted.len(), again.len());
    workers.iter().for_each(JoinHandle::abort);
    (again, std::mem::take(&mut *tally.lock().unwrap()))
}

fn wrong(counted: &HashMap<String, i64>) -> Vec<(&String, &i64)> {
    counted.iter().filter(|(_, count)| **count != 1).take(10).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn barriers_that_are_aligned_count_every_record_once() {
    let (counted, tally) = run(|_| {}).await;
    assert_eq!(wrong(&counted), []);
    assert_eq!((tally.in_flight, tally.came_back), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn barriers_that_overtake_records_count_every_record_once() {
    let (counted, tally) = run(|settings| settings.unaligned = true).await;
    assert_eq!(wrong(&counted), []);
    assert!(tally.in_flight > 0 && tally.came_back > 0, "{} and {}", tally.in_flight, tally.came_back);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_least_once_loses_nothing() {
    let (counted, _) = run(|settings| settings.mode = CheckpointMode::AtLeastOnce.into()).await;
    assert!(counted.values().all(|count| *count >= 1));
}
