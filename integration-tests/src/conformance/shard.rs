//! One shard of the real `Core`, with one lane and a clock that only the caller turns.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use forebay_proto::{
    key_group::{KeyGroupRange, MaxParallelism},
    reason::Refused,
    v1,
};
use forebay_server::{
    shard::{
        core::{Batch, Core, Done, Identity, Moment, Order},
        gate::{Caller, Rights},
        lanes::LaneId,
        open::Origin,
        states::States,
    },
    storage::TableId,
};
use tempfile::TempDir;

use super::{Answered, Inside, Kind, Target, Times, engine::Engine};

/// What the processing clock shows when a shard is made.
pub const START_MS: i64 = 1_000_000;

const OPERATOR: &str = "op";
const STREAM: u64 = 1;

/// A shard of all 128 key groups.
pub struct Shard {
    kind: Kind,
    home: Arc<TempDir>,
    dirs: u32,
    engine: Engine,
    // Always there but while it is exchanged.
    core: Option<Core>,
    states: Vec<v1::RegisteredState>,
    incarnation: u64,
    lane: LaneId,
    sent: Vec<(v1::PackedOps, Times)>,
    now_ms: i64,
}

/// The files of a snapshot.
#[derive(Debug, Clone)]
pub struct Saved {
    dir: PathBuf,
    sent: Vec<(v1::PackedOps, Times)>,
    // Its folder stays as long as the snapshot.
    _home: Arc<TempDir>,
}

impl Shard {
    /// Makes an empty shard with states of the ids 1, 2, 3 …
    pub fn new(kind: Kind, descriptors: &[v1::StateDescriptor]) -> Self {
        let home = Arc::new(home());
        let state = |(index, descriptor): (usize, &v1::StateDescriptor)| v1::RegisteredState {
            id: u32::try_from(index).expect("few states") + 1,
            operator: OPERATOR.into(),
            descriptor: Some(descriptor.clone()),
            version: 1,
        };
        let dir = home.path().join("0");
        fs::create_dir(&dir).expect("a folder can be made");
        let engine = Engine::open(kind, &dir, Origin::New).expect("a new backend opens");
        let mut shard = Self {
            kind,
            home,
            dirs: 0,
            engine,
            core: None,
            states: descriptors.iter().enumerate().map(state).collect(),
            incarnation: 1,
            lane: LaneId([0; 16]),
            sent: Vec::new(),
            now_ms: START_MS,
        };
        shard.load();
        shard.open_lane(false);
        shard
    }

    /// Sends the next write batch.
    pub fn write(&mut self, ops: v1::PackedOps, times: Times) -> Answered {
        let answered = self.write_as(self.mark() + 1, ops.clone(), times);
        if answered.is_ok() {
            self.sent.push((ops, times));
        }
        answered
    }

    /// Sends a write batch under any number of the lane.
    pub fn write_as(&mut self, seq: u64, ops: v1::PackedOps, times: Times) -> Answered {
        self.batch(Order::Write(self.lane, seq), ops, times)
    }

    /// Sends a write batch again, so many before the last.
    ///
    /// # Panics
    /// If the lane had no such batch.
    pub fn resend(&mut self, back: usize) -> Answered {
        let (ops, times) = self.sent[self.sent.len() - 1 - back].clone();
        self.write_as(self.mark() - back as u64, ops, times)
    }

    /// Write batches that the lane has applied.
    pub fn mark(&self) -> u64 {
        self.sent.len() as u64
    }

    /// Sends a read batch.
    pub fn read(&mut self, ops: v1::PackedOps, times: Times) -> Answered {
        self.batch(Order::Read(self.lane, self.mark()), ops, times)
    }

    /// Lets the processing clock go on.
    pub fn advance(&mut self, ms: i64) {
        self.now_ms = self.now_ms.saturating_add(ms);
    }

    /// Compacts everything.
    pub fn compact(&mut self) {
        self.engine.compact();
    }

    /// Rows of a state as they lie there, expired or not.
    pub fn rows(&self, state: u32) -> usize {
        self.engine.rows(TableId(state))
    }

    /// The age in seconds at which the backend was told to compact a state's files, if it was since its open.
    pub fn compaction_age_s(&self, state: u32) -> Option<u64> {
        self.engine.compaction_age_s(TableId(state))
    }

    /// Approximate bytes of the shard.
    pub fn bytes(&self) -> u64 {
        self.engine.bytes()
    }

    /// Gives all that has expired up to the backend, and lets the sweep go round once.
    pub fn clean_up(&mut self, times: Times) {
        let rows: usize = self.states.iter().map(|state| self.rows(state.id)).sum();
        // Five rows with a batch, a batch to find the end of each state, and twice as the sweep is somewhere.
        for _ in 0..2 * (rows / 5 + 2 * self.states.len() + 2) {
            self.write(v1::PackedOps::default(), times).expect("an empty batch is fine");
        }
        self.compact();
    }

    /// Takes up a changed descriptor.
    pub fn describe(&mut self, descriptor: v1::StateDescriptor) {
        for state in &mut self.states {
            if state.descriptor.as_ref().is_some_and(|known| known.name == descriptor.name) {
                state.descriptor = Some(descriptor.clone());
            }
        }
        let (rights, states) = (self.rights(), self.states());
        self.core().update(rights, states);
    }

    /// Writes a snapshot.
    pub fn snapshot(&mut self) -> Saved {
        let barrier = v1::BarrierOp { checkpoint: u64::from(self.dirs) + 1, ..Default::default() };
        let snapshot = self.core().snapshot(barrier);
        let dir = self.fresh_dir();
        snapshot.frozen.expect("it freezes").write_files(&dir).expect("the files can be written");
        Saved { dir, sent: self.sent.clone(), _home: self.home.clone() }
    }

