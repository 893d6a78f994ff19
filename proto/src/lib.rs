//! The contract of Forebay: what every server, coordinator, SDK and tool agrees on.
//!
//! [`v1`] holds the messages and services of `forebay/v1/*.proto`; the other modules hold what protobuf
//! cannot say: how keys map to key groups ([`key_group`]), the columns of a batch ([`packed`]), what an
//! error means ([`reason`]), how typed values become bytes ([`codec`]) and what is made of operands
//! ([`merge`]).
//!
//! The crate knows neither storage nor transport policy. Invariant: everything here is byte-exact in all
//! languages; `testdata/` holds the vectors that prove it, and a change of one is a change of the format.

/// Messages and services of package `forebay.v1`, as generated; documented in the `.proto` files.
#[allow(missing_docs, unused_qualifications, clippy::all, rustdoc::all)]
pub mod v1 {
    tonic::include_proto!("forebay.v1");
}

/// The encoded `FileDescriptorSet` of `forebay.v1` with its imports, for gRPC reflection.
///
/// Error details and health have sets of their own: `tonic_types::pb::FILE_DESCRIPTOR_SET` and
/// `tonic_health::pb::FILE_DESCRIPTOR_SET`.
pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));

pub mod codec;
pub mod duration;
mod handover;
pub mod key_group;
pub mod merge;
pub mod packed;
pub mod packed_list;
pub mod reason;

pub use key_group::{KeyGroup, KeyGroupRange, MaxParallelism};
pub use reason::{Advice, Refused};
