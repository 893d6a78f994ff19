//! What every stored protobuf object is wrapped in, so that a damaged, foreign or newer object is
//! named as such and never read as something else.
//!
//! `FBAY`, kind u8, format version u16, crc32c of the payload u32, length of the payload u64, payload;
//! numbers are little endian.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

/// What a stored object is. The numbers are in the objects: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ObjectKind {
    /// The one mutable object of a job.
    Head = 1,
    /// What a completed checkpoint consists of.
    Manifest = 2,
    /// Name of a job → its uid.
    JobName = 3,
    /// Whose prefix this is.
    ClusterMarker = 4,
    /// The coordinators' election record.
    Leader = 5,
    /// Objects that are about to be deleted.
    Tombstone = 6,
    /// Head of a shard's file in a canonical savepoint.
    CanonicalHead = 7,
    /// Index of a shard's file in a canonical savepoint.
    CanonicalIndex = 8,
    /// What makes a savepoint or a copied checkpoint whole: its entry, written last.
    Savepoint = 9,
}

/// Version of the frame and of the messages in it that this build writes, and the newest it reads.
pub const FORMAT_VERSION: u16 = 1;

const MAGIC: &[u8; 4] = b"FBAY";
const HEADER_LEN: usize = 4 + 1 + 2 + 4 + 8;

/// Why an object is not what its reader expects.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It ends within its header.
    #[error("object {path} is cut off: {found} bytes, its header alone has {HEADER_LEN}")]
    NoHeader {
        /// The object.
        path: String,
        /// Its length.
        found: usize,
    },
    /// It was not written by Forebay.
    #[error("object {path} is not one of Forebay's: it starts with {found:?}, not \"FBAY\"")]
    Magic {
        /// The object.
        path: String,
        /// Its first bytes.
        found: String,
    },
    /// It is another kind of object than its name says.
    #[error("object {path} is of kind {found}, not {wanted:?} ({})", *wanted as u8)]
    Kind {
        /// The object.
        path: String,
        /// The kind in it.
        found: u8,
        /// The kind its reader expects.
        wanted: ObjectKind,
    },
    /// A later release wrote it.
    #[error("object {path} has format version {found}, this build reads up to {FORMAT_VERSION}: upgrade it")]
    Version {
        /// The object.
        path: String,
        /// The version in it.
        found: u16,
    },
    /// It is longer or shorter than it says.
    #[error("object {path} has {found} bytes after its header, not {wanted}: it is cut off or padded")]
    Length {
        /// The object.
        path: String,
        /// How many bytes follow its header.
        found: u64,
        /// How many its header says.
        wanted: u64,
    },
    /// Some of its bytes changed.
    #[error("object {path} is damaged: its checksum is {found:08x}, not {wanted:08x}")]
    Checksum {
        /// The object.
        path: String,
        /// The checksum of what is there.
        found: u32,
        /// The checksum in its header.
        wanted: u32,
    },
    /// It is whole, yet no message of the expected type.
    #[error("object {path} is whole but not a {wanted:?}")]
    Message {
        /// The object.
        path: String,
        /// The kind its reader expects.
        wanted: ObjectKind,
        /// What the decoder says.
        source: prost::DecodeError,
    },
}

/// Wraps a message.
pub fn encode(kind: ObjectKind, message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(HEADER_LEN + length);
    bytes.put_slice(MAGIC);
    bytes.put_u8(kind as u8);
    bytes.put_u16_le(FORMAT_VERSION);
    bytes.put_u32_le(0);
    bytes.put_u64_le(length as u64);
    message.encode(&mut bytes).expect("BytesMut grows");
    let checksum = crc32c::crc32c(&bytes[HEADER_LEN..]);
    bytes[7..11].copy_from_slice(&checksum.to_le_bytes());
    bytes.freeze()
}

