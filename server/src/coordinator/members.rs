//! The workers of a job's groups: who is there, since when, and what it was told. Pure.

use std::collections::BTreeMap;

use forebay_proto::{reason::Refused, v1};
use v1::ErrorReason as Reason;

use super::machine::Connection;

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
    told: Option<v1::Assignment>,
}

impl Member {
    /// True if it is connected and knows what it holds in this generation: only then can it take a barrier.
    pub fn knows(&self, generation: u64) -> bool {
        self.connection.is_some() && self.told.as_ref().is_some_and(|told| told.generation == generation)
    }
}

/// A worker that is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    /// Its connection.
    pub connection: Connection,
    /// Its joining.
    pub join_id: String,
}

/// The workers of all groups of a job.
#[derive(Debug)]
pub struct Members {
    lease_ms: u64,
    members: BTreeMap<(String, String), Member>,
}

impl Members {
    /// No workers yet.
    pub fn new(lease_ms: u64) -> Self {
        Self { lease_ms, members: BTreeMap::new() }
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
                told: None,
            },
        );
    }

    /// Takes up a worker's connection. The connection of an earlier joining of the same id is returned:
    /// that joining is over.
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
        let former = self.members.get(&key);
        let fenced = former.filter(|former| former.join_id != hello.join_id).and_then(|former| former.connection);
        self.members.insert(
            key,
            Member {
                operator: hello.operator.clone(),
                worker: hello.worker.clone(),
                join_id: hello.join_id.clone(),
                connection: Some(connection),
                until_ms: now_ms.saturating_add_unsigned(self.lease_ms),
                told: None,
            },
        );
        Ok(fenced)
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

    /// Takes out the workers whose leases have run out.
    pub fn expire(&mut self, now_ms: i64) {
        self.members.retain(|_, member| member.until_ms > now_ms);
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
        self.members
            .values()
            .filter_map(|member| Some(Connected { connection: member.connection?, join_id: member.join_id.clone() }))
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
