//! `forebayctl state count`: shard by shard, each at the server that holds it.

use clap::Args;
use forebay_proto::v1::CountRequest;
use serde_json::json;

use super::place;
use crate::{
    arguments::StateName,
    connection::{Connection, route_now, routes_of},
    failure::Failure,
    output::{Answer, columns},
};

/// What to count.
#[derive(Debug, Args)]
pub struct Count {
    #[command(flatten)]
    state: StateName,
    /// Count every live row; the estimate costs nothing.
    #[arg(long)]
    exact: bool,
}

impl Count {
    /// Counts the rows of a state: list elements and map entries count singly.
    pub async fn run(self, connection: &Connection) -> Result<Answer, Failure> {
        place::registered(connection, &self.state).await?;
        let StateName { job, operator, name } = self.state;
        let mut rows: u64 = 0;
        for shard in routes_of(&connection.routing(&job).await?, &operator)? {
            let request = CountRequest {
                job: job.clone(),
                operator: operator.clone(),
                state: name.clone(),
                exact: self.exact,
                start: shard.start,
                end: shard.end,
            };
            let choose = |routing: &_| route_now(routing, &shard);
            let found = connection.call_shard(&job, choose, async |mut state| state.count(request.clone()).await);
            rows = rows.saturating_add(found.await?.into_inner().rows);
        }
        let table = columns(["ROWS"], [[rows.to_string()]]);
        let mut answer = Answer::new(table, json!({ "rows": rows, "exact": self.exact }));
        if !self.exact {
            answer.notes.push("an estimate: --exact counts every row".to_owned());
        }
        Ok(answer)
    }
}
