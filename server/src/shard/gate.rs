//! The gate: may this request do what it asks, and was it done before? Pure.
//!
//! The order of checks is a promise (semantics.md, section 3): the server's own right to the shard,
//! incarnation and generation, *duplicate*, the writer's epoch, and only then what the request means.
//! A resend of a batch that was applied is told so even if its writer has been fenced since: "fenced"
//! always means that the batch had no effect.

use forebay_proto::{reason::Refused, v1};
use v1::ErrorReason as Reason;

use super::lanes::{LaneId, Lanes, Order};
use crate::seeded::{self, Bug};

/// What the shard may do, as the coordinator granted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    /// Who may write.
    pub access: v1::Access,
    /// The job's generation.
    pub generation: u64,
    /// Checkpoint that the generation started from.
    pub restored_checkpoint: u64,
    /// The shard's epoch.
    pub shard_epoch: u64,
    /// Counts the shard's restores.
    pub incarnation: u64,
    /// The highest writer epoch granted.
    pub writer_epoch: u64,
    /// True if that writer's grant stands.
    pub leased: bool,
    /// True once the coordinator has recorded that this incarnation stands here; before that it may be
    /// made anew at any time, so nothing is served.
    pub established: bool,
    /// True once it is to leave this server: what it holds is stored as it is, so nothing is served.
    pub leaving: bool,
}

/// Who asks, and what it knows of the shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Generation of the job as the caller knows it; 0 means any, for shared operators.
    pub generation: u64,
    /// Epoch of the shard; 0 means any, for unary calls.
    pub shard_epoch: u64,
    /// Epoch of the caller's lease; 0 for shared operators.
    pub writer_epoch: u64,
    /// The stream it came by; 0 for unary calls.
    pub stream: u64,
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// A write batch of a lane.
    Write {
        /// The lane.
        lane: LaneId,
        /// Its number.
        seq: u64,
        /// Digest of its content.
        digest: u64,
        /// True if it ends with a barrier.
        barrier: bool,
    },
    /// A read batch of a lane.
    Read {
        /// The lane.
        lane: LaneId,
        /// The mark it wants to see.
        after: u64,
    },
    /// A write outside any lane.
    PlainWrite,
    /// A read outside any lane.
    PlainRead,
    /// The opening or attaching of a lane.
    Lane,
}

/// The gate's answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Pass {
    /// Go on.
    Go,
    /// It was applied before: answer so.
    Duplicate,
}

/// Checks a request. `lease` is whether the server's own lease is valid now.
pub fn check(rights: &Rights, lanes: &Lanes, lease: bool, caller: &Caller, ask: Ask) -> Result<Pass, Refused> {
    own_right(lease)?;
    position(rights, caller)?;
    let order = lane_order(lanes, caller, ask)?;
    if order == Some(Order::Duplicate) {
        return Ok(Pass::Duplicate);
    }
    writer(rights, caller, ask)?;
    sequence(order, ask)
}

/// The server's own right: checked before anything is done and again before it is answered.
pub fn own_right(lease: bool) -> Result<(), Refused> {
    if lease {
        return Ok(());
    }
    Err(Refused::new(Reason::LeaseExpired, "the server's lease has run out: retry until it is renewed"))
}

/// Whether the shard may serve anything at all.
pub fn in_service(rights: &Rights) -> Result<(), Refused> {
    if !rights.established {
        return Err(super::soon("the shard has just been made: retry in a moment"));
    }
    if rights.leaving && !seeded::is(Bug::ServesWhileItLeaves) {
        return Err(super::soon("the shard is on its way to another server: retry in a moment"));
    }
    Ok(())
}

