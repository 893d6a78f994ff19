//! A barrier on its way through a session: drain, flush, a barrier on every lane, report.

use std::collections::BTreeMap;

use forebay_client::lane::Outcome;
use forebay_proto::{reason::Refused, v1};
use v1::ErrorReason as Reason;

use super::{
    env::Env,
    faults::Moment,
    input,
    schedule::NodeId,
    session::{Said, Session, Timer},
    settings::OPERATOR,
};

/// A barrier that a session serves.
#[derive(Debug)]
pub struct Barrier {
    barrier: v1::Barrier,
    /// The positions at the barrier, once no record is in progress.
    positions: Option<BTreeMap<u32, u64>>,
    /// Shards that have not answered.
    left: usize,
    refused: Option<Refused>,
}

impl Session {
    pub(super) fn begin_barrier(&mut self, env: &mut Env, barrier: v1::Barrier) {
        let delay = env.rng.within(1_000_000..4_000_000);
        self.wake(env, delay, Timer::BarrierLate(barrier.round.clone()));
        self.barrier = Some(Barrier { barrier, positions: None, left: 0, refused: None });
    }

    /// Flushes and sends the barrier, once no record is in progress.
    pub(super) fn send_barrier(&mut self, env: &mut Env) {
        let shards = self.lanes.all.len();
        let positions = self.positions.clone();
        let Some(sent) = self.barrier.as_mut().filter(|sent| sent.positions.is_none()) else { return };
        (sent.positions, sent.left) = (Some(positions), shards);
        let barrier = v1::BarrierOp {
            checkpoint: sent.barrier.checkpoint,
            round: sent.barrier.round.clone(),
            base: sent.barrier.base,
            coordinator_epoch: sent.barrier.coordinator_epoch,
        };
        env.faults.moment(Moment::Barrier);
        if self.send_unsent(env, u64::MAX) {
            env.oracle.wrong("a flush waits for a read, though no record is in progress".into());
        }
        for shard in 0..shards {
            self.write_barrier(env, shard, barrier.clone());
        }
    }

    pub(super) fn barrier_answered(&mut self, round: &str, outcome: Outcome) {
        let Some(sent) = self.barrier.as_mut().filter(|sent| sent.barrier.round == round) else { return };
        sent.left = sent.left.saturating_sub(1);
        match outcome {
            Outcome::Written { .. } => {}
            Outcome::Refused(refused) | Outcome::Ended(refused) => drop(sent.refused.get_or_insert(refused)),
            _ => {
                let withdrawn = Refused::new(Reason::CheckpointAborted, "the barrier was withdrawn");
                sent.refused.get_or_insert(withdrawn);
            }
        }
    }

    /// Gives up on a barrier.
    pub(super) fn barrier_late(&mut self, round: &str) {
        if let Some(sent) = self.barrier.as_mut().filter(|sent| sent.barrier.round == round) {
            sent.left = 0;
            sent.positions.get_or_insert_default();
            sent.refused = Some(Refused::new(Reason::CheckpointAborted, "the barrier took too long"));
        }
    }

    /// Reports, once every shard has answered.
    pub(super) fn finish_barrier(&mut self, worker: usize) -> Option<Said> {
        let sent = self.barrier.take_if(|sent| sent.positions.is_some() && sent.left == 0)?;
        if let Some(refused) = self.failure.clone() {
            self.end(refused.into());
        }
        if self.ended().is_some() {
            return None;
        }
        let v1::Barrier { checkpoint, round, coordinator_epoch, generation, stop, .. } = sent.barrier;
        if let Some(refused) = sent.refused {
            return Some(Said::Decline(v1::Decline { checkpoint, round, cause: refused.message }));
        }
        // A source's position is in its shards, or it is the worker's.
        let elements = sent.positions.into_iter().flatten().filter(|_| self.kept.is_none());
        let list = v1::WorkerList {
            name: "positions".into(),
            redistribution: v1::Redistribution::Union.into(),
            elements: elements.map(|(partition, offset)| input::element(partition, offset).to_vec().into()).collect(),
        };
        let state = v1::WorkerState {
            worker: NodeId::Worker(worker).name(),
            operator: OPERATOR.into(),
            index: self.worker_index,
            lists: if self.kept.is_none() { vec![list] } else { Vec::new() },
        };
        let state = Some(state);
        let report = v1::BarrierReport { checkpoint, round, coordinator_epoch, generation, state, stopped: stop };
        Some(Said::Report(report))
    }
}
