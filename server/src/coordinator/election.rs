//! Who leads: the election record in the object store, renewed by the leader, and what coordinators promise each
//! other. Pure: it is told what was read, written and said, and when.
//!
//! The record only elects. What decides is that every job head carries the leader's epoch and is changed by
//! conditional writes alone, so a former leader can commit nothing once its successor has written there. But leases are
//! not in the store: a leader extends them by word. So it needs a **mandate** for every word, and no two coordinators
//! have one at a time:
//! - one that stands by takes office only when it has seen the record unchanged for a lease;
//! - the leader's mandate ends a lease after it *sent* its last renewal that landed;
//! - while the store is away nobody can be elected, and the mandate goes on as long as everybody who could follow has
//!   promised not to (`StandBy`). Who could follow is in the record: those that stand by, and whoever has the leader's
//!   name. A leader with nobody to follow it needs no promise. So a bucket that is away stops no state.
//!
//! Clocks are compared with themselves alone: a promise counts from when its giver heard the leader, who counts it from
//! when it said so.

use std::collections::BTreeMap;

use forebay_proto::{reason::Refused, v1};
use v1::ErrorReason as Reason;

use crate::{
    checkpoint::objects::{Condition, Version},
    seeded::{self, Bug},
};

/// Renewals in a lease.
const RENEWALS: i64 = 4;
/// Sent writes whose fate may still come up.
const TRIED_MAX: usize = 64;

/// A coordinator, as it stands for election.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its name; no two that run have the same.
    pub name: String,
    /// Where others reach it.
    pub address: String,
    /// Identity of its data directory, which it holds locked.
    pub disk_id: String,
    /// Milliseconds that an office lasts without renewal.
    pub lease_ms: i64,
    /// Milliseconds after which one that stood by and is silent may follow no more.
    pub forget_ms: i64,
    /// Name of a leader that is gone for good, which it may follow though it did not stand by.
    pub succeeds: Option<String>,
}

/// What the object store is to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Read the record.
    Read,
    /// Write the record.
    Write(v1::LeaderRecord, Condition),
    /// Nothing, for these milliseconds.
    Wait(i64),
}

/// The record as it was seen.
#[derive(Debug, Clone)]
struct Sight {
    record: v1::LeaderRecord,
    version: Version,
    /// Since when it has been seen like this.
    since_ms: i64,
}

/// What it is at present.
#[derive(Debug)]
enum Office {
    /// It stands by.
    Out {
        /// Until when it has promised not to take office.
        promised_until_ms: i64,
        /// The leader's epoch, and its clock in its last answer.
        heard: (u64, i64),
        /// A leader that has yielded.
        yielded: u64,
    },
    /// It leads.
    In {
        epoch: u64,
        /// When the last renewal that landed was sent.
        renewed_ms: i64,
        /// When the last renewal was sent.
        sent_ms: i64,
        standbys: BTreeMap<String, StandingBy>,
    },
}

/// One that stands by, as the leader knows it.
#[derive(Debug, Clone)]
struct StandingBy {
    address: String,
    /// The leader's clock from which its promise counts.
    promised_from_ms: i64,
    heard_ms: i64,
}

/// One coordinator's part in the election.
#[derive(Debug)]
pub struct Election {
    me: Candidate,
    sight: Option<Sight>,
    /// True if the store was asked since the last write, and the sight is what it said.
    looked: bool,
    looked_ms: i64,
    /// Since when the store has answered whenever it was asked.
    answers_since_ms: Option<i64>,
    office: Office,
    /// The last epoch that it has led under and leads no more.
    ended: u64,
    /// Ids of writes, and when they were sent.
    tried: Vec<(String, i64)>,
    writes: u64,
    /// Makes write ids that nobody else makes.
    nonce: String,
}

impl Office {
    fn out() -> Self {
        Self::Out { promised_until_ms: i64::MIN, heard: (0, 0), yielded: 0 }
    }
}

impl Election {
    /// Stands for election. `nonce` makes its write ids unique.
    pub fn new(me: Candidate, nonce: String) -> Self {
        Self {
            me,
            sight: None,
            looked: false,
            looked_ms: i64::MIN,
            answers_since_ms: None,
            office: Office::out(),
            ended: 0,
            tried: Vec::new(),
            writes: 0,
            nonce,
        }
    }

