//! Routing: from a key to its key group, to the shard and the server that holds it.
//!
//! [`Table`] is pure; [`Router`] keeps it fresh for the lanes of one job and generation. It knows no streams.

use std::{collections::HashMap, sync::Mutex};

use forebay_proto::{
    KeyGroup, KeyGroupRange, MaxParallelism,
    reason::Refused,
    v1::{ErrorReason, Partitioner, Route, Routing},
};

use crate::{
    client::Client,
    error::{Error, Result},
    lane::Target,
};

/// No shard: the key group is not in the table.
const NONE: u16 = u16::MAX;

/// Which shard a key belongs to. Shards are numbered in the order of their key groups.
#[derive(Debug, Clone)]
pub struct Table {
    max: MaxParallelism,
    partitioner: Partitioner,
    routes: Vec<Route>,
    /// Key group → index in `routes`.
    shard_of: Vec<u16>,
}

impl Table {
    /// Makes a table of one operator's shards, or of those that a worker holds.
    pub fn new(max_parallelism: u32, partitioner: Partitioner, routes: Vec<Route>) -> Result<Self> {
        let max = check_max(max_parallelism)?;
        let mut routes = routes;
        routes.sort_by_key(|route| route.start);
        let mut shard_of = vec![NONE; max.get() as usize];
        for (index, route) in routes.iter().enumerate() {
            let groups = route.start as usize..route.end as usize;
            for entry in shard_of.get_mut(groups).into_iter().flatten() {
                *entry = index as u16;
            }
        }
        Ok(Self { max, partitioner, routes, shard_of })
    }

    /// Makes the table of an operator.
    pub fn of_operator(routing: &Routing, operator: &str) -> Result<Self> {
        let routes: Vec<_> = routing.routes.iter().filter(|route| route.operator == operator).cloned().collect();
        if routes.is_empty() {
            return Err(no_operator(operator));
        }
        Self::new(routing.max_parallelism, routing.partitioner(), routes)
    }

    /// Returns the shards' routes by their numbers.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Returns the number of key groups.
    pub fn max_parallelism(&self) -> MaxParallelism {
        self.max
    }

    /// Returns the key group of a key; jobs of the explicit partitioner name it.
    #[inline]
    pub fn key_group(&self, key: &[u8], explicit: Option<u32>) -> Result<KeyGroup> {
        key_group_of(self.max, self.partitioner, key, explicit)
    }

    /// Returns the number of the shard that holds a key group.
    #[inline]
    pub fn shard(&self, group: KeyGroup) -> Result<usize> {
        match self.shard_of.get(usize::from(group.get())) {
            Some(&shard) if shard != NONE => Ok(shard.into()),
            _ => {
                let message = format!("key group {group} is not held by this worker (records must reach its holder)");
                Err(Refused::new(ErrorReason::NotLeased, message).into())
            }
        }
    }
}

/// Returns the key group of a key; jobs of the explicit partitioner name it.
pub(crate) fn key_group(max: u32, partitioner: Partitioner, key: &[u8], explicit: Option<u32>) -> Result<KeyGroup> {
    key_group_of(check_max(max)?, partitioner, key, explicit)
}

#[inline]
fn key_group_of(max: MaxParallelism, partitioner: Partitioner, key: &[u8], explicit: Option<u32>) -> Result<KeyGroup> {
    match (partitioner, explicit) {
        (Partitioner::Explicit, None) => {
            let message = "no key group: the job's partitioner is explicit, so that every call names it";
            Err(Error::call(ErrorReason::FieldMissing, message))
        }
        (Partitioner::Explicit, Some(group)) => {
            KeyGroup::new(group, max).map_err(|error| Error::call(ErrorReason::KeyGroupOutOfRange, error.to_string()))
        }
        _ => Ok(KeyGroup::of(key, max)),
    }
}

fn check_max(max: u32) -> Result<MaxParallelism> {
    MaxParallelism::new(max).map_err(|error| Error::call(ErrorReason::FieldInvalid, error.to_string()))
}

