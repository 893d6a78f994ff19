//! What a disk holds: files and folders as they are, and as they were synced last. Pure.
//!
//! As POSIX has it, and no file system that is kinder: a sync of a file makes its bytes safe, not its name; a name is
//! safe once its folder is synced.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    time::{Duration, UNIX_EPOCH},
};

use fuser::{Errno, FileAttr, FileType, INodeNo};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

/// The folder that is mounted.
const ROOT: u64 = INodeNo::ROOT.0;
const BLOCK: u64 = 512;

type Result<T> = std::result::Result<T, Errno>;
type Names = BTreeMap<OsString, u64>;

/// What a loss of power leaves of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Nothing.
    Nothing,
    /// Everything: it had reached the disk by itself.
    Everything,
    /// Of every file the bytes up to a place where the write was torn, of every folder all changes or none: by chance,
    /// of this seed.
    Chance(u64),
}

/// A disk.
#[derive(Debug)]
pub struct Disk {
    nodes: BTreeMap<u64, Node>,
    next: u64,
    boots: u64,
    failing: bool,
}

#[derive(Debug)]
struct Node {
    content: Content,
    changed: Duration,
}

#[derive(Debug)]
enum Content {
    File(File),
    Folder(Folder),
}

#[derive(Debug, Default)]
struct File {
    bytes: Vec<u8>,
    synced: Vec<u8>,
    /// So many bytes at the beginning are the same in both.
    same: usize,
    links: u32,
}

#[derive(Debug, Default)]
struct Folder {
    names: Names,
    synced: Names,
}

impl Default for Disk {
    fn default() -> Self {
        let root = Node { content: Content::Folder(Folder::default()), changed: Duration::ZERO };
        Self { nodes: BTreeMap::from([(ROOT, root)]), next: ROOT + 1, boots: 0, failing: false }
    }
}

impl Disk {
    /// How often its machine has lost power.
    pub fn boots(&self) -> u64 {
        self.boots
    }

    /// From now on every sync fails and makes nothing safe; until power is lost.
    pub fn fail_syncs(&mut self) {
        self.failing = true;
    }

    /// Loses power.
    pub fn lose_power(&mut self, left: Left) {
        let mut rng = match left {
            Left::Chance(seed) => Some(StdRng::seed_from_u64(seed)),
            Left::Nothing | Left::Everything => None,
        };
        for node in self.nodes.values_mut() {
            if left == Left::Everything {
                node.sync();
            }
            match &mut node.content {
                Content::File(file) => file.lose_power(rng.as_mut()),
                Content::Folder(folder) => folder.lose_power(rng.as_mut()),
            }
        }
        self.count_links();
        self.failing = false;
        self.boots += 1;
    }

    /// Drops what no name leads to, and counts the names of the rest.
    fn count_links(&mut self) {
        let (mut links, mut found) = (BTreeMap::<u64, u32>::new(), BTreeSet::from([ROOT]));
        let mut folders = vec![ROOT];
        while let Some(ino) = folders.pop() {
            let Some(Node { content: Content::Folder(folder), .. }) = self.nodes.get(&ino) else { continue };
            for child in folder.names.values() {
                *links.entry(*child).or_default() += 1;
                if found.insert(*child) {
                    folders.push(*child);
                }
            }
        }
        self.nodes.retain(|ino, _| found.contains(ino));
        for (ino, node) in &mut self.nodes {
            if let Content::File(file) = &mut node.content {
                file.links = links.get(ino).copied().unwrap_or(0);
            }
        }
    }

