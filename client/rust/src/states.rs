//! States as a program declares them, and what their handles share.

use std::{cell::RefCell, marker::PhantomData, sync::Arc};

use bytes::Bytes;
use forebay_proto::{packed::AnswerRef, packed_list, reason::Refused, v1};

use crate::{
    aggregating::AddTo,
    cache::{At, Cache, Reading},
    codec::{self, Stored, WriteAs},
    error::{Error, Result},
    expiry::{Expiry, Look, look},
    session::{Session, Wanted, check_length},
};

/// A state as a program declares it: name, kind and codecs.
pub trait State {
    /// What the state is used through.
    type Handle;

    /// Returns the descriptor that is registered.
    fn descriptor(&self) -> v1::StateDescriptor;

    /// Makes the handle of one generation.
    #[doc(hidden)]
    fn open(&self, session: &SessionRef) -> Result<Self::Handle>;
}

/// The session that handles are bound to.
#[derive(Debug, Clone)]
pub struct SessionRef(pub(crate) Arc<Session>);

/// What every handle holds: its session, its state, and the namespace it looks at.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    pub(crate) session: Arc<Session>,
    pub(crate) state: Arc<v1::RegisteredState>,
    pub(crate) namespace: Bytes,
    pub(crate) expiry: Option<Expiry>,
    /// Deadline of what is written, instead of the TTL's.
    pub(crate) expires_at_ms: Option<i64>,
    key_group: Option<u32>,
}

impl Scope {
    /// Finds the registered state and checks that it is what the program declares.
    pub(crate) fn open(session: &SessionRef, declared: &v1::StateDescriptor) -> Result<Self> {
        let session = &session.0;
        let Some(state) = session.state(&declared.name) else {
            let message = format!("state {:?} is not registered (declare it with WorkerBuilder::state)", declared.name);
            return Err(Refused::new(v1::ErrorReason::StateUnknown, message).into());
        };
        let registered = state.descriptor.clone().unwrap_or_default();
        if registered.kind != declared.kind || registered.function != declared.function {
            let message =
                format!("state {:?} is a {:?}, declared as {:?}", declared.name, registered.kind(), declared.kind());
            return Err(Refused::new(v1::ErrorReason::WrongKind, message).into());
        }
        // What the servers go by is what is registered, which a later program may have changed.
        let expiry = Expiry::of(registered.ttl.as_ref());
        let (session, state) = (session.clone(), Arc::new(state.clone()));
        Ok(Self { session, state, namespace: Bytes::new(), expiry, expires_at_ms: None, key_group: None })
    }

    pub(crate) fn name(&self) -> &str {
        self.state.descriptor.as_ref().map_or("", |descriptor| &descriptor.name)
    }

    /// Looks at a namespace.
    pub(crate) fn in_namespace<N: Stored>(&self, namespace: &(impl WriteAs<N> + ?Sized)) -> Result<Self> {
        let namespace = Bytes::from(self.encode(namespace)?);
        Ok(Self { namespace, ..self.clone() })
    }

    /// Looks at keys of a key group that the caller names.
    pub(crate) fn in_key_group(&self, key_group: u32) -> Self {
        Self { key_group: Some(key_group), ..self.clone() }
    }

    /// Gives what is written a deadline of its own.
    pub(crate) fn expiring_at(&self, deadline_ms: i64) -> Result<Self> {
        if self.expiry.is_none() {
            let message = format!(
                "state {:?} has no TTL, so that nothing looks for deadlines in it (register a TTL, a long one perhaps)",
                self.name()
            );
            return Err(Error::call(v1::ErrorReason::TtlInvalid, message));
        }
        Ok(Self { expires_at_ms: Some(deadline_ms), ..self.clone() })
    }

    /// Encodes a key, finds its shard and calls `then` with both.
    pub(crate) fn at<K: Stored, T>(
        &self,
        key: &(impl WriteAs<K> + ?Sized),
        then: impl FnOnce(At<'_>) -> T,
    ) -> Result<T> {
        with_scratch(|bytes| {
            key.write_as(bytes).map_err(|source| self.codec(source))?;
            Ok(then(self.session.locate(self.state.id, bytes, &self.namespace, self.key_group)?))
        })
    }

    /// Encodes a key.
    pub(crate) fn encode<C: Stored>(&self, value: &(impl WriteAs<C> + ?Sized)) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        value.write_as(&mut bytes).map_err(|source| self.codec(source))?;
        Ok(bytes)
    }

    /// Encodes a value and checks its length.
    pub(crate) fn encode_value<C: Stored>(&self, value: &(impl WriteAs<C> + ?Sized)) -> Result<Bytes> {
        let bytes = self.encode(value)?;
        self.session.check_value(&bytes)?;
        Ok(bytes.into())
    }

