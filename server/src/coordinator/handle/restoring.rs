//! Takes jobs to checkpoints of their own and of elsewhere, makes jobs from them, copies them.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use forebay_proto::{reason::Refused, v1};
use tokio::sync::mpsc;
use tracing::info;
use uuid::Uuid;
use v1::ErrorReason as Reason;

use super::{Coordinator, Job};
use crate::{
    checkpoint::{
        copy, found, layout, manifest,
        objects::{self, SharedStore},
    },
    coordinator::{
        branches,
        machine::Event,
        restore::{self, Target},
        spec,
    },
    lease::wall_ms,
};

impl Coordinator {
    /// Takes a job to a checkpoint; a job that does not exist is made from it.
    pub async fn restore(&self, request: v1::RestoreJobRequest) -> Result<v1::JobInfo, Refused> {
        let shards: BTreeMap<String, u32> = request.shards.clone().into_iter().collect();
        let claim = request.claim() == v1::ClaimFiles::Claim;
        if request.location.is_empty() {
            if claim {
                let message = "the job's own checkpoints belong to it: only what is elsewhere is claimed";
                return Err(Refused::new(Reason::FieldInvalid, message).field("claim"));
            }
            if request.newest_complete {
                let message = "newest_complete is of a checkpoint from elsewhere: name its location";
                return Err(Refused::new(Reason::FieldInvalid, message).field("location"));
            }
            let job = self.job(&request.job)?;
            let entry = entry_of(&request.job, &job.seen().head, request.checkpoint)?;
            let cause = format!("a restore of checkpoint {} was asked for", entry.as_ref().map_or(0, |entry| entry.id));
            return self.take(&job, Target { id: 0, entry, brought: None, shards, cause }, request.validate_only).await;
        }
        let found = found::find(&self.stores, &request.location, request.checkpoint, request.newest_complete);
        let found = found.await.map_err(|error| refused(&error))?;
        let entry = v1::CompletedCheckpoint { claimed: claim, ..found.entry.clone() };
        self.may_read(&request, &entry)?;
        match self.job(&request.job) {
            Ok(job) => {
                let cause = format!("a restore of checkpoint {} at {} was asked for", entry.id, request.location);
                let brought = Some(Box::new(found.manifest));
                self.take(&job, Target { id: 0, entry: Some(entry), brought, shards, cause }, request.validate_only)
                    .await
            }
            Err(_) => {
                let (name, check) = (&request.job, request.validate_only);
                self.make(name, fresh_uid(), &entry, &found.manifest, &shards, check).await
            }
        }
    }

    /// A claimed folder is deleted whole: it must be one of its own, and of one job only.
    fn may_read(&self, request: &v1::RestoreJobRequest, entry: &v1::CompletedCheckpoint) -> Result<(), Refused> {
        if entry.claimed && !entry.savepoint {
            let message = format!(
                "{} is the folder of a job, not of a savepoint or a copied checkpoint: it cannot be claimed",
                request.location
            );
            return Err(Refused::new(Reason::FieldInvalid, message).field("claim"));
        }
        let conflict = |message| Err(Refused::new(Reason::SettingsConflict, message).field("claim"));
        match self.reader_of(&entry.location, &entry.prefix, &request.job) {
            Some((job, other)) if other.claimed => conflict(format!(
                "job {job:?} has claimed {} and will delete it: copy it first, or take a savepoint",
                request.location
            )),
            Some((job, _)) if entry.claimed => {
                conflict(format!("job {job:?} reads {}, too: it cannot be claimed", request.location))
            }
            _ => Ok(()),
        }
    }

