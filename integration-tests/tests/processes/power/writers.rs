//! Writers at full speed, who know what was acknowledged.
//!
//! Each appends 1, 2, 3 … to lists of its own, a list from one start of the server to the next, and stops at the
//! first answer that is none.

use std::collections::VecDeque;

use forebay_integration_tests::harness::{Api, Job, Lane, Stream, append, raw};
use forebay_proto::v1;
use tokio::task::JoinHandle;

/// Callers that wait for each answer.
const UNARY: usize = 4;
/// Batches of the lane that are on their way at a time.
const WINDOW: u64 = 32;

/// A list, and what is known of it.
#[derive(Debug, Clone)]
pub struct List {
    pub key: String,
    /// So many elements were acknowledged.
    pub acknowledged: u64,
    /// So many were sent.
    pub sent: u64,
}

/// A caller of unary methods, with request ids.
#[derive(Debug, Default)]
struct Unary {
    lists: Vec<List>,
}

/// A writer whose batches go by one lane, many at a time.
#[derive(Debug, Default)]
struct ByLane {
    lists: Vec<List>,
    lane: Option<Lane>,
    /// The lane's last batch before the present list.
    before: u64,
}

/// All of them, between two starts of the server.
#[derive(Debug)]
pub struct Writers {
    unary: Vec<Unary>,
    lane: ByLane,
}

/// All of them, at work.
pub struct AtWork {
    /// The lists that they write to.
    pub keys: Vec<String>,
    unary: Vec<JoinHandle<Unary>>,
    lane: JoinHandle<ByLane>,
}

impl List {
    fn of(writer: &str, number: usize) -> Self {
        Self { key: format!("{writer}-{number}"), acknowledged: 0, sent: 0 }
    }
}

impl Writers {
    pub fn new() -> Self {
        Self { unary: (0..UNARY).map(|_| Unary::default()).collect(), lane: ByLane::default() }
    }

    /// Begins to write, each to a new list.
    pub fn start(self, api: &Api, job: &Job) -> AtWork {
        let (mut keys, mut unary) = (Vec::new(), Vec::new());
        for (index, writer) in self.unary.into_iter().enumerate() {
            let list = List::of(&format!("unary-{index}"), writer.lists.len());
            keys.push(list.key.clone());
            unary.push(tokio::spawn(writer.write(list, api.clone(), job.clone())));
        }
        let list = List::of("lane", self.lane.lists.len());
        keys.push(list.key.clone());
        AtWork { keys, unary, lane: tokio::spawn(self.lane.write(list, api.clone(), job.clone())) }
    }

    /// The lists of all.
    pub fn lists(&self) -> impl Iterator<Item = &List> {
        self.unary.iter().flat_map(|writer| &writer.lists).chain(&self.lane.lists)
    }

    /// Begins anew behind a rewind: the lane is no more, and what was sent behind the checkpoint is forgotten.
    pub fn rewound(&mut self) {
        self.lane.lane = None;
        self.lane.before = 0;
    }

    /// Sends what was not acknowledged again. Then all that was ever sent is there, once and in order.
    pub async fn finish(&mut self, api: &Api, job: &Job) {
        for writer in &mut self.unary {
            if let Some(list) = writer.lists.last_mut()
                && list.acknowledged < list.sent
            {
                send(api, job, &list.key, list.sent).await.expect("it is sent again");
                list.acknowledged = list.sent;
            }
        }
        let (lane, Some(list)) = (self.lane.lane.clone(), self.lane.lists.last_mut()) else { return };
        let mut stream = Stream::open(api, &job.info).await.unwrap();
        let lane = lane.expect("who has written has a lane");
        let (from, until) = (self.lane.before + list.acknowledged, self.lane.before + list.sent);
        let lane = stream.attach("op", &lane, from).await.unwrap().unwrap();
        assert!((from..=until).contains(&lane.mark), "the lane is at {}: acknowledged {from}, sent {until}", lane.mark);
        for seq in from + 1..=until {
            let element = (seq - self.lane.before).to_string();
            let ops = append(&job.states[0], list.key.as_bytes(), element.as_bytes());
            let answer = stream.write(&lane, seq, ops).await.unwrap().unwrap();
            assert_eq!(answer.duplicate, seq <= lane.mark, "batch {seq} of the lane at {}", lane.mark);
        }
        list.acknowledged = list.sent;
        self.lane.lane = Some(lane);
    }
}

impl AtWork {
    /// Waits until all have stopped, for the server is gone.
    pub async fn stopped(self) -> Writers {
        let mut unary = Vec::new();
        for writer in self.unary {
            unary.push(writer.await.unwrap());
        }
        Writers { unary, lane: self.lane.await.unwrap() }
    }
}

impl Unary {
    async fn write(mut self, mut list: List, api: Api, job: Job) -> Self {
        loop {
            list.sent += 1;
            if send(&api, &job, &list.key, list.sent).await.is_err() {
                break;
            }
            list.acknowledged = list.sent;
        }
        self.lists.push(list);
        self
    }
}

async fn send(api: &Api, job: &Job, key: &str, number: u64) -> Result<(), tonic::Status> {
    let request = v1::AppendRequest {
        address: Some(job.at("all", key)),
        values: vec![raw(number.to_string())],
        request_id: format!("{key}-{number}"),
        ..Default::default()
    };
    api.state().append(request).await.map(drop)
}

impl ByLane {
    async fn write(mut self, mut list: List, api: Api, job: Job) -> Self {
        let mut stream = Stream::open(&api, &job.info).await.unwrap();
        let lane = match &self.lane {
            Some(lane) => stream.attach("op", lane, lane.mark).await.unwrap().unwrap(),
            None => stream.lane(&job.routes[0], 0).await.unwrap(),
        };
        self.before = self.lists.last().map_or(0, |last| if self.lane.is_some() { self.before + last.sent } else { 0 });
        self.lane = Some(lane.clone());
        let mut ids = VecDeque::new();
        loop {
            while list.sent < list.acknowledged + WINDOW {
                list.sent += 1;
                let ops = append(&job.states[0], list.key.as_bytes(), list.sent.to_string().as_bytes());
                ids.push_back(stream.send_batch(lane.write(self.before + list.sent, ops)));
            }
            let id = ids.pop_front().expect("some are on their way");
            match stream.answer(id).await {
                Ok(Ok(_)) => list.acknowledged += 1,
                _ => break,
            }
        }
        self.lists.push(list);
        self
    }
}
