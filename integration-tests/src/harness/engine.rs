//! Another engine by hand: its shards, their lanes, and the snapshots it takes, as Flink's subtasks would.

use forebay_proto::{
    key_group::{KeyGroup, MaxParallelism},
    packed::Op,
    v1::{self, OpKind},
};
use tokio::task::JoinHandle;

use super::{
    api::{Api, Result},
    job::{JobBuilder, one},
    stream::{Lane, Stream},
    within,
};

/// Key groups of the jobs of these tests.
pub const KEY_GROUPS: u32 = 128;

/// A job whose one operator is another engine's, with a value state `last`.
#[derive(Debug, Clone)]
pub struct Engine {
    /// Whom it asks; any process of the cluster.
    pub api: Api,
    /// The job.
    pub job: v1::JobInfo,
    /// The operator.
    pub operator: String,
}

/// A shard that the engine has opened, its one lane, and where that is.
#[derive(Debug)]
pub struct Subtask {
    /// The shard.
    pub shard: v1::ExternalShard,
    /// The attempt.
    pub token: u64,
    /// What the opening was answered.
    pub opened: v1::OpenShardResponse,
    /// Number of the last batch.
    pub seq: u64,
    /// The lane.
    pub lane: Lane,
    stream: Stream,
    api: Api,
}

impl Engine {
    /// Creates the job.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn create(api: &Api, change: impl FnOnce(&mut v1::JobSpec)) -> Self {
        let job = api.create(JobBuilder::external("job").with(change).build()).await.expect("the job can be created");
        Self { api: api.clone(), job, operator: "op".into() }
    }

    /// The engine of an operator of a job that is there.
    ///
    /// # Panics
    /// If it is not.
    pub async fn of(api: &Api, job: &str, operator: &str) -> Self {
        let job = api.describe(job).await.expect("the job is there");
        Self { api: api.clone(), job, operator: operator.into() }
    }

    fn name(&self) -> String {
        self.job.spec.as_ref().map(|spec| spec.name.clone()).unwrap_or_default()
    }

    /// The address of a shard.
    pub fn shard(&self, start: u32, end: u32) -> v1::ExternalShard {
        let (job, job_uid, operator) = (self.name(), self.job.job_uid.clone(), self.operator.clone());
        v1::ExternalShard { job, job_uid, operator, start, end }
    }

    /// Opens a shard, from these snapshots, and a lane to it.
    pub async fn open(&self, range: (u32, u32), token: u64, restore: &[v1::SnapshotHandle]) -> Result<Subtask> {
        let part = |handle: &v1::SnapshotHandle| v1::RestorePart { handle: Some(handle.clone()), start: 0, end: 0 };
        self.open_parts(range, token, restore.iter().map(part).collect()).await
    }

    /// Opens a shard, from parts of snapshots, and a lane to it.
    pub async fn open_parts(
        &self,
        (start, end): (u32, u32),
        token: u64,
        restore: Vec<v1::RestorePart>,
    ) -> Result<Subtask> {
        let shard = self.shard(start, end);
        let states = vec![super::value("last")];
        let request = v1::OpenShardRequest { shard: Some(shard.clone()), restore, token, states };
        let opened = within("the shard is open", async { self.api.snapshots().open_shard(request).await });
        let opened = opened.await?.into_inner();
        let api = Api::to(&opened.address);
        // Generations are of the job's own shards; an engine knows none.
        let job = v1::JobInfo { generation: 0, ..self.job.clone() };
        let mut stream = Stream::open(&api, &job).await?;
        let route =
            v1::Route { operator: self.operator.clone(), start, end, epoch: opened.epoch, ..Default::default() };
        let lane = stream.lane(&route, opened.writer_epoch).await?;
        Ok(Subtask { shard, token, opened, seq: 0, lane, stream, api })
    }

    /// Ends the pin of a snapshot; true if there was one.
    pub async fn discard(&self, handle: &v1::SnapshotHandle) -> Result<bool> {
        let request = v1::DiscardRequest { handle: Some(handle.clone()) };
        Ok(self.api.snapshots().discard(request).await?.into_inner().discarded)
    }

    /// The registered snapshots.
    pub async fn list(&self) -> Result<Vec<v1::SnapshotHandle>> {
        let request = v1::ListSnapshotsRequest { job: self.name(), ..Default::default() };
        Ok(self.api.snapshots().list_snapshots(request).await?.into_inner().handles)
    }
}

impl Subtask {
    /// Writes a value under a key and waits until it is acknowledged.
    ///
    /// # Panics
    /// If it is not.
    pub async fn put(&mut self, key: &str, value: &str) {
        let state = self.opened.states[0].id;
        let ops = one(Op::new(OpKind::ValuePut, state, key.as_bytes()).with_value(value.as_bytes()));
        self.seq += 1;
        let answer = self.stream.write(&self.lane, self.seq, ops).await.expect("the stream stands");
        answer.unwrap_or_else(|refusal| panic!("not written: {refusal:?}"));
    }