    /// Makes a new job that starts from a checkpoint of another, whose files it shares.
    pub async fn branch(&self, request: v1::BranchJobRequest) -> Result<v1::JobInfo, Refused> {
        let parent = self.job(&request.parent)?;
        let seen = parent.seen();
        let Some(entry) = entry_of(&request.parent, &seen.head, request.checkpoint)? else {
            let message = format!("job {:?} has no completed checkpoint yet: trigger one", request.parent);
            return Err(Refused::new(Reason::CheckpointUnknown, message));
        };
        let paths = self.cluster.job(&request.parent, &seen.head.job_uid);
        let (manifest, folders) =
            manifest::open(&self.stores, &paths, &entry).await.map_err(|error| refused(&error.into()))?;
        let entry = v1::CompletedCheckpoint { prefix: folders.own.prefix().to_owned(), claimed: false, ..entry };
        let uid = fresh_uid();
        let owner = self.pin_for_branch(&uid, &parent, &entry).await?;
        let made = self.make(&request.job, uid.clone(), &entry, &manifest, &BTreeMap::new(), false).await;
        if let (Err(refused), Some(owner)) = (&made, owner)
            // Where the store gave no answer the job may be there after the next start.
            && refused.reason != Reason::StoreUnavailable
        {
            owner.tell(Event::Unpin { holder: branches::holder(&uid) }).await;
        }
        made
    }

    /// Copies a checkpoint to a directory, and tells how far it is.
    pub async fn copy(
        &self,
        request: v1::CopyCheckpointRequest,
        progress: mpsc::UnboundedSender<v1::CopyCheckpointResponse>,
    ) -> Result<(), Refused> {
        let job = self.job(&request.job)?;
        let seen = job.seen();
        let Some(entry) = entry_of(&request.job, &seen.head, request.checkpoint)? else {
            let message = format!("job {:?} has no completed checkpoint yet: trigger one", request.job);
            return Err(Refused::new(Reason::CheckpointUnknown, message));
        };
        let paths = self.cluster.job(&request.job, &seen.head.job_uid);
        let opened = manifest::open(&self.stores, &paths, &entry).await;
        let (manifest, folders) = opened.map_err(|error| refused(&error.into()))?;
        let to = self.destination(&request.directory, &request.job, entry.id).await?;
        let location = to.location.clone();
        let tell = move |bytes_done, bytes| {
            let response = v1::CopyCheckpointResponse { bytes_done, bytes, location: location.clone() };
            // An error means that the caller does not listen any more; the copy is finished all the same.
            progress.send(response).ok();
        };
        tell(0, entry.full_bytes);
        let copied = copy::copy(&entry, &manifest, &folders, &to.at(self.stores.scratch()), &tell).await;
        copied.map_err(|error| copy_refused(&error))?;
        info!(job = request.job, checkpoint = entry.id, location = to.location, "checkpoint copied");
        Ok(())
    }

    /// A fresh folder below a directory.
    async fn destination(&self, directory: &str, job: &str, checkpoint: u64) -> Result<Fresh, Refused> {
        if directory.is_empty() {
            return Err(Refused::new(Reason::FieldMissing, "the directory is missing").field("directory"));
        }
        let (location, prefix) = found::place(&self.stores, directory);
        let store = self.stores.at(&location).await.map_err(|error| refused(&error.into()))?;
        let name = layout::savepoint(job, checkpoint, &layout::savepoint_id());
        let folder = layout::Job::at(&format!("{prefix}{name}")).ok_or_else(|| {
            Refused::new(Reason::FieldInvalid, format!("{directory} is not a directory's URL")).field("directory")
        })?;
        let location = format!("{}/{}", directory.trim_end_matches('/'), name.trim_end_matches('/'));
        Ok(Fresh { store, folder, location })
    }

    async fn take(&self, job: &Arc<Job>, target: Target, validate_only: bool) -> Result<v1::JobInfo, Refused> {
        if validate_only {
            restore::apply(&mut job.seen().head.clone(), &target)?;
            return Ok(job.seen().info());
        }
        job.ask(|token| Event::Restore { token, target: Box::new(target) }).await?;
        Ok(job.seen().info())
    }

