//! `forebayctl state register`: what of the kinds, codecs, functions and TTLs belongs together is decided here as
//! far as it can be said without asking the cluster.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use forebay_proto::{
    codec::CodecName,
    merge::MergeFunction,
    v1::{ErrorReason, RegisterStatesRequest, StateDescriptor, StateKind},
};

use super::{descriptor::state_json, ttl::TtlFlags};
use crate::{arguments::StateName, connection::Connection, failure::Failure, output::Answer};

/// The codec of keys, map keys and values where none is named.
const TEXT: &str = "utf8";

/// A state to register.
#[derive(Debug, Args)]
#[command(after_help = codecs_and_functions())]
pub struct Register {
    #[command(flatten)]
    state: StateName,
    /// What the state holds.
    #[arg(long)]
    kind: Kind,
    /// Codec of keys [default: utf8; of sorted sets: none].
    #[arg(long, value_name = "CODEC")]
    key_codec: Option<String>,
    /// Codec of namespaces [default: utf8; of sorted sets: none].
    #[arg(long, value_name = "CODEC")]
    namespace_codec: Option<String>,
    /// Codec of map keys [default: utf8], or of what min_by and max_by compare [default: i64].
    #[arg(long, visible_alias = "by-codec", value_name = "CODEC")]
    map_key_codec: Option<String>,
    /// Codec of values, elements or operands [default: utf8, or the function's].
    #[arg(long, value_name = "CODEC")]
    value_codec: Option<String>,
    /// Merge function; for reducing and aggregating states.
    #[arg(long, value_name = "NAME", required_if_eq_any([("kind", "reducing"), ("kind", "aggregating")]))]
    function: Option<String>,
    #[command(flatten)]
    ttl: TtlFlags,
    /// A file with the schema of the values, which is opaque to Forebay.
    #[arg(long, value_name = "FILE", requires = "schema_version")]
    schema: Option<PathBuf>,
    /// Version of the schema, counted by you.
    #[arg(long, value_name = "N")]
    schema_version: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Value,
    List,
    Map,
    Multimap,
    Reducing,
    Aggregating,
    SortedSet,
}

impl Register {
    /// Registers the state.
    pub async fn run(self, connection: &Connection) -> Result<Answer, Failure> {
        let (job, operator) = (self.state.job.clone(), self.state.operator.clone());
        let request = RegisterStatesRequest { job, operator, descriptors: vec![self.descriptor()?] };
        let answer = connection.call(async |mut coordinator| coordinator.register_states(request.clone()).await);
        let states = answer.await?.states;
        let name = states.iter().filter_map(|state| state.descriptor.as_ref()).map(|state| state.name.as_str()).next();
        let text = format!("registered: {}", name.unwrap_or_default());
        Ok(Answer::new(text, states.iter().map(state_json).next().unwrap_or_default()))
    }

    fn descriptor(self) -> Result<StateDescriptor, Failure> {
        let refuse = |message| Err(Failure::usage(ErrorReason::FieldInvalid, message));
        if !matches!(self.kind, Kind::Reducing | Kind::Aggregating) && self.function.is_some() {
            return refuse("--function is for --kind reducing and aggregating".to_owned());
        }
        let function = self.function.unwrap_or_default();
        let map_key_codec = match (self.kind, MergeFunction::parse(&function)) {
            (Kind::Map | Kind::Multimap, _) => TEXT,
            (_, Some(MergeFunction::MinBy | MergeFunction::MaxBy)) => "i64",
            _ if self.map_key_codec.is_some() => {
                return refuse("--map-key-codec is for --kind map and multimap, and for min_by and max_by".to_owned());
            }
            _ => "",
        };
        let key_codec = if self.kind == Kind::SortedSet { "" } else { TEXT };
        let or = |named: Option<String>, codec: &str| named.unwrap_or_else(|| codec.to_owned());
        let (key_codec, namespace_codec) = (or(self.key_codec, key_codec), or(self.namespace_codec, key_codec));
        let map_key_codec = or(self.map_key_codec, map_key_codec);
        let value_codec = or(self.value_codec, codec_of(&function));
        for codec in [&key_codec, &namespace_codec, &map_key_codec, &value_codec] {
            if CodecName::parse(codec).is_none() {
                return refuse(format!("codec {codec:?} is unknown; `forebayctl state register --help` lists them"));
            }
        }
        let kind = match self.kind {
            Kind::Value => StateKind::Value,
            Kind::List => StateKind::List,
            Kind::Map => StateKind::Map,
            Kind::Multimap => StateKind::Multimap,
            Kind::Reducing => StateKind::Reducing,
            Kind::Aggregating => StateKind::Aggregating,
            Kind::SortedSet => StateKind::SortedSet,
        };
        Ok(StateDescriptor {
            name: self.state.name,
            kind: kind.into(),
            key_codec,
            namespace_codec,
            map_key_codec,
            value_codec,
            function,
            ttl: self.ttl.config(None),
            schema: self.schema.as_deref().map(schema).transpose()?.unwrap_or_default().into(),
            schema_version: self.schema_version.unwrap_or_default(),
        })
    }
}

