//! Wrong inputs: each is refused by code, reason and a message that holds the value, and changes nothing.

#![cfg(feature = "rocksdb")]

mod stream;
mod unary;

use forebay_integration_tests::harness::{Api, Forebay, Job, JobBuilder, list, raw, reducing, value};
use forebay_proto::{
    KeyGroup, MaxParallelism,
    v1::{self, ErrorReason},
};
use tonic::Code;

/// Limit of the jobs here.
const VALUE_BYTES_MAX: usize = 64;

/// What an input must be answered with.
struct Wanted {
    input: &'static str,
    code: Code,
    reason: ErrorReason,
    says: String,
}

fn wanted(input: &'static str, code: Code, reason: ErrorReason, says: impl Into<String>) -> Wanted {
    Wanted { input, code, reason, says: says.into() }
}

impl Wanted {
    /// Adds what differs to the list.
    fn compare(&self, code: Code, reason: ErrorReason, message: &str, wrong: &mut Vec<String>) {
        if (code, reason) != (self.code, self.reason) || !message.contains(&self.says) {
            let Self { input, says, .. } = self;
            wrong.push(format!(
                "{input}: {code:?} {} {message:?}, wanted {:?} {} with {says:?}",
                reason.name(),
                self.code,
                self.reason.name()
            ));
        }
    }
}

/// A job of each partitioner, with something in every state.
struct Scene {
    _forebay: Forebay,
    api: Api,
    job: Job,
    explicit: Job,
    digest: (u64, u64),
}

async fn scene() -> Scene {
    let forebay = Forebay::dev().await;
    let api = forebay.api();
    let limited = |spec: &mut v1::JobSpec| {
        spec.limits = Some(v1::Limits { max_value_bytes: VALUE_BYTES_MAX as u64, ..Default::default() });
    };
    let states = [value("last"), list("legs"), reducing("delay")];
    let job = Job::create(&api, JobBuilder::shared("job", 2).with(limited).build(), &states).await;
    let named = |spec: &mut v1::JobSpec| spec.set_partitioner(v1::Partitioner::Explicit);
    let spec = JobBuilder::shared("explicit", 2).with(limited).with(named).build();
    let explicit = Job { name: "explicit".into(), ..job.clone() };
    api.create(spec).await.unwrap();
    let states = api.register("explicit", "op", states.to_vec()).await.unwrap();
    let info = api.serving("explicit").await;
    let explicit = Job { info, states, routes: api.routing("explicit").await.unwrap().routes, ..explicit };
    for key in ["N1", "N2", "N3"] {
        api.put(job.at("last", key), raw("before")).await.unwrap();
        api.append(job.at("legs", key), raw("before")).await.unwrap();
    }
    let digest = (api.digest("job").await.unwrap(), api.digest("explicit").await.unwrap());
    Scene { _forebay: forebay, api, job, explicit, digest }
}

impl Scene {
    async fn nothing_changed(&self) {
        let now = (self.api.digest("job").await.unwrap(), self.api.digest("explicit").await.unwrap());
        assert_eq!(now, self.digest, "something was changed by an input that was refused");
    }
}

fn group_of(key: &[u8]) -> u32 {
    KeyGroup::of(key, MaxParallelism::DEFAULT).get().into()
}

fn none_wrong(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} inputs are answered otherwise:\n{}", wrong.len(), wrong.join("\n"));
}
