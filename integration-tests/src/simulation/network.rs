//! The network: connections that deliver in order, and lose messages only by breaking.
//!
//! When a connection breaks, each side learns of it in its own time. What was on its way may still arrive
//! until then, or not: so a request may be done and its answer lost, and what an old connection still
//! holds may arrive behind what came over a new one.

use std::collections::BTreeMap;

use forebay_proto::{reason::Refused, v1};

use super::{
    env::Env,
    schedule::{Happening, Life, NodeId},
};

/// A connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// One end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Who connected.
    Client,
    /// Who was connected to.
    Server,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// What is sent.
#[derive(Debug, Clone)]
pub enum Message {
    /// A server to the coordinator.
    LinkUp(v1::link_request::Message),
    /// The coordinator to a server.
    LinkDown(v1::link_response::Message),
    /// A worker to the coordinator.
    JoinUp(v1::join_request::Message),
    /// The coordinator to a worker.
    JoinDown(v1::join_response::Message),
    /// A worker to a server.
    StreamUp(v1::stream_request::Message),
    /// A server to a worker.
    StreamDown(v1::stream_response::Message),
    /// A call fails with this status.
    Refused(Refused),
}

impl Message {
    /// Returns what the message is, for the trace.
    pub fn name(&self) -> String {
        use v1::{stream_request::Message as Up, stream_response::Message as Down};
        match self {
            Self::StreamUp(Up::Batch(batch)) => {
                let ops = batch.ops.as_ref().map_or(0, |ops| ops.kinds.len());
                let barrier = batch.barrier.as_ref().map_or(0, |barrier| barrier.checkpoint);
                format!("batch {:?} ops {ops} barrier {barrier} writer {}", batch.order, batch.writer_epoch)
            }
            Self::StreamDown(Down::Answer(answer)) => {
                let applied = answer.progress.map_or(0, |progress| progress.applied);
                format!("answer {:x} applied {applied} duplicate {}", answer.id, answer.duplicate)
            }
            Self::StreamDown(Down::Refusal(refusal)) => {
                format!("refusal {:x} channel {} {:?}", refusal.id, refusal.channel, refusal.reason())
            }
            Self::StreamUp(Up::OpenLane(open)) => {
                format!(
                    "open lane [{},{}) writer {} acked {}",
                    open.start, open.end, open.writer_epoch, open.acknowledged
                )
            }
            Self::StreamDown(Down::LaneOpened(opened)) => {
                let applied = opened.progress.map_or(0, |progress| progress.applied);
                format!("lane opened incarnation {} applied {applied}", opened.incarnation)
            }
            Self::StreamUp(up) => variant(up),
            Self::StreamDown(down) => variant(down),
            Self::LinkUp(up) => link_up(up),
            Self::LinkDown(down) => variant(down),
            Self::JoinUp(up) => variant(up),
            Self::JoinDown(v1::join_response::Message::Assignment(assignment)) => {
                let (generation, restored) = (assignment.generation, assignment.restored_checkpoint);
                format!("assignment generation {generation} restored {restored} shards {}", assignment.shards.len())
            }
            Self::JoinDown(v1::join_response::Message::Rewinding(rewinding)) => {
                format!("rewinding to {} because {}", rewinding.checkpoint, rewinding.cause)
            }
            Self::JoinDown(down) => variant(down),
            Self::Refused(refused) => format!("refused {:?} {}", refused.reason, refused.message),
        }
    }
}

fn link_up(up: &v1::link_request::Message) -> String {
    match up {
        v1::link_request::Message::Applied(applied) => {
            let shards = applied.shards.iter().map(|shard| (shard.start, shard.incarnation, shard.status()));
            format!("applied {} {:?}", applied.version, shards.collect::<Vec<_>>())
        }
        other => variant(other),
    }
}

/// The name of an enum's variant. Maps in messages have no order, so nothing else is shown.
fn variant(message: &impl std::fmt::Debug) -> String {
    let text = format!("{message:?}");
    text.split(['(', ' ', '{']).next().unwrap_or_default().to_owned()
}

#[derive(Debug)]
struct Connection {
    ends: [(NodeId, Option<Life>); 2],
    /// When the last message to each side arrives.
    floor_us: [i64; 2],
    /// True while the side believes in the connection.
    open: [bool; 2],
    /// True if nothing arrives at that side any more.
    cut: [bool; 2],
    broken: bool,
}

/// All connections.
#[derive(Debug, Default)]
pub struct Network {
    connections: BTreeMap<ConnectionId, Connection>,
    last: u64,
    /// Pairs of nodes that cannot reach each other, and until when.
    parted: BTreeMap<(NodeId, NodeId), i64>,
}

impl Network {
    /// Returns the node of a side.
    pub fn node(&self, id: ConnectionId, side: Side) -> Option<NodeId> {
        self.connections.get(&id).map(|connection| connection.ends[side as usize].0)
    }

    /// Returns the connections whose sides both believe in them.
    pub fn standing(&self) -> Vec<ConnectionId> {
        let standing = |connection: &Connection| connection.open == [true; 2] && !connection.broken;
        self.connections.iter().filter(|(_, connection)| standing(connection)).map(|(id, _)| *id).collect()
    }

    /// Ends all partitions.
    pub fn heal(&mut self) {
        self.parted.clear();
    }

    /// Takes a message or an end that arrives; false if the side is past it. The life is that of the
    /// process it is for, `None` for a server that has not heard of the connection yet.
    pub fn arrives(&mut self, id: ConnectionId, side: Side, end: bool) -> Option<Option<Life>> {
        let connection = self.connections.get_mut(&id)?;
        let at = side as usize;
        if !connection.open[at] || (connection.cut[at] && !end) {
            return None;
        }
        let life = connection.ends[at].1;
        if end {
            connection.open[at] = false;
            self.forget(id);
        }
        Some(life)
    }

