//! A lane against hand-written answers, and against a small shard under many seeds.

use std::collections::{HashMap, VecDeque};

use forebay_proto::{KeyGroupRange, v1::batch::Order};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;

fn target() -> Target {
    let range = KeyGroupRange::new(0, 16).unwrap();
    Target { operator: "stats".into(), range, shard_epoch: 3, writer_epoch: 7 }
}

fn write(content: u8) -> Write {
    let ops = v1::PackedOps { arena: vec![content].into(), kinds: vec![2].into(), ..Default::default() };
    Write { ops: Some(ops), ..Write::default() }
}

fn barrier(checkpoint: u64) -> Write {
    Write { barrier: Some(v1::BarrierOp { checkpoint, ..Default::default() }), ..Write::default() }
}

fn opened(channel: u32, mark: u64) -> v1::LaneOpened {
    let progress = Some(v1::Progress { incarnation: 1, applied: mark, ..Default::default() });
    v1::LaneOpened { channel, lane: vec![9; 16].into(), incarnation: 1, progress, ..Default::default() }
}

fn open_lane(window: u32) -> Lane {
    let mut lane = Lane::new(target());
    lane.attach(1, window);
    assert!(lane.opened(&opened(1, 0)).is_empty());
    lane
}

fn answer(batch: &v1::Batch) -> v1::BatchAnswer {
    v1::BatchAnswer { id: batch.id, ..Default::default() }
}

fn refusal(batch: &v1::Batch, reason: ErrorReason) -> v1::Refusal {
    Refused::new(reason, "no").to_refusal(batch.id, batch.channel)
}

fn not_caught_up(batch: &v1::Batch, expected: u64) -> v1::Refusal {
    Refused::new(ErrorReason::NotCaughtUp, "no").with("expected", expected).to_refusal(batch.id, batch.channel)
}

fn sent(lane: &mut Lane) -> Vec<v1::Batch> {
    std::iter::from_fn(|| lane.poll_send()).collect()
}

fn orders(batches: &[v1::Batch]) -> Vec<Order> {
    batches.iter().map(|batch| batch.order.unwrap()).collect()
}

fn tickets(completions: &[Completion]) -> Vec<u64> {
    completions.iter().map(|completion| completion.ticket).collect()
}

#[test]
fn nothing_is_sent_before_the_lane_is_open() {
    let mut lane = Lane::new(target());
    lane.write(write(1));
    assert!(lane.poll_send().is_none());
    let open = lane.attach(4, 8);
    assert_eq!((open.channel, open.attachment, open.lane.len(), open.incarnation), (4, 1, 0, 0));
    assert_eq!((open.start, open.end, open.shard_epoch, open.writer_epoch), (0, 16, 3, 7));
    assert!(lane.poll_send().is_none());
    lane.opened(&opened(4, 0));
    let batch = lane.poll_send().unwrap();
    assert_eq!((batch.order, batch.shard_epoch, batch.writer_epoch), (Some(Order::Seq(1)), 3, 7));
    assert_eq!((channel_of(batch.id), batch.channel), (4, 4));
}

#[test]
fn writes_are_numbered_and_reads_come_after_the_last_write() {
    let mut lane = open_lane(8);
    let first = lane.read(v1::PackedOps::default(), 0);
    lane.write(write(1));
    lane.write(write(2));
    let read = lane.read(v1::PackedOps::default(), 0);
    let batches = sent(&mut lane);
    assert_eq!(orders(&batches), [Order::After(0), Order::Seq(1), Order::Seq(2), Order::After(2)]);
    assert_eq!(tickets(&lane.answered(answer(&batches[3]))), [read]);
    assert_eq!(tickets(&lane.answered(answer(&batches[0]))), [first]);
    assert!(lane.answered(answer(&batches[0])).is_empty(), "an answer counts once");
}

