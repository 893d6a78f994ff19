//! What any state may be declared with: a TTL, and the user's schema.

use forebay_proto::v1::StateDescriptor;

use crate::ttl::Ttl;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) ttl: Option<Ttl>,
    pub(crate) schema: &'static [u8],
    pub(crate) schema_version: u32,
}

impl Options {
    pub(crate) const NONE: Self = Self { ttl: None, schema: &[], schema_version: 0 };

    /// Completes a descriptor.
    pub(crate) fn describe(&self, descriptor: StateDescriptor) -> StateDescriptor {
        StateDescriptor {
            ttl: self.ttl.map(|ttl| ttl.config()),
            schema: self.schema.into(),
            schema_version: self.schema_version,
            ..descriptor
        }
    }
}

/// The builder methods of a declaration that has `options`.
macro_rules! declares_options {
    () => {
        /// Lets entries live for a time (Flink: StateDescriptor.enableTimeToLive).
        #[must_use]
        pub const fn ttl(self, ttl: crate::Ttl) -> Self {
            Self { options: crate::options::Options { ttl: Some(ttl), ..self.options }, ..self }
        }

        /// Registers a schema of the values, opaque to Forebay, with a version that the user counts.
        #[must_use]
        pub const fn schema(self, schema: &'static [u8], version: u32) -> Self {
            Self { options: crate::options::Options { schema, schema_version: version, ..self.options }, ..self }
        }
    };
}

/// The views of a handle that has a `scope`: of a namespace, of a key group, with a deadline; and what it is of.
macro_rules! has_views {
    () => {
        /// Returns a view of a namespace.
        pub fn namespace(&self, namespace: &(impl crate::codec::WriteAs<N> + ?Sized)) -> crate::Result<Self> {
            Ok(Self { scope: self.scope.in_namespace(namespace)?, ..self.clone() })
        }

        /// Returns a view of a key group, for jobs whose partitioner is explicit.
        pub fn key_group(&self, key_group: u32) -> Self {
            Self { scope: self.scope.in_key_group(key_group), ..self.clone() }
        }

        /// Returns a view whose writes have this deadline, milliseconds of the state's clock, instead of the one
        /// that its TTL gives. Of states with a TTL only.
        pub fn expiring_at(&self, deadline_ms: i64) -> crate::Result<Self> {
            Ok(Self { scope: self.scope.expiring_at(deadline_ms)?, ..self.clone() })
        }

        /// Returns the state as it was registered when the handle was opened: its TTL, its schema and the
        /// schema's version, which another program may have changed.
        pub fn registered(&self) -> &crate::v1::RegisteredState {
            &self.scope.state
        }
    };
}

pub(crate) use {declares_options, has_views};
