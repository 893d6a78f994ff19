//! Jobs and operations in few words.

use forebay_proto::{
    packed::{Op, OpsBuilder},
    v1::{self, OpKind, StateKind},
};

use tonic::Code;

use super::{
    api::{Api, address},
    eventually,
};

/// A job with one operator, `op`, and small enough for a test.
#[derive(Debug, Clone)]
pub struct JobBuilder(v1::JobSpec);

/// A key of an operation.
pub type Key<'a> = &'a [u8];

impl JobBuilder {
    /// A leased operator of that many shards.
    pub fn leased(name: &str, shards: u32) -> Self {
        Self::new(name, v1::Access::Leased, shards)
    }

    /// A shared operator of that many shards.
    pub fn shared(name: &str, shards: u32) -> Self {
        Self::new(name, v1::Access::Shared, shards)
    }

    /// An operator whose shards another engine opens.
    pub fn external(name: &str) -> Self {
        Self::new(name, v1::Access::External, 0).with(|spec| {
            spec.operators[0].source = false;
            spec.max_parallelism = super::engine::KEY_GROUPS;
        })
    }

    fn new(name: &str, access: v1::Access, shards: u32) -> Self {
        let operator = v1::Operator { name: "op".into(), access: access.into(), shards, source: true };
        // No checkpoints but those a test asks for.
        let checkpoints = v1::CheckpointSettings { interval_ms: Some(0), ..Default::default() };
        Self(v1::JobSpec {
            name: name.into(),
            operators: vec![operator],
            checkpoints: Some(checkpoints),
            ..Default::default()
        })
    }

    /// Keeps the state in memory.
    #[must_use]
    pub fn in_memory(mut self) -> Self {
        self.0.set_backend(v1::Backend::Memory);
        self
    }

    /// Changes anything.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut v1::JobSpec)) -> Self {
        change(&mut self.0);
        self
    }

    /// Returns the spec.
    pub fn build(self) -> v1::JobSpec {
        self.0
    }
}

/// A value state of bytes.
pub fn value(name: &str) -> v1::StateDescriptor {
    descriptor(name, StateKind::Value, "bytes", "")
}

/// A list state of bytes.
pub fn list(name: &str) -> v1::StateDescriptor {
    descriptor(name, StateKind::List, "bytes", "")
}

/// A reducing state that sums i64.
pub fn reducing(name: &str) -> v1::StateDescriptor {
    descriptor(name, StateKind::Reducing, "i64", "sum_i64")
}

fn descriptor(name: &str, kind: StateKind, value_codec: &str, function: &str) -> v1::StateDescriptor {
    v1::StateDescriptor {
        name: name.into(),
        kind: kind.into(),
        key_codec: "bytes".into(),
        namespace_codec: "bytes".into(),
        value_codec: value_codec.into(),
        function: function.into(),
        ..Default::default()
    }
}

/// A batch of one append.
pub fn append(state: &v1::RegisteredState, key: Key<'_>, element: &[u8]) -> v1::PackedOps {
    one(Op::new(OpKind::ListAppend, state.id, key).with_value(element))
}

/// A batch of one put.
pub fn put(state: &v1::RegisteredState, key: Key<'_>, value: &[u8]) -> v1::PackedOps {
    one(Op::new(OpKind::ValuePut, state.id, key).with_value(value))
}

/// A batch of one read, by the state's kind.
///
/// # Panics
/// If the state is of another kind than value, list, map and reducing.
pub fn get(state: &v1::RegisteredState, key: Key<'_>) -> v1::PackedOps {
    let kind = match state.descriptor.as_ref().map(v1::StateDescriptor::kind) {
        Some(StateKind::Value) => OpKind::ValueGet,
        Some(StateKind::List) => OpKind::ListGet,
        Some(StateKind::Map) => OpKind::MapEntries,
        Some(StateKind::Reducing) => OpKind::ReducingGet,
        other => panic!("no read of {other:?}"),
    };
    one(Op::new(kind, state.id, key))
}

/// A batch of one operation.
pub(super) fn one(op: Op<'_>) -> v1::PackedOps {
    let mut ops = OpsBuilder::new();
    ops.push(&op);
    ops.finish()
}

/// A job that serves.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its name.
    pub name: String,
    /// The job as it was when it began to serve.
    pub info: v1::JobInfo,
    /// Its states, in the order they were asked for.
    pub states: Vec<v1::RegisteredState>,
    /// Where its shards are.
    pub routes: Vec<v1::Route>,
}

impl Job {
    /// Creates a job with states of operator `op` and waits until its servers know it.
    ///
    /// # Panics
    /// If it is refused, or does not serve in time.
    pub async fn create(api: &Api, spec: v1::JobSpec, states: &[v1::StateDescriptor]) -> Self {
        let name = spec.name.clone();
        api.create(spec).await.expect("the job can be created");
        let states = api.register(&name, "op", states.to_vec()).await.expect("the states can be registered");
        let mut job = Self { name, info: v1::JobInfo::default(), states, routes: Vec::new() };
        job.refresh(api).await;
        job
    }

    /// Waits until it serves and looks up again what may have changed.
    pub async fn refresh(&mut self, api: &Api) {
        self.info = api.serving(&self.name).await;
        self.routes = api.routing(&self.name).await.expect("a job that serves has a routing").routes;
        for route in &self.routes {
            let server = Api::to(&route.address);
            for state in &self.states {
                let state = state.descriptor.as_ref().map_or("", |descriptor| &descriptor.name);
                let address = address(&self.name, "op", state, "any");
                eventually(&format!("{} knows state {state:?}", route.address), || async {
                    let asked = server.get(address.clone()).await;
                    let unknown =
                        asked.is_err_and(|status| matches!(status.code(), Code::NotFound | Code::Unavailable));
                    (!unknown).then_some(())
                })
                .await;
            }
        }
    }

    /// The address of a key in one of its states.
    pub fn at(&self, state: &str, key: &str) -> v1::Address {
        address(&self.name, "op", state, key)
    }

    /// The values or elements that are stored at an address.
    ///
    /// # Panics
    /// If they cannot be read.
    pub async fn stored(&self, api: &Api, state: &str, key: &str) -> Vec<String> {
        let found = eventually("a read is served", || async {
            match api.get(self.at(state, key)).await {
                Err(status) if status.code() == Code::Unavailable => None,
                answer => Some(answer),
            }
        });
        let found = found.await.unwrap_or_else(|status| panic!("{state} {key} cannot be read: {status:?}"));
        found.items.into_iter().map(|item| String::from_utf8_lossy(&item.raw).into_owned()).collect()
    }
}
