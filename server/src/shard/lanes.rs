//! Lanes: ordered, numbered runs of one client's batches to one shard. Pure.
//!
//! A lane's *mark* is its highest applied sequence number; it is stored in the same atomic write as
//! the data, so a batch is applied exactly once however often it is sent. See semantics.md, section 3.

use std::collections::{HashMap, VecDeque};

use forebay_proto::v1;

/// A lane's id: 16 random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneId(pub [u8; 16]);

impl LaneId {
    /// Reads an id from the wire; `None` if it has not 16 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

/// One attachment of a lane to a stream; batches of an earlier one are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attachment {
    /// The stream, unique in the process.
    pub stream: u64,
    /// The client's count of attachments.
    pub number: u64,
}

/// A lane as the shard knows it.
#[derive(Debug, Clone)]
pub struct Lane {
    /// The principal that opened it.
    pub principal: String,
    /// The highest applied sequence number.
    pub mark: u64,
    /// Last use, by the shard's clock.
    pub used_ms: i64,
    /// Where it is attached; `None` after a restart of the server.
    pub attached: Option<Attachment>,
    /// Digests of the last batches, newest last; lost at a restart.
    recent: VecDeque<(u64, u64)>,
    /// Verdicts of the last batches with compare-and-sets, newest last.
    verdicts: VecDeque<(u64, Vec<u8>)>,
}

/// Where a write batch stands in its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// It is the next one.
    Next,
    /// It was applied before.
    Duplicate,
    /// Its number was used before for another content.
    Reused,
    /// Batches before it are missing.
    Gap {
        /// The next number.
        expected: u64,
    },
}

/// The lanes of one incarnation of a shard.
#[derive(Debug, Default)]
pub struct Lanes {
    lanes: HashMap<LaneId, Lane>,
}

impl Lanes {
    /// Batches whose digests are kept per lane: as many as may be in flight.
    pub const WINDOW: usize = 64;
    /// A lane that was not used for this long is forgotten, in milliseconds of the shard's clock.
    pub const EXPIRY_MS: i64 = 3_600_000;

    /// Takes up a lane from its stored record; `None` if the record is not one.
    pub fn load(&mut self, record: &v1::LaneRecord) -> Option<()> {
        let id = LaneId::from_slice(&record.id)?;
        self.lanes.insert(
            id,
            Lane {
                principal: record.principal.clone(),
                mark: record.mark,
                used_ms: record.used_ms,
                attached: None,
                recent: VecDeque::new(),
                verdicts: VecDeque::new(),
            },
        );
        Some(())
    }

