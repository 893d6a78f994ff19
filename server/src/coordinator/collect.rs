//! Does what the machine says of garbage: lists, reads what manifests name, writes tombstones, deletes.
//!
//! The only place of the server, besides the collection of deleted jobs, that deletes what checkpoints are
//! made of. What to delete is decided elsewhere, see [`garbage`](super::garbage).

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex},
};

use forebay_proto::{reason::Refused, v1};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tracing::{info, warn};

use super::{
    Coordinator,
    garbage::{CLOCK, Listed},
    handle::wrong_answer,
    machine::{
        Action, Answer, Event,
        collect::{Done, Reference},
    },
};
use crate::checkpoint::{
    frame::{self, ObjectKind},
    layout, manifest,
    objects::{self, SharedStore},
};

/// Requests that are in flight at a time.
const PARALLEL: usize = 16;

impl Coordinator {
    /// Collects the garbage of a job, or of all; only tells what it would be if it is a dry run. Returns the
    /// objects, relative to the cluster's prefix for all jobs, and their lengths.
    pub async fn collect_garbage(&self, name: &str, dry_run: bool) -> Result<Vec<(String, u64)>, Refused> {
        if !name.is_empty() {
            return self.garbage_of(name, dry_run).await;
        }
        let mut all = Vec::new();
        for seen in self.all() {
            let spec = seen.head.spec.clone().unwrap_or_default();
            let prefix = format!("{}-{}", spec.name, seen.head.job_uid);
            match self.garbage_of(&spec.name, dry_run).await {
                Ok(found) => all.extend(found.into_iter().map(|(object, bytes)| (format!("{prefix}/{object}"), bytes))),
                // It was deleted meanwhile.
                Err(refused) if refused.reason == v1::ErrorReason::JobUnknown => {}
                Err(refused) => return Err(refused),
            }
        }
        Ok(all)
    }

    pub(super) async fn garbage_of(&self, name: &str, dry_run: bool) -> Result<Vec<(String, u64)>, Refused> {
        match self.job(name)?.ask(|token| Event::Collect { token, dry_run }).await? {
            Answer::Collected(found) => Ok(found),
            _ => Err(wrong_answer()),
        }
    }
}

/// A job's collector.
#[derive(Debug)]
pub struct Collector {
    store: SharedStore,
    paths: layout::Job,
    job: String,
    /// What manifests name; they never change.
    names: Mutex<HashMap<String, Arc<Vec<String>>>>,
}

impl Collector {
    /// A collector of a job's objects.
    pub fn new(store: SharedStore, paths: layout::Job, job: String) -> Self {
        Self { store, paths, job, names: Mutex::default() }
    }

    /// Does a step; `None` for an action that is none of a collection.
    pub async fn act(&self, action: Action) -> Option<(u64, Result<Done, String>)> {
        let (run, done) = match action {
            Action::ListObjects(run, clock) => (run, self.list(clock).await.map(Done::Listed)),
            Action::ReadNames(run, references) => (run, self.names(references).await.map(Done::Named)),
            Action::WriteTombstone(run, name, tombstone) => {
                (run, self.bury(&name, &tombstone).await.map(|()| Done::Stored))
            }
            Action::ReadTombstone(run, name) => (run, self.exhume(&name).await.map(Done::Read)),
            Action::DeleteObjects(run, objects, bytes) => {
                (run, self.delete(&objects, bytes).await.map(|()| Done::Deleted))
            }
            _ => return None,
        };
        if let Err(error) = &done {
            warn!(job = self.job, error, "garbage is not collected");
        }
        Some((run, done))
    }

    fn path(&self, name: &str) -> Result<String, String> {
        self.paths.resolve(name).ok_or_else(|| format!("{name:?} leaves the job's prefix"))
    }

    async fn list(&self, clock: bool) -> Result<Vec<Listed>, String> {
        if clock {
            let written = self.store.put(&self.path(CLOCK)?, bytes::Bytes::new()).await;
            written.map_err(|error| error.to_string())?;
        }
        list(&self.store, &self.paths).await
    }

