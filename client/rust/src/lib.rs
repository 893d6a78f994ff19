//! The Rust SDK of Forebay: remote state for stream workers.
//!
//! A worker reads a source, keeps its state in Forebay and says at every barrier how far it is. Whatever
//! fails, state and position go back together to a completed checkpoint, so every record counts once.
//!
//! ```no_run
//! use forebay_client::{
//!     Client, Error, Result, Value, WorkerState,
//!     codec::{I64, U64, Utf8},
//!     v1::{JobSpec, Operator},
//! };
//!
//! /// Per word: how often it was seen.
//! const COUNTS: Value<Utf8, I64> = Value::new("counts");
//!
//! # async fn read(_: u64) -> Option<String> { None }
//! async fn count_words() -> Result<()> {
//!     let client = Client::connect("http://127.0.0.1:7400").await?;
//!     let count = Operator { name: "count".into(), source: true, ..Operator::default() };
//!     client.ensure_job(JobSpec { name: "words".into(), operators: vec![count], ..JobSpec::default() }).await?;
//!     let mut worker = client.worker("words", "count").id("worker-1").state(&COUNTS).join().await?;
//!     'generation: loop {
//!         // Once at the start, and again whenever the job has gone back to a checkpoint.
//!         let assigned = worker.assigned().await?;
//!         let counts = assigned.open(&COUNTS)?;
//!         let mut position = assigned.worker_state().value::<U64, _>("position")?.unwrap_or(0);
//!         loop {
//!             // Between two records: a checkpoint's barrier goes through here.
//!             let state = || WorkerState::of::<U64, _>("position", &position);
//!             match worker.boundary(state).await {
//!                 Err(Error::Rewound { .. }) => continue 'generation,
//!                 other => other?,
//!             }
//!             let Some(word) = read(position).await else { break };
//!             let seen = counts.value(&word).await?.unwrap_or(0);
//!             counts.update(&word, &(seen + 1)).await?;
//!             position += 1;
//!         }
//!         worker.finish(|| WorkerState::of::<U64, _>("position", &position)).await?;
//!         return Ok(());
//!     }
//! }
//! ```
//!
//! | declaration | handle | Flink |
//! |---|---|---|
//! | [`Value`] | [`ValueState`] | ValueState |
//! | [`List`] | [`ListState`] | ListState |
//! | [`Map`] | [`MapState`] | MapState |
//! | [`Multimap`] | [`MultimapState`] | |
//! | [`Reducing`] | [`ReducingState`] | ReducingState |
//! | [`Aggregating`] | [`AggregatingState`] | AggregatingState |
//! | [`Timers`] | [`TimerState`] | InternalTimerService |
//!
//! Every declaration but that of timers takes a [`Ttl`]. A handle looks at the empty namespace until
//! `namespace` gives a view of another, such as a window.
//!
//! In a job with `recovery: shard` positions are kept in the shards beside what they count for ([`Source`]): a worker
//! that dies or joins takes nothing back, and reads again only what the shards it is given lack.
//!
//! `examples/flights.rs` is a whole program. Below the worker, each usable by itself: [`Client`] for tools and
//! plain services, [`raw`] for lanes without a cache, [`lane`], [`cache`] and [`positions`] for the logic
//! without any I/O.

mod aggregating;
mod assigned;
mod attention;
mod backlog;
mod backoff;
pub mod cache;
mod channel;
pub mod client;
mod clock;
pub mod codec;
pub mod error;
mod expiry;
mod hooks;
mod inbox;
pub mod inputs;
pub mod lane;
mod lease;
mod list;
mod map;
mod membership;
mod multimap;
mod options;
pub mod positions;
pub mod raw;
mod records;
mod reducing;
pub mod routing;
mod session;
mod shard_clock;
mod shard_lane;
mod source;
mod states;
mod stream;
mod timers;
mod ttl;
mod value;
mod worker;
mod worker_state;

pub use aggregating::{Aggregating, AggregatingState};
pub use assigned::Assigned;
pub use client::Client;
pub use error::{Error, Result};
pub use forebay_proto::{merge::MergeFunction, v1};
pub use hooks::{HookResult, Hooks, NoHooks};
pub use inputs::{Barrier, Inputs};
pub use list::{List, ListPages, ListState};
pub use map::{Map, MapScan, MapState};
pub use multimap::{Multimap, MultimapState};
pub use records::RecordGuard;
pub use reducing::{Reducing, ReducingState};
pub use source::Source;
pub use states::{DefaultNamespace, State};
pub use timers::{EventTimers, ProcessingTimers, Timer, TimerState, Timers};
pub use ttl::{Ttl, TtlClock, TtlUpdate, TtlVisibility};
pub use value::{Value, ValueState};
pub use worker::{Worker, WorkerBuilder};
pub use worker_state::WorkerState;

/// Functions of aggregating states, as types.
pub mod aggregate {
    pub use crate::aggregating::{AddTo, Aggregate, Avg, AvgI64, CountDistinct, MaxBy, MinBy, TopK};
}
