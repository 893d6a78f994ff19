//! Timers: a codec on a sorted set per key group.
//!
//! A timer fires when the worker, having asked for those that are due, has written the effects and deletes it:
//! both are writes in the cache and go out with its flushes. A barrier comes between two boundaries of the
//! worker's loop, so behind both or before both: after a rewind a timer is there or its effects are.

mod element;
mod queue;

use std::{collections::BTreeMap, marker::PhantomData};

use bytes::Bytes;
use forebay_proto::{
    reason::Refused,
    v1::{ErrorReason, OpKind, StateDescriptor, StateKind},
};

use crate::{
    cache::At,
    codec::{self, Stored, WriteAs},
    error::Result,
    states::{Codecs, DefaultNamespace, Scope, SessionRef, State, descriptor},
};
use element::{Element, end_of};
use queue::Horizon;
pub(crate) use queue::Queue;

/// Timers of a key group that are read ahead.
const AHEAD: u32 = 64;

/// Declares timers: key codec, namespace codec. Event time and processing time are two states.
#[derive(Debug)]
pub struct Timers<K, N = DefaultNamespace> {
    name: &'static str,
    codecs: Codecs<(K, N)>,
}

impl<K, N> Timers<K, N> {
    /// Declares timers of that name.
    pub const fn new(name: &'static str) -> Self {
        Self { name, codecs: PhantomData }
    }
}

impl<K: Stored, N: Stored> State for Timers<K, N> {
    type Handle = TimerState<K, N>;

    fn descriptor(&self) -> StateDescriptor {
        descriptor::<K, N, codec::Bytes>(self.name, StateKind::SortedSet)
    }

    fn open(&self, session: &SessionRef) -> Result<Self::Handle> {
        Ok(TimerState { scope: Scope::open(session, &self.descriptor())?, codecs: PhantomData })
    }
}

/// Timers on event time: due once the watermark has come to them (Flink: registerEventTimeTimer).
pub type EventTimers<K, N = DefaultNamespace> = TimerState<K, N>;

/// Timers on processing time: due once the clock has come to them (Flink: registerProcessingTimeTimer).
pub type ProcessingTimers<K, N = DefaultNamespace> = TimerState<K, N>;

/// A timer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timer<K, N> {
    /// When it is due, milliseconds since 1970.
    pub timestamp: i64,
    /// The key.
    pub key: K,
    /// The namespace.
    pub namespace: N,
}

/// Timers of the worker's keys (Flink: InternalTimerService).
///
/// A timer is its timestamp, key and namespace: registering the same again is no operation, as in Flink.
/// Nothing fires by itself: the worker asks for those that are due, in its own loop.
#[derive(Debug)]
pub struct TimerState<K, N = DefaultNamespace> {
    scope: Scope,
    codecs: Codecs<(K, N)>,
}

impl<K: Stored, N: Stored> TimerState<K, N> {
    /// Returns a view of a key group, for jobs whose partitioner is explicit.
    pub fn key_group(&self, key_group: u32) -> Self {
        Self { scope: self.scope.in_key_group(key_group), codecs: PhantomData }
    }

    /// Returns the state as it was registered when the handle was opened.
    pub fn registered(&self) -> &crate::v1::RegisteredState {
        &self.scope.state
    }

    /// Registers a timer. Reads nothing.
    pub async fn register(
        &self,
        key: &(impl WriteAs<K> + ?Sized),
        namespace: &(impl WriteAs<N> + ?Sized),
        timestamp: i64,
    ) -> Result<()> {
        self.change(key, namespace, timestamp, true).await
    }

    /// Deletes a timer; one that is not registered is no error. Said of one that was due, once its effects are
    /// written, it has fired.
    pub async fn delete(
        &self,
        key: &(impl WriteAs<K> + ?Sized),
        namespace: &(impl WriteAs<N> + ?Sized),
        timestamp: i64,
    ) -> Result<()> {
        self.change(key, namespace, timestamp, false).await
    }