    /// Encodes a value into memory that is used again, checks its length and calls `then` with it.
    pub(crate) fn with_value<C: Stored, T>(
        &self,
        value: &(impl WriteAs<C> + ?Sized),
        then: impl FnOnce(&[u8]) -> T,
    ) -> Result<T> {
        with_scratch(|bytes| {
            value.write_as(bytes).map_err(|source| self.codec(source))?;
            self.session.check_value(bytes)?;
            Ok(then(bytes))
        })
    }

    /// Encodes an operand of an aggregating state and checks its length.
    pub(crate) fn encode_operand<A>(&self, operand: &(impl AddTo<A> + ?Sized)) -> Result<Bytes> {
        let mut bytes = Vec::new();
        operand.write_operand(&mut bytes).map_err(|source| self.codec(source))?;
        self.session.check_value(&bytes)?;
        Ok(bytes.into())
    }

    /// Encodes a map key and checks its length.
    pub(crate) fn encode_map_key<C: Stored>(&self, map_key: &(impl WriteAs<C> + ?Sized)) -> Result<Bytes> {
        let bytes = self.encode(map_key)?;
        check_length("map key", &bytes)?;
        Ok(bytes.into())
    }

    pub(crate) fn decode<C: Stored>(&self, bytes: &[u8]) -> Result<C::Value> {
        C::read(bytes).map_err(|source| self.codec(source))
    }

    /// Finds the shard of a key that was encoded before.
    pub(crate) fn locate<'a>(&'a self, key: &'a [u8]) -> Result<At<'a>> {
        self.session.locate(self.state.id, key, &self.namespace, self.key_group)
    }

    /// Finds the key group of a key, once key and namespace are known to be right.
    pub(crate) fn group_of(&self, key: &[u8], namespace: &[u8]) -> Result<u16> {
        self.session.locate(self.state.id, key, namespace, self.key_group)?;
        self.session.group_of(key, self.key_group)
    }

    /// Encodes keys.
    pub(crate) fn encode_all<K: Stored, E: WriteAs<K>>(
        &self,
        keys: impl IntoIterator<Item = E>,
    ) -> Result<Vec<Vec<u8>>> {
        keys.into_iter().map(|key| self.encode::<K>(&key)).collect()
    }

    /// Returns the deadline of what is written now, where the state has a TTL.
    pub(crate) async fn deadline_ms(&self, shard: usize) -> Result<Option<i64>> {
        let Some(expiry) = &self.expiry else { return Ok(None) };
        let by_ttl = self.session.deadline_ms(expiry, shard).await?;
        Ok(self.expires_at_ms.or(by_ttl))
    }

    /// Decides what a reader does with an entry that has a deadline.
    pub(crate) fn look(&self, deadline_ms: i64, shard: usize) -> Look {
        let clock = self.expiry.map_or(v1::TtlClock::Processing, |expiry| expiry.clock);
        match self.session.clock_ms(clock, shard) {
            Some(clock_ms) => look(self.expiry.as_ref(), deadline_ms, clock_ms),
            None => Look::Alive,
        }
    }

    /// Reads into the cache what it does not know; nothing of a state of which it keeps nothing.
    pub(crate) async fn prefetch(
        &self,
        wanted: &[Wanted<'_>],
        begin: impl Fn(&mut Cache, At<'_>) -> Reading,
        fill: impl Fn(&mut Cache, Reading, usize, AnswerRef<'_>),
    ) -> Result<()> {
        if wanted.is_empty() || self.session.cached(|cache| cache.is_uncached(self.state.id)) {
            return Ok(());
        }
        self.session.fill_all(wanted, &begin, fill).await
    }

    /// Merges namespaces of a key into one. Nothing to merge is no operation.
    pub(crate) async fn merge_namespaces<K: Stored, N: Stored, S: WriteAs<N>>(
        &self,
        key: &(impl WriteAs<K> + ?Sized),
        sources: impl IntoIterator<Item = S>,
        target: &(impl WriteAs<N> + ?Sized),
    ) -> Result<()> {
        let sources = sources.into_iter().map(|source| self.in_namespace::<N>(&source)).collect::<Result<Vec<_>>>()?;
        let target = self.in_namespace::<N>(target)?;
        if sources.is_empty() {
            return Ok(());
        }
        let key = self.encode(key)?;
        let all = sources.iter().chain([&target]).map(|scope| scope.locate(&key)).collect::<Result<Vec<_>>>()?;
        let packed = packed_list::pack(sources.iter().map(|source| &source.namespace));
        let op = target.locate(&key)?.op(v1::OpKind::MergeNamespaces).with_value(&packed);
        self.session.write_over(&all, op).await
    }

    pub(crate) fn codec(&self, source: forebay_proto::codec::Error) -> Error {
        Error::Codec { state: self.name().into(), source }
    }
}

/// Makes a descriptor of what all kinds have.
pub(crate) fn descriptor<K: Stored, N: Stored, V: Stored>(name: &str, kind: v1::StateKind) -> v1::StateDescriptor {
    v1::StateDescriptor {
        name: name.into(),
        kind: kind.into(),
        key_codec: K::name().into(),
        namespace_codec: N::name().into(),
        value_codec: V::name().into(),
        ..v1::StateDescriptor::default()
    }
}

/// The codecs of a state, which are types without a value.
pub(crate) type Codecs<C> = PhantomData<fn() -> C>;

/// The codec of namespaces where a state does not say one.
pub type DefaultNamespace = codec::Utf8;

/// Memory of more bytes is given back.
const SCRATCH_BYTES_MAX: usize = 64 << 10;

fn with_scratch<T>(use_it: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    thread_local!(static SCRATCH: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) });
    // Taken out and put back, as what runs meanwhile may encode another key.
    let mut bytes = SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default();
    bytes.clear();
    let result = use_it(&mut bytes);
    if bytes.capacity() <= SCRATCH_BYTES_MAX {
        SCRATCH.with_borrow_mut(|spare| spare.push(bytes));
    }
    result
}

#[cfg(test)]
mod tests {
    use crate::{
        AggregatingState, ListState, MapState, MultimapState, ReducingState, TimerState, ValueState, Worker,
        WorkerState,
        aggregate::{Avg, MinBy},
        codec::{F64, I64, Utf8},
    };

