//! Batches in the making, one open per shard.

use std::collections::BTreeMap;

use forebay_proto::{
    packed::{Op, OpsBuilder},
    v1::PackedOps,
};

use super::BatchLimits;

#[derive(Debug)]
pub(super) struct Batches {
    limits: BatchLimits,
    full: Vec<(usize, PackedOps)>,
    open: BTreeMap<usize, OpsBuilder>,
}

impl Batches {
    pub(super) fn new(limits: BatchLimits) -> Self {
        Self { limits, full: Vec::new(), open: BTreeMap::new() }
    }

    pub(super) fn push(&mut self, shard: usize, op: &Op<'_>) {
        let builder = self.open.entry(shard).or_default();
        builder.push(op);
        if builder.len() >= self.limits.ops_max || builder.bytes() >= self.limits.bytes {
            self.full.push((shard, std::mem::take(builder).finish()));
        }
    }

    /// Number of batches that nothing is added to any more.
    pub(super) fn full(&self) -> usize {
        self.full.len()
    }

    /// Returns the batches; those of a shard are in order.
    pub(super) fn finish(mut self) -> Vec<(usize, PackedOps)> {
        let open = self.open.into_iter().filter(|(_, builder)| !builder.is_empty());
        self.full.extend(open.map(|(shard, builder)| (shard, builder.finish())));
        self.full
    }
}
