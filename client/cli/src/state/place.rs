//! A place: a state with its codecs, and an address in it.

use forebay_proto::v1::{
    Address, DescribeJobRequest, ErrorReason, StateDescriptor, Value, state_service_client::StateServiceClient,
};
use serde_json::{Value as Json, json};
use tonic::{Response, Status, transport::Channel};

use crate::{
    arguments::{StateName, Within},
    connection::{Connection, route_of},
    failure::Failure,
    job, text,
};

/// An address, with the state's codecs.
#[derive(Debug)]
pub struct Place<'a> {
    connection: &'a Connection,
    descriptor: StateDescriptor,
    address: Address,
    key: Vec<u8>,
    typed_key: String,
    typed_namespace: Option<String>,
}

impl<'a> Place<'a> {
    /// Finds the state and reads key and namespace by its codecs.
    pub async fn find(
        connection: &'a Connection,
        state: &StateName,
        key: &str,
        within: &Within,
    ) -> Result<Self, Failure> {
        let descriptor = descriptor(connection, state).await?;
        let namespace = within.namespace.as_deref();
        let namespace =
            namespace.map(|typed| text::raw("namespace", &descriptor.namespace_codec, typed)).transpose()?;
        let address = Address {
            job: state.job.clone(),
            operator: state.operator.clone(),
            state: state.name.clone(),
            key: Some(text::raw("key", &descriptor.key_codec, key)?),
            namespace,
            key_group: within.key_group,
        };
        let raw = text::read("key", &descriptor.key_codec, key)?;
        let typed_namespace = within.namespace.clone();
        Ok(Self { connection, descriptor, address, key: raw, typed_key: key.to_owned(), typed_namespace })
    }

    /// The state.
    pub fn descriptor(&self) -> &StateDescriptor {
        &self.descriptor
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

    /// Reads a map key by the state's codec.
    pub fn map_key(&self, typed: &str) -> Result<Value, Failure> {
        text::raw("map key", &self.descriptor.map_key_codec, typed)
    }

    /// Calls the server that holds the key. The call must be safe to repeat.
    pub async fn call<T>(
        &self,
        call: impl AsyncFn(StateServiceClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        let Address { job, operator, key_group, .. } = &self.address;
        let choose = |routing: &_| route_of(routing, operator, &self.key, *key_group);
        self.connection.call_shard(job, choose, async |state| Ok(call(state).await?.into_inner())).await
    }

    /// Returns the address as it was typed, as the start of a JSON answer.
    pub fn json(&self) -> Json {
        json!({
            "job": self.address.job,
            "operator": self.address.operator,
            "state": self.address.state,
            "kind": job::kind(&self.descriptor),
            "key": self.typed_key,
            "namespace": self.typed_namespace.clone().unwrap_or_default(),
        })
    }

    /// Returns the address as people say it.
    pub fn name(&self) -> String {
        let namespace = self.typed_namespace.as_ref().map(|typed| format!(" in {typed}")).unwrap_or_default();
        format!("{} of {}{namespace}", self.address.state, self.typed_key)
    }
}

/// Finds the descriptor of a state.
pub async fn descriptor(connection: &Connection, state: &StateName) -> Result<StateDescriptor, Failure> {
    let StateName { job, operator, name } = state;
    let request = DescribeJobRequest { job: job.clone() };
    let known = connection.call(async |mut coordinator| coordinator.describe_job(request.clone()).await).await?;
    let spec = known.job.and_then(|job| job.spec).unwrap_or_default();
    if !spec.operators.iter().any(|known| known.name == *operator) {
        let message = format!("job {job:?} has no operator {operator:?}");
        return Err(Failure::refused(ErrorReason::OperatorUnknown, message));
    }
    let mut descriptors =
        known.states.into_iter().filter(|known| known.operator == *operator).filter_map(|known| known.descriptor);
    descriptors.find(|descriptor| descriptor.name == *name).ok_or_else(|| {
        let message = format!("operator {operator:?} of job {job:?} has no state {name:?}");
        Failure::refused(ErrorReason::StateUnknown, message)
    })
}
