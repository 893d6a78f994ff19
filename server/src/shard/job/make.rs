//! Makes a shard stand: opens what is here, or builds it from a checkpoint.

use std::{path::PathBuf, sync::Arc};

use forebay_proto::{key_group::KeyGroupRange, reason::Refused, v1};
use tokio::sync::mpsc;
use tracing::{info, warn};
use v1::ErrorReason as Reason;

use super::{
    super::{
        core::Core,
        disk::{self, Local, Plan, ShardDir},
        open::Origin,
        rescale::{self, Form, Part, Target},
        snapshot,
        states::States,
        thread::Shard,
    },
    Job, Status, attend, identity, io, lost, rights,
};
use crate::checkpoint::{
    layout,
    manifest::{self, Folders},
};

/// What a restore has brought to the server's disk.
#[derive(Debug, Default)]
struct Brought {
    /// Local copies that files were taken from.
    copies: Vec<PathBuf>,
    /// Set if the shard's own directory holds key groups besides those that are taken.
    clip: Option<KeyGroupRange>,
    /// What the shard is to be made of; empty if its own directory holds all.
    parts: Vec<Part>,
}

/// A snapshot that a shard is made of.
#[derive(Debug)]
struct Source {
    snapshot: v1::ShardSnapshot,
    /// What is taken of it.
    range: KeyGroupRange,
    /// Where its local copy is, if there is one.
    copy: PathBuf,
    folders: Folders,
    /// What it is of.
    checkpoint: u64,
}

impl Job {
    pub(super) async fn make(
        self: &Arc<Self>,
        wanted: &v1::JobAssignment,
        entry: &v1::ShardEntry,
        lapses: u64,
    ) -> Status {
        let made = self.try_make(wanted, entry, lapses).await;
        made.unwrap_or_else(|refused| {
            warn!(
                job = self.uid,
                operator = entry.operator,
                start = entry.start,
                end = entry.end,
                reason = refused.reason.name(),
                cause = refused.message,
                "shard cannot serve"
            );
            Status::Unavailable(refused)
        })
    }

