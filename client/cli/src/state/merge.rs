//! `forebayctl state merge`: merges namespaces of a key, such as two windows that have become one.

use clap::Args;
use forebay_proto::v1::MergeNamespacesRequest;

use super::{
    place::Place,
    write::{done, request_id},
};
use crate::{
    arguments::{StateName, Within},
    connection::Connection,
    failure::Failure,
    output::Answer,
};

/// What to merge.
#[derive(Debug, Args)]
pub struct Merge {
    #[command(flatten)]
    state: StateName,
    /// The key.
    #[arg(allow_negative_numbers = true)]
    key: String,
    /// The namespaces that are merged, in this order, and removed.
    #[arg(required = true, value_name = "NS", allow_negative_numbers = true)]
    sources: Vec<String>,
    /// The namespace that they are merged into.
    #[arg(long, value_name = "NS", required = true, allow_hyphen_values = true)]
    into: String,
    /// The key group; for jobs of the explicit partitioner.
    #[arg(long, value_name = "N")]
    key_group: Option<u32>,
}

impl Merge {
    /// Merges.
    pub async fn run(self, connection: &Connection) -> Result<Answer, Failure> {
        let within = Within { namespace: Some(self.into), key_group: self.key_group };
        let place = Place::find(connection, &self.state, Some(&self.key), &within).await?;
        let request = MergeNamespacesRequest {
            address: place.address(),
            sources: place.namespaces(&self.sources)?,
            request_id: request_id(),
            ..MergeNamespacesRequest::default()
        };
        place.call(async |mut state| state.merge_namespaces(request.clone()).await).await?;
        let mut answer = done("merged", &place);
        answer.json["sources"] = self.sources.into();
        Ok(answer)
    }
}
