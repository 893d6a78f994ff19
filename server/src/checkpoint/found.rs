//! Checkpoints that a location holds: a savepoint, a copied checkpoint, or the retained ones of a job's prefix.
//!
//! Objects may have come there in any order, copied by others. So a checkpoint counts only if every
//! object that it refers to is there with enough bytes.

use std::collections::{BTreeMap, BTreeSet};

use forebay_proto::v1;

use super::{
    frame::{self, ObjectKind},
    layout,
    manifest::{self, Folders},
    objects::{self, SharedStore},
    stores::{Stores, trimmed},
};

/// A checkpoint at a location.
#[derive(Debug)]
pub struct Found {
    /// Its entry, with its place.
    pub entry: v1::CompletedCheckpoint,
    /// Its manifest.
    pub manifest: v1::Manifest,
    /// Where its objects are.
    pub folders: Folders,
}

/// Why there is nothing to restore from.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory holds no checkpoint.
    #[error("{location} holds neither a savepoint nor a job's checkpoints: name the directory of one")]
    Nothing {
        /// The directory.
        location: String,
    },
    /// Objects are missing, or were cut off.
    #[error("checkpoint {checkpoint} at {location} is not whole: {} objects are missing, the first is {}", missing.len(), missing[0])]
    Incomplete {
        /// The directory.
        location: String,
        /// The checkpoint.
        checkpoint: u64,
        /// The objects.
        missing: Vec<String>,
    },
    /// What is there cannot be read.
    #[error(transparent)]
    Damaged(#[from] manifest::Error),
    /// A record is damaged or of a newer format.
    #[error(transparent)]
    Frame(#[from] frame::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] objects::Error),
}

/// Finds the checkpoint of a location: the one of an id, or for 0 the newest; with `newest_complete` the newest one that is whole, however many newer
/// ones are not.
pub async fn find(stores: &Stores, location: &str, checkpoint: u64, newest_complete: bool) -> Result<Found, Error> {
    let mut candidates = candidates(stores, location).await?;
    if checkpoint != 0 {
        candidates.retain(|entry| entry.id == checkpoint);
    }
    let mut last = Error::Nothing { location: location.to_owned() };
    for entry in candidates.into_iter().rev() {
        match whole(stores, entry, location).await {
            Ok(found) => return Ok(found),
            Err(error) if newest_complete => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// Reads the savepoints and copied checkpoints below a directory, oldest first.
pub async fn list(stores: &Stores, directory: &str) -> Result<Vec<v1::CompletedCheckpoint>, Error> {
    let (location, prefix) = place(stores, directory);
    let store = stores.at(&location).await?;
    let mut found = Vec::new();
    for object in store.list(&prefix).await? {
        let Some(folder) = object.path.strip_suffix(layout::SAVEPOINT).filter(|folder| folder.ends_with('/')) else {
            continue;
        };
        let (bytes, _) = store.get(&object.path).await?;
        let entry: v1::CompletedCheckpoint = frame::decode(ObjectKind::Savepoint, &object.path, &bytes)?;
        found.push(v1::CompletedCheckpoint { location: location.clone(), prefix: folder.to_owned(), ..entry });
    }
    found.sort_by_key(|entry| (entry.completed_ms, entry.id));
    Ok(found)
}

/// Deletes the folder of a savepoint or of a copied checkpoint, or what one that broke off has left. Anything else there
/// is [`Nothing`](Error::Nothing), and stays.
pub async fn remove(stores: &Stores, location: &str, prefix: &str) -> Result<(), Error> {
    let store = stores.at(location).await?;
    let objects = store.list(prefix).await?;
    let mut names: Vec<&str> = objects.iter().filter_map(|object| object.path.strip_prefix(prefix)).collect();
    if names.is_empty() || !names.iter().all(|name| layout::is_of_savepoint(name)) {
        return Err(Error::Nothing { location: format!("{location}/{prefix}") });
    }
    // What makes it whole goes first: half of a savepoint is none.
    names.sort_by_key(|name| *name != layout::SAVEPOINT);
    for name in names {
        store.delete(&format!("{prefix}{name}")).await?;
    }
    Ok(())
}

/// The store and the prefix of a directory: the cluster's own, if it lies in there.
pub fn place(stores: &Stores, directory: &str) -> (String, String) {
    match stores.own_prefix(directory) {
        Some(prefix) => (String::new(), prefix),
        None => (trimmed(directory).to_owned(), String::new()),
    }
}

/// Compares what a checkpoint refers to with what its store lists; returns the objects that are missing or too short.
pub async fn missing(manifest: &v1::Manifest, folders: &Folders) -> Result<Vec<String>, objects::Error> {
    let files = || manifest.shards.iter().flat_map(|shard| shard.files.iter().map(move |file| (shard, file)));
    let prefixes: BTreeSet<&str> = files().filter_map(|(shard, file)| folders.folder(shard, file)).collect();
    let mut listed: BTreeMap<String, u64> = BTreeMap::new();
    for prefix in prefixes {
        let objects = folders.store.list(prefix).await?;
        listed.extend(objects.into_iter().map(|object| (object.path, object.length)));
    }
    let mut missing = Vec::new();
    for (shard, file) in files() {
        let there = folders.resolve(shard, file).and_then(|path| listed.get(&path).copied());
        if there.is_none_or(|length| length < file.offset + file.length) && !missing.contains(&file.object) {
            missing.push(file.object.clone());
        }
    }
    Ok(missing)
}

async fn whole(stores: &Stores, entry: v1::CompletedCheckpoint, location: &str) -> Result<Found, Error> {
    let root = layout::Job::at("").expect("the empty prefix is one");
    let (manifest, folders) = manifest::open(stores, &root, &entry).await?;
    let missing = missing(&manifest, &folders).await?;
    if !missing.is_empty() {
        return Err(Error::Incomplete { location: location.to_owned(), checkpoint: entry.id, missing });
    }
    Ok(Found { entry, manifest, folders })
}

/// What a location may hold, oldest first.
async fn candidates(stores: &Stores, directory: &str) -> Result<Vec<v1::CompletedCheckpoint>, Error> {
    let (location, prefix) = place(stores, directory);
    let store = stores.at(&location).await?;
    let at = |entry: v1::CompletedCheckpoint| v1::CompletedCheckpoint {
        location: location.clone(),
        prefix: prefix.clone(),
        claimed: false,
        ..entry
    };
    if let Some(entry) = read(&store, ObjectKind::Savepoint, &format!("{prefix}{}", layout::SAVEPOINT)).await? {
        return Ok(vec![at(entry)]);
    }
    let head: Option<v1::JobHead> = read(&store, ObjectKind::Head, &format!("{prefix}head")).await?;
    match head {
        // One that was brought in there already has a place of its own.
        Some(head) => {
            let own = head.completed.into_iter().filter(|entry| entry.location.is_empty() && entry.prefix.is_empty());
            Ok(own.map(at).collect())
        }
        None => list(stores, directory).await,
    }
}

async fn read<M: prost::Message + Default>(
    store: &SharedStore,
    kind: ObjectKind,
    path: &str,
) -> Result<Option<M>, Error> {
    match store.get(path).await {
        Ok((bytes, _)) => Ok(Some(frame::decode(kind, path, &bytes)?)),
        Err(objects::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
