//! Aggregating states: a fold whose accumulator is not its result.

mod function;

use std::marker::PhantomData;

use bytes::Bytes;
use forebay_proto::{
    merge::MergeFunction,
    packed::AnswerRef,
    v1::{OpKind, StateDescriptor, StateKind},
};

pub use function::{AddTo, Aggregate, Avg, AvgI64, CountDistinct, MaxBy, MinBy, TopK};

use crate::{
    cache::{At, Cache, Reading},
    clock::coarse_ms,
    codec::{Stored, WriteAs},
    error::Result,
    options::{Options, declares_options, has_views},
    states::{Codecs, DefaultNamespace, Scope, SessionRef, State, descriptor},
};

/// Declares an aggregating state: key codec, function, namespace codec.
///
/// ```
/// use forebay_client::{Aggregating, aggregate::{Avg, MinBy, TopK}, codec::{I64, Utf8}};
///
/// const DELAY: Aggregating<Utf8, Avg> = Aggregating::avg("delay");
/// const LONGEST: Aggregating<Utf8, TopK<I64>> = Aggregating::top_k("longest", 10);
/// const CHEAPEST: Aggregating<Utf8, MinBy<I64, Utf8>> = Aggregating::min_by("cheapest");
/// ```
#[derive(Debug)]
pub struct Aggregating<K, A, N = DefaultNamespace> {
    name: &'static str,
    function: MergeFunction,
    options: Options,
    codecs: Codecs<(K, A, N)>,
}

impl<K, A, N> Aggregating<K, A, N> {
    const fn new(name: &'static str, function: MergeFunction) -> Self {
        Self { name, function, options: Options::NONE, codecs: PhantomData }
    }

    declares_options!();
}

impl<K, N> Aggregating<K, Avg, N> {
    /// Declares the mean of `f64`.
    pub const fn avg(name: &'static str) -> Self {
        Self::new(name, MergeFunction::Avg)
    }
}

impl<K, N> Aggregating<K, AvgI64, N> {
    /// Declares the mean of `i64`.
    pub const fn avg_i64(name: &'static str) -> Self {
        Self::new(name, MergeFunction::AvgI64)
    }
}

impl<K, C, N> Aggregating<K, CountDistinct<C>, N> {
    /// Declares the number of different values.
    pub const fn count_distinct(name: &'static str) -> Self {
        Self::new(name, MergeFunction::CountDistinct)
    }
}

impl<K, C, N> Aggregating<K, TopK<C>, N> {
    /// Declares the k largest values.
    ///
    /// # Panics
    /// If k is not 1 to 1,000; in a constant, when it is compiled.
    pub const fn top_k(name: &'static str, k: u16) -> Self {
        match MergeFunction::top_k(k) {
            Some(function) => Self::new(name, function),
            None => panic!("k of top_k is 1 to 1000"),
        }
    }
}

impl<K, B, C, N> Aggregating<K, MinBy<B, C>, N> {
    /// Declares the value of the pair with the smallest `by`.
    pub const fn min_by(name: &'static str) -> Self {
        Self::new(name, MergeFunction::MinBy)
    }
}

impl<K, B, C, N> Aggregating<K, MaxBy<B, C>, N> {
    /// Declares the value of the pair with the largest `by`.
    pub const fn max_by(name: &'static str) -> Self {
        Self::new(name, MergeFunction::MaxBy)
    }
}

impl<K: Stored, A: Aggregate, N: Stored> State for Aggregating<K, A, N> {
    type Handle = AggregatingState<K, A, N>;

    fn descriptor(&self) -> StateDescriptor {
        let (function, value_codec) = (self.function.name().into(), A::value_codec().into());
        let descriptor = descriptor::<K, N, crate::codec::Bytes>(self.name, StateKind::Aggregating);
        self.options.describe(StateDescriptor { function, value_codec, ..descriptor })
    }

    fn open(&self, session: &SessionRef) -> Result<Self::Handle> {
        Ok(AggregatingState { scope: Scope::open(session, &self.descriptor())?, codecs: PhantomData })
    }
}

/// A fold per key and namespace whose result is of another type than what is added (Flink: AggregatingState).
///
/// Adding reads nothing. The cache keeps a result until something is added. There is no null: where Flink's
/// `get()` gives null, nothing was added and it is `None`.
#[derive(Debug)]
pub struct AggregatingState<K, A, N = DefaultNamespace> {
    scope: Scope,
    codecs: Codecs<(K, A, N)>,
}

impl<K: Stored, A: Aggregate, N: Stored> AggregatingState<K, A, N> {
    has_views!();

