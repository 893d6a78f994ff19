//! redis-server as a client sees it: a window is a pipeline.

use std::{collections::VecDeque, ops::Range};

use anyhow::{Context as _, Result};
use forebay_integration_tests::bench::{
    data::{Data, Ledger, Random},
    redis::{Connection, RedisServer, Reply},
};

use crate::{
    draw,
    pace::{Client, Measured, Pace},
};

const DB: u32 = 0;

/// Starts a server that holds every key; `log` gives it an append-only file.
pub fn start(data: &Data, log: bool) -> Result<RedisServer> {
    let server = RedisServer::start(log)?;
    server.fill(DB, data, data.len())?;
    Ok(server)
}

/// Measures a server at a pace.
pub fn measure(
    server: &RedisServer,
    pace: Pace,
    data: &Data,
    ledger: &mut Ledger,
    random: &mut Random,
) -> Result<Measured> {
    server.run(async {
        let connection = server.connect(DB).await?;
        let (waiting, windows) = (VecDeque::new(), VecDeque::new());
        let mut pipeline = Pipeline { connection, data, ledger, random, waiting, windows };
        let measured = pace.run(&mut pipeline).await?;
        let Pipeline { mut connection, ledger, .. } = pipeline;
        let sample: Vec<_> = ledger.sample().map(|(index, _)| index).collect();
        sample.iter().for_each(|index| connection.command(&[b"GET", data.key(*index)]));
        let found = |place: usize, reply: Reply<'_>| ledger.check(data, sample[place], reply.value());
        connection.exchange(sample.len(), found).await?;
        Ok(measured)
    })
}

struct Pipeline<'a> {
    connection: Connection,
    data: &'a Data,
    ledger: &'a mut Ledger,
    random: &'a mut Random,
    /// Commands that are not answered: number, key, and whether it reads.
    waiting: VecDeque<(u64, u32, bool)>,
    /// The last command of each window.
    windows: VecDeque<u64>,
}

impl Client for Pipeline<'_> {
    async fn send(&mut self, numbers: Range<u64>) -> Result<()> {
        self.windows.push_back(numbers.end - 1);
        for number in numbers {
            let (index, reads) = draw(number, self.data, self.random);
            let key = self.data.key(index);
            if reads {
                self.connection.command(&[b"GET", key]);
            } else {
                self.connection.command(&[b"SET", key, &self.data.value(index, self.ledger.write(index))]);
            }
            self.waiting.push_back((number, index, reads));
        }
        self.connection.send().await
    }

    async fn answers(&mut self, mut answered: impl FnMut(u64)) -> Result<()> {
        let Self { connection, data, waiting, windows, .. } = self;
        let take = |reply: Reply<'_>| {
            let (number, index, reads) = waiting.pop_front().context("a reply to nothing")?;
            if reads {
                data.check(index, reply.value())?;
            } else {
                reply.stored()?;
            }
            answered(number);
            if windows.front() == Some(&number) {
                windows.pop_front();
            }
            Ok(())
        };
        connection.replies(take).await.map(drop)
    }

    fn in_flight(&self) -> usize {
        self.windows.len()
    }
}