#[test]
fn the_window_bounds_what_is_in_flight() {
    let mut lane = open_lane(2);
    for content in 0..4 {
        lane.write(write(content));
    }
    let batches = sent(&mut lane);
    assert_eq!(batches.len(), 2);
    assert!(lane.in_flight_bytes() > 0);
    lane.answered(answer(&batches[0]));
    assert_eq!(orders(&sent(&mut lane)), [Order::Seq(3)]);
    assert_eq!((lane.acknowledged(), lane.pending()), (1, 3));
}

#[test]
fn a_reconnect_sends_again_what_is_not_acknowledged() {
    let mut lane = open_lane(8);
    for content in 1..=3 {
        lane.write(write(content));
    }
    let before = sent(&mut lane);
    lane.answered(answer(&before[0]));
    lane.disconnected();
    assert_eq!(lane.status(), &Status::Detached);
    let open = lane.attach(2, 8);
    assert_eq!((open.attachment, open.acknowledged, open.incarnation, open.lane.len()), (2, 1, 1, 16));
    lane.opened(&opened(2, 2));
    let after = sent(&mut lane);
    assert_eq!(orders(&after), [Order::Seq(2), Order::Seq(3)]);
    assert_eq!(after[0].ops, before[1].ops, "unchanged");
    assert!(lane.answered(answer(&before[1])).is_empty(), "the former stream's answers are of no interest");
    let done = lane.answered(v1::BatchAnswer { duplicate: true, ..answer(&after[0]) });
    assert!(matches!(done[0].outcome, Outcome::Written { seq: 2, .. }));
}

#[test]
fn a_refused_batch_does_not_use_up_its_number() {
    let mut lane = open_lane(8);
    let refused = lane.write(write(1));
    lane.write(write(2));
    let read = lane.read(v1::PackedOps::default(), 0);
    let last = lane.write(write(3));
    let batches = sent(&mut lane);
    let done = lane.refused(&refusal(&batches[0], ErrorReason::ValueTooLarge));
    assert_eq!(tickets(&done), [refused]);
    assert!(matches!(done[0].outcome, Outcome::Refused(_)));
    assert!(lane.poll_send().is_none(), "2 and 3 are in flight under their old numbers");
    lane.refused(&not_caught_up(&batches[1], 1));
    assert!(lane.poll_send().is_none(), "3 still is");
    lane.refused(&not_caught_up(&batches[3], 1));
    let again = sent(&mut lane);
    assert_eq!(orders(&again), [Order::Seq(1), Order::After(1), Order::Seq(2)]);
    assert_eq!(again[0].ops, batches[1].ops);
    assert!(lane.answered(answer(&batches[2])).is_empty(), "the read that waited for 2 was given up");
    assert_eq!(tickets(&lane.answered(answer(&again[1]))), [read]);
    assert_eq!(tickets(&lane.answered(answer(&again[2]))), [last]);
}

#[test]
fn a_barrier_behind_a_refused_batch_is_withdrawn() {
    let mut lane = open_lane(8);
    lane.write(write(1));
    let behind = lane.write(barrier(5));
    lane.write(write(2));
    let batches = sent(&mut lane);
    lane.refused(&refusal(&batches[0], ErrorReason::WrongKind));
    let later = lane.write(barrier(6));
    lane.refused(&not_caught_up(&batches[1], 1));
    let done = lane.refused(&not_caught_up(&batches[2], 1));
    assert_eq!(done, [Completion { ticket: behind, outcome: Outcome::Withdrawn }]);
    let again = sent(&mut lane);
    assert_eq!(orders(&again), [Order::Seq(1), Order::Seq(2)]);
    assert_eq!(again[1].barrier.as_ref().unwrap().checkpoint, 6);
    lane.answered(answer(&again[0]));
    assert_eq!(tickets(&lane.answered(answer(&again[1]))), [later]);
}

