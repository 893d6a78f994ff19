//! A peer that is served by the bench's own program, in a process of its own.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result};

/// The process; it ends with this.
#[derive(Debug)]
pub struct Peer {
    process: Child,
    port: u16,
}

impl Peer {
    /// Starts this program once more with one argument, by which it prints a port and serves there.
    pub fn start(argument: &str) -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?).arg(argument).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let read = BufReader::new(process.stdout.take().context("it has an output")?).read_line(&mut line);
        let mut peer = Self { process, port: 0 };
        read?;
        peer.port = line.trim().parse().with_context(|| format!("{argument} says its port: {line:?}"))?;
        Ok(peer)
    }

    /// Its process.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Where it listens on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
