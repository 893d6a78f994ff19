//! What is here already of shards that are to come from other servers.
//!
//! A checkpoint's files of a shard come to stand where its local copy would: the shard is then made of them as far as
//! they are still its files, and a rewind finds them as it finds any local copy.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use forebay_proto::v1;
use tokio::time::interval;
use tracing::{info, warn};
use v1::link_request::Message as Up;

use super::{
    super::{
        disk::{self, ShardDir},
        snapshot::{self, Near},
    },
    Job,
};
use crate::checkpoint::manifest;

/// How often it is told how far it is.
const TELL: Duration = Duration::from_millis(500);

/// Operator, first key group and their end.
type Place = (String, u32, u32);

/// The files that were brought, by shard.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    shards: Mutex<HashMap<Place, Near>>,
    /// One at a time: who asks again must not get in the way of what is under way.
    busy: tokio::sync::Mutex<()>,
    /// The checkpoint that is brought now; 0 for none.
    bringing: AtomicU64,
}

impl Prepared {
    /// True while files of a checkpoint are brought here.
    pub(super) fn is_brought(&self, checkpoint: u64) -> bool {
        checkpoint != 0 && self.bringing.load(Ordering::Relaxed) == checkpoint
    }

    /// What was brought of a shard.
    pub(super) fn of(&self, operator: &str, start: u32, end: u32) -> Near {
        let place = (operator.to_owned(), start, end);
        self.shards.lock().expect("no panics under this lock").get(&place).cloned().unwrap_or_default()
    }
}

impl Job {
    /// Brings here what a checkpoint holds of a shard, and tells how far it is.
    pub(in super::super) async fn prepare(self: Arc<Self>, wanted: v1::PrepareShard) {
        let checkpoint = wanted.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.id);
        let told = v1::ShardPrepared {
            job_uid: wanted.job_uid.clone(),
            operator: wanted.operator.clone(),
            start: wanted.start,
            end: wanted.end,
            checkpoint,
            ..Default::default()
        };
        let said = match self.try_prepare(&wanted, &told).await {
            Ok(bytes) => v1::ShardPrepared { bytes_done: bytes, bytes, done: true, ..told },
            Err(cause) => {
                let v1::PrepareShard { operator, start, .. } = &wanted;
                warn!(job = self.uid, operator, start, checkpoint, cause, "a shard that is to come cannot be prepared");
                v1::ShardPrepared { done: true, cause, ..told }
            }
        };
        self.say(Up::Prepared(said));
    }

    async fn try_prepare(&self, wanted: &v1::PrepareShard, told: &v1::ShardPrepared) -> Result<u64, String> {
        let place = (wanted.operator.clone(), wanted.start, wanted.end);
        let checkpoint = wanted.checkpoint.clone().unwrap_or_default();
        let opened = manifest::open(&self.environment.stores, &self.paths, &checkpoint).await;
        let (manifest, folders) = opened.map_err(|error| error.to_string())?;
        let same =
            |shard: &&v1::ShardSnapshot| (&shard.operator, shard.start, shard.end) == (&place.0, place.1, place.2);
        let Some(snapshot) = manifest.shards.iter().find(same).filter(|snapshot| !snapshot.canonical) else {
            // It is of other ranges, or rows: there are no files that the shard could be made of.
            return Ok(0);
        };
        let dir = ShardDir::new(&self.dir, &place.0, place.1, place.2);
        let copy = dir.copy(checkpoint.id, &manifest.round);
        let _busy = self.prepared.busy.lock().await;
        let near = self.prepared.of(&place.0, place.1, place.2);
        let bytes = if copy.exists() { 0 } else { snapshot::missing(snapshot, &near) };
        if !copy.exists() {
            // The name says of which checkpoint it is, so that it goes with it if this comes to nothing.
            let new = copy.with_extension("new");
            {
                let _tidying = self.tidying.lock().expect("no panics under this lock");
                disk::remove_dir(&new).map_err(|error| error.to_string())?;
                fs::create_dir_all(&new).map_err(|error| error.to_string())?;
                self.prepared.bringing.store(checkpoint.id, Ordering::Relaxed);
            }
            let restored = snapshot::restore(snapshot, copy.clone(), &near, new.clone(), &folders);
            let restored = self.while_telling(&new, bytes, told, restored).await;
            let renamed = restored
                .map_err(|error| error.to_string())
                .and_then(|_| fs::rename(&new, &copy).map_err(|error| format!("{}: {error}", copy.display())));
            self.prepared.bringing.store(0, Ordering::Relaxed);
            renamed?;
        }
        let near = Near::new(copy, snapshot);
        self.prepared.shards.lock().expect("no panics under this lock").insert(place, near);
        info!(
            job = self.uid,
            operator = wanted.operator,
            start = wanted.start,
            bytes,
            "a shard that is to come is prepared"
        );
        Ok(bytes)
    }

    async fn while_telling<T>(
        &self,
        dir: &Path,
        bytes: u64,
        told: &v1::ShardPrepared,
        work: impl Future<Output = T>,
    ) -> T {
        let telling = async {
            let mut ticks = interval(TELL);
            loop {
                ticks.tick().await;
                let bytes_done = disk::bytes_of(dir).min(bytes);
                self.say(Up::Prepared(v1::ShardPrepared { bytes_done, bytes, ..told.clone() }));
            }
        };
        tokio::select! {
            done = work => done,
            never = telling => never,
        }
    }
}
