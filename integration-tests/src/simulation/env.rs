//! What all nodes of a world share: time, chance, the network, the object store, and who watches.

use super::{
    faults::Faults,
    network::Network,
    oracle::Oracle,
    rng::Rng,
    schedule::{Happening, Life, NodeId, Queue, Timer},
    settings::Settings,
    store::Store,
    trace::Trace,
};

/// The surroundings of every node.
pub struct Env {
    /// Virtual time in microseconds.
    pub now_us: i64,
    /// The seed's random numbers.
    pub rng: Rng,
    /// What happened.
    pub trace: Trace,
    /// The network.
    pub net: Network,
    /// The object store.
    pub store: Store,
    /// Who watches.
    pub oracle: Oracle,
    /// What may go wrong, and what did.
    pub faults: Faults,
    /// What the seed has chosen.
    pub settings: Settings,
    /// Milliseconds by which wall clocks are wrong.
    pub wall_off_ms: i64,
    queue: Queue,
    lives: u64,
}

impl Env {
    /// Makes an empty world's surroundings.
    pub fn new(rng: Rng, trace: Trace, faults: Faults, settings: Settings, oracle: Oracle) -> Self {
        Self {
            now_us: 0,
            rng,
            trace,
            net: Network::default(),
            store: Store::default(),
            oracle,
            faults,
            settings,
            wall_off_ms: 0,
            queue: Queue::default(),
            lives: 0,
        }
    }

    /// Virtual time in milliseconds.
    pub fn now_ms(&self) -> i64 {
        self.now_us / 1000
    }

    /// What wall clocks show.
    pub fn wall_ms(&self) -> i64 {
        1_700_000_000_000 + self.now_ms() + self.wall_off_ms
    }

    /// Lets something happen at a time.
    pub fn at(&mut self, at_us: i64, happening: Happening) {
        let tie = self.rng.next();
        self.queue.push(at_us.max(self.now_us), tie, happening);
    }

    /// Lets something happen after a while.
    pub fn later(&mut self, delay_us: i64, happening: Happening) {
        self.at(self.now_us + delay_us, happening);
    }

    /// Wakes a process after a while.
    pub fn timer(&mut self, node: NodeId, life: Life, delay_us: i64, timer: Timer) {
        self.later(delay_us, Happening::Timer(node, life, timer));
    }

    /// Names a new process.
    pub fn new_life(&mut self) -> Life {
        self.lives += 1;
        Life(self.lives)
    }

    /// Moves on to what happens next.
    pub fn next(&mut self) -> Option<Happening> {
        let (at_us, happening) = self.queue.pop()?;
        self.now_us = at_us;
        Some(happening)
    }

    /// Adds to the trace.
    pub fn note(&mut self, line: std::fmt::Arguments<'_>) {
        self.trace.line(self.now_us, line);
    }
}
