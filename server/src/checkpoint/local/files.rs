//! File work below [`LocalStore`](super::LocalStore): temporary files, the lock, fsync, errors.

use std::{
    fs::{self, File},
    io::{Error as IoError, ErrorKind, Result as IoResult},
    path::{Path, PathBuf},
    time::Duration,
};

use uuid::Uuid;

use super::super::objects::Error;

/// Folder of the files that are being written, in the root so that a rename stays on one file system.
const TEMP_FOLDER: &str = ".forebay-tmp";
const LOCK_FILE: &str = ".forebay-lock";

/// A file that is deleted unless it is renamed. It is locked as long as its writer lives.
pub(super) struct TempFile {
    file: File,
    path: Option<PathBuf>,
}

impl TempFile {
    pub(super) fn create(root: &Path) -> IoResult<Self> {
        let folder = root.join(TEMP_FOLDER);
        fs::create_dir_all(&folder)?;
        let path = folder.join(Uuid::new_v4().to_string());
        let file = File::create_new(&path)?;
        let temp = Self { file, path: Some(path) };
        temp.file.lock()?;
        Ok(temp)
    }

    pub(super) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Gives the file its name, replacing what has it.
    pub(super) fn rename(mut self, target: &Path) -> IoResult<()> {
        let path = self.path.take().expect("only `rename` takes it");
        fs::rename(&path, target).inspect_err(|_| self.path = Some(path))
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path); // failing that, the next `open` removes it
        }
    }
}

/// Removes the temporary files whose writers are gone.
pub(super) fn remove_orphans(root: &Path) -> IoResult<()> {
    let entries = match fs::read_dir(root.join(TEMP_FOLDER)) {
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let Ok(file) = File::open(&path) else { continue };
        // A writer locks its file right after creating it; the minute covers the moment between.
        let idle = file.metadata()?.modified()?.elapsed().unwrap_or_default() > Duration::from_secs(60);
        if idle && file.try_lock().is_ok() {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Waits for the store's lock, which holds between tasks and between processes until it is dropped.
pub(super) fn lock(root: &Path) -> IoResult<File> {
    let file = File::options().create(true).truncate(false).write(true).open(root.join(LOCK_FILE))?;
    file.lock()?;
    Ok(file)
}

/// Creates a folder and those above it so that a power loss does not take them back.
pub fn create_folder(folder: &Path) -> IoResult<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = folder.parent().ok_or(ErrorKind::NotFound)?;
    create_folder(above)?;
    match fs::create_dir(folder) {
        Err(err) if err.kind() == ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(err) => Err(err),
        Ok(()) => sync_folder(above),
    }
}

/// Makes the names in a folder survive a power loss.
pub fn sync_folder(folder: &Path) -> IoResult<()> {
    File::open(folder)?.sync_all()
}

/// Removes the folders that a deleted object leaves empty.
pub(super) fn remove_empty_folders(root: &Path, deleted: &Path) {
    let above = deleted.ancestors().skip(1).take_while(|folder| *folder != root);
    for folder in above {
        if fs::remove_dir(folder).is_err() {
            return; // not empty
        }
    }
}

/// No such object: neither the file nor, perhaps, its folders.
pub(super) fn is_absent(err: &IoError) -> bool {
    matches!(err.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory)
}

/// What went wrong, and what to do about it.
pub(super) fn error(store: &str, path: &str, err: IoError) -> Error {
    let (store, path) = (store.to_owned(), path.to_owned());
    match err.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::Unavailable {
            store,
            path,
            detail: format!("{err}: free some space or move the checkpoint directory to a larger disk"),
        },
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Error::Refused {
            store,
            path,
            detail: format!("{err}: this process must be able to read and write the directory"),
        },
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory | ErrorKind::IsADirectory => Error::Refused {
            store,
            path,
            detail: format!("{err}: a file is where a folder must be, or a folder where a file must be"),
        },
        _ => Error::Unavailable { store, path, detail: err.to_string() },
    }
}
