//! `forebayctl state register`.

use clap::{Args, ValueEnum};
use forebay_proto::{
    codec::CodecName,
    merge::MergeFunction,
    v1::{ErrorReason, RegisterStatesRequest, StateDescriptor, StateKind},
};

use crate::{arguments::StateName, connection::Connection, failure::Failure, job::state_json, output::Answer};

const CODECS: &str = "Codecs: bytes utf8 i64 u64 f64 bool json msgpack protobuf:MESSAGE
Functions: sum_i64 sum_f64 min_i64 min_f64 max_i64 max_f64 count bit_or bit_and bit_xor";

/// A state to register.
#[derive(Debug, Args)]
#[command(after_help = CODECS)]
pub struct Register {
    #[command(flatten)]
    state: StateName,
    /// What the state holds.
    #[arg(long)]
    kind: Kind,
    /// Codec of keys.
    #[arg(long, value_name = "CODEC", default_value = "utf8")]
    key_codec: String,
    /// Codec of namespaces.
    #[arg(long, value_name = "CODEC", default_value = "utf8")]
    namespace_codec: String,
    /// Codec of map keys; for maps [default: utf8].
    #[arg(long, value_name = "CODEC")]
    map_key_codec: Option<String>,
    /// Codec of values, elements or results [default: utf8, or the function's].
    #[arg(long, value_name = "CODEC")]
    value_codec: Option<String>,
    /// Merge function; for reducing states.
    #[arg(long, value_name = "NAME", required_if_eq("kind", "reducing"))]
    function: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Value,
    List,
    Map,
    Reducing,
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
        if self.kind != Kind::Map && self.map_key_codec.is_some() {
            return refuse("--map-key-codec is for --kind map".to_owned());
        }
        if self.kind != Kind::Reducing && self.function.is_some() {
            return refuse("--function is for --kind reducing".to_owned());
        }
        let function = self.function.unwrap_or_default();
        let map_key_codec = (self.kind == Kind::Map).then(|| self.map_key_codec.unwrap_or_else(|| "utf8".to_owned()));
        let map_key_codec = map_key_codec.unwrap_or_default();
        let value_codec = self.value_codec.unwrap_or_else(|| codec_of(&function).to_owned());
        for codec in [&self.key_codec, &self.namespace_codec, &map_key_codec, &value_codec] {
            if CodecName::parse(codec).is_none() {
                return refuse(format!("codec {codec:?} is unknown; `forebayctl state register --help` lists them"));
            }
        }
        let kind = match self.kind {
            Kind::Value => StateKind::Value,
            Kind::List => StateKind::List,
            Kind::Map => StateKind::Map,
            Kind::Reducing => StateKind::Reducing,
        };
        Ok(StateDescriptor {
            name: self.state.name,
            kind: kind.into(),
            key_codec: self.key_codec,
            namespace_codec: self.namespace_codec,
            map_key_codec,
            value_codec,
            function,
            ..StateDescriptor::default()
        })
    }
}

/// Returns the value codec that a function needs; text where it may have any, or is none that we know.
fn codec_of(function: &str) -> &'static str {
    MergeFunction::parse(function).and_then(MergeFunction::value_codec).unwrap_or("utf8")
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
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        for wrong in [
            &["reducing"][..],
            &["value", "--function", "sum_i64"],
            &["list", "--map-key-codec", "utf8"],
            &["value", "--value-codec", "int"],
            &["set"],
        ] {
            assert!(descriptor(wrong).is_err(), "{wrong:?}");
        }
    }
}
