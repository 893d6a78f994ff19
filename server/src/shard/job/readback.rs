//! Completed checkpoints, opened to be looked at: the job does not notice.
//!
//! A shard's snapshot is brought here as for a restore, into a directory of its own, and stays open for the next
//! reader for as long as it is among the last few that were asked for.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use forebay_proto::{
    key_group::{KeyGroup, KeyGroupRange},
    reason::Refused,
    v1,
};
use tokio::time::timeout;
use uuid::Uuid;
use v1::ErrorReason as Reason;

use super::{
    super::{
        core::{Frozen, none_completed},
        disk::ShardDir,
        meta::{Loaded, Meta},
        open::Origin,
        rescale::{self, Form, Part, Target},
        snapshot,
        states::States,
        ttl::Clocks,
    },
    Job, io,
};
use crate::{
    checkpoint::manifest::{self, Folders},
    storage::{self, Backend, Read, Show, Span, TableId, View, Visitor},
};

/// Snapshots that stay open.
const OPEN_MAX: usize = 4;
/// How long a checkpoint that is not known yet is waited for.
const HEARD_WITHIN: Duration = Duration::from_secs(1);

/// The snapshots of a job that are open, the one that was used last at the end.
#[derive(Debug, Default)]
pub(super) struct OpenSnapshots(tokio::sync::Mutex<Vec<Arc<AtCheckpoint>>>);

/// A shard as a completed checkpoint holds it.
pub struct AtCheckpoint {
    /// The checkpoint.
    pub entry: v1::CompletedCheckpoint,
    /// The states that were registered then.
    pub states: Vec<v1::RegisteredState>,
    /// The key groups of the shard as it was then.
    pub range: KeyGroupRange,
    operator: String,
    incarnation: u64,
    known: States,
    clocks: Clocks,
    view: Arc<dyn View>,
    /// By identity instead of name, which is empty for what a replayed log became.
    files: Option<Vec<Span>>,
    // After the view, which holds what it reads.
    _dir: Scratch,
}

/// A directory that goes with its owner.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is removed at the next start.
        fs::remove_dir_all(&self.0).ok();
    }
}

impl std::fmt::Debug for AtCheckpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AtCheckpoint").field("checkpoint", &self.entry.id).field("range", &self.range).finish()
    }
}

impl AtCheckpoint {
    /// A state's rows and what they are judged by; `None` if the state was not registered then.
    pub fn frozen(&self, state: u32) -> Option<Frozen> {
        let state = self.known.get(state).ok()?.clone();
        Some(Frozen { view: self.view.clone(), state, clocks: self.clocks, incarnation: self.incarnation })
    }

    /// What holds the rows of a key group: if two checkpoints agree in it, they agree in the rows. `None` if it
    /// is not known by key group.
    pub fn holds(&self, group: KeyGroup) -> Option<Vec<&str>> {
        let (start, end) = (group.get().to_be_bytes(), (group.get() + 1).to_be_bytes());
        let in_group = |file: &&Span| file.smallest[..] < end[..] && file.largest[..] >= start[..];
        let mut ids: Vec<&str> = self.files.as_ref()?.iter().filter(in_group).map(|file| &file.name[..]).collect();
        ids.sort_unstable();
        (!ids.iter().any(|id| id.is_empty())).then_some(ids)
    }
}

/// So that whoever holds the view holds the directory that it reads.
impl Read for AtCheckpoint {
    fn get(&self, table: TableId, key: &[u8]) -> storage::Result<Option<Bytes>> {
        self.view.get(table, key)
    }

    fn multi_get(&self, table: TableId, keys: &[&[u8]], show: Show<'_>) -> storage::Result<()> {
        self.view.multi_get(table, keys, show)
    }

    fn scan(&self, table: TableId, start: &[u8], end: &[u8], visit: Visitor<'_>) -> storage::Result<()> {
        self.view.scan(table, start, end, visit)
    }
}

impl Job {
    /// The shard that held a key group in a completed checkpoint; 0 for the last one.
    pub async fn at_checkpoint(
        &self,
        checkpoint: u64,
        operator: &str,
        group: KeyGroup,
    ) -> Result<Arc<AtCheckpoint>, Refused> {
        self.heard_of(checkpoint).await;
        let entry = self.completed_entry(checkpoint)?;
        // Held while one is opened: a second reader of the same does not open it again.
        let mut open = self.snapshots.0.lock().await;
        let same = |known: &Arc<AtCheckpoint>| {
            (known.entry.id, &known.operator[..]) == (entry.id, operator) && known.range.contains(group)
        };
        let found = match open.iter().position(same) {
            Some(at) => open.remove(at),
            None => Arc::new(self.open_snapshot(entry, operator, group).await?),
        };
        open.push(found.clone());
        if open.len() > OPEN_MAX {
            open.remove(0);
        }
        Ok(found)
    }

    /// Brings a shard the last completed checkpoint, for its readers.
    pub(super) async fn open_committed(self: Arc<Self>, entry: v1::ShardEntry) {
        let Some(shard) = super::keep(&self.view(), &entry) else { return };
        let range = shard.range();
        let Some(first) = range.iter().next() else { return };
        let opened = self.at_checkpoint(0, &entry.operator, first).await.and_then(|found| {
            // Else shards were cut otherwise then, and this server was started anew since.
            let whole = found.range.intersection(range) == Some(range);
            if whole { Ok((found.entry.id, found as Arc<dyn View>)) } else { Err(none_completed()) }
        });
        shard.opened(opened).await;
    }

