//! Reducing states: a fold by a named function.

use std::marker::PhantomData;

use bytes::Bytes;
use forebay_proto::{
    merge::MergeFunction,
    packed::AnswerRef,
    v1::{ErrorReason, OpKind, StateDescriptor, StateKind},
};

use crate::{
    cache::{Cache, Reading},
    clock::coarse_ms,
    codec::{Stored, WriteAs},
    error::{Error, Result},
    options::{Options, declares_options, has_views},
    states::{Codecs, DefaultNamespace, Scope, SessionRef, State, descriptor},
};

/// Declares a reducing state: key codec, codec of operands and result, namespace codec.
#[derive(Debug)]
pub struct Reducing<K, V, N = DefaultNamespace> {
    name: &'static str,
    function: MergeFunction,
    options: Options,
    codecs: Codecs<(K, V, N)>,
}

impl<K, V, N> Reducing<K, V, N> {
    /// Declares a reducing state of that name.
    pub const fn new(name: &'static str, function: MergeFunction) -> Self {
        Self { name, function, options: Options::NONE, codecs: PhantomData }
    }

    declares_options!();
}

impl<K: Stored, V: Stored, N: Stored> State for Reducing<K, V, N> {
    type Handle = ReducingState<K, V, N>;

    fn descriptor(&self) -> StateDescriptor {
        let function = self.function.name().into();
        self.options.describe(StateDescriptor { function, ..descriptor::<K, N, V>(self.name, StateKind::Reducing) })
    }

    fn open(&self, session: &SessionRef) -> Result<Self::Handle> {
        let scope = Scope::open(session, &self.descriptor())?;
        Ok(ReducingState { scope, function: self.function, codecs: PhantomData })
    }
}

/// A fold per key and namespace (Flink: ReducingState). Adding reads nothing.
///
/// There is no null: where Flink's `get()` gives null, nothing was added and it is `None`.
#[derive(Debug)]
pub struct ReducingState<K, V, N = DefaultNamespace> {
    scope: Scope,
    function: MergeFunction,
    codecs: Codecs<(K, V, N)>,
}

impl<K: Stored, V: Stored, N: Stored> ReducingState<K, V, N> {
    has_views!();

    /// Adds an operand.
    pub async fn add(&self, key: &(impl WriteAs<K> + ?Sized), operand: &(impl WriteAs<V> + ?Sized)) -> Result<()> {
        let function = self.function;
        let operand = self.scope.encode_value(operand)?;
        if !function.valid_operand(&operand) {
            let message = format!("operand has {} bytes: {function} takes {}", operand.len(), function.operand());
            return Err(Error::call(ErrorReason::FieldInvalid, message));
        }
        let key = self.scope.encode(key)?;
        let at = self.scope.locate(&key)?;
        let deadline_ms = self.scope.deadline_ms(at.shard).await?;
        let add = |cache: &mut Cache, now_ms| cache.reducing_add_until(at, function, &operand, deadline_ms, now_ms);
        self.scope.session.write(at.state, add).await
    }

    /// Returns the result; `None` if nothing was added.
    pub async fn get(&self, key: &(impl WriteAs<K> + ?Sized)) -> Result<Option<V::Value>> {
        let scope = &self.scope;
        let session = &scope.session;
        session.ready().await?;
        let key = scope.encode(key)?;
        let at = scope.locate(&key)?;
        if let Some(known) = session.cached(|cache| cache.reducing(at)) {
            return self.decoded(known);
        }
        let fill = |cache: &mut Cache, reading: Reading, answer: AnswerRef<'_>| {
            if let Some(deadline_ms) = session.touch_ms(scope.expiry.as_ref().filter(|_| !answer.is_empty()), at, b"") {
                cache.touch(&reading, deadline_ms, deadline_ms, coarse_ms());
            }
            cache.fill_reducing(reading, answer.value().map(|value| Bytes::copy_from_slice(&value)));
            let known = cache.reducing(at).map(|known| self.decoded(known));
            cache.forget_uncached(at);
            known
        };
        let begin = |cache: &mut Cache| cache.read_reducing(at, self.function);
        session.read(at.shard, at.op(OpKind::ReducingGet), begin, fill).await
    }

    /// Reads the states of several keys at once, a batch per shard, so that the cache knows them. Nothing
    /// happens where the cache keeps nothing of the state (see [`Ttl::clock`](crate::Ttl::clock)).
    pub async fn prefetch<E: WriteAs<K>>(&self, keys: impl IntoIterator<Item = E>) -> Result<()> {
        let scope = &self.scope;
        let keys = scope.encode_all(keys)?;
        let located = keys.iter().map(|key| scope.locate(key)).collect::<Result<Vec<_>>>()?;
        let unknown = located.into_iter().filter(|at| scope.session.cached(|cache| cache.reducing(*at).is_none()));
        let wanted: Vec<_> = unknown.map(|at| (at, at.op(OpKind::ReducingGet))).collect();
        let fill = |cache: &mut Cache, reading, _, answer: AnswerRef<'_>| {
            cache.fill_reducing(reading, answer.value().map(|value| Bytes::copy_from_slice(&value)));
        };
        scope.prefetch(&wanted, |cache, at| cache.read_reducing(at, self.function), fill).await
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

    fn decoded(&self, known: Option<Vec<u8>>) -> Result<Option<V::Value>> {
        known.map(|value| self.scope.decode::<V>(&value)).transpose()
    }

    /// Removes what was added.
    pub async fn clear(&self, key: &(impl WriteAs<K> + ?Sized)) -> Result<()> {
        let key = self.scope.encode(key)?;
        let at = self.scope.locate(&key)?;
        let clear = |cache: &mut Cache, now_ms| cache.reducing_clear(at, self.function, now_ms);
        self.scope.session.write(at.state, clear).await
    }
}

impl<K, V, N> Clone for ReducingState<K, V, N> {
    fn clone(&self) -> Self {
        Self { scope: self.scope.clone(), function: self.function, codecs: PhantomData }
    }
}
