//! The stores that checkpoints are in: the cluster's own, and those that a location names.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Mutex,
};

use super::{
    objects::{Error, Result, SharedStore},
    store::{self, StoreConfig},
};

/// The cluster's own store and the others that it may read and write, each opened once.
#[derive(Debug)]
pub struct Stores {
    own: SharedStore,
    config: StoreConfig,
    allowed: Vec<String>,
    savepoints: String,
    scratch: PathBuf,
    opened: Mutex<HashMap<String, SharedStore>>,
}

impl Stores {
    /// Stores around the cluster's own; other locations must be, or lie below, one of `allowed`. Large objects on
    /// their way from one to another pass through `scratch`, a local directory.
    pub fn new(own: SharedStore, config: StoreConfig, allowed: Vec<String>, scratch: PathBuf) -> Self {
        Self { own, config, allowed, savepoints: String::new(), scratch, opened: Mutex::default() }
    }

    /// The same, with an allowed directory for the savepoints that name none.
    pub fn with_savepoints(self, dir: &str) -> Self {
        let allowed = self.allowed.into_iter().chain(Some(dir.to_owned()).filter(|dir| !dir.is_empty()));
        Self { allowed: allowed.collect(), savepoints: dir.to_owned(), ..self }
    }

    /// Where savepoints go that name no directory; empty if they have to.
    pub fn savepoints(&self) -> &str {
        &self.savepoints
    }

    /// Where large objects pass through.
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// The cluster's own store.
    pub fn own(&self) -> &SharedStore {
        &self.own
    }

    /// The store of a location, a URL or an absolute directory; empty means the cluster's own.
    ///
    /// Callers name locations in requests, so only what the operator allowed is opened.
    pub async fn at(&self, location: &str) -> Result<SharedStore> {
        if location.is_empty() {
            return Ok(self.own.clone());
        }
        let location = trimmed(location);
        if !self.allows(location) {
            let detail = format!(
                "the directory is not allowed: name it, or one above it, in checkpoint.allowed_dirs (allowed: {})",
                if self.allowed.is_empty() { "none".to_owned() } else { self.allowed.join(", ") }
            );
            return Err(Error::Refused { store: location.to_owned(), path: "its URL".to_owned(), detail });
        }
        if let Some(known) = self.opened().get(location) {
            return Ok(known.clone());
        }
        let store = store::open(location, &self.config).await?;
        self.opened().insert(location.to_owned(), store.clone());
        Ok(store)
    }

    /// A directory as the cluster's own store knows it, if it lies in there: its prefix, with a slash at its end.
    pub fn own_prefix(&self, location: &str) -> Option<String> {
        let rest = plain(trimmed(location)).strip_prefix(plain(self.own.url()))?;
        match rest {
            "" => Some(String::new()),
            rest => rest.strip_prefix('/').map(|prefix| format!("{prefix}/")),
        }
    }

    fn allows(&self, location: &str) -> bool {
        let location = plain(location);
        let within = |allowed: &String| {
            let rest = location.strip_prefix(plain(trimmed(allowed)).trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        !location.split('/').any(|part| matches!(part, "." | "..")) && self.allowed.iter().any(within)
    }

    fn opened(&self) -> std::sync::MutexGuard<'_, HashMap<String, SharedStore>> {
        self.opened.lock().expect("no panics under this lock")
    }
}

/// A directory is the same with and without a slash at its end; the root keeps its only one, for the empty location is
/// the cluster's own.
pub(crate) fn trimmed(location: &str) -> &str {
    match location.trim_end_matches('/') {
        "" => &location[..location.len().min(1)],
        rest => rest,
    }
}

/// A directory is the same with and without its scheme.
fn plain(location: &str) -> &str {
    location.strip_prefix("file://").unwrap_or(location)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stores(allowed: &[&str]) -> Stores {
        let own = std::sync::Arc::new(super::super::memory::MemoryStore::default());
        let allowed = allowed.iter().map(|dir| (*dir).to_owned()).collect();
        Stores::new(own, StoreConfig::default(), allowed, PathBuf::new())
    }

    #[tokio::test]
    async fn only_allowed_directories_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let allowed = dir.path().join("savepoints").display().to_string();
        let stores = stores(&[&allowed]);
        for fine in [allowed.clone(), format!("{allowed}/"), format!("file://{allowed}/deeper")] {
            stores.at(&fine).await.unwrap();
        }
        for other in [
            dir.path().display().to_string(),
            format!("{allowed}-2"),
            format!("{allowed}/../x"),
            "/".to_owned(),
            "//".to_owned(),
        ] {
            let err = stores.at(&other).await.unwrap_err();
            assert!(err.to_string().contains("checkpoint.allowed_dirs"), "{err}");
        }
        assert_eq!(stores.at("").await.unwrap().url(), stores.own().url());
    }

    #[tokio::test]
    async fn a_location_is_opened_once() {
        let stores = stores(&["memory://elsewhere"]);
        let one = stores.at("memory://elsewhere").await.unwrap();
        one.put("a", bytes::Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(stores.at("memory://elsewhere").await.unwrap().get("a").await.unwrap().0, "x");
    }
}
