//! One process of the binary `forebay`, which may die and come back.

use std::net::SocketAddr;

use rustix::process::Signal;

use super::{
    api::Api,
    process::{Exit, Process},
    setup::Setup,
};

/// A process that serves, or has been killed and can be started again with the same port and folders.
#[derive(Debug)]
pub struct Forebay {
    // First: it shows what is in the setup's folder when it is dropped.
    process: Process,
    setup: Setup,
    address: SocketAddr,
}

impl Forebay {
    /// Starts coordinator and server in one process, with folders of its own.
    pub async fn dev() -> Self {
        Setup::dev().start().await
    }

    pub(super) fn started(setup: Setup, process: Process, address: SocketAddr) -> Self {
        Self { setup, process, address }
    }

    /// How it was started.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Where it serves, such as `http://127.0.0.1:7400`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Clients to it.
    pub fn api(&self) -> Api {
        Api::to(&self.url())
    }

    /// Ends it without notice (SIGKILL) and waits until it is gone.
    pub async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// True if it has ended by now.
    pub fn has_ended(&mut self) -> bool {
        self.process.has_ended()
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// If it does not end in time.
    pub async fn ended(&mut self) -> Exit {
        self.process.ended().await
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    pub async fn terminate(&mut self) -> Exit {
        self.process.signal(Signal::TERM);
        self.process.ended().await
    }

    /// Stops it where it stands (SIGSTOP).
    pub fn pause(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Starts it again with the same port and folders, once it has ended, and waits until it serves.
    ///
    /// # Panics
    /// If it does not.
    pub async fn restart(&mut self) {
        let started = self.try_restart().await;
        started.unwrap_or_else(|exit| panic!("{} did not start: {exit:#?}", self.setup.name));
    }

    /// The same, where it may refuse to start.
    pub async fn try_restart(&mut self) -> Result<(), Exit> {
        (self.process, self.address) = self.setup.run().await?;
        Ok(())
    }

    /// Kills it and starts it again.
    pub async fn kill_and_restart(&mut self) {
        self.kill().await;
        self.restart().await;
    }

    /// Deletes the shards' files, as if the disk were gone; checkpoints are elsewhere. Kill it first.
    ///
    /// # Panics
    /// If they cannot be deleted.
    pub fn delete_data(&self) {
        std::fs::remove_dir_all(self.setup.data()).expect("the test's folder is writable");
    }
}