#[test]
fn a_lane_that_carries_positions_ends_with_a_refused_batch_for_what_is_behind_would_deny_the_gap() {
    let with_position = |content| {
        let positions = HashMap::from([("source".to_owned(), vec![content].into())]);
        Write { positions, ..write(content) }
    };
    let mut lane = open_lane(8);
    let all = [lane.write(with_position(1)), lane.write(with_position(2)), lane.write(barrier(5))];
    let batches = sent(&mut lane);
    assert_eq!(tickets(&lane.refused(&refusal(&batches[0], ErrorReason::ValueTooLarge))), all);
    assert!(matches!(lane.status(), Status::Ended(_)) && lane.poll_send().is_none());
    // A round that is over is none of its business.
    let mut lane = open_lane(8);
    lane.write(with_position(1));
    lane.write(barrier(5));
    let batches = sent(&mut lane);
    lane.answered(answer(&batches[0]));
    lane.refused(&refusal(&batches[1], ErrorReason::CheckpointAborted));
    assert_eq!(lane.status(), &Status::Open);
}

#[test]
fn a_refused_barrier_takes_nothing_with_it() {
    let mut lane = open_lane(8);
    lane.write(barrier(5));
    lane.write(barrier(6));
    let batches = sent(&mut lane);
    let done = lane.refused(&refusal(&batches[0], ErrorReason::CheckpointAborted));
    assert!(matches!(done[0].outcome, Outcome::Refused(_)));
    lane.refused(&not_caught_up(&batches[1], 1));
    assert_eq!(orders(&sent(&mut lane)), [Order::Seq(1)]);
}

#[test]
fn a_refusal_to_wait_sends_the_same_again_in_order() {
    let mut lane = open_lane(8);
    for content in 1..=3 {
        lane.write(write(content));
    }
    let batches = sent(&mut lane);
    assert!(lane.refused(&refusal(&batches[0], ErrorReason::Overloaded)).is_empty());
    assert!(matches!(lane.status(), Status::Waiting(refused) if refused.reason == ErrorReason::Overloaded));
    lane.refused(&not_caught_up(&batches[1], 1));
    lane.retry();
    assert!(lane.poll_send().is_none(), "3 is still in flight");
    lane.refused(&not_caught_up(&batches[2], 1));
    let again = sent(&mut lane);
    assert_eq!(orders(&again), [Order::Seq(1), Order::Seq(2), Order::Seq(3)]);
    assert!(again.iter().zip(&batches).all(|(again, before)| again.ops == before.ops && again.id != before.id));
}

#[test]
fn the_end_of_a_lane_completes_everything() {
    for reason in [ErrorReason::LaneExpired, ErrorReason::Rewound, ErrorReason::WriterFenced, ErrorReason::ShardLost] {
        let mut lane = open_lane(8);
        let made = [lane.write(write(1)), lane.read(v1::PackedOps::default(), 0), lane.write(write(2))];
        let batch = lane.poll_send().unwrap();
        let done = lane.refused(&refusal(&batch, reason));
        assert_eq!(tickets(&done), made);
        assert!(done.iter().all(|done| matches!(&done.outcome, Outcome::Ended(refused) if refused.reason == reason)));
        assert!(matches!(lane.status(), Status::Ended(refused) if refused.reason == reason));
        let late = lane.write(write(3));
        assert_eq!(tickets(&lane.settle_if_ended()), [late]);
        lane.disconnected();
        assert!(matches!(lane.status(), Status::Ended(_)) && lane.poll_send().is_none());
    }
}

#[test]
fn a_shard_that_went_back_ends_the_lane() {
    let attached = |mark, incarnation| {
        let mut lane = open_lane(8);
        lane.write(write(1));
        lane.write(write(2));
        let batches = sent(&mut lane);
        lane.answered(answer(&batches[0]));
        lane.attach(2, 8);
        lane.opened(&v1::LaneOpened { incarnation, ..opened(2, mark) });
        match lane.status() {
            Status::Ended(refused) => Some(refused.reason),
            _ => None,
        }
    };
    assert_eq!(attached(1, 1), None);
    assert_eq!(attached(2, 1), None);
    assert_eq!(attached(0, 1), Some(ErrorReason::ShardLost));
    assert_eq!(attached(2, 2), Some(ErrorReason::ShardLost));
    assert_eq!(attached(3, 1), Some(ErrorReason::SequenceReused));
}