    fn sent<T: Send>(_: &T) {}

    /// What a user may spawn; it is compiled, not run.
    #[expect(dead_code, reason = "compiling it is the test")]
    fn every_call_may_be_spawned(
        mut worker: Worker,
        value: ValueState<Utf8, I64>,
        list: ListState<Utf8, Utf8>,
        map: MapState<Utf8, Utf8, I64>,
        multimap: MultimapState<Utf8, Utf8, I64>,
        sum: ReducingState<Utf8, I64>,
    ) -> crate::Result<()> {
        sent(&(value.value("k"), value.update("k", &1), value.clear("k"), value.prefetch(["a", "b"])));
        sent(&value.compare_and_set("k", Some(&1), None::<&i64>));
        sent(&(list.get("k"), list.add("k", "e"), list.add_all("k", ["a", "b"]), list.update("k", ["a"])));
        sent(&(list.pages("k", 10)?.next(), list.prefetch(["k"]), list.merge_namespaces("k", ["w1", "w2"], "w3")));
        sent(&(map.get("k", "m"), map.put_all("k", [("m", 1)]), map.entries("k"), map.remove("k", "m")));
        sent(&(map.clear_range("k", Some("a"), None::<&str>), map.is_empty("k"), map.prefetch([("k", "m")])));
        sent(&(map.scan("k")?.from("a")?.until("b")?.next_keys(), map.scan("k")?.prefix("a")?.values()));
        sent(&(multimap.add("k", "m", &1), multimap.add_all("k", "m", [1, 2]), multimap.get("k", "m")));
        sent(&(
            multimap.keys("k"),
            multimap.remove("k", "m"),
            multimap.clear("k"),
            multimap.pages("k", "m", 9)?.next(),
        ));
        sent(&(sum.add("k", &1), sum.get("k"), sum.prefetch(["k"]), sum.merge_namespaces("k", ["w1"], "w2")));
        sent(&worker.assigned());
        sent(&worker.boundary(WorkerState::new));
        sent(&worker.finish(WorkerState::new));
        Ok(())
    }

    #[expect(dead_code, reason = "compiling it is the test")]
    fn calls_of_aggregating_states_and_timers_may_be_spawned(
        mean: AggregatingState<Utf8, Avg>,
        cheapest: AggregatingState<Utf8, MinBy<F64, Utf8>>,
        timers: TimerState<Utf8, Utf8>,
    ) {
        sent(&(mean.add("k", &1.5), mean.get("k"), mean.clear("k"), mean.prefetch(["k"])));
        sent(&(cheapest.add("k", &(9.5, "shop")), cheapest.merge_namespaces("k", ["w1"], "w2")));
        sent(&(timers.register("k", "window", 17), timers.delete("k", "window", 17), timers.due(17, 100)));
    }

    #[test]
    fn a_declaration_says_what_is_registered() {
        use std::time::Duration;

        use crate::{Aggregating, State as _, Timers, Ttl, Value, aggregate::TopK, v1::StateKind};

        const SEEN: Value<Utf8, I64> = Value::new("seen").ttl(Ttl::new(Duration::from_secs(5))).schema(b"{}", 3);
        const LONGEST: Aggregating<Utf8, TopK<I64>> = Aggregating::top_k("longest", 10);
        const DUE: Timers<Utf8> = Timers::new("due");
        let seen = SEEN.descriptor();
        assert_eq!((seen.ttl.and_then(|ttl| ttl.ttl).map(|ttl| ttl.seconds), seen.schema_version), (Some(5), 3));
        assert_eq!(seen.schema, "{}");
        let longest = LONGEST.descriptor();
        assert_eq!((longest.kind(), &longest.function[..]), (StateKind::Aggregating, "top_k(10)"));
        assert_eq!((&longest.key_codec[..], &longest.value_codec[..]), ("utf8", "i64"));
        assert_eq!(DUE.descriptor().kind(), StateKind::SortedSet);
    }
}
