//! Value states: one value per key and namespace.

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

/// Declares a value state: key codec, value codec, namespace codec.
#[derive(Debug)]
pub struct Value<K, V, N = DefaultNamespace> {
    name: &'static str,
    codecs: Codecs<(K, V, N)>,
}

impl<K, V, N> Value<K, V, N> {
    /// Declares a value state of that name.
    pub const fn new(name: &'static str) -> Self {
        Self { name, codecs: PhantomData }
    }
}

impl<K: Stored, V: Stored, N: Stored> State for Value<K, V, N> {
    type Handle = ValueState<K, V, N>;

    fn descriptor(&self) -> StateDescriptor {
        descriptor::<K, N, V>(self.name, StateKind::Value)
    }

    fn open(&self, session: &SessionRef) -> Result<Self::Handle> {
        Ok(ValueState { scope: Scope::open(session, &self.descriptor())?, codecs: PhantomData })
    }
}

/// One value per key and namespace (Flink: ValueState).
#[derive(Debug)]
pub struct ValueState<K, V, N = DefaultNamespace> {
    scope: Scope,
    codecs: Codecs<(K, V, N)>,
}

impl<K: Stored, V: Stored, N: Stored> ValueState<K, V, N> {
    /// Returns a view of a namespace.
    pub fn namespace(&self, namespace: &(impl WriteAs<N> + ?Sized)) -> Result<Self> {
        Ok(Self { scope: self.scope.in_namespace(namespace)?, codecs: PhantomData })
    }

    /// Returns a view of a key group, for jobs whose partitioner is explicit.
    pub fn key_group(&self, key_group: u32) -> Self {
        Self { scope: self.scope.in_key_group(key_group), codecs: PhantomData }
    }

    /// Returns the value; `None` if there is none.
    pub async fn value(&self, key: &(impl WriteAs<K> + ?Sized)) -> Result<Option<V::Value>> {
        let scope = &self.scope;
        scope.session.ready().await?;
        if let Some(known) = scope.at(key, |at| scope.session.cached(|cache| self.decoded(cache.value(at))))? {
            return known;
        }
        let key = scope.encode(key)?;
        let at = scope.locate(&key)?;
        let op = Op { key_group: at.key_group, ..Op::new(OpKind::ValueGet, at.state, at.key) };
        let op = op.with_namespace(at.namespace);
        let session = &scope.session;
        session
            .read(
                at.shard,
                op,
                |cache| cache.read_value(at),
                |cache, reading, answer| {
                    cache.fill_value(reading, answer.value().map(|value| Bytes::copy_from_slice(&value)));
                    let known = self.decoded(cache.value(at));
                    cache.forget_uncached(at);
                    known
                },
            )
            .await
    }

    fn decoded(&self, known: Option<Option<&Bytes>>) -> Option<Result<Option<V::Value>>> {
        known.map(|value| value.map(|value| self.scope.decode::<V>(value)).transpose())
    }

    /// Writes the value.
    pub async fn update(&self, key: &(impl WriteAs<K> + ?Sized), value: &(impl WriteAs<V> + ?Sized)) -> Result<()> {
        let value = self.scope.encode_value(value)?;
        self.put(key, Some(value)).await
    }

    /// Removes the value.
    pub async fn clear(&self, key: &(impl WriteAs<K> + ?Sized)) -> Result<()> {
        self.put(key, None).await
    }

    async fn put(&self, key: &(impl WriteAs<K> + ?Sized), value: Option<Bytes>) -> Result<()> {
        let key = self.scope.encode(key)?;
        let at = self.scope.locate(&key)?;
        self.scope.session.write(at.state, |cache, now_ms| cache.value_put(at, value, now_ms)).await
    }
}

impl<K, V, N> Clone for ValueState<K, V, N> {
    fn clone(&self) -> Self {
        Self { scope: self.scope.clone(), codecs: PhantomData }
    }
}
