//! Keys and values as text: read by the codec of the state, shown by it.
//!
//! Invariant: what is shown for bytes that their codec cannot show can be typed in again: `hex:…`.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use forebay_proto::{
    codec,
    v1::{ErrorReason, Item, Value, Written, value, written},
};
use serde_json::Value as Json;

use crate::failure::Failure;

const HEX: &str = "hex:";
const BASE64: &str = "base64:";
const TEXT: &str = "text:";

/// Returns the bytes that are stored for what was typed; `what` names it in errors.
pub fn read(what: &str, codec: &str, typed: &str) -> Result<Vec<u8>, Failure> {
    let wrong = |message: String| {
        let message = format!("{what} {typed:?}: {message}");
        Failure::usage(ErrorReason::FieldInvalid, message)
    };
    if let Some(encoded) = typed.strip_prefix(BASE64) {
        return BASE64_STANDARD.decode(encoded).map_err(|error| wrong(format!("not base64: {error}")));
    }
    let form = match typed.strip_prefix(HEX) {
        Some(digits) => written::Form::Hex(digits.to_owned()),
        None => written::Form::Text(typed.strip_prefix(TEXT).unwrap_or(typed).to_owned()),
    };
    codec::read(codec, &Written { form: Some(form) }).map_err(|error| wrong(error.to_string()))
}

/// Returns typed text as it goes over the wire: the bytes that are stored.
pub fn raw(what: &str, codec: &str, typed: &str) -> Result<Value, Failure> {
    let bytes = read(what, codec, typed)?;
    Ok(Value { form: Some(value::Form::Raw(bytes.into())) })
}

/// A page token: where a read goes on. Opaque, but for being typed and shown as hex.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Token(pub Vec<u8>);

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Reads a page token.
pub fn token(typed: &str) -> Result<Token, String> {
    let written = Written { form: Some(written::Form::Hex(typed.to_owned())) };
    let bytes = codec::read("bytes", &written).map_err(|error| error.to_string())?;
    if bytes.is_empty() { Err("the token is empty".to_owned()) } else { Ok(Token(bytes)) }
}

/// Returns bytes as an item, readable by a codec.
pub fn item(codec: &str, raw: &[u8]) -> Item {
    Item { readable: codec::render(codec, raw), raw: raw.to_vec().into(), ..Item::default() }
}

/// Shows a stored value in a table.
pub fn shown(item: Option<&Item>) -> String {
    match json(item) {
        Json::Null if item.is_none() => String::new(),
        Json::String(text) => text,
        json => json.to_string(),
    }
}

/// Shows a stored value in JSON: by its codec, or as `hex:…`.
pub fn json(item: Option<&Item>) -> Json {
    let Some(item) = item else { return Json::Null };
    match item.readable.as_ref().and_then(|value| value.form.as_ref()) {
        Some(value::Form::Utf8(text)) => text.as_str().into(),
        Some(value::Form::I64(number)) => (*number).into(),
        Some(value::Form::U64(number)) => (*number).into(),
        Some(value::Form::Boolean(truth)) => (*truth).into(),
        // JSON has no infinity and no NaN.
        Some(value::Form::F64(number)) if number.is_finite() => (*number).into(),
        Some(value::Form::F64(number)) => format!("{number:?}").into(),
        Some(value::Form::Json(text)) => serde_json::from_str(text).unwrap_or_else(|_| text.as_str().into()),
        Some(value::Form::Raw(_)) | None if item.raw.is_empty() => "".into(),
        Some(value::Form::Raw(_)) | None => hex(&item.raw).into(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(HEX.to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(codec: &str, typed: &str) -> Item {
        super::item(codec, &read("value", codec, typed).unwrap())
    }

    #[test]
    fn what_is_shown_can_be_typed_in_again() {
        for (codec, typed) in
            [("utf8", "grün"), ("i64", "-7"), ("f64", "0.5"), ("f64", "inf"), ("bool", "true"), ("bytes", "hex:00ff")]
        {
            let item = item(codec, typed);
            assert_eq!(shown(Some(&item)), typed);
            assert_eq!(read("value", codec, &shown(Some(&item))).unwrap(), item.raw);
        }
    }

    #[test]
    fn json_values_stay_json() {
        assert_eq!(json(Some(&item("json", "{\"a\": [1]}"))), serde_json::json!({"a": [1]}));
        assert_eq!(json(Some(&item("i64", "9007199254740993"))).to_string(), "9007199254740993");
        assert_eq!((json(None), json(Some(&Item::default()))), (Json::Null, "".into()));
        assert_eq!((shown(None).as_str(), shown(Some(&item("json", "null"))).as_str()), ("", "null"));
    }

    #[test]
    fn a_token_is_typed_as_it_is_shown() {
        let shown = Token(vec![0, 255]).to_string();
        assert_eq!((shown.as_str(), token(&shown)), ("00ff", Ok(Token(vec![0, 255]))));
        assert!(token("").is_err() && token("0").is_err() && token("xy").is_err());
    }

    #[test]
    fn a_prefix_says_how_to_read() {
        let bytes = |typed| read("key", "i64", typed).unwrap();
        assert_eq!((bytes("hex:0102"), bytes("base64:AQI=")), (vec![1, 2], vec![1, 2]));
        assert_eq!(read("key", "utf8", "text:hex:01").unwrap(), b"hex:01");
    }

    #[test]
    fn text_that_is_not_of_the_codec_is_told_with_its_codec() {
        let message = read("value", "i64", "many").unwrap_err().to_string();
        assert!(message.starts_with("value \"many\": ") && message.contains("i64"), "{message}");
        for typed in ["hex:0", "base64:?"] {
            assert!(read("value", "utf8", typed).is_err(), "{typed}");
        }
    }
}
