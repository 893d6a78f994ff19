//! Worker state that two workers have handed over, given to another number of them; and states that only some
//! shards and checkpoints have.

use std::sync::{Arc, Mutex};

use forebay_client::{Client, Error, Value, Worker, WorkerState, codec::Utf8};
use forebay_integration_tests::harness::{Api, Forebay, Job, JobBuilder, eventually, list, raw, value};
use forebay_proto::v1::{self, Redistribution};
use tokio_util::sync::CancellationToken;

const LAST: Value<Utf8, Utf8> = Value::new("last");

/// What a worker was given: its index, the elements of its three lists, and whether it was restored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Given {
    index: u32,
    split: String,
    union: String,
    broadcast: String,
    restored: bool,
}

/// A worker that does nothing but hand over what it holds.
struct Holder {
    given: Arc<Mutex<Option<Given>>>,
    task: tokio::task::JoinHandle<Worker>,
}

impl Holder {
    async fn join(forebay: &Forebay, name: &str, state: WorkerState, stop: &CancellationToken) -> Self {
        let client = Client::connect(&forebay.url()).await.unwrap();
        let mut worker = client.worker("job", "op").id(name).state(&LAST).join().await.unwrap();
        let given: Arc<Mutex<Option<Given>>> = Arc::default();
        let (told, stop) = (given.clone(), stop.clone());
        let task = tokio::spawn(async move {
            loop {
                let assigned = worker.assigned().await.unwrap();
                let text = |list: &str| assigned.worker_state().values::<Utf8, String>(list).unwrap().concat();
                let given = Given {
                    index: assigned.place().0,
                    split: text("split"),
                    union: text("union"),
                    broadcast: text("broadcast"),
                    restored: assigned.restored(),
                };
                *told.lock().unwrap() = Some(given);
                match worker.idle(|| state.clone(), stop.cancelled()).await {
                    Err(Error::Rewound { .. }) => {}
                    other => {
                        other.unwrap();
                        return worker;
                    }
                }
            }
        });
        Self { given, task }
    }
}