#[test]
fn a_moved_shard_is_attached_elsewhere() {
    let mut lane = open_lane(8);
    lane.write(write(1));
    let batch = lane.poll_send().unwrap();
    lane.refused(&refusal(&batch, ErrorReason::ShardMoved));
    assert!(matches!(lane.status(), Status::Moved(_)));
    lane.moved(4);
    assert_eq!(lane.attach(1, 8).shard_epoch, 4);
    lane.opened(&opened(1, 0));
    assert_eq!(lane.poll_send().unwrap().shard_epoch, 4);
}

#[test]
fn a_refused_open_waits_or_ends() {
    let mut lane = Lane::new(target());
    lane.attach(1, 8);
    lane.refused(&Refused::new(ErrorReason::ShardRestoring, "no").to_refusal(0, 1));
    assert!(matches!(lane.status(), Status::Waiting(_)));
    lane.retry();
    assert_eq!(lane.status(), &Status::Detached);
    lane.attach(2, 8);
    assert!(lane.refused(&Refused::new(ErrorReason::LaneExpired, "no").to_refusal(0, 1)).is_empty());
    assert_eq!(lane.status(), &Status::Opening, "that was for the former channel");
    lane.refused(&Refused::new(ErrorReason::OperatorUnknown, "no").to_refusal(0, 2));
    assert!(matches!(lane.status(), Status::Ended(_)));
}

/// A shard that does as semantics.md says, with faults drawn by a seed.
#[derive(Default)]
struct Shard {
    mark: u64,
    log: Vec<v1::Batch>,
    attachment: u64,
    waiting: Vec<v1::Batch>,
}

enum Message {
    Answer(v1::BatchAnswer),
    Refusal(v1::Refusal),
}

impl Shard {
    fn take(&mut self, batch: v1::Batch, random: &mut StdRng, out: &mut VecDeque<Message>) {
        let reply = |duplicate| Message::Answer(v1::BatchAnswer { duplicate, ..answer(&batch) });
        match batch.order.unwrap() {
            Order::After(after) if after > self.mark => return self.waiting.push(batch),
            Order::After(_) => return out.push_back(read_answer(&batch, self.log.len())),
            Order::Seq(seq) if seq <= self.mark => out.push_back(reply(true)),
            Order::Seq(seq) if seq > self.mark + 1 => {
                out.push_back(Message::Refusal(not_caught_up(&batch, self.mark + 1)));
            }
            Order::Seq(_) if is_bad(&batch) => {
                out.push_back(Message::Refusal(refusal(&batch, ErrorReason::ValueTooLarge)));
            }
            Order::Seq(seq) => {
                let (before, after) = (random.random_bool(0.03), random.random_bool(0.03));
                if !before {
                    self.mark = seq;
                    self.log.push(batch.clone());
                }
                out.push_back(match before || after {
                    true => Message::Refusal(refusal(&batch, ErrorReason::LeaseExpired)),
                    false => reply(false),
                });
            }
        }
        let ready = std::mem::take(&mut self.waiting);
        for batch in ready {
            self.take(batch, random, out);
        }
    }
}

fn read_answer(batch: &v1::Batch, seen: usize) -> Message {
    let progress = v1::Progress { clock_ms: seen as i64, ..Default::default() };
    Message::Answer(v1::BatchAnswer { progress: Some(progress), ..answer(batch) })
}

fn content(batch: &v1::Batch) -> Option<u64> {
    let arena = &batch.ops.as_ref()?.arena;
    Some(u64::from_be_bytes(arena[..8].try_into().unwrap()))
}

fn is_bad(batch: &v1::Batch) -> bool {
    content(batch).is_some_and(|content| content % 11 == 3)
}

