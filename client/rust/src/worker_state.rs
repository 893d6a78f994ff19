//! Worker state: what a worker hands over with a barrier, and is handed at a restore.

use bytes::Bytes;
use forebay_proto::{
    codec::Codec,
    v1::{Redistribution, WorkerList},
};

use crate::error::{Error, Result};

/// Name of the list of records that an unaligned barrier has overtaken.
pub(crate) const IN_FLIGHT: &str = "forebay.in-flight";

/// Source positions, buffers and the like: named lists of elements (Flink: operator state).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WorkerState {
    lists: Vec<WorkerList>,
}

impl WorkerState {
    /// Makes an empty state.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a state of one list with one element, such as a source position.
    ///
    /// # Panics
    /// If the codec cannot write the value, as JSON may.
    pub fn of<C: Codec<T>, T>(name: &str, value: &T) -> Self {
        Self::new().with::<C, T>(name, value)
    }

    /// Adds a list with one element.
    ///
    /// # Panics
    /// If the codec cannot write the value, as JSON may.
    #[must_use]
    pub fn with<C: Codec<T>, T>(self, name: &str, value: &T) -> Self {
        let bytes = C::to_bytes(value).expect("worker state can be written with its codec");
        self.list(name, Redistribution::Split, [bytes])
    }

    /// Adds a list. At a restore its elements are handed out as `redistribution` says.
    #[must_use]
    pub fn list<B: Into<Bytes>>(
        mut self,
        name: &str,
        redistribution: Redistribution,
        elements: impl IntoIterator<Item = B>,
    ) -> Self {
        let elements = elements.into_iter().map(Into::into).collect();
        self.lists.push(WorkerList { name: name.into(), redistribution: redistribution.into(), elements });
        self
    }

    /// Returns the elements of a list; none if there is no such list.
    pub fn elements(&self, name: &str) -> &[Bytes] {
        self.lists.iter().find(|list| list.name == name).map_or(&[], |list| &list.elements)
    }

    /// Returns the elements of a list.
    pub fn values<C: Codec<T>, T>(&self, name: &str) -> Result<Vec<T>> {
        let decode = |element: &Bytes| {
            C::decode(element).map_err(|source| Error::Codec { state: format!("worker state {name}"), source })
        };
        self.elements(name).iter().map(decode).collect()
    }

    /// Returns the first element of a list; `None` if there is none.
    pub fn value<C: Codec<T>, T>(&self, name: &str) -> Result<Option<T>> {
        Ok(self.values::<C, T>(name)?.into_iter().next())
    }

    /// Adds the records that an unaligned barrier has overtaken. All workers get all of them, for a record may belong to
    /// another worker after a restore.
    pub(crate) fn with_in_flight(self, records: impl IntoIterator<Item = Bytes>) -> Self {
        let mut records = records.into_iter().peekable();
        if records.peek().is_none() {
            return self;
        }
        self.list(IN_FLIGHT, Redistribution::Union, records)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    pub(crate) fn from_lists(lists: Vec<WorkerList>) -> Self {
        Self { lists }
    }

    pub(crate) fn into_lists(self) -> Vec<WorkerList> {
        self.lists
    }
}

#[cfg(test)]
mod tests {
    use forebay_proto::codec::{U64, Utf8};

    use super::*;

    #[test]
    fn what_was_handed_over_is_handed_back() {
        let state = WorkerState::of::<U64, _>("position", &7).with::<Utf8, _>("file", &"a.csv".to_owned());
        let state = WorkerState::from_lists(state.into_lists());
        assert_eq!(state.value::<U64, _>("position").unwrap(), Some(7));
        assert_eq!(state.value::<Utf8, _>("file").unwrap().as_deref(), Some("a.csv"));
        assert_eq!(state.value::<U64, _>("other").unwrap(), None);
        assert!(matches!(state.value::<U64, _>("file"), Err(Error::Codec { .. })));
    }
}
