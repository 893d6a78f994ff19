//! The object store: the job head under conditional writes, and immutable objects.
//!
//! A conditional write takes effect when it lands. Its answer may be lost though it landed, it may never
//! land, or it may land long after its sender has given up, or died.

use std::{collections::BTreeMap, sync::Arc};

use forebay_proto::v1;

use super::{
    coordinator,
    disk::Image,
    env::Env,
    schedule::{Happening, Life, NodeId, Timer},
};

/// What goes wrong with the next conditional write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutFault {
    /// It lands, and its answer is lost.
    AnswerLost,
    /// It never lands.
    RequestLost,
    /// It lands late; its sender has long given up on the answer.
    Late,
}

/// A conditional write on its way.
#[derive(Debug)]
pub struct Put {
    life: Life,
    number: u64,
    expected: u64,
    head: v1::JobHead,
    answer: bool,
}

/// What a conditional write came to, as far as its sender hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutAnswer {
    /// It is in force under this version.
    Done(u64),
    /// Another version stands there.
    Conflict,
    /// Nobody knows, or the store is away.
    Unknown,
}

/// The object store.
#[derive(Debug, Default)]
pub struct Store {
    /// The job head.
    pub head: v1::JobHead,
    /// Its version.
    pub version: u64,
    /// Coordinators that took office.
    pub office: u64,
    /// The manifests, by path.
    pub manifests: BTreeMap<String, v1::Manifest>,
    /// Snapshots, by path.
    pub images: BTreeMap<String, Arc<Image>>,
    /// What tombstones name, by path.
    pub tombstones: BTreeMap<String, Vec<String>>,
    /// When each object was written.
    pub modified: BTreeMap<String, i64>,
    /// Until when nothing is served.
    pub down_until_us: i64,
    /// What goes wrong next.
    pub put_fault: Option<PutFault>,
    objects: u64,
}

impl Store {
    /// A path that was never used.
    pub fn fresh_name(&mut self, checkpoint: u64, round: &str) -> String {
        self.objects += 1;
        format!("chk/{checkpoint}/{round}/{}", self.objects)
    }

    /// Takes note that an object was written.
    pub fn wrote(&mut self, path: &str, now_ms: i64) {
        self.modified.insert(path.to_owned(), now_ms);
    }

    /// The snapshot of a shard in a completed checkpoint.
    pub fn image(&self, snapshot: &v1::ShardSnapshot) -> Option<Arc<Image>> {
        self.images.get(&snapshot.files.first()?.object).cloned()
    }
}

impl Env {
    /// True if the store serves.
    pub fn store_up(&self) -> bool {
        self.store.down_until_us <= self.now_us
    }

    /// Sends a conditional write of the head; the answer comes as a timer.
    pub fn put_head(&mut self, life: Life, number: u64, expected: u64, head: v1::JobHead) {
        let unknown = |env: &mut Self, range| {
            let delay = env.rng.within(range);
            let timer = Timer::Coordinator(coordinator::Timer::HeadAnswer(number, PutAnswer::Unknown));
            env.timer(NodeId::Coordinator, life, delay, timer);
        };
        if !self.store_up() {
            unknown(self, 5_000..50_000);
            return;
        }
        let fault = self.store.put_fault.take();
        let delay = match fault {
            None | Some(PutFault::AnswerLost) => Some(self.rng.within(500..8_000)),
            Some(PutFault::Late) => Some(self.rng.within(20_000..1_500_000)),
            Some(PutFault::RequestLost) => None,
        };
        if fault.is_some() {
            unknown(self, 50_000..300_000);
        }
        if let Some(delay) = delay {
            let put = Put { life, number, expected, head, answer: fault.is_none() };
            self.later(delay, Happening::Landed(Box::new(put)));
        }
    }

    /// Lets a conditional write take effect.
    pub fn land(&mut self, put: Put) {
        let Put { life, number, expected, head, answer } = put;
        let landed = expected == self.store.version;
        let (version, generation, last) =
            (head.version, head.generation, head.completed.last().map_or(0, |completed| completed.id));
        self.note(format_args!("head {version} generation {generation} last {last} landed {landed}"));
        if landed {
            self.oracle.head_written(&self.store, &head);
            let now_ms = self.now_ms();
            self.store.wrote("head", now_ms);
            self.store.version += 1;
            self.store.head = head;
        }
        if answer {
            let said = if landed { PutAnswer::Done(self.store.version) } else { PutAnswer::Conflict };
            let delay = self.rng.within(300..3_000);
            let timer = Timer::Coordinator(coordinator::Timer::HeadAnswer(number, said));
            self.timer(NodeId::Coordinator, life, delay, timer);
        }
    }
}