/// Runs one lane against one shard; every write is applied once and in order, or was refused.
fn run(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut lane = Lane::new(target());
    let mut shard = Shard::default();
    let (mut up, mut down) = (VecDeque::new(), VecDeque::new());
    let (mut written, mut reads, mut done) = (BTreeMap::<u64, Write>::new(), BTreeSet::new(), BTreeMap::new());
    let mut withdrawn = BTreeSet::new();
    let (mut channel, mut number) = (0, 0_u64);
    for step in 0.. {
        let quiet = step > 400;
        let mut completions = Vec::new();
        match lane.status().clone() {
            Status::Detached => {
                channel += 1;
                let open = lane.attach(channel, random.random_range(1..6));
                assert!(open.attachment > shard.attachment);
                shard.attachment = open.attachment;
                shard.waiting.clear();
                completions.extend(lane.opened(&opened(channel, shard.mark)));
            }
            Status::Waiting(_) if random.random_bool(0.3) => lane.retry(),
            Status::Ended(refused) => panic!("seed {seed}: {refused:?}"),
            _ => {}
        }
        match random.random_range(0..100) {
            0..30 if !quiet => {
                number += 1;
                let mut next = if number % 5 == 0 { barrier(number) } else { write(0) };
                if next.barrier.is_none() {
                    next.ops.as_mut().unwrap().arena = number.to_be_bytes().to_vec().into();
                }
                written.insert(lane.write(next.clone()), next);
            }
            30..45 if !quiet => {
                reads.insert(lane.read(v1::PackedOps::default(), 0));
            }
            45..48 if !quiet => {
                lane.disconnected();
                // What was on its way up may still arrive, before the lane is attached again.
                for batch in up.drain(..) {
                    if random.random_bool(0.5) {
                        break;
                    }
                    shard.take(batch, &mut random, &mut down);
                }
                down.clear();
            }
            48..70 => up.extend(lane.poll_send()),
            70..85 => {
                if let Some(batch) = up.pop_front() {
                    shard.take(batch, &mut random, &mut down);
                }
            }
            _ => match down.pop_front() {
                Some(Message::Answer(answer)) => completions.extend(lane.answered(answer)),
                Some(Message::Refusal(refusal)) => completions.extend(lane.refused(&refusal)),
                None => {}
            },
        }
        for completion in completions {
            if let Outcome::Refused(_) = &completion.outcome {
                let behind = written.range(completion.ticket..).filter(|(_, write)| write.barrier.is_some());
                withdrawn.extend(behind.map(|(ticket, _)| *ticket));
            }
            assert_eq!(done.insert(completion.ticket, completion.outcome), None, "seed {seed}: completed twice");
        }
        if quiet && lane.pending() == 0 {
            break;
        }
        assert!(step < 100_000, "seed {seed}: stuck with {lane:?}");
    }
    for ticket in reads {
        let Outcome::Read(answer) = &done[&ticket] else { panic!("seed {seed}: {:?}", done[&ticket]) };
        let before = written.range(..ticket).filter(|(ticket, _)| matches!(done[ticket], Outcome::Written { .. }));
        assert!(answer.progress.unwrap().clock_ms as usize >= before.count(), "seed {seed}: a read misses a write");
    }
    for ticket in withdrawn {
        assert_eq!(done[&ticket], Outcome::Withdrawn, "seed {seed}: a barrier behind a refused batch");
    }
    let expected = written.iter().filter(|(ticket, _)| match &done[ticket] {
        Outcome::Written { .. } => true,
        Outcome::Refused(_) | Outcome::Withdrawn => false,
        other => panic!("seed {seed}: {other:?}"),
    });
    let applied: Vec<_> = shard.log.iter().map(|batch| (batch.ops.clone(), batch.barrier.clone())).collect();
    let expected: Vec<_> = expected.map(|(_, write)| (write.ops.clone(), write.barrier.clone())).collect();
    assert_eq!(applied, expected, "seed {seed}: each once, in order");
}

#[test]
fn every_write_is_applied_once_and_in_order_under_any_seed() {
    (0..3_000).for_each(run);
}
