//! The Rust SDK's handles against a real server: what one worker writes, the next one reads, over the death of
//! the server and over a rewind.

#![cfg(feature = "rocksdb")]

use std::sync::{Arc, Mutex};

use forebay_client::{
    Aggregating, Assigned, Client, Error, HookResult, Hooks, List, Map, MergeFunction, Multimap, Reducing, Result,
    Timers, Ttl, Value, Worker, WorkerState,
    aggregate::{AvgI64, CountDistinct, MaxBy, TopK},
    codec::{I64, U64, Utf8},
};
use forebay_integration_tests::harness::{Forebay, JobBuilder, Setup};
use forebay_proto::v1;
use futures::future::BoxFuture;

const LAST: Value<Utf8, Utf8> = Value::new("last");
const SHORT: Value<Utf8, Utf8> = Value::new("short").ttl(Ttl::new(std::time::Duration::from_secs(3600)));
const BRIEF: List<Utf8, Utf8> = List::new("brief").ttl(Ttl::new(std::time::Duration::from_secs(3600)));
const PRICED: Value<Utf8, I64> = Value::new("priced").schema(b"{\"unit\": \"cent\"}", 3);
const UNPRICED: Value<Utf8, I64> = Value::new("priced");
const LEGS: List<Utf8, Utf8> = List::new("legs");
const ROUTES: Map<Utf8, Utf8, I64> = Map::new("routes");
const TAGS: Multimap<Utf8, Utf8, Utf8> = Multimap::new("tags");
const DELAY: Reducing<Utf8, I64> = Reducing::new("delay", MergeFunction::SumI64);
const MEAN: Aggregating<Utf8, AvgI64> = Aggregating::avg_i64("mean");
const TAILS: Aggregating<Utf8, CountDistinct<Utf8>> = Aggregating::count_distinct("tails");
const BEST: Aggregating<Utf8, TopK<I64>> = Aggregating::top_k("best", 2);
const LATEST: Aggregating<Utf8, MaxBy<I64, Utf8>> = Aggregating::max_by("latest");
const DUE: Timers<Utf8, Utf8> = Timers::new("due");

const KEYS: [&str; 3] = ["N1", "N22", "N333"];

async fn join(forebay: &Forebay, worker: &str) -> Result<Worker> {
    let client = Client::connect(&forebay.url()).await?;
    let worker = client.worker("job", "op").id(worker).state(&LAST).state(&SHORT).state(&LEGS).state(&ROUTES);
    let worker = worker.state(&TAGS).state(&DELAY).state(&MEAN).state(&TAILS).state(&BEST).state(&LATEST);
    worker.state(&DUE).join().await
}

/// Writes something of every kind, and reads it back before it is sent.
async fn write(assigned: &Assigned) -> Result<()> {
    let (last, legs, routes) = (assigned.open(&LAST)?, assigned.open(&LEGS)?, assigned.open(&ROUTES)?);
    let (short, tags, delay) = (assigned.open(&SHORT)?, assigned.open(&TAGS)?, assigned.open(&DELAY)?);
    let (mean, tails, best) = (assigned.open(&MEAN)?, assigned.open(&TAILS)?, assigned.open(&BEST)?);
    let (latest, due) = (assigned.open(&LATEST)?, assigned.open(&DUE)?);
    for (number, key) in (0_i64..).zip(KEYS) {
        assert!(last.compare_and_set(key, None::<&str>, Some("first")).await?);
        assert!(!last.compare_and_set(key, None::<&str>, Some("again")).await?);
        assert!(last.compare_and_set(key, Some("first"), Some("second")).await?);
        short.update(key, "soon gone").await?;
        for leg in ["a", "b", "c", "d"] {
            legs.add(key, leg).await?;
            routes.put(key, &format!("{leg}-x"), &number).await?;
            tags.add(key, "tag", leg).await?;
            tags.add(key, leg, key).await?;
            delay.add(key, &(number + 1)).await?;
            mean.add(key, &number).await?;
            tails.add(key, leg).await?;
            latest.add(key, &(number + i64::from(leg.as_bytes()[0]), leg)).await?;
        }
        for length in [5, 9, 7] {
            best.add(key, &(length + number)).await?;
        }
        routes.remove(key, "b-x").await?;
        due.register(key, "w", 100 - number).await?;
        due.register(key, "w", 200).await?;
        due.delete(key, "w", 200).await?;
    }
    read(assigned).await
}