    async fn try_make(
        self: &Arc<Self>,
        wanted: &v1::JobAssignment,
        entry: &v1::ShardEntry,
        lapses: u64,
    ) -> Result<Status, Refused> {
        let spec = wanted.spec.clone().unwrap_or_default();
        let (backend, durability) = (spec.backend(), spec.durability());
        let keeps_writes = backend != v1::Backend::Memory && durability != v1::Durability::None;
        let synced = durability == v1::Durability::WalSync;
        let dir = self.shard_dir(entry);
        let boot_id = &self.environment.boot_id;
        let mut brought = Brought::default();
        let origin = match disk::plan(dir.read().as_ref(), entry, &self.uid, boot_id, keeps_writes, synced) {
            Plan::Open => Origin::Live,
            Plan::Lost(cause) => return Err(Refused::new(Reason::ShardLost, cause)),
            Plan::Build(checkpoint) => {
                dir.reset().map_err(io)?;
                let sources = match (&entry.external, entry.handed_over()) {
                    (Some(opening), _) => self.sources_of_engine(entry, opening).await,
                    (None, Some(stored)) => self.sources_of_former(entry, stored).await,
                    (None, None) if checkpoint == 0 => Ok(Vec::new()),
                    (None, None) => self.sources_of(entry, checkpoint).await,
                };
                let sources = sources.map_err(|error| error.refused())?;
                if sources.is_empty() {
                    Origin::New
                } else {
                    brought = self.bring(entry, &sources, &dir).await.map_err(|error| error.refused())?;
                    Origin::Restored
                }
            }
        };
        let identity = identity(&spec, entry)?;
        let (rights, states) = (rights(wanted, entry), States::of_operator(&wanted.states, &entry.operator));
        let (environment, range) = (self.environment.clone(), identity.range);
        let (db, scratch) = (dir.db(), dir.parts().join("joined"));
        let Brought { copies, clip, parts } = brought;
        let keeps_lanes = entry.handed_over().is_some();
        let place = dir.clone();
        let opened = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&db).map_err(io)?;
            let backends = &environment.backends;
            let opened = if parts.is_empty() {
                backends.open(backend, durability, &db, origin)
            } else {
                let target = Target { backends, kind: backend, durability, db: &db, scratch: &scratch };
                rescale::assemble(&target, &parts)
            };
            let clipped = opened.and_then(|mut backend| match clip {
                Some(taken) => backend.clip(taken).map(|()| backend),
                None => Ok(backend),
            });
            let backend = clipped.map_err(|error| match (origin, &error) {
                (Origin::Live, crate::storage::Error::Corrupt { .. }) => lost(&error),
                _ => snapshot::Error::Storage(error).refused(),
            })?;
            if synced && origin != Origin::Live {
                place.sync(&environment.data).map_err(io)?;
            }
            let core = Core::load(identity, rights, states, backend);
            if origin != Origin::Restored {
                return core.map_err(|error| lost(&error));
            }
            let made = core.and_then(|mut core| match keeps_lanes {
                true => Ok(core),
                false => core.end_lanes().map(|()| core.as_committed()),
            });
            made.map_err(|error| snapshot::Error::Storage(error).refused())
        })
        .await
        .unwrap_or_else(|panic| Err(Refused::new(Reason::Internal, panic.to_string())));
        let core = match opened {
            Err(refused) if refused.reason == Reason::CheckpointCorrupt && !copies.is_empty() => {
                // Only the local copies are known to be damaged: without them, the store is asked.
                for copy in copies {
                    warn!(job = self.uid, copy = %copy.display(), cause = refused.message, "local copy is damaged");
                    disk::remove_dir(&copy).map_err(io)?;
                }
                return Box::pin(self.try_make(wanted, entry, lapses)).await;
            }
            opened => opened?,
        };
        disk::remove_dir(&dir.parts()).map_err(io)?;
        dir.write(&Local {
            job_uid: self.uid.clone(),
            epoch: entry.epoch,
            incarnation: entry.incarnation,
            boot_id: boot_id.clone(),
        })
        .map_err(io)?;
        let (said, heard) = mpsc::unbounded_channel();
        tokio::spawn(attend(self.clone(), entry.clone(), heard));
        let lease = (self.environment.lease.clone(), lapses);
        let shard = Shard::start(range, core, lease, said).map_err(io)?;
        info!(job = self.uid, operator = entry.operator, %range, incarnation = entry.incarnation, "shard stands");
        Ok(Status::Serving(Arc::new(shard)))
    }

    /// Brings files here: into the shard's own directory if one snapshot holds all that is wanted, else those of every
    /// snapshot into a directory of its own.
    async fn bring(
        &self,
        entry: &v1::ShardEntry,
        sources: &[Source],
        dir: &ShardDir,
    ) -> Result<Brought, snapshot::Error> {
        let alike =
            |source: &Source| !source.snapshot.canonical && source.snapshot.backend() == self.view().spec.backend();
        let whole = matches!(sources, [only] if alike(only));
        let near = self.prepared.of(&entry.operator, entry.start, entry.end);
        let mut brought = Brought::default();
        for (index, Source { snapshot, range, copy, folders, checkpoint }) in sources.iter().enumerate() {
            let into = if whole { dir.db() } else { dir.parts().join(index.to_string()) };
            let source = snapshot::restore(snapshot, copy.clone(), &near, into.clone(), folders).await?;
            let (start, end) = (range.start(), range.end());
            info!(job = self.uid, operator = entry.operator, start, end, checkpoint, ?source, "snapshot is here");
            if source == snapshot::Source::Local {
                brought.copies.push(copy.clone());
            }
            if let Some(dir) = near.dir_of_what_it_has(snapshot) {
                brought.copies.push(dir.to_owned());
            }
            if whole {
                brought.clip =
                    Some(*range).filter(|range| (snapshot.start, snapshot.end) != (range.start(), range.end()));
            } else {
                let form = match snapshot.files.first() {
                    Some(file) if snapshot.canonical => Form::Canonical(file.name.clone()),
                    _ => Form::Files(snapshot.backend()),
                };
                brought.parts.push(Part { dir: into, range: *range, form });
            }
        }
        Ok(brought)
    }

    /// The snapshots of a checkpoint that hold the key groups of a shard.
    async fn sources_of(&self, entry: &v1::ShardEntry, checkpoint: u64) -> Result<Vec<Source>, snapshot::Error> {
        let (manifest, folders) = self.manifest(checkpoint).await?;
        let found = sources(&manifest, entry).map_err(|detail| snapshot::Error::Damaged {
            object: layout::manifest(checkpoint, &manifest.round),
            detail: format!("checkpoint {checkpoint} {detail}"),
        })?;
        let found = found.into_iter().map(|(snapshot, range)| self.source(&manifest, snapshot, range, &folders));
        Ok(found.collect())
    }

    /// What a shard's former server has stored of it.
    async fn sources_of_former(
        &self,
        entry: &v1::ShardEntry,
        stored: &v1::CompletedCheckpoint,
    ) -> Result<Vec<Source>, snapshot::Error> {
        let opened = manifest::open(&self.environment.stores, &self.paths, stored).await;
        let (manifest, folders) = opened.map_err(snapshot::Error::from)?;
        let range = KeyGroupRange::new(entry.start, entry.end).ok();
        let same = |shard: &&v1::ShardSnapshot| {
            (&shard.operator, shard.start, shard.end, shard.incarnation)
                == (&entry.operator, entry.start, entry.end, entry.incarnation)
        };
        let (Some(snapshot), Some(range)) = (manifest.shards.iter().find(same), range) else {
            let detail = format!("it does not hold {} [{},{})", entry.operator, entry.start, entry.end);
            return Err(snapshot::Error::Damaged { object: stored.manifest.clone(), detail });
        };
        Ok(vec![self.source(&manifest, snapshot, range, &folders)])
    }

    /// The snapshots that another engine restores a shard from.
    async fn sources_of_engine(
        &self,
        entry: &v1::ShardEntry,
        opening: &v1::ExternalOpening,
    ) -> Result<Vec<Source>, snapshot::Error> {
        let mut found = Vec::new();
        for part in &opening.restore {
            let named = part.snapshot.clone().unwrap_or_default();
            let opened = manifest::open(&self.environment.stores, &self.paths, &manifest::of_external(&named)).await;
            let (manifest, folders) = opened.map_err(snapshot::Error::from)?;
            let same = |shard: &&v1::ShardSnapshot| {
                (&shard.operator, shard.start, shard.end) == (&entry.operator, named.start, named.end)
            };
            let snapshot = manifest.shards.iter().find(same);
            let range = KeyGroupRange::new(part.start, part.end).ok();
            let (Some(snapshot), Some(range)) = (snapshot, range) else {
                let detail = format!("it does not hold {} [{},{})", entry.operator, named.start, named.end);
                return Err(snapshot::Error::Damaged { object: named.manifest, detail });
            };
            found.push(self.source(&manifest, snapshot, range, &folders));
        }
        Ok(found)
    }

    fn source(
        &self,
        manifest: &v1::Manifest,
        snapshot: &v1::ShardSnapshot,
        range: KeyGroupRange,
        folders: &Folders,
    ) -> Source {
        let dir = ShardDir::new(&self.dir, &snapshot.operator, snapshot.start, snapshot.end);
        let copy = dir.copy(manifest.checkpoint, &manifest.round);
        let (snapshot, folders, checkpoint) = (snapshot.clone(), folders.clone(), manifest.checkpoint);
        Source { snapshot, range, copy, folders, checkpoint }
    }

    pub(super) async fn manifest(&self, checkpoint: u64) -> Result<(v1::Manifest, Folders), snapshot::Error> {
        let entry = self.completed.lock().expect("no panics under this lock").get(&checkpoint).cloned();
        let Some(entry) = entry else {
            let detail = "the coordinator did not say where its manifest is".to_owned();
            return Err(snapshot::Error::Damaged { object: format!("chk/{checkpoint}"), detail });
        };
        manifest::open(&self.environment.stores, &self.paths, &entry).await.map_err(snapshot::Error::from)
    }
}

