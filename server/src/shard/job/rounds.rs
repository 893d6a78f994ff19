//! The checkpoint rounds of one job, as this server sees them: who packs, what was left by those that were aborted.
//!
//! An aborted round's uploads may be used by a later one only if the coordinator says so when that one starts: then
//! the job head pins them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use forebay_proto::v1;
use tokio::{sync::Notify, time::timeout};

use crate::shard::snapshot::{Known, Packer, Target};

/// Rounds that are remembered.
const ROUNDS_MAX: usize = 16;
/// Slices that are remembered of a round; what it uploaded beyond is uploaded anew.
const SLICES_MAX: usize = 100_000;
/// A barrier may overtake the message that a round has started, which comes by another way; that message alone
/// tells where a savepoint goes.
const HEARD_WITHIN: Duration = Duration::from_secs(2);

type Id = (u64, String);

/// The rounds of a job, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    rounds: Mutex<BTreeMap<Id, Round>>,
    news: Notify,
}

#[derive(Debug)]
struct Round {
    packer: Arc<Packer>,
    target: Target,
    /// Set for a savepoint.
    savepoint: Option<v1::SavepointFormat>,
    /// Why its files cannot go where they should.
    refused: Option<String>,
    heard: bool,
    /// Rounds whose uploads may be used.
    reusable: Vec<String>,
    /// What it uploaded, as far as it was reported.
    uploaded: Vec<v1::SnapshotFile>,
    /// Shards whose files are on their way.
    under_way: usize,
    ended: bool,
}

/// One shard's part in a round, for as long as its files are on their way.
#[derive(Debug)]
pub(super) struct UnderWay<'a> {
    rounds: &'a Rounds,
    id: Id,
    pub(super) packer: Arc<Packer>,
    pub(super) target: Target,
    /// Set for a savepoint.
    pub(super) savepoint: Option<v1::SavepointFormat>,
    /// Why the files cannot go where they should.
    pub(super) refused: Option<String>,
    /// What may be used of aborted rounds.
    pub(super) left: Known,
}

impl Rounds {
    /// Takes note that a round begins whose files go there.
    pub(super) fn started(&self, started: &v1::RoundStarted, target: Target) {
        self.note(started, target, None);
    }

    /// Takes note that a round begins whose files cannot go where they should.
    pub(super) fn refused(&self, started: &v1::RoundStarted, target: Target, cause: String) {
        self.note(started, target, Some(cause));
    }

    fn note(&self, started: &v1::RoundStarted, target: Target, refused: Option<String>) {
        {
            let mut rounds = self.lock();
            let id = (started.checkpoint, started.round.clone());
            let round = rounds.entry(id).or_insert_with(|| Round::new(target, started.shards));
            round.reusable.clone_from(&started.reusable);
            round.savepoint = started.savepoint.as_ref().map(v1::SavepointTarget::format);
            (round.refused, round.heard) = (refused, true);
            round.packer.expect(started.shards);
            trim(&mut rounds);
        }
        self.news.notify_waiters();
    }

    /// Waits, for a while, until the start of a round has been heard of.
    pub(super) async fn heard(&self, checkpoint: u64, round: &str) {
        let id = (checkpoint, round.to_owned());
        let known = || self.lock().get(&id).is_some_and(|round| round.heard);
        let wait = async {
            loop {
                let mut news = std::pin::pin!(self.news.notified());
                news.as_mut().enable();
                if known() {
                    return;
                }
                news.await;
            }
        };
        // A coordinator of an earlier release says nothing.
        timeout(HEARD_WITHIN, wait).await.ok();
    }