    /// Takes up the verdicts of a batch; those of a lane that is gone are left.
    pub fn load_verdicts(&mut self, id: LaneId, seq: u64, verdicts: &[u8]) {
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.verdicts.push_back((seq, verdicts.to_vec()));
        }
    }

    /// The verdicts of a batch, one per operation; none if it had no compare-and-set, or is too old to be sent again.
    pub fn verdicts(&self, id: LaneId, seq: u64) -> &[u8] {
        let verdicts = self.lanes.get(&id).and_then(|lane| lane.verdicts.iter().find(|(known, _)| *known == seq));
        verdicts.map_or(&[], |(_, verdicts)| verdicts)
    }

    /// The batches whose verdicts are kept.
    pub fn with_verdicts(&self, id: LaneId) -> impl Iterator<Item = u64> + '_ {
        self.lanes.get(&id).into_iter().flat_map(|lane| lane.verdicts.iter().map(|(seq, _)| *seq))
    }

    /// Opens a lane.
    pub fn open(&mut self, id: LaneId, principal: &str, attached: Attachment, now_ms: i64) {
        let lane = Lane {
            principal: principal.to_owned(),
            mark: 0,
            used_ms: now_ms,
            attached: Some(attached),
            recent: VecDeque::new(),
            verdicts: VecDeque::new(),
        };
        self.lanes.insert(id, lane);
    }

    /// Returns a lane.
    pub fn get(&self, id: LaneId) -> Option<&Lane> {
        self.lanes.get(&id)
    }

    /// Attaches a lane to a stream. False if a later attachment is in force.
    pub fn attach(&mut self, id: LaneId, attachment: Attachment) -> bool {
        let Some(lane) = self.lanes.get_mut(&id) else { return false };
        if lane.attached.is_some_and(|present| present.number > attachment.number) {
            return false;
        }
        lane.attached = Some(attachment);
        true
    }

    /// Ends a lane; its batches are refused from now on.
    pub fn close(&mut self, id: LaneId) {
        self.lanes.remove(&id);
    }

    /// Number of lanes.
    pub fn len(&self) -> usize {
        self.lanes.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// The lanes that were not used since `EXPIRY_MS`.
    pub fn expired(&self, now_ms: i64) -> Vec<LaneId> {
        let old = |lane: &Lane| now_ms.saturating_sub(lane.used_ms) > Self::EXPIRY_MS;
        let mut ids: Vec<_> = self.lanes.iter().filter(|(_, lane)| old(lane)).map(|(id, _)| *id).collect();
        ids.sort();
        ids
    }

    /// Forgets all attachments of a stream that has ended.
    pub fn detach(&mut self, stream: u64) {
        for lane in self.lanes.values_mut() {
            if lane.attached.is_some_and(|attached| attached.stream == stream) {
                lane.attached = None;
            }
        }
    }

    /// Tells where a write batch stands. `digest` is of its content.
    pub fn order(lane: &Lane, seq: u64, digest: u64) -> Order {
        if seq == lane.mark + 1 {
            return Order::Next;
        }
        if seq > lane.mark {
            return Order::Gap { expected: lane.mark + 1 };
        }
        match lane.recent.iter().find(|(known, _)| *known == seq) {
            Some((_, known)) if *known != digest => Order::Reused,
            _ => Order::Duplicate,
        }
    }

    /// Records that a write batch is applied: call it only once the batch is stored.
    pub fn applied(&mut self, id: LaneId, seq: u64, digest: u64, verdicts: &[u8], now_ms: i64) {
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.mark = seq;
            lane.used_ms = now_ms;
            lane.recent.push_back((seq, digest));
            if lane.recent.len() > Self::WINDOW {
                lane.recent.pop_front();
            }
            lane.verdicts.retain(|(known, _)| !Self::outside_window(*known, seq));
            if !verdicts.is_empty() {
                lane.verdicts.push_back((seq, verdicts.to_vec()));
            }
        }
    }

    /// True if a batch is so far behind the newest that it cannot be in flight any more.
    pub fn outside_window(seq: u64, newest: u64) -> bool {
        newest.saturating_sub(seq) >= Self::WINDOW as u64
    }

    /// The record that is stored with a batch: the lane as it will be once `mark` is applied.
    pub fn record(&self, id: LaneId, mark: u64, now_ms: i64) -> v1::LaneRecord {
        let lane = self.lanes.get(&id);
        v1::LaneRecord {
            id: id.0.to_vec().into(),
            principal: lane.map(|lane| lane.principal.clone()).unwrap_or_default(),
            mark,
            used_ms: now_ms,
            ..Default::default()
        }
    }

    /// The marks of all lanes.
    pub fn marks(&self) -> impl Iterator<Item = (LaneId, u64)> + '_ {
        self.lanes.iter().map(|(id, lane)| (*id, lane.mark))
    }

    /// The records of all lanes, by id, for a snapshot's manifest.
    pub fn records(&self) -> Vec<v1::LaneRecord> {
        let mut ids: Vec<_> = self.lanes.keys().copied().collect();
        ids.sort();
        ids.iter().map(|id| self.record(*id, self.lanes[id].mark, self.lanes[id].used_ms)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: LaneId = LaneId([1; 16]);
    const HERE: Attachment = Attachment { stream: 1, number: 1 };

    fn lanes_with_marks(to: u64) -> Lanes {
        let mut lanes = Lanes::default();
        lanes.open(ID, "worker", HERE, 0);
        (1..=to).for_each(|seq| lanes.applied(ID, seq, seq * 10, &[], 0));
        lanes
    }

    fn order(lanes: &Lanes, seq: u64, digest: u64) -> Order {
        Lanes::order(lanes.get(ID).unwrap(), seq, digest)
    }

    #[test]
    fn a_lane_applies_in_order_and_answers_duplicates_for_ever() {
        let lanes = lanes_with_marks(200);
        assert_eq!(order(&lanes, 201, 0), Order::Next);
        assert_eq!(order(&lanes, 202, 0), Order::Gap { expected: 201 });
        assert_eq!(order(&lanes, 200, 2000), Order::Duplicate);
        assert_eq!(order(&lanes, 1, 4711), Order::Duplicate, "outside the window nothing is compared");
    }

    #[test]
    fn a_number_used_for_another_content_is_told() {
        assert_eq!(order(&lanes_with_marks(3), 3, 31), Order::Reused);
    }

    #[test]
    fn verdicts_are_kept_as_long_as_their_batch_may_come_again() {
        let mut lanes = lanes_with_marks(0);
        lanes.applied(ID, 1, 0, &[1, 2], 0);
        lanes.applied(ID, Lanes::WINDOW as u64, 0, &[], 0);
        assert_eq!(lanes.verdicts(ID, 1), [1, 2]);
        lanes.applied(ID, Lanes::WINDOW as u64 + 1, 0, &[2], 0);
        assert_eq!(lanes.with_verdicts(ID).collect::<Vec<_>>(), [Lanes::WINDOW as u64 + 1]);
    }

    #[test]
    fn marks_survive_a_restart_but_attachments_do_not() {
        let lanes = lanes_with_marks(3);
        let mut again = Lanes::default();
        for record in lanes.records() {
            again.load(&record).unwrap();
        }
        assert_eq!(again.get(ID).unwrap().mark, 3);
        assert_eq!(again.get(ID).unwrap().attached, None);
    }

    #[test]
    fn only_a_later_attachment_takes_a_lane() {
        let mut lanes = lanes_with_marks(0);
        assert!(lanes.attach(ID, Attachment { stream: 2, number: 2 }));
        assert!(!lanes.attach(ID, HERE));
        assert_eq!(lanes.get(ID).unwrap().attached, Some(Attachment { stream: 2, number: 2 }));
        assert!(!lanes.attach(LaneId([9; 16]), HERE), "an unknown lane is never made");
    }

    #[test]
    fn lanes_expire_by_the_shards_clock() {
        let lanes = lanes_with_marks(1);
        assert!(lanes.expired(Lanes::EXPIRY_MS).is_empty());
        assert_eq!(lanes.expired(Lanes::EXPIRY_MS + 1), vec![ID]);
    }
}