    /// What the store is to do next. One thing at a time: [`read`](Self::read), [`wrote`](Self::wrote) or
    /// [`unknown`](Self::unknown) tells what came of it.
    pub fn next(&mut self, now_ms: i64) -> Step {
        if !self.looked {
            return Step::Read;
        }
        let pause = self.me.lease_ms / RENEWALS;
        match &self.office {
            Office::Out { .. } => {
                // The next look is a new one.
                self.looked = false;
                match self.follows(now_ms) {
                    Some((record, condition)) => self.write(record, condition, now_ms),
                    None => Step::Wait(pause),
                }
            }
            Office::In { epoch, sent_ms, standbys, .. } => {
                let Some(sight) = &self.sight else { return Step::Read };
                let wanted = listed(standbys, now_ms, self.me.forget_ms);
                let wait = sent_ms + pause - now_ms;
                if wait > 0 && wanted == sight.record.standbys {
                    return Step::Wait(wait);
                }
                let record = self.record(*epoch, sight.record.renewals + 1, wanted);
                let condition = Condition::Is(sight.version.clone());
                self.write(record, condition, now_ms)
            }
        }
    }

    fn write(&mut self, record: v1::LeaderRecord, condition: Condition, now_ms: i64) -> Step {
        self.writes += 1;
        let write_id = format!("{}-{}", self.nonce, self.writes);
        self.tried.push((write_id.clone(), now_ms));
        self.tried.drain(..self.tried.len().saturating_sub(TRIED_MAX));
        if let Office::In { sent_ms, .. } = &mut self.office {
            *sent_ms = now_ms;
        }
        Step::Write(v1::LeaderRecord { write_id, ..record }, condition)
    }

    fn record(&self, epoch: u64, renewals: u64, standbys: Vec<v1::Standby>) -> v1::LeaderRecord {
        v1::LeaderRecord {
            epoch,
            name: self.me.name.clone(),
            address: self.me.address.clone(),
            lease_ms: self.me.lease_ms.unsigned_abs(),
            renewals,
            disk_id: self.me.disk_id.clone(),
            standbys,
            ..Default::default()
        }
    }

    /// The record that would put it into office, if it may take it.
    fn follows(&self, now_ms: i64) -> Option<(v1::LeaderRecord, Condition)> {
        let Some(Sight { record, version, since_ms }) = &self.sight else {
            return Some((self.record(1, 0, Vec::new()), Condition::Absent));
        };
        let Office::Out { promised_until_ms, yielded, .. } = &self.office else { return None };
        let expired = now_ms - since_ms >= self.lease_of(record) || seeded::is(Bug::TakesOfficeAtOnce);
        let dead = record.resigned || record.disk_id == self.me.disk_id;
        let silent = expired && now_ms >= *promised_until_ms && self.may_follow(record);
        if !(dead || silent || *yielded == record.epoch) {
            return None;
        }
        // Whoever led may come back and stand by again.
        let former = v1::Standby { name: record.name.clone(), address: record.address.clone() };
        let mut standbys: Vec<_> = record.standbys.iter().cloned().chain([former]).collect();
        standbys.retain(|standby| standby.name != self.me.name);
        standbys.sort_by(|one, other| one.name.cmp(&other.name));
        standbys.dedup_by(|one, other| one.name == other.name);
        let epoch = record.epoch.checked_add(1)?;
        Some((self.record(epoch, 0, standbys), Condition::Is(version.clone())))
    }

    fn may_follow(&self, record: &v1::LeaderRecord) -> bool {
        let listed = record.standbys.iter().any(|standby| standby.name == self.me.name);
        listed || record.name == self.me.name || self.me.succeeds.as_ref() == Some(&record.name)
    }

    /// Records of builds that knew no lease count as of this one's.
    fn lease_of(&self, record: &v1::LeaderRecord) -> i64 {
        self.me.lease_ms.max(record.lease_ms.cast_signed())
    }

    /// Takes what the store holds.
    pub fn read(&mut self, found: Option<(v1::LeaderRecord, Version)>, now_ms: i64) {
        (self.looked, self.looked_ms) = (true, now_ms);
        self.answers_since_ms.get_or_insert(now_ms);
        let Some((record, version)) = found else {
            // Nobody but people delete it: whoever led by it leads no more.
            self.end();
            return self.sight = None;
        };
        let tried = self.tried.iter().find(|(id, _)| *id == record.write_id).map(|(_, sent_ms)| *sent_ms);
        if let Some(sent_ms) = tried.filter(|_| record.epoch > self.ended) {
            return self.landed(record, version, sent_ms, now_ms);
        }
        if matches!(&self.office, Office::In { epoch, .. } if *epoch != record.epoch) {
            self.end();
        }
        let known = self.sight.as_ref().filter(|sight| sight.version == version);
        let since_ms = known.map_or(now_ms, |sight| sight.since_ms);
        self.sight = Some(Sight { record, version, since_ms });
    }

