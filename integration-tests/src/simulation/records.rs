//! What a worker does with a record: the loop that a user writes, through the real [`Cache`] or without.

use forebay_client::{
    cache::{At, Cache, Reading},
    lane::{Outcome, Write},
};
use forebay_proto::{
    codec::{Codec as _, I64, U64},
    merge::MergeFunction,
    packed::{Answers, Op, OpsBuilder},
    v1,
};
use v1::OpKind;

use super::{
    env::Env,
    input::{self, Record, key_bytes},
    session::{Session, Timer, Waiter},
};

const READ_WAIT_MS: u64 = 30_000;
/// Batches of a lane that are not acknowledged, beyond which records wait.
const PENDING_MAX: usize = 200;

impl Session {
    /// Processes some records, as many as the seed says.
    pub(super) fn step(&mut self, env: &mut Env, lease: bool) {
        let records = 1 + env.rng.below(env.settings.burst);
        let ready = self.has_sources(env);
        for _ in 0..records {
            let behind = self.lanes.all.iter().map(|driven| driven.lane.pending()).max().unwrap_or(0);
            if !lease || !ready || self.barrier.is_some() || self.ended().is_some() || behind > PENDING_MAX {
                break;
            }
            self.next_record(env);
        }
        let left = |(partition, offset): (&u32, &u64)| env.oracle.input.record(*partition, *offset).is_some();
        if self.positions.iter().any(left) {
            let delay = env.rng.within(1..2 * env.settings.step_us);
            self.wake(env, delay, Timer::Step);
        }
    }

    fn next_record(&mut self, env: &mut Env) {
        let free: Vec<_> = self.positions.iter().filter(|(it, _)| !self.in_progress.contains_key(it)).collect();
        if free.is_empty() {
            return;
        }
        let (&partition, &offset) = free[env.rng.index(free.len())];
        let Some(record) = env.oracle.input.record(partition, offset) else { return };
        // One record of a key at a time, as a user's code would see to.
        if self.in_progress.values().any(|other| other.key == record.key) {
            return;
        }
        let Some(shard) = self.shard(&key_bytes(record.key)) else {
            // Its shard does not stand yet; once it is leased to this worker, another session begins.
            return;
        };
        if self.contains(shard, partition, offset) {
            self.positions.insert(partition, offset + 1);
            return self.advance(partition, offset + 1);
        }
        if record.chained() && !self.knows_chain(&record) {
            return self.read_chain(env, record);
        }
        self.process(env, &record, None);
    }

    /// The shard of a key; `None` if the worker does not hold it.
    fn shard(&self, key: &[u8]) -> Option<usize> {
        let group = self.table.key_group(key, None);
        group.and_then(|group| self.table.shard(group)).ok()
    }

    fn state(&self, name: &str) -> u32 {
        self.states.get(name).copied().expect("states are registered before they are used")
    }

    fn knows_chain(&mut self, record: &Record) -> bool {
        let key = key_bytes(record.key);
        let at = self.at(input::CHAIN, &key);
        self.cache.as_mut().is_some_and(|cache| cache.value(at).is_some())
    }

    fn at<'a>(&self, state: &str, key: &'a [u8]) -> At<'a> {
        At {
            state: self.state(state),
            key,
            namespace: b"",
            shard: self.shard(key).expect("records of others are not taken"),
            key_group: None,
        }
    }

    fn read_chain(&mut self, env: &mut Env, record: Record) {
        let key = key_bytes(record.key);
        let at = self.at(input::CHAIN, &key);
        let reading = self.cache.as_mut().map(|cache| cache.read_value(at));
        let mut ops = OpsBuilder::new();
        ops.push(&Op::new(OpKind::ValueGet, at.state, &key));
        let ticket = self.lanes.all[at.shard].lane.read(ops.finish(), READ_WAIT_MS);
        self.waiters.insert((at.shard, ticket), Waiter::Read(record, reading));
        self.in_progress.insert(record.partition, record);
        self.settle(env, at.shard);
    }

    /// Does what a record does; without a cache `chain` is what was read for it.
    fn process(&mut self, env: &mut Env, record: &Record, chain: Option<u64>) {
        let key = key_bytes(record.key);
        let [list, sum, value] = [input::LIST, input::SUM, input::CHAIN].map(|name| self.at(name, &key));
        let amount = I64::to_bytes(&record.amount).expect("numbers can be written");
        let next = |chain: u64| input::link(chain, record.partition, record.offset);
        let write = |chain: u64| U64::to_bytes(&next(chain)).expect("numbers can be written");
        self.positions.insert(record.partition, record.offset + 1);
        self.advance(record.partition, record.offset + 1);
        let now_ms = env.now_ms().cast_unsigned();
        if let Some(cache) = &mut self.cache {
            if record.chained() {
                let known = cache.value(value).flatten().and_then(|bytes| U64::decode(bytes).ok());
                cache.value_put(value, Some(&write(known.unwrap_or(0))), now_ms);
            }
            cache.list_append(list, [record.element().to_vec().into()], now_ms);
            cache.reducing_add(sum, MergeFunction::SumI64, &amount, now_ms);
            if env.rng.one_in(64) || self.cache.as_ref().is_some_and(Cache::wants_flush) {
                self.send_unsent(env, u64::MAX);
            }
            return;
        }
        let (element, put) = (record.element(), write(chain.unwrap_or(0)));
        let mut ops = vec![
            Op::new(OpKind::ListAppend, list.state, &key).with_value(&element),
            Op::new(OpKind::ReducingAdd, sum.state, &key).with_value(&amount),
        ];
        if record.chained() {
            ops.push(Op::new(OpKind::ValuePut, value.state, &key).with_value(&put));
        }
        let whole = env.settings.keeps_positions;
        let apart = env.rng.one_in(2) && !whole;
        for ops in ops.chunks(if apart { 1 } else { ops.len() }) {
            let mut builder = OpsBuilder::new();
            ops.iter().for_each(|op| builder.push(op));
            if whole {
                self.write_whole(env, list.shard, Some(builder.finish()));
            } else {
                self.write_behind(list.shard, builder.finish());
            }
        }
        self.settle(env, list.shard);
    }

    /// Sends a batch for which nobody waits.
    pub(super) fn write_behind(&mut self, shard: usize, ops: v1::PackedOps) {
        let ticket = self.lanes.all[shard].lane.write(Write { ops: Some(ops), ..Write::default() });
        self.waiters.insert((shard, ticket), Waiter::Behind);
    }

    /// Goes on with a record whose chain was read.
    pub(super) fn chain_read(&mut self, env: &mut Env, record: Record, reading: Option<Reading>, outcome: Outcome) {
        self.in_progress.remove(&record.partition);
        let answer = match outcome {
            Outcome::Read(answer) => Answers::decode(answer.answers.unwrap_or_default()).ok(),
            Outcome::Refused(refused) => {
                self.end(refused.into());
                None
            }
            _ => None,
        };
        let Some(value) = answer.and_then(|answers| Some(answers.get(0)?.value())) else { return };
        let chain = value.as_ref().and_then(|bytes| U64::decode(bytes).ok());
        if let (Some(cache), Some(reading)) = (&mut self.cache, reading) {
            cache.fill_value(reading, value.as_deref());
        }
        self.process(env, &record, chain);
    }
}