fn holding(split: &[&'static str], union: &'static str, broadcast: &'static str) -> WorkerState {
    let state = WorkerState::new().list("split", Redistribution::Split, split.to_vec());
    let state = state.list("union", Redistribution::Union, [union]);
    state.list("broadcast", Redistribution::Broadcast, [broadcast])
}

#[tokio::test(flavor = "multi_thread")]
async fn another_number_of_workers_is_given_its_shares_as_flink_would() {
    let forebay = Forebay::dev().await;
    let api = forebay.api();
    let spec = JobBuilder::leased("job", 4).in_memory();
    let spec = spec.with(|spec| spec.checkpoints.get_or_insert_default().retained = 50);
    api.create(spec.build()).await.unwrap();
    let stop = CancellationToken::new();
    let first = Holder::join(&forebay, "a", holding(&["1", "2", "3"], "p", "x"), &stop).await;
    let second = Holder::join(&forebay, "b", holding(&["4", "5"], "q", "y"), &stop).await;
    // A worker that joins has the others stop at a checkpoint of their own.
    let (id, checkpoint) = eventually("both workers are in a checkpoint", || async {
        let checkpoint = api.checkpoint("job").await.ok()?.id;
        let workers = api.manifest("job", checkpoint).await.ok()?.workers;
        (workers.len() == 2).then_some((checkpoint, workers))
    })
    .await;
    assert_eq!(api.describe("job").await.unwrap().generation, 1, "nothing went back");
    stop.cancel();
    for holder in [first, second] {
        holder.task.await.unwrap().leave().await.unwrap();
    }
    let of_a_first = checkpoint.iter().any(|state| state.worker == "a" && state.index == 0);
    let (mut own, mut copies, mut union) = (["123", "45"], ["x", "y"], "pq");
    if !of_a_first {
        own.reverse();
        copies.reverse();
        union = "qp";
    }
    let split = own.concat();

    let stop = CancellationToken::new();
    for workers in 1..=3 {
        let mut holders = Vec::new();
        for name in &["c", "d", "e"][..workers] {
            holders.push(Holder::join(&forebay, name, WorkerState::new(), &stop).await);
        }
        eventually("all hold shards", || async {
            let held = |holder: &Holder| holder.given.lock().unwrap().is_some();
            holders.iter().all(held).then_some(())
        })
        .await;
        // What they have handed over since they are there is nothing.
        let restore = v1::RestoreJobRequest { job: "job".into(), checkpoint: id, ..Default::default() };
        api.coordinator().restore_job(restore).await.unwrap();
        let (base, more) = (5 / workers, 5 % workers);
        let cut = |index: usize| {
            let start = index * base + index.min(more);
            &split[start..start + base + usize::from(index < more)]
        };
        // The same number of workers gets back what each had.
        let slice = |index: usize| if workers == 2 { own[index] } else { cut(index) };
        let expected = |index: usize| Given {
            index: u32::try_from(index).unwrap(),
            split: slice(index).to_owned(),
            union: union.to_owned(),
            broadcast: copies[index % 2].to_owned(),
            restored: true,
        };
        let expected: Vec<_> = (0..workers).map(expected).collect();
        eventually(&format!("{workers} workers have {expected:?}"), || async {
            let given = holders.iter().map(|holder| holder.given.lock().unwrap().clone());
            let mut given = given.collect::<Option<Vec<_>>>()?;
            given.sort();
            (given == expected).then_some(())
        })
        .await;
        for holder in holders {
            holder.task.abort();
            holder.task.await.err();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn states_that_only_some_shards_and_checkpoints_have_are_joined_at_a_restore() {
    let mut forebay = Forebay::dev().await;
    let api = forebay.api();
    // In memory: the death of the server takes every shard back to the checkpoint.
    let spec = JobBuilder::shared("job", 16).in_memory().build();
    let mut job = Job::create(&api, spec, &[value("every")]).await;
    // Each key group, and so each shard, has a state of its own.
    let names: Vec<_> = (0..16).map(|number| format!("state-{number}")).collect();
    let register = async |name: &str, api: &Api| api.register("job", "op", vec![list(name)]).await.unwrap();
    let key_in = |shard: usize| (0..).map(|number| format!("key-{number}")).find(|key| in_shard(key, shard)).unwrap();
    for (shard, name) in names.iter().enumerate() {
        job.states.extend(register(name, &api).await);
        job.refresh(&api).await;
        api.append(job.at(name, &key_in(shard)), raw(name.as_bytes())).await.unwrap();
        api.put(job.at("every", &key_in(shard)), raw(name.as_bytes())).await.unwrap();
    }
    api.checkpoint("job").await.unwrap();
    // A state that the checkpoint does not know.
    job.states.extend(register("later", &api).await);
    job.refresh(&api).await;
    api.append(job.at("later", &key_in(3)), raw("gone")).await.unwrap();
    forebay.kill_and_restart().await;

    job.refresh(&api).await;
    for (shard, name) in names.iter().enumerate() {
        assert_eq!(job.stored(&api, name, &key_in(shard)).await, [name.as_str()]);
        assert_eq!(job.stored(&api, "every", &key_in(shard)).await, [name.as_str()]);
        let other = key_in((shard + 1) % 16);
        assert!(job.stored(&api, name, &other).await.is_empty(), "{name} has nothing of another shard");
        api.append(job.at(name, &other), raw("new")).await.unwrap();
        assert_eq!(job.stored(&api, name, &other).await, ["new"]);
    }
    assert!(job.stored(&api, "later", &key_in(3)).await.is_empty());
    api.append(job.at("later", &key_in(3)), raw("again")).await.unwrap();
    assert_eq!(job.stored(&api, "later", &key_in(3)).await, ["again"]);
    let refused =
        api.register("job", "op", vec![v1::StateDescriptor { kind: v1::StateKind::Map.into(), ..list("state-3") }]);
    let message = refused.await.unwrap_err().message().to_owned();
    assert!(message.contains("state-3") && message.contains("\"list\"") && message.contains("\"map\""), "{message}");
}

/// True if a key is of the shard of that number among 16.
fn in_shard(key: &str, shard: usize) -> bool {
    use forebay_proto::key_group::{KeyGroup, MaxParallelism};
    usize::from(KeyGroup::of(key.as_bytes(), MaxParallelism::DEFAULT).get()) / 8 == shard
}
