//! What a server reports: what it holds, and the snapshots that it has uploaded.

use std::sync::Arc;

use forebay_proto::v1;
use forebay_server::shard::core::Snapshot;
use v1::{ErrorReason as Reason, link_request::Message as Up};

use super::{
    disk::Image,
    env::Env,
    network::{Message, Side},
    server::{Server, Slot, Status, Timer},
};

/// A snapshot on its way to the object store.
#[derive(Debug)]
pub struct Upload {
    snapshot: Snapshot,
    image: Arc<Image>,
}

impl Server {
    /// What it has taken up.
    pub(super) fn applied_report(&self, wanted: &v1::JobAssignment) -> v1::JobApplied {
        let shard = |slot: &Slot| {
            let (status, cause, corrupt) = match &slot.status {
                Status::Serving(_) => (v1::ShardStatus::Serving, String::new(), false),
                Status::Restoring => (v1::ShardStatus::Restoring, String::new(), false),
                Status::Unavailable(refused) => {
                    let lost = refused.reason == Reason::ShardLost;
                    let status = if lost { v1::ShardStatus::Lost } else { v1::ShardStatus::Restoring };
                    (status, refused.message.clone(), refused.reason == Reason::CheckpointCorrupt)
                }
            };
            v1::AppliedShard {
                operator: slot.entry.operator.clone(),
                start: slot.entry.start,
                end: slot.entry.end,
                epoch: slot.entry.epoch,
                incarnation: slot.entry.incarnation,
                status: status.into(),
                cause,
                corrupt,
                bytes: 0,
            }
        };
        let shards = self.slots.iter().map(shard).collect();
        v1::JobApplied { job_uid: wanted.job_uid.clone(), version: wanted.version, shards }
    }

    /// Sends a snapshot on its way to the store.
    pub fn upload(&self, env: &mut Env, snapshot: Snapshot, image: Arc<Image>) {
        let delay = env.rng.within(500..40_000);
        self.wake(env, delay, Timer::Uploaded(Box::new(Upload { snapshot, image })));
    }

    /// Ends an upload.
    pub(super) fn uploaded(&mut self, env: &mut Env, upload: Upload) {
        let Upload { snapshot: Snapshot { barrier, generation, writer_epoch, mut record, .. }, image } = upload;
        let job_uid = self.view.as_ref().map(|view| view.job_uid.clone()).unwrap_or_default();
        let report = if env.store_up() {
            let object = env.store.fresh_name(barrier.checkpoint, &barrier.round);
            env.store.images.insert(object.clone(), image);
            record.files = vec![v1::SnapshotFile { name: "rows".into(), object, uploaded: true, ..Default::default() }];
            Up::Snapshot(v1::SnapshotReport {
                job_uid,
                checkpoint: barrier.checkpoint,
                round: barrier.round,
                coordinator_epoch: barrier.coordinator_epoch,
                generation,
                writer_epoch,
                snapshot: Some(record),
            })
        } else {
            Up::Failed(v1::SnapshotFailed {
                job_uid,
                checkpoint: barrier.checkpoint,
                round: barrier.round,
                operator: record.operator,
                start: record.start,
                end: record.end,
                cause: "the store is away".into(),
                uploaded: Vec::new(),
            })
        };
        self.reports.push(report);
        self.report(env);
    }

    /// Sends what is to be reported, if there is a link.
    pub(super) fn report(&mut self, env: &mut Env) {
        let Some(link) = &self.link else { return };
        for report in self.reports.drain(..) {
            env.send(link.id, Side::Client, Message::LinkUp(report));
        }
    }
}
