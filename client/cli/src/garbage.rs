//! `forebayctl gc`: delete what nothing refers to, or tell what that is.

use clap::Args;
use forebay_proto::v1::CollectGarbageRequest;
use serde_json::json;

use crate::{
    connection::Connection,
    failure::Failure,
    output::{Answer, bytes, columns},
};

/// A collection of garbage.
#[derive(Debug, Args)]
pub struct Collect {
    /// The job [default: all jobs].
    job: Option<String>,
    /// Only tell what would be deleted.
    #[arg(long)]
    dry_run: bool,
}

impl Collect {
    /// Collects.
    pub async fn run(self, connection: &Connection) -> Result<Answer, Failure> {
        let request = CollectGarbageRequest { job: self.job.unwrap_or_default(), dry_run: self.dry_run };
        // It takes as long as listing and deleting take.
        let found = connection.call_once(async |mut coordinator| coordinator.collect_garbage(request).await).await?;
        let what = if self.dry_run { "would be deleted" } else { "deleted" };
        let mut text = format!("{what}: {} objects, {}\n", found.objects.len(), bytes(found.bytes));
        if !found.objects.is_empty() {
            text += &columns(["OBJECT"], found.objects.iter().map(|object| [object.clone()]));
        }
        let json = json!({ "dry_run": self.dry_run, "objects": found.objects, "bytes": found.bytes });
        Ok(Answer::new(text, json))
    }
}
