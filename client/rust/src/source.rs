//! Sources of workers whose job keeps positions in its shards (`recovery: shard`).

use std::marker::PhantomData;

use forebay_proto::v1::ErrorReason;

use crate::{
    codec::{Stored, WriteAs},
    error::{Error, Result},
    states::SessionRef,
};

/// A source that the worker reads, and up to where each of its shards contains the effects.
///
/// What a flush sends to a shard holds the position, in one atomic write. So after any failure each shard knows which
/// records it contains: reading begins behind [`position`](Self::position), and what a shard [`contains`](Self::contains)
/// already is skipped.
///
/// ```no_run
/// # use forebay_client::{Assigned, ReducingState, Result, Worker, WorkerState, codec::{U64, Utf8}};
/// # async fn read(_: Option<u64>) -> Option<(u64, String)> { None }
/// # async fn run(worker: &mut Worker, assigned: &Assigned, counts: ReducingState<Utf8, forebay_client::codec::I64>) -> Result<()> {
/// let words = assigned.source::<U64>("words")?;
/// let mut at = words.position();
/// loop {
///     worker.boundary(WorkerState::new).await?;
///     let Some((offset, word)) = read(at).await else { break };
///     if !words.contains(word.as_bytes(), &offset)? {
///         counts.add(&word, &1).await?;
///     }
///     words.advance(&offset)?;
///     at = Some(offset);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Source<P: Stored> {
    session: SessionRef,
    name: String,
    number: usize,
    /// Per shard that it may touch, by number.
    found: Vec<Option<P::Value>>,
    position: Option<P::Value>,
    codec: PhantomData<fn() -> P>,
}

impl<P: Stored<Value: PartialOrd + Clone>> Source<P> {
    pub(crate) fn open(session: &SessionRef, name: &str, key_group: Option<u32>) -> Result<Self> {
        let shard_of = |group: u32| {
            let too_large = |_| {
                let message = format!("key group {group} is above any: a job has at most 32,768");
                Error::call(ErrorReason::KeyGroupOutOfRange, message)
            };
            session.0.shard_of(u16::try_from(group).map_err(too_large)?)
        };
        let shard = key_group.map(shard_of).transpose()?;
        let (number, found) = session.0.source(name, shard)?;
        let mut by_shard: Vec<Option<P::Value>> = Vec::new();
        for (shard, bytes) in &found {
            let position = bytes.as_ref().map(|bytes| P::read(bytes)).transpose();
            by_shard.resize_with(shard + 1, || None);
            by_shard[*shard] = position.map_err(|source| Error::Codec { state: format!("source {name}"), source })?;
        }
        // Where a shard holds nothing, reading begins at the source's start.
        let touched = found.iter().map(|(shard, _)| by_shard[*shard].as_ref());
        let least = touched.reduce(|one, other| if is_at_most(one, other) { one } else { other });
        let (session, name, position) = (session.clone(), name.to_owned(), least.flatten().cloned());
        Ok(Self { session, name, number, found: by_shard, position, codec: PhantomData })
    }

    /// Returns the position behind which reading begins: up to there all shards that the source touches contain its
    /// records. `None` is the source's start.
    pub fn position(&self) -> Option<P::Value> {
        self.position.clone()
    }

    /// Returns true if the shard of a key contains the record at a position already: it is not to be processed again.
    pub fn contains(&self, key: &[u8], position: &P::Value) -> Result<bool> {
        let session = &self.session.0;
        let group = session.group_of(key, None)?;
        Ok(self.holds(session.shard_of(group)?, position))
    }

    /// The same for a job whose requests name their key group (partitioner explicit).
    pub fn contains_in(&self, key_group: u32, key: &[u8], position: &P::Value) -> Result<bool> {
        let session = &self.session.0;
        let group = session.group_of(key, Some(key_group))?;
        Ok(self.holds(session.shard_of(group)?, position))
    }

    fn holds(&self, shard: usize, position: &P::Value) -> bool {
        self.found.get(shard).and_then(Option::as_ref).is_some_and(|found| position <= found)
    }

    /// Says that all records up to this position have been processed, or skipped. Positions grow.
    ///
    /// The shards hear of it with the next flush. A record whose effects are to be in the shards exactly once is
    /// advanced past before the next [`Worker::boundary`](crate::Worker::boundary).
    pub fn advance(&self, position: &(impl WriteAs<P> + ?Sized)) -> Result<()> {
        let codec = |source| Error::Codec { state: format!("source {}", self.name), source };
        let mut bytes = Vec::new();
        position.write_as(&mut bytes).map_err(codec)?;
        let position = P::read(&bytes).map_err(codec)?;
        self.session.0.advance(self.number, &bytes, |shard| {
            self.found.get(shard).and_then(Option::as_ref).is_none_or(|found| *found <= position)
        });
        Ok(())
    }
}

/// Nothing is less than any position.
fn is_at_most<T: PartialOrd>(one: Option<&T>, other: Option<&T>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one <= other,
        (one, _) => one.is_none(),
    }
}