    async fn make(
        &self,
        name: &str,
        uid: String,
        entry: &v1::CompletedCheckpoint,
        manifest: &v1::Manifest,
        shards: &BTreeMap<String, u32>,
        validate_only: bool,
    ) -> Result<v1::JobInfo, Refused> {
        let mut spec = manifest.spec.clone().unwrap_or_default();
        name.clone_into(&mut spec.name);
        restore::check_shards(Some(&spec), shards)?;
        for operator in &mut spec.operators {
            operator.shards = shards.get(&operator.name).copied().unwrap_or(operator.shards);
        }
        let spec = spec::complete(spec)?;
        if validate_only {
            return Ok(v1::JobInfo { spec: Some(spec), ..Default::default() });
        }
        let creating = self.creating.lock().await;
        if self.jobs.contains_key(name) {
            return Err(Refused::new(Reason::AlreadyExists, format!("job {name:?} exists: choose another name")));
        }
        let head = restore::born(spec, uid, self.epoch, entry, manifest, wall_ms());
        let job = self.store_new_job(name, head).await?;
        drop(creating);
        info!(job = name, from = entry.prefix, location = entry.location, "job made from a checkpoint");
        job.ask(|token| Event::Created { token }).await?;
        Ok(job.seen().info())
    }
}

fn fresh_uid() -> String {
    Uuid::new_v4().simple().to_string()
}

/// A folder that nothing is in yet.
struct Fresh {
    store: SharedStore,
    folder: layout::Job,
    /// As a caller names it.
    location: String,
}

impl Fresh {
    fn at<'a>(&self, scratch: &'a Path) -> copy::Destination<'a> {
        copy::Destination { store: self.store.clone(), folder: self.folder.clone(), scratch }
    }
}

/// What a caller is told of a copy that failed.
fn copy_refused(error: &copy::Error) -> Refused {
    let message = error.to_string();
    match error {
        copy::Error::Damaged { object, .. } => Refused::new(Reason::CheckpointCorrupt, message).with("object", object),
        copy::Error::Store(_) => Refused::new(Reason::StoreUnavailable, message),
        copy::Error::Local { .. } => Refused::new(Reason::Io, message),
    }
}

/// A completed checkpoint of a job; for 0 the last one, `None` if there is none yet.
pub fn entry_of(name: &str, head: &v1::JobHead, id: u64) -> Result<Option<v1::CompletedCheckpoint>, Refused> {
    let completed = &head.completed;
    if id == 0 {
        return Ok(completed.last().cloned());
    }
    let entry = completed.iter().find(|completed| completed.id == id);
    entry.cloned().map(Some).ok_or_else(|| {
        let message = match completed.last() {
            Some(last) => format!("job {name:?} has no checkpoint {id}: the last completed one is {}", last.id),
            None => format!("job {name:?} has no completed checkpoint yet: trigger one"),
        };
        Refused::new(Reason::CheckpointUnknown, message)
    })
}

/// What a caller is told of a checkpoint that cannot be had.
pub(super) fn refused(error: &found::Error) -> Refused {
    let message = error.to_string();
    match error {
        found::Error::Nothing { .. } => Refused::new(Reason::CheckpointUnknown, message),
        found::Error::Incomplete { missing, .. } => {
            Refused::new(Reason::CheckpointCorrupt, message).with("object", &missing[0])
        }
        found::Error::Damaged(manifest::Error::Damaged { object, .. }) => {
            Refused::new(Reason::CheckpointCorrupt, message).with("object", object)
        }
        found::Error::Frame(crate::checkpoint::frame::Error::Version { .. }) => {
            Refused::new(Reason::FormatTooNew, message)
        }
        found::Error::Frame(_) => Refused::new(Reason::CheckpointCorrupt, message),
        found::Error::Damaged(manifest::Error::Store(error)) | found::Error::Store(error) => match error {
            objects::Error::Refused { .. } => Refused::new(Reason::FieldInvalid, message).field("location"),
            _ => Refused::new(Reason::StoreUnavailable, message),
        },
    }
}