    async fn names(&self, references: Vec<Reference>) -> Result<BTreeSet<String>, String> {
        let wanted: BTreeSet<_> = references.iter().map(|reference| reference.manifest.clone()).collect();
        let mut read = Vec::new();
        for reference in references {
            read.push(self.named_by(reference));
        }
        let read: Vec<_> = stream::iter(read).buffer_unordered(PARALLEL).try_collect().await?;
        self.known().retain(|manifest, _| wanted.contains(manifest));
        Ok(wanted.into_iter().chain(read.iter().flat_map(|names| names.iter().cloned())).collect())
    }

    async fn named_by(&self, reference: Reference) -> Result<Arc<Vec<String>>, String> {
        if let Some(known) = self.known().get(&reference.manifest) {
            return Ok(known.clone());
        }
        let names = Arc::new(named_by(&self.store, &self.paths, &reference).await?);
        self.known().insert(reference.manifest, names.clone());
        Ok(names)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Vec<String>>>> {
        self.names.lock().expect("no panics under this lock")
    }

    async fn bury(&self, name: &str, tombstone: &v1::Tombstone) -> Result<(), String> {
        let bytes = frame::encode(ObjectKind::Tombstone, tombstone);
        self.store.put(&self.path(name)?, bytes).await.map_err(|error| error.to_string())?;
        info!(job = self.job, tombstone = name, objects = tombstone.objects.len(), "objects are about to be deleted");
        Ok(())
    }

    /// Reads a former coordinator's tombstone. One that is gone or damaged holds nothing back: what it named
    /// had no name then, and this coordinator's rounds take up only what has one.
    async fn exhume(&self, name: &str) -> Result<Vec<String>, String> {
        let bytes = match self.store.get(&self.path(name)?).await {
            Ok((bytes, _)) => bytes,
            Err(objects::Error::NotFound { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error.to_string()),
        };
        let read = frame::decode::<v1::Tombstone>(ObjectKind::Tombstone, name, &bytes);
        Ok(read.map(|tombstone| tombstone.objects).unwrap_or_else(|error| {
            warn!(job = self.job, %error, "a tombstone cannot be read: its objects are found again");
            Vec::new()
        }))
    }

    async fn delete(&self, objects: &[String], bytes: u64) -> Result<(), String> {
        let paths = objects.iter().map(|name| self.path(name)).collect::<Result<Vec<_>, _>>()?;
        delete(&self.store, &paths).await?;
        info!(job = self.job, objects = objects.len(), bytes, "garbage is collected");
        Ok(())
    }
}

/// Lists a job's objects.
pub(super) async fn list(store: &SharedStore, paths: &layout::Job) -> Result<Vec<Listed>, String> {
    let listed = store.list(paths.prefix()).await.map_err(|error| error.to_string())?;
    let own = |object: objects::Object| {
        let name = object.path.strip_prefix(paths.prefix())?.to_owned();
        Some(Listed { name, length: object.length, modified_ms: object.modified_ms })
    };
    Ok(listed.into_iter().filter_map(own).collect())
}

/// The job's objects that a manifest names.
pub(super) async fn named_by(
    store: &SharedStore,
    paths: &layout::Job,
    reference: &Reference,
) -> Result<Vec<String>, String> {
    let manifest: v1::Manifest = match &reference.entry {
        Some(entry) => manifest::read(store, paths, entry).await.map_err(|error| error.to_string())?,
        None => {
            let leaves = || format!("{:?} leaves the job's prefix", reference.manifest);
            let path = paths.resolve(&reference.manifest).ok_or_else(leaves)?;
            let (bytes, _) = store.get(&path).await.map_err(|error| error.to_string())?;
            frame::decode(ObjectKind::Manifest, &path, &bytes).map_err(|error| error.to_string())?
        }
    };
    let files = manifest.shards.into_iter().flat_map(|shard| shard.files);
    Ok(files.filter(|file| file.origin == 0).map(|file| file.object).collect())
}

/// Deletes objects; an error if one of them may still be there.
pub(super) async fn delete(store: &SharedStore, paths: &[String]) -> Result<(), String> {
    let mut deletions = Vec::new();
    for path in paths {
        deletions.push(store.delete(path));
    }
    let deleted: Result<Vec<()>, _> = stream::iter(deletions).buffer_unordered(PARALLEL).try_collect().await;
    deleted.map(drop).map_err(|error| error.to_string())
}
