//! From a URL to a store, and the proof that the store can be trusted with a commit point.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use backon::{ExponentialBuilder, Retryable as _};
use bytes::Bytes;
use futures::future::join_all;
use uuid::Uuid;

pub use super::settings::{Checksums, CloudConfig, Encryption, S3Config, StorageClass, StoreConfig};
use super::{
    local::LocalStore,
    memory::MemoryStore,
    objects::{Condition, Error, ObjectStore, Result, SharedStore},
};

/// How often a proof is begun whose answers are lost.
const PROOFS_MAX: usize = 5;

/// Opens the store of a URL: `file:///dir` or `/dir`, `s3://bucket/prefix`, `gs://bucket/prefix`,
/// `az://container/prefix`, `memory://name`.
///
/// The same `memory://name` is the same store all over this process, as long as somebody holds it;
/// without a name it is a new one.
pub async fn open(url: &str, config: &StoreConfig) -> Result<SharedStore> {
    match url.split_once("://") {
        Some(("file", dir)) if dir.starts_with('/') => Ok(Arc::new(LocalStore::open(Path::new(dir))?)),
        None if url.starts_with('/') => Ok(Arc::new(LocalStore::open(Path::new(url))?)),
        Some(("memory", name)) => Ok(open_memory(name)),
        Some(("s3", _)) => open_s3(url, &config.s3).await,
        Some(("gs", _)) => open_gcs(url, &config.gcs),
        Some(("az", _)) => open_azure(url, &config.azure),
        _ => Err(refused(
            url,
            "not the URL of a store: use s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, \
             file:///absolute/directory or an absolute directory",
        )),
    }
}

fn refused(url: &str, detail: &str) -> Error {
    Error::Refused { store: url.into(), path: "its URL".into(), detail: detail.into() }
}

#[cfg(feature = "s3")]
async fn open_s3(url: &str, config: &S3Config) -> Result<SharedStore> {
    Ok(Arc::new(super::s3::S3Store::open(url, config).await?))
}

#[cfg(not(feature = "s3"))]
async fn open_s3(url: &str, _: &S3Config) -> Result<SharedStore> {
    Err(refused(url, "this build has no S3: build it with `--features s3`"))
}

#[cfg(feature = "gcs")]
fn open_gcs(url: &str, config: &CloudConfig) -> Result<SharedStore> {
    Ok(Arc::new(super::others::OtherStore::open_gcs(url, config)?))
}

#[cfg(not(feature = "gcs"))]
fn open_gcs(url: &str, _: &CloudConfig) -> Result<SharedStore> {
    Err(refused(url, "this build has no Google Cloud Storage: build it with `--features gcs`"))
}

#[cfg(feature = "azure")]
fn open_azure(url: &str, config: &CloudConfig) -> Result<SharedStore> {
    Ok(Arc::new(super::others::OtherStore::open_azure(url, config)?))
}

#[cfg(not(feature = "azure"))]
fn open_azure(url: &str, _: &CloudConfig) -> Result<SharedStore> {
    Err(refused(url, "this build has no Azure: build it with `--features azure`"))
}

fn open_memory(name: &str) -> SharedStore {
    static NAMED: Mutex<Option<HashMap<String, Weak<MemoryStore>>>> = Mutex::new(None);
    if name.is_empty() {
        return Arc::new(MemoryStore::default());
    }
    let mut named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
    let entry = named.get_or_insert_default().entry(name.into()).or_default();
    entry.upgrade().unwrap_or_else(|| {
        let store = Arc::new(MemoryStore::named(name));
        *entry = Arc::downgrade(&store);
        store
    })
}

/// Proves that the store can be reached, as it is: its bucket exists and lets the caller list.
pub async fn check_reachable(store: &dyn ObjectStore) -> Result<()> {
    store.list(&probe_path("")).await.map(drop)
}

/// Proves that the store honours conditional writes and shows what was written, or refuses it.
///
/// Run at start, before anything is committed: a store that ignores a condition lets two coordinators
/// both succeed. Leaves nothing behind unless it fails midway (objects named `prove-…` below the prefix).
pub async fn prove(store: &dyn ObjectStore, prefix: &str) -> Result<()> {
    check_reachable(store).await?;
    let tries = ExponentialBuilder::default().with_min_delay(Duration::from_millis(50)).with_max_times(PROOFS_MAX - 1);
    // A lost answer proves nothing, for the store or against it.
    (|| prove_once(store, prefix)).retry(tries).when(|error| matches!(error, Error::Ambiguous { .. })).await
}

async fn prove_once(store: &dyn ObjectStore, prefix: &str) -> Result<()> {
    let path = probe_path(prefix);
    let result = prove_at(store, &path).await;
    let cleaned = store.delete(&path).await;
    result?;
    cleaned?;
    match store.get(&path).await {
        Err(Error::NotFound { .. }) => Ok(()),
        Err(err) => Err(err),
        Ok(_) => Err(unsafe_store(store, "shows an object that was deleted")),
    }
}

