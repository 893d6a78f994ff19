//! Objects in a local directory: for one machine, tests and the demo.
//!
//! A write is a temporary file, fsync, rename, fsync of the directory, so that a crash leaves all of
//! an object or nothing. What changes an object's name (rename, delete) happens under a lock file that
//! also holds between processes.
//!
//! A version is the xxh3 of the content and its length. So it cannot tell A → B → A apart; what is
//! written with conditions (heads, election records) holds a fresh write id in every content.
//!
//! Unlike in S3, no object may be named like a folder of another (`a` beside `a/b`).

mod files;

use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Seek, SeekFrom, Write},
    ops::Range,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use async_trait::async_trait;
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

use self::files::{TempFile, remove_empty_folders};
pub use self::files::{create_folder, sync_folder};
use super::objects::{Condition, Error, Object, ObjectStore, RESERVED, Result, Version, check_path};

/// A directory as an object store. Clones share it.
#[derive(Debug, Clone)]
pub struct LocalStore {
    url: String,
    root: PathBuf,
}

impl LocalStore {
    /// Opens a directory, creating it if need be, and removes what crashed writers left in it.
    pub fn open(dir: &Path) -> Result<Self> {
        let url = format!("file://{}", dir.display());
        let fail = |err| files::error(&url, &dir.display().to_string(), err);
        let root = std::path::absolute(dir).map_err(fail)?;
        create_folder(&root).map_err(fail)?;
        files::remove_orphans(&root).map_err(fail)?;
        Ok(Self { url: format!("file://{}", root.display()), root })
    }

    /// Runs blocking file work where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        path: &str,
        work: impl FnOnce(&Self, &str) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (store, owned) = (self.clone(), path.to_owned());
        match tokio::task::spawn_blocking(move || work(&store, &owned)).await {
            Ok(result) => result,
            Err(err) if err.is_panic() => std::panic::resume_unwind(err.into_panic()),
            Err(_) => Err(Error::Unavailable {
                store: self.url.clone(),
                path: path.into(),
                detail: "this process is shutting down".into(),
            }),
        }
    }

    fn error(&self, path: &str, err: std::io::Error) -> Error {
        files::error(&self.url, path, err)
    }

    /// Where a path's bytes are; only for paths that passed `check_path`, which confines them.
    fn file(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Writes whatever `fill` writes. The condition is checked and the name set under the lock.
    fn write(
        &self,
        path: &str,
        condition: Option<&Condition>,
        fill: impl FnOnce(&mut File) -> Result<()>,
    ) -> Result<()> {
        let fail = |err| self.error(path, err);
        let mut temp = TempFile::create(&self.root).map_err(fail)?;
        fill(temp.file())?;
        temp.file().sync_all().map_err(fail)?;
        let target = self.file(path);
        let folder = target.parent().unwrap_or(&self.root);
        let lock = files::lock(&self.root).map_err(fail)?;
        if let Some(condition) = condition {
            self.check(path, condition)?;
        }
        create_folder(folder).map_err(fail)?;
        temp.rename(&target).map_err(fail)?;
        if condition.is_none() {
            drop(lock); // the order of plain writes is settled; their fsyncs need not wait for each other
        }
        // From here on a failure leaves the object in place, yet a power loss may still undo it.
        sync_folder(folder).map_err(|err| match condition {
            Some(_) => Error::Ambiguous { path: path.into(), detail: format!("fsync of its folder: {err}") },
            None => fail(err),
        })
    }

    fn check(&self, path: &str, condition: &Condition) -> Result<()> {
        let found = match fs::read(self.file(path)) {
            Ok(bytes) => Some(version(&bytes)),
            Err(err) if files::is_absent(&err) => None,
            Err(err) => return Err(self.error(path, err)),
        };
        let holds = match condition {
            Condition::Absent => found.is_none(),
            Condition::Is(wanted) => found.as_ref() == Some(wanted),
        };
        if holds { Ok(()) } else { Err(Error::Conflict { path: path.into() }) }
    }

    fn open_object(&self, path: &str) -> Result<File> {
        let fail = |err: std::io::Error| match files::is_absent(&err) {
            true => Error::NotFound { path: path.into() },
            false => self.error(path, err),
        };
        let file = File::open(self.file(path)).map_err(fail)?;
        // Opening a folder succeeds, reading it does not.
        match file.metadata().map_err(fail)?.is_file() {
            true => Ok(file),
            false => Err(Error::NotFound { path: path.into() }),
        }
    }

    /// Collects the objects below a folder; what vanishes meanwhile is skipped.
    fn walk(&self, folder: &Path, prefix: &str, found: &mut Vec<Object>) -> std::io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let file = entry.path();
            let Some(path) = file.strip_prefix(&self.root).ok().and_then(Path::to_str) else { continue };
            if entry.file_name().to_string_lossy().starts_with(RESERVED) {
                continue;
            }
            let metadata = match fs::metadata(&file) {
                Ok(metadata) => metadata,
                Err(err) if err.kind() == ErrorKind::NotFound => continue,
                Err(err) => return Err(err),
            };
            if metadata.is_dir() {
                let inside = format!("{path}/");
                if inside.starts_with(prefix) || prefix.starts_with(&inside) {
                    match self.walk(&file, prefix, found) {
                        Err(err) if err.kind() == ErrorKind::NotFound => {}
                        result => result?,
                    }
                }
            } else if path.starts_with(prefix) {
                let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
                found.push(Object {
                    path: path.into(),
                    length: metadata.len(),
                    modified_ms: modified.as_millis() as i64,
                });
            }
        }
        Ok(())
    }
}