    async fn change(
        &self,
        key: &(impl WriteAs<K> + ?Sized),
        namespace: &(impl WriteAs<N> + ?Sized),
        timestamp: i64,
        there: bool,
    ) -> Result<()> {
        let scope = &self.scope;
        let key = scope.encode(key)?;
        let namespace = scope.encode(namespace)?;
        let group = scope.group_of(&key, &namespace)?;
        let element = Bytes::from(Element { timestamp, key: &key, namespace: &namespace }.encode());
        crate::session::check_length("timer", &element)?;
        let number = group.to_be_bytes();
        let at = self.group(group, &number)?;
        let write = |cache: &mut crate::cache::Cache, now_ms| {
            scope.session.timers(at.state, |queue| queue.change(&element, group, there));
            cache.set_put(at, element.clone(), there, now_ms);
        };
        scope.session.write(at.state, write).await
    }

    /// Returns timers whose time is `up_to` or before, in the order of time, at most `limit`; those of all key
    /// groups that the worker holds. Only reads: they are due again until they are deleted.
    ///
    /// There may be more than are returned; none means that there is none.
    pub async fn due(&self, up_to: i64, limit: usize) -> Result<Vec<Timer<K::Value, N::Value>>> {
        let session = &self.scope.session;
        session.ready().await?;
        let state = self.scope.state.id;
        let end = end_of(up_to).map_or(Horizon::All, |end| Horizon::Below(end.into()));
        let known = |queue: &mut Queue| (queue.knows(&end), queue.first(&end, limit));
        let (mut all, mut due) = session.timers(state, known);
        if !all && due.is_empty() {
            let _one = session.reading_timers.lock().await;
            // Somebody else may have read them meanwhile.
            (all, due) = session.timers(state, known);
            if !all && due.is_empty() {
                self.read_ahead().await?;
                due = session.timers(state, |queue| queue.first(&end, limit));
            }
        }
        due.iter().map(|element| self.decoded(element)).collect()
    }

    /// Reads the next timers of all key groups.
    async fn read_ahead(&self) -> Result<()> {
        let session = &self.scope.session;
        let state = self.scope.state.id;
        let groups: Vec<(u16, [u8; 2])> = session.groups().map(|group| (group, group.to_be_bytes())).collect();
        let mut wanted = Vec::with_capacity(groups.len());
        for (group, number) in &groups {
            let at = self.group(*group, number)?;
            let op = forebay_proto::packed::Op::on_group(OpKind::SortedSetFirst, state, *group).with_limit(AHEAD);
            wanted.push((at, op));
        }
        session.timers(state, Queue::begin);
        let mut timers = BTreeMap::new();
        let mut horizon = Horizon::All;
        session
            .read_all(&wanted, &|cache, at| cache.read_set(at), |index, answer| {
                let elements: Vec<_> = answer.items().map(|element| element.to_vec()).collect();
                let reaches = Horizon::of_page(elements.last().map(Vec::as_slice), answer.more);
                horizon = horizon.clone().min(reaches);
                timers.extend(elements.into_iter().map(|element| (element, groups[index].0)));
            })
            .await?;
        session.timers(state, |queue| queue.fill(timers, horizon));
        Ok(())
    }

    /// The address of a key group: its number keeps it apart in the cache.
    fn group<'a>(&self, group: u16, number: &'a [u8; 2]) -> Result<At<'a>> {
        let shard = self.scope.session.shard_of(group)?;
        Ok(At { state: self.scope.state.id, key: &[], namespace: number, shard, key_group: Some(group) })
    }

    fn decoded(&self, element: &[u8]) -> Result<Timer<K::Value, N::Value>> {
        let Some(Element { timestamp, key, namespace }) = Element::decode(element) else {
            let message = format!("an element of state {:?} is no timer: something else wrote it", self.scope.name());
            return Err(Refused::new(ErrorReason::Malformed, message).into());
        };
        Ok(Timer { timestamp, key: self.scope.decode::<K>(key)?, namespace: self.scope.decode::<N>(namespace)? })
    }
}

impl<K, N> Clone for TimerState<K, N> {
    fn clone(&self) -> Self {
        Self { scope: self.scope.clone(), codecs: PhantomData }
    }
}
