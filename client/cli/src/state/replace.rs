//! `forebayctl state replace`: another TTL or schema, of the version that one has seen.

use std::path::PathBuf;

use clap::Args;
use forebay_proto::v1::{ErrorReason, ReplaceDescriptorRequest, StateDescriptor};

use super::{descriptor::state_json, place, register::schema, ttl::TtlFlags};
use crate::{arguments::StateName, connection::Connection, failure::Failure, output::Answer};

/// What to replace.
#[derive(Debug, Args)]
pub struct Replace {
    #[command(flatten)]
    state: StateName,
    /// The version that is replaced, as `state list` shows it; refused if it is another one by now.
    #[arg(long, value_name = "N", required = true)]
    version: u64,
    #[command(flatten)]
    ttl: TtlFlags,
    /// Entries live for ever; those that have a deadline keep it.
    #[arg(long, conflicts_with = "ttl")]
    no_ttl: bool,
    /// A file with the new schema, which is opaque to Forebay.
    #[arg(long, value_name = "FILE", requires = "schema_version")]
    schema: Option<PathBuf>,
    /// Version of the schema, counted by you.
    #[arg(long, value_name = "N")]
    schema_version: Option<u32>,
}

impl Replace {
    /// Replaces. Tried again after a lost answer it is refused, since the version is another one: nothing is
    /// done twice.
    pub async fn run(self, connection: &Connection) -> Result<Answer, Failure> {
        let registered = place::registered(connection, &self.state).await?.descriptor.unwrap_or_default();
        let request = ReplaceDescriptorRequest {
            job: self.state.job.clone(),
            operator: self.state.operator.clone(),
            descriptor: Some(self.descriptor(registered)?),
            expected_version: self.version,
        };
        let answer = connection.call(async |mut coordinator| coordinator.replace_descriptor(request.clone()).await);
        let state = answer.await?.state.unwrap_or_default();
        let text = format!("replaced: {} has version {}", self.state.name, state.version);
        Ok(Answer::new(text, state_json(&state)))
    }

    fn descriptor(&self, mut descriptor: StateDescriptor) -> Result<StateDescriptor, Failure> {
        let ttl = self.ttl.config(descriptor.ttl);
        if ttl.is_none() && !self.no_ttl && self.schema_version.is_none() {
            let message = "nothing is replaced: name a --ttl, --no-ttl, or a --schema with its --schema-version";
            return Err(Failure::usage(ErrorReason::FieldMissing, message));
        }
        if ttl.is_some() || self.no_ttl {
            descriptor.ttl = ttl;
        }
        if let Some(path) = &self.schema {
            descriptor.schema = schema(path)?.into();
        }
        if let Some(version) = self.schema_version {
            descriptor.schema_version = version;
        }
        Ok(descriptor)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        replace: Replace,
    }

    fn descriptor(rest: &[&str], before: StateDescriptor) -> Result<StateDescriptor, String> {
        let line = Line::try_parse_from([&["x", "j", "o", "s", "--version", "1"], rest].concat());
        let line = line.map_err(|error| error.to_string())?;
        line.replace.descriptor(before).map_err(|failure| failure.to_string())
    }

    #[test]
    fn what_is_not_named_stays() {
        let before = StateDescriptor { name: "s".into(), schema_version: 3, ..StateDescriptor::default() };
        let dated = descriptor(&["--ttl", "1h"], before.clone()).unwrap();
        assert_eq!((dated.schema_version, dated.ttl.is_some()), (3, true));
        let newer = descriptor(&["--schema-version", "4"], dated).unwrap();
        assert_eq!((newer.schema_version, newer.ttl.is_some()), (4, true));
        assert_eq!(descriptor(&["--no-ttl"], newer).unwrap().ttl, None);
    }

    #[test]
    fn nothing_and_both_are_refused() {
        for wrong in
            [&[][..], &["--ttl", "1h", "--no-ttl"], &["--schema", "f"], &["--schema", "/no", "--schema-version", "1"]]
        {
            assert!(descriptor(wrong, StateDescriptor::default()).is_err(), "{wrong:?}");
        }
    }
}
