//! A shard's place on the server's disk, and whether what stands there may be trusted.
//!
//! ```text
//! <data>/jobs/<job>-<uid>/<operator>/<start>-<end>/shard          what the directory holds
//!                                                  /db/           the live backend
//!                                                  /copies/<n>-<round>/   local copies of checkpoints
//!                                                  /parts/        while it is made of several snapshots
//! ```

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use forebay_proto::v1;
use serde::{Deserialize, Serialize};

use crate::checkpoint::local::sync_folder;

const MAGIC: &str = "forebay-shard";
const FORMAT: u32 = 1;

/// What a shard's directory holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Local {
    /// The job's uid.
    pub job_uid: String,
    /// The shard's epoch.
    pub epoch: u64,
    /// Its incarnation.
    pub incarnation: u64,
    /// Boot id of the machine when it was last opened.
    pub boot_id: String,
}

/// What is to be done so that a shard stands as wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Open what is there.
    Open,
    /// Make it anew from this checkpoint; 0 means empty.
    Build(u64),
    /// It cannot be had: what was acknowledged is not there.
    Lost(String),
}

/// Decides what is to be done. Pure.
///
/// `keeps_writes` is true if the backend's log survives the process, `synced` if it survives the
/// machine. An incarnation that nobody has written to yet may always be made again; one that is
/// established must be here and whole, or is lost. Without a boot id nobody knows whether the machine was restarted.
pub fn plan(
    local: Option<&Local>,
    wanted: &v1::ShardEntry,
    job_uid: &str,
    boot_id: &str,
    keeps_writes: bool,
    synced: bool,
) -> Plan {
    if !wanted.established {
        return Plan::Build(wanted.restored_from);
    }
    let Some(local) = local else { return Plan::Lost("its directory is not there".into()) };
    if local.job_uid != job_uid || local.epoch != wanted.epoch || local.incarnation != wanted.incarnation {
        return Plan::Lost(format!(
            "its directory holds epoch {} incarnation {}, wanted are {} and {}",
            local.epoch, local.incarnation, wanted.epoch, wanted.incarnation
        ));
    }
    if !keeps_writes {
        return Plan::Lost("its backend has no log that survives the process".into());
    }
    if synced {
        return Plan::Open;
    }
    if boot_id.is_empty() {
        let cause = "this system has no boot id, so the machine may have been restarted, and its log was not synced";
        return Plan::Lost(format!("{cause} (durability: wal)"));
    }
    if local.boot_id != boot_id {
        return Plan::Lost("the machine was restarted and its log was not synced (durability: wal)".into());
    }
    Plan::Open
}

/// The jobs that have files below a data directory: name, uid and directory.
pub fn jobs(data: &Path) -> io::Result<Vec<(String, String, PathBuf)>> {
    let dirs = match fs::read_dir(data.join("jobs")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        dirs => dirs?,
    };
    let mut found = Vec::new();
    for dir in dirs {
        let dir = dir?;
        if let Some((job, uid)) = dir.file_name().to_str().and_then(|name| name.rsplit_once('-')) {
            found.push((job.to_owned(), uid.to_owned(), dir.path()));
        }
    }
    Ok(found)
}

/// Removes what is left of shards that are not `here` any more, but for local copies of the checkpoints that `keep`
/// says: a job that goes back to one may want the same ranges again.
pub fn remove_others(
    job: &Path,
    here: impl Fn(&str, u32, u32) -> bool,
    keep: impl Fn(u64) -> bool + Copy,
) -> io::Result<()> {
    for operator in subdirs(job)? {
        for range in subdirs(&operator)? {
            let (operator, name) = (name_of(&operator), name_of(&range));
            let bounds = name.split_once('-').and_then(|(start, end)| Some((start.parse().ok()?, end.parse().ok()?)));
            let Some((start, end)) = bounds.filter(|(start, end)| !here(&operator, *start, *end)) else { continue };
            let dir = ShardDir::new(job, &operator, start, end);
            dir.reset()?;
            dir.remove_copies(keep)?;
            if subdirs(&range.join("copies"))?.is_empty() {
                remove_dir(&range)?;
            }
        }
    }
    Ok(())
}

