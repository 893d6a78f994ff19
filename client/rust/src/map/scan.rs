//! Scans of a map: a range of its entries in the order of the map keys, page by page.

use bytes::Bytes;
use forebay_proto::v1::{ErrorReason, OpKind};

use super::range::KeyRange;
use crate::{
    codec::{Stored, WriteAs},
    error::{Error, Result},
    states::{Codecs, Scope},
};

/// Entries of a page, if nothing else is said.
const PAGE_ENTRIES: u32 = 1_000;

/// Reads a range of a map; made by [`MapState::scan`](crate::MapState::scan).
///
/// Every page sees the writes before it, unsent ones too, and is not kept in the cache. Map keys come in the
/// order of their bytes, which is that of the values for `utf8`, `i64`, `u64` and `f64`.
#[derive(Debug)]
pub struct MapScan<M, V> {
    scope: Scope,
    key: Vec<u8>,
    range: KeyRange,
    ended: bool,
    entries_max: u32,
    codecs: Codecs<(M, V)>,
}

impl<M: Stored, V: Stored> MapScan<M, V> {
    pub(super) fn new(scope: Scope, key: Vec<u8>) -> Self {
        let range = KeyRange::default();
        Self { scope, key, range, ended: false, entries_max: PAGE_ENTRIES, codecs: Codecs::default() }
    }

    /// Leaves out map keys whose bytes do not start with those of `prefix`.
    pub fn prefix(mut self, prefix: &(impl WriteAs<M> + ?Sized)) -> Result<Self> {
        self.range.prefix(self.scope.encode(prefix)?);
        Ok(self)
    }

    /// Leaves out map keys below `start`.
    pub fn from(mut self, start: &(impl WriteAs<M> + ?Sized)) -> Result<Self> {
        self.range.from(self.scope.encode(start)?);
        Ok(self)
    }

    /// Leaves out `end` and map keys above it.
    pub fn until(mut self, end: &(impl WriteAs<M> + ?Sized)) -> Result<Self> {
        self.range.until(self.scope.encode(end)?);
        Ok(self)
    }

    /// Reads at most so many entries at a time; 1,000 if not said.
    pub fn page(mut self, entries_max: u32) -> Result<Self> {
        if entries_max == 0 {
            let message = "a page of 0 entries: 1 to 4294967295 allowed";
            return Err(Error::call(ErrorReason::FieldInvalid, message));
        }
        self.entries_max = entries_max;
        Ok(self)
    }

    /// Returns the next entries; `None` after the last.
    pub async fn next_entries(&mut self) -> Result<Option<Vec<(M::Value, V::Value)>>> {
        let page = self.next(OpKind::MapEntries).await?;
        let decode = |pair: &[Bytes]| Ok((self.scope.decode::<M>(&pair[0])?, self.scope.decode::<V>(&pair[1])?));
        page.map(|items| items.chunks_exact(2).map(decode).collect()).transpose()
    }

    /// Returns the next map keys, without reading the values; `None` after the last.
    pub async fn next_keys(&mut self) -> Result<Option<Vec<M::Value>>> {
        let page = self.next(OpKind::MapKeys).await?;
        page.map(|items| items.iter().map(|map_key| self.scope.decode::<M>(map_key)).collect()).transpose()
    }

    /// Returns all entries that are left.
    pub async fn entries(mut self) -> Result<Vec<(M::Value, V::Value)>> {
        let mut all = Vec::new();
        while let Some(page) = self.next_entries().await? {
            all.extend(page);
        }
        Ok(all)
    }

    /// Returns all map keys that are left.
    pub async fn keys(mut self) -> Result<Vec<M::Value>> {
        let mut all = Vec::new();
        while let Some(page) = self.next_keys().await? {
            all.extend(page);
        }
        Ok(all)
    }

    /// Returns all values that are left, by map key.
    pub async fn values(self) -> Result<Vec<V::Value>> {
        Ok(self.entries().await?.into_iter().map(|(_, value)| value).collect())
    }

    /// Reads a page: map keys, or map keys and values in turn.
    async fn next(&mut self, kind: OpKind) -> Result<Option<Vec<Bytes>>> {
        if self.ended || self.range.is_empty() {
            return Ok(None);
        }
        let at = self.scope.locate(&self.key)?;
        let op = at.op(kind).with_map_key(self.range.start()).with_value(self.range.end());
        let op = op.with_limit(self.entries_max);
        let page = |answer: forebay_proto::packed::AnswerRef<'_>| Ok((answer.items().collect::<Vec<_>>(), answer.more));
        let (items, more) = self.scope.session.read_direct(at, op, |cache, at| cache.read_map(at), page).await?;
        let last = if kind == OpKind::MapEntries { items.iter().nth_back(1) } else { items.last() };
        match last {
            Some(last) if more => self.range.behind(last),
            _ => self.ended = true,
        }
        Ok(Some(items).filter(|items| !items.is_empty()))
    }
}
