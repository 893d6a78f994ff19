//! A place: a state with its codecs, and an address in it.
//!
//! Invariant: sorted sets are addressed by key group and everything else by key; what is typed otherwise is
//! refused before anything is sent.

use forebay_proto::v1::{
    Address, DescribeJobRequest, ErrorReason, Notation, ReadAtCheckpointRequest, ReadAtCheckpointResponse,
    RegisteredState, Route, Routing, StateDescriptor, StateKind, Value, Written, WrittenAddress,
    debug_service_client::DebugServiceClient, state_service_client::StateServiceClient, written,
};
use serde_json::{Value as Json, json};
use tonic::{Response, Status, transport::Channel};

use super::descriptor;
use crate::{
    arguments::{StateName, Within},
    connection::{Connection, route_of, route_of_group},
    failure::Failure,
    text,
};

/// An address, with the state's codecs.
#[derive(Debug)]
pub struct Place<'a> {
    connection: &'a Connection,
    descriptor: StateDescriptor,
    address: Address,
    /// The key's bytes; `None` of a sorted set.
    key: Option<Vec<u8>>,
    typed_key: String,
    typed_namespace: Option<String>,
}

impl<'a> Place<'a> {
    /// Finds the state and reads key and namespace by its codecs.
    pub async fn find(
        connection: &'a Connection,
        state: &StateName,
        key: Option<&str>,
        within: &Within,
    ) -> Result<Self, Failure> {
        let descriptor = registered(connection, state).await?.descriptor.unwrap_or_default();
        check(&descriptor, key, within)?;
        let namespace = within.namespace.as_deref();
        let namespace =
            namespace.map(|typed| text::raw("namespace", &descriptor.namespace_codec, typed)).transpose()?;
        let address = Address {
            job: state.job.clone(),
            operator: state.operator.clone(),
            state: state.name.clone(),
            key: key.map(|typed| text::raw("key", &descriptor.key_codec, typed)).transpose()?,
            namespace,
            key_group: within.key_group,
        };
        let raw = key.map(|typed| text::read("key", &descriptor.key_codec, typed)).transpose()?;
        let (typed_key, typed_namespace) = (key.unwrap_or_default().to_owned(), within.namespace.clone());
        Ok(Self { connection, descriptor, address, key: raw, typed_key, typed_namespace })
    }

    /// The state.
    pub fn descriptor(&self) -> &StateDescriptor {
        &self.descriptor
    }

    /// The state's kind.
    pub fn kind(&self) -> StateKind {
        self.descriptor.kind()
    }

    /// The address as it goes over the wire.
    pub fn address(&self) -> Option<Address> {
        Some(self.address.clone())
    }

    /// Reads a value by the state's codec.
    pub fn value(&self, typed: &str) -> Result<Value, Failure> {
        text::raw("value", &self.descriptor.value_codec, typed)
    }

    /// Reads values by the state's codec.
    pub fn values(&self, typed: &[String]) -> Result<Vec<Value>, Failure> {
        typed.iter().map(|typed| self.value(typed)).collect()
    }

    /// Reads a map key by the state's codec; of a sorted set, an element.
    pub fn map_key(&self, typed: &str) -> Result<Value, Failure> {
        match self.kind() {
            StateKind::SortedSet => text::raw("element", &self.descriptor.value_codec, typed),
            _ => text::raw("map key", &self.descriptor.map_key_codec, typed),
        }
    }

    /// Reads a map key that may not have been given.
    pub fn bound(&self, typed: Option<&str>) -> Result<Option<Value>, Failure> {
        typed.map(|typed| self.map_key(typed)).transpose()
    }

    /// Reads what `min_by` and `max_by` compare.
    pub fn by(&self, typed: &str) -> Result<Value, Failure> {
        text::raw("by", &self.descriptor.map_key_codec, typed)
    }

    /// Reads namespaces by the state's codec.
    pub fn namespaces(&self, typed: &[String]) -> Result<Vec<Value>, Failure> {
        typed.iter().map(|typed| text::raw("namespace", &self.descriptor.namespace_codec, typed)).collect()
    }

