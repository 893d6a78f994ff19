//! What happens when: a queue by virtual time, ties broken by the seed.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
};

use super::{
    coordinator,
    network::{ConnectionId, Message, Side},
    server,
    store::Put,
    worker,
};

/// A node of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeId {
    /// The coordinator.
    Coordinator,
    /// A server.
    Server(usize),
    /// A worker.
    Worker(usize),
}

impl NodeId {
    /// Returns the node's name.
    pub fn name(self) -> String {
        match self {
            Self::Coordinator => "coordinator".into(),
            Self::Server(index) => format!("s{index}"),
            Self::Worker(index) => format!("w{index}"),
        }
    }
}

/// One process of a node; what was meant for an earlier one is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Life(pub u64);

/// What happens.
#[derive(Debug)]
pub enum Happening {
    /// A message arrives.
    Deliver(ConnectionId, Side, Box<Message>),
    /// A side learns that its connection is over.
    Closed(ConnectionId, Side),
    /// A process wakes up to something it waited for.
    Timer(NodeId, Life, Timer),
    /// A conditional write reaches the object store.
    Landed(Box<Put>),
    /// It is time for a fault.
    Fault,
    /// A node's process is started.
    Start(NodeId),
    /// The former coordinator's process ends.
    Retire,
    /// A paused process goes on.
    Resume(NodeId),
    /// From here on nothing fails any more.
    Heal,
}

/// What a process waited for.
#[derive(Debug)]
pub enum Timer {
    /// Of the coordinator.
    Coordinator(coordinator::Timer),
    /// Of a server.
    Server(server::Timer),
    /// Of a worker.
    Worker(worker::Timer),
}

#[derive(Debug)]
struct Entry {
    at_us: i64,
    tie: u64,
    number: u64,
    happening: Happening,
}

impl Entry {
    fn key(&self) -> (i64, u64, u64) {
        (self.at_us, self.tie, self.number)
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// What will happen, soonest first.
#[derive(Debug, Default)]
pub struct Queue {
    entries: BinaryHeap<Reverse<Entry>>,
    number: u64,
}

impl Queue {
    /// Adds something; `tie` decides between what happens at the same time.
    pub fn push(&mut self, at_us: i64, tie: u64, happening: Happening) {
        self.number += 1;
        self.entries.push(Reverse(Entry { at_us, tie, number: self.number, happening }));
    }

    /// Takes what happens next.
    pub fn pop(&mut self) -> Option<(i64, Happening)> {
        self.entries.pop().map(|Reverse(entry)| (entry.at_us, entry.happening))
    }
}
