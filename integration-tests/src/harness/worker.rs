//! A worker by hand: joins a group, and says only what a test makes it say.

use std::time::Duration;

use forebay_proto::v1::{self, join_request::Message as Up, join_response::Message as Down};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::UnboundedReceiverStream;
use uuid::Uuid;

use super::{
    api::{Api, Result},
    within,
};

/// A membership in an operator's group. Dropping it breaks its connection, without a word.
#[derive(Debug)]
pub struct Worker {
    to: mpsc::UnboundedSender<v1::JoinRequest>,
    from: mpsc::UnboundedReceiver<Result<Down>>,
    reading: JoinHandle<()>,
    beating: Option<JoinHandle<()>>,
    /// What it said first.
    pub hello: v1::JoinHello,
}

impl Worker {
    /// Joins the group of operator `op`, without heartbeats.
    pub async fn join(api: &Api, job: &v1::JobInfo, worker: &str) -> Result<Self> {
        let name = job.spec.as_ref().map(|spec| spec.name.clone()).unwrap_or_default();
        let hello = v1::JoinHello {
            job: name,
            job_uid: job.job_uid.clone(),
            operator: "op".into(),
            worker: worker.into(),
            join_id: Uuid::new_v4().simple().to_string(),
            ..Default::default()
        };
        Self::hello(api, hello).await
    }

    /// Joins with any hello.
    pub async fn hello(api: &Api, hello: v1::JoinHello) -> Result<Self> {
        let (to, requests) = mpsc::unbounded_channel();
        to.send(v1::JoinRequest { message: Some(Up::Hello(hello.clone())) }).ok();
        let joined =
            within("the join stands", async { api.coordinator().join(UnboundedReceiverStream::new(requests)).await });
        let mut answers = joined.await?.into_inner();
        let (messages, from) = mpsc::unbounded_channel();
        let reading = tokio::spawn(async move {
            loop {
                let message = match answers.message().await {
                    Ok(Some(v1::JoinResponse { message: Some(message) })) => Ok(message),
                    Ok(Some(_)) => continue,
                    Ok(None) => return,
                    Err(status) => Err(status),
                };
                let ends = message.is_err();
                if messages.send(message).is_err() || ends {
                    return;
                }
            }
        });
        Ok(Self { to, from, reading, beating: None, hello })
    }

    /// Sends any message.
    pub fn say(&self, message: Up) {
        // An error means that the join has ended; `next` tells why.
        self.to.send(v1::JoinRequest { message: Some(message) }).ok();
    }

    /// Sends one heartbeat.
    pub fn heartbeat(&self, generation: u64) {
        self.say(Up::Heartbeat(v1::Heartbeat { generation }));
    }

    /// Sends heartbeats from now on, until [`Worker::silent`].
    pub fn beat(&mut self, every: Duration) {
        self.silent();
        let to = self.to.clone();
        self.beating = Some(tokio::spawn(async move {
            let beat = || v1::JoinRequest { message: Some(Up::Heartbeat(v1::Heartbeat::default())) };
            while to.send(beat()).is_ok() {
                tokio::time::sleep(every).await;
            }
        }));
    }

    /// Sends no more heartbeats.
    pub fn silent(&mut self) {
        if let Some(beating) = self.beating.take() {
            beating.abort();
        }
    }

    /// Waits for the next message but renewals of the lease; none if the join has ended.
    pub async fn next(&mut self) -> Option<Result<Down>> {
        within("a message comes to the worker", async {
            loop {
                match self.from.recv().await {
                    Some(Ok(Down::Renewed(_))) => {}
                    message => return message,
                }
            }
        })
        .await
    }

    /// Waits for a message of a kind; others are passed over.
    ///
    /// # Panics
    /// If the join ends first.
    pub async fn wait<T>(&mut self, what: &str, mut pick: impl FnMut(Down) -> Option<T>) -> T {
        loop {
            match self.next().await {
                Some(Ok(message)) => {
                    if let Some(picked) = pick(message) {
                        return picked;
                    }
                }
                end => panic!("waiting for {what}: the join has ended: {end:?}"),
            }
        }
    }

    /// Waits for an assignment with shards.
    pub async fn assignment(&mut self) -> v1::Assignment {
        self.wait("an assignment", |message| match message {
            Down::Assignment(assignment) if !assignment.shards.is_empty() => Some(assignment),
            _ => None,
        })
        .await
    }

    /// Waits for a barrier.
    pub async fn barrier(&mut self) -> v1::Barrier {
        self.wait("a barrier", |message| match message {
            Down::Barrier(barrier) => Some(barrier),
            _ => None,
        })
        .await
    }

    /// Waits for the end of the join.
    pub async fn ended(&mut self) -> v1::JoinEnded {
        self.wait("the end", |message| match message {
            Down::Ended(ended) => Some(ended),
            _ => None,
        })
        .await
    }

    /// Reports that all shards have accepted a barrier, with one list of worker state.
    pub fn report(&self, barrier: &v1::Barrier, positions: &[&[u8]]) {
        let list = v1::WorkerList {
            name: "positions".into(),
            redistribution: v1::Redistribution::Split.into(),
            elements: positions.iter().map(|position| position.to_vec().into()).collect(),
        };
        let state = v1::WorkerState {
            worker: self.hello.worker.clone(),
            operator: self.hello.operator.clone(),
            index: 0,
            lists: vec![list],
        };
        self.say(Up::Report(v1::BarrierReport {
            checkpoint: barrier.checkpoint,
            round: barrier.round.clone(),
            coordinator_epoch: barrier.coordinator_epoch,
            generation: barrier.generation,
            state: Some(state),
            stopped: barrier.stop,
        }));
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.silent();
        self.reading.abort();
    }
}
