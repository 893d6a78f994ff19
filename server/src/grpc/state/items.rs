//! Rows of a scan as `StateService` answers them: bytes, and beside them the readable form.

use bytes::Bytes;
use forebay_proto::{codec, merge::ResultCodec, packed_list, v1};
use v1::{ScanProjection as Projection, StateKind};

use super::scan::{Found, Show};
use crate::shard::ops::unescape;

/// Shows rows of a state.
pub(in crate::grpc) struct Items {
    pub(in crate::grpc) descriptor: v1::StateDescriptor,
}

impl Show for Items {
    type Row = v1::ScanRow;

    const EXPIRED: bool = false;

    fn show(&self, projection: Projection, found: &Found<'_>) -> Option<v1::ScanRow> {
        let Found { frozen, key: parsed, header, payload } = *found;
        let descriptor = &self.descriptor;
        let mut row = v1::ScanRow { key_group: parsed.group.into(), ..Default::default() };
        if descriptor.kind() != StateKind::SortedSet {
            row.key = Some(item(&descriptor.key_codec, parsed.key));
        }
        if projection == Projection::Keys {
            return Some(row);
        }
        row.namespace = Some(item(&descriptor.namespace_codec, parsed.namespace));
        if projection == Projection::KeysAndNamespaces {
            return Some(row);
        }
        let codec = &descriptor.value_codec;
        let value = match descriptor.kind() {
            StateKind::Map => {
                row.map_key = Some(item(&descriptor.map_key_codec, parsed.suffix));
                item(codec, payload)
            }
            StateKind::Multimap => {
                let (map_key, _) = unescape(parsed.suffix)?;
                row.map_key = Some(item(&descriptor.map_key_codec, &map_key));
                item(codec, payload)
            }
            StateKind::SortedSet => item(codec, parsed.suffix),
            StateKind::Aggregating => {
                let function = frozen.state.merge()?;
                let result = function.result(payload)?;
                match function.result_codec(codec) {
                    ResultCodec::One(codec) => item(codec, &result),
                    ResultCodec::List(_) => item("bytes", &result),
                }
            }
            _ => item(codec, payload),
        };
        let version = header.version.unwrap_or(0);
        row.value = Some(v1::Item { version, expires_at_ms: header.deadline_ms, ..value });
        Some(row)
    }
}

fn item(codec: &str, raw: &[u8]) -> v1::Item {
    v1::Item { raw: Bytes::copy_from_slice(raw), readable: codec::render(codec, raw), ..Default::default() }
}

/// The elements of a result that is a packed list; itself alone if it is none.
pub(in crate::grpc) fn elements(codec: ResultCodec<'_>, result: Bytes) -> Vec<Bytes> {
    match codec {
        ResultCodec::List(_) if packed_list::validate(&result).is_ok() => {
            packed_list::iter(&result).map(|element| result.slice_ref(element)).collect()
        }
        _ => vec![result],
    }
}
