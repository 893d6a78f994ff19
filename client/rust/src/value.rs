//! Value states: one value per key and namespace.

use std::marker::PhantomData;

use bytes::Bytes;
use forebay_proto::{
    packed::{AnswerRef, Op},
    packed_list,
    v1::{OpKind, StateDescriptor, StateKind},
};

use crate::{
    cache::{At, Cache},
    clock::coarse_ms,
    codec::{Stored, WriteAs},
    error::Result,
    expiry::Look,
    options::{Options, declares_options, has_views},
    states::{Codecs, DefaultNamespace, Scope, SessionRef, State, descriptor},
};

/// Declares a value state: key codec, value codec, namespace codec.
#[derive(Debug)]
pub struct Value<K, V, N = DefaultNamespace> {
    name: &'static str,
    options: Options,
    codecs: Codecs<(K, V, N)>,
}

impl<K, V, N> Value<K, V, N> {
    /// Declares a value state of that name.
    pub const fn new(name: &'static str) -> Self {
        Self { name, options: Options::NONE, codecs: PhantomData }
    }

    declares_options!();
}

impl<K: Stored, V: Stored, N: Stored> State for Value<K, V, N> {
    type Handle = ValueState<K, V, N>;

    fn descriptor(&self) -> StateDescriptor {
        self.options.describe(descriptor::<K, N, V>(self.name, StateKind::Value))
    }

    fn open(&self, session: &SessionRef) -> Result<Self::Handle> {
        Ok(ValueState { scope: Scope::open(session, &self.descriptor())?, codecs: PhantomData })
    }
}

/// One value per key and namespace (Flink: ValueState).
///
/// There is no null: what Flink's `update(null)` does, [`ValueState::clear`] does, and a value of no bytes is
/// a value. There is no default value either: what is absent is `None`.
#[derive(Debug)]
pub struct ValueState<K, V, N = DefaultNamespace> {
    scope: Scope,
    codecs: Codecs<(K, V, N)>,
}

impl<K: Stored, V: Stored, N: Stored> ValueState<K, V, N> {
    has_views!();

    /// Returns the value; `None` if there is none.
    pub async fn value(&self, key: &(impl WriteAs<K> + ?Sized)) -> Result<Option<V::Value>> {
        let scope = &self.scope;
        scope.session.ready().await?;
        let decode = |value: Option<&[u8]>| value.map(|value| scope.decode::<V>(value)).transpose();
        let look = |at: At<'_>| scope.session.cached(|cache| self.known(cache, at, decode));
        if let Some(known) = scope.at(key, look)? {
            return known;
        }
        let key = scope.encode(key)?;
        self.read(scope.locate(&key)?, decode).await
    }

    /// Returns the value, as [`ValueState::value`] does.
    pub async fn get(&self, key: &(impl WriteAs<K> + ?Sized)) -> Result<Option<V::Value>> {
        self.value(key).await
    }

