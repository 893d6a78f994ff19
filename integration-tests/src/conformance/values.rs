//! JSON values as the bytes that a codec makes of them, and back.

use forebay_proto::codec::{Bool, Codec as _, F64, I64, U64};
use serde_json::Value;

/// The bytes of a value. `"hex:…"` is bytes whatever the codec.
///
/// # Panics
/// If the value is none of the codec.
pub(super) fn encode(codec: &str, value: &Value) -> Vec<u8> {
    if let Some(digits) = value.as_str().and_then(|text| text.strip_prefix("hex:")) {
        return unhex(digits).unwrap_or_else(|| panic!("{value} is no hex"));
    }
    try_encode(codec, value).unwrap_or_else(|| panic!("{value} is no {codec}"))
}

/// The value of bytes, as a file would say it.
pub(super) fn decode(codec: &str, bytes: &[u8]) -> Value {
    let float = |value: f64| match value {
        value if value.is_nan() => "NaN".into(),
        value if value.is_infinite() => if value > 0.0 { "inf" } else { "-inf" }.into(),
        value if value == 0.0 && value.is_sign_negative() => "-0".into(),
        value => value.into(),
    };
    let value = match codec {
        "i64" => I64::decode(bytes).ok().map(Value::from),
        "u64" => U64::decode(bytes).ok().map(Value::from),
        "f64" => F64::decode(bytes).ok().map(float),
        "bool" => Bool::decode(bytes).ok().map(Value::from),
        _ => std::str::from_utf8(bytes).ok().filter(|text| !text.contains(char::is_control)).map(Value::from),
    };
    value.unwrap_or_else(|| hex(bytes).into())
}

/// True if bytes are what is expected; a file may say them in several ways.
pub(super) fn same(codec: &str, bytes: &[u8], expected: &Value) -> bool {
    encode(codec, expected) == bytes
}

fn try_encode(codec: &str, value: &Value) -> Option<Vec<u8>> {
    let float = || match value.as_str() {
        Some("NaN") => Some(f64::NAN),
        Some("inf") => Some(f64::INFINITY),
        Some("-inf") => Some(f64::NEG_INFINITY),
        Some("-0") => Some(-0.0),
        _ => value.as_f64(),
    };
    match codec {
        "i64" => I64::to_bytes(&value.as_i64()?).ok(),
        "u64" => U64::to_bytes(&value.as_u64()?).ok(),
        "f64" => F64::to_bytes(&float()?).ok(),
        "bool" => Bool::to_bytes(&value.as_bool()?).ok(),
        _ => Some(value.as_str()?.as_bytes().to_vec()),
    }
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let pair = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    (0..digits.len()).step_by(2).map(pair).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("hex:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}
