//! A machine whose power can be cut: what its processes had not synced is gone, and it has booted anew.
//!
//! [`disk`] is what its disk holds, [`fuse`] how the kernel asks for it. Processes see the disk, and the boot id, by
//! mounts of their own ([`Mounts`]), so they need not know that they are tested.
//!
//! Invariant: what was written and not synced is never there behind a loss of power, unless a test asks for a chance.

mod disk;
mod fuse;

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use fuser::{Config, Session, SessionACL};
use rustix::mount::{MountFlags, mount, mount_bind};
use tempfile::TempDir;
use uuid::Uuid;

pub use self::disk::Left;
use self::{
    disk::Disk,
    fuse::{Mounted, lock},
};
use crate::harness::Mounts;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A machine.
#[derive(Debug)]
pub struct Machine {
    folder: TempDir,
    disk: Arc<Mutex<Disk>>,
    mounts: Mounts,
}

impl Machine {
    /// Starts a machine with an empty disk; `None`, and a line that says so, where that cannot be: it takes root and
    /// `/dev/fuse`.
    ///
    /// # Panics
    /// If there is no temporary folder.
    pub fn start() -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("forebay-").tempdir().expect("a temporary folder can be made");
        fs::create_dir(folder.path().join("disk")).expect("the test's folder is writable");
        let disk = Arc::default();
        let mounts = Mounts::tried("a machine that loses power", || boot(folder.path(), &disk))?;
        Some(Self { folder, disk, mounts })
    }

    /// Where its disk is, as its processes see it; elsewhere this folder is empty.
    pub fn disk(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// What its processes see.
    pub fn mounts(&self) -> &Mounts {
        &self.mounts
    }

    /// Cuts the power, and boots anew. Kill its processes first: whatever they do afterwards fails.
    ///
    /// # Panics
    /// If it does not boot.
    pub fn cut_power(&self, left: Left) {
        lock(&self.disk).lose_power(left);
        self.mounts.replace(|| boot(self.folder.path(), &self.disk)).expect("what could be mounted once can be again");
    }

    /// From now on every sync fails and makes nothing safe; until power is cut.
    pub fn fail_syncs(&self) {
        lock(&self.disk).fail_syncs();
    }
}

/// Mounts the disk, and a new boot id over the kernel's.
fn boot(folder: &Path, disk: &Arc<Mutex<Disk>>) -> io::Result<()> {
    let fuse = File::options().read(true).write(true).open("/dev/fuse")?;
    let options = CString::new(format!("fd={},rootmode=40000,user_id=0,group_id=0", fuse.as_raw_fd()))?;
    mount("lossy", folder.join("disk"), "fuse", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())?;
    let session = Session::from_fd(Mounted::new(disk), OwnedFd::from(fuse), SessionACL::Owner, Config::default())?;
    // It ends when the mount is gone, with the last process that sees it.
    drop(session.spawn()?);
    let boot_id = folder.join("boot_id");
    fs::write(&boot_id, format!("{}\n", Uuid::new_v4()))?;
    Ok(mount_bind(&boot_id, BOOT_ID)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a shell says that runs on the machine's disk.
    fn run(machine: &Machine, script: &str) -> String {
        let script = format!("cd {} && {script}", machine.disk().display());
        let output = machine.mounts().enter().args(["sh", "-ec", &script]).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_machine_that_lost_power_has_booted_anew_and_holds_what_was_synced() {
        let Some(machine) = Machine::start() else { return };
        let boot_id = || run(&machine, &format!("cat {BOOT_ID}"));
        let before = boot_id();
        run(&machine, "mkdir folder && echo one > folder/log && sync folder/log folder . && ln folder/log link");
        run(&machine, "echo two >> folder/log && echo three > folder/new && sync folder/new && mv folder/log renamed");
        assert_eq!(run(&machine, "ls | xargs && cat renamed link"), "folder link renamed\none\ntwo\none\ntwo\n");
        machine.cut_power(Left::Nothing);
        assert_eq!(run(&machine, "find . -type f | xargs cat"), "one\n");
        assert_ne!(boot_id(), before);
        assert_eq!(fs::read_dir(machine.disk()).unwrap().count(), 0, "only its own processes see it");
    }

    #[test]
    fn a_sync_fails_when_it_is_told_to() {
        let Some(machine) = Machine::start() else { return };
        run(&machine, "echo one > log && sync log .");
        machine.fail_syncs();
        run(&machine, "echo two > log && ! sync log 2> /dev/null && ! sync . 2> /dev/null");
        machine.cut_power(Left::Nothing);
        assert_eq!(run(&machine, "cat log && sync log"), "one\n");
    }
}
