//! `forebayctl state scan`: shard by shard, each at the server that holds it.

use clap::Args;
use forebay_proto::v1::{ErrorReason, ReadView, ScanProjection, ScanRequest, ScanRow, StateDescriptor, StateKind};
use serde_json::json;

use super::{cursor::Cursor, place, rows};
use crate::{
    arguments::StateName,
    connection::{Connection, route_now, routes_of},
    failure::Failure,
    output::Answer,
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
    /// Each key once, without what is stored under it.
    #[arg(long, conflicts_with = "namespaces")]
    keys: bool,
    /// Each key and namespace once, without what is stored there.
    #[arg(long)]
    namespaces: bool,
    /// At most this many rows; 0 for all.
    #[arg(long, value_name = "N", default_value = "1000")]
    limit: u64,
    /// Go on after a page, by the token that came with it.
    #[arg(long, value_name = "TOKEN", value_parser = Cursor::parse)]
    page: Option<Cursor>,
    /// As of the last completed checkpoint.
    #[arg(long)]
    committed: bool,
}

impl Scan {
    /// Scans.
    pub async fn run(self, connection: &Connection) -> Result<Answer, Failure> {
        let descriptor = place::registered(connection, &self.state).await?.descriptor.unwrap_or_default();
        let request = self.request(&descriptor)?;
        let wanted = if self.limit == 0 { u64::MAX } else { self.limit };
        let (found, end) = read(connection, &request, self.page.clone().unwrap_or_default(), wanted).await?;
        // The page may end where the state does: a look behind it tells.
        let next = match end {
            Some(end) if !read(connection, &request, end.clone(), 1).await?.0.is_empty() => Some(end.to_string()),
            Some(_) | None => None,
        };
        let json: Vec<_> = found.iter().map(|row| rows::json(&descriptor, row)).collect();
        let json = json!({ "rows": json, "more": next.is_some(), "next_page": next });
        let mut answer = Answer::new(rows::table(&descriptor, request.projection(), &found), json);
        if let Some(next) = next {
            answer
                .notes
                .push(format!("there is more after {} rows: --limit 0 shows all, --page {next} goes on", found.len()));
        }
        if found.is_empty() {
            answer.notes.push("nothing is stored".to_owned());
        }
        Ok(answer)
    }

    fn request(&self, descriptor: &StateDescriptor) -> Result<ScanRequest, Failure> {
        let keyed = self.keys || self.namespaces || self.prefix.is_some() || self.namespace.is_some();
        if keyed && descriptor.kind() == StateKind::SortedSet {
            let message = format!("state {:?} is a sorted set: it has no keys and no namespaces", descriptor.name);
            return Err(Failure::usage(ErrorReason::FieldInvalid, message));
        }
        let StateName { job, operator, name } = self.state.clone();
        let namespace = self.namespace.as_deref();
        let namespace =
            namespace.map(|typed| text::raw("namespace", &descriptor.namespace_codec, typed)).transpose()?;
        let prefix = self.prefix.as_deref();
        let key_prefix = prefix.map(|typed| text::raw("prefix", &descriptor.key_codec, typed)).transpose()?;
        let projection = match (self.keys, self.namespaces) {
            (true, _) => ScanProjection::Keys,
            (_, true) => ScanProjection::KeysAndNamespaces,
            _ => ScanProjection::Entries,
        };
        let view = if self.committed { ReadView::Committed } else { ReadView::Live };
        Ok(ScanRequest {
            job,
            operator,
            state: name,
            namespace,
            key_prefix,
            projection: projection.into(),
            view: view.into(),
            ..ScanRequest::default()
        })
    }
}

/// Reads rows from a cursor on, at most so many; if so many, also where to go on, unless that is the end.
async fn read(
    connection: &Connection,
    request: &ScanRequest,
    from: Cursor,
    most: u64,
) -> Result<(Vec<ScanRow>, Option<Cursor>), Failure> {
    let mut rows = Vec::new();
    let mut at = from;
    let shards = routes_of(&connection.routing(&request.job).await?, &request.operator)?;
    let end = shards.last().map_or(0, |shard| shard.end);
    if at.group >= end {
        let message = format!("the page token cannot be used: the job has {end} key groups, it names {}", at.group);
        return Err(Failure::refused(ErrorReason::PageTokenInvalid, message));
    }
    for shard in shards {
        if at.group < shard.start || at.group >= shard.end {
            continue;
        }
        // A token says itself where in the shard it is; without one the key group does.
        let start = if at.token.is_empty() { at.group } else { shard.start };
        let left = most - rows.len() as u64;
        let limit = if most == u64::MAX { 0 } else { left };
        let request =
            ScanRequest { start, end: shard.end, limit, page_token: at.token.clone().into(), ..request.clone() };
        let choose = |routing: &_| route_now(routing, &shard);
        let found = connection.call_shard(&request.job, choose, async |mut state| {
            let mut pages = state.scan(request.clone()).await?.into_inner();
            let (mut rows, mut token) = (Vec::new(), Vec::new());
            while let Some(page) = pages.message().await? {
                rows.extend(page.rows);
                token = page.page_token.into();
            }
            Ok((rows, token))
        });
        let (found, token): (Vec<ScanRow>, Vec<u8>) = found.await?;
        let last = found.last().map(|row| row.key_group);
        let full = found.len() as u64 >= left;
        rows.extend(found);
        // The next row may be in the last one's key group, or else the shard is done.
        at = match last {
            Some(group) if full && !token.is_empty() => Cursor { group, token },
            _ => Cursor { group: shard.end, token: Vec::new() },
        };
        if full {
            return Ok((rows, (at.group < end).then_some(at)));
        }
    }
    Ok((rows, None))
}