/// The snapshots that hold the key groups of a shard, with what is taken from each, in order.
fn sources<'a>(
    manifest: &'a v1::Manifest,
    entry: &v1::ShardEntry,
) -> Result<Vec<(&'a v1::ShardSnapshot, KeyGroupRange)>, String> {
    let range = |start, end| KeyGroupRange::new(start, end).map_err(|error| error.to_string());
    let wanted = range(entry.start, entry.end)?;
    let mut sources = Vec::new();
    for shard in manifest.shards.iter().filter(|shard| shard.operator == entry.operator) {
        if let Some(shared) = range(shard.start, shard.end)?.intersection(wanted) {
            sources.push((shard, shared));
        }
    }
    sources.sort_by_key(|(_, shared)| shared.start());
    let mut end = wanted.start();
    for (_, shared) in &sources {
        if shared.start() != end {
            break;
        }
        end = shared.end();
    }
    if end != wanted.end() {
        return Err(format!("does not hold key group {end} of {} {wanted}", entry.operator));
    }
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(shards: &[(u32, u32)], start: u32, end: u32) -> Result<Vec<(u32, u32)>, String> {
        let snapshot = |(start, end): &(u32, u32)| v1::ShardSnapshot {
            operator: "op".into(),
            start: *start,
            end: *end,
            ..Default::default()
        };
        let manifest = v1::Manifest { shards: shards.iter().map(snapshot).collect(), ..Default::default() };
        let entry = v1::ShardEntry { operator: "op".into(), start, end, ..Default::default() };
        let taken = |(_, range): &(_, KeyGroupRange)| (range.start(), range.end());
        sources(&manifest, &entry).map(|sources| sources.iter().map(taken).collect())
    }

    #[test]
    fn a_shard_is_made_of_the_snapshots_that_share_key_groups_with_it() {
        let shards = [(64, 128), (0, 64)];
        assert_eq!(found(&shards, 0, 64).unwrap(), [(0, 64)]);
        assert_eq!(found(&shards, 10, 20).unwrap(), [(10, 20)]);
        assert_eq!(found(&shards, 10, 100).unwrap(), [(10, 64), (64, 100)]);
    }

    #[test]
    fn a_key_group_that_no_snapshot_holds_is_told() {
        assert!(found(&[(0, 64)], 0, 128).unwrap_err().contains("key group 64"));
        assert!(found(&[(0, 10), (20, 30)], 0, 30).unwrap_err().contains("key group 10"));
        assert!(found(&[], 3, 30).unwrap_err().contains("key group 3"));
        // Two that overlap are not taken for one after the other.
        assert!(found(&[(0, 20), (10, 30)], 0, 30).is_err());
    }
}