async fn prove_at(store: &dyn ObjectStore, path: &str) -> Result<()> {
    // All at once: a store that first looks and then writes passes when asked one by one.
    let creators = (0..8u8).map(|n| store.put_if(path, Bytes::from(vec![n; 8]), &Condition::Absent));
    let mut created = Vec::new();
    for result in join_all(creators).await {
        match result {
            Ok(version) => created.push(version),
            Err(Error::Conflict { .. }) => {}
            Err(err) => return Err(err),
        }
    }
    let [first] = &created[..] else {
        return Err(match created.len() {
            0 => unsafe_store(store, "lets none of several creators of an object win"),
            _ => unsafe_store(store, "ignores If-None-Match"),
        });
    };
    let write = async |content: &'static [u8], condition: Condition| {
        store.put_if(path, Bytes::from_static(content), &condition).await
    };
    let conflict = |result: Result<_>, fault: &str| match result {
        Err(Error::Conflict { .. }) => Ok(()),
        Err(err) => Err(err),
        Ok(_) => Err(unsafe_store(store, fault)),
    };
    conflict(write(b"again", Condition::Absent).await, "ignores If-None-Match")?;
    let second = write(b"second", Condition::Is(first.clone())).await?;
    if second == *first {
        return Err(unsafe_store(store, "gives two contents the same ETag"));
    }
    conflict(write(b"stale", Condition::Is(first.clone())).await, "ignores If-Match")?;
    if store.get(path).await? != (Bytes::from_static(b"second"), second.clone()) {
        return Err(unsafe_store(store, "does not show what was written last"));
    }
    let listed = store.list(path).await?;
    if !listed.iter().any(|object| object.path == path && object.length == 6) {
        return Err(unsafe_store(store, "does not list what was written last"));
    }
    store.delete(path).await?;
    conflict(write(b"revived", Condition::Is(second)).await, "ignores If-Match for an absent object")
}

fn probe_path(prefix: &str) -> String {
    let name = format!("prove-{}", Uuid::new_v4());
    match prefix.trim_end_matches('/') {
        "" => name,
        folder => format!("{folder}/{name}"),
    }
}

fn unsafe_store(store: &dyn ObjectStore, fault: &str) -> Error {
    Error::Unsafe { store: store.url().into(), fault: fault.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_url_names_its_store() {
        let dir = tempfile::tempdir().unwrap();
        let (plain, config) = (dir.path().to_str().unwrap(), StoreConfig::default());
        assert_eq!(open(plain, &config).await.unwrap().url(), format!("file://{plain}"));
        assert_eq!(open(&format!("file://{plain}"), &config).await.unwrap().url(), format!("file://{plain}"));
        assert_eq!(open("memory://", &config).await.unwrap().url(), "memory://");
        for url in ["", "relative/dir", "file://relative", "ftp://bucket", "http://x"] {
            let err = open(url, &config).await.unwrap_err();
            assert!(matches!(&err, Error::Refused { .. }), "{err}");
            assert!(err.to_string().contains("use s3://bucket/prefix"), "{err}");
        }
    }

    #[cfg(not(feature = "s3"))]
    #[tokio::test]
    async fn a_build_without_s3_says_so() {
        let err = open("s3://bucket/prefix", &StoreConfig::default()).await.unwrap_err();
        assert!(err.to_string().contains("--features s3"), "{err}");
    }

    #[cfg(not(any(feature = "gcs", feature = "azure")))]
    #[tokio::test]
    async fn a_build_without_the_other_clouds_says_so() {
        for (url, feature) in [("gs://bucket/prefix", "gcs"), ("az://container/prefix", "azure")] {
            let err = open(url, &StoreConfig::default()).await.unwrap_err();
            assert!(err.to_string().contains(&format!("--features {feature}")), "{err}");
        }
    }

    #[tokio::test]
    async fn a_memory_store_is_shared_by_its_name() {
        let config = StoreConfig::default();
        let one = open("memory://shared", &config).await.unwrap();
        let same = open("memory://shared", &config).await.unwrap();
        one.put("a", Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(same.get("a").await.unwrap().0, "x");
        let unnamed = open("memory://", &config).await.unwrap();
        assert!(matches!(unnamed.get("a").await, Err(Error::NotFound { .. })));
    }

    #[tokio::test]
    async fn a_sound_store_is_proven_and_left_empty() {
        let dir = tempfile::tempdir().unwrap();
        for url in ["memory://", dir.path().to_str().unwrap()] {
            let store = open(url, &StoreConfig::default()).await.unwrap();
            prove(store.as_ref(), "cluster/").await.unwrap();
            assert_eq!(store.list("").await.unwrap(), []);
        }
    }
}
