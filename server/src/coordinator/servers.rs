//! The servers of the cluster, as their links show them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Mutex,
    time::Duration,
};

use forebay_proto::v1;
use tokio::sync::mpsc;
use v1::link_response::Message as ToServer;

use super::assign::{Load, Loads};
use crate::lease::boot_ms;

/// A server's link, to tell one from an earlier one of the same server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link(u64);

/// A server as its links show it.
#[derive(Debug)]
struct Known {
    register: v1::Register,
    link: Link,
    to_server: Option<mpsc::Sender<ToServer>>,
    away_since_ms: i64,
    bytes: u64,
    /// True if it is to get no more shards, until its process is another one.
    draining: bool,
}

/// The servers, by name.
#[derive(Debug)]
pub struct Servers {
    return_wait: Duration,
    lease: Duration,
    state: Mutex<(BTreeMap<String, Known>, u64)>,
}

impl Servers {
    /// No servers yet. One that is away counts as gone `return_wait` after its lease has run out.
    pub fn new(lease: Duration, return_wait: Duration) -> Self {
        Self { return_wait, lease, state: Mutex::default() }
    }

    /// Length of a server's lease.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// Expects a server that the heads name: it is away since now.
    pub fn expect(&self, name: &str) {
        let (servers, _) = &mut *self.lock();
        servers.entry(name.to_owned()).or_insert_with(|| Known {
            register: v1::Register { name: name.to_owned(), ..Default::default() },
            link: Link(0),
            to_server: None,
            away_since_ms: boot_ms(),
            bytes: 0,
            draining: false,
        });
    }

    /// Takes up a server's link; an earlier one of the same name is over.
    pub fn link(&self, register: v1::Register, to_server: mpsc::Sender<ToServer>) -> Link {
        let (servers, links) = &mut *self.lock();
        *links += 1;
        let link = Link(*links);
        let same = |known: &&Known| known.register.process_id == register.process_id;
        let draining = servers.get(&register.name).filter(same).is_some_and(|known| known.draining);
        let known = Known { link, to_server: Some(to_server), away_since_ms: 0, bytes: 0, draining, register };
        servers.insert(known.register.name.clone(), known);
        link
    }

    /// Takes note of a broken link. False if a later one is in force.
    pub fn unlink(&self, name: &str, link: Link) -> bool {
        let (servers, _) = &mut *self.lock();
        match servers.get_mut(name).filter(|known| known.link == link) {
            Some(known) => {
                known.to_server = None;
                known.away_since_ms = boot_ms();
                true
            }
            None => false,
        }
    }

    /// Records what a heartbeat says.
    pub fn heartbeat(&self, name: &str, heartbeat: &v1::ServerHeartbeat) {
        if let Some(known) = self.lock().0.get_mut(name) {
            known.bytes = heartbeat.bytes.values().sum();
        }
    }

    /// Sends a message to a server; a server that is away or does not read hears of it when it links again.
    pub fn send(&self, name: &str, message: ToServer) {
        let (servers, _) = &mut *self.lock();
        if let Some(known) = servers.get_mut(name)
            && let Some(to_server) = &known.to_server
            && to_server.try_send(message).is_err()
        {
            known.to_server = None;
        }
    }

    /// Ends all links.
    pub fn end(&self) {
        self.lock().0.values_mut().for_each(|known| known.to_server = None);
    }

    /// The servers whose links stand: name and address.
    pub fn up(&self) -> Vec<(String, String)> {
        let up = |known: &&Known| known.to_server.is_some();
        let pair = |known: &Known| (known.register.name.clone(), known.register.address.clone());
        self.lock().0.values().filter(up).map(pair).collect()
    }

    /// Lets a server get no more shards, or get some again.
    pub fn drain(&self, name: &str, draining: bool) {
        if let Some(known) = self.lock().0.get_mut(name) {
            known.draining = draining;
        }
    }

    /// What the servers have to bear; `shards` counts those of each.
    pub fn loads(&self, shards: &HashMap<String, u32>) -> Loads {
        let load = |known: &Known| Load {
            zone: known.register.zone.clone(),
            shards: shards.get(&known.register.name).copied().unwrap_or(0),
            bytes: known.bytes,
            draining: known.draining,
        };
        self.lock().0.iter().map(|(name, known)| (name.clone(), load(known))).collect()
    }

    /// The servers that did not come back in time.
    pub fn gone(&self) -> Vec<String> {
        let patience = (self.lease + self.return_wait).as_millis() as i64;
        let gone = |known: &&Known| known.to_server.is_none() && boot_ms() - known.away_since_ms > patience;
        self.lock().0.values().filter(gone).map(|known| known.register.name.clone()).collect()
    }

    /// The servers, for people; `shards` counts those of each.
    pub fn list(&self, shards: &HashMap<String, u32>) -> Vec<v1::ServerInfo> {
        let info = |known: &Known| v1::ServerInfo {
            name: known.register.name.clone(),
            address: known.register.address.clone(),
            disk_id: known.register.disk_id.clone(),
            boot_id: known.register.boot_id.clone(),
            connected: known.to_server.is_some(),
            draining: known.draining,
            shards: shards.get(&known.register.name).copied().unwrap_or(0),
            bytes: known.bytes,
            zone: known.register.zone.clone(),
            version: known.register.version.clone(),
        };
        self.lock().0.values().map(info).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (BTreeMap<String, Known>, u64)> {
        self.state.lock().expect("no panics under this lock")
    }
}