pub(crate) fn no_operator(operator: &str) -> Error {
    let message = format!("no operator {operator:?} in the job (forebayctl job describe lists them)");
    Refused::new(ErrorReason::OperatorUnknown, message).into()
}

/// Finds the shards of one job, for as long as one generation lasts.
#[derive(Debug)]
pub(crate) struct Router {
    client: Client,
    job: String,
    job_uid: String,
    /// 0 for shared operators, which a rewind does not concern.
    generation: u64,
    known: Mutex<HashMap<(String, u32, u32), Route>>,
}

impl Router {
    pub(crate) fn new(client: Client, job: &str, job_uid: &str, generation: u64, routes: &[Route]) -> Self {
        let known = Mutex::new(routes.iter().map(|route| (place(route), route.clone())).collect());
        Self { client, job: job.into(), job_uid: job_uid.into(), generation, known }
    }

    /// Returns where the shard is, as far as is known.
    pub(crate) fn known(&self, target: &Target) -> Result<Route, Refused> {
        let key = (target.operator.clone(), target.range.start(), target.range.end());
        let route = self.known.lock().expect("no panic while locked").get(&key).cloned();
        match route {
            Some(route) if !route.address.is_empty() => Ok(route),
            _ => {
                let message = format!("shard {}{} has no server at the moment", target.operator, target.range);
                Err(Refused::new(ErrorReason::ShardRestoring, message))
            }
        }
    }

    /// Asks the coordinator. Its silence changes nothing; a new job or generation ends the lane.
    pub(crate) async fn refresh(&self) -> Result<(), Refused> {
        let routing = match self.client.routing(&self.job).await {
            Ok(routing) => routing,
            Err(Error::Missing(refused)) => return Err(refused),
            Err(_) => return Ok(()),
        };
        if routing.job_uid != self.job_uid {
            let message = format!("job {} was deleted and made anew (uid {})", self.job, routing.job_uid);
            return Err(Refused::new(ErrorReason::JobUnknown, message));
        }
        if self.generation > 0 && routing.generation > self.generation {
            let message = format!("the job is in generation {}, not in {}", routing.generation, self.generation);
            let refused = Refused::new(ErrorReason::Rewound, message);
            return Err(refused.with("generation", routing.generation));
        }
        let mut known = self.known.lock().expect("no panic while locked");
        *known = routing.routes.into_iter().map(|route| (place(&route), route)).collect();
        Ok(())
    }
}

fn place(route: &Route) -> (String, u32, u32) {
    (route.operator.clone(), route.start, route.end)
}

/// Returns the range of a route; a range that is no range is empty.
pub(crate) fn range(route: &Route) -> KeyGroupRange {
    KeyGroupRange::new(route.start, route.end).unwrap_or(MaxParallelism::DEFAULT.all())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(start: u32, end: u32) -> Route {
        Route { operator: "stats".into(), start, end, ..Route::default() }
    }

    #[test]
    fn a_key_finds_the_shard_of_its_key_group() {
        let table = Table::new(128, Partitioner::Murmur3, vec![route(64, 128), route(0, 64)]).unwrap();
        for key in ["a", "b", "N14228"] {
            let group = table.key_group(key.as_bytes(), None).unwrap();
            let shard = table.shard(group).unwrap();
            assert_eq!(shard, usize::from(group.get() >= 64));
        }
        assert_eq!(table.routes()[0].start, 0, "in the order of key groups");
    }

    #[test]
    fn a_key_group_of_another_worker_is_refused() {
        let table = Table::new(4, Partitioner::Explicit, vec![route(0, 2)]).unwrap();
        let group = |group| table.key_group(b"k", group);
        assert_eq!(table.shard(group(Some(1)).unwrap()).unwrap(), 0);
        assert!(matches!(table.shard(group(Some(3)).unwrap()), Err(Error::State(_))));
        assert!(matches!(group(Some(4)), Err(Error::Call(_))));
        assert!(matches!(group(None), Err(Error::Call(_))));
    }
}
