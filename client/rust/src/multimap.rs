//! Multimap states: lists under map keys.

use std::marker::PhantomData;

use bytes::Bytes;
use forebay_proto::{
    packed::AnswerRef,
    v1::{OpKind, StateDescriptor, StateKind},
};

use crate::{
    cache::{Cache, Logged},
    codec::{Stored, WriteAs},
    error::Result,
    list::ListPages,
    map::KeyRange,
    options::{Options, declares_options, has_views},
    states::{Codecs, DefaultNamespace, Scope, SessionRef, State, descriptor},
};

/// Map keys that one read answers.
const PAGE_KEYS: u32 = 10_000;

/// Declares a multimap state: key codec, map key codec, element codec, namespace codec.
#[derive(Debug)]
pub struct Multimap<K, M, V, N = DefaultNamespace> {
    name: &'static str,
    options: Options,
    codecs: Codecs<(K, M, V, N)>,
}

impl<K, M, V, N> Multimap<K, M, V, N> {
    /// Declares a multimap state of that name.
    pub const fn new(name: &'static str) -> Self {
        Self { name, options: Options::NONE, codecs: PhantomData }
    }

    declares_options!();
}

impl<K: Stored, M: Stored, V: Stored, N: Stored> State for Multimap<K, M, V, N> {
    type Handle = MultimapState<K, M, V, N>;

    fn descriptor(&self) -> StateDescriptor {
        let map_key_codec = M::name().into();
        let descriptor = descriptor::<K, N, V>(self.name, StateKind::Multimap);
        self.options.describe(StateDescriptor { map_key_codec, ..descriptor })
    }

    fn open(&self, session: &SessionRef) -> Result<Self::Handle> {
        Ok(MultimapState { scope: Scope::open(session, &self.descriptor())?, codecs: PhantomData })
    }
}

/// Lists under map keys, per key and namespace; what Flink users build as a map of lists, without reading a
/// list to append to it.
///
/// Writes are cached until they are sent; reads go to the shard, behind the writes before them. An entry
/// without elements is absent.
#[derive(Debug)]
pub struct MultimapState<K, M, V, N = DefaultNamespace> {
    scope: Scope,
    codecs: Codecs<(K, M, V, N)>,
}

impl<K: Stored, M: Stored, V: Stored, N: Stored> MultimapState<K, M, V, N> {
    has_views!();

    /// Appends an element to the entry under a map key. Reads nothing.
    pub async fn add(
        &self,
        key: &(impl WriteAs<K> + ?Sized),
        map_key: &(impl WriteAs<M> + ?Sized),
        element: &(impl WriteAs<V> + ?Sized),
    ) -> Result<()> {
        let element = self.scope.encode_value(element)?;
        self.append(key, map_key, vec![element]).await
    }

    /// Appends elements to the entry under a map key, in order; none is no operation.
    pub async fn add_all<E: WriteAs<V>>(
        &self,
        key: &(impl WriteAs<K> + ?Sized),
        map_key: &(impl WriteAs<M> + ?Sized),
        elements: impl IntoIterator<Item = E>,
    ) -> Result<()> {
        let encoded = elements.into_iter().map(|element| self.scope.encode_value::<V>(&element));
        let elements = encoded.collect::<Result<Vec<_>>>()?;
        if elements.is_empty() { Ok(()) } else { self.append(key, map_key, elements).await }
    }

    async fn append(
        &self,
        key: &(impl WriteAs<K> + ?Sized),
        map_key: &(impl WriteAs<M> + ?Sized),
        elements: Vec<Bytes>,
    ) -> Result<()> {
        let map_key = self.scope.encode_map_key(map_key)?;
        let key = self.scope.encode(key)?;
        let at = self.scope.locate(&key)?;
        let deadline_ms = self.scope.deadline_ms(at.shard).await?;
        let append = |cache: &mut Cache, now_ms| {
            for value in elements {
                let op = Logged { kind: OpKind::MultimapAppend, map_key: map_key.clone(), value, deadline_ms };
                cache.log(at, op, now_ms);
            }
        };
        self.scope.session.write(at.state, append).await
    }

