//! Codecs as states name them: which type a codec stores, and what can be written with it.
//!
//! The bytes are those of [`forebay_proto::codec`]; this only lets a `&str` be a key of [`Utf8`] without
//! being made a `String` first.

use std::borrow::Cow;

use forebay_proto::codec::{Codec, Error};
use serde::{Serialize, de::DeserializeOwned};

pub use forebay_proto::codec::{Bool, Bytes, F64, I64, Json, Msgpack, U64, Utf8};

/// A codec with the type that it stores.
pub trait Stored: Send + Sync + 'static {
    /// What is read.
    type Value;

    /// Returns the codec's name in a descriptor.
    fn name() -> Cow<'static, str>;

    /// Reads a value.
    fn read(bytes: &[u8]) -> Result<Self::Value, Error>;
}

/// What can be written with a codec.
pub trait WriteAs<C> {
    /// Appends the bytes of the value.
    fn write_as(&self, out: &mut Vec<u8>) -> Result<(), Error>;
}

macro_rules! stored {
    ($($codec:ty => $value:ty),*) => {$(
        impl Stored for $codec {
            type Value = $value;
            fn name() -> Cow<'static, str> {
                <$codec as Codec<$value>>::name()
            }
            fn read(bytes: &[u8]) -> Result<$value, Error> {
                <$codec as Codec<$value>>::decode(bytes)
            }
        }
    )*};
}

stored!(Utf8 => String, Bytes => bytes::Bytes, Msgpack => bytes::Bytes, I64 => i64, U64 => u64, F64 => f64, Bool => bool);

impl<T: Serialize + DeserializeOwned + 'static> Stored for Json<T> {
    type Value = T;
    fn name() -> Cow<'static, str> {
        <Self as Codec<T>>::name()
    }
    fn read(bytes: &[u8]) -> Result<T, Error> {
        Self::decode(bytes)
    }
}

impl<T: Serialize + DeserializeOwned> WriteAs<Json<T>> for T {
    fn write_as(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        Json::<T>::encode(self, out)
    }
}

macro_rules! written {
    ($($codec:ty: $($value:ty),*);*) => {$($(
        impl WriteAs<$codec> for $value {
            fn write_as(&self, out: &mut Vec<u8>) -> Result<(), Error> {
                <$codec>::encode(self, out)
            }
        }
    )*)*};
}

written!(I64: i64, &i64; U64: u64, &u64; F64: f64, &f64; Bool: bool, &bool);

macro_rules! written_as_bytes {
    ($($codec:ty: $($value:ty),*);*) => {$($(
        impl WriteAs<$codec> for $value {
            fn write_as(&self, out: &mut Vec<u8>) -> Result<(), Error> {
                let bytes: &[u8] = self.as_ref();
                out.extend_from_slice(bytes);
                Ok(())
            }
        }
    )*)*};
}

written_as_bytes!(
    Utf8: str, &str, String, &String;
    Bytes: [u8], &[u8], Vec<u8>, bytes::Bytes;
    Msgpack: [u8], &[u8], Vec<u8>, bytes::Bytes
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_borrowed_key_has_the_bytes_of_an_owned_one() {
        let (mut borrowed, mut owned) = (Vec::new(), Vec::new());
        WriteAs::<Utf8>::write_as("N1", &mut borrowed).unwrap();
        WriteAs::<Utf8>::write_as(&"N1".to_owned(), &mut owned).unwrap();
        assert_eq!((borrowed.as_slice(), owned.as_slice()), (&b"N1"[..], &b"N1"[..]));
        assert_eq!(Utf8::read(&owned).unwrap(), "N1");
    }
}
