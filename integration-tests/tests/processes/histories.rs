//! Concurrent unary callers on keys of a shared operator: what they were answered is linearizable per key, over kills of
//! the server, too.

#![cfg(feature = "rocksdb")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use forebay_integration_tests::{
    harness::{Api, Forebay, Job, JobBuilder, list, raw, value},
    histories::{Act, Call, List, Value, check},
};
use forebay_proto::v1::{self, Backend};
use futures::future::join_all;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tonic::{Code, Status};

const CALLERS: u64 = 8;
const KEYS: usize = 3;
/// What a caller calls at least.
const CALLS: usize = 150;

/// The calls of one key, a list of each kind.
type Histories = [(Vec<Call<Value>>, Vec<Call<List>>); KEYS];

/// One caller: its calls wait for their answers, however often they have to be sent.
struct Caller {
    api: Api,
    job: Job,
    id: u64,
    calls: u64,
    clock: Arc<AtomicU64>,
    rng: StdRng,
}

impl Caller {
    async fn call<A>(&mut self, send: impl AsyncFn(&Api, String) -> Result<A, Status>) -> ((u64, u64), A) {
        self.calls += 1;
        let (id, began) = (format!("{}-{}", self.id, self.calls), self.clock.fetch_add(1, Ordering::SeqCst));
        loop {
            match send(&self.api, id.clone()).await {
                Ok(answer) => return ((began, self.clock.fetch_add(1, Ordering::SeqCst)), answer),
                Err(status) => {
                    // A server that has just started knows of no job yet.
                    let code = status.code();
                    let dies = matches!(code, Code::Unavailable | Code::Unknown | Code::Cancelled);
                    let again = dies || matches!(code, Code::NotFound | Code::Aborted);
                    assert!(again, "{status:?}");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }

    /// A value that nobody else writes.
    fn fresh(&self) -> u64 {
        self.id * 1_000_000 + self.calls
    }

    async fn value(&mut self, key: usize) -> Call<Value> {
        let (at, fresh) = (self.job.at("value", &format!("key-{key}")), self.fresh());
        let address = || Some(at.clone());
        match self.rng.random_range(0..8) {
            0..2 => {
                let put = |request_id| v1::PutRequest {
                    address: address(),
                    values: vec![number(fresh)],
                    request_id,
                    ..Default::default()
                };
                let (span, _) = self.call(async |api, id| api.state().put(put(id)).await).await;
                Call { span, act: Value::Put(fresh) }
            }
            2 => {
                let clear = |request_id| v1::ClearRequest { address: address(), request_id, ..Default::default() };
                let (span, _) = self.call(async |api, id| api.state().clear(clear(id)).await).await;
                Call { span, act: Value::Clear }
            }
            3..6 => {
                let (span, found) = self.call(async |api, _| api.get(at.clone()).await).await;
                Call { span, act: Value::Get(numbers(&found.items).first().copied()) }
            }
            _ => {
                let (_, found) = self.call(async |api, _| api.get(at.clone()).await).await;
                let expected = numbers(&found.items).first().copied();
                let wanted = match expected {
                    Some(value) => v1::compare_and_set_request::Expected::Value(number(value)),
                    None => v1::compare_and_set_request::Expected::Absent(true),
                };
                let swap = |request_id| v1::CompareAndSetRequest {
                    address: address(),
                    expected: Some(wanted.clone()),
                    replacement: Some(number(fresh)),
                    request_id,
                    ..Default::default()
                };
                let (span, answer) = self.call(async |api, id| api.state().compare_and_set(swap(id)).await).await;
                Call { span, act: Value::CompareAndSet(expected, fresh, answer.into_inner().swapped) }
            }
        }
    }

    async fn list(&mut self, key: usize) -> Call<List> {
        let (at, fresh) = (self.job.at("list", &format!("key-{key}")), self.fresh());
        if self.rng.random_ratio(1, 2) {
            let append = |request_id| v1::AppendRequest {
                address: Some(at.clone()),
                values: vec![number(fresh)],
                request_id,
                ..Default::default()
            };
            let (span, _) = self.call(async |api, id| api.state().append(append(id)).await).await;
            Call { span, act: List::Append(fresh) }
        } else {
            let (span, found) = self.call(async |api, _| api.get(at.clone()).await).await;
            Call { span, act: List::Get(numbers(&found.items)) }
        }
    }

    async fn run(mut self, go_on: Arc<AtomicBool>) -> Histories {
        let mut histories = Histories::default();
        let mut made = 0;
        while made < CALLS || go_on.load(Ordering::Relaxed) {
            let key = self.rng.random_range(0..KEYS);
            if self.rng.random_ratio(1, 2) {
                histories[key].0.push(self.value(key).await);
            } else {
                histories[key].1.push(self.list(key).await);
            }
            made += 1;
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(0..3))).await;
        }
        histories
    }
}

fn number(number: u64) -> v1::Value {
    raw(number.to_be_bytes())
}

fn numbers(items: &[v1::Item]) -> Vec<u64> {
    items.iter().filter_map(|item| item.raw[..].try_into().ok()).map(u64::from_be_bytes).collect()
}

/// Runs the callers while `meanwhile` happens to the server, and checks what they were answered.
async fn linearizable(backend: Backend, meanwhile: impl AsyncFnOnce(&mut Forebay)) {
    let mut forebay = Forebay::dev().await;
    let spec = JobBuilder::shared("job", 2).with(|spec| spec.set_backend(backend)).build();
    let job = Job::create(&forebay.api(), spec, &[value("value"), list("list")]).await;
    let (go_on, clock) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
    let callers: Vec<_> = (0..CALLERS)
        .map(|id| {
            let (api, job, clock) = (forebay.api(), job.clone(), clock.clone());
            let caller = Caller { api, job, id, calls: 0, clock, rng: StdRng::seed_from_u64(id) };
            caller.run(go_on.clone())
        })
        .collect();
    let happens = async {
        meanwhile(&mut forebay).await;
        go_on.store(false, Ordering::Relaxed);
    };
    let (histories, ()) = tokio::join!(join_all(callers), happens);
    let mut all = Histories::default();
    for histories in histories {
        for (all, (values, lists)) in all.iter_mut().zip(histories) {
            all.0.extend(values);
            all.1.extend(lists);
        }
    }
    for (key, (values, lists)) in all.iter().enumerate() {
        shows(&format!("{backend:?}: values of key {key}"), values);
        shows(&format!("{backend:?}: list of key {key}"), lists);
    }
}

fn shows<A: Act + Clone>(what: &str, history: &[Call<A>]) {
    let at_once = history.iter().filter(|call| history.iter().any(|other| overlap(call.span, other.span))).count();
    assert!(at_once > history.len() / 4, "{what}: only {at_once} of {} calls were at once", history.len());
    check(history).unwrap_or_else(|fault| panic!("{what}: {fault}"));
}

fn overlap(one: (u64, u64), other: (u64, u64)) -> bool {
    one != other && one.0 < other.1 && other.0 < one.1
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_callers_see_one_order_on_both_backends() {
    for backend in [Backend::Memory, Backend::Rocksdb] {
        linearizable(backend, async |_| tokio::time::sleep(Duration::from_secs(1)).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_callers_see_one_order_over_kills_of_the_server() {
    linearizable(Backend::Rocksdb, async |forebay| {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(700)).await;
            forebay.kill_and_restart().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_callers_see_one_order_though_the_server_stands_still() {
    linearizable(Backend::Rocksdb, async |forebay| {
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            forebay.pause();
            tokio::time::sleep(Duration::from_millis(700)).await;
            forebay.resume();
        }
    })
    .await;
}