fn version(bytes: &[u8]) -> Version {
    Version(format!("{:032x}-{}", xxh3_128(bytes), bytes.len()))
}

#[async_trait]
impl ObjectStore for LocalStore {
    async fn put(&self, path: &str, bytes: Bytes) -> Result<()> {
        check_path(&self.url, path)?;
        self.blocking(path, move |store, path| {
            store.write(path, None, |file| file.write_all(&bytes).map_err(|err| store.error(path, err)))
        })
        .await
    }

    async fn put_file(&self, path: &str, file: &Path) -> Result<()> {
        check_path(&self.url, path)?;
        let source = file.to_owned();
        self.blocking(path, move |store, path| {
            let mut from = File::open(&source).map_err(|err| Error::Refused {
                store: store.url.clone(),
                path: path.into(),
                detail: format!("cannot read {}: {err}", source.display()),
            })?;
            store.write(path, None, |to| std::io::copy(&mut from, to).map(drop).map_err(|err| store.error(path, err)))
        })
        .await
    }

    async fn put_if(&self, path: &str, bytes: Bytes, condition: &Condition) -> Result<Version> {
        check_path(&self.url, path)?;
        let condition = condition.clone();
        self.blocking(path, move |store, path| {
            store.write(path, Some(&condition), |file| file.write_all(&bytes).map_err(|err| store.error(path, err)))?;
            Ok(version(&bytes))
        })
        .await
    }

    async fn get(&self, path: &str) -> Result<(Bytes, Version)> {
        check_path(&self.url, path)?;
        self.blocking(path, |store, path| {
            let mut bytes = Vec::new();
            let mut file = store.open_object(path)?;
            file.read_to_end(&mut bytes).map_err(|err| store.error(path, err))?;
            let version = version(&bytes);
            Ok((bytes.into(), version))
        })
        .await
    }

    async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes> {
        check_path(&self.url, path)?;
        self.blocking(path, move |store, path| {
            let fail = |err| store.error(path, err);
            let mut file = store.open_object(path)?;
            let mut bytes = Vec::new();
            file.seek(SeekFrom::Start(range.start)).map_err(fail)?;
            file.take(range.end.saturating_sub(range.start)).read_to_end(&mut bytes).map_err(fail)?;
            Ok(bytes.into())
        })
        .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        self.blocking(prefix, |store, prefix| {
            let mut found = Vec::new();
            store.walk(&store.root, prefix, &mut found).map_err(|err| store.error(prefix, err))?;
            found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
            Ok(found)
        })
        .await
    }

    async fn delete(&self, path: &str) -> Result<()> {
        check_path(&self.url, path)?;
        self.blocking(path, |store, path| {
            let _lock = files::lock(&store.root).map_err(|err| store.error(path, err))?;
            let file = store.file(path);
            match fs::remove_file(&file) {
                Err(err) if files::is_absent(&err) => Ok(()),
                Err(err) => Err(store.error(path, err)),
                // Not fsynced: what a power loss brings back is garbage, and garbage is collected again.
                Ok(()) => {
                    remove_empty_folders(&store.root, &file);
                    Ok(())
                }
            }
        })
        .await
    }

    fn url(&self) -> &str {
        &self.url
    }
}

#[cfg(test)]
mod tests;
