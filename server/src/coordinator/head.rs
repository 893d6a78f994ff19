//! The job head in the object store: read, created and changed by conditional writes only.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use forebay_proto::v1;
use tracing::warn;
use uuid::Uuid;

use crate::checkpoint::{
    frame::{self, ObjectKind},
    objects::{Condition, Error, SharedStore, Version},
};

/// Write ids that a head remembers.
const WRITE_IDS: usize = 8;

/// Another coordinator has written the head: this one may do nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deposed;

/// Why a head could not be read or created.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Error),
    /// The head is damaged or of a newer format.
    #[error(transparent)]
    Damaged(#[from] frame::Error),
    /// It is whole, and another job's.
    #[error("object {path} is the head of job {found}, not {wanted}: it is in the wrong place")]
    Misplaced {
        /// The object.
        path: String,
        /// The uid in it.
        found: String,
        /// The uid in the record of the job's name.
        wanted: String,
    },
    /// The record of a job's name leads to it, and it is not there: trying again does not help.
    #[error(
        "object {path} is missing: it is the head of the job whose name record leads there; put it back, or the record that \
         was there"
    )]
    Missing {
        /// The object.
        path: String,
    },
    /// A later coordinator leads the job.
    #[error("a coordinator of epoch {epoch} leads already")]
    Deposed {
        /// Its epoch.
        epoch: u64,
    },
}

/// A job head and the version this coordinator last saw of it.
#[derive(Debug)]
pub struct HeadFile {
    store: SharedStore,
    path: String,
    version: Version,
    write_ids: Vec<String>,
}

impl HeadFile {
    /// Reads a head.
    pub async fn open(store: SharedStore, path: String) -> Result<(v1::JobHead, Self), OpenError> {
        let (bytes, version) = match store.get(&path).await {
            Err(Error::NotFound { path }) => return Err(OpenError::Missing { path }),
            read => read?,
        };
        let head: v1::JobHead = frame::decode(ObjectKind::Head, &path, &bytes)?;
        let write_ids = head.write_ids.clone();
        Ok((head, Self { store, path, version, write_ids }))
    }

    /// Takes a job over: writes this coordinator's epoch into its head, unless the job is deleted. What a
    /// former coordinator had sent and lands only now is taken up, not taken for a successor's; a later
    /// coordinator's head is [`OpenError::Deposed`].
    pub async fn claim(
        store: SharedStore,
        path: String,
        uid: &str,
        epoch: u64,
    ) -> Result<(v1::JobHead, Self), OpenError> {
        loop {
            let (head, mut file) = Self::open(store.clone(), path.clone()).await?;
            if head.job_uid != uid {
                return Err(OpenError::Misplaced { path, found: head.job_uid, wanted: uid.to_owned() });
            }
            if head.coordinator_epoch > epoch {
                return Err(OpenError::Deposed { epoch: head.coordinator_epoch });
            }
            if head.deleted || head.coordinator_epoch == epoch {
                return Ok((head, file));
            }
            let claimed = v1::JobHead { coordinator_epoch: epoch, version: head.version + 1, ..head };
            if file.write(&claimed).await.is_ok() {
                return Ok((claimed, file));
            }
        }
    }

    /// Creates the head of a new job. A name with a fresh uid in it is nobody else's, so a lost answer is
    /// settled by asking again.
    pub async fn create(store: SharedStore, path: String, head: &v1::JobHead) -> Result<Self, OpenError> {
        let bytes = frame::encode(ObjectKind::Head, head);
        let version = match store.put_if(&path, bytes, &Condition::Absent).await {
            Ok(version) => version,
            Err(Error::Conflict { .. } | Error::Ambiguous { .. }) => store.get(&path).await?.1,
            Err(error) => return Err(error.into()),
        };
        Ok(Self { store, path, version, write_ids: head.write_ids.clone() })
    }

    /// Writes a head on top of the last one, and returns once it is known to be in force.
    ///
    /// A write whose answer is lost is neither in force nor not: only a further conditional write settles
    /// it. If that one succeeds, the old version still stood, so the lost one can never land any more; if
    /// it fails, the head on top tells by its write id whether it is ours. While the store is away this
    /// waits.
    pub async fn write(&mut self, head: &v1::JobHead) -> Result<(), Deposed> {
        let mut tried: Vec<String> = Vec::new();
        let mut pauses = backoff();
        loop {
            let id = Uuid::new_v4().simple().to_string();
            let mut write_ids = self.write_ids.clone();
            write_ids.push(id.clone());
            write_ids.drain(..write_ids.len().saturating_sub(WRITE_IDS));
            tried.push(id);
            let stored = v1::JobHead { write_ids: write_ids.clone(), ..head.clone() };
            let bytes = frame::encode(ObjectKind::Head, &stored);
            match self.store.put_if(&self.path, bytes, &Condition::Is(self.version.clone())).await {
                Ok(version) => {
                    (self.version, self.write_ids) = (version, write_ids);
                    return Ok(());
                }
                Err(Error::Conflict { .. }) => return self.settle(&tried).await,
                Err(error) => {
                    warn!(%error, "the job head could not be written yet");
                    tokio::time::sleep(pauses.next().unwrap_or(PAUSE_MAX)).await;
                }
            }
        }
    }

    /// Tells whether the head on top is one of ours.
    async fn settle(&mut self, tried: &[String]) -> Result<(), Deposed> {
        let mut pauses = backoff();
        loop {
            match self.store.get(&self.path).await {
                Ok((bytes, version)) => {
                    let Ok(head) = frame::decode::<v1::JobHead>(ObjectKind::Head, &self.path, &bytes) else {
                        return Err(Deposed);
                    };
                    let ours = head.write_ids.last().is_some_and(|top| tried.contains(top));
                    (self.version, self.write_ids) = (version, head.write_ids);
                    return if ours { Ok(()) } else { Err(Deposed) };
                }
                Err(error) => {
                    warn!(%error, "the job head cannot be read yet");
                    tokio::time::sleep(pauses.next().unwrap_or(PAUSE_MAX)).await;
                }
            }
        }
    }
}

const PAUSE_MAX: Duration = Duration::from_secs(5);

fn backoff() -> backon::ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(PAUSE_MAX)
        .with_jitter()
        .without_max_times()
        .build()
}
