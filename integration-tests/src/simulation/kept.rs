//! Sources of a session whose positions are kept in the shards: the real [`Positions`], and flushes that go whole. A
//! twin of `client/rust/src/{source,session/whole}.rs`.

use std::collections::BTreeMap;

use forebay_client::{
    cache::{BatchLimits, Cache},
    lane::Write,
    positions::Positions,
};
use forebay_proto::v1;

use super::{
    env::Env,
    session::{Session, Waiter, home},
};

const WHOLE: BatchLimits = BatchLimits { ops_max: usize::MAX, bytes: usize::MAX, batches_max: usize::MAX };

/// The sources of a session.
#[derive(Debug)]
pub struct Kept {
    positions: Positions,
    /// By partition: number of its source, and per shard how many of its records that held when it was leased.
    sources: BTreeMap<u32, (usize, BTreeMap<usize, u64>)>,
}

/// The name of a partition's source.
pub fn source(partition: u32) -> String {
    format!("partition-{partition}")
}

/// A position: how many records are contained.
pub fn parse(position: &[u8]) -> Option<u64> {
    position.try_into().map(u64::from_be_bytes).ok()
}

impl Session {
    /// Begins to read once every shard has told its positions; false until then.
    pub(super) fn has_sources(&mut self, env: &mut Env) -> bool {
        if !env.settings.keeps_positions || self.kept.is_some() {
            return true;
        }
        if self.lanes.all.iter().any(|driven| driven.lane.id().is_empty()) {
            return false;
        }
        let mut positions = Positions::new(self.lanes.all.iter().map(|it| it.lane.positions().clone()).collect());
        let mut sources = BTreeMap::new();
        for (partition, at) in &mut self.positions {
            let home = home(env, *partition);
            let only = self.lanes.all.iter().position(|driven| !env.settings.spread && Some(driven.place.1) == home);
            let Some(number) = positions.source(&source(*partition), only) else { continue };
            let held =
                |(shard, found): (usize, Option<&bytes::Bytes>)| (shard, found.and_then(|it| parse(it)).unwrap_or(0));
            let held: BTreeMap<usize, u64> = positions.found(number).map(held).collect();
            *at = held.values().copied().min().unwrap_or(0);
            sources.insert(*partition, (number, held));
        }
        env.note(format_args!("{} goes on from {sources:?}", self.name()));
        self.kept = Some(Kept { positions, sources });
        true
    }

    /// True if the shard contains the record already.
    pub(super) fn contains(&self, shard: usize, partition: u32, offset: u64) -> bool {
        let held = self.kept.as_ref().and_then(|kept| kept.sources.get(&partition)?.1.get(&shard));
        held.is_some_and(|held| offset < *held)
    }

    /// Counts a record as done.
    pub(super) fn advance(&mut self, partition: u32, contained: u64) {
        let Some(Kept { positions, sources }) = &mut self.kept else { return };
        let Some((number, held)) = sources.get(&partition) else { return };
        let reached = |shard: usize| held.get(&shard).is_none_or(|held| *held <= contained);
        positions.advance(*number, &contained.to_be_bytes(), reached);
    }

    /// Sends operations with the positions, in one batch.
    pub(super) fn write_whole(&mut self, env: &mut Env, shard: usize, ops: Option<v1::PackedOps>) {
        let Some(kept) = &mut self.kept else { return };
        let write = Write { ops, positions: kept.positions.take(shard), ..Write::default() };
        let ticket = self.lanes.all[shard].lane.write(write);
        self.waiters.insert((shard, ticket), Waiter::Behind);
        self.settle(env, shard);
    }

    /// Sends everything that is unsent, a batch a shard; `everywhere` also where nothing is but positions.
    pub(super) fn flush_whole(&mut self, env: &mut Env, everywhere: bool) {
        let Some(kept) = &self.kept else { return };
        if self.cache.as_ref().is_some_and(Cache::is_blocked) {
            return env.oracle.wrong("a flush waits for a read, though no record is in progress".into());
        }
        let due: Vec<_> = (0..self.lanes.all.len()).map(|shard| everywhere && kept.positions.is_due(shard)).collect();
        let unsent = self.cache.as_mut().map(|cache| cache.take_unsent(u64::MAX, WHOLE).batches).unwrap_or_default();
        let mut unsent: BTreeMap<_, _> = unsent.into_iter().collect();
        for (shard, due) in due.into_iter().enumerate() {
            let ops = unsent.remove(&shard);
            if ops.is_some() || due {
                self.write_whole(env, shard, ops);
            }
        }
    }
}