    /// Calls the server that holds the key. The call must be safe to repeat.
    pub async fn call<T>(
        &self,
        call: impl AsyncFn(StateServiceClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        let choose = |routing: &_| self.route(routing);
        self.connection.call_shard(&self.address.job, choose, async |state| Ok(call(state).await?.into_inner())).await
    }

    /// Reads what is stored here as of a completed checkpoint.
    pub async fn read_at(
        &self,
        checkpoint: u64,
        map_key: Option<&str>,
        limit: u32,
    ) -> Result<ReadAtCheckpointResponse, Failure> {
        let written = |typed: &str| Some(Written { form: Some(written::Form::Text(typed.to_owned())) });
        let Address { job, operator, state, key_group, .. } = self.address.clone();
        let address = WrittenAddress {
            job: job.clone(),
            operator: operator.clone(),
            state,
            key: self.key.as_ref().and_then(|_| written(&self.typed_key)),
            namespace: self.typed_namespace.as_deref().and_then(written),
            map_key: map_key.and_then(written),
            key_group,
        };
        let notation = Notation::Unspecified.into();
        let request = ReadAtCheckpointRequest { address: Some(address), checkpoint, notation, limit };
        let choose = |routing: &_| self.route(routing);
        let call = async |mut debug: DebugServiceClient<Channel>| {
            Ok(debug.read_at_checkpoint(request.clone()).await?.into_inner())
        };
        self.connection.call_debug(&job, choose, call).await
    }

    fn route(&self, routing: &Routing) -> Result<Route, Failure> {
        let Address { operator, key_group, .. } = &self.address;
        match &self.key {
            Some(key) => route_of(routing, operator, key, *key_group),
            None => route_of_group(routing, operator, key_group.unwrap_or_default()),
        }
    }

    /// Returns the address as it was typed, as the start of a JSON answer.
    pub fn json(&self) -> Json {
        let mut json = json!({
            "job": self.address.job,
            "operator": self.address.operator,
            "state": self.address.state,
            "kind": descriptor::kind(&self.descriptor),
        });
        if self.key.is_some() {
            json["key"] = self.typed_key.as_str().into();
            json["namespace"] = self.typed_namespace.clone().unwrap_or_default().into();
        } else {
            json["key_group"] = self.address.key_group.into();
        }
        json
    }

    /// Returns the address as people say it.
    pub fn name(&self) -> String {
        let state = &self.address.state;
        if self.key.is_none() {
            return format!("{state} of key group {}", self.address.key_group.unwrap_or_default());
        }
        let namespace = self.typed_namespace.as_ref().map(|typed| format!(" in {typed}")).unwrap_or_default();
        format!("{state} of {}{namespace}", self.typed_key)
    }
}

/// Finds a state among those of its job.
pub async fn registered(connection: &Connection, state: &StateName) -> Result<RegisteredState, Failure> {
    let StateName { job, operator, name } = state;
    let request = DescribeJobRequest { job: job.clone() };
    let known = connection.call(async |mut coordinator| coordinator.describe_job(request.clone()).await).await?;
    let spec = known.job.and_then(|job| job.spec).unwrap_or_default();
    if !spec.operators.iter().any(|known| known.name == *operator) {
        let message = format!("job {job:?} has no operator {operator:?}");
        return Err(Failure::refused(ErrorReason::OperatorUnknown, message));
    }
    let mut states = known.states.into_iter().filter(|known| known.operator == *operator);
    let named = |state: &RegisteredState| state.descriptor.as_ref().is_some_and(|known| known.name == *name);
    states.find(named).ok_or_else(|| {
        let message = format!("operator {operator:?} of job {job:?} has no state {name:?}");
        Failure::refused(ErrorReason::StateUnknown, message)
    })
}

/// Refuses an address that is not of the state's kind.
fn check(descriptor: &StateDescriptor, key: Option<&str>, within: &Within) -> Result<(), Failure> {
    let name = &descriptor.name;
    let (reason, message) = match (descriptor.kind(), key) {
        (StateKind::SortedSet, Some(_)) => {
            (ErrorReason::FieldInvalid, format!("state {name:?} is a sorted set: it has no key, name the --key-group"))
        }
        (StateKind::SortedSet, None) if within.namespace.is_some() => {
            (ErrorReason::FieldInvalid, format!("state {name:?} is a sorted set: it has no namespaces"))
        }
        (StateKind::SortedSet, None) if within.key_group.is_none() => {
            (ErrorReason::FieldMissing, format!("state {name:?} is a sorted set: name the --key-group"))
        }
        (StateKind::SortedSet, None) | (_, Some(_)) => return Ok(()),
        (_, None) => {
            let kind = descriptor::kind(descriptor);
            (ErrorReason::FieldMissing, format!("the key is missing: state {name:?} is of kind {kind}"))
        }
    };
    Err(Failure::usage(reason, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(kind: StateKind, key: Option<&str>, namespace: Option<&str>, key_group: Option<u32>) -> Option<String> {
        let descriptor = StateDescriptor { name: "s".into(), kind: kind.into(), ..StateDescriptor::default() };
        let within = Within { namespace: namespace.map(str::to_owned), key_group };
        check(&descriptor, key, &within).err().map(|failure| failure.to_string())
    }

    #[test]
    fn a_sorted_set_is_addressed_by_key_group_and_the_rest_by_key() {
        assert_eq!(refused(StateKind::SortedSet, None, None, Some(0)), None);
        assert_eq!(refused(StateKind::Value, Some("k"), Some("n"), None), None);
        for (wrong, part) in [
            (refused(StateKind::SortedSet, None, None, None), "name the --key-group (FIELD_MISSING)"),
            (refused(StateKind::SortedSet, Some("k"), None, Some(0)), "has no key"),
            (refused(StateKind::SortedSet, None, Some("n"), Some(0)), "has no namespaces"),
            (refused(StateKind::List, None, None, None), "the key is missing"),
        ] {
            assert!(wrong.as_ref().is_some_and(|message| message.contains(part)), "{part}: {wrong:?}");
        }
    }
}