/// Returns the value codec that a function needs; text where it may have any, or is none that we know.
fn codec_of(function: &str) -> &'static str {
    MergeFunction::parse(function).and_then(MergeFunction::value_codec).unwrap_or(TEXT)
}

/// Reads a schema.
pub fn schema(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::Local(format!("cannot read {}: {error}", path.display())))
}

fn codecs_and_functions() -> String {
    let of = |kind| {
        let functions = MergeFunction::ALL.iter().filter(|function| function.kind() == kind);
        functions.map(|function| function.name()).collect::<Vec<_>>().join(" ")
    };
    let mut help = "Codecs: bytes utf8 i64 u64 f64 bool json msgpack protobuf:MESSAGE\n".to_owned();
    help += &format!("Functions of reducing states: {}\n", of(StateKind::Reducing));
    help + &format!("Functions of aggregating states: {} (10 stands for 1 to 1000)", of(StateKind::Aggregating))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        register: Register,
    }

    fn descriptor(rest: &[&str]) -> Result<StateDescriptor, String> {
        let line = Line::try_parse_from(["x", "j", "o", "s", "--kind"].iter().chain(rest));
        line.map_err(|error| error.to_string())?.register.descriptor().map_err(|failure| failure.to_string())
    }

    #[test]
    fn codecs_are_text_or_what_the_function_needs() {
        let map = descriptor(&["map"]).unwrap();
        assert_eq!(
            (map.key_codec.as_str(), map.map_key_codec.as_str(), map.value_codec.as_str()),
            ("utf8", "utf8", "utf8")
        );
        assert_eq!(descriptor(&["value"]).unwrap().map_key_codec, "");
        for (function, codec) in [("sum_i64", "i64"), ("max_f64", "f64"), ("bit_or", "u64"), ("count", "i64")] {
            assert_eq!(descriptor(&["reducing", "--function", function]).unwrap().value_codec, codec);
        }
        let by = descriptor(&["aggregating", "--function", "max_by"]).unwrap();
        assert_eq!((by.map_key_codec.as_str(), by.value_codec.as_str()), ("i64", "utf8"));
        let by = descriptor(&["aggregating", "--function", "min_by", "--by-codec", "f64"]).unwrap();
        assert_eq!((by.kind(), by.map_key_codec.as_str()), (StateKind::Aggregating, "f64"));
        let set = descriptor(&["sorted-set", "--value-codec", "i64"]).unwrap();
        assert_eq!((set.kind(), set.key_codec.as_str(), set.value_codec.as_str()), (StateKind::SortedSet, "", "i64"));
    }

    #[test]
    fn every_function_is_told_of() {
        let help = codecs_and_functions();
        assert!(MergeFunction::ALL.iter().all(|function| help.contains(&*function.name())), "{help}");
    }

    #[test]
    fn a_ttl_and_a_schema_version_may_be_named() {
        let dated = descriptor(&["multimap", "--ttl", "90s", "--schema-version", "2"]).unwrap();
        assert_eq!((dated.map_key_codec.as_str(), dated.schema_version), ("utf8", 2));
        assert_eq!(dated.ttl.and_then(|ttl| ttl.ttl).map(|ttl| ttl.seconds), Some(90));
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        for wrong in [
            &["reducing"][..],
            &["value", "--function", "sum_i64"],
            &["list", "--map-key-codec", "utf8"],
            &["value", "--value-codec", "int"],
            &["set"],
            &["aggregating"],
            &["aggregating", "--function", "avg", "--by-codec", "i64"],
            &["value", "--ttl-update", "write"],
            &["value", "--schema", "/nowhere"],
            &["value", "--schema", "/nowhere", "--schema-version", "1"],
        ] {
            assert!(descriptor(wrong).is_err(), "{wrong:?}");
        }
    }
}
