//! Objects in this process's memory, for tests and the simulation.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;

use super::objects::{Condition, Error, Object, ObjectStore, Result, Version, check_path};

/// Tells the store's time, in milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// A store that ends with its process. Every write gets a version that was never used before.
pub struct MemoryStore {
    url: String,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Stored>,
    writes: u64,
}

struct Stored {
    bytes: Bytes,
    version: u64,
    modified_ms: i64,
}

impl MemoryStore {
    /// An empty store with a name for its URL and a clock of the caller's.
    pub fn new(name: &str, clock: Clock) -> Self {
        Self { url: format!("memory://{name}"), clock, state: Mutex::default() }
    }

    /// An empty store with a name for its URL and the system's clock.
    pub fn named(name: &str) -> Self {
        Self::new(name, Arc::new(|| SystemTime::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_millis() as i64)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is made whole after the last thing that can panic, so poison means nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, state: &mut State, path: &str, bytes: Bytes) -> Version {
        state.writes += 1;
        let version = state.writes;
        state.objects.insert(path.into(), Stored { bytes, version, modified_ms: (self.clock)() });
        Version(version.to_string())
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::named("")
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryStore({}, {} objects)", self.url, self.state().objects.len())
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn put(&self, path: &str, bytes: Bytes) -> Result<()> {
        check_path(&self.url, path)?;
        self.write(&mut self.state(), path, bytes);
        Ok(())
    }

    async fn put_file(&self, path: &str, file: &Path) -> Result<()> {
        check_path(&self.url, path)?;
        let bytes = tokio::fs::read(file).await.map_err(|err| Error::Refused {
            store: self.url.clone(),
            path: path.into(),
            detail: format!("cannot read {}: {err}", file.display()),
        })?;
        self.put(path, bytes.into()).await
    }

    async fn put_if(&self, path: &str, bytes: Bytes, condition: &Condition) -> Result<Version> {
        check_path(&self.url, path)?;
        let mut state = self.state();
        let found = state.objects.get(path).map(|stored| stored.version.to_string());
        let holds = match condition {
            Condition::Absent => found.is_none(),
            Condition::Is(Version(wanted)) => found.as_ref() == Some(wanted),
        };
        if !holds {
            return Err(Error::Conflict { path: path.into() });
        }
        Ok(self.write(&mut state, path, bytes))
    }

    async fn get(&self, path: &str) -> Result<(Bytes, Version)> {
        check_path(&self.url, path)?;
        let state = self.state();
        let stored = state.objects.get(path).ok_or_else(|| Error::NotFound { path: path.into() })?;
        Ok((stored.bytes.clone(), Version(stored.version.to_string())))
    }

    async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes> {
        let (bytes, _) = self.get(path).await?;
        let end = range.end.min(bytes.len() as u64);
        let start = range.start.min(end);
        Ok(bytes.slice(start as usize..end as usize))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        let state = self.state();
        let from = state.objects.range(prefix.to_owned()..);
        let under = from.take_while(|(path, _)| path.starts_with(prefix));
        let object = |(path, stored): (&String, &Stored)| Object {
            path: path.clone(),
            length: stored.bytes.len() as u64,
            modified_ms: stored.modified_ms,
        };
        Ok(under.map(object).collect())
    }

    async fn delete(&self, path: &str) -> Result<()> {
        check_path(&self.url, path)?;
        self.state().objects.remove(path);
        Ok(())
    }

    fn url(&self) -> &str {
        &self.url
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::conformance;

    #[tokio::test]
    async fn memory_store_conforms() {
        conformance::check(Arc::new(MemoryStore::default())).await;
    }

    #[tokio::test]
    async fn objects_carry_the_time_of_the_callers_clock() {
        let store = MemoryStore::new("clock", Arc::new(|| 17));
        store.put("a", Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(store.list("").await.unwrap()[0].modified_ms, 17);
        assert_eq!(store.url(), "memory://clock");
    }
}
