//! The workers of a job's groups: who is there, since when, and what it was told. Pure.

use std::collections::{BTreeMap, VecDeque};

use forebay_proto::{reason::Refused, v1};
use v1::ErrorReason as Reason;

use super::{machine::Connection, wanted};

/// Joinings that are over and remembered: enough for those that were paused and do not know it yet.
const OVER_MAX: usize = 256;

/// A worker of a group.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Its operator.
    pub operator: String,
    /// Its id.
    pub worker: String,
    /// Its joining.
    pub join_id: String,
    /// Its connection; `None` while it is away.
    pub connection: Option<Connection>,
    /// When its lease runs out, monotonic.
    pub until_ms: i64,
    /// True if it is to leave at the next stop, and gets nothing any more.
    pub leaving: bool,
    told: Option<v1::Assignment>,
}

impl Member {
    /// True if it is connected and was told what a head grants it: only then can it take a barrier.
    pub fn knows(&self, head: &v1::JobHead) -> bool {
        let Some(told) = self.told.as_ref().filter(|told| told.generation == head.generation) else { return false };
        let is = |entry: &v1::ShardEntry| {
            told.shards.iter().any(|shard| {
                let range = shard.route.as_ref().map(|route| (route.start, route.end));
                range == Some((entry.start, entry.end)) && shard.writer_epoch == entry.writer_epoch
            })
        };
        self.connection.is_some() && wanted::granted(head, &self.operator, &self.join_id).all(is)
    }

    /// True if it believes that it holds something.
    pub fn holds(&self) -> bool {
        self.told.as_ref().is_some_and(|told| !told.shards.is_empty())
    }
}

/// A worker that is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    /// Its connection.
    pub connection: Connection,
    /// Its joining.
    pub join_id: String,
    /// Its operator.
    pub operator: String,
}

/// The workers of all groups of a job.
#[derive(Debug)]
pub struct Members {
    lease_ms: u64,
    members: BTreeMap<(String, String), Member>,
    /// Joinings whose place another one took or whose lease ran out, oldest first.
    over: VecDeque<Member>,
}

impl Members {
    /// No workers yet.
    pub fn new(lease_ms: u64) -> Self {
        Self { lease_ms, members: BTreeMap::new(), over: VecDeque::new() }
    }

    /// Expects a worker that holds a grant to come back: its lease counts from now.
    pub fn expect(&mut self, operator: &str, worker: &str, join_id: &str, now_ms: i64) {
        let key = (operator.to_owned(), worker.to_owned());
        self.members.insert(
            key,
            Member {
                operator: operator.to_owned(),
                worker: worker.to_owned(),
                join_id: join_id.to_owned(),
                connection: None,
                until_ms: now_ms.saturating_add_unsigned(self.lease_ms),
                leaving: false,
                told: None,
            },
        );
    }

    /// Takes up a worker's connection. The connection of an earlier joining of the same id is returned:
    /// that joining is over, and refused if it comes back.
    pub fn join(
        &mut self,
        connection: Connection,
        hello: &v1::JoinHello,
        now_ms: i64,
    ) -> Result<Option<Connection>, Refused> {
        let required = |what: &str| Refused::new(Reason::FieldMissing, format!("the hello has no {what}"));
        if hello.worker.is_empty() {
            return Err(required("worker id"));
        }
        if hello.join_id.is_empty() {
            return Err(required("join id"));
        }
        let key = (hello.operator.clone(), hello.worker.clone());
        let is_this = |member: &Member| {
            (&member.operator, &member.worker, &member.join_id) == (&hello.operator, &hello.worker, &hello.join_id)
        };
        let former = self.members.get(&key).filter(|former| !is_this(former)).cloned();
        if former.is_some() && self.over.iter().any(is_this) {
            return Err(fenced(&hello.worker));
        }
        let connection_before = former.as_ref().and_then(|former| former.connection);
        self.end(former);
        self.members.insert(
            key,
            Member {
                operator: hello.operator.clone(),
                worker: hello.worker.clone(),
                join_id: hello.join_id.clone(),
                connection: Some(connection),
                until_ms: now_ms.saturating_add_unsigned(self.lease_ms),
                leaving: false,
                told: None,
            },
        );
        Ok(connection_before)
    }

    /// Returns why a connection is nobody's: its place was taken, or its lease has run out.
    pub fn why_over(&self, connection: Connection) -> Refused {
        let over = self.over.iter().find(|member| member.connection == Some(connection));
        match over.filter(|over| self.get(&over.operator, &over.worker).is_some()) {
            Some(over) => fenced(&over.worker),
            None => Refused::new(Reason::LeaseExpired, "the worker's lease has run out: join again"),
        }
    }

    fn end(&mut self, members: impl IntoIterator<Item = Member>) {
        self.over.extend(members);
        self.over.drain(..self.over.len().saturating_sub(OVER_MAX));
    }

    /// Renews a worker's lease.
    pub fn heartbeat(&mut self, connection: Connection, now_ms: i64) {
        let until_ms = now_ms.saturating_add_unsigned(self.lease_ms);
        if let Some(member) = self.by_connection(connection) {
            member.until_ms = until_ms;
        }
    }

    /// Takes note of a broken connection; the worker may come back until its lease has run out.
    pub fn disconnected(&mut self, connection: Connection) {
        if let Some(member) = self.by_connection(connection) {
            member.connection = None;
        }
    }

    /// Takes a worker out for good.
    pub fn leave(&mut self, operator: &str, worker: &str) {
        self.members.remove(&(operator.to_owned(), worker.to_owned()));
    }

