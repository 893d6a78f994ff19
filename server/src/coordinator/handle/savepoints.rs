//! Savepoints: taken, listed, described and deleted. They belong to whoever asked for them; the cluster keeps no list.

use forebay_proto::{reason::Refused, v1};
use tracing::info;
use v1::ErrorReason as Reason;

use super::{Coordinator, restoring::refused, wrong_answer};
use crate::{
    checkpoint::{found, layout, stores::trimmed},
    coordinator::machine::{Answer, Event},
};

impl Coordinator {
    /// Takes a savepoint and waits until it is whole.
    pub async fn savepoint(&self, request: v1::CreateSavepointRequest) -> Result<v1::Savepoint, Refused> {
        let job = self.job(&request.job)?;
        let directory = self.savepoint_directory(&request.directory)?;
        let (location, prefix) = found::place(&self.stores, directory);
        let store = self.stores.at(&location).await.map_err(|error| refused(&error.into()))?;
        // A directory that cannot be listed is told now, and not after every shard has written into it.
        store.list(&format!("{prefix}{}", layout::SAVEPOINT)).await.map_err(|error| refused(&error.into()))?;
        let format = match request.format() {
            v1::SavepointFormat::Unspecified => v1::SavepointFormat::Canonical,
            format => format,
        };
        let target = v1::SavepointTarget { location, prefix, format: format.into() };
        let id = layout::savepoint_id();
        match job.ask(|token| Event::Savepoint { token, target, id }).await? {
            Answer::Checkpoint(entry) => Ok(self.told(&entry)),
            _ => Err(wrong_answer()),
        }
    }

    /// The savepoints and copied checkpoints of a directory, of one job or of all.
    pub async fn savepoints(&self, request: v1::ListSavepointsRequest) -> Result<Vec<v1::Savepoint>, Refused> {
        let directory = self.savepoint_directory(&request.directory)?;
        let found = found::list(&self.stores, directory).await.map_err(|error| refused(&error))?;
        let wanted = found.iter().filter(|entry| request.job.is_empty() || entry.job == request.job);
        Ok(wanted.map(|entry| self.told(entry)).collect())
    }

    /// What a savepoint is. Refused if objects of it are missing.
    pub async fn describe_savepoint(&self, location: &str) -> Result<(v1::Savepoint, v1::Manifest), Refused> {
        let location = named(location)?;
        let found = found::find(&self.stores, location, 0, false).await.map_err(|error| refused(&error))?;
        Ok((self.told(&found.entry), found.manifest))
    }

    /// Deletes a savepoint, or what one that broke off has left.
    pub async fn delete_savepoint(&self, location: &str) -> Result<(), Refused> {
        let location = named(location)?;
        let (place, prefix) = found::place(&self.stores, location);
        if let Some((job, entry)) = self.reader_of(&place, &prefix, "") {
            let message = format!(
                "job {job:?} was taken to {location} (its checkpoint {}) and reads it: take a checkpoint, then \
                 `forebayctl restore {job}`",
                entry.id
            );
            return Err(Refused::new(Reason::SettingsConflict, message).field("location"));
        }
        found::remove(&self.stores, &place, &prefix).await.map_err(|error| match error {
            found::Error::Nothing { .. } => {
                let message = format!("{location} is not a savepoint's folder: nothing is deleted");
                Refused::new(Reason::CheckpointUnknown, message).field("location")
            }
            error => refused(&error),
        })?;
        info!(location, "savepoint deleted");
        Ok(())
    }

    /// A job other than this one that reads a folder or is about to delete it, and the checkpoint that it is there.
    pub(super) fn reader_of(
        &self,
        location: &str,
        prefix: &str,
        but: &str,
    ) -> Option<(String, v1::CompletedCheckpoint)> {
        let folder = self.full(location, prefix);
        self.all().into_iter().find_map(|seen| {
            let name = seen.head.spec.as_ref().map(|spec| spec.name.clone()).filter(|name| name != but)?;
            let reads = |entry: &&v1::CompletedCheckpoint| self.full(&entry.location, &entry.prefix) == folder;
            seen.head.completed.iter().chain(&seen.head.disowned).find(reads).map(|entry| (name, entry.clone()))
        })
    }

    fn savepoint_directory<'a>(&'a self, asked: &'a str) -> Result<&'a str, Refused> {
        match (asked, self.stores.savepoints()) {
            ("", "") => {
                let message = "the directory is missing: name one, or set checkpoint.savepoint_dir";
                Err(Refused::new(Reason::FieldMissing, message).field("directory"))
            }
            ("", set) => Ok(set),
            (asked, _) => Ok(asked),
        }
    }

    fn told(&self, entry: &v1::CompletedCheckpoint) -> v1::Savepoint {
        v1::Savepoint {
            location: self.full(&entry.location, &entry.prefix),
            checkpoint: entry.id,
            format: entry.format,
            bytes: entry.full_bytes,
            completed_ms: entry.completed_ms,
            job: entry.job.clone(),
            files: entry.files,
        }
    }

    /// A folder as its users name it.
    fn full(&self, location: &str, prefix: &str) -> String {
        let store = if location.is_empty() { self.stores.own().url() } else { location };
        trimmed(&format!("{}/{prefix}", store.trim_end_matches('/'))).to_owned()
    }
}

fn named(location: &str) -> Result<&str, Refused> {
    match location {
        "" => Err(Refused::new(Reason::FieldMissing, "the location is missing").field("location")),
        location => Ok(location),
    }
}
