//! `forebayctl shards move|split|merge` and `servers drain`: what is where, and goes elsewhere.

use std::collections::BTreeMap;

use forebay_proto::v1::{DrainServerRequest, MergeShardsRequest, MoveShardRequest, ShardProgress, SplitShardRequest};
use serde_json::{Value as Json, json};
use tonic::Streaming;

use crate::{
    connection::Connection,
    failure::Failure,
    output::{Answer, bytes, columns},
};

/// Moves a shard, and tells how far it is.
pub async fn move_shard(connection: &Connection, request: MoveShardRequest) -> Result<Answer, Failure> {
    let moved = connection.call_once(async |mut coordinator| coordinator.move_shard(request).await);
    Ok(Moves::heard(moved.await?, |step| step.progress).await?.answer())
}

/// Splits a shard, and tells how far it is.
pub async fn split_shard(connection: &Connection, request: SplitShardRequest) -> Result<Answer, Failure> {
    let split = connection.call_once(async |mut coordinator| coordinator.split_shard(request).await);
    Ok(Moves::heard(split.await?, |step| step.progress).await?.answer())
}

/// Makes neighbouring shards one, and tells how far it is.
pub async fn merge_shards(connection: &Connection, request: MergeShardsRequest) -> Result<Answer, Failure> {
    let merged = connection.call_once(async |mut coordinator| coordinator.merge_shards(request).await);
    Ok(Moves::heard(merged.await?, |step| step.progress).await?.answer())
}

/// Moves all shards off a server, and tells how far it is.
pub async fn drain(connection: &Connection, server: String, dry_run: bool) -> Result<Answer, Failure> {
    let request = DrainServerRequest { server: server.clone(), dry_run, cancel: false };
    let drained = connection.call_once(async |mut coordinator| coordinator.drain_server(request).await);
    let mut answer = Moves::heard(drained.await?, |step| step.progress).await?.answer();
    if !dry_run {
        answer.notes.push(format!("server {server} holds no shards and gets none until it is started anew"));
    }
    Ok(answer)
}

/// Lets a server get shards again.
pub async fn undrain(connection: &Connection, server: String) -> Result<Answer, Failure> {
    let request = DrainServerRequest { server: server.clone(), dry_run: false, cancel: true };
    let ended = connection.call_once(async |mut coordinator| coordinator.drain_server(request).await);
    let mut progress = ended.await?;
    while progress.message().await?.is_some() {}
    Ok(Answer::new(format!("server {server} gets shards again"), json!({ "server": server, "draining": false })))
}

/// The moves that were heard of, each as it was last.
#[derive(Debug, Default)]
struct Moves {
    order: Vec<(String, String, u32)>,
    last: BTreeMap<(String, String, u32), ShardProgress>,
}

impl Moves {
    /// Takes all that is told, until it is done.
    async fn heard<T>(mut told: Streaming<T>, progress: fn(T) -> Option<ShardProgress>) -> Result<Self, Failure> {
        let mut moves = Self::default();
        while let Some(step) = told.message().await? {
            moves.take(progress(step).unwrap_or_default());
        }
        Ok(moves)
    }

    fn take(&mut self, step: ShardProgress) {
        let key = (step.job.clone(), step.operator.clone(), step.start);
        let before = self.last.get(&key);
        if before.is_none() {
            self.order.push(key.clone());
        }
        let is_news = before.is_none_or(|before| before.step != step.step || step.bytes > 0);
        if is_news && !is_last(&step) {
            let ShardProgress { job, operator, start, end, from, to, .. } = &step;
            let copied = match step.bytes {
                0 => String::new(),
                all => format!(" {} of {}", bytes(step.bytes_done), bytes(all)),
            };
            let way = if from == to { String::new() } else { format!(" {from} -> {to}") };
            eprintln!("{job} {operator} [{start},{end}){way}: {}{copied}", step.step);
        }
        self.last.insert(key, step);
    }

    fn answer(&self) -> Answer {
        let moves: Vec<_> = self.order.iter().filter_map(|key| self.last.get(key)).collect();
        let row = |it: &&ShardProgress| {
            let groups = format!("[{},{})", it.start, it.end);
            [it.job.clone(), it.operator.clone(), groups, it.from.clone(), it.to.clone(), it.step.clone()]
        };
        let heads = ["JOB", "OPERATOR", "KEY GROUPS", "FROM", "TO", "STATUS"];
        let text = if moves.is_empty() { String::new() } else { columns(heads, moves.iter().map(row)) };
        Answer::new(text, json!({ "moves": moves.iter().map(|it| move_json(it)).collect::<Vec<_>>() }))
    }
}

/// True for what is told in the answer anyway.
fn is_last(step: &ShardProgress) -> bool {
    matches!(&step.step[..], "done" | "would move" | "would be")
}

fn move_json(it: &ShardProgress) -> Json {
    json!({
        "job": it.job,
        "operator": it.operator,
        "start": it.start,
        "end": it.end,
        "from": it.from,
        "to": it.to,
        "status": it.step,
    })
}

/// Reads key groups as people write them: `0-64`, or `[0,64)` as they are listed.
pub fn range(text: &str) -> Result<(u32, u32), String> {
    let wrong = || format!("{text:?} are no key groups: write the first one and the one behind the last, such as 0-64");
    let plain = text.trim_start_matches('[').trim_end_matches(')');
    let (start, end) = plain.split_once(['-', ',']).ok_or_else(wrong)?;
    let number = |text: &str| text.trim().parse().map_err(|_| wrong());
    let (start, end) = (number(start)?, number(end)?);
    if start < end { Ok((start, end)) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_groups_are_read_as_people_and_tables_write_them() {
        assert_eq!(range("0-64"), Ok((0, 64)));
        assert_eq!(range("[64,128)"), Ok((64, 128)));
        for wrong in ["", "64", "64-64", "a-b", "9-3"] {
            assert!(range(wrong).unwrap_err().contains("such as 0-64"), "{wrong}");
        }
    }

    #[test]
    fn a_move_is_answered_as_it_was_last() {
        let step = |step: &str, start| ShardProgress {
            job: "j".into(),
            operator: "op".into(),
            start,
            end: start + 64,
            from: "a".into(),
            to: "b".into(),
            step: step.into(),
            ..Default::default()
        };
        let mut moves = Moves::default();
        for told in [step("checkpoint", 64), step("done", 64), step("checkpoint", 0), step("done", 0)] {
            moves.take(told);
        }
        let answer = moves.answer();
        assert_eq!(answer.json["moves"][0]["start"], 64);
        assert_eq!(answer.json["moves"][1]["status"], "done");
        assert_eq!(answer.text.lines().count(), 3);
    }
}