    /// Writes a value, and says what became of it.
    pub async fn try_put(&mut self, key: &str, value: &str) -> std::result::Result<(), v1::ErrorReason> {
        let state = self.opened.states[0].id;
        let ops = one(Op::new(OpKind::ValuePut, state, key.as_bytes()).with_value(value.as_bytes()));
        match self.stream.write(&self.lane, self.seq + 1, ops).await {
            Ok(Ok(_)) => {
                self.seq += 1;
                Ok(())
            }
            Ok(Err(refusal)) => Err(refusal.reason()),
            Err(status) => Err(super::reason(&status)),
        }
    }

    /// Reads the value of a key.
    ///
    /// # Panics
    /// If it cannot be read.
    pub async fn get(&mut self, key: &str) -> Option<String> {
        let ops = one(Op::new(OpKind::ValueGet, self.opened.states[0].id, key.as_bytes()));
        let items = self.stream.read_items(&self.lane, self.seq, ops).await.expect("the stream stands");
        items.first().map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// True if the shard holds a key.
    pub fn holds(&self, key: &str) -> bool {
        (self.shard.start..self.shard.end).contains(&key_group(key))
    }

    /// The request for a snapshot behind the last batch.
    pub fn request(&self, id: &str) -> v1::TakeSnapshotRequest {
        v1::TakeSnapshotRequest {
            shard: Some(self.shard.clone()),
            token: self.token,
            lane: self.lane.id.clone().into(),
            after: self.seq,
            external_id: id.to_owned(),
            base_policy: v1::BasePolicy::ForwardBackward.into(),
            user_bytes: id.as_bytes().to_vec().into(),
        }
    }

    /// Takes a snapshot and waits for its handle.
    pub async fn take(&self, id: &str) -> Result<v1::SnapshotHandle> {
        self.take_by(self.request(id)).await
    }

    /// Takes a snapshot as the request says.
    pub async fn take_by(&self, request: v1::TakeSnapshotRequest) -> Result<v1::SnapshotHandle> {
        let taken = within("the snapshot is taken", async { self.api.snapshots().take_snapshot(request).await });
        Ok(taken.await?.into_inner().handle.expect("a snapshot has a handle"))
    }

    /// Begins a snapshot, and goes on once the shard is frozen.
    ///
    /// # Panics
    /// If it cannot be frozen.
    pub async fn begin(&self, id: &str) -> JoinHandle<Result<v1::SnapshotHandle>> {
        let (api, request) = (self.api.clone(), self.request(id));
        let taking = tokio::spawn(async move {
            let taken = within("the snapshot is taken", async { api.snapshots().take_snapshot(request).await });
            Ok(taken.await?.into_inner().handle.expect("a snapshot has a handle"))
        });
        self.frozen(id).await.expect("the shard is frozen");
        taking
    }

    /// Waits until a snapshot is frozen.
    pub async fn frozen(&self, id: &str) -> Result<i64> {
        let (shard, external_id) = (Some(self.shard.clone()), id.to_owned());
        let request = v1::AwaitFrozenRequest { shard, token: self.token, external_id };
        let frozen = within("the shard is frozen", async { self.api.snapshots().await_frozen(request).await });
        Ok(frozen.await?.into_inner().frozen_ms)
    }

    /// Gives up a snapshot; true if there was one on its way.
    pub async fn cancel(&self, id: &str) -> Result<bool> {
        let (shard, external_id) = (Some(self.shard.clone()), id.to_owned());
        let request = v1::CancelSnapshotRequest { shard, token: self.token, external_id };
        Ok(self.api.snapshots().cancel_snapshot(request).await?.into_inner().cancelled)
    }

    /// Tells that a checkpoint is complete.
    pub async fn completed(&self, id: &str) -> Result<()> {
        let (shard, external_id) = (Some(self.shard.clone()), id.to_owned());
        let request = v1::NotifyCompleteRequest { shard, token: self.token, external_id };
        self.api.snapshots().notify_complete(request).await.map(drop)
    }

    /// Tells that a checkpoint was aborted.
    pub async fn aborted(&self, id: &str) -> Result<()> {
        let (shard, external_id) = (Some(self.shard.clone()), id.to_owned());
        let request = v1::NotifyAbortedRequest { shard, token: self.token, external_id };
        self.api.snapshots().notify_aborted(request).await.map(drop)
    }

    /// Closes the shard.
    pub async fn close(&self) -> Result<()> {
        let request = v1::CloseShardRequest { shard: Some(self.shard.clone()), token: self.token };
        self.api.snapshots().close_shard(request).await.map(drop)
    }

    /// The rows of a snapshot: key group, key, value.
    pub async fn rows(&self, request: v1::ReadSnapshotRequest) -> Result<Vec<(u32, String, String)>> {
        let mut answers = self.api.snapshots().read_snapshot(request).await?.into_inner();
        let text = |item: &Option<v1::Item>| {
            item.as_ref().map_or(String::new(), |item| String::from_utf8_lossy(&item.raw).into_owned())
        };
        let mut rows = Vec::new();
        while let Some(answer) = answers.message().await? {
            rows.extend(answer.rows.iter().map(|row| (row.key_group, text(&row.key), text(&row.value))));
        }
        Ok(rows)
    }
}

/// The key group of a key.
pub fn key_group(key: &str) -> u32 {
    let max = MaxParallelism::new(KEY_GROUPS).expect("a number of key groups");
    u32::from(KeyGroup::of(key.as_bytes(), max).get())
}
