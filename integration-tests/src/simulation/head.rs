//! The coordinator's writes of the job head: the rule of `server/src/coordinator/head.rs`, without I/O.
//!
//! A write whose answer is lost is settled by a further conditional write alone: if that succeeds, the
//! lost one can never land any more; if it conflicts, the head on top tells by its write id whose it is.

use forebay_proto::v1;

use super::{
    coordinator::Timer as CoordinatorTimer,
    env::Env,
    schedule::{Life, NodeId, Timer},
    store::PutAnswer,
};

const WRITE_IDS: usize = 8;

/// What has become of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It is in force.
    InForce,
    /// Another coordinator's head stands there.
    Foreign,
}

/// A job head and the version that this coordinator last saw of it.
#[derive(Debug)]
pub struct HeadFile {
    life: Life,
    version: u64,
    write_ids: Vec<String>,
    head: Option<v1::JobHead>,
    tried: Vec<String>,
    trying: Vec<String>,
    numbers: u64,
}

impl HeadFile {
    /// Takes up the head as it was read.
    pub fn new(life: Life, version: u64, head: &v1::JobHead) -> Self {
        let write_ids = head.write_ids.clone();
        Self { life, version, write_ids, head: None, tried: Vec::new(), trying: Vec::new(), numbers: 0 }
    }

    /// Writes a head on top of the last one.
    pub fn write(&mut self, env: &mut Env, head: v1::JobHead) {
        self.tried.clear();
        self.head = Some(head);
        self.attempt(env);
    }

    fn attempt(&mut self, env: &mut Env) {
        let Some(head) = &self.head else { return };
        self.numbers += 1;
        let id = format!("{}-{}", self.life.0, self.numbers);
        self.trying = self.write_ids.clone();
        self.trying.push(id.clone());
        self.trying.drain(..self.trying.len().saturating_sub(WRITE_IDS));
        self.tried.push(id);
        let stored = v1::JobHead { write_ids: self.trying.clone(), ..head.clone() };
        env.put_head(self.life, self.numbers, self.version, stored);
    }

    /// Takes the answer to an attempt.
    pub fn answered(&mut self, env: &mut Env, number: u64, answer: PutAnswer) -> Option<Settled> {
        if number != self.numbers {
            return None;
        }
        match answer {
            PutAnswer::Done(version) => {
                self.version = version;
                self.write_ids = std::mem::take(&mut self.trying);
                return Some(Settled::InForce);
            }
            PutAnswer::Conflict => self.settle_later(env),
            PutAnswer::Unknown => {
                let delay = env.rng.within(50_000..400_000);
                self.wake(env, delay, CoordinatorTimer::HeadAgain(number));
            }
        }
        None
    }

    /// Tries once more what is not known.
    pub fn again(&mut self, env: &mut Env, number: u64) {
        if number == self.numbers {
            self.attempt(env);
        }
    }

    /// Reads the head on top.
    pub fn settle(&mut self, env: &mut Env, number: u64) -> Option<Settled> {
        if number != self.numbers {
            return None;
        }
        if !env.store_up() {
            self.settle_later(env);
            return None;
        }
        let top = &env.store.head;
        let ours = top.write_ids.last().is_some_and(|top| self.tried.contains(top));
        (self.version, self.write_ids) = (env.store.version, top.write_ids.clone());
        env.note(format_args!("head settled by reading: ours {ours}"));
        env.faults.hit(if ours { "ambiguous head settled" } else { "foreign head found" });
        Some(if ours { Settled::InForce } else { Settled::Foreign })
    }

    fn settle_later(&self, env: &mut Env) {
        let delay = env.rng.within(1_000..100_000);
        self.wake(env, delay, CoordinatorTimer::HeadRead(self.numbers));
    }

    fn wake(&self, env: &mut Env, delay_us: i64, timer: CoordinatorTimer) {
        env.timer(NodeId::Coordinator, self.life, delay_us, Timer::Coordinator(timer));
    }
}
