//! Reducing states: a fold by a named function.

use std::marker::PhantomData;

use bytes::Bytes;
use forebay_proto::{
    merge::MergeFunction,
    packed::Op,
    v1::{ErrorReason, OpKind, StateDescriptor, StateKind},
};

use crate::{
    codec::{Stored, WriteAs},
    error::{Error, Result},
    states::{Codecs, DefaultNamespace, Scope, SessionRef, State, descriptor},
};

/// Declares a reducing state: key codec, codec of operands and result, namespace codec.
#[derive(Debug)]
pub struct Reducing<K, V, N = DefaultNamespace> {
    name: &'static str,
    function: MergeFunction,
    codecs: Codecs<(K, V, N)>,
}

impl<K, V, N> Reducing<K, V, N> {
    /// Declares a reducing state of that name.
    pub const fn new(name: &'static str, function: MergeFunction) -> Self {
        Self { name, function, codecs: PhantomData }
    }
}

impl<K: Stored, V: Stored, N: Stored> State for Reducing<K, V, N> {
    type Handle = ReducingState<K, V, N>;

    fn descriptor(&self) -> StateDescriptor {
        let function = self.function.name().into();
        StateDescriptor { function, ..descriptor::<K, N, V>(self.name, StateKind::Reducing) }
    }

    fn open(&self, session: &SessionRef) -> Result<Self::Handle> {
        let scope = Scope::open(session, &self.descriptor())?;
        Ok(ReducingState { scope, function: self.function, codecs: PhantomData })
    }
}

/// A fold per key and namespace (Flink: ReducingState). Adding reads nothing.
#[derive(Debug)]
pub struct ReducingState<K, V, N = DefaultNamespace> {
    scope: Scope,
    function: MergeFunction,
    codecs: Codecs<(K, V, N)>,
}

impl<K: Stored, V: Stored, N: Stored> ReducingState<K, V, N> {
    /// Returns a view of a namespace.
    pub fn namespace(&self, namespace: &(impl WriteAs<N> + ?Sized)) -> Result<Self> {
        Ok(Self { scope: self.scope.in_namespace(namespace)?, ..self.clone() })
    }

    /// Returns a view of a key group, for jobs whose partitioner is explicit.
    pub fn key_group(&self, key_group: u32) -> Self {
        Self { scope: self.scope.in_key_group(key_group), ..self.clone() }
    }

    /// Adds an operand.
    pub async fn add(&self, key: &(impl WriteAs<K> + ?Sized), operand: &(impl WriteAs<V> + ?Sized)) -> Result<()> {
        let function = self.function;
        let operand = self.scope.encode_value(operand)?;
        if !function.valid_operand(&operand) {
            let message = format!("operand has {} bytes: {function} takes 8 (codec i64, u64 or f64)", operand.len());
            return Err(Error::call(ErrorReason::FieldInvalid, message));
        }
        let key = self.scope.encode(key)?;
        let at = self.scope.locate(&key)?;
        let add = |cache: &mut crate::cache::Cache, now_ms| cache.reducing_add(at, function, &operand, now_ms);
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
        let op = Op { key_group: at.key_group, ..Op::new(OpKind::ReducingGet, at.state, at.key) };
        let op = op.with_namespace(at.namespace);
        session
            .read(
                at.shard,
                op,
                |cache| cache.read_reducing(at, self.function),
                |cache, reading, answer| {
                    cache.fill_reducing(reading, answer.value().map(|value| Bytes::copy_from_slice(&value)));
                    let known = cache.reducing(at).map(|known| self.decoded(known));
                    cache.forget_uncached(at);
                    known
                },
            )
            .await
    }

    fn decoded(&self, known: Option<Vec<u8>>) -> Result<Option<V::Value>> {
        known.map(|value| self.scope.decode::<V>(&value)).transpose()
    }

    /// Removes what was added.
    pub async fn clear(&self, key: &(impl WriteAs<K> + ?Sized)) -> Result<()> {
        let key = self.scope.encode(key)?;
        let at = self.scope.locate(&key)?;
        let clear = |cache: &mut crate::cache::Cache, now_ms| cache.reducing_clear(at, self.function, now_ms);
        self.scope.session.write(at.state, clear).await
    }
}

impl<K, V, N> Clone for ReducingState<K, V, N> {
    fn clone(&self) -> Self {
        Self { scope: self.scope.clone(), function: self.function, codecs: PhantomData }
    }
}
