//! Shards that are split and merged while the job runs.

use forebay_proto::{reason::Refused, v1};
use v1::ErrorReason as Reason;

use super::{
    Coordinator,
    placing::{DONE, Progress, follow, told},
};
use crate::coordinator::{cuts::Cut, machine::Event};

const WOULD_CUT: &str = "would be";

impl Coordinator {
    /// Splits a shard and returns once its parts serve.
    pub async fn split_shard(&self, request: v1::SplitShardRequest, progress: &Progress) -> Result<(), Refused> {
        let v1::SplitShardRequest { job, operator, start, end, at, dry_run } = request;
        let borders: Vec<u32> = [start].into_iter().chain(at.iter().copied()).chain([end]).collect();
        if at.is_empty() || !borders.is_sorted_by(|one, next| one < next) {
            let message = format!(
                "key groups [{start},{end}) cannot be split at {at:?}: name the first key groups of the parts but the \
                 first, in order and within"
            );
            return Err(Refused::new(Reason::FieldInvalid, message).field("at"));
        }
        let same = |entry: &v1::ShardEntry| (&entry.operator, entry.start, entry.end) == (&operator, start, end);
        let ranges: Vec<_> = borders.windows(2).map(|pair| (pair[0], pair[1])).collect();
        let cut = Cut { operator: operator.clone(), ranges };
        let seen = self.seen(&job)?;
        if !seen.head.shards.iter().any(same) && !cut.is_in(&seen.head) {
            let message =
                format!("there is no shard {operator} [{start},{end}): `forebayctl shards list` tells the ranges");
            return Err(Refused::new(Reason::ShardUnknown, message));
        }
        self.cut(&job, cut, dry_run, progress).await
    }

    /// Brings neighbouring shards to one server, makes them one, and returns once that serves.
    pub async fn merge_shards(&self, request: v1::MergeShardsRequest, progress: &Progress) -> Result<(), Refused> {
        let v1::MergeShardsRequest { job, operator, start, end, dry_run } = request;
        let cut = Cut { operator, ranges: vec![(start, end)] };
        let seen = self.seen(&job)?;
        let sources: Vec<_> = cut.sources(&seen.head).filter(|_| cut.fits(&seen.head)).cloned().collect();
        let server = sources.first().map(|first| first.server.clone()).unwrap_or_default();
        // What is elsewhere comes while its writer works; only the cut has it wait.
        for entry in sources.into_iter().filter(|entry| entry.server != server) {
            let v1::ShardEntry { operator, start, end, .. } = entry;
            let (job, server) = (job.clone(), server.clone());
            let request = v1::MoveShardRequest { job, operator, start, end, server, dry_run };
            self.move_shard(request, progress).await?;
        }
        self.cut(&job, cut, dry_run, progress).await
    }

    async fn cut(&self, name: &str, cut: Cut, dry_run: bool, progress: &Progress) -> Result<(), Refused> {
        let job = self.job(name)?;
        let (start, end) = cut.span();
        let place = (cut.operator.clone(), start, end);
        let asked = cut.clone();
        follow(&job, &place, job.ask(|token| Event::Cut { token, cut: asked, dry_run }), progress).await?;
        let head = self.seen(name)?.head.clone();
        for (start, end) in cut.ranges {
            let within =
                |entry: &&v1::ShardEntry| entry.operator == cut.operator && entry.start <= start && start < entry.end;
            let server = head.shards.iter().find(within).map(|entry| entry.server.clone()).unwrap_or_default();
            let step = if dry_run { WOULD_CUT } else { DONE };
            progress.send(told(name, &(cut.operator.clone(), start, end), step, &server, &server)).ok();
        }
        Ok(())
    }
}
