//! The codecs as types without a value.

use std::{borrow::Cow, marker::PhantomData};

use prost::{Message, Name};
use serde::{Serialize, de::DeserializeOwned};

use super::{Codec, Error};

const SIGN: u64 = 1 << 63;
/// The one NaN that is stored; sign and payload of others differ between processors and languages.
const NAN: u64 = 0x7ff8_0000_0000_0000;

/// `bytes`: as they are.
#[derive(Debug)]
pub struct Bytes;

/// `utf8`: text as UTF-8, without a length, an end mark or normalisation.
#[derive(Debug)]
pub struct Utf8;

/// `i64`: 8 bytes, big endian, the sign bit flipped, so that bytes sort as numbers do.
#[derive(Debug)]
pub struct I64;

/// `u64`: 8 bytes, big endian.
#[derive(Debug)]
pub struct U64;

/// `f64`: the 8 bytes of IEEE 754, big endian; positive numbers with the sign bit flipped, negative ones with
/// all bits flipped, so that bytes sort as numbers do: `-inf … -0.0, 0.0 … inf, NaN`.
///
/// Every NaN is stored as the quiet NaN 7ff8000000000000 (bytes `fff8000000000000`) and read back as it.
#[derive(Debug)]
pub struct F64;

/// `bool`: one byte, 0 or 1.
#[derive(Debug)]
pub struct Bool;

/// `json`: JSON text in UTF-8, compact. Equal values have equal bytes only if fields are always written in
/// the same order: a poor codec for keys.
#[derive(Debug)]
pub struct Json<T>(PhantomData<fn() -> T>);

/// `protobuf:<message>`: a message in its wire format. Equal messages need not have equal bytes: a poor codec
/// for keys.
#[derive(Debug)]
pub struct Protobuf<M>(PhantomData<fn() -> M>);

/// `msgpack`: MessagePack that the caller has made; the bytes pass as they are.
#[derive(Debug)]
pub struct Msgpack;

/// Reads exactly `N` bytes.
pub(super) fn exact<const N: usize>(codec: &'static str, bytes: &[u8]) -> Result<[u8; N], Error> {
    bytes.try_into().map_err(|_| Error::Length { codec, got: bytes.len(), expected: N })
}

/// Implements a codec whose values are byte strings themselves.
macro_rules! pass {
    ($codec:ty, $name:literal, $($value:ty),*) => {$(
        impl Codec<$value> for $codec {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed($name)
            }
            fn encode(value: &$value, out: &mut Vec<u8>) -> Result<(), Error> {
                out.extend_from_slice(value);
                Ok(())
            }
            fn decode(bytes: &[u8]) -> Result<$value, Error> {
                Ok(bytes.to_vec().into())
            }
        }
    )*};
}

pass!(Bytes, "bytes", Vec<u8>, bytes::Bytes);
pass!(Msgpack, "msgpack", Vec<u8>, bytes::Bytes);

impl Codec<String> for Utf8 {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("utf8")
    }
    fn encode(value: &String, out: &mut Vec<u8>) -> Result<(), Error> {
        out.extend_from_slice(value.as_bytes());
        Ok(())
    }
    fn decode(bytes: &[u8]) -> Result<String, Error> {
        let text = str::from_utf8(bytes).map_err(|error| Error::Utf8 { at: error.valid_up_to() })?;
        Ok(text.to_owned())
    }
}

impl Codec<i64> for I64 {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("i64")
    }
    fn encode(value: &i64, out: &mut Vec<u8>) -> Result<(), Error> {
        U64::encode(&(value.cast_unsigned() ^ SIGN), out)
    }
    fn decode(bytes: &[u8]) -> Result<i64, Error> {
        let ordered = u64::from_be_bytes(exact("i64", bytes)?);
        Ok((ordered ^ SIGN).cast_signed())
    }
}

impl Codec<u64> for U64 {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("u64")
    }
    fn encode(value: &u64, out: &mut Vec<u8>) -> Result<(), Error> {
        out.extend_from_slice(&value.to_be_bytes());
        Ok(())
    }
    fn decode(bytes: &[u8]) -> Result<u64, Error> {
        Ok(u64::from_be_bytes(exact("u64", bytes)?))
    }
}

impl Codec<f64> for F64 {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("f64")
    }
    fn encode(value: &f64, out: &mut Vec<u8>) -> Result<(), Error> {
        let bits = if value.is_nan() { NAN } else { value.to_bits() };
        U64::encode(&if bits & SIGN == 0 { bits | SIGN } else { !bits }, out)
    }
    fn decode(bytes: &[u8]) -> Result<f64, Error> {
        let ordered = u64::from_be_bytes(exact("f64", bytes)?);
        let value = f64::from_bits(if ordered & SIGN == 0 { !ordered } else { ordered & !SIGN });
        Ok(if value.is_nan() { f64::from_bits(NAN) } else { value })
    }
}

impl Codec<bool> for Bool {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("bool")
    }
    fn encode(value: &bool, out: &mut Vec<u8>) -> Result<(), Error> {
        out.push(u8::from(*value));
        Ok(())
    }
    fn decode(bytes: &[u8]) -> Result<bool, Error> {
        match exact("bool", bytes)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [got] => Err(Error::Bool { got }),
        }
    }
}

