//! List states: elements in the order of their appends.

mod pages;

use std::marker::PhantomData;

use bytes::Bytes;
use forebay_proto::{
    packed::{AnswerRef, Op},
    packed_list,
    v1::{OpKind, StateDescriptor, StateKind},
};

use crate::{
    cache::{At, Cache, Reading},
    clock::coarse_ms,
    codec::{Stored, WriteAs},
    error::Result,
    options::{Options, declares_options, has_views},
    states::{Codecs, DefaultNamespace, Scope, SessionRef, State, descriptor},
};

pub use pages::ListPages;

/// Declares a list state: key codec, element codec, namespace codec.
#[derive(Debug)]
pub struct List<K, V, N = DefaultNamespace> {
    name: &'static str,
    options: Options,
    codecs: Codecs<(K, V, N)>,
}

impl<K, V, N> List<K, V, N> {
    /// Declares a list state of that name.
    pub const fn new(name: &'static str) -> Self {
        Self { name, options: Options::NONE, codecs: PhantomData }
    }

    declares_options!();
}

impl<K: Stored, V: Stored, N: Stored> State for List<K, V, N> {
    type Handle = ListState<K, V, N>;

    fn descriptor(&self) -> StateDescriptor {
        self.options.describe(descriptor::<K, N, V>(self.name, StateKind::List))
    }

    fn open(&self, session: &SessionRef) -> Result<Self::Handle> {
        Ok(ListState { scope: Scope::open(session, &self.descriptor())?, codecs: PhantomData })
    }
}

/// A list per key and namespace (Flink: ListState). An empty list is absent. Adding reads nothing, however long
/// the list is.
///
/// There is no null: neither lists nor elements can be it. Reading what is absent gives no elements.
#[derive(Debug)]
pub struct ListState<K, V, N = DefaultNamespace> {
    scope: Scope,
    codecs: Codecs<(K, V, N)>,
}

impl<K: Stored, V: Stored, N: Stored> ListState<K, V, N> {
    has_views!();