    /// A shard begins to upload. `shards` is how many may take part if the round's start was not heard of.
    pub(super) fn begin(&self, checkpoint: u64, round: &str, shards: u32, target: Target) -> UnderWay<'_> {
        let mut rounds = self.lock();
        let id = (checkpoint, round.to_owned());
        let round = rounds.entry(id.clone()).or_insert_with(|| Round::new(target, shards));
        round.under_way += 1;
        let (packer, reusable, target) = (round.packer.clone(), round.reusable.clone(), round.target.clone());
        let (savepoint, refused) = (round.savepoint, round.refused.clone());
        let left =
            rounds.iter().filter(|((_, round), _)| reusable.contains(round)).flat_map(|(_, left)| &left.uploaded);
        let left = Known::new(left);
        trim(&mut rounds);
        UnderWay { rounds: self, id, packer, target, savepoint, refused, left }
    }

    /// Takes note that a round has ended.
    pub(super) fn ended(&self, ended: &v1::RoundEnded) {
        let mut rounds = self.lock();
        for ((checkpoint, round), known) in &mut *rounds {
            if (*checkpoint, round) == (ended.checkpoint, &ended.round) {
                known.ended = true;
                known.packer.close();
            }
            if ended.completed && *checkpoint <= ended.checkpoint {
                // The manifest tells what was used; nothing else is pinned any longer.
                known.uploaded = Vec::new();
            }
        }
        if ended.completed {
            rounds.retain(|(checkpoint, _), round| *checkpoint > ended.checkpoint || round.under_way > 0);
        }
    }

    /// True while files of a checkpoint are on their way.
    pub(super) fn is_under_way(&self, checkpoint: u64) -> bool {
        self.lock().iter().any(|((id, _), round)| *id == checkpoint && round.under_way > 0)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Id, Round>> {
        // Nothing here can panic halfway.
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn trim(rounds: &mut BTreeMap<Id, Round>) {
    while rounds.len() > ROUNDS_MAX
        && let Some(oldest) = rounds.iter().find(|(_, round)| round.under_way == 0).map(|(id, _)| id.clone())
    {
        rounds.remove(&oldest);
    }
}

impl Round {
    fn new(target: Target, shards: u32) -> Self {
        let packer = Arc::new(Packer::new(target.clone(), shards));
        Self {
            packer,
            target,
            savepoint: None,
            refused: None,
            heard: false,
            reusable: Vec::new(),
            uploaded: Vec::new(),
            under_way: 0,
            ended: false,
        }
    }
}

impl UnderWay<'_> {
    /// Remembers what is reported as uploaded; true if the round has ended meanwhile.
    pub(super) fn reported<'a>(&self, slices: impl IntoIterator<Item = &'a v1::SnapshotFile>) -> bool {
        let mut rounds = self.rounds.lock();
        let Some(round) = rounds.get_mut(&self.id) else { return true };
        let room = SLICES_MAX.saturating_sub(round.uploaded.len());
        round.uploaded.extend(slices.into_iter().filter(|slice| slice.uploaded).take(room).cloned());
        round.ended
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some(round) = self.rounds.lock().get_mut(&self.id) {
            round.under_way -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkpoint::{layout, memory::MemoryStore},
        shard::snapshot::{Names, Uploads},
        storage::FrozenFile,
    };

    fn target() -> Target {
        let dir = tempfile::tempdir().unwrap();
        Target {
            store: Arc::new(MemoryStore::default()),
            job: layout::Job::at("job/").unwrap(),
            names: Names::Shared("s1".into()),
            uploads: Arc::new(Uploads::new(1, 0, dir.path().join("packs")).unwrap()),
        }
    }

    fn started(checkpoint: u64, reusable: &[&str]) -> v1::RoundStarted {
        let reusable = reusable.iter().map(|round| (*round).to_owned()).collect();
        v1::RoundStarted { checkpoint, round: format!("r{checkpoint}"), shards: 1, reusable, ..Default::default() }
    }

    fn ended(checkpoint: u64, completed: bool) -> v1::RoundEnded {
        v1::RoundEnded { checkpoint, round: format!("r{checkpoint}"), completed, ..Default::default() }
    }

    fn slice(id: &str) -> v1::SnapshotFile {
        v1::SnapshotFile { sst_id: id.into(), length: 1, uploaded: true, ..Default::default() }
    }

    fn begin(rounds: &Rounds, checkpoint: u64) -> UnderWay<'_> {
        rounds.begin(checkpoint, &format!("r{checkpoint}"), 1, target())
    }

    /// A round that is aborted once it has uploaded the file of its name.
    fn abort(rounds: &Rounds, checkpoint: u64) {
        rounds.started(&started(checkpoint, &[]), target());
        begin(rounds, checkpoint).reported(&[slice(&format!("r{checkpoint}"))]);
        rounds.ended(&ended(checkpoint, false));
    }

    fn knows(under_way: &UnderWay<'_>, id: &str) -> bool {
        let file = FrozenFile { immutable_id: Some(id.into()), length: 1, ..FrozenFile::default() };
        let parts = crate::shard::snapshot::plan(&[&under_way.left], &file);
        matches!(&parts[..], [crate::shard::snapshot::Part::Known(_)])
    }

    #[test]
    fn uploads_of_an_aborted_round_are_known_only_where_they_are_said_to_be_pinned() {
        let rounds = Rounds::default();
        abort(&rounds, 1);
        abort(&rounds, 2);
        rounds.started(&started(3, &["r2"]), target());
        let third = begin(&rounds, 3);
        assert!(knows(&third, "r2") && !knows(&third, "r1"));
        // A round whose start was not heard of uses none.
        assert!(!knows(&begin(&rounds, 4), "r2"));
    }

    #[tokio::test]
    async fn shards_wait_until_they_hear_where_a_round_goes() {
        let rounds = Rounds::default();
        let mut waiting = std::pin::pin!(rounds.heard(2, "r2"));
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        rounds.started(&started(1, &[]), target());
        assert!(futures::poll!(waiting.as_mut()).is_pending(), "that is another round");
        let savepoint = v1::SavepointTarget { format: v1::SavepointFormat::Native.into(), ..Default::default() };
        rounds.started(&v1::RoundStarted { savepoint: Some(savepoint), ..started(2, &[]) }, target());
        assert!(futures::poll!(waiting.as_mut()).is_ready());
        assert_eq!(begin(&rounds, 2).savepoint, Some(v1::SavepointFormat::Native));
        rounds.refused(&started(3, &[]), target(), "no such bucket".into());
        rounds.heard(3, "r3").await;
        assert_eq!(begin(&rounds, 3).refused.as_deref(), Some("no such bucket"));
    }

    #[test]
    fn what_comes_late_of_an_aborted_round_is_known_too() {
        let rounds = Rounds::default();
        rounds.started(&started(1, &[]), target());
        let late = begin(&rounds, 1);
        rounds.ended(&ended(1, false));
        assert!(rounds.is_under_way(1));
        assert!(late.reported(&[slice("r1"), v1::SnapshotFile { uploaded: false, ..slice("of the base") }]));
        drop(late);
        assert!(!rounds.is_under_way(1));
        rounds.started(&started(2, &["r1"]), target());
        let second = begin(&rounds, 2);
        assert!(knows(&second, "r1") && !knows(&second, "of the base"));
        assert!(!second.reported(&[]));
    }

    #[test]
    fn a_completed_checkpoint_ends_what_was_left_before_it() {
        let rounds = Rounds::default();
        abort(&rounds, 1);
        rounds.ended(&ended(2, true));
        rounds.started(&started(3, &["r1"]), target());
        assert!(!knows(&begin(&rounds, 3), "r1"));
    }

    #[test]
    fn no_more_rounds_are_remembered_than_so_many() {
        let rounds = Rounds::default();
        (1..100).for_each(|checkpoint| abort(&rounds, checkpoint));
        assert_eq!(rounds.lock().len(), ROUNDS_MAX);
        rounds.started(&started(100, &["r1", "r99"]), target());
        let last = begin(&rounds, 100);
        assert!(knows(&last, "r99") && !knows(&last, "r1"));
    }
}
