//! Map states: entries sorted by map key.

mod range;
mod scan;

use std::{collections::BTreeMap, marker::PhantomData};

use bytes::Bytes;
use forebay_proto::{
    packed::AnswerRef,
    v1::{OpKind, StateDescriptor, StateKind},
};

pub(crate) use range::KeyRange;
pub use scan::MapScan;

use crate::{
    cache::{At, Cache, Reading},
    clock::coarse_ms,
    codec::{Stored, WriteAs},
    error::Result,
    expiry::Look,
    options::{Options, declares_options, has_views},
    states::{Codecs, DefaultNamespace, Scope, SessionRef, State, descriptor},
};

/// Declares a map state: key codec, map key codec, value codec, namespace codec.
#[derive(Debug)]
pub struct Map<K, M, V, N = DefaultNamespace> {
    name: &'static str,
    options: Options,
    codecs: Codecs<(K, M, V, N)>,
}

impl<K, M, V, N> Map<K, M, V, N> {
    /// Declares a map state of that name.
    pub const fn new(name: &'static str) -> Self {
        Self { name, options: Options::NONE, codecs: PhantomData }
    }

    declares_options!();
}

impl<K: Stored, M: Stored, V: Stored, N: Stored> State for Map<K, M, V, N> {
    type Handle = MapState<K, M, V, N>;

    fn descriptor(&self) -> StateDescriptor {
        let map_key_codec = M::name().into();
        self.options.describe(StateDescriptor { map_key_codec, ..descriptor::<K, N, V>(self.name, StateKind::Map) })
    }

    fn open(&self, session: &SessionRef) -> Result<Self::Handle> {
        Ok(MapState { scope: Scope::open(session, &self.descriptor())?, codecs: PhantomData })
    }
}

/// A map per key and namespace, sorted by the bytes of the map keys (Flink: MapState).
///
/// There is no null: a map that is absent is an empty one, and what Flink stores as a null value is an
/// `Option` in the value codec here (such as `Json<Option<T>>`). Several tasks of a worker may use it at once.
#[derive(Debug)]
pub struct MapState<K, M, V, N = DefaultNamespace> {
    scope: Scope,
    codecs: Codecs<(K, M, V, N)>,
}

impl<K: Stored, M: Stored, V: Stored, N: Stored> MapState<K, M, V, N> {
    has_views!();

