//! What people wrote, as the bytes that are stored.

use forebay_proto::{codec, reason::Refused, v1};
use v1::{ErrorReason as Reason, StateDescriptor};

use crate::grpc::state::scan::Wanted;

/// Reads what was written for a field; unset is `None`.
pub(super) fn read(codec: &str, written: Option<&v1::Written>, field: &str) -> Result<Option<Vec<u8>>, Refused> {
    let read = |written| codec::read(codec, written);
    written.map(read).transpose().map_err(|error| {
        let message = format!("{field}: {error}");
        Refused::new(Reason::FieldInvalid, message).field(field)
    })
}

/// The address with its bytes instead of what was written; the map key is not part of it.
pub(super) fn address(written: &v1::WrittenAddress, descriptor: &StateDescriptor) -> Result<v1::Address, Refused> {
    let raw = |bytes: Vec<u8>| v1::Value { form: Some(v1::value::Form::Raw(bytes.into())) };
    let key = read(&descriptor.key_codec, written.key.as_ref(), "address.key")?;
    let namespace = read(&descriptor.namespace_codec, written.namespace.as_ref(), "address.namespace")?;
    Ok(v1::Address {
        job: written.job.clone(),
        operator: written.operator.clone(),
        state: written.state.clone(),
        key: key.map(raw),
        namespace: namespace.map(raw),
        key_group: written.key_group,
    })
}

/// What is scanned.
pub(super) fn wanted(
    request: v1::ScanEntriesRequest,
    state: u32,
    descriptor: &StateDescriptor,
) -> Result<Wanted, Refused> {
    let (projection, committed) = (request.projection(), request.view() == v1::ReadView::Committed);
    let key_prefix = read(prefix_codec(&descriptor.key_codec), request.key_prefix.as_ref(), "key_prefix")?;
    Ok(Wanted {
        namespace: read(&descriptor.namespace_codec, request.namespace.as_ref(), "namespace")?,
        operator: request.operator,
        state,
        groups: (request.start, request.end),
        projection,
        key_prefix: key_prefix.unwrap_or_default(),
        committed,
        limit: request.limit,
        page_token: request.page_token,
    })
}

/// A prefix of JSON is no JSON: it is read as text.
fn prefix_codec(codec: &str) -> &str {
    if codec == "json" { "utf8" } else { codec }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> v1::Written {
        v1::Written { form: Some(v1::written::Form::Text(text.into())) }
    }

    #[test]
    fn what_is_written_is_read_by_the_codec_of_its_place() {
        let descriptor =
            StateDescriptor { key_codec: "i64".into(), namespace_codec: "utf8".into(), ..Default::default() };
        let written = v1::WrittenAddress { key: Some(text("-1")), namespace: Some(text("june")), ..Default::default() };
        let raw = |bytes: &[u8]| Some(v1::Value { form: Some(v1::value::Form::Raw(bytes.to_vec().into())) });
        let read = address(&written, &descriptor).unwrap();
        assert_eq!(read.key, raw(&[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]));
        assert_eq!(read.namespace, raw(b"june"));
        let wrong = v1::WrittenAddress { key: Some(text("one")), ..Default::default() };
        let refused = address(&wrong, &descriptor).unwrap_err();
        assert_eq!(refused.reason, Reason::FieldInvalid);
        assert!(refused.message.starts_with("address.key: ") && refused.message.contains("i64"), "{}", refused.message);
    }

    #[test]
    fn a_prefix_of_json_is_text() {
        assert_eq!((prefix_codec("json"), prefix_codec("u64")), ("utf8", "u64"));
    }
}