/// Bytes of the files in a directory.
pub fn bytes_of(path: &Path) -> u64 {
    let files = fs::read_dir(path).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|found| found.len()).sum()
}

fn subdirs(path: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => {
            let mut dirs = Vec::new();
            for entry in entries? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    dirs.push(entry.path());
                }
            }
            Ok(dirs)
        }
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// A shard's directory.
#[derive(Debug, Clone)]
pub struct ShardDir {
    path: PathBuf,
}

impl ShardDir {
    /// The directory of a shard below a job's directory.
    pub fn new(job: &Path, operator: &str, start: u32, end: u32) -> Self {
        Self { path: job.join(operator).join(format!("{start}-{end}")) }
    }

    /// The live backend.
    pub fn db(&self) -> PathBuf {
        self.path.join("db")
    }

    /// Where the snapshots are that it is made of.
    pub fn parts(&self) -> PathBuf {
        self.path.join("parts")
    }

    /// A local copy of a checkpoint.
    pub fn copy(&self, checkpoint: u64, round: &str) -> PathBuf {
        self.path.join("copies").join(format!("{checkpoint}-{round}"))
    }

    /// Reads what the directory holds; `None` if nothing, or nothing that can be trusted.
    pub fn read(&self) -> Option<Local> {
        let text = fs::read_to_string(self.path.join("shard")).ok()?;
        let (head, body) = text.split_once('\n')?;
        let expected = format!("{MAGIC} {FORMAT} {:08x}", crc32c::crc32c(body.as_bytes()));
        (head == expected).then(|| serde_json::from_str(body).ok()).flatten()
    }

    /// Makes what stands here survive a loss of power: the files that the live backend was made of, which it does not
    /// sync itself, and the folders that lead to it from `data`.
    pub fn sync(&self, data: &Path) -> io::Result<()> {
        let db = self.db();
        for file in fs::read_dir(&db)? {
            match fs::File::open(file?.path()) {
                // The backend has deleted it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                file => file?.sync_all()?,
            }
        }
        for folder in db.ancestors() {
            sync_folder(folder)?;
            if folder == data {
                break;
            }
        }
        Ok(())
    }

    /// Records what the directory holds: call it only once the backend stands.
    pub fn write(&self, local: &Local) -> io::Result<()> {
        let body = serde_json::to_string(local)?;
        let text = format!("{MAGIC} {FORMAT} {:08x}\n{body}", crc32c::crc32c(body.as_bytes()));
        let temporary = self.path.join("shard.new");
        let mut file = fs::File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, self.path.join("shard"))?;
        sync_folder(&self.path)
    }

    /// Makes the directory, without a live backend: whatever stood there is not trusted any more.
    pub fn reset(&self) -> io::Result<()> {
        fs::create_dir_all(&self.path)?;
        self.distrust()?;
        remove_dir(&self.parts())?;
        remove_dir(&self.db())
    }

    /// Forgets what the directory holds: it is never opened again as it is.
    pub fn distrust(&self) -> io::Result<()> {
        remove_file(&self.path.join("shard"))
    }

    /// Removes the local copies but those of the checkpoints that `keep` says.
    pub fn remove_copies(&self, keep: impl Fn(u64) -> bool) -> io::Result<()> {
        let copies = match fs::read_dir(self.path.join("copies")) {
            Ok(copies) => copies,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for copy in copies {
            let copy = copy?;
            let name = copy.file_name();
            let checkpoint = name.to_str().and_then(|name| name.split_once('-')?.0.parse().ok());
            if !checkpoint.is_some_and(&keep) {
                remove_dir(&copy.path())?;
            }
        }
        Ok(())
    }
}