    /// Lets a worker leave at the next stop.
    pub fn leave_at_stop(&mut self, operator: &str, worker: &str) {
        if let Some(member) = self.members.get_mut(&(operator.to_owned(), worker.to_owned())) {
            member.leaving = true;
        }
    }

    /// Lets those stay that were to leave: they have to do again what they did.
    pub fn stay(&mut self) {
        self.members.values_mut().for_each(|member| member.leaving = false);
    }

    /// Takes the workers out that leave at the stop which is over, and returns their connections.
    pub fn stopped(&mut self) -> Vec<Connection> {
        let left = self.members.extract_if(.., |_, member| member.leaving);
        left.filter_map(|(_, member)| member.connection).collect()
    }

    /// Takes out the workers whose leases have run out.
    pub fn expire(&mut self, now_ms: i64) {
        let expired: Vec<_> = self.members.extract_if(.., |_, member| member.until_ms <= now_ms).collect();
        self.end(expired.into_iter().map(|(_, member)| member));
    }

    /// The operators that have workers.
    pub fn operators(&self) -> Vec<String> {
        let mut operators: Vec<_> = self.members.keys().map(|(operator, _)| operator.clone()).collect();
        operators.dedup();
        operators
    }

    /// The workers of an operator, in the order of their indexes.
    pub fn group<'a>(&'a self, operator: &'a str) -> impl Iterator<Item = &'a Member> + 'a {
        self.members.values().filter(move |member| member.operator == operator)
    }

    /// All workers.
    pub fn all(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// The workers that are connected.
    pub fn connected(&self) -> impl Iterator<Item = Connected> + '_ {
        self.members.values().filter_map(|member| {
            let (join_id, operator) = (member.join_id.clone(), member.operator.clone());
            Some(Connected { connection: member.connection?, join_id, operator })
        })
    }

    /// A worker.
    pub fn get(&self, operator: &str, worker: &str) -> Option<&Member> {
        self.members.get(&(operator.to_owned(), worker.to_owned()))
    }

    /// The operator and id of a connection.
    pub fn of(&self, connection: Connection) -> Option<(String, String)> {
        let member = self.members.values().find(|member| member.connection == Some(connection))?;
        Some((member.operator.clone(), member.worker.clone()))
    }

    /// Forgets what workers were told, so that they are told again.
    pub fn forget_told(&mut self) {
        self.members.values_mut().for_each(|member| member.told = None);
    }

    /// Records that a worker is told its assignment; false if it was told just that before.
    pub fn told(&mut self, operator: &str, worker: &str, assignment: &v1::Assignment) -> bool {
        let Some(member) = self.members.get_mut(&(operator.to_owned(), worker.to_owned())) else { return false };
        if member.told.as_ref() == Some(assignment) {
            return false;
        }
        member.told = Some(assignment.clone());
        true
    }

    fn by_connection(&mut self, connection: Connection) -> Option<&mut Member> {
        self.members.values_mut().find(|member| member.connection == Some(connection))
    }
}

/// Refuses a joining whose place a later one of the same id has taken.
pub fn fenced(worker: &str) -> Refused {
    Refused::new(Reason::WriterFenced, format!("worker {worker:?} joined again elsewhere: this joining is over"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(worker: &str, join_id: &str) -> v1::JoinHello {
        v1::JoinHello { operator: "op".into(), worker: worker.into(), join_id: join_id.into(), ..Default::default() }
    }

    #[test]
    fn a_later_joining_of_the_same_worker_ends_the_earlier_one() {
        let mut members = Members::new(10);
        assert_eq!(members.join(Connection(1), &hello("w", "a"), 0), Ok(None));
        assert_eq!(members.join(Connection(2), &hello("w", "a"), 0), Ok(None), "a reconnect is the same joining");
        assert_eq!(members.join(Connection(3), &hello("w", "b"), 0), Ok(Some(Connection(2))));
        assert_eq!(members.of(Connection(2)), None);
        let refused = members.join(Connection(4), &hello("w", "a"), 0).unwrap_err();
        assert_eq!(refused.reason, Reason::WriterFenced, "it does not take its place back");
    }

    #[test]
    fn a_worker_that_wakes_after_its_lease_is_fenced_only_if_it_was_replaced() {
        let mut members = Members::new(10);
        members.join(Connection(1), &hello("w", "a"), 0).unwrap();
        members.expire(10);
        assert_eq!(members.why_over(Connection(1)).reason, Reason::LeaseExpired);
        members.join(Connection(2), &hello("w", "b"), 10).unwrap();
        assert_eq!(members.why_over(Connection(1)).reason, Reason::WriterFenced);
        assert_eq!(members.join(Connection(3), &hello("w", "a"), 11).unwrap_err().reason, Reason::WriterFenced);
        members.expire(20);
        assert_eq!(members.join(Connection(3), &hello("w", "a"), 20), Ok(None), "nobody has its place any more");
    }

    #[test]
    fn a_worker_may_come_back_until_its_lease_has_run_out() {
        let mut members = Members::new(10);
        members.join(Connection(1), &hello("w", "a"), 0).unwrap();
        members.heartbeat(Connection(1), 5);
        members.disconnected(Connection(1));
        members.expire(14);
        assert!(members.get("op", "w").is_some());
        members.expire(15);
        assert!(members.get("op", "w").is_none());
    }

    #[test]
    fn a_hello_without_ids_is_refused() {
        let mut members = Members::new(10);
        assert!(members.join(Connection(1), &hello("", "a"), 0).is_err());
        assert!(members.join(Connection(1), &hello("w", ""), 0).is_err());
    }
}
