//! Packs: the new small files of all shards of a job's checkpoint on this server, in as few objects as they fit.
//!
//! A pack is stored once every shard of the round has given what it has, or the pack is full, or a shard has waited
//! long enough. Whoever makes that happen does the work; nothing runs by itself.
//!
//! Invariant: a piece is answered exactly once, with the slice that holds it or with the error of its pack.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use forebay_proto::v1;
use futures::future::{join, join_all};
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until},
};

use super::{Error, blocking, send::Uploads};
use crate::checkpoint::{layout, objects::SharedStore};

/// A pack takes no further piece beyond it.
const PACK_BYTES: u64 = 64 << 20;
/// A shard waits for the others so long if it was told how many they are; a shard that freezes later than that
/// holds up the checkpoint anyway.
const PATIENCE: Duration = Duration::from_secs(5);
/// And so long if that is only guessed.
const PATIENCE_UNHEARD: Duration = Duration::from_millis(200);

/// Where a job's objects go.
#[derive(Debug, Clone)]
pub struct Target {
    /// The store.
    pub store: SharedStore,
    /// The job's paths.
    pub job: layout::Job,
    /// What its files are called.
    pub names: Names,
    /// The server's uploads.
    pub uploads: Arc<Uploads>,
}

/// What objects are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Names {
    /// Those of a server, which later checkpoints may refer to.
    Shared(String),
    /// Those of a savepoint, which stands alone.
    Savepoint,
}

impl Names {
    /// A name that was never used before.
    pub(super) fn fresh(&self) -> String {
        match self {
            Self::Shared(server) => layout::shared_file(server),
            Self::Savepoint => layout::savepoint_file(),
        }
    }
}

/// Bytes of a local file.
#[derive(Debug, Clone)]
pub struct Piece {
    /// The file.
    pub path: PathBuf,
    /// Where they begin.
    pub at: u64,
    /// How many.
    pub length: u64,
}

/// The slice that holds a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    object: String,
    object_bytes: u64,
    offset: u64,
    crc32c: u32,
    /// Requests that stored the object, told with its first piece only.
    pub puts: u64,
}

impl Placed {
    /// Writes it down.
    pub fn record(self, file: &mut v1::SnapshotFile) {
        file.object = self.object;
        file.object_bytes = self.object_bytes;
        file.offset = self.offset;
        file.crc32c = self.crc32c;
        file.uploaded = true;
    }
}

/// What becomes of a piece. One error may be that of many.
pub type Answer = Result<Placed, Arc<Error>>;

/// Collects the pieces of one round.
#[derive(Debug)]
pub struct Packer {
    target: Target,
    state: Mutex<State>,
    changed: Notify,
    patience: Duration,
    patience_unheard: Duration,
}

#[derive(Debug)]
struct State {
    /// Shards that take part.
    shards: u32,
    heard: bool,
    /// Shards that have given what they have.
    given: u32,
    closed: bool,
    open: Pack,
}

#[derive(Debug, Default)]
struct Pack {
    bytes: u64,
    pieces: Vec<(Piece, oneshot::Sender<Answer>)>,
}

impl State {
    fn is_complete(&self) -> bool {
        self.closed || self.given >= self.shards
    }

    fn seal(&mut self) -> Option<Pack> {
        Some(std::mem::take(&mut self.open)).filter(|pack| !pack.pieces.is_empty())
    }
}

impl Packer {
    /// For a round of which is only guessed how many shards of this server take part.
    pub fn new(target: Target, shards: u32) -> Self {
        let state = State { shards, heard: false, given: 0, closed: false, open: Pack::default() };
        Self {
            target,
            state: Mutex::new(state),
            changed: Notify::new(),
            patience: PATIENCE,
            patience_unheard: PATIENCE_UNHEARD,
        }
    }

    /// Takes note of how many shards take part.
    pub fn expect(&self, shards: u32) {
        {
            let mut state = self.state();
            (state.shards, state.heard) = (shards, true);
        }
        self.changed.notify_waiters();
    }

    /// Nobody need wait for others any more.
    pub fn close(&self) {
        self.state().closed = true;
        self.changed.notify_waiters();
    }

