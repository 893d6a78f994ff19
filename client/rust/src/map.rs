//! Map states: entries sorted by map key.

use std::{collections::BTreeMap, marker::PhantomData};

use bytes::Bytes;
use forebay_proto::{
    packed::Op,
    v1::{OpKind, StateDescriptor, StateKind},
};

use crate::{
    codec::{Stored, WriteAs},
    error::Result,
    states::{Codecs, DefaultNamespace, Scope, SessionRef, State, descriptor},
};

/// Declares a map state: key codec, map key codec, value codec, namespace codec.
#[derive(Debug)]
pub struct Map<K, M, V, N = DefaultNamespace> {
    name: &'static str,
    codecs: Codecs<(K, M, V, N)>,
}

impl<K, M, V, N> Map<K, M, V, N> {
    /// Declares a map state of that name.
    pub const fn new(name: &'static str) -> Self {
        Self { name, codecs: PhantomData }
    }
}

impl<K: Stored, M: Stored, V: Stored, N: Stored> State for Map<K, M, V, N> {
    type Handle = MapState<K, M, V, N>;

    fn descriptor(&self) -> StateDescriptor {
        let map_key_codec = M::name().into();
        StateDescriptor { map_key_codec, ..descriptor::<K, N, V>(self.name, StateKind::Map) }
    }

    fn open(&self, session: &SessionRef) -> Result<Self::Handle> {
        Ok(MapState { scope: Scope::open(session, &self.descriptor())?, codecs: PhantomData })
    }
}

/// A map per key and namespace, sorted by the bytes of the map keys (Flink: MapState).
#[derive(Debug)]
pub struct MapState<K, M, V, N = DefaultNamespace> {
    scope: Scope,
    codecs: Codecs<(K, M, V, N)>,
}

impl<K: Stored, M: Stored, V: Stored, N: Stored> MapState<K, M, V, N> {
    /// Returns a view of a namespace.
    pub fn namespace(&self, namespace: &(impl WriteAs<N> + ?Sized)) -> Result<Self> {
        Ok(Self { scope: self.scope.in_namespace(namespace)?, codecs: PhantomData })
    }

    /// Returns a view of a key group, for jobs whose partitioner is explicit.
    pub fn key_group(&self, key_group: u32) -> Self {
        Self { scope: self.scope.in_key_group(key_group), codecs: PhantomData }
    }

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
        if let Some(known) = session.cached(|cache| self.decoded(cache.map_entry(at, &map_key))) {
            return known;
        }
        let op = Op { key_group: at.key_group, ..Op::new(OpKind::MapGet, at.state, at.key) };
        let op = op.with_namespace(at.namespace).with_map_key(&map_key);
        session
            .read(
                at.shard,
                op,
                |cache| cache.read_map(at),
                |cache, reading, answer| {
                    let value = answer.value().map(|value| Bytes::copy_from_slice(&value));
                    cache.fill_map_entry(reading, map_key.clone(), value);
                    let known = self.decoded(cache.map_entry(at, &map_key));
                    cache.forget_uncached(at);
                    known
                },
            )
            .await
    }

    fn decoded(&self, known: Option<Option<&Bytes>>) -> Option<Result<Option<V::Value>>> {
        known.map(|value| value.map(|value| self.scope.decode::<V>(value)).transpose())
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

    /// Writes several entries.
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
        let put = |cache: &mut crate::cache::Cache, now_ms| {
            for (map_key, value) in entries {
                cache.map_put(at, map_key, value, now_ms);
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

    /// Returns all entries, by map key.
    pub async fn entries(&self, key: &(impl WriteAs<K> + ?Sized)) -> Result<Vec<(M::Value, V::Value)>> {
        let decode =
            |(map_key, value): (&Bytes, &Bytes)| Ok((self.scope.decode::<M>(map_key)?, self.scope.decode::<V>(value)?));
        self.all(key, decode).await
    }

    /// Returns all map keys, in order.
    pub async fn keys(&self, key: &(impl WriteAs<K> + ?Sized)) -> Result<Vec<M::Value>> {
        self.all(key, |(map_key, _)| self.scope.decode::<M>(map_key)).await
    }

    /// Returns true if there is no entry.
    pub async fn is_empty(&self, key: &(impl WriteAs<K> + ?Sized)) -> Result<bool> {
        Ok(self.all(key, |_| Ok(())).await?.is_empty())
    }

    async fn all<T>(
        &self,
        key: &(impl WriteAs<K> + ?Sized),
        decode: impl Fn((&Bytes, &Bytes)) -> Result<T>,
    ) -> Result<Vec<T>> {
        let scope = &self.scope;
        let session = &scope.session;
        session.ready().await?;
        let key = scope.encode(key)?;
        let at = scope.locate(&key)?;
        if let Some(known) = session.cached(|cache| cache.map_entries(at).map(|all| all.map(&decode).collect())) {
            return known;
        }
        let op = Op { key_group: at.key_group, ..Op::new(OpKind::MapEntries, at.state, at.key) };
        let op = op.with_namespace(at.namespace);
        session
            .read(
                at.shard,
                op,
                |cache| cache.read_map(at),
                |cache, reading, answer| {
                    let copy = |bytes: Bytes| Bytes::copy_from_slice(&bytes);
                    let entries: BTreeMap<_, _> =
                        answer.entries().map(|(map_key, value)| (copy(map_key), copy(value))).collect();
                    cache.fill_map(reading, entries);
                    let known = cache.map_entries(at).map(|all| all.map(&decode).collect());
                    cache.forget_uncached(at);
                    known
                },
            )
            .await
    }
}

impl<K, M, V, N> Clone for MapState<K, M, V, N> {
    fn clone(&self) -> Self {
        Self { scope: self.scope.clone(), codecs: PhantomData }
    }
}
