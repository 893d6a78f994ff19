//! The states that random operations are on: every kind, with and without TTL, by every clock.

use forebay_proto::{
    merge::MergeFunction,
    v1::{self, StateKind, TtlClock},
};

/// A state.
pub struct Spec {
    /// Its kind.
    pub kind: StateKind,
    /// Its merge function.
    pub function: &'static str,
    /// Its TTL at first.
    pub ttl_ms: Option<i64>,
    /// The clock of its deadlines.
    pub clock: TtlClock,
}

const fn spec(kind: StateKind, function: &'static str, ttl_ms: Option<i64>, clock: TtlClock) -> Spec {
    Spec { kind, function, ttl_ms, clock }
}

/// The states, of the ids 1, 2, 3 …
pub const STATES: &[Spec] = &[
    spec(StateKind::Value, "", None, TtlClock::Processing),
    spec(StateKind::Value, "", Some(50), TtlClock::Event),
    spec(StateKind::List, "", None, TtlClock::Processing),
    spec(StateKind::List, "", Some(50), TtlClock::Writer),
    spec(StateKind::Map, "", None, TtlClock::Processing),
    spec(StateKind::Map, "", Some(50), TtlClock::Event),
    spec(StateKind::Multimap, "", Some(50), TtlClock::Processing),
    spec(StateKind::Reducing, "sum_i64", Some(50), TtlClock::Processing),
    spec(StateKind::Reducing, "count", None, TtlClock::Processing),
    spec(StateKind::Reducing, "sum_f64", Some(50), TtlClock::Writer),
    spec(StateKind::Aggregating, "min_by", Some(50), TtlClock::Event),
    spec(StateKind::Aggregating, "top_k(2)", None, TtlClock::Processing),
    spec(StateKind::SortedSet, "", Some(50), TtlClock::Processing),
];

impl Spec {
    /// The state of an id.
    pub fn of(id: u32) -> &'static Self {
        &STATES[id as usize - 1]
    }

    /// Its merge function.
    pub fn merge(&self) -> Option<MergeFunction> {
        MergeFunction::parse(self.function)
    }

    /// The descriptor, with this TTL.
    pub fn descriptor(&self, id: u32, ttl_ms: Option<i64>) -> v1::StateDescriptor {
        let ttl = ttl_ms.map(|ms| v1::TtlConfig {
            ttl: Some(prost_types::Duration {
                seconds: ms / 1000,
                nanos: i32::try_from(ms % 1000 * 1_000_000).expect("below a second"),
            }),
            clock: self.clock.into(),
            ..Default::default()
        });
        v1::StateDescriptor {
            name: format!("s{id}"),
            kind: self.kind.into(),
            key_codec: "bytes".into(),
            namespace_codec: "bytes".into(),
            map_key_codec: "bytes".into(),
            value_codec: "bytes".into(),
            function: self.function.into(),
            ttl,
            ..Default::default()
        }
    }
}
