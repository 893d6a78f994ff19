//! Pages of a list: any length in bounded memory.

use bytes::Bytes;
use forebay_proto::{
    packed::AnswerRef,
    v1::{ErrorReason, OpKind},
};

use crate::{
    codec::Stored,
    error::{Error, Result},
    states::{Codecs, Scope},
};

/// Reads a list page by page; made by [`ListState::pages`](crate::ListState::pages) and
/// [`MultimapState::pages`](crate::MultimapState::pages).
///
/// What is appended while it is read comes at its end; a list that is replaced or cleared meanwhile ends where
/// it stood, or goes on with what replaced it.
#[derive(Debug)]
pub struct ListPages<V> {
    scope: Scope,
    key: Vec<u8>,
    /// The entry of a multimap.
    map_key: Option<Bytes>,
    cursor: Cursor,
    elements_max: u32,
    codecs: Codecs<V>,
}

/// Where the next page begins. Pure.
#[derive(Debug, Default, PartialEq, Eq)]
struct Cursor {
    /// Number of the last element read, big endian; empty before the first page.
    behind: Vec<u8>,
    ended: bool,
}

impl Cursor {
    /// Takes note of a page.
    fn read(&mut self, last_number: Option<u64>, more: bool) {
        match last_number {
            Some(number) if more => self.behind = number.to_be_bytes().into(),
            _ => self.ended = true,
        }
    }
}

impl<V: Stored> ListPages<V> {
    pub(crate) fn new(scope: Scope, key: Vec<u8>, map_key: Option<Bytes>, elements_max: u32) -> Result<Self> {
        if elements_max == 0 {
            let message = "a page of 0 elements: 1 to 4294967295 allowed";
            return Err(Error::call(ErrorReason::FieldInvalid, message));
        }
        Ok(Self { scope, key, map_key, cursor: Cursor::default(), elements_max, codecs: Codecs::default() })
    }

    /// Returns the next elements; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Vec<V::Value>>> {
        if self.cursor.ended {
            return Ok(None);
        }
        let at = self.scope.locate(&self.key)?;
        let op = match &self.map_key {
            None => at.op(OpKind::ListGet),
            Some(map_key) => at.op(OpKind::MultimapGet).with_map_key(map_key),
        };
        let op = op.with_value(&self.cursor.behind).with_limit(self.elements_max);
        let decode = |answer: AnswerRef<'_>| {
            let elements = answer.items().map(|item| self.scope.decode::<V>(&item)).collect::<Result<Vec<_>>>()?;
            Ok((elements, answer.version, answer.more))
        };
        let (elements, last_number, more) = match self.map_key {
            None => self.scope.session.read_direct(at, op, |cache, at| cache.read_list(at), decode).await?,
            Some(_) => self.scope.session.read_direct(at, op, |cache, at| cache.read_log(at), decode).await?,
        };
        self.cursor.read(last_number, more);
        Ok(Some(elements).filter(|elements| !elements.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_begins_behind_the_last_element_of_the_one_before() {
        let mut cursor = Cursor::default();
        cursor.read(Some(258), true);
        assert_eq!(cursor, Cursor { behind: vec![0, 0, 0, 0, 0, 0, 1, 2], ended: false });
        cursor.read(Some(300), false);
        assert!(cursor.ended);
    }

    #[test]
    fn a_list_that_is_gone_has_ended() {
        let mut cursor = Cursor { behind: vec![1], ended: false };
        cursor.read(None, false);
        assert!(cursor.ended);
    }
}