    /// Whoever asked for a checkpoint is answered by the coordinator, maybe before this server hears of it: one that is
    /// newer than all that are known is waited for, for a while.
    async fn heard_of(&self, checkpoint: u64) {
        let newest = || self.completed.lock().expect("no panics under this lock").keys().next_back().copied();
        let wait = async {
            loop {
                let mut news = std::pin::pin!(self.news.notified());
                news.as_mut().enable();
                if newest().is_some_and(|newest| newest >= checkpoint) {
                    return;
                }
                news.await;
            }
        };
        // One that does not exist is refused then.
        timeout(HEARD_WITHIN, wait).await.ok();
    }

    fn completed_entry(&self, checkpoint: u64) -> Result<v1::CompletedCheckpoint, Refused> {
        let completed = self.completed.lock().expect("no panics under this lock");
        let found = if checkpoint == 0 { completed.values().next_back() } else { completed.get(&checkpoint) };
        found.cloned().ok_or_else(|| {
            if completed.is_empty() {
                return none_completed();
            }
            let known: Vec<_> = completed.keys().collect();
            let message = format!("checkpoint {checkpoint} is not retained: there are {known:?}");
            Refused::new(Reason::CheckpointUnknown, message).field("checkpoint")
        })
    }

    /// A snapshot that another engine has taken.
    pub async fn at_snapshot(&self, handle: &v1::SnapshotHandle) -> Result<Arc<AtCheckpoint>, Refused> {
        let entry = manifest::of_external(&handle.snapshot.clone().unwrap_or_default());
        let opened = manifest::open(&self.environment.stores, &self.paths, &entry).await;
        let (manifest, folders) = opened.map_err(|error| snapshot::Error::from(error).refused())?;
        let shard = manifest.shards.first().cloned().unwrap_or_default();
        self.look_at(entry, &manifest, &folders, &shard).await.map(Arc::new)
    }

    async fn open_snapshot(
        &self,
        entry: v1::CompletedCheckpoint,
        operator: &str,
        group: KeyGroup,
    ) -> Result<AtCheckpoint, Refused> {
        let (manifest, folders) = self.manifest(entry.id).await.map_err(|error| error.refused())?;
        let range = |shard: &v1::ShardSnapshot| KeyGroupRange::new(shard.start, shard.end).ok();
        let holds = |shard: &&v1::ShardSnapshot| range(shard).is_some_and(|range| range.contains(group));
        let mut of_operator = manifest.shards.iter().filter(|shard| shard.operator == operator);
        let Some(shard) = of_operator.find(holds) else {
            let message = format!("checkpoint {} does not hold key group {group} of {operator}", entry.id);
            return Err(Refused::new(Reason::CheckpointCorrupt, message));
        };
        self.look_at(entry, &manifest, &folders, shard).await
    }

    async fn look_at(
        &self,
        entry: v1::CompletedCheckpoint,
        manifest: &v1::Manifest,
        folders: &Folders,
        shard: &v1::ShardSnapshot,
    ) -> Result<AtCheckpoint, Refused> {
        let range = KeyGroupRange::new(shard.start, shard.end).map_err(|error| {
            Refused::new(Reason::CheckpointCorrupt, format!("snapshot of checkpoint {}: {error}", entry.id))
        })?;
        let operator = &shard.operator;
        let dir = Scratch(self.environment.stores.scratch().join(Uuid::new_v4().simple().to_string()));
        let (files, db) = (dir.0.join("files"), dir.0.join("db"));
        let copy =
            ShardDir::new(&self.dir, operator, shard.start, shard.end).copy(manifest.checkpoint, &manifest.round);
        snapshot::restore(shard, copy, &snapshot::Near::default(), files.clone(), folders)
            .await
            .map_err(|error| error.refused())?;
        let (environment, spec) = (self.environment.clone(), manifest.spec.clone().unwrap_or_default());
        let (kind, canonical) = (shard.backend(), shard.canonical);
        let names: BTreeMap<String, String> =
            shard.files.iter().map(|file| (file.name.clone(), file.sst_id.clone())).collect();
        let rows = shard.files.first().map(|file| file.name.clone()).unwrap_or_default();
        let scratch = dir.0.join("joined");
        let opened = tokio::task::spawn_blocking(move || {
            fs::create_dir_all(&db).map_err(io)?;
            let (backends, durability) = (&environment.backends, spec.durability());
            let backend = if canonical {
                let target = Target { backends, kind, durability, db: &db, scratch: &scratch };
                rescale::assemble(&target, &[Part { dir: files, range, form: Form::Canonical(rows) }])
            } else {
                backends.open(kind, durability, &files, Origin::Restored)
            };
            backend.and_then(|backend| look(backend, &names)).map_err(|error| snapshot::Error::Storage(error).refused())
        });
        let opened = opened.await.unwrap_or_else(|panic| Err(Refused::new(Reason::Internal, panic.to_string())))?;
        let Looked { view, meta, files } = opened;
        let (processing_ms, watermark_ms) = (meta.clock_ms, meta.watermark_ms);
        Ok(AtCheckpoint {
            entry,
            range,
            operator: operator.clone(),
            incarnation: shard.incarnation,
            known: States::of_operator(&manifest.states, operator),
            states: manifest.states.clone(),
            clocks: Clocks { processing_ms, watermark_ms, writer_ms: 0 },
            view,
            files,
            _dir: dir,
        })
    }
}

struct Looked {
    view: Arc<dyn View>,
    meta: Meta,
    files: Option<Vec<Span>>,
}

/// `names` are the identities of the files as the checkpoint names them.
fn look(mut backend: Box<dyn Backend>, names: &BTreeMap<String, String>) -> storage::Result<Looked> {
    let meta = Loaded::read(backend.as_ref())?.meta;
    let view = backend.view()?;
    let identified = |file: Span| Span { name: names.get(&file.name).cloned().unwrap_or_default(), ..file };
    let files = backend.files()?.map(|files| files.into_iter().map(identified).collect());
    Ok(Looked { view, meta, files })
}
