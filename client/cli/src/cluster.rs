//! `forebayctl status`, `shards` and `servers`: how the cluster is.

use forebay_proto::v1::{
    DescribeJobRequest, GetStatusRequest, JobInfo, ListJobsRequest, ListServersRequest, ServerInfo, ShardInfo,
};
use serde_json::{Value as Json, json};

use crate::{
    connection::Connection,
    failure::Failure,
    job,
    output::{Answer, bytes, columns, facts, plain},
};

/// Tells how the cluster is.
pub async fn status(connection: &Connection) -> Result<Answer, Failure> {
    let status = connection.call(async |mut coordinator| coordinator.get_status(GetStatusRequest {}).await).await?;
    let standbys: Vec<_> = status.standbys.iter().map(|standby| standby.name.clone()).collect();
    let mut text = facts([
        ("cluster", status.cluster_id.clone()),
        ("coordinator", format!("{} (epoch {})", status.coordinator, status.coordinator_epoch)),
        ("stands by", if standbys.is_empty() { "nobody".to_owned() } else { standbys.join(", ") }),
        ("version", status.version.clone()),
        ("checkpoints", status.checkpoint_dir.clone()),
    ]);
    for table in [servers_table(&status.servers), job::jobs_table(&status.jobs)] {
        if !table.is_empty() {
            text += &format!("\n{table}\n");
        }
    }
    let json = json!({
        "cluster_id": status.cluster_id,
        "coordinator": status.coordinator,
        "coordinator_epoch": status.coordinator_epoch,
        "coordinator_address": status.coordinator_address,
        "standbys": standbys,
        "version": status.version,
        "checkpoint_dir": status.checkpoint_dir,
        "servers": status.servers.iter().map(server_json).collect::<Vec<_>>(),
        "jobs": status.jobs.iter().map(job::overview).collect::<Vec<_>>(),
    });
    Ok(Answer::new(text, json))
}

/// Lists the servers.
pub async fn servers(connection: &Connection) -> Result<Answer, Failure> {
    let request = ListServersRequest {};
    let servers = connection.call(async |mut coordinator| coordinator.list_servers(request).await).await?.servers;
    let json = json!({ "servers": servers.iter().map(server_json).collect::<Vec<_>>() });
    Ok(Answer::new(servers_table(&servers), json))
}

/// Lists the shards of a job, or of all.
pub async fn shards(connection: &Connection, job: Option<String>) -> Result<Answer, Failure> {
    // A shard does not know its job's name, so that they come by job.
    let jobs = match job {
        Some(job) => {
            let request = DescribeJobRequest { job };
            let answer = connection.call(async |mut coordinator| coordinator.describe_job(request.clone()).await);
            answer.await?.job.into_iter().collect()
        }
        None => connection.call(async |mut coordinator| coordinator.list_jobs(ListJobsRequest {}).await).await?.jobs,
    };
    let shards: Vec<_> = jobs.iter().flat_map(|job| job.shards.iter().map(move |shard| (job, shard))).collect();
    let json = json!({ "shards": shards.iter().map(|(job, shard)| shard_json(job, shard)).collect::<Vec<_>>() });
    let heads = ["JOB", "OPERATOR", "KEY GROUPS", "STATUS", "SERVER", "ADDRESS", "EPOCH", "WRITER", "SIZE"];
    let text = columns(heads, shards.iter().map(|(job, shard)| shard_row(job, shard)));
    Ok(if shards.is_empty() {
        Answer { notes: vec!["there are no shards".to_owned()], ..Answer::new(String::new(), json) }
    } else {
        Answer::new(text, json)
    })
}

fn shard_row(job: &JobInfo, shard: &ShardInfo) -> [String; 9] {
    let entry = shard.entry.clone().unwrap_or_default();
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    [
        name(job),
        entry.operator,
        format!("[{},{})", entry.start, entry.end),
        status_name(shard),
        or_dash(entry.server),
        or_dash(shard.address.clone()),
        entry.epoch.to_string(),
        or_dash(entry.writer.map(|writer| writer.worker).unwrap_or_default()),
        bytes(shard.bytes),
    ]
}

fn shard_json(job: &JobInfo, shard: &ShardInfo) -> Json {
    let entry = shard.entry.clone().unwrap_or_default();
    json!({
        "job": name(job),
        "operator": entry.operator,
        "start": entry.start,
        "end": entry.end,
        "status": status_name(shard),
        "server": entry.server,
        "address": shard.address,
        "epoch": entry.epoch,
        "incarnation": entry.incarnation,
        "restored_from": entry.restored_from,
        "writer": entry.writer.map(|writer| writer.worker),
        "bytes": shard.bytes,
    })
}

fn servers_table(servers: &[ServerInfo]) -> String {
    let row = |server: &ServerInfo| {
        let state = match (server.connected, server.draining) {
            (false, _) => "away",
            (true, true) => "draining",
            (true, false) => "connected",
        };
        [
            server.name.clone(),
            server.address.clone(),
            state.to_owned(),
            server.shards.to_string(),
            bytes(server.bytes),
            server.version.clone(),
        ]
    };
    let heads = ["SERVER", "ADDRESS", "STATUS", "SHARDS", "SIZE", "VERSION"];
    if servers.is_empty() { String::new() } else { columns(heads, servers.iter().map(row)) }
}

fn server_json(server: &ServerInfo) -> Json {
    json!({
        "name": server.name,
        "address": server.address,
        "connected": server.connected,
        "draining": server.draining,
        "shards": server.shards,
        "bytes": server.bytes,
        "zone": server.zone,
        "version": server.version,
    })
}

fn status_name(shard: &ShardInfo) -> String {
    if shard.entry.as_ref().is_some_and(|entry| entry.handover.is_some()) {
        return "moving".to_owned();
    }
    match plain(shard.status().as_str_name(), "SHARD_STATUS_") {
        unknown if unknown == "unspecified" => "unknown".to_owned(),
        status => status,
    }
}

fn name(job: &JobInfo) -> String {
    job.spec.as_ref().map(|spec| spec.name.clone()).unwrap_or_default()
}
