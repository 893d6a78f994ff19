//! Stored bytes as people read and write them.

use super::{Bool, F64, I64, U64, Utf8};
use super::{Codec as _, CodecName, Error};
use crate::v1::{Notation, Shown, Value, Written, value::Form, written};

/// Returns the readable form of stored bytes; `None` where the codec has none, or they are not of the codec.
pub fn render(codec: &str, raw: &[u8]) -> Option<Value> {
    let form = match CodecName::parse(codec)? {
        CodecName::Utf8 => Form::Utf8(Utf8::decode(raw).ok()?),
        CodecName::I64 => Form::I64(I64::decode(raw).ok()?),
        CodecName::U64 => Form::U64(U64::decode(raw).ok()?),
        CodecName::F64 => Form::F64(F64::decode(raw).ok()?),
        CodecName::Bool => Form::Boolean(Bool::decode(raw).ok()?),
        CodecName::Json => Form::Json(json_text(raw)?.to_owned()),
        CodecName::Bytes | CodecName::Msgpack | CodecName::Protobuf(_) => return None,
    };
    Some(Value { form: Some(form) })
}

/// Returns the bytes that are stored for what somebody wrote, whatever the state's codec; unset is empty.
pub fn parse(value: Value) -> Vec<u8> {
    let number = |bytes: Result<Vec<u8>, Error>| bytes.unwrap_or_default();
    match value.form {
        None => Vec::new(),
        Some(Form::Raw(raw)) => raw.into(),
        Some(Form::Utf8(text) | Form::Json(text)) => text.into_bytes(),
        // Numbers and truth values can always be written.
        Some(Form::I64(value)) => number(I64::to_bytes(&value)),
        Some(Form::U64(value)) => number(U64::to_bytes(&value)),
        Some(Form::F64(value)) => number(F64::to_bytes(&value)),
        Some(Form::Boolean(value)) => number(Bool::to_bytes(&value)),
    }
}

/// Returns the bytes that are stored for what somebody wrote, if it is of the state's codec.
///
/// Keeps a number written as text out of a state of numbers. Raw bytes pass as they are.
pub fn parse_as(codec: &str, value: Value) -> Result<Vec<u8>, Error> {
    let wrong = |got| Err(Error::Form { codec: codec.to_owned(), got });
    let name = CodecName::parse(codec);
    match (&value.form, name) {
        (None | Some(Form::Raw(_)), _) => {}
        (Some(Form::Utf8(_)), Some(CodecName::Utf8 | CodecName::Bytes)) => {}
        (Some(Form::I64(_)), Some(CodecName::I64)) => {}
        (Some(Form::U64(_)), Some(CodecName::U64)) => {}
        (Some(Form::F64(_)), Some(CodecName::F64)) => {}
        (Some(Form::Boolean(_)), Some(CodecName::Bool)) => {}
        (Some(Form::Json(text)), Some(CodecName::Json)) => check_json(text)?,
        (Some(Form::Utf8(_)), _) => return wrong("utf8"),
        (Some(Form::I64(_)), _) => return wrong("i64"),
        (Some(Form::U64(_)), _) => return wrong("u64"),
        (Some(Form::F64(_)), _) => return wrong("f64"),
        (Some(Form::Boolean(_)), _) => return wrong("boolean"),
        (Some(Form::Json(_)), _) => return wrong("json"),
    }
    Ok(parse(value))
}

/// Returns the bytes that are stored for what somebody typed; text is read by the state's codec.
pub fn read(codec: &str, written: &Written) -> Result<Vec<u8>, Error> {
    match &written.form {
        None => Ok(Vec::new()),
        Some(written::Form::Hex(digits)) => unhex(digits).ok_or(Error::Hex),
        Some(written::Form::Json(text)) => check_json(text).map(|()| text.clone().into_bytes()),
        Some(written::Form::Text(text)) => read_text(codec, text),
    }
}

