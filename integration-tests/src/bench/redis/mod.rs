//! redis-server: a process of its own for a bench, and a client that is as fast as an honest one can be.

mod connection;

use std::{
    future::Future,
    net::TcpListener,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use tempfile::TempDir;
use tokio::{process::Command, runtime::Runtime};

use super::data::Data;
use crate::harness::Process;

pub use self::connection::{Connection, Reply};

const FILL_BATCH: usize = 1024;
const START_MAX: Duration = Duration::from_secs(10);

/// A running redis-server.
pub struct RedisServer {
    // First: it must end before its folder goes and its runtime stops.
    process: Process,
    _folder: TempDir,
    runtime: Runtime,
    port: u16,
}

impl RedisServer {
    /// Starts one without snapshots, on a free port; `log` gives it an append-only file.
    pub fn start(log: bool) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("forebay-bench-redis-").tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""]);
        command.args(["--appendonly", if log { "yes" } else { "no" }, "--appendfsync", "everysec"]);
        // A rewrite in the background would take half of the machine from whoever is measured then.
        command.args(["--auto-aof-rewrite-percentage", "0"]);
        command.arg("--dir").arg(folder.path());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let process = runtime.block_on(async { Process::start(command, folder.path(), "redis") });
        let server = Self { process, _folder: folder, runtime, port };
        server.run(async {
            let until = Instant::now() + START_MAX;
            while Connection::open(port, 0).await.is_err() {
                ensure!(Instant::now() < until, "redis-server does not start:\n{}", server.process.stdout());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Ok(())
        })?;
        Ok(server)
    }

    /// Its process.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Runs a client on the one thread that clients of it have.
    pub fn run<T>(&self, client: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime.block_on(client)
    }

    /// Connects to a database.
    pub async fn connect(&self, db: u32) -> Result<Connection> {
        Connection::open(self.port, db).await
    }

    /// Puts the first so many keys of the data into a database, with stamp 0.
    pub fn fill(&self, db: u32, data: &Data, keys: u32) -> Result<()> {
        self.run(async {
            let mut connection = self.connect(db).await?;
            for first in (0..keys).step_by(FILL_BATCH) {
                let batch = first..keys.min(first + FILL_BATCH as u32);
                for index in batch.clone() {
                    connection.command(&[b"SET", data.key(index), &data.value(index, 0)]);
                }
                connection.exchange(batch.len(), |_, reply| reply.stored()).await?;
            }
            Ok(())
        })
    }
}
