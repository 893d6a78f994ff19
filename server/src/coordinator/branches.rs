//! What a branch needs of the job whose files it began with: a pin in that job's head, from before the branch
//! exists until none of its checkpoints names those files any more.

use std::sync::Arc;

use forebay_proto::{reason::Refused, v1};
use v1::ErrorReason as Reason;

use super::{Coordinator, job::Job, machine::Event};

/// Start of the holders of such pins; the branch's uid follows.
pub const OF_BRANCH: &str = "branch ";

/// Who holds a branch's pin.
pub fn holder(uid: &str) -> String {
    format!("{OF_BRANCH}{uid}")
}

/// True if a job's checkpoints name files below a prefix of the cluster's own store.
pub fn names(head: &v1::JobHead, prefix: &str) -> bool {
    head.completed.iter().any(|completed| completed.location.is_empty() && completed.prefix == prefix)
}

impl Coordinator {
    /// Pins a checkpoint for a branch that is about to be made, in the head of the job whose files it is. The
    /// entry says by its prefix whose they are. `None` if nobody has to be asked: the files are elsewhere.
    pub(super) async fn pin_for_branch(
        &self,
        uid: &str,
        parent: &Arc<Job>,
        entry: &v1::CompletedCheckpoint,
    ) -> Result<Option<Arc<Job>>, Refused> {
        if !entry.location.is_empty() {
            return Ok(None);
        }
        let Some(owner) = self.owner(&entry.prefix) else {
            let message = format!("the job that the files of checkpoint {} belong to is deleted", entry.id);
            return Err(Refused::new(Reason::CheckpointUnknown, format!("{message}: restore a copy of it")));
        };
        // A branch's own branch pins the files where they are; the id there is another one.
        let checkpoint = if Arc::ptr_eq(&owner, parent) { entry.id } else { 0 };
        let pin =
            v1::Pin { holder: holder(uid), checkpoint, objects: vec![entry.manifest.clone()], ..Default::default() };
        owner.ask(|token| Event::Pin { token, pin }).await?;
        Ok(Some(owner))
    }

    /// Drops the pins of branches that need nothing of other jobs any more.
    pub(super) async fn unpin_branches(&self) {
        let jobs: Vec<Arc<Job>> = self.jobs.iter().map(|job| job.clone()).collect();
        for job in jobs {
            let head = job.seen().head.clone();
            let name = head.spec.as_ref().map(|spec| spec.name.clone()).unwrap_or_default();
            let prefix = self.cluster.job(&name, &head.job_uid).prefix().to_owned();
            let holders = head.pins.iter().map(|pin| pin.holder.clone());
            let over: Vec<String> = holders.filter(|holder| !self.branch_needs(holder, &prefix)).collect();
            for holder in over {
                job.tell(Event::Unpin { holder }).await;
            }
        }
    }

    /// False if a pin is of a branch that lives and has moved on. A branch that is not there may be a deleted
    /// one whose checkpoints are kept: it needs what it needed then.
    pub(super) fn branch_needs(&self, holder: &str, prefix: &str) -> bool {
        let Some(uid) = holder.strip_prefix(OF_BRANCH) else { return true };
        let branch = self.jobs.iter().find(|job| job.seen().head.job_uid == uid);
        branch.is_none_or(|branch| names(&branch.seen().head, prefix))
    }

    /// Drops the pins of a branch that is gone with its checkpoints.
    pub(super) async fn unpin_everywhere(&self, holder: &str) {
        let jobs: Vec<Arc<Job>> = self.jobs.iter().map(|job| job.clone()).collect();
        for job in jobs {
            job.tell(Event::Unpin { holder: holder.to_owned() }).await;
        }
    }

    fn owner(&self, prefix: &str) -> Option<Arc<Job>> {
        let owns = |name: &str, job: &Job| self.cluster.job(name, &job.seen().head.job_uid).prefix() == prefix;
        self.jobs.iter().find(|job| owns(job.key(), job)).map(|job| job.clone())
    }
}
