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
        let shard = match key_group {
            Some(group) => {
                let shard = u16::try_from(group).ok().map(|group| session.0.shard_of(group)).transpose()?;
                Some(shard.ok_or_else(|| {
                    Error::call(ErrorReason::KeyGroupOutOfRange, format!("there is no key group {group}"))
                })?)
            }
            None => None,
        };
        let (number, found) = session.0.source(name, shard)?;
        let read = |bytes: Option<bytes::Bytes>| bytes.map(|bytes| P::read(&bytes)).transpose();
        let codec = |source| Error::Codec { state: format!("source {name}"), source };
        let mut by_shard: Vec<Option<P::Value>> = Vec::new();
        let mut least: Option<Option<P::Value>> = None;
        for (shard, bytes) in found {
            let position = read(bytes).map_err(codec)?;
            least = Some(match least {
                // Where a shard holds nothing, reading begins at the source's start.
                Some(least) if is_at_most(least.as_ref(), position.as_ref()) => least,
                _ => position.clone(),
            });
            by_shard.resize_with(by_shard.len().max(shard + 1), || None);
            by_shard[shard] = position;
        }
        let (session, name, position) = (session.clone(), name.to_owned(), least.flatten());
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