    /// Takes note that a write landed, which was sent at `sent_ms`.
    pub fn wrote(&mut self, record: v1::LeaderRecord, version: Version, sent_ms: i64, now_ms: i64) {
        self.looked = true;
        self.landed(record, version, sent_ms, now_ms);
    }

    fn landed(&mut self, record: v1::LeaderRecord, version: Version, landed_ms: i64, now_ms: i64) {
        match &mut self.office {
            Office::In { epoch, renewed_ms, standbys, .. } if *epoch == record.epoch => {
                *renewed_ms = landed_ms.max(*renewed_ms);
                // Who is not in the record any more cannot follow: its promise is not needed.
                let forget_ms = self.me.forget_ms;
                standbys.retain(|name, standby| {
                    now_ms - standby.heard_ms <= forget_ms || record.standbys.iter().any(|listed| listed.name == *name)
                });
            }
            // It had yielded, or its mandate was over, before it heard of this.
            _ if record.epoch <= self.ended && !seeded::is(Bug::OfficeTakenUpAgain) => {}
            _ => {
                let standing = |standby: &v1::Standby| {
                    let address = standby.address.clone();
                    (standby.name.clone(), StandingBy { address, promised_from_ms: i64::MIN, heard_ms: now_ms })
                };
                let standbys = record.standbys.iter().map(standing).collect();
                self.office = Office::In { epoch: record.epoch, renewed_ms: landed_ms, sent_ms: landed_ms, standbys };
            }
        }
        self.sight = Some(Sight { record, version, since_ms: now_ms });
    }

    /// Takes note that nobody knows whether a write landed, or that it did not: the record tells.
    pub fn unknown(&mut self) {
        (self.looked, self.answers_since_ms) = (false, None);
    }

    /// The epoch that it leads under and until when it may; `None` if it does not lead.
    pub fn mandate(&self) -> Option<(u64, i64)> {
        let Office::In { epoch, renewed_ms, standbys, .. } = &self.office else { return None };
        let by_record = renewed_ms.saturating_add(self.me.lease_ms);
        let promised = standbys.values().map(|standby| standby.promised_from_ms.saturating_add(self.me.lease_ms));
        let promised = if seeded::is(Bug::AnyPromiseWillDo) { promised.max() } else { promised.min() };
        Some((*epoch, by_record.max(promised.unwrap_or(i64::MAX))))
    }

    /// Ends its office if its mandate is over.
    pub fn end_if_over(&mut self, now_ms: i64) {
        if self.mandate().is_some_and(|(_, until_ms)| now_ms >= until_ms) {
            self.end();
        }
    }

    fn end(&mut self) {
        if let Office::In { epoch, .. } = self.office {
            (self.office, self.ended, self.looked) = (Office::out(), epoch, false);
        }
    }

    /// The record that ends its office, for anybody to follow at once; `None` if it does not lead.
    pub fn resignation(&mut self, now_ms: i64) -> Option<(v1::LeaderRecord, Condition)> {
        let Office::In { epoch, .. } = self.office else { return None };
        let Sight { record, version, .. } = self.sight.as_ref()?;
        let last = self.record(epoch, record.renewals + 1, record.standbys.clone());
        let condition = Condition::Is(version.clone());
        let step = self.write(v1::LeaderRecord { resigned: true, ..last }, condition, now_ms);
        self.end();
        match step {
            Step::Write(record, condition) => Some((record, condition)),
            Step::Read | Step::Wait(_) => None,
        }
    }

