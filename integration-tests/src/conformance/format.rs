//! The files of scenarios, as `integration-tests/conformance/README.md` specifies them.

use std::{fs, path::Path};

use forebay_proto::v1::{self, StateKind};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// A file: scenarios of one topic.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// What the scenarios are about.
    pub about: String,
    /// The scenarios.
    pub scenarios: Vec<Scenario>,
}

/// A shard's states and what happens to it, step by step.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// A sentence that holds.
    pub name: String,
    /// The states of the operator.
    pub states: Vec<Descriptor>,
    /// What happens.
    pub steps: Vec<Step>,
}

/// A state; codecs that are not named are `utf8`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Descriptor {
    /// Its name.
    pub name: String,
    /// Its kind in lower case.
    pub kind: String,
    /// Codec of keys.
    #[serde(default = "utf8")]
    pub key: String,
    /// Codec of namespaces.
    #[serde(default = "utf8")]
    pub namespace: String,
    /// Codec of map keys, elements of sorted sets, and what `min_by` compares.
    #[serde(default = "utf8")]
    pub map_key: String,
    /// Codec of values.
    #[serde(default = "utf8")]
    pub value: String,
    /// Merge function.
    #[serde(default)]
    pub function: String,
    /// Time to live.
    pub ttl: Option<Ttl>,
}

/// Time to live of a state.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ttl {
    /// How long.
    pub ms: i64,
    /// `processing`, `event` or `writer`.
    #[serde(default)]
    pub clock: String,
    /// `on_create_and_write` or `on_read_and_write`.
    #[serde(default)]
    pub update: String,
    /// `never_return_expired` or `return_expired_if_not_cleaned_up`.
    #[serde(default)]
    pub visibility: String,
    /// True: expired rows are cleaned up by nothing.
    #[serde(default)]
    pub keep_expired: bool,
}

/// One step: exactly one of `write`, `read`, `duplicate`, `describe` and what only the inside can do.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Step {
    /// The next write batch.
    pub write: Option<Vec<Op>>,
    /// A read batch.
    pub read: Option<Vec<Op>>,
    /// The last write batch again: answered as a duplicate, with the same verdicts.
    pub duplicate: bool,
    /// Inside: a state gets another TTL.
    pub describe: Option<Descriptor>,
    /// Inside: the processing clock goes on.
    pub advance_ms: Option<i64>,
    /// Inside: everything is compacted.
    pub compact: bool,
    /// Inside: the shard is restored from a snapshot of this moment.
    pub restore: bool,
    /// Inside: the shard is closed and opened again.
    pub reopen: bool,
    /// Inside: what has expired is cleaned up.
    pub clean_up: bool,
    /// Inside: rows that a state has, expired ones too.
    pub rows: Option<Rows>,
    /// The client's time of a batch.
    pub now_ms: i64,
    /// A watermark behind a write batch.
    pub watermark_ms: Option<i64>,
    /// The batch is refused for this reason, and changes nothing.
    pub refused: Option<String>,
    /// Index of the operation that is to blame.
    pub refused_op: Option<usize>,
}

/// An expected number of rows.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rows {
    /// The state.
    pub state: String,
    /// The number.
    pub count: usize,
}

