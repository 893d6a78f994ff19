//! The corruption matrix: 9 objects × 7 kinds of damage. After it the server has lost its disk, and what is in
//! the bucket is refused by its name, or the state is provably the same; never is damage served.
//!
//! A head that is replaced by an older version of itself is a bucket of that time: nothing in it can tell. What
//! must hold is that everything goes back together, to exactly the checkpoint that this head lists.

use forebay_integration_tests::{
    harness::{Exit, PATIENCE},
    matrix::{Outcome, Share, Tally},
};
use futures::{StreamExt, stream};

use super::{
    damage::{KINDS, Kind},
    stage::{ROWS, Row, Stage},
    *,
};

/// Rows at once: each has a process of its own.
const ROWS_PARALLEL: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn no_damage_in_the_bucket_is_served() {
    let share = Share::of_environment();
    let mut tally = Tally::new("corruption matrix");
    let rows = ROWS.iter().enumerate().map(|(n, (row, name))| async move {
        let kinds = KINDS.iter().enumerate().filter(|(kind, _)| share.takes(n * KINDS.len() + kind));
        let kinds: Vec<_> = kinds.map(|(_, kind)| *kind).collect();
        (*name, of_row(*row, kinds).await)
    });
    let mut rows = stream::iter(rows).buffered(ROWS_PARALLEL);
    while let Some((row, outcomes)) = rows.next().await {
        for (kind, outcome) in outcomes {
            tally.note(format!("{row} × {kind}"), outcome);
        }
    }
    tally.conclude(share);
}

async fn of_row(row: Row, kinds: Vec<(Kind, &'static str)>) -> Vec<(&'static str, Outcome)> {
    let mut outcomes = Vec::new();
    if kinds.is_empty() {
        return outcomes;
    }
    let mut stage = row.stage().await;
    for (kind, name) in kinds {
        stage.scene.forebay.kill().await;
        stage.scene.forebay.delete_data();
        let undo = stage.target.damage(kind);
        let mut outcome = stage.observe(row, kind).await;
        stage.scene.forebay.kill().await;
        undo.put_right();
        if stage.scene.forebay.setup().data().exists() {
            stage.scene.forebay.delete_data();
        }
        stage.scene.forebay.restart().await;
        stage.scene.job.refresh(&stage.scene.api).await;
        if stage.scene.api.digest("job").await.ok() != Some(stage.scene.digest) {
            outcome = Outcome::Silent(format!("{outcome:?}, and with the right bytes back it is not restored"));
        }
        outcomes.push((name, outcome));
    }
    outcomes
}

impl Stage {
    /// Starts the process over the damage, and sees what it says.
    async fn observe(&mut self, row: Row, kind: Kind) -> Outcome {
        let names = &self.target.names;
        let named = |text: &str| names.iter().any(|name| text.contains(name));
        let ended = |exit: &Exit| match named(&exit.stderr) {
            true => Outcome::Clear(exit.stderr.lines().last().unwrap_or_default().into()),
            false => Outcome::Silent(format!("it does not start, and names none of {names:?}: {}", exit.stderr)),
        };
        if let Err(exit) = self.scene.forebay.try_restart().await {
            return ended(&exit);
        }
        let (api, job, forebay) = (&self.scene.api, &self.scene.job, &mut self.scene.forebay);
        let asking = async {
            loop {
                match api.get(job.at("last", "N7")).await {
                    Ok(_) => return Ok(None),
                    Err(status) if status.code() == Code::DataLoss => return Ok(Some(status)),
                    // A server that has just started does not know its jobs yet; the coordinator, once it serves, does.
                    Err(status) if status.code() == Code::NotFound => match api.describe("job").await {
                        Err(status) if status.code() == Code::NotFound => return Ok(Some(status)),
                        _ => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
                    },
                    // It reads what is damaged when it takes office, which is behind its former self's lease.
                    Err(_) if forebay.has_ended() => return Err(forebay.terminate().await),
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
                }
            }
        };
        let Ok(said) = tokio::time::timeout(PATIENCE, asking).await else { return Outcome::Hanging };
        let said = match said {
            Ok(said) => said,
            Err(exit) => return ended(&exit),
        };
        match said {
            Some(status) if !named(status.message()) => {
                Outcome::Silent(format!("none of {names:?} is named: {status:?}"))
            }
            Some(status) => match self.serves_anything().await {
                true => Outcome::Silent(format!("something is served beside {status:?}")),
                false => Outcome::Clear(status.message().into()),
            },
            None => {
                let served = match tokio::time::timeout(PATIENCE, eventually_digest(api)).await {
                    Ok(digest) => digest,
                    Err(_) => return Outcome::Hanging,
                };
                let restored = api.describe("job").await.unwrap().shards[0].entry.clone().unwrap().restored_from;
                let of_that_head = row == Row::Head && kind == Kind::Older;
                match served {
                    digest if of_that_head && digest == self.older_digest && restored < self.scene.checkpoint.id => {
                        Outcome::Right
                    }
                    digest if digest == self.scene.digest && !of_that_head => Outcome::Right,
                    _ => Outcome::Silent(format!("another state is served, of checkpoint {restored}")),
                }
            }
        }
    }

    async fn serves_anything(&self) -> bool {
        let (api, job) = (&self.scene.api, &self.scene.job);
        api.scan("job", "op", "legs").await.is_ok()
            || api.put(job.at("last", "N1"), raw("x")).await.is_ok()
            || api.append(job.at("legs", "N1"), raw("x")).await.is_ok()
    }
}

async fn eventually_digest(api: &Api) -> u64 {
    eventually("the job is read", || async { api.digest("job").await.ok() }).await
}