    /// Goes back to a snapshot: a new incarnation, without its lanes.
    pub fn restore(&mut self, saved: &Saved) {
        self.incarnation += 1;
        self.open_copy(saved, Origin::Restored);
        self.core().end_lanes().expect("lanes end");
        self.sent.clear();
        self.open_lane(false);
    }

    /// Moves to a copy of its files as they are: lanes and incarnation stay.
    pub fn reopen(&mut self) {
        let saved = self.snapshot();
        self.open_copy(&saved, Origin::Restored);
        self.sent.clone_from(&saved.sent);
        self.open_lane(true);
    }

    fn open_copy(&mut self, saved: &Saved, origin: Origin) {
        let dir = self.fresh_dir();
        copy(&saved.dir, &dir);
        self.core = None;
        self.engine = Engine::open(self.kind, &dir, origin).expect("a snapshot opens");
        self.load();
    }

    fn load(&mut self) {
        let core = Core::load(self.identity(), self.rights(), self.states(), Box::new(self.engine.clone()));
        self.core = Some(core.expect("its own records can be read"));
    }

    fn core(&mut self) -> &mut Core {
        self.core.as_mut().expect("a core is there")
    }

    fn states(&self) -> States {
        States::of_operator(&self.states, OPERATOR)
    }

    fn identity(&self) -> Identity {
        Identity {
            operator: OPERATOR.into(),
            range: KeyGroupRange::new(0, 128).expect("a range"),
            max_parallelism: MaxParallelism::DEFAULT,
            explicit: false,
            recovery: v1::Recovery::Job,
            durability: self.kind.durability(),
            max_value_bytes: 8 << 20,
            max_lanes: 100,
            backend: self.kind.wire(),
        }
    }

    fn rights(&self) -> Rights {
        Rights {
            access: v1::Access::Leased,
            generation: 1,
            restored_checkpoint: 0,
            shard_epoch: 1,
            incarnation: self.incarnation,
            writer_epoch: 1,
            leased: true,
            established: true,
            leaving: false,
        }
    }

    fn open_lane(&mut self, known: bool) {
        let fresh = LaneId(u128::from(self.incarnation).to_be_bytes());
        let mut open = v1::OpenLane { attachment: 1, ..Default::default() };
        if known {
            open.lane = self.lane.0.to_vec().into();
            open.incarnation = self.incarnation;
            open.acknowledged = self.mark();
        }
        let moment = self.moment();
        let opened = self.core().open_lane(&CALLER, &open, "test", fresh, moment).expect("a lane opens");
        self.lane = LaneId::from_slice(&opened.lane).expect("16 bytes");
    }

    fn moment(&self) -> Moment {
        Moment { wall_ms: self.now_ms, lease: true }
    }

    fn batch(&mut self, order: Order, ops: v1::PackedOps, times: Times) -> Answered {
        let batch = Batch {
            caller: CALLER,
            order,
            ops,
            barrier: None,
            durability: v1::Durability::Unspecified,
            now_ms: times.now_ms,
            watermark_ms: times.watermark_ms,
            positions: Default::default(),
            committed: false,
        };
        let moment = self.moment();
        let done = self.core().batch(&batch, moment);
        let answer = |done: Done| v1::BatchAnswer {
            id: 0,
            duplicate: done.duplicate,
            answers: Some(done.answers),
            progress: Some(done.progress),
        };
        done.map(answer).map_err(|refused: Refused| refused.to_refusal(0, 0))
    }

    fn fresh_dir(&mut self) -> PathBuf {
        self.dirs += 1;
        let dir = self.home.path().join(self.dirs.to_string());
        fs::create_dir(&dir).expect("a folder can be made");
        dir
    }
}

const CALLER: Caller = Caller { generation: 1, shard_epoch: 1, writer_epoch: 1, stream: STREAM };

/// In memory where there is such a place: a sync of a file costs nothing there.
fn home() -> TempDir {
    let builder = || tempfile::Builder::new().prefix("forebay-model-").to_owned();
    builder().tempdir_in("/dev/shm").or_else(|_| builder().tempdir()).expect("a temporary folder can be made")
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("the folder is there") {
        let entry = entry.expect("it can be listed");
        match fs::copy(entry.path(), to.join(entry.file_name())) {
            // A live database has deleted it: nothing needed it any more.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            copied => drop(copied.expect("a file can be copied")),
        }
    }
}

#[async_trait]
impl Target for Shard {
    async fn write(&mut self, ops: v1::PackedOps, times: Times) -> Answered {
        Self::write(self, ops, times)
    }

    async fn resend(&mut self) -> Answered {
        Self::resend(self, 0)
    }

    async fn read(&mut self, ops: v1::PackedOps, times: Times) -> Answered {
        Self::read(self, ops, times)
    }

    async fn describe(&mut self, descriptor: v1::StateDescriptor) {
        Self::describe(self, descriptor);
    }

    async fn inside(&mut self, what: Inside) -> usize {
        match what {
            Inside::Advance(ms) => self.advance(ms),
            Inside::Compact => self.compact(),
            Inside::Restore => {
                let saved = self.snapshot();
                self.restore(&saved);
            }
            Inside::Reopen => self.reopen(),
            Inside::CleanUp => self.clean_up(Times::default()),
            Inside::Rows(state) => return self.rows(state),
        }
        0
    }
}