fn position(rights: &Rights, caller: &Caller) -> Result<(), Refused> {
    in_service(rights)?;
    if rights.access == v1::Access::Leased && caller.generation != 0 {
        if caller.generation < rights.generation {
            return Err(rewound(rights, caller.generation));
        }
        if caller.generation > rights.generation {
            return Err(behind("generation", caller.generation, rights.generation));
        }
    }
    if caller.shard_epoch != 0 && caller.shard_epoch < rights.shard_epoch {
        let message = format!(
            "the shard is in epoch {}, the request says {}: look up the routing again",
            rights.shard_epoch, caller.shard_epoch
        );
        return Err(Refused::new(Reason::ShardMoved, message).with("epoch", rights.shard_epoch));
    }
    if caller.shard_epoch > rights.shard_epoch {
        return Err(behind("shard epoch", caller.shard_epoch, rights.shard_epoch));
    }
    Ok(())
}

fn lane_order(lanes: &Lanes, caller: &Caller, ask: Ask) -> Result<Option<Order>, Refused> {
    let id = match ask {
        Ask::Write { lane, .. } | Ask::Read { lane, .. } => lane,
        Ask::PlainWrite | Ask::PlainRead | Ask::Lane => return Ok(None),
    };
    let lane = lanes.get(id).ok_or_else(lane_expired)?;
    if lane.attached.is_none_or(|attached| attached.stream != caller.stream) {
        let message = "the lane is attached to another stream: this batch was dropped, send it there";
        return Err(Refused::new(Reason::LaneExpired, message));
    }
    match ask {
        Ask::Write { seq, digest, .. } => Ok(Some(Lanes::order(lane, seq, digest))),
        Ask::Read { after, .. } if after > lane.mark => Ok(Some(Order::Gap { expected: lane.mark + 1 })),
        _ => Ok(None),
    }
}

fn writer(rights: &Rights, caller: &Caller, ask: Ask) -> Result<(), Refused> {
    if rights.access == v1::Access::Shared || ask == Ask::PlainRead {
        return Ok(());
    }
    if ask == Ask::PlainWrite {
        let message = "the shard is leased: only its worker may write (use a shared operator for plain writes)";
        return Err(Refused::new(Reason::NotLeased, message));
    }
    if caller.writer_epoch < rights.writer_epoch {
        let message = format!("writer epoch {} is fenced by {}", caller.writer_epoch, rights.writer_epoch);
        return Err(Refused::new(Reason::WriterFenced, message).with("epoch", rights.writer_epoch));
    }
    if caller.writer_epoch > rights.writer_epoch {
        return Err(behind("writer epoch", caller.writer_epoch, rights.writer_epoch));
    }
    if !rights.leased {
        return Err(Refused::new(Reason::NotLeased, "the shard has no writer: join its operator's group"));
    }
    Ok(())
}

fn sequence(order: Option<Order>, ask: Ask) -> Result<Pass, Refused> {
    match order {
        Some(Order::Gap { expected }) => {
            if seeded::is(Bug::BarrierAheadOfRefusedBatch) && matches!(ask, Ask::Write { barrier: true, .. }) {
                return Ok(Pass::Go);
            }
            let message = format!("batches of the lane are missing: expected {expected}, send again from there");
            Err(Refused::new(Reason::NotCaughtUp, message).with("expected", expected))
        }
        Some(Order::Reused) => {
            let message = "the sequence number was used before for another content: open a new lane";
            Err(Refused::new(Reason::SequenceReused, message))
        }
        Some(Order::Next | Order::Duplicate) | None => Ok(Pass::Go),
    }
}

fn rewound(rights: &Rights, generation: u64) -> Refused {
    let message = format!(
        "the job went back to checkpoint {} in generation {}, the request is of generation {generation}: join again",
        rights.restored_checkpoint, rights.generation
    );
    Refused::new(Reason::Rewound, message)
        .with("generation", rights.generation)
        .with("checkpoint", rights.restored_checkpoint)
}

fn behind(what: &str, got: u64, have: u64) -> Refused {
    let message = format!("the server knows {what} {have}, the request says {got}: retry in a moment");
    Refused::new(Reason::ServerBehind, message)
}

/// The refusal of a lane that is not known.
pub fn lane_expired() -> Refused {
    let message = "the lane is unknown or has expired: what it sent before may be applied or not, join again";
    Refused::new(Reason::LaneExpired, message)
}

#[cfg(test)]
mod tests {
    use super::{super::lanes::Attachment, *};

    const LANE: LaneId = LaneId([1; 16]);