    /// Records which process has taken up a connection.
    pub fn accepted(&mut self, id: ConnectionId, life: Life) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.ends[Side::Server as usize].1 = Some(life);
        }
    }

    fn forget(&mut self, id: ConnectionId) {
        if self.connections.get(&id).is_some_and(|connection| connection.open == [false; 2]) {
            self.connections.remove(&id);
        }
    }
}

impl Env {
    /// Connects a process to a node. Whether anybody is there shows later.
    pub fn connect(&mut self, from: NodeId, life: Life, to: NodeId) -> ConnectionId {
        self.net.last += 1;
        let id = ConnectionId(self.net.last);
        let pair = (from.min(to), from.max(to));
        let parted = self.net.parted.get(&pair).is_some_and(|until| *until > self.now_us);
        let connection = Connection {
            ends: [(from, Some(life)), (to, None)],
            floor_us: [self.now_us; 2],
            open: [true; 2],
            cut: [parted; 2],
            broken: parted,
        };
        self.net.connections.insert(id, connection);
        if parted {
            let delay = self.rng.within(10_000..200_000);
            self.later(delay, Happening::Closed(id, Side::Client));
        }
        id
    }

    /// Sends a message from a side; false if the side knows that the connection is over.
    pub fn send(&mut self, id: ConnectionId, from: Side, message: Message) -> bool {
        let delay = self.latency();
        let Some(connection) = self.net.connections.get_mut(&id) else { return false };
        if !connection.open[from as usize] {
            return false;
        }
        if !connection.broken {
            let to = from.other();
            let floor = &mut connection.floor_us[to as usize];
            *floor = (*floor + 1).max(self.now_us + delay);
            let at_us = *floor;
            self.at(at_us, Happening::Deliver(id, to, Box::new(message)));
        }
        true
    }

    /// Ends a connection from a side. The other side learns of it behind everything that was sent.
    pub fn close(&mut self, id: ConnectionId, side: Side) {
        let delay = self.latency();
        let Some(connection) = self.net.connections.get_mut(&id) else { return };
        if !connection.open[side as usize] {
            return;
        }
        connection.open[side as usize] = false;
        if !connection.broken {
            let to = side.other();
            let at_us = (connection.floor_us[to as usize] + 1).max(self.now_us + delay);
            connection.floor_us[to as usize] = at_us;
            self.at(at_us, Happening::Closed(id, to));
        }
        self.net.forget(id);
    }

    /// Ends what a server says on a connection. It still hears what the client had sent until it knew.
    pub fn hang_up(&mut self, id: ConnectionId) {
        let (delay, more) = (self.latency(), self.latency());
        let Some(connection) = self.net.connections.get_mut(&id) else { return };
        if connection.broken {
            return;
        }
        let floor = &mut connection.floor_us[Side::Client as usize];
        *floor = (*floor + 1).max(self.now_us + delay);
        let at_us = *floor;
        self.at(at_us, Happening::Closed(id, Side::Client));
        self.at(at_us + more, Happening::Closed(id, Side::Server));
    }

    /// Breaks a connection.
    pub fn break_connection(&mut self, id: ConnectionId) {
        let cut = [self.rng.one_in(2), self.rng.one_in(2)];
        let delays = [self.rng.within(1_000..150_000), self.rng.within(1_000..150_000)];
        let Some(connection) = self.net.connections.get_mut(&id) else { return };
        if std::mem::replace(&mut connection.broken, true) {
            return;
        }
        connection.cut = cut;
        for (side, delay) in [Side::Client, Side::Server].into_iter().zip(delays) {
            self.later(delay, Happening::Closed(id, side));
        }
    }

    /// Delays everything of a connection.
    pub fn stall(&mut self, id: ConnectionId, for_us: i64) {
        if let Some(connection) = self.net.connections.get_mut(&id) {
            connection.floor_us.iter_mut().for_each(|floor| *floor = (*floor).max(self.now_us + for_us));
        }
    }

    /// Parts two nodes for a while: connections break and none can be made.
    pub fn part(&mut self, one: NodeId, other: NodeId, for_us: i64) {
        self.net.parted.insert((one.min(other), one.max(other)), self.now_us + for_us);
        let between = |connection: &Connection| {
            let ends = connection.ends.map(|(node, _)| node);
            ends == [one, other] || ends == [other, one]
        };
        let ids: Vec<_> = self.net.connections.iter().filter(|(_, it)| between(it)).map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.break_connection(id));
    }

    /// Ends all connections of a process that has died. What it had sent may still arrive, or not.
    pub fn process_died(&mut self, node: NodeId, life: Life) {
        let of_process = |connection: &Connection| connection.ends.contains(&(node, Some(life)));
        let ids: Vec<_> = self.net.connections.iter().filter(|(_, it)| of_process(it)).map(|(id, _)| *id).collect();
        for id in ids {
            let cut = self.rng.one_in(2);
            let Some(connection) = self.net.connections.get_mut(&id) else { continue };
            let side = if connection.ends[0] == (node, Some(life)) { Side::Client } else { Side::Server };
            connection.cut[side.other() as usize] |= cut;
            self.close(id, side);
        }
    }

    fn latency(&mut self) -> i64 {
        let usual = self.settings.latency_us;
        let slow = if self.rng.one_in(50) { 20 } else { 1 };
        self.rng.within(usual / 4..2 * usual * slow)
    }
}