    /// Takes, as the leader, what one says that stands by.
    pub fn stands_by(&mut self, request: &v1::StandByRequest, now_ms: i64) -> Result<v1::StandByResponse, Refused> {
        self.end_if_over(now_ms);
        let (lease_ms, name) = (self.me.lease_ms, &request.name);
        let Office::In { epoch, renewed_ms, standbys, .. } = &mut self.office else { return Err(self.refusal()) };
        if *epoch != request.epoch {
            return Err(self.refusal());
        }
        if *name == self.me.name {
            let message = format!("coordinator {name:?} leads at {}: give each its own server.name", self.me.address);
            return Err(Refused::new(Reason::SettingsConflict, message));
        }
        let fresh = now_ms < renewed_ms.saturating_add(lease_ms);
        if request.expired && !fresh {
            // It reaches the store, and this one does not.
            self.end();
            return Ok(v1::StandByResponse { clock_ms: now_ms, yields: true });
        }
        // Nobody is taken in while that could end the mandate: the record cannot be written then anyway.
        if fresh || standbys.contains_key(name) {
            let standing = standbys.entry(name.clone()).or_insert_with(|| StandingBy {
                address: String::new(),
                promised_from_ms: i64::MIN,
                heard_ms: now_ms,
            });
            standing.address.clone_from(&request.address);
            standing.heard_ms = now_ms;
            if request.heard_ms > 0 {
                standing.promised_from_ms = standing.promised_from_ms.max(request.heard_ms);
            }
        }
        Ok(v1::StandByResponse { clock_ms: now_ms, yields: false })
    }

    /// Whom to tell that it stands by, and what; `None` if there is nobody.
    pub fn stand_by(&self, now_ms: i64) -> Option<v1::StandByRequest> {
        let Office::Out { heard: (epoch, heard_ms), .. } = &self.office else { return None };
        let Sight { record, since_ms, .. } = self.sight.as_ref().filter(|sight| !sight.record.resigned)?;
        Some(v1::StandByRequest {
            name: self.me.name.clone(),
            address: self.me.address.clone(),
            epoch: record.epoch,
            heard_ms: if *epoch == record.epoch { *heard_ms } else { 0 },
            expired: now_ms - since_ms >= self.lease_of(record) && self.reaches_the_store(now_ms),
            ..Default::default()
        })
    }

    /// True if the store has answered for a while, and of late: after an outage the leader may renew first.
    fn reaches_the_store(&self, now_ms: i64) -> bool {
        let half_ms = self.me.lease_ms / 2;
        let for_a_while = self.answers_since_ms.is_some_and(|since_ms| now_ms - since_ms >= half_ms);
        for_a_while && now_ms.saturating_sub(self.looked_ms) <= half_ms
    }

    /// Takes the leader's answer, heard at `now_ms`. Behind it, it takes no office for a lease.
    pub fn answered(&mut self, epoch: u64, answer: &v1::StandByResponse, now_ms: i64) {
        let lease_ms = self.sight.as_ref().map_or(self.me.lease_ms, |sight| self.lease_of(&sight.record));
        let Office::Out { promised_until_ms, heard, yielded } = &mut self.office else { return };
        if answer.yields {
            (*promised_until_ms, *yielded) = (i64::MIN, epoch);
        } else if !seeded::is(Bug::PromiseBroken) {
            *promised_until_ms = now_ms.saturating_add(lease_ms);
        }
        *heard = (epoch, answer.clock_ms);
    }

    /// The leader that it knows of, by name and address.
    pub fn leader(&self) -> Option<(&str, &str)> {
        let record = &self.sight.as_ref()?.record;
        Some((&record.name, &record.address))
    }

    /// Who stands by, as the record says.
    pub fn standbys(&self) -> Vec<v1::Standby> {
        self.sight.as_ref().map(|sight| sight.record.standbys.clone()).unwrap_or_default()
    }

    /// Why it does not lead.
    pub fn refusal(&self) -> Refused {
        let Some(record) = self.sight.as_ref().map(|sight| &sight.record) else {
            return Refused::new(Reason::NoCoordinator, "this coordinator does not lead yet: retry in a moment");
        };
        let (name, address) = (&record.name, &record.address);
        let message = if record.resigned || self.may_follow(record) {
            format!("this coordinator stands by: {name:?} at {address} leads, or led last")
        } else {
            format!(
                "this coordinator stands by and may not follow {name:?} at {address}, which has not taken it in: if that \
                 one is gone for good, start this one with coordinator.succeeds={name}"
            )
        };
        Refused::new(Reason::NoCoordinator, message).with("leader", address)
    }
}

/// Who stands by, of those heard of late.
fn listed(standbys: &BTreeMap<String, StandingBy>, now_ms: i64, forget_ms: i64) -> Vec<v1::Standby> {
    let heard = standbys.iter().filter(|(_, standby)| now_ms - standby.heard_ms <= forget_ms);
    heard.map(|(name, standby)| v1::Standby { name: name.clone(), address: standby.address.clone() }).collect()
}

#[cfg(test)]
mod tests;
