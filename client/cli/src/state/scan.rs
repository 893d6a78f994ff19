//! `forebayctl state scan`: shard by shard, each at the server that holds it.

use clap::Args;
use forebay_proto::v1::{Route, Routing, ScanRequest, ScanRow, StateKind};
use serde_json::{Value as Json, json};

use super::place;
use crate::{
    arguments::StateName,
    connection::{Connection, routes_of},
    failure::Failure,
    output::{Answer, columns},
    text,
};

/// What to scan.
#[derive(Debug, Args)]
pub struct Scan {
    #[command(flatten)]
    state: StateName,
    /// Only this namespace.
    #[arg(long, visible_alias = "window", value_name = "NS", allow_hyphen_values = true)]
    namespace: Option<String>,
    /// Only keys that start with this.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prefix: Option<String>,
    /// At most this many rows; 0 for all.
    #[arg(long, value_name = "N", default_value = "1000")]
    limit: u64,
}

impl Scan {
    /// Scans.
    pub async fn run(self, connection: &Connection) -> Result<Answer, Failure> {
        let descriptor = place::descriptor(connection, &self.state).await?;
        let StateName { job, operator, name } = self.state.clone();
        let namespace = self.namespace.as_deref();
        let namespace =
            namespace.map(|typed| text::raw("namespace", &descriptor.namespace_codec, typed)).transpose()?;
        let prefix = self.prefix.as_deref();
        let key_prefix = prefix.map(|typed| text::raw("prefix", &descriptor.key_codec, typed)).transpose()?;
        let request = ScanRequest { job, operator, state: name, namespace, key_prefix, ..ScanRequest::default() };
        // One row more than is shown tells whether there are more.
        let wanted = if self.limit == 0 { usize::MAX } else { usize::try_from(self.limit).unwrap_or(usize::MAX) };
        let mut rows = self.rows(connection, request, wanted.saturating_add(1)).await?;
        let more = rows.len() > wanted;
        rows.truncate(wanted);
        let json = json!({ "rows": rows.iter().map(row_json).collect::<Vec<_>>(), "more": more });
        let mut answer = Answer::new(table(descriptor.kind(), &rows), json);
        if more {
            answer.notes.push(format!("there is more after {wanted} rows: --limit 0 shows all"));
        }
        if rows.is_empty() {
            answer.notes.push("nothing is stored".to_owned());
        }
        Ok(answer)
    }

    async fn rows(&self, connection: &Connection, request: ScanRequest, most: usize) -> Result<Vec<ScanRow>, Failure> {
        let mut rows = Vec::new();
        for shard in routes_of(&connection.routing(&request.job).await?, &request.operator)? {
            let left = most - rows.len();
            if left == 0 {
                break;
            }
            let limit = if left == usize::MAX { 0 } else { left as u64 };
            let request = ScanRequest { start: shard.start, end: shard.end, limit, ..request.clone() };
            let choose = |routing: &Routing| same(&shard, routing);
            let found = connection.call_shard(&request.job, choose, async |mut state| {
                let mut pages = state.scan(request.clone()).await?.into_inner();
                let mut rows = Vec::new();
                while let Some(page) = pages.message().await? {
                    rows.extend(page.rows);
                }
                Ok(rows)
            });
            rows.extend(found.await?);
        }
        Ok(rows)
    }
}

/// Returns where a shard is now.
fn same(shard: &Route, routing: &Routing) -> Result<Route, Failure> {
    let routes = routes_of(routing, &shard.operator)?;
    let now = routes.into_iter().find(|route| (route.start, route.end) == (shard.start, shard.end));
    Ok(now.unwrap_or_else(|| shard.clone()))
}

fn table(kind: StateKind, rows: &[ScanRow]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let shown = |row: &ScanRow| {
        let items = [&row.key, &row.namespace, &row.map_key, &row.value];
        items.map(|item| text::shown(item.as_ref()))
    };
    if kind == StateKind::Map {
        let row = |row: &ScanRow| {
            let [key, namespace, map_key, value] = shown(row);
            [row.key_group.to_string(), key, namespace, map_key, value]
        };
        return columns(["KEY GROUP", "KEY", "NAMESPACE", "MAP KEY", "VALUE"], rows.iter().map(row));
    }
    let row = |row: &ScanRow| {
        let [key, namespace, _, value] = shown(row);
        [row.key_group.to_string(), key, namespace, value]
    };
    columns(["KEY GROUP", "KEY", "NAMESPACE", "VALUE"], rows.iter().map(row))
}

fn row_json(row: &ScanRow) -> Json {
    let mut json = json!({
        "key_group": row.key_group,
        "key": text::json(row.key.as_ref()),
        "namespace": text::json(row.namespace.as_ref()),
        "value": text::json(row.value.as_ref()),
    });
    if row.map_key.is_some() {
        json["map_key"] = text::json(row.map_key.as_ref());
    }
    json
}