/// Reads what [`write`] wrote.
async fn read(assigned: &Assigned) -> Result<()> {
    let (last, legs, routes) = (assigned.open(&LAST)?, assigned.open(&LEGS)?, assigned.open(&ROUTES)?);
    let (short, tags, delay) = (assigned.open(&SHORT)?, assigned.open(&TAGS)?, assigned.open(&DELAY)?);
    let (mean, tails, best) = (assigned.open(&MEAN)?, assigned.open(&TAILS)?, assigned.open(&BEST)?);
    let latest = assigned.open(&LATEST)?;
    last.prefetch(KEYS).await?;
    for (number, key) in (0_i64..).zip(KEYS) {
        assert_eq!(last.get(key).await?.as_deref(), Some("second"));
        assert_eq!(short.get(key).await?.as_deref(), Some("soon gone"));
        assert_eq!(legs.get(key).await?, ["a", "b", "c", "d"]);
        let mut pages = legs.pages(key, 3)?;
        assert_eq!(pages.next().await?.unwrap(), ["a", "b", "c"]);
        assert_eq!(pages.next().await?.unwrap(), ["d"]);
        assert_eq!(routes.keys(key).await?, ["a-x", "c-x", "d-x"]);
        assert_eq!(routes.scan(key)?.from("b")?.until("d")?.entries().await?, [("c-x".to_owned(), number)]);
        assert_eq!(tags.keys(key).await?, ["a", "b", "c", "d", "tag"]);
        assert_eq!(tags.get(key, "tag").await?, ["a", "b", "c", "d"]);
        assert_eq!(delay.get(key).await?, Some(4 * (number + 1)));
        assert_eq!(mean.get(key).await?, Some(number as f64));
        assert_eq!(tails.get(key).await?, Some(4));
        assert_eq!(best.get(key).await?, Some(vec![9 + number, 7 + number]));
        assert_eq!(latest.get(key).await?.as_deref(), Some("d"));
    }
    let due = assigned.open(&DUE)?.due(150, 10).await?;
    let due: Vec<_> = due.iter().map(|timer| (timer.timestamp, timer.key.as_str())).collect();
    assert_eq!(due, [(98, "N333"), (99, "N22"), (100, "N1")], "by their time, whatever their key group");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_writes_of_every_kind_the_next_one_reads_after_the_server_has_died() {
    for backend in [v1::Backend::Rocksdb, v1::Backend::Memory] {
        let mut forebay = Forebay::dev().await;
        let spec = JobBuilder::leased("job", 3).with(|spec| spec.set_backend(backend)).build();
        forebay.api().create(spec).await.unwrap();
        let mut first = join(&forebay, "first").await.unwrap();
        let assigned = first.assigned().await.unwrap();
        assert!(!assigned.restored());
        write(&assigned).await.unwrap();
        first.finish(|| WorkerState::of::<U64, _>("position", &7)).await.unwrap();
        forebay.kill_and_restart().await;

        let mut second = join(&forebay, "second").await.unwrap();
        let assigned = second.assigned().await.unwrap();
        assert!(assigned.restored());
        assert_eq!(assigned.worker_state().value::<U64, _>("position").unwrap(), Some(7));
        read(&assigned).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn timers_fire_once_and_their_effects_go_with_them() {
    let forebay = Forebay::dev().await;
    forebay.api().create(JobBuilder::leased("job", 3).build()).await.unwrap();
    let mut worker = join(&forebay, "worker").await.unwrap();
    let assigned = worker.assigned().await.unwrap();
    let (due, fired) = (assigned.open(&DUE).unwrap(), assigned.open(&DELAY).unwrap());
    for number in 0..500 {
        due.register(&format!("N{}", number % 50), "w", i64::from(number)).await.unwrap();
    }
    let (mut count, mut last) = (0, i64::MIN);
    loop {
        let timers = due.due(399, 32).await.unwrap();
        if timers.is_empty() {
            break;
        }
        for timer in timers {
            assert!(timer.timestamp >= last, "{} behind {last}", timer.timestamp);
            last = timer.timestamp;
            fired.add(&timer.key, &1).await.unwrap();
            due.delete(&timer.key, &timer.namespace, timer.timestamp).await.unwrap();
            count += 1;
        }
    }
    assert_eq!((count, last), (400, 399));
    worker.flush().await.unwrap();
    for key in 0..50 {
        assert_eq!(fired.get(&format!("N{key}")).await.unwrap(), Some(8));
    }
    assert_eq!(due.due(i64::MAX, 1000).await.unwrap().first().map(|timer| timer.timestamp), Some(400));
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_of_a_session_are_merged_with_what_is_not_sent_yet() {
    let forebay = Forebay::dev().await;
    forebay.api().create(JobBuilder::leased("job", 1).build()).await.unwrap();
    let mut worker = join(&forebay, "worker").await.unwrap();
    let assigned = worker.assigned().await.unwrap();
    let (legs, delay) = (assigned.open(&LEGS).unwrap(), assigned.open(&DELAY).unwrap());
    for (window, number) in [("w1", 1), ("w2", 2), ("w3", 4)] {
        legs.namespace(window).unwrap().add("N1", window).await.unwrap();
        delay.namespace(window).unwrap().add("N1", &number).await.unwrap();
    }
    legs.merge_namespaces("N1", ["w1", "w3"], "w2").await.unwrap();
    delay.merge_namespaces("N1", ["w1", "w3"], "w2").await.unwrap();
    let (legs, delay) = (legs.namespace("w2").unwrap(), delay.namespace("w2").unwrap());
    assert_eq!(legs.get("N1").await.unwrap(), ["w2", "w1", "w3"]);
    assert_eq!(delay.get("N1").await.unwrap(), Some(7));
}

/// Notes which hook runs for which checkpoint, and fails at barriers if it is told to.
#[derive(Debug, Clone, Default)]
struct Told {
    heard: Arc<Mutex<Vec<(&'static str, u64)>>>,
    fails: bool,
}

impl Told {
    fn hear(&self, hook: &'static str, checkpoint: u64) -> BoxFuture<'_, HookResult> {
        self.heard.lock().unwrap().push((hook, checkpoint));
        let result = if self.fails && hook == "barrier" { Err("no".into()) } else { Ok(()) };
        Box::pin(std::future::ready(result))
    }

    async fn join(&self, forebay: &Forebay, worker: &str) -> Worker {
        let client = Client::connect(&forebay.url()).await.unwrap();
        client.worker("job", "op").id(worker).state(&LAST).hooks(self.clone()).join().await.unwrap()
    }
}

impl Hooks for Told {
    fn before_barrier(&mut self, checkpoint: u64) -> BoxFuture<'_, HookResult> {
        self.hear("barrier", checkpoint)
    }

    fn on_completed(&mut self, checkpoint: u64) -> BoxFuture<'_, HookResult> {
        self.hear("completed", checkpoint)
    }

    fn on_restore(&mut self, checkpoint: u64) -> BoxFuture<'_, HookResult> {
        self.hear("restore", checkpoint)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_run_at_the_barrier_at_its_completion_and_again_at_a_rewind() {
    let mut forebay = Forebay::dev().await;
    forebay.api().create(JobBuilder::leased("job", 2).build()).await.unwrap();
    let told = Told::default();
    let mut first = told.join(&forebay, "first").await;
    first.assigned().await.unwrap();
    let done = first.finish(WorkerState::default).await.unwrap();
    assert_eq!(*told.heard.lock().unwrap(), [("restore", 0), ("barrier", done), ("completed", done)]);

    let told = Told::default();
    let mut second = told.join(&forebay, "second").await;
    second.assigned().await.unwrap();
    second.boundary(WorkerState::default).await.unwrap();
    let restored = [("restore", done), ("completed", done)];
    assert_eq!(*told.heard.lock().unwrap(), restored);

    forebay.kill().await;
    forebay.delete_data();
    forebay.restart().await;
    let ended = second.idle(WorkerState::default, std::future::pending::<()>()).await.unwrap_err();
    assert!(ended.is_rewound(), "{ended}");
    second.assigned().await.unwrap();
    second.boundary(WorkerState::default).await.unwrap();
    assert_eq!(*told.heard.lock().unwrap(), [restored, restored].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_fails_at_the_barrier_declines_the_checkpoint_and_is_told() {
    let forebay = Forebay::dev().await;
    forebay.api().create(JobBuilder::leased("job", 1).build()).await.unwrap();
    let told = Told { fails: true, ..Told::default() };
    let mut worker = told.join(&forebay, "worker").await;
    worker.assigned().await.unwrap();
    let failed = worker.finish(WorkerState::default).await.unwrap_err();
    assert!(matches!(&failed, Error::Hook { hook: "before_barrier", message } if message == "no"), "{failed}");
    let checkpoints = forebay.api().checkpoints("job").await.unwrap();
    assert_eq!(checkpoints.completed, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_may_have_a_deadline_of_its_own() {
    let forebay = Forebay::dev().await;
    let api = forebay.api();
    api.create(JobBuilder::leased("job", 1).build()).await.unwrap();
    let client = Client::connect(&forebay.url()).await.unwrap();
    let worker = client.worker("job", "op").id("worker").state(&LAST).state(&SHORT).state(&BRIEF);
    let mut worker = worker.join().await.unwrap();
    let assigned = worker.assigned().await.unwrap();
    let (last, short, brief) =
        (assigned.open(&LAST).unwrap(), assigned.open(&SHORT).unwrap(), assigned.open(&BRIEF).unwrap());
    let (past, far) = (1, 4_000_000_000_000);
    short.expiring_at(past).unwrap().update("N1", "gone").await.unwrap();
    short.expiring_at(far).unwrap().update("N2", "for long").await.unwrap();
    assert_eq!(short.get("N1").await.unwrap(), None);
    assert_eq!(short.get("N2").await.unwrap().as_deref(), Some("for long"));
    brief.add("N1", "an hour").await.unwrap();
    brief.expiring_at(past).unwrap().add_all("N1", ["gone", "too"]).await.unwrap();
    brief.expiring_at(far).unwrap().add("N1", "for long").await.unwrap();
    assert_eq!(brief.get("N1").await.unwrap(), ["an hour", "for long"]);
    worker.flush().await.unwrap();
    let rows = api.scan("job", "op", "brief").await.unwrap();
    let deadlines: Vec<_> = rows.into_iter().filter_map(|row| row.value?.expires_at_ms).collect();
    assert!(deadlines.len() == 2 && deadlines[0] < far && deadlines[1] == far, "{deadlines:?}");
    let rows = api.scan("job", "op", "short").await.unwrap();
    assert_eq!(rows.into_iter().filter_map(|row| row.value?.expires_at_ms).collect::<Vec<_>>(), [far]);
    let error = last.expiring_at(far).unwrap_err().to_string();
    assert!(error.contains("\"last\" has no TTL"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_is_told_to_whoever_opens_the_state() {
    let forebay = Forebay::dev().await;
    forebay.api().create(JobBuilder::leased("job", 1).build()).await.unwrap();
    let client = Client::connect(&forebay.url()).await.unwrap();
    let mut first = client.worker("job", "op").id("first").state(&PRICED).join().await.unwrap();
    first.assigned().await.unwrap();
    first.leave().await.unwrap();
    // A program that says nothing of a schema is told the one that is registered.
    let mut second = client.worker("job", "op").id("second").state(&UNPRICED).join().await.unwrap();
    let assigned = second.assigned().await.unwrap();
    let state = assigned.open(&UNPRICED).unwrap();
    let registered = state.registered().descriptor.clone().unwrap();
    assert_eq!((&registered.schema[..], registered.schema_version), (&b"{\"unit\": \"cent\"}"[..], 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_beside_its_server_needs_only_the_unix_socket() -> Result<()> {
    let setup = Setup::dev();
    let socket = setup.home().join("forebay.sock").display().to_string();
    let url = format!("unix://{socket}");
    let mut forebay = setup.set("server.unix", &socket).set("server.advertise", &url).start().await;
    let client = Client::connect(&url).await?;
    client.create_job(JobBuilder::leased("job", 2).build()).await?;
    let mut worker = client.worker("job", "op").state(&LAST).join().await?;
    let last = worker.assigned().await?.open(&LAST)?;
    last.update("N1", "second").await?;
    worker.flush().await?;
    let routes = forebay.api().routing("job").await.unwrap().routes;
    assert!(routes.iter().all(|route| route.address == url), "{routes:?}");
    // The socket of a process that was killed is still there, and nobody's.
    forebay.kill_and_restart().await;
    last.update("N22", "third").await?;
    worker.flush().await?;
    assert_eq!(last.value("N1").await?.as_deref(), Some("second"));
    let other = Setup::dev().set("server.unix", &socket).fails().await;
    assert!(other.stderr.contains("cannot listen on the Unix socket"), "{other:#?}");
    let folder = tempfile::tempdir().unwrap();
    let notes = folder.path().join("notes");
    std::fs::write(&notes, "mine").unwrap();
    let other = Setup::dev().set("server.unix", &notes.display().to_string()).fails().await;
    assert!(other.stderr.contains("is there and no socket"), "{other:#?}");
    assert_eq!(std::fs::read_to_string(&notes).unwrap(), "mine");
    Ok(())
}