/// Unwraps a message of the kind that `path` must hold.
pub fn decode<M: Message + Default>(kind: ObjectKind, path: &str, bytes: &[u8]) -> Result<M, Error> {
    let path = || path.to_owned();
    // Before the length, so that a short foreign file is called foreign.
    let start = &bytes[..bytes.len().min(MAGIC.len())];
    if start != MAGIC && !(start.len() < MAGIC.len() && MAGIC.starts_with(start)) {
        return Err(Error::Magic { path: path(), found: start.escape_ascii().to_string() });
    }
    let Some((header, payload)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return Err(Error::NoHeader { path: path(), found: bytes.len() });
    };
    let [_, _, _, _, found_kind, v0, v1, c0, c1, c2, c3, length @ ..] = *header;
    let version = u16::from_le_bytes([v0, v1]);
    if version == 0 || version > FORMAT_VERSION {
        return Err(Error::Version { path: path(), found: version });
    }
    if found_kind != kind as u8 {
        return Err(Error::Kind { path: path(), found: found_kind, wanted: kind });
    }
    let (found, wanted) = (payload.len() as u64, u64::from_le_bytes(length));
    if found != wanted {
        return Err(Error::Length { path: path(), found, wanted });
    }
    let (found, wanted) = (crc32c::crc32c(payload), u32::from_le_bytes([c0, c1, c2, c3]));
    if found != wanted {
        return Err(Error::Checksum { path: path(), found, wanted });
    }
    M::decode(payload).map_err(|source| Error::Message { path: path(), wanted: kind, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any message will do; `prost` brings this one.
    fn framed() -> (String, Vec<u8>) {
        let message = "a head of thirty or so bytes".to_owned();
        let bytes = encode(ObjectKind::Head, &message).to_vec();
        (message, bytes)
    }

    fn read(bytes: &[u8]) -> Result<String, Error> {
        decode(ObjectKind::Head, "jobs/x/head", bytes)
    }

    #[test]
    fn a_message_comes_back() {
        let (message, bytes) = framed();
        assert_eq!(read(&bytes).unwrap(), message);
        assert_eq!(read(&encode(ObjectKind::Head, &String::new())).unwrap(), "");
    }

    #[test]
    fn the_bytes_of_version_1_do_not_change() {
        let bytes = encode(ObjectKind::Manifest, &"x".to_owned());
        let payload = [10, 1, b'x'];
        let mut wanted = b"FBAY\x02\x01\x00".to_vec();
        wanted.extend(crc32c::crc32c(&payload).to_le_bytes());
        wanted.extend([3, 0, 0, 0, 0, 0, 0, 0]);
        wanted.extend(payload);
        assert_eq!(bytes, wanted);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let (_, bytes) = framed();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let err = read(&damaged).expect_err("a flipped bit was not found");
            assert!(err.to_string().contains("jobs/x/head"), "{err}");
        }
    }

    #[test]
    fn every_truncation_and_trailing_bytes_are_found() {
        let (_, bytes) = framed();
        for length in 0..bytes.len() {
            let err = read(&bytes[..length]).expect_err("a truncation was not found");
            assert!(matches!(err, Error::NoHeader { .. } | Error::Length { .. }), "{length}: {err}");
        }
        let longer = [&bytes[..], b"x"].concat();
        assert!(matches!(read(&longer), Err(Error::Length { .. })));
    }

    #[test]
    fn foreign_other_and_newer_objects_are_named() {
        let (_, bytes) = framed();
        let err = read(b"<html>").unwrap_err();
        assert_eq!(
            err.to_string(),
            "object jobs/x/head is not one of Forebay's: it starts with \"<htm\", not \"FBAY\""
        );
        let err = decode::<String>(ObjectKind::Leader, "leader", &bytes).unwrap_err();
        assert_eq!(err.to_string(), "object leader is of kind 1, not Leader (5)");
        let mut newer = bytes;
        newer[5] = 2;
        let err = read(&newer).unwrap_err();
        assert_eq!(err.to_string(), "object jobs/x/head has format version 2, this build reads up to 1: upgrade it");
    }
}
