//! A stored row as people read it.

use forebay_proto::{codec, merge::ResultCodec, v1};
use v1::{Notation, ScanProjection as Projection, StateKind};

use super::SHOWN_BYTES_MAX;
use crate::{
    grpc::state::{
        items::elements,
        scan::{Found, Show},
    },
    shard::ops::unescape,
};

/// Shows rows of a state, those that have expired and are not cleaned up yet among them.
pub(super) struct Shown {
    pub(super) notation: Notation,
    pub(super) descriptor: v1::StateDescriptor,
}

impl Show for Shown {
    type Row = v1::ShownEntry;

    const EXPIRED: bool = true;

    fn show(&self, projection: Projection, found: &Found<'_>) -> Option<v1::ShownEntry> {
        let descriptor = &self.descriptor;
        let mut entry = v1::ShownEntry { key_group: found.key.group.into(), ..Default::default() };
        if descriptor.kind() != StateKind::SortedSet {
            entry.key = Some(self.bytes(&descriptor.key_codec, found.key.key));
        }
        if projection == Projection::Keys {
            return Some(entry);
        }
        if descriptor.kind() != StateKind::SortedSet {
            entry.namespace = Some(self.bytes(&descriptor.namespace_codec, found.key.namespace));
        }
        if projection == Projection::KeysAndNamespaces {
            return Some(entry);
        }
        match descriptor.kind() {
            StateKind::SortedSet => entry.map_key = Some(self.bytes(&descriptor.value_codec, found.key.suffix)),
            StateKind::Map => entry.map_key = Some(self.bytes(&descriptor.map_key_codec, found.key.suffix)),
            StateKind::Multimap => {
                let (map_key, _) = unescape(found.key.suffix)?;
                entry.map_key = Some(self.bytes(&descriptor.map_key_codec, &map_key));
            }
            _ => {}
        }
        if descriptor.kind() != StateKind::SortedSet {
            entry.value = Some(self.value(found)?);
        }
        entry.version = found.header.version.unwrap_or(0);
        entry.expires_at_ms = found.header.deadline_ms;
        // A row that was written before the first watermark does not tell when.
        entry.written_ms = Some(found.header.write_ms).filter(|ms| *ms != i64::MIN);
        entry.expired = found.frozen.state.ttl().expired(&found.frozen.clocks, found.header);
        Some(entry)
    }
}

impl Shown {
    fn bytes(&self, codec: &str, raw: &[u8]) -> v1::Shown {
        codec::shown(codec, raw, self.notation, SHOWN_BYTES_MAX)
    }

    /// The value; of states with a function its result.
    fn value(&self, found: &Found<'_>) -> Option<v1::Shown> {
        let codec = &self.descriptor.value_codec;
        let Some(function) = found.frozen.state.merge() else { return Some(self.bytes(codec, found.payload)) };
        let result = function.result(found.payload)?;
        match function.result_codec(codec) {
            ResultCodec::One(codec) => Some(self.bytes(codec, &result)),
            ResultCodec::List(_) if self.notation == Notation::Hex => Some(self.bytes("bytes", &result)),
            several @ ResultCodec::List(codec) => {
                let bytes = result.len() as u64;
                let json = |raw: &[u8]| codec::shown(codec, raw, Notation::Json, SHOWN_BYTES_MAX).text;
                let shown: Vec<_> = elements(several, result.into()).iter().map(|raw| json(raw)).collect();
                // A list is JSON whatever its elements are, and so is each of them.
                let text = format!("[{}]", shown.join(","));
                let end = text.floor_char_boundary(SHOWN_BYTES_MAX);
                let truncated = end < text.len();
                Some(v1::Shown { text: text[..end].to_owned(), notation: Notation::Json.into(), bytes, truncated })
            }
        }
    }
}