    /// Returns the value under a map key; `None` if there is none.
    pub async fn get(
        &self,
        key: &(impl WriteAs<K> + ?Sized),
        map_key: &(impl WriteAs<M> + ?Sized),
    ) -> Result<Option<V::Value>> {
        let scope = &self.scope;
        let session = &scope.session;
        session.ready().await?;
        let map_key = scope.encode_map_key(map_key)?;
        let key = scope.encode(key)?;
        let at = scope.locate(&key)?;
        if let Some(known) = session.cached(|cache| self.known(cache, at, &map_key)) {
            return known;
        }
        let op = at.op(OpKind::MapGet).with_map_key(&map_key);
        let fill = |cache: &mut Cache, reading: Reading, answer: AnswerRef<'_>| {
            let value = answer.value().map(|value| Bytes::copy_from_slice(&value));
            cache.fill_map_entry_until(reading, map_key.clone(), value, answer.expires_at_ms);
            let known = self.known(cache, at, &map_key);
            cache.forget_uncached(at);
            known
        };
        session.read(at.shard, op, |cache| cache.read_map(at), fill).await
    }

    /// What the cache knows of an entry, unless it has expired.
    fn known(&self, cache: &mut Cache, at: At<'_>, map_key: &[u8]) -> Option<Result<Option<V::Value>>> {
        let (value, deadline_ms) = cache.map_entry_until(at, map_key)?;
        let decoded = value.map(|value| self.scope.decode::<V>(value)).transpose();
        match deadline_ms.map_or(Look::Alive, |deadline_ms| self.scope.look(deadline_ms, at.shard)) {
            Look::Alive => Some(decoded),
            Look::Touch(deadline_ms) => {
                cache.map_touch(at, map_key, deadline_ms, coarse_ms());
                Some(decoded)
            }
            Look::Expired => {
                cache.map_expire(at, map_key);
                Some(Ok(None))
            }
        }
    }

    /// Reads several entries, of one key or of many, a batch per shard, so that the cache knows them. Nothing
    /// happens where the cache keeps nothing of the state (see [`Ttl::clock`](crate::Ttl::clock)).
    pub async fn prefetch<E: WriteAs<K>, F: WriteAs<M>>(
        &self,
        entries: impl IntoIterator<Item = (E, F)>,
    ) -> Result<()> {
        let scope = &self.scope;
        let encode = |(key, map_key): (E, F)| Ok((scope.encode::<K>(&key)?, scope.encode_map_key::<M>(&map_key)?));
        let entries = entries.into_iter().map(encode).collect::<Result<Vec<_>>>()?;
        let mut wanted = Vec::new();
        let mut map_keys = Vec::new();
        for (key, map_key) in &entries {
            let at = scope.locate(key)?;
            if scope.session.cached(|cache| cache.map_entry(at, map_key).is_none()) {
                wanted.push((at, at.op(OpKind::MapGet).with_map_key(map_key)));
                map_keys.push(map_key);
            }
        }
        let fill = |cache: &mut Cache, reading, index: usize, answer: AnswerRef<'_>| {
            let value = answer.value().map(|value| Bytes::copy_from_slice(&value));
            cache.fill_map_entry_until(reading, map_keys[index].clone(), value, answer.expires_at_ms);
        };
        scope.prefetch(&wanted, |cache, at| cache.read_map(at), fill).await
    }

    /// Returns true if there is something under a map key.
    pub async fn contains(
        &self,
        key: &(impl WriteAs<K> + ?Sized),
        map_key: &(impl WriteAs<M> + ?Sized),
    ) -> Result<bool> {
        Ok(self.get(key, map_key).await?.is_some())
    }

    /// Writes the value under a map key.
    pub async fn put(
        &self,
        key: &(impl WriteAs<K> + ?Sized),
        map_key: &(impl WriteAs<M> + ?Sized),
        value: &(impl WriteAs<V> + ?Sized),
    ) -> Result<()> {
        let value = self.scope.encode_value(value)?;
        self.set(key, [(self.scope.encode_map_key(map_key)?, Some(value))]).await
    }

    /// Writes several entries; none is no operation.
    pub async fn put_all<E: WriteAs<M>, F: WriteAs<V>>(
        &self,
        key: &(impl WriteAs<K> + ?Sized),
        entries: impl IntoIterator<Item = (E, F)>,
    ) -> Result<()> {
        let encode = |(map_key, value): (E, F)| {
            Ok((self.scope.encode_map_key::<M>(&map_key)?, Some(self.scope.encode_value::<V>(&value)?)))
        };
        let entries: Vec<_> = entries.into_iter().map(encode).collect::<Result<_>>()?;
        if entries.is_empty() { Ok(()) } else { self.set(key, entries).await }
    }

    /// Removes the entry under a map key.
    pub async fn remove(&self, key: &(impl WriteAs<K> + ?Sized), map_key: &(impl WriteAs<M> + ?Sized)) -> Result<()> {
        self.set(key, [(self.scope.encode_map_key(map_key)?, None)]).await
    }

    async fn set(
        &self,
        key: &(impl WriteAs<K> + ?Sized),
        entries: impl IntoIterator<Item = (Bytes, Option<Bytes>)>,
    ) -> Result<()> {
        let key = self.scope.encode(key)?;
        let at = self.scope.locate(&key)?;
        let deadline_ms = self.scope.deadline_ms(at.shard).await?;
        let put = |cache: &mut Cache, now_ms| {
            for (map_key, value) in entries {
                cache.map_put_until(at, map_key, value, deadline_ms, now_ms);
            }
        };
        self.scope.session.write(at.state, put).await
    }

    /// Removes all entries.
    pub async fn clear(&self, key: &(impl WriteAs<K> + ?Sized)) -> Result<()> {
        let key = self.scope.encode(key)?;
        let at = self.scope.locate(&key)?;
        self.scope.session.write(at.state, |cache, now_ms| cache.map_clear(at, now_ms)).await
    }

    /// Removes the entries from `start` to `end`, exclusive; `None` is no bound.
    pub async fn clear_range<S: WriteAs<M> + ?Sized, E: WriteAs<M> + ?Sized>(
        &self,
        key: &(impl WriteAs<K> + ?Sized),
        start: Option<&S>,
        end: Option<&E>,
    ) -> Result<()> {
        let mut range = KeyRange::default();
        if let Some(start) = start {
            range.from(self.scope.encode(start)?);
        }
        if let Some(end) = end {
            range.until(self.scope.encode(end)?);
        }
        if range.is_empty() {
            return Ok(());
        }
        let key = self.scope.encode(key)?;
        let at = self.scope.locate(&key)?;
        let (start, end) = (Bytes::copy_from_slice(range.start()), Bytes::copy_from_slice(range.end()));
        let clear = |cache: &mut Cache, now_ms| cache.map_clear_range(at, start, end, now_ms);
        self.scope.session.write(at.state, clear).await
    }

    /// Reads a range of the map, or all of it, page by page and past the cache: for maps that are longer than
    /// the cache, or than a message.
    ///
    /// ```
    /// # use forebay_client::{MapState, Result, codec::{I64, Utf8}};
    /// # async fn sum(prices: MapState<Utf8, Utf8, I64>) -> Result<i64> {
    /// let mut scan = prices.scan("shop")?.prefix("fruit/")?.page(100)?;
    /// let mut sum = 0;
    /// while let Some(page) = scan.next_entries().await? {
    ///     sum += page.iter().map(|(_, price)| price).sum::<i64>();
    /// }
    /// # Ok(sum)
    /// # }
    /// ```
    pub fn scan(&self, key: &(impl WriteAs<K> + ?Sized)) -> Result<MapScan<M, V>> {
        Ok(MapScan::new(self.scope.clone(), self.scope.encode(key)?))
    }

    /// Returns all entries, by map key, and keeps them in the cache. One answer holds them all, so a large map
    /// is better read by [`MapState::scan`].
    pub async fn entries(&self, key: &(impl WriteAs<K> + ?Sized)) -> Result<Vec<(M::Value, V::Value)>> {
        let decode =
            |(map_key, value): (&Bytes, &Bytes)| Ok((self.scope.decode::<M>(map_key)?, self.scope.decode::<V>(value)?));
        self.all(key, decode).await
    }

    /// Returns all map keys, in order, as [`MapState::entries`] does.
    pub async fn keys(&self, key: &(impl WriteAs<K> + ?Sized)) -> Result<Vec<M::Value>> {
        self.all(key, |(map_key, _)| self.scope.decode::<M>(map_key)).await
    }

    /// Returns all values, by map key, as [`MapState::entries`] does.
    pub async fn values(&self, key: &(impl WriteAs<K> + ?Sized)) -> Result<Vec<V::Value>> {
        self.all(key, |(_, value)| self.scope.decode::<V>(value)).await
    }

    /// Returns true if there is no entry. Reads one map key at most.
    pub async fn is_empty(&self, key: &(impl WriteAs<K> + ?Sized)) -> Result<bool> {
        let scope = &self.scope;
        scope.session.ready().await?;
        let key = scope.encode(key)?;
        let at = scope.locate(&key)?;
        if let Some(known) = scope.session.cached(|cache| cache.map_is_empty(at)) {
            return Ok(known);
        }
        let op = at.op(OpKind::MapKeys).with_limit(1);
        let first = |answer: AnswerRef<'_>| Ok(answer.is_empty());
        scope.session.read_direct(at, op, |cache, at| cache.read_map(at), first).await
    }

    async fn all<T>(
        &self,
        key: &(impl WriteAs<K> + ?Sized),
        decode: impl Fn((&Bytes, &Bytes)) -> Result<T>,
    ) -> Result<Vec<T>> {
        let session = &self.scope.session;
        session.ready().await?;
        let key = self.scope.encode(key)?;
        let at = self.scope.locate(&key)?;
        let op = at.op(OpKind::MapEntries);
        if self.scope.expiry.is_some() {
            return self.all_of_ttl(at, decode).await;
        }
        if let Some(known) = session.cached(|cache| cache.map_entries(at).map(|all| all.map(&decode).collect())) {
            return known;
        }
        let fill = |cache: &mut Cache, reading: Reading, answer: AnswerRef<'_>| {
            let copy = |bytes: Bytes| Bytes::copy_from_slice(&bytes);
            let entries: BTreeMap<_, _> =
                answer.entries().map(|(map_key, value)| (copy(map_key), copy(value))).collect();
            cache.fill_map(reading, entries);
            let known = cache.map_entries(at).map(|all| all.map(&decode).collect());
            cache.forget_uncached(at);
            known
        };
        session.read(at.shard, op, |cache| cache.read_map(at), fill).await
    }

    /// Reads all entries of a state with a TTL: the answer does not name their deadlines, so that none of it
    /// can be kept.
    async fn all_of_ttl<T>(&self, at: At<'_>, decode: impl Fn((&Bytes, &Bytes)) -> Result<T>) -> Result<Vec<T>> {
        let session = &self.scope.session;
        let touch = session.touch_ms(self.scope.expiry.as_ref(), at, b"");
        let read = |answer: AnswerRef<'_>| {
            answer.entries().map(|(map_key, value)| decode((&map_key, &value))).collect::<Result<Vec<_>>>()
        };
        let begin = |cache: &mut Cache, at: At<'_>| {
            let reading = cache.read_map(at);
            if let Some(deadline_ms) = touch {
                let ttl_ms = self.scope.expiry.map_or(0, |expiry| expiry.ttl_ms);
                cache.touch(&reading, deadline_ms, deadline_ms.saturating_sub(ttl_ms), coarse_ms());
            }
            reading
        };
        session.read_direct(at, at.op(OpKind::MapEntries), begin, read).await
    }
}

impl<K, M, V, N> Clone for MapState<K, M, V, N> {
    fn clone(&self) -> Self {
        Self { scope: self.scope.clone(), codecs: PhantomData }
    }
}