impl<T: Serialize + DeserializeOwned> Codec<T> for Json<T> {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("json")
    }
    fn encode(value: &T, out: &mut Vec<u8>) -> Result<(), Error> {
        let start = out.len();
        serde_json::to_writer(&mut *out, value).map_err(|error| {
            out.truncate(start);
            Error::Json(error.to_string())
        })
    }
    fn decode(bytes: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(bytes).map_err(|error| {
            // Where it broke and not why: serde's text may quote the value.
            Error::Json(format!("line {} column {} is not what the type expects", error.line(), error.column()))
        })
    }
}

impl<M: Message + Name + Default> Codec<M> for Protobuf<M> {
    fn name() -> Cow<'static, str> {
        Cow::Owned(format!("protobuf:{}", M::full_name()))
    }
    fn encode(value: &M, out: &mut Vec<u8>) -> Result<(), Error> {
        value.encode(out).map_err(|error| Error::Protobuf(error.to_string()))
    }
    fn decode(bytes: &[u8]) -> Result<M, Error> {
        M::decode(bytes).map_err(|error| Error::Protobuf(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of<T, C: Codec<T>>(value: T) -> Vec<u8> {
        C::to_bytes(&value).unwrap()
    }

    #[test]
    fn numbers_sort_as_bytes() {
        let ints = [i64::MIN, -257, -1, 0, 1, 256, i64::MAX].map(bytes_of::<i64, I64>);
        assert!(ints.is_sorted_by(|a, b| a < b));
        let tiny = f64::from_bits(1);
        let floats =
            [f64::NEG_INFINITY, f64::MIN, -1.5, -tiny, -0.0, 0.0, tiny, 1.5, f64::MAX, f64::INFINITY, f64::NAN];
        assert!(floats.map(bytes_of::<f64, F64>).is_sorted_by(|a, b| a < b));
        for float in floats {
            assert_eq!(F64::decode(&bytes_of::<f64, F64>(float)).unwrap().to_bits(), float.to_bits());
        }
    }

    #[test]
    fn every_nan_is_one() {
        for nan in [f64::NAN, -f64::NAN, f64::from_bits(0x7ff0_0000_0000_0001), f64::from_bits(u64::MAX)] {
            assert_eq!(bytes_of::<f64, F64>(nan), [0xff, 0xf8, 0, 0, 0, 0, 0, 0]);
        }
        assert_eq!(F64::decode(&[0xff; 8]).unwrap().to_bits(), NAN);
        assert_eq!(F64::decode(&[0; 8]).unwrap().to_bits(), NAN);
    }

    #[test]
    fn values_come_back_as_they_went_in() {
        assert_eq!(Utf8::decode(&bytes_of::<_, Utf8>("grün".to_owned())).unwrap(), "grün");
        assert_eq!(I64::decode(&bytes_of::<_, I64>(-5)).unwrap(), -5);
        assert_eq!((bytes_of::<_, Bool>(true), Bool::decode(&[0])), (vec![1], Ok(false)));
        let json = bytes_of::<_, Json<Vec<Option<u8>>>>(vec![Some(1), None]);
        assert_eq!((&json[..], Json::<Vec<Option<u8>>>::decode(&json)), (&b"[1,null]"[..], Ok(vec![Some(1), None])));
        assert_eq!(<Bytes as Codec<bytes::Bytes>>::decode(b"x").unwrap(), "x");
        assert_eq!(<Msgpack as Codec<Vec<u8>>>::name(), "msgpack");
    }

    #[test]
    fn bytes_of_another_codec_are_refused() {
        assert_eq!(
            I64::decode(b"42").unwrap_err().to_string(),
            "codec i64: got 2 bytes, 8 allowed (written with another codec?)"
        );
        assert!(U64::decode(&[0; 9]).is_err() && F64::decode(&[]).is_err());
        assert_eq!(
            (Bool::decode(&[2]), Utf8::decode(b"ab\xff")),
            (Err(Error::Bool { got: 2 }), Err(Error::Utf8 { at: 2 }))
        );
        let error = Json::<u8>::decode(b"\"secret\"").unwrap_err().to_string();
        assert!(error.starts_with("codec json: line 1") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn what_json_cannot_say_is_refused_without_a_trace() {
        type Pairs = std::collections::BTreeMap<Vec<u8>, u8>;
        let mut out = b"before".to_vec();
        assert!(Json::<Pairs>::encode(&Pairs::from([(vec![1], 1)]), &mut out).is_err());
        assert_eq!(out, b"before");
    }

    #[test]
    fn a_message_is_named_in_full() {
        #[derive(Clone, PartialEq, Message)]
        struct Order {
            #[prost(uint64, tag = "1")]
            id: u64,
        }
        impl Name for Order {
            const NAME: &'static str = "Order";
            const PACKAGE: &'static str = "shop.v1";
        }
        assert_eq!(Protobuf::<Order>::name(), "protobuf:shop.v1.Order");
        assert_eq!(Protobuf::<Order>::decode(&[8, 7]), Ok(Order { id: 7 }));
        assert!(Protobuf::<Order>::decode(&[0xff]).is_err());
    }
}