    /// The attributes of a file or folder.
    pub fn attributes(&self, ino: u64) -> Result<FileAttr> {
        let node = self.nodes.get(&ino).ok_or(Errno::ENOENT)?;
        let (kind, perm, size, nlink) = match &node.content {
            Content::File(file) => (FileType::RegularFile, 0o644, file.bytes.len() as u64, file.links),
            Content::Folder(_) => (FileType::Directory, 0o755, BLOCK, 2),
        };
        let changed = UNIX_EPOCH + node.changed;
        Ok(FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(BLOCK),
            atime: changed,
            mtime: changed,
            ctime: changed,
            crtime: changed,
            kind,
            perm,
            nlink,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    /// Finds a name in a folder.
    pub fn find(&self, folder: u64, name: &OsStr) -> Result<u64> {
        self.folder(folder)?.names.get(name).copied().ok_or(Errno::ENOENT)
    }

    /// The names in a folder.
    pub fn list(&self, folder: u64) -> Result<Vec<(u64, FileType, OsString)>> {
        let kind = |ino: &u64| match self.nodes[ino].content {
            Content::File(_) => FileType::RegularFile,
            Content::Folder(_) => FileType::Directory,
        };
        Ok(self.folder(folder)?.names.iter().map(|(name, ino)| (*ino, kind(ino), name.clone())).collect())
    }

    /// Makes an empty file or folder.
    pub fn make(&mut self, folder: u64, name: &OsStr, kind: FileType, now: Duration) -> Result<u64> {
        if self.folder(folder)?.names.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let content = match kind {
            FileType::RegularFile => Content::File(File { links: 1, ..File::default() }),
            FileType::Directory => Content::Folder(Folder::default()),
            _ => return Err(Errno::EPERM),
        };
        let ino = self.next;
        self.next += 1;
        self.nodes.insert(ino, Node { content, changed: now });
        self.folder_mut(folder)?.names.insert(name.to_owned(), ino);
        Ok(ino)
    }

    /// Gives a file another name.
    pub fn link(&mut self, ino: u64, folder: u64, name: &OsStr) -> Result<()> {
        if self.folder(folder)?.names.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        self.file_mut(ino)?.links += 1;
        self.folder_mut(folder)?.names.insert(name.to_owned(), ino);
        Ok(())
    }

    /// Takes a name away, of a file or an empty folder. What it led to is there until no power loss can bring it back.
    pub fn remove(&mut self, folder: u64, name: &OsStr, kind: FileType) -> Result<()> {
        let ino = self.find(folder, name)?;
        match (&mut self.node_mut(ino)?.content, kind) {
            (Content::File(file), FileType::RegularFile) => file.links -= 1,
            (Content::Folder(inner), FileType::Directory) if inner.names.is_empty() => {}
            (Content::Folder(_), FileType::Directory) => return Err(Errno::ENOTEMPTY),
            (Content::File(_), _) => return Err(Errno::ENOTDIR),
            (Content::Folder(_), _) => return Err(Errno::EISDIR),
        }
        self.folder_mut(folder)?.names.remove(name);
        Ok(())
    }

    /// Moves a name, over another one if that is there.
    pub fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr)) -> Result<()> {
        let ino = self.find(from.0, from.1)?;
        match self.find(to.0, to.1) {
            Ok(same) if same == ino => return Ok(()),
            Ok(replaced) => {
                let kind = self.attributes(replaced)?.kind;
                self.remove(to.0, to.1, kind)?;
            }
            Err(_) => {}
        }
        self.folder_mut(from.0)?.names.remove(from.1);
        self.folder_mut(to.0)?.names.insert(to.1.to_owned(), ino);
        Ok(())
    }

    /// Reads; less than asked for at the end of the file.
    pub fn read(&self, ino: u64, offset: u64, length: u32) -> Result<&[u8]> {
        let Content::File(file) = &self.nodes.get(&ino).ok_or(Errno::ENOENT)?.content else {
            return Err(Errno::EISDIR);
        };
        let from = place(offset)?.min(file.bytes.len());
        let end = from.saturating_add(length as usize).min(file.bytes.len());
        Ok(&file.bytes[from..end])
    }

    /// Writes.
    pub fn write(&mut self, ino: u64, offset: u64, written: &[u8], now: Duration) -> Result<()> {
        let (from, file) = (place(offset)?, self.file_mut(ino)?);
        let end = from + written.len();
        file.same = file.same.min(from).min(file.bytes.len());
        if file.bytes.len() < end {
            file.bytes.resize(end, 0);
        }
        file.bytes[from..end].copy_from_slice(written);
        self.node_mut(ino)?.changed = now;
        Ok(())
    }

    /// Cuts a file off, or makes it longer by zeros.
    pub fn set_length(&mut self, ino: u64, length: u64, now: Duration) -> Result<()> {
        let (length, file) = (place(length)?, self.file_mut(ino)?);
        file.same = file.same.min(length).min(file.bytes.len());
        file.bytes.resize(length, 0);
        self.node_mut(ino)?.changed = now;
        Ok(())
    }

    /// Makes safe what a file holds, or the names in a folder.
    pub fn sync(&mut self, ino: u64) -> Result<()> {
        if self.failing {
            return Err(Errno::EIO);
        }
        self.node_mut(ino)?.sync();
        Ok(())
    }

    fn node_mut(&mut self, ino: u64) -> Result<&mut Node> {
        self.nodes.get_mut(&ino).ok_or(Errno::ENOENT)
    }

    fn folder(&self, ino: u64) -> Result<&Folder> {
        match &self.nodes.get(&ino).ok_or(Errno::ENOENT)?.content {
            Content::Folder(folder) => Ok(folder),
            Content::File(_) => Err(Errno::ENOTDIR),
        }
    }

    fn folder_mut(&mut self, ino: u64) -> Result<&mut Folder> {
        match &mut self.node_mut(ino)?.content {
            Content::Folder(folder) => Ok(folder),
            Content::File(_) => Err(Errno::ENOTDIR),
        }
    }

    fn file_mut(&mut self, ino: u64) -> Result<&mut File> {
        match &mut self.node_mut(ino)?.content {
            Content::File(file) => Ok(file),
            Content::Folder(_) => Err(Errno::EISDIR),
        }
    }
}