    /// Returns the elements.
    pub async fn get(&self, key: &(impl WriteAs<K> + ?Sized)) -> Result<Vec<V::Value>> {
        let scope = &self.scope;
        let session = &scope.session;
        session.ready().await?;
        let key = scope.encode(key)?;
        let at = scope.locate(&key)?;
        if let Some(known) = session.cached(|cache| cache.list(at).map(|items| self.decoded(items))) {
            return known;
        }
        let fill = |cache: &mut Cache, reading: Reading, answer: AnswerRef<'_>| {
            if let Some(deadline_ms) = session.touch_ms(scope.expiry.as_ref().filter(|_| !answer.is_empty()), at, b"") {
                cache.touch(&reading, deadline_ms, deadline_ms, coarse_ms());
            }
            cache.fill_list(reading, answer.items().map(|item| Bytes::copy_from_slice(&item)).collect());
            let known = cache.list(at).map(|items| self.decoded(items));
            cache.forget_uncached(at);
            known
        };
        session.read(at.shard, at.op(OpKind::ListGet), |cache| cache.read_list(at), fill).await
    }

    /// Returns the elements page by page, at most so many at a time, without keeping them: for lists that are
    /// longer than the cache, or than a message. Reads do not extend a TTL.
    pub fn pages(&self, key: &(impl WriteAs<K> + ?Sized), elements_max: u32) -> Result<ListPages<V>> {
        ListPages::new(self.scope.clone(), self.scope.encode(key)?, None, elements_max)
    }

    /// Reads the lists of several keys at once, a batch per shard, so that the cache knows them. Nothing
    /// happens where the cache keeps nothing of the state (see [`Ttl::clock`](crate::Ttl::clock)).
    pub async fn prefetch<E: WriteAs<K>>(&self, keys: impl IntoIterator<Item = E>) -> Result<()> {
        let scope = &self.scope;
        let keys = scope.encode_all(keys)?;
        let located = keys.iter().map(|key| scope.locate(key)).collect::<Result<Vec<_>>>()?;
        let unknown = located.into_iter().filter(|at| scope.session.cached(|cache| cache.list(*at).is_none()));
        let wanted: Vec<_> = unknown.map(|at| (at, at.op(OpKind::ListGet))).collect();
        let fill = |cache: &mut Cache, reading, _, answer: AnswerRef<'_>| {
            cache.fill_list(reading, answer.items().map(|item| Bytes::copy_from_slice(&item)).collect());
        };
        scope.prefetch(&wanted, |cache, at| cache.read_list(at), fill).await
    }

    /// Moves the elements of `sources`, in their order, behind those of `target`, in one step (Flink:
    /// InternalMergingState.mergeNamespaces). Merging nothing, or only absent lists, changes nothing.
    pub async fn merge_namespaces<S: WriteAs<N>>(
        &self,
        key: &(impl WriteAs<K> + ?Sized),
        sources: impl IntoIterator<Item = S>,
        target: &(impl WriteAs<N> + ?Sized),
    ) -> Result<()> {
        self.scope.merge_namespaces::<K, N, S>(key, sources, target).await
    }

    fn decoded<'a>(&self, items: impl Iterator<Item = &'a Bytes>) -> Result<Vec<V::Value>> {
        items.map(|item| self.scope.decode::<V>(item)).collect()
    }

    /// Appends an element.
    pub async fn add(&self, key: &(impl WriteAs<K> + ?Sized), element: &(impl WriteAs<V> + ?Sized)) -> Result<()> {
        let element = self.scope.encode_value(element)?;
        self.append(key, vec![element]).await
    }

    /// Appends elements, in order; none is no operation.
    pub async fn add_all<E: WriteAs<V>>(
        &self,
        key: &(impl WriteAs<K> + ?Sized),
        elements: impl IntoIterator<Item = E>,
    ) -> Result<()> {
        let elements = self.encoded(elements)?;
        if elements.is_empty() { Ok(()) } else { self.append(key, elements).await }
    }

    async fn append(&self, key: &(impl WriteAs<K> + ?Sized), elements: Vec<Bytes>) -> Result<()> {
        let key = self.scope.encode(key)?;
        let at = self.scope.locate(&key)?;
        if self.scope.expires_at_ms.is_some() {
            return self.write_through(at, OpKind::ListAppendAll, elements).await;
        }
        let deadline_ms = self.scope.deadline_ms(at.shard).await?;
        let append = |cache: &mut Cache, now_ms| cache.list_append_until(at, elements, deadline_ms, now_ms);
        self.scope.session.write(at.state, append).await
    }

    /// Writes past the cache, in which elements that are unsent share a deadline.
    async fn write_through(&self, at: At<'_>, kind: OpKind, elements: Vec<Bytes>) -> Result<()> {
        let packed = packed_list::pack(elements);
        let op = Op { expires_at_ms: self.scope.expires_at_ms, ..at.op(kind).with_value(&packed) };
        self.scope.session.write_over(&[at], op).await
    }

    /// Replaces the list; no elements remove it.
    pub async fn update<E: WriteAs<V>>(
        &self,
        key: &(impl WriteAs<K> + ?Sized),
        elements: impl IntoIterator<Item = E>,
    ) -> Result<()> {
        let elements = self.encoded(elements)?;
        let key = self.scope.encode(key)?;
        let at = self.scope.locate(&key)?;
        if self.scope.expires_at_ms.is_some() {
            return self.write_through(at, OpKind::ListPut, elements).await;
        }
        let deadline_ms = self.scope.deadline_ms(at.shard).await?;
        let put = |cache: &mut Cache, now_ms| cache.list_put_until(at, elements, deadline_ms, now_ms);
        self.scope.session.write(at.state, put).await
    }

    /// Removes the list.
    pub async fn clear(&self, key: &(impl WriteAs<K> + ?Sized)) -> Result<()> {
        let key = self.scope.encode(key)?;
        let at = self.scope.locate(&key)?;
        self.scope.session.write(at.state, |cache, now_ms| cache.list_put(at, [], now_ms)).await
    }

    fn encoded<E: WriteAs<V>>(&self, elements: impl IntoIterator<Item = E>) -> Result<Vec<Bytes>> {
        elements.into_iter().map(|element| self.scope.encode_value::<V>(&element)).collect()
    }
}

impl<K, V, N> Clone for ListState<K, V, N> {
    fn clone(&self) -> Self {
        Self { scope: self.scope.clone(), codecs: PhantomData }
    }
}
