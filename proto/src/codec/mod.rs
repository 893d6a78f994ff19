//! Codecs: how typed keys and values become bytes, the same in every language.
//!
//! `bytes utf8 i64 u64 f64 bool json protobuf:<message> msgpack`, named in a state's descriptor. SDKs encode
//! and decode ([`Codec`]); a server only shows stored bytes to people and reads what people write
//! ([`render`], [`parse`], [`shown`], [`read`]). The module knows neither states nor rows.
//!
//! Invariant: `i64`, `u64` and `f64` keep their order as bytes, and equal values have equal bytes. The two
//! exceptions are stated: `0.0` and `-0.0` differ (in this order: `-0.0 < 0.0`), and every NaN is one NaN.
//! `testdata/codecs.json` holds the vectors.

mod name;
mod people;
mod typed;

use std::borrow::Cow;

pub use name::CodecName;
pub use people::{parse, parse_as, read, render, shown};
pub use typed::{Bool, Bytes, F64, I64, Json, Msgpack, Protobuf, U64, Utf8};

/// Turns values of a type into bytes and back.
pub trait Codec<T> {
    /// Returns the name that stands in a state's descriptor.
    fn name() -> Cow<'static, str>;

    /// Appends the bytes of a value; fails only where the type itself cannot be written, as JSON may.
    fn encode(value: &T, out: &mut Vec<u8>) -> Result<(), Error>;

    /// Reads a value; any bytes are read or refused.
    fn decode(bytes: &[u8]) -> Result<T, Error>;

    /// Returns the bytes of a value.
    fn to_bytes(value: &T) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        Self::encode(value, &mut out)?;
        Ok(out)
    }
}

/// Why bytes are no value, or a value no bytes. Never holds the value itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The number of bytes is not the codec's.
    #[error("codec {codec}: got {got} bytes, {expected} allowed (written with another codec?)")]
    Length {
        /// The codec.
        codec: &'static str,
        /// The number of bytes.
        got: usize,
        /// What the codec takes.
        expected: usize,
    },
    /// The byte is no truth value.
    #[error("codec bool: got byte {got}, 0 or 1 allowed (written with another codec?)")]
    Bool {
        /// The byte.
        got: u8,
    },
    /// The bytes are no UTF-8.
    #[error("codec utf8: byte {at} is not UTF-8 (written with another codec?)")]
    Utf8 {
        /// Where the text ends.
        at: usize,
    },
    /// The bytes are no such JSON, or the value cannot be written as JSON.
    #[error("codec json: {0}")]
    Json(String),
    /// The bytes are no such message.
    #[error("codec protobuf: {0}")]
    Protobuf(String),
    /// What was written is of another type than the state.
    #[error("got {got}, the state's codec is {codec} (write it as raw to store bytes as they are)")]
    Form {
        /// The codec.
        codec: String,
        /// What was written.
        got: &'static str,
    },
    /// The text cannot be read as the state's type.
    #[error("text cannot be read as {codec}: {expected} expected (or write it as hex)")]
    Text {
        /// The codec.
        codec: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// The text is no hex.
    #[error("hex has a wrong digit or an odd number of them: pairs of 0-9, a-f allowed")]
    Hex,
}
