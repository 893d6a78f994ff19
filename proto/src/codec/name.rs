//! The names of codecs, as descriptors carry them.

use std::fmt;

/// A codec by its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CodecName {
    /// `bytes`
    Bytes,
    /// `utf8`
    Utf8,
    /// `i64`
    I64,
    /// `u64`
    U64,
    /// `f64`
    F64,
    /// `bool`
    Bool,
    /// `json`
    Json,
    /// `msgpack`
    Msgpack,
    /// `protobuf:<message>`, with the message's full name.
    Protobuf(String),
}

impl CodecName {
    /// Finds a codec by its name; the empty name of an unset field is `bytes`.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "" | "bytes" => Self::Bytes,
            "utf8" => Self::Utf8,
            "i64" => Self::I64,
            "u64" => Self::U64,
            "f64" => Self::F64,
            "bool" => Self::Bool,
            "json" => Self::Json,
            "msgpack" => Self::Msgpack,
            _ => {
                let message = name.strip_prefix("protobuf:")?;
                let part = |part: &str| {
                    part.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
                        && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
                };
                message.split('.').all(part).then(|| Self::Protobuf(message.into()))?
            }
        })
    }
}

impl fmt::Display for CodecName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes => "bytes",
            Self::Utf8 => "utf8",
            Self::I64 => "i64",
            Self::U64 => "u64",
            Self::F64 => "f64",
            Self::Bool => "bool",
            Self::Json => "json",
            Self::Msgpack => "msgpack",
            Self::Protobuf(message) => return write!(f, "protobuf:{message}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_is_written() {
        for name in ["bytes", "utf8", "i64", "u64", "f64", "bool", "json", "msgpack", "protobuf:a.b_1.C"] {
            assert_eq!(CodecName::parse(name).unwrap().to_string(), name);
        }
        assert_eq!(CodecName::parse(""), Some(CodecName::Bytes));
        for name in ["I64", "int", "protobuf", "protobuf:", "protobuf:a..b", "protobuf:1a", "protobuf:a b", " i64"] {
            assert_eq!(CodecName::parse(name), None, "{name}");
        }
    }
}