    /// Stores what one shard has, and answers each piece in its order. Once for each shard, also if it has nothing.
    pub async fn give(&self, pieces: Vec<Piece>) -> Vec<Answer> {
        let (full, answers, patience) = self.take_in(pieces);
        let stored = join_all(full.into_iter().map(|pack| self.store(pack)));
        let answered = async {
            let mut answers = std::pin::pin!(join_all(answers));
            let deadline = Instant::now() + patience;
            loop {
                // Made before the look at the state, so that no change after it is missed.
                let changed = self.changed.notified();
                let due = self.state().is_complete() || Instant::now() >= deadline;
                if due && let Some(pack) = self.seal() {
                    self.store(pack).await;
                }
                tokio::select! {
                    answers = &mut answers => return answers,
                    () = changed => {}
                    () = sleep_until(deadline), if !due => {}
                }
            }
        };
        let gone = |_| Err(Arc::new(Error::local(Path::new(""), io::Error::other("the server is shutting down"))));
        let (_, answers) = join(stored, answered).await;
        answers.into_iter().map(|answer| answer.unwrap_or_else(gone)).collect()
    }

    fn take_in(&self, pieces: Vec<Piece>) -> (Vec<Pack>, Vec<oneshot::Receiver<Answer>>, Duration) {
        let (mut full, mut answers) = (Vec::new(), Vec::new());
        let mut state = self.state();
        for piece in pieces {
            if state.open.bytes + piece.length > PACK_BYTES {
                full.extend(state.seal());
            }
            let (answer, receiver) = oneshot::channel();
            answers.push(receiver);
            state.open.bytes += piece.length;
            state.open.pieces.push((piece, answer));
        }
        state.given += 1;
        if state.is_complete() {
            full.extend(state.seal());
        }
        (full, answers, if state.heard { self.patience } else { self.patience_unheard })
    }

    fn seal(&self) -> Option<Pack> {
        self.state().seal()
    }

    async fn store(&self, pack: Pack) {
        let (pieces, answers): (Vec<_>, Vec<_>) = pack.pieces.into_iter().unzip();
        match self.store_pieces(pieces, pack.bytes).await {
            // A shard that waits no more needs no answer.
            Ok(placed) => answers.into_iter().zip(placed).for_each(|(to, placed)| drop(to.send(Ok(placed)))),
            Err(error) => {
                let error = Arc::new(error);
                answers.into_iter().for_each(|to| drop(to.send(Err(error.clone()))));
            }
        }
    }

    async fn store_pieces(&self, pieces: Vec<Piece>, bytes: u64) -> Result<Vec<Placed>, Error> {
        let Target { store, job, names, uploads } = &self.target;
        let object = names.fresh();
        let full = job.resolve(&object).expect("fresh names are confined");
        let file = Scratch(uploads.scratch_file());
        let path = file.0.clone();
        let sums = blocking(move || write(&pieces, &path)).await?;
        let puts = uploads.put_file(store, &full, &file.0, bytes).await?;
        let mut offset = 0;
        let placed = sums.into_iter().map(|(crc32c, length)| {
            let puts = if offset == 0 { puts } else { 0 };
            offset += length;
            Placed { object: object.clone(), object_bytes: bytes, offset: offset - length, crc32c, puts }
        });
        let mut placed: Vec<Placed> = placed.collect();
        // Pieces without a byte may share the first one's offset.
        placed.iter_mut().skip(1).for_each(|placed| placed.puts = 0);
        Ok(placed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Changed by plain assignments only.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file that is removed when it is done with.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is removed at the next start.
        fs::remove_file(&self.0).ok();
    }
}

/// Writes pieces one behind the other, and tells checksum and length of each.
fn write(pieces: &[Piece], path: &Path) -> Result<Vec<(u32, u64)>, Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Local { path, source }
    };
    let mut out = File::create_new(path).map_err(failed(path))?;
    let mut buffer = vec![0; 256 << 10];
    let mut sums = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let mut from = File::open(&piece.path).map_err(failed(&piece.path))?;
        from.seek(io::SeekFrom::Start(piece.at)).map_err(failed(&piece.path))?;
        let (mut left, mut crc) = (piece.length, 0);
        while left > 0 {
            let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            from.read_exact(&mut buffer[..wanted]).map_err(failed(&piece.path))?;
            out.write_all(&buffer[..wanted]).map_err(failed(path))?;
            crc = crc32c::crc32c_append(crc, &buffer[..wanted]);
            left -= wanted as u64;
        }
        sums.push((crc, piece.length));
    }
    Ok(sums)
}

#[cfg(test)]
mod tests;