/// An operation and, in a read, its answer.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Op {
    /// `OpKind` in lower case.
    pub op: String,
    /// The state; the first one of the scenario if it is not named.
    pub state: Option<String>,
    /// The key; `k` if it is not named and the state has keys.
    pub key: Option<Value>,
    /// The namespace.
    pub namespace: Option<Value>,
    /// The map key or element.
    pub map_key: Option<Value>,
    /// The value, element or operand.
    pub value: Option<Value>,
    /// Several elements.
    pub values: Option<Vec<Value>>,
    /// Namespaces that are merged.
    pub sources: Option<Vec<Value>>,
    /// What `min_by` and `max_by` compare.
    pub by: Option<Value>,
    /// What a compare-and-set by value expects.
    pub expected: Option<Value>,
    /// The version that a compare-and-set expects: 0, or a name given by `remember`.
    pub version: Option<Value>,
    /// First map key or element.
    pub from: Option<Value>,
    /// End of map keys or elements, exclusive.
    pub to: Option<Value>,
    /// Deadline of its own.
    pub expires_at_ms: Option<i64>,
    /// Most items.
    pub limit: u32,
    /// The key group.
    pub key_group: Option<u16>,
    /// Gives the version that is read a name.
    pub remember: Option<String>,
    /// Expected: a compare-and-set swaps.
    pub swapped: Option<bool>,
    /// Expected: the answer; null is absent.
    #[serde(deserialize_with = "present")]
    pub expect: Option<Value>,
    /// Expected: the answers of all pages of `limit`, one after the other.
    pub expect_pages: Option<Vec<Value>>,
    /// Expected: there is more behind the answer.
    pub more: Option<bool>,
    /// Expected: the deadline; null is none.
    #[serde(deserialize_with = "present")]
    pub expect_expires_at_ms: Option<Value>,
}

fn utf8() -> String {
    "utf8".into()
}

/// Keeps null apart from a field that is not there.
fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

impl Descriptor {
    /// The descriptor on the wire.
    ///
    /// # Panics
    /// If a word in it is not known.
    pub fn wire(&self) -> v1::StateDescriptor {
        let kind = format!("STATE_KIND_{}", self.kind.to_uppercase());
        v1::StateDescriptor {
            name: self.name.clone(),
            kind: StateKind::from_str_name(&kind).unwrap_or_else(|| panic!("{kind}")).into(),
            key_codec: self.key.clone(),
            namespace_codec: self.namespace.clone(),
            map_key_codec: self.map_key.clone(),
            value_codec: self.value.clone(),
            function: self.function.clone(),
            ttl: self.ttl.as_ref().map(Ttl::wire),
            ..Default::default()
        }
    }
}

impl Ttl {
    fn wire(&self) -> v1::TtlConfig {
        let name = |prefix: &str, word: &str| match word {
            "" => format!("{prefix}_UNSPECIFIED"),
            word => format!("{prefix}_{}", word.to_uppercase()),
        };
        let clock = v1::TtlClock::from_str_name(&name("TTL_CLOCK", &self.clock)).expect("a clock");
        let update = v1::TtlUpdate::from_str_name(&name("TTL_UPDATE", &self.update)).expect("an update");
        let seen = name("TTL_VISIBILITY", &self.visibility);
        let visibility = v1::TtlVisibility::from_str_name(&seen).expect("a visibility");
        let never = v1::TtlCleanup { incremental_rows: Some(0), compaction: Some(false), ..Default::default() };
        let nanos = i32::try_from(self.ms % 1000 * 1_000_000).expect("below a second");
        v1::TtlConfig {
            ttl: Some(prost_types::Duration { seconds: self.ms / 1000, nanos }),
            clock: clock.into(),
            update: update.into(),
            visibility: visibility.into(),
            cleanup: self.keep_expired.then_some(never),
        }
    }
}

impl Step {
    /// True if only the inside of a server can do it.
    pub fn is_inside(&self) -> bool {
        let does = self.compact || self.restore || self.reopen || self.clean_up;
        does || self.describe.is_some() || self.advance_ms.is_some() || self.rows.is_some()
    }
}

/// Reads all files, by name.
///
/// # Panics
/// If one is not a file of scenarios.
pub fn all() -> Vec<(String, File)> {
    let folder = crate::folder().join("conformance");
    let entries = fs::read_dir(&folder).expect("the folder is there").map(|entry| entry.expect("it is listed").path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    paths.sort();
    let read = |path: &Path| {
        let text = fs::read_to_string(path).expect("it can be read");
        let file = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), file)
    };
    paths.iter().map(|path| read(path)).collect()
}
