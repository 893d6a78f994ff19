//! A shard's lanes: opened, attached to streams, ended.

use forebay_proto::{reason::Refused, v1};
use prost::Message as _;
use v1::ErrorReason as Reason;

use super::{
    super::{
        gate::{self, Ask, Caller},
        lanes::{Attachment, LaneId},
        meta,
    },
    Core, Moment,
};
use crate::storage::{TableId, Writes};

impl Core {
    /// Opens a lane, or attaches an open one.
    pub fn open_lane(
        &mut self,
        caller: &Caller,
        open: &v1::OpenLane,
        principal: &str,
        fresh: LaneId,
        moment: Moment,
    ) -> Result<v1::LaneOpened, Refused> {
        self.is_whole()?;
        let opened = self.try_open_lane(caller, open, principal, fresh, moment);
        self.note_loss(opened)
    }

    fn try_open_lane(
        &mut self,
        caller: &Caller,
        open: &v1::OpenLane,
        principal: &str,
        fresh: LaneId,
        moment: Moment,
    ) -> Result<v1::LaneOpened, Refused> {
        gate::check(&self.rights, &self.lanes, moment.lease, caller, Ask::Lane)?;
        self.advance_clock(moment);
        let attachment = Attachment { stream: caller.stream, number: open.attachment };
        let lane = if open.lane.is_empty() {
            self.new_lane(fresh, principal, attachment)?;
            fresh
        } else {
            self.attach_lane(open, principal, attachment)?
        };
        Ok(v1::LaneOpened {
            channel: open.channel,
            lane: lane.0.to_vec().into(),
            incarnation: self.rights.incarnation,
            progress: Some(self.progress(Some(lane))),
            positions: self.positions.to_wire(),
        })
    }

    /// Ends a lane.
    pub fn close_lane(&mut self, lane: LaneId) -> Result<(), Refused> {
        let mut writes = Writes::default();
        self.forget(lane, &mut writes);
        self.store(&writes, v1::Durability::Unspecified)?;
        self.lanes.close(lane);
        Ok(())
    }

    /// Forgets the attachments of a stream that has ended.
    pub fn detach(&mut self, stream: u64) {
        self.lanes.detach(stream);
    }

    fn new_lane(&mut self, lane: LaneId, principal: &str, attachment: Attachment) -> Result<(), Refused> {
        let mut writes = Writes::default();
        for expired in self.lanes.expired(self.meta.clock_ms) {
            self.forget(expired, &mut writes);
            self.lanes.close(expired);
        }
        if self.lanes.len() >= self.identity.max_lanes {
            let message = format!("the shard has {} lanes: close some (limits.max_lanes)", self.lanes.len());
            return Err(Refused::new(Reason::Overloaded, message));
        }
        let record = v1::LaneRecord {
            id: lane.0.to_vec().into(),
            principal: principal.to_owned(),
            used_ms: self.meta.clock_ms,
            ..Default::default()
        };
        writes.put(TableId::SHARD, &meta::lane_key(lane), |out| out.extend(record.encode_to_vec()));
        self.store(&writes, v1::Durability::Unspecified)?;
        self.lanes.open(lane, principal, attachment, self.meta.clock_ms);
        Ok(())
    }

    fn forget(&self, lane: LaneId, writes: &mut Writes) {
        writes.delete(TableId::SHARD, &meta::lane_key(lane));
        for seq in self.lanes.with_verdicts(lane) {
            writes.delete(TableId::SHARD, &meta::verdict_key(lane, seq));
        }
    }

    fn attach_lane(&mut self, open: &v1::OpenLane, principal: &str, attachment: Attachment) -> Result<LaneId, Refused> {
        let id = LaneId::from_slice(&open.lane).ok_or_else(|| {
            let message = format!("a lane id has {} bytes: 16 are needed", open.lane.len());
            Refused::new(Reason::FieldInvalid, message)
        })?;
        if open.incarnation != 0 && open.incarnation != self.rights.incarnation {
            return Err(gate::lane_expired());
        }
        let lane = self.lanes.get(id).ok_or_else(gate::lane_expired)?;
        if lane.principal != principal {
            return Err(Refused::new(Reason::LaneOwner, "the lane was opened by another principal"));
        }
        if open.acknowledged > lane.mark {
            let message = format!(
                "the client was told that batch {} is applied, the shard is at {}: its state is lost",
                open.acknowledged, lane.mark
            );
            return Err(Refused::new(Reason::ShardLost, message));
        }
        if !self.lanes.attach(id, attachment) {
            return Err(gate::lane_expired());
        }
        Ok(id)
    }
}