    /// Adds a value, or a pair (by, value).
    pub async fn add(&self, key: &(impl WriteAs<K> + ?Sized), operand: &(impl AddTo<A> + ?Sized)) -> Result<()> {
        let scope = &self.scope;
        let operand = scope.encode_operand(operand)?;
        let key = scope.encode(key)?;
        let at = scope.locate(&key)?;
        let deadline_ms = scope.deadline_ms(at.shard).await?;
        let add = |cache: &mut Cache, now_ms| cache.aggregating_add(at, operand, deadline_ms, now_ms);
        scope.session.write(at.state, add).await
    }

    /// Returns the result; `None` if nothing was added.
    pub async fn get(&self, key: &(impl WriteAs<K> + ?Sized)) -> Result<Option<A::Output>> {
        let scope = &self.scope;
        let session = &scope.session;
        session.ready().await?;
        let key = scope.encode(key)?;
        let at = scope.locate(&key)?;
        let read = |result: &[u8]| A::read(result).map_err(|source| scope.codec(source));
        let known = |cache: &mut Cache| cache.aggregating(at).map(|result| result.map(|it| read(it)).transpose());
        if let Some(known) = session.cached(known) {
            return known;
        }
        session.sent(&[at]).await?;
        let mut result = Ok(None);
        let mut wanted = Some(&mut result);
        let op = at.op(OpKind::AggregatingGet);
        let fill = |cache: &mut Cache, reading: Reading, answer: AnswerRef<'_>| {
            if let Some(deadline_ms) = session.touch_ms(scope.expiry.as_ref().filter(|_| !answer.is_empty()), at, b"") {
                cache.touch(&reading, deadline_ms, deadline_ms, coarse_ms());
            }
            let value = answer.value();
            if let Some(wanted) = wanted.take() {
                *wanted = value.as_ref().map(|value| read(value)).transpose();
            }
            // What has a deadline cannot be kept, and nothing could tell when it is due.
            match answer.expires_at_ms {
                Some(_) => cache.cancel(reading),
                None => cache.fill_aggregating(reading, value.map(|value| Bytes::copy_from_slice(&value))),
            }
            cache.forget_uncached(at);
            Some(Ok(()))
        };
        session.read(at.shard, op, |cache| cache.read_aggregating(at), fill).await?;
        result
    }

    /// Reads the results of several keys at once, a batch per shard, so that the cache knows them. Nothing
    /// happens where the cache keeps nothing of the state (see [`Ttl::clock`](crate::Ttl::clock)).
    pub async fn prefetch<E: WriteAs<K>>(&self, keys: impl IntoIterator<Item = E>) -> Result<()> {
        let scope = &self.scope;
        let keys = scope.encode_all(keys)?;
        let mut wanted = Vec::new();
        for key in &keys {
            let at = scope.locate(key)?;
            if scope.session.cached(|cache| cache.aggregating(at).is_none()) {
                wanted.push((at, at.op(OpKind::AggregatingGet)));
            }
        }
        // A result holds what was sent before it was read.
        scope.session.sent(&wanted.iter().map(|(at, _)| *at).collect::<Vec<_>>()).await?;
        let fill = |cache: &mut Cache, reading, _, answer: AnswerRef<'_>| match answer.expires_at_ms {
            Some(_) => cache.cancel(reading),
            None => cache.fill_aggregating(reading, answer.value().map(|value| Bytes::copy_from_slice(&value))),
        };
        scope.prefetch(&wanted, |cache, at: At<'_>| cache.read_aggregating(at), fill).await
    }

    /// Removes what was added.
    pub async fn clear(&self, key: &(impl WriteAs<K> + ?Sized)) -> Result<()> {
        let key = self.scope.encode(key)?;
        let at = self.scope.locate(&key)?;
        self.scope.session.write(at.state, |cache, now_ms| cache.aggregating_clear(at, now_ms)).await
    }

    /// Merges what was added in `sources` into `target`, in one step (Flink:
    /// InternalMergingState.mergeNamespaces). Merging nothing, or only absent states, changes nothing.
    pub async fn merge_namespaces<S: WriteAs<N>>(
        &self,
        key: &(impl WriteAs<K> + ?Sized),
        sources: impl IntoIterator<Item = S>,
        target: &(impl WriteAs<N> + ?Sized),
    ) -> Result<()> {
        self.scope.merge_namespaces::<K, N, S>(key, sources, target).await
    }
}

impl<K, A, N> Clone for AggregatingState<K, A, N> {
    fn clone(&self) -> Self {
        Self { scope: self.scope.clone(), codecs: PhantomData }
    }
}
