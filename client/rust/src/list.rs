//! List states: elements in the order of their appends.

use std::marker::PhantomData;

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

/// Declares a list state: key codec, element codec, namespace codec.
#[derive(Debug)]
pub struct List<K, V, N = DefaultNamespace> {
    name: &'static str,
    codecs: Codecs<(K, V, N)>,
}

impl<K, V, N> List<K, V, N> {
    /// Declares a list state of that name.
    pub const fn new(name: &'static str) -> Self {
        Self { name, codecs: PhantomData }
    }
}

impl<K: Stored, V: Stored, N: Stored> State for List<K, V, N> {
    type Handle = ListState<K, V, N>;

    fn descriptor(&self) -> StateDescriptor {
        descriptor::<K, N, V>(self.name, StateKind::List)
    }

    fn open(&self, session: &SessionRef) -> Result<Self::Handle> {
        Ok(ListState { scope: Scope::open(session, &self.descriptor())?, codecs: PhantomData })
    }
}

/// A list per key and namespace (Flink: ListState). An empty list is absent. Adding reads nothing.
#[derive(Debug)]
pub struct ListState<K, V, N = DefaultNamespace> {
    scope: Scope,
    codecs: Codecs<(K, V, N)>,
}

impl<K: Stored, V: Stored, N: Stored> ListState<K, V, N> {
    /// Returns a view of a namespace.
    pub fn namespace(&self, namespace: &(impl WriteAs<N> + ?Sized)) -> Result<Self> {
        Ok(Self { scope: self.scope.in_namespace(namespace)?, codecs: PhantomData })
    }

    /// Returns a view of a key group, for jobs whose partitioner is explicit.
    pub fn key_group(&self, key_group: u32) -> Self {
        Self { scope: self.scope.in_key_group(key_group), codecs: PhantomData }
    }

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
        let op = Op { key_group: at.key_group, ..Op::new(OpKind::ListGet, at.state, at.key) };
        let op = op.with_namespace(at.namespace);
        session
            .read(
                at.shard,
                op,
                |cache| cache.read_list(at),
                |cache, reading, answer| {
                    cache.fill_list(reading, answer.items().map(|item| Bytes::copy_from_slice(&item)).collect());
                    let known = cache.list(at).map(|items| self.decoded(items));
                    cache.forget_uncached(at);
                    known
                },
            )
            .await
    }

    fn decoded<'a>(&self, items: impl Iterator<Item = &'a Bytes>) -> Result<Vec<V::Value>> {
        items.map(|item| self.scope.decode::<V>(item)).collect()
    }

    /// Appends an element.
    pub async fn add(&self, key: &(impl WriteAs<K> + ?Sized), element: &(impl WriteAs<V> + ?Sized)) -> Result<()> {
        let element = self.scope.encode_value(element)?;
        let key = self.scope.encode(key)?;
        let at = self.scope.locate(&key)?;
        self.scope.session.write(at.state, |cache, now_ms| cache.list_append(at, [element], now_ms)).await
    }

    /// Appends elements, in order.
    pub async fn add_all<E: WriteAs<V>>(
        &self,
        key: &(impl WriteAs<K> + ?Sized),
        elements: impl IntoIterator<Item = E>,
    ) -> Result<()> {
        let elements = self.encoded(elements)?;
        if elements.is_empty() {
            return Ok(());
        }
        let key = self.scope.encode(key)?;
        let at = self.scope.locate(&key)?;
        self.scope.session.write(at.state, |cache, now_ms| cache.list_append(at, elements, now_ms)).await
    }

    /// Replaces the list.
    pub async fn update<E: WriteAs<V>>(
        &self,
        key: &(impl WriteAs<K> + ?Sized),
        elements: impl IntoIterator<Item = E>,
    ) -> Result<()> {
        let elements = self.encoded(elements)?;
        let key = self.scope.encode(key)?;
        let at = self.scope.locate(&key)?;
        self.scope.session.write(at.state, |cache, now_ms| cache.list_put(at, elements, now_ms)).await
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