/// Shows stored bytes; of long ones only the first so many.
pub fn shown(codec: &str, raw: &[u8], notation: Notation, bytes_max: usize) -> Shown {
    let (text, notation) = match notation {
        Notation::Unspecified => {
            by_codec(codec, raw).unwrap_or_else(|| (hex(&raw[..raw.len().min(bytes_max)]), Notation::Hex))
        }
        Notation::Text => (as_text(codec, raw), Notation::Text),
        Notation::Json => (as_json(codec, raw), Notation::Json),
        Notation::Hex => (hex(&raw[..raw.len().min(bytes_max)]), Notation::Hex),
    };
    // Hex was cut before, by bytes and not by digits.
    let chars_max = if notation == Notation::Hex { text.len() } else { bytes_max };
    let end = text.floor_char_boundary(chars_max);
    let truncated = end < text.len() || (notation == Notation::Hex && raw.len() > bytes_max);
    Shown { text: text[..end].to_owned(), notation: notation.into(), bytes: raw.len() as u64, truncated }
}

fn by_codec(codec: &str, raw: &[u8]) -> Option<(String, Notation)> {
    match render(codec, raw)?.form? {
        Form::Json(text) => Some((text, Notation::Json)),
        form => Some((plain(&form), Notation::Text)),
    }
}

fn as_text(codec: &str, raw: &[u8]) -> String {
    let form = render(codec, raw).and_then(|value| value.form);
    form.map_or_else(|| String::from_utf8_lossy(raw).into_owned(), |form| plain(&form))
}

fn as_json(codec: &str, raw: &[u8]) -> String {
    match render(codec, raw).and_then(|value| value.form) {
        Some(Form::Json(text)) => text,
        Some(Form::F64(value)) if !value.is_finite() => quoted(&plain(&Form::F64(value))),
        Some(Form::Utf8(text)) => quoted(&text),
        Some(form) => plain(&form),
        None => json_text(raw).map_or_else(|| quoted(&hex(raw)), str::to_owned),
    }
}

fn plain(form: &Form) -> String {
    match form {
        Form::Raw(raw) => hex(raw),
        Form::Utf8(text) | Form::Json(text) => text.clone(),
        Form::I64(value) => value.to_string(),
        Form::U64(value) => value.to_string(),
        Form::F64(value) => format!("{value:?}"),
        Form::Boolean(value) => value.to_string(),
    }
}

fn read_text(codec: &str, text: &str) -> Result<Vec<u8>, Error> {
    let wrong = |expected| Error::Text { codec: codec.to_owned(), expected };
    match CodecName::parse(codec) {
        Some(CodecName::Utf8 | CodecName::Bytes) => Ok(text.as_bytes().to_vec()),
        Some(CodecName::I64) => I64::to_bytes(&text.parse().map_err(|_| wrong("a whole number of 64 bits"))?),
        Some(CodecName::U64) => U64::to_bytes(&text.parse().map_err(|_| wrong("a whole number from 0, of 64 bits"))?),
        Some(CodecName::F64) => F64::to_bytes(&text.parse().map_err(|_| wrong("a number, inf or NaN"))?),
        Some(CodecName::Bool) => Bool::to_bytes(&text.parse().map_err(|_| wrong("true or false"))?),
        Some(CodecName::Json) => check_json(text).map(|()| text.as_bytes().to_vec()),
        Some(CodecName::Msgpack | CodecName::Protobuf(_)) | None => Err(wrong("hex")),
    }
}

fn json_text(raw: &[u8]) -> Option<&str> {
    let text = str::from_utf8(raw).ok()?;
    check_json(text).ok().map(|()| text)
}