    /// Returns the elements under a map key.
    pub async fn get(
        &self,
        key: &(impl WriteAs<K> + ?Sized),
        map_key: &(impl WriteAs<M> + ?Sized),
    ) -> Result<Vec<V::Value>> {
        let scope = &self.scope;
        let map_key = scope.encode_map_key(map_key)?;
        let key = scope.encode(key)?;
        let at = scope.locate(&key)?;
        let op = at.op(OpKind::MultimapGet).with_map_key(&map_key);
        let decode = |answer: AnswerRef<'_>| answer.items().map(|item| scope.decode::<V>(&item)).collect();
        let elements: Vec<V::Value> = scope.session.read_direct(at, op, |cache, at| cache.read_log(at), decode).await?;
        let expiry = scope.expiry.as_ref().filter(|_| !elements.is_empty());
        if let Some(deadline_ms) = scope.session.touch_ms(expiry, at, &map_key) {
            let (value, deadline_ms) = (Bytes::new(), Some(deadline_ms));
            let touch = Logged { kind: OpKind::Touch, map_key, value, deadline_ms };
            scope.session.write(at.state, |cache, now_ms| cache.log(at, touch, now_ms)).await?;
        }
        Ok(elements)
    }

    /// Returns the elements under a map key page by page, at most so many at a time. Reads do not extend a TTL.
    pub fn pages(
        &self,
        key: &(impl WriteAs<K> + ?Sized),
        map_key: &(impl WriteAs<M> + ?Sized),
        elements_max: u32,
    ) -> Result<ListPages<V>> {
        let (key, map_key) = (self.scope.encode(key)?, self.scope.encode_map_key(map_key)?);
        ListPages::new(self.scope.clone(), key, Some(map_key), elements_max)
    }

    /// Returns the map keys, in the order of their bytes.
    pub async fn keys(&self, key: &(impl WriteAs<K> + ?Sized)) -> Result<Vec<M::Value>> {
        let scope = &self.scope;
        let key = scope.encode(key)?;
        let at = scope.locate(&key)?;
        let mut range = KeyRange::default();
        let mut keys = Vec::new();
        loop {
            let op = at.op(OpKind::MultimapKeys).with_map_key(range.start()).with_limit(PAGE_KEYS);
            let decode = |answer: AnswerRef<'_>| Ok((answer.items().collect::<Vec<_>>(), answer.more));
            let (page, more) = scope.session.read_direct(at, op, |cache, at| cache.read_log(at), decode).await?;
            for map_key in &page {
                keys.push(scope.decode::<M>(map_key)?);
            }
            match page.last() {
                Some(last) if more => range.behind(last),
                _ => return Ok(keys),
            }
        }
    }

    /// Removes the entry under a map key.
    pub async fn remove(&self, key: &(impl WriteAs<K> + ?Sized), map_key: &(impl WriteAs<M> + ?Sized)) -> Result<()> {
        let map_key = self.scope.encode_map_key(map_key)?;
        let key = self.scope.encode(key)?;
        let at = self.scope.locate(&key)?;
        let op = Logged { kind: OpKind::MultimapRemove, map_key, value: Bytes::new(), deadline_ms: None };
        self.scope.session.write(at.state, |cache, now_ms| cache.log(at, op, now_ms)).await
    }

    /// Removes all entries.
    pub async fn clear(&self, key: &(impl WriteAs<K> + ?Sized)) -> Result<()> {
        let key = self.scope.encode(key)?;
        let at = self.scope.locate(&key)?;
        let clear = |cache: &mut Cache, now_ms| cache.log_clear(at, OpKind::MultimapClear, now_ms);
        self.scope.session.write(at.state, clear).await
    }
}

impl<K, M, V, N> Clone for MultimapState<K, M, V, N> {
    fn clone(&self) -> Self {
        Self { scope: self.scope.clone(), codecs: PhantomData }
    }
}
