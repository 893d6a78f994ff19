//! `forebayctl checkpoint diff`: what changed between two completed checkpoints.

use clap::Args;
use forebay_proto::v1::{Change, DiffCheckpointsRequest, Difference, Route};
use serde_json::{Value as Json, json};

use crate::{
    connection::{Connection, route_now},
    failure::Failure,
    output::{Answer, filled_columns},
    state::at::{entry_json, text},
};

/// Differences that are listed, if nothing else is asked for.
const LIMIT: u64 = 1_000;

/// What to compare.
#[derive(Debug, Args)]
pub struct Diff {
    /// The job.
    job: String,
    /// The earlier checkpoint.
    from: u64,
    /// The later checkpoint [default: the last completed one].
    to: Option<u64>,
    /// Only this operator.
    #[arg(long)]
    operator: Option<String>,
    /// Only this state.
    #[arg(long)]
    state: Option<String>,
    /// At most this many differences [default: 1000].
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

impl Diff {
    /// Asks the servers of all shards, one after the other.
    pub async fn run(self, connection: &Connection) -> Result<Answer, Failure> {
        let limit = self.limit.unwrap_or(LIMIT);
        let (mut found, mut skipped, mut rows) = (Vec::new(), 0, 0);
        let routes = connection.routing(&self.job).await?.routes;
        let wanted = |route: &&Route| self.operator.as_ref().is_none_or(|operator| route.operator == *operator);
        for route in routes.iter().filter(wanted) {
            let left = limit.saturating_sub(found.len() as u64);
            if left == 0 {
                break;
            }
            let request = DiffCheckpointsRequest {
                job: self.job.clone(),
                from: self.from,
                to: self.to.unwrap_or_default(),
                operator: route.operator.clone(),
                state: self.state.clone().unwrap_or_default(),
                start: route.start,
                end: route.end,
                limit: left,
                ..Default::default()
            };
            let choose = |routing: &_| route_now(routing, route);
            let compared = connection.call_debug(&self.job, choose, async |mut debug| {
                let mut answers = debug.diff_checkpoints(request.clone()).await?.into_inner();
                let (mut differences, mut skipped, mut rows) = (Vec::new(), 0, 0);
                while let Some(answer) = answers.message().await? {
                    differences.extend(answer.differences);
                    skipped += answer.skipped_key_groups;
                    rows = rows.max(answer.rows);
                }
                Ok((differences, skipped, rows))
            });
            let compared = compared.await?;
            found.extend(compared.0);
            skipped += compared.1;
            rows += compared.2;
        }
        Ok(shown(&found, limit, skipped, rows))
    }
}

fn shown(found: &[Difference], limit: u64, skipped: u32, rows: u64) -> Answer {
    let lines = found.iter().map(|difference| {
        let entry = difference.after.as_ref().or(difference.before.as_ref()).cloned().unwrap_or_default();
        let value = |side: &Option<_>| side.as_ref().map(|entry: &forebay_proto::v1::ShownEntry| text(&entry.value));
        [
            change(difference).to_owned(),
            difference.operator.clone(),
            difference.state.clone(),
            text(&entry.key),
            text(&entry.namespace),
            text(&entry.map_key),
            value(&difference.before).unwrap_or_default(),
            value(&difference.after).unwrap_or_default(),
        ]
    });
    let heads = ["CHANGE", "OPERATOR", "STATE", "KEY", "NAMESPACE", "MAP KEY", "BEFORE", "AFTER"];
    let table = if found.is_empty() { String::new() } else { filled_columns(heads, 4, lines.collect()) };
    let json = json!({
        "differences": found.iter().map(difference_json).collect::<Vec<_>>(),
        "rows": rows,
        "skipped_key_groups": skipped,
    });
    let mut answer = Answer::new(table, json);
    answer.notes.push(format!("{} differences, {rows} rows read, {skipped} key groups skipped", found.len()));
    if found.len() as u64 >= limit {
        answer.notes.push("there may be more: --limit".to_owned());
    }
    answer
}

fn difference_json(difference: &Difference) -> Json {
    json!({
        "change": change(difference),
        "operator": difference.operator,
        "state": difference.state,
        "before": difference.before.as_ref().map(entry_json),
        "after": difference.after.as_ref().map(entry_json),
    })
}

fn change(difference: &Difference) -> &'static str {
    match difference.change() {
        Change::Added => "added",
        Change::Removed => "removed",
        Change::Modified => "modified",
        Change::Unspecified => "unknown",
    }
}