    /// Reads from the shard and takes what is then known.
    async fn read<T>(&self, at: At<'_>, take: impl Fn(Option<&[u8]>) -> Result<T>) -> Result<T> {
        let op = at.op(OpKind::ValueGet);
        let fill = |cache: &mut Cache, reading, answer: AnswerRef<'_>| {
            cache.fill_value_until(reading, answer.value().as_deref(), answer.expires_at_ms);
            let known = self.known(cache, at, &take);
            cache.forget_uncached(at);
            known
        };
        self.scope.session.read(at.shard, op, |cache| cache.read_value(at), fill).await
    }

    /// What the cache knows, unless it has expired.
    fn known<T>(&self, cache: &mut Cache, at: At<'_>, take: impl FnOnce(Option<&[u8]>) -> T) -> Option<T> {
        let (value, deadline_ms) = cache.value_until(at)?;
        let Some(deadline_ms) = deadline_ms else { return Some(take(value)) };
        match self.scope.look(deadline_ms, at.shard) {
            Look::Alive => Some(take(value)),
            Look::Touch(deadline_ms) => {
                let taken = take(value);
                cache.value_touch(at, deadline_ms, coarse_ms());
                Some(taken)
            }
            Look::Expired => {
                cache.value_expire(at);
                Some(take(None))
            }
        }
    }

    /// Reads the values of several keys at once, a batch per shard, so that the cache knows them. Nothing
    /// happens where the cache keeps nothing of the state (see [`Ttl::clock`](crate::Ttl::clock)).
    pub async fn prefetch<E: WriteAs<K>>(&self, keys: impl IntoIterator<Item = E>) -> Result<()> {
        let scope = &self.scope;
        let keys = scope.encode_all(keys)?;
        let located = keys.iter().map(|key| scope.locate(key)).collect::<Result<Vec<_>>>()?;
        let unknown = |at: &At<'_>| scope.session.cached(|cache| cache.value(*at).is_none());
        let wanted: Vec<_> = located.into_iter().filter(unknown).map(|at| (at, at.op(OpKind::ValueGet))).collect();
        let fill = |cache: &mut Cache, reading, _, answer: AnswerRef<'_>| {
            cache.fill_value_until(reading, answer.value().as_deref(), answer.expires_at_ms);
        };
        scope.prefetch(&wanted, |cache, at| cache.read_value(at), fill).await
    }

    /// Writes the value.
    pub async fn update(&self, key: &(impl WriteAs<K> + ?Sized), value: &(impl WriteAs<V> + ?Sized)) -> Result<()> {
        let scope = &self.scope;
        let now_ms = scope.session.ready().await?;
        if scope.expiry.is_some() {
            return self.set_until(key, Some(&scope.encode_value(value)?)).await;
        }
        let written = scope.with_value(value, |value| {
            let put = |cache: &mut Cache, at: At<'_>, now_ms| cache.value_put(at, Some(value), now_ms);
            scope.at(key, |at| scope.session.write_now(at.state, now_ms, |cache, now_ms| put(cache, at, now_ms)))
        })??;
        scope.session.written(written).await
    }

    /// Writes the value, as [`ValueState::update`] does.
    pub async fn put(&self, key: &(impl WriteAs<K> + ?Sized), value: &(impl WriteAs<V> + ?Sized)) -> Result<()> {
        self.update(key, value).await
    }

    /// Removes the value.
    pub async fn clear(&self, key: &(impl WriteAs<K> + ?Sized)) -> Result<()> {
        self.set_until(key, None).await
    }

    /// Writes the value with the deadline that the state's TTL gives it, or removes it.
    async fn set_until(&self, key: &(impl WriteAs<K> + ?Sized), value: Option<&[u8]>) -> Result<()> {
        let key = self.scope.encode(key)?;
        let at = self.scope.locate(&key)?;
        let deadline_ms = self.scope.deadline_ms(at.shard).await?;
        let put = |cache: &mut Cache, now_ms| cache.value_put_until(at, value, deadline_ms, now_ms);
        self.scope.session.write(at.state, put).await
    }

    /// Replaces the value if its bytes are those of `expected`, and tells whether they were; `None` is absent.
    ///
    /// The holder of the lease is the only writer, so that this costs no more than a read and a write: other
    /// tasks of the same worker see it happen at once. Where a codec has several spellings of a value, as JSON
    /// may, another spelling is another value.
    ///
    /// ```
    /// # use forebay_client::{Result, ValueState, codec::{I64, Utf8}};
    /// # async fn claim(owner: ValueState<Utf8, I64>) -> Result<bool> {
    /// owner.compare_and_set("seat 12a", None::<&i64>, Some(&7)).await
    /// # }
    /// ```
    pub async fn compare_and_set<E: WriteAs<V> + ?Sized, W: WriteAs<V> + ?Sized>(
        &self,
        key: &(impl WriteAs<K> + ?Sized),
        expected: Option<&E>,
        value: Option<&W>,
    ) -> Result<bool> {
        let scope = &self.scope;
        let expected = expected.map(|expected| scope.encode_value(expected)).transpose()?;
        let value = value.map(|value| scope.encode_value(value)).transpose()?;
        let key = scope.encode(key)?;
        let at = scope.locate(&key)?;
        let deadline_ms = scope.deadline_ms(at.shard).await?;
        if scope.session.cached(|cache| cache.is_uncached(at.state)) {
            return self.compare_there(at, expected, value, deadline_ms).await;
        }
        loop {
            let mut verdict = None;
            let compare = |cache: &mut Cache, now_ms| {
                verdict = self.known(cache, at, |known| known == expected.as_deref());
                if verdict == Some(true) {
                    cache.value_put_until(at, value.as_deref(), deadline_ms, now_ms);
                }
            };
            scope.session.write(at.state, compare).await?;
            match verdict {
                Some(verdict) => return Ok(verdict),
                None => self.read(at, |_| Ok(())).await?,
            }
        }
    }

    /// Has the shard compare.
    async fn compare_there(
        &self,
        at: At<'_>,
        expected: Option<Bytes>,
        value: Option<Bytes>,
        deadline_ms: Option<i64>,
    ) -> Result<bool> {
        let both;
        let op = match (&expected, &value) {
            (Some(expected), Some(value)) => {
                both = packed_list::cas_value(expected, value);
                at.op(OpKind::ValueCas).with_value(&both)
            }
            (Some(expected), None) => at.op(OpKind::ValueCasClear).with_value(expected),
            (None, Some(value)) => at.op(OpKind::ValueCasVersion).with_value(value).with_expected_version(0),
            (None, None) => at.op(OpKind::ValueCasVersionClear).with_expected_version(0),
        };
        self.scope.session.verdict(at, Op { expires_at_ms: deadline_ms.filter(|_| value.is_some()), ..op }).await
    }
}

impl<K, V, N> Clone for ValueState<K, V, N> {
    fn clone(&self) -> Self {
        Self { scope: self.scope.clone(), codecs: PhantomData }
    }
}