/// Removes a directory and what is in it; an absent one is fine.
pub fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local() -> Local {
        Local { job_uid: "u".into(), epoch: 2, incarnation: 3, boot_id: "b".into() }
    }

    fn wanted(established: bool) -> v1::ShardEntry {
        v1::ShardEntry { epoch: 2, incarnation: 3, restored_from: 7, established, ..Default::default() }
    }

    #[test]
    fn a_shard_is_opened_only_if_everything_acknowledged_must_be_there() {
        let plan = |local: &Local, boot, keeps, synced| plan(Some(local), &wanted(true), "u", boot, keeps, synced);
        assert_eq!(plan(&local(), "b", true, false), Plan::Open);
        assert_eq!(plan(&local(), "other boot", true, true), Plan::Open);
        assert!(matches!(plan(&local(), "other boot", true, false), Plan::Lost(_)));
        assert!(matches!(plan(&local(), "b", false, false), Plan::Lost(_)));
        let nameless = Local { boot_id: String::new(), ..local() };
        assert!(matches!(plan(&nameless, "", true, false), Plan::Lost(_)), "it may be another boot");
        assert_eq!(plan(&nameless, "", true, true), Plan::Open);
        for other in [
            Local { epoch: 1, ..local() },
            Local { incarnation: 2, ..local() },
            Local { job_uid: "another job of the name".into(), ..local() },
        ] {
            assert!(matches!(plan(&other, "b", true, true), Plan::Lost(_)));
        }
    }

    #[test]
    fn an_incarnation_nobody_wrote_to_is_made_again() {
        assert_eq!(plan(Some(&local()), &wanted(false), "u", "b", true, true), Plan::Build(7));
        assert_eq!(plan(None, &wanted(false), "u", "b", true, true), Plan::Build(7));
        assert!(matches!(plan(None, &wanted(true), "u", "b", true, true), Plan::Lost(_)));
    }

    #[test]
    fn a_damaged_record_is_not_trusted() {
        let folder = tempfile::tempdir().unwrap();
        let dir = ShardDir::new(folder.path(), "op", 0, 16);
        dir.reset().unwrap();
        assert_eq!(dir.read(), None);
        dir.write(&local()).unwrap();
        assert_eq!(dir.read(), Some(local()));
        let path = folder.path().join("op/0-16/shard");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("\"epoch\":2", "\"epoch\":9")).unwrap();
        assert_eq!(dir.read(), None);
    }

    #[test]
    fn what_other_shards_left_goes_but_for_copies_of_retained_checkpoints() {
        let folder = tempfile::tempdir().unwrap();
        let dir = |start, end| ShardDir::new(folder.path(), "op", start, end);
        for (start, end) in [(0, 16), (0, 8), (8, 16)] {
            fs::create_dir_all(dir(start, end).db()).unwrap();
        }
        fs::create_dir_all(dir(0, 8).copy(3, "round")).unwrap();
        fs::create_dir_all(dir(8, 16).copy(2, "round")).unwrap();
        remove_others(folder.path(), |_, start, end| (start, end) == (0, 16), |id| id == 3).unwrap();
        assert!(dir(0, 16).db().exists());
        assert!(!dir(0, 8).db().exists() && dir(0, 8).copy(3, "round").exists());
        assert!(!folder.path().join("op/8-16").exists());
    }

    #[test]
    fn copies_of_retained_checkpoints_stay() {
        let folder = tempfile::tempdir().unwrap();
        let dir = ShardDir::new(folder.path(), "op", 0, 16);
        for checkpoint in 1..4 {
            fs::create_dir_all(dir.copy(checkpoint, "round")).unwrap();
        }
        dir.remove_copies(|checkpoint| checkpoint >= 3).unwrap();
        assert!(!dir.copy(2, "round").exists() && dir.copy(3, "round").exists());
    }
}