fn check_json(text: &str) -> Result<(), Error> {
    let checked: Result<serde::de::IgnoredAny, _> = serde_json::from_str(text);
    checked
        .map(drop)
        .map_err(|error| Error::Json(format!("line {} column {} is not JSON", error.line(), error.column())))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let (pairs, []) = digits.as_bytes().as_chunks::<2>() else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(form: Form) -> Value {
        Value { form: Some(form) }
    }

    fn text(codec: &str, text: &str) -> Result<Vec<u8>, Error> {
        read(codec, &Written { form: Some(written::Form::Text(text.into())) })
    }

    #[test]
    fn what_is_rendered_is_parsed_to_the_same_bytes() {
        for (codec, form) in [
            ("utf8", Form::Utf8("grün".into())),
            ("i64", Form::I64(-1)),
            ("u64", Form::U64(u64::MAX)),
            ("f64", Form::F64(-0.5)),
            ("bool", Form::Boolean(true)),
            ("json", Form::Json("{\"b\": 1, \"a\":[]}".into())),
        ] {
            let raw = parse_as(codec, value(form.clone())).unwrap();
            assert_eq!(render(codec, &raw), Some(value(form)));
        }
        assert_eq!(parse(value(Form::Raw(vec![0, 255].into()))), [0, 255]);
        assert!(parse(Value::default()).is_empty());
    }

    #[test]
    fn bytes_that_are_not_of_the_codec_have_no_readable_form() {
        for (codec, raw) in
            [("utf8", &b"\xff"[..]), ("i64", b"1"), ("bool", b"\x02"), ("json", b"{"), ("bytes", b"a"), ("x", b"")]
        {
            assert_eq!(render(codec, raw), None, "{codec}");
        }
    }

    #[test]
    fn a_value_of_another_type_is_refused() {
        let error = parse_as("i64", value(Form::Utf8("5".into()))).unwrap_err().to_string();
        assert_eq!(error, "got utf8, the state's codec is i64 (write it as raw to store bytes as they are)");
        assert!(parse_as("json", value(Form::Json("{".into()))).is_err());
        assert_eq!(parse_as("i64", value(Form::Raw("5".into()))), Ok(b"5".to_vec()));
    }

    #[test]
    fn typed_text_is_read_by_the_codec() {
        assert_eq!(text("i64", "-1"), I64::to_bytes(&-1));
        assert_eq!(text("f64", "NaN"), F64::to_bytes(&f64::NAN));
        assert_eq!((text("bool", "true"), text("utf8", "5")), (Ok(vec![1]), Ok(b"5".to_vec())));
        for (codec, wrong) in [("i64", "1.5"), ("u64", "-1"), ("bool", "1"), ("json", "{"), ("msgpack", "x")] {
            assert!(text(codec, wrong).is_err(), "{codec}");
        }
        let hex = |digits: &str| read("i64", &Written { form: Some(written::Form::Hex(digits.into())) });
        assert_eq!(
            (hex("00fF"), hex("0"), hex("0g"), hex("+1")),
            (Ok(vec![0, 255]), Err(Error::Hex), Err(Error::Hex), Err(Error::Hex))
        );
    }

    #[test]
    fn bytes_are_shown_as_asked() {
        let show = |codec, raw: &[u8], notation, max| {
            let shown = shown(codec, raw, notation, max);
            (shown.text.clone(), shown.notation(), shown.truncated)
        };
        let one = I64::to_bytes(&1).unwrap();
        assert_eq!(show("i64", &one, Notation::Unspecified, 99), ("1".into(), Notation::Text, false));
        assert_eq!(show("i64", &one, Notation::Hex, 2), ("8000".into(), Notation::Hex, true));
        assert_eq!(show("bytes", b"\0\x01", Notation::Unspecified, 99), ("0001".into(), Notation::Hex, false));
        assert_eq!(show("utf8", "a\"ä".as_bytes(), Notation::Json, 99), ("\"a\\\"ä\"".into(), Notation::Json, false));
        assert_eq!(show("utf8", "aä".as_bytes(), Notation::Text, 2), ("a".into(), Notation::Text, true));
        let inf = F64::to_bytes(&f64::INFINITY).unwrap();
        assert_eq!(show("f64", &inf, Notation::Json, 99), ("\"inf\"".into(), Notation::Json, false));
        assert_eq!(show("bytes", b"{}", Notation::Json, 99), ("{}".into(), Notation::Json, false));
    }
}
