//! The disk as the kernel asks for it, through `/dev/fuse`.
//!
//! The kernel hands every write on at once, so what a process that was killed has written is in the [`Disk`].

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::disk::Disk;

/// How long the kernel may believe what it was told: nobody else changes it.
const BELIEVED: Duration = Duration::from_secs(60);
/// What it says of its room: enough.
const BLOCKS: u64 = 1 << 24;
const BLOCK: u32 = 4096;

type Listed = Vec<(u64, FileType, OsString)>;

/// A disk, mounted by a machine from one boot to the next.
pub struct Mounted {
    disk: Arc<Mutex<Disk>>,
    boot: u64,
    lists: Mutex<HashMap<u64, Listed>>,
    next_list: AtomicU64,
}

impl Mounted {
    pub fn new(disk: &Arc<Mutex<Disk>>) -> Self {
        let boot = lock(disk).boots();
        Self { disk: disk.clone(), boot, lists: Mutex::default(), next_list: AtomicU64::new(1) }
    }

    /// The disk; not for who still had it open when the power went.
    fn disk(&self) -> Result<MutexGuard<'_, Disk>, Errno> {
        let disk = lock(&self.disk);
        if disk.boots() == self.boot { Ok(disk) } else { Err(Errno::EIO) }
    }

    fn attributes(&self, ino: u64) -> Result<FileAttr, Errno> {
        self.disk()?.attributes(ino)
    }

    fn make(&self, parent: INodeNo, name: &OsStr, kind: FileType) -> Result<FileAttr, Errno> {
        let mut disk = self.disk()?;
        let ino = disk.make(parent.0, name, kind, now())?;
        disk.attributes(ino)
    }
}

impl Filesystem for Mounted {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer_entry(reply, self.disk().and_then(|disk| disk.attributes(disk.find(parent.0, name)?)));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        answer_attributes(reply, self.attributes(ino.0));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = self.disk().and_then(|mut disk| {
            size.map_or(Ok(()), |size| disk.set_length(ino.0, size, now()))?;
            disk.attributes(ino.0)
        });
        answer_attributes(reply, set);
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        answer_entry(reply, self.make(parent, name, FileType::Directory));
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        match self.make(parent, name, FileType::RegularFile) {
            Ok(made) => reply.created(&BELIEVED, &made, Generation(0), FileHandle(0), FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.disk().and_then(|mut disk| disk.remove(parent.0, name, FileType::RegularFile));
        answer(reply, removed);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.disk().and_then(|mut disk| disk.remove(parent.0, name, FileType::Directory));
        answer(reply, removed);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        answer(reply, self.disk().and_then(|mut disk| disk.rename((parent.0, name), (to.0, to_name))));
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let linked = self.disk().and_then(|mut disk| {
            disk.link(ino.0, parent.0, name)?;
            disk.attributes(ino.0)
        });
        answer_entry(reply, linked);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.disk() {
            Ok(disk) => match disk.read(ino.0, offset, size) {
                Ok(bytes) => reply.data(bytes),
                Err(error) => reply.error(error),
            },
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.disk().and_then(|mut disk| disk.write(ino.0, offset, data, now())) {
            Ok(()) => reply.written(u32::try_from(data.len()).expect("the kernel limits a write")),
            Err(error) => reply.error(error),
        }
    }

    // Closing makes nothing safe.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(reply, self.disk().and_then(|mut disk| disk.sync(ino.0)));
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(reply, self.disk().and_then(|mut disk| disk.sync(ino.0)));
    }

    // A list is taken when a folder is opened: who removes while it reads misses nothing.
    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.disk().and_then(|disk| disk.list(ino.0)) {
            Ok(listed) => {
                let handle = self.next_list.fetch_add(1, Relaxed);
                lock(&self.lists).insert(handle, listed);
                reply.opened(FileHandle(handle), FopenFlags::empty());
            }
            Err(error) => reply.error(error),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let lists = lock(&self.lists);
        let listed = lists.get(&handle.0).into_iter().flatten().zip(1..);
        for ((ino, kind, name), place) in listed.filter(|(_, place)| *place > offset) {
            if reply.add(INodeNo(*ino), place, *kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        lock(&self.lists).remove(&handle.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(BLOCKS, BLOCKS, BLOCKS, BLOCKS, BLOCKS, BLOCK, 255, BLOCK);
    }
}

fn answer(reply: ReplyEmpty, done: Result<(), Errno>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn answer_entry(reply: ReplyEntry, found: Result<FileAttr, Errno>) {
    match found {
        Ok(found) => reply.entry(&BELIEVED, &found, Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn answer_attributes(reply: ReplyAttr, found: Result<FileAttr, Errno>) {
    match found {
        Ok(found) => reply.attr(&BELIEVED, &found),
        Err(error) => reply.error(error),
    }
}

#[expect(clippy::disallowed_methods, reason = "a file system has a clock, which its files' times are of")]
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