impl Node {
    fn sync(&mut self) {
        match &mut self.content {
            Content::File(file) => {
                file.synced.truncate(file.same);
                file.synced.extend_from_slice(&file.bytes[file.same..]);
                file.same = file.bytes.len();
            }
            Content::Folder(folder) => folder.synced.clone_from(&folder.names),
        }
    }
}

impl File {
    fn lose_power(&mut self, chance: Option<&mut StdRng>) {
        let torn = chance.map_or(self.same, |rng| rng.random_range(self.same..=self.bytes.len()));
        let mut left = self.bytes[..torn].to_vec();
        left.extend_from_slice(self.synced.get(torn..).unwrap_or_default());
        self.same = left.len();
        self.synced.clone_from(&left);
        self.bytes = left;
    }
}

impl Folder {
    fn lose_power(&mut self, chance: Option<&mut StdRng>) {
        if chance.is_some_and(|rng| rng.random()) {
            self.synced.clone_from(&self.names);
        } else {
            self.names.clone_from(&self.synced);
        }
    }
}

fn place(offset: u64) -> Result<usize> {
    usize::try_from(offset).map_err(|_| Errno::EFBIG)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn name(name: &str) -> &OsStr {
        OsStr::new(name)
    }

    fn file(disk: &mut Disk, called: &str, bytes: &[u8]) -> u64 {
        let ino = disk.make(ROOT, name(called), FileType::RegularFile, NOW).unwrap();
        disk.write(ino, 0, bytes, NOW).unwrap();
        ino
    }

    fn bytes<'a>(disk: &'a Disk, called: &str) -> Option<&'a [u8]> {
        disk.find(ROOT, name(called)).ok().map(|ino| disk.read(ino, 0, u32::MAX).unwrap())
    }

    #[test]
    fn what_was_not_synced_is_gone_with_the_power() {
        let mut disk = Disk::default();
        let log = file(&mut disk, "log", b"one");
        disk.sync(log).unwrap();
        disk.sync(ROOT).unwrap();
        disk.write(log, 3, b" two", NOW).unwrap();
        file(&mut disk, "nameless", b"three");
        disk.lose_power(Left::Nothing);
        assert_eq!((bytes(&disk, "log"), bytes(&disk, "nameless")), (Some(&b"one"[..]), None));
    }

    #[test]
    fn a_sync_of_a_file_does_not_make_its_name_safe_nor_one_of_its_folder_its_bytes() {
        let mut disk = Disk::default();
        let log = file(&mut disk, "log", b"one");
        disk.sync(log).unwrap();
        disk.lose_power(Left::Nothing);
        assert_eq!(bytes(&disk, "log"), None);
        file(&mut disk, "log", b"one");
        disk.sync(ROOT).unwrap();
        disk.lose_power(Left::Nothing);
        assert_eq!(bytes(&disk, "log"), Some(&b""[..]));
    }

    #[test]
    fn a_name_that_was_moved_or_removed_is_back_unless_its_folder_was_synced() {
        let mut disk = Disk::default();
        for called in ["old", "new"] {
            let ino = file(&mut disk, called, called.as_bytes());
            disk.sync(ino).unwrap();
        }
        disk.sync(ROOT).unwrap();
        for synced in [false, true] {
            disk.rename((ROOT, name("new")), (ROOT, name("old"))).unwrap();
            assert_eq!((bytes(&disk, "old"), bytes(&disk, "new")), (Some(&b"new"[..]), None));
            if synced {
                disk.sync(ROOT).unwrap();
            }
            disk.lose_power(Left::Nothing);
            let found = (bytes(&disk, "old"), bytes(&disk, "new"));
            let (before, behind) = ((Some(&b"old"[..]), Some(&b"new"[..])), (Some(&b"new"[..]), None));
            assert_eq!(found, if synced { behind } else { before });
        }
    }

    #[test]
    fn a_sync_that_fails_makes_nothing_safe() {
        let mut disk = Disk::default();
        let log = file(&mut disk, "log", b"one");
        disk.sync(log).unwrap();
        disk.sync(ROOT).unwrap();
        disk.write(log, 3, b" two", NOW).unwrap();
        disk.fail_syncs();
        assert!(disk.sync(log).is_err());
        disk.lose_power(Left::Nothing);
        assert_eq!(bytes(&disk, "log"), Some(&b"one"[..]));
        disk.sync(ROOT).unwrap();
    }

    #[test]
    fn by_chance_something_is_left_of_a_write_and_never_less_than_was_synced() {
        let mut lengths = BTreeSet::new();
        for seed in 0..50 {
            let mut disk = Disk::default();
            let log = file(&mut disk, "log", b"one");
            disk.sync(log).unwrap();
            disk.sync(ROOT).unwrap();
            disk.write(log, 3, b" two", NOW).unwrap();
            disk.lose_power(Left::Chance(seed));
            let left = bytes(&disk, "log").unwrap();
            assert!(b"one two".starts_with(left) && left.len() >= 3);
            lengths.insert(left.len());
        }
        assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [3, 4, 5, 6, 7]);
    }
}