    fn rights() -> Rights {
        Rights {
            access: v1::Access::Leased,
            generation: 3,
            restored_checkpoint: 7,
            shard_epoch: 2,
            incarnation: 1,
            writer_epoch: 5,
            leased: true,
            established: true,
            leaving: false,
        }
    }

    fn caller() -> Caller {
        Caller { generation: 3, shard_epoch: 2, writer_epoch: 5, stream: 1 }
    }

    fn lanes() -> Lanes {
        let mut lanes = Lanes::default();
        lanes.open(LANE, "", Attachment { stream: 1, number: 1 }, 0);
        lanes.applied(LANE, 1, 11, &[], 0);
        lanes
    }

    fn write(seq: u64) -> Ask {
        Ask::Write { lane: LANE, seq, digest: seq * 11, barrier: false }
    }

    fn reason(rights: &Rights, caller: &Caller, ask: Ask) -> Reason {
        check(rights, &lanes(), true, caller, ask).unwrap_err().reason
    }

    #[test]
    fn the_next_batch_of_the_lease_holder_passes() {
        assert_eq!(check(&rights(), &lanes(), true, &caller(), write(2)), Ok(Pass::Go));
    }

    #[test]
    fn a_duplicate_is_answered_even_to_a_fenced_writer() {
        let fenced = Caller { writer_epoch: 4, ..caller() };
        assert_eq!(check(&rights(), &lanes(), true, &fenced, write(1)), Ok(Pass::Duplicate));
        assert_eq!(reason(&rights(), &fenced, write(2)), Reason::WriterFenced);
    }

    #[test]
    fn a_server_without_a_lease_answers_nothing_not_even_duplicates() {
        let refused = check(&rights(), &lanes(), false, &caller(), write(1)).unwrap_err();
        assert_eq!(refused.reason, Reason::LeaseExpired);
    }

    #[test]
    fn an_older_generation_is_rewound_before_its_duplicates_are_looked_at() {
        let old = Caller { generation: 2, ..caller() };
        assert_eq!(reason(&rights(), &old, write(1)), Reason::Rewound);
    }

    #[test]
    fn what_the_server_has_not_heard_of_yet_waits() {
        for caller in [
            Caller { generation: 4, ..caller() },
            Caller { shard_epoch: 3, ..caller() },
            Caller { writer_epoch: 6, ..caller() },
        ] {
            assert_eq!(reason(&rights(), &caller, write(2)), Reason::ServerBehind);
        }
    }

    #[test]
    fn a_gap_and_a_read_ahead_of_the_mark_ask_for_what_is_missing() {
        assert_eq!(reason(&rights(), &caller(), write(3)), Reason::NotCaughtUp);
        assert_eq!(reason(&rights(), &caller(), Ask::Read { lane: LANE, after: 2 }), Reason::NotCaughtUp);
        assert_eq!(check(&rights(), &lanes(), true, &caller(), Ask::Read { lane: LANE, after: 1 }), Ok(Pass::Go));
    }

    #[test]
    fn a_barrier_never_overtakes_a_refused_batch() {
        let barrier = Ask::Write { lane: LANE, seq: 3, digest: 0, barrier: true };
        assert_eq!(reason(&rights(), &caller(), barrier), Reason::NotCaughtUp);
    }

    #[test]
    fn without_a_lease_nobody_writes() {
        let free = Rights { leased: false, ..rights() };
        assert_eq!(reason(&free, &caller(), write(2)), Reason::NotLeased);
        assert_eq!(reason(&rights(), &caller(), Ask::PlainWrite), Reason::NotLeased);
    }

    #[test]
    fn a_lane_of_another_stream_is_dropped() {
        let elsewhere = Caller { stream: 2, ..caller() };
        assert_eq!(reason(&rights(), &elsewhere, write(2)), Reason::LaneExpired);
    }

    #[test]
    fn an_older_shard_epoch_is_sent_elsewhere() {
        let old = Caller { shard_epoch: 1, ..caller() };
        assert_eq!(reason(&rights(), &old, write(2)), Reason::ShardMoved);
    }
}
