//! Mounts that only the processes of a test see. They end with the last of these, however the test ends.

use std::{
    fs::File,
    io,
    os::fd::AsRawFd as _,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::{
    mount::{MountPropagationFlags, mount_change},
    thread::UnshareFlags,
};

use super::namespace::{on_thread, own};

/// A mount namespace. Clones share it, also when it is replaced.
#[derive(Debug, Clone)]
pub struct Mounts(Arc<Mutex<File>>);

impl Mounts {
    /// Makes them: whatever `mount` mounts. `None`, and a line that says so, where that is not allowed: it takes root.
    pub fn tried(what: &str, mount: impl FnOnce() -> io::Result<()> + Send) -> Option<Self> {
        match namespace(mount) {
            Ok(namespace) => Some(Self(Arc::new(Mutex::new(namespace)))),
            Err(error) => {
                eprintln!("{what} cannot be had here ({error}): not tried");
                None
            }
        }
    }

    /// Replaces them for processes that are started from now on.
    ///
    /// # Errors
    /// If they cannot be made.
    pub fn replace(&self, mount: impl FnOnce() -> io::Result<()> + Send) -> io::Result<()> {
        let namespace = namespace(mount)?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = namespace;
        Ok(())
    }

    /// What runs a program where these mounts are, in place of itself.
    pub fn enter(&self) -> Command {
        let namespace = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_raw_fd();
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/fd/{namespace}", std::process::id()));
        command
    }
}

/// A namespace with the mounts that `make` makes. They are made by a thread of its own, for it leaves that of the others.
fn namespace(make: impl FnOnce() -> io::Result<()> + Send) -> io::Result<File> {
    on_thread(|| {
        own(UnshareFlags::NEWNS)?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        make()?;
        File::open("/proc/thread-self/ns/mnt")
    })
}
