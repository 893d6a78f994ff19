//! Source positions that go with what is flushed (`recovery: shard`): what each shard held when it was leased, how far
//! the worker is, and what each shard has been told. Pure.

use std::collections::HashMap;

use bytes::Bytes;

/// The sources of a session.
#[derive(Debug, Default)]
pub struct Positions {
    /// Per shard, by source: what it held when it was leased.
    found: Vec<HashMap<String, Bytes>>,
    sources: Vec<Source>,
    changes: u64,
    /// Per shard: the last change that was sent.
    sent: Vec<u64>,
}

#[derive(Debug)]
struct Source {
    name: String,
    /// The only shard that its records touch; `None` if they touch any.
    shard: Option<usize>,
    position: Option<Bytes>,
    changed: u64,
    /// Per shard: true while it holds more than has been read again.
    ahead: Vec<bool>,
}

impl Positions {
    /// What the shards held when they were leased.
    pub fn new(found: Vec<HashMap<String, Bytes>>) -> Self {
        let sent = vec![0; found.len()];
        Self { found, sources: Vec::new(), changes: 0, sent }
    }

    /// Number of a source, which is made known; `None` if it is known with another shard.
    pub fn source(&mut self, name: &str, shard: Option<usize>) -> Option<usize> {
        if let Some(known) = self.sources.iter().position(|source| source.name == name) {
            return (self.sources[known].shard == shard).then_some(known);
        }
        let holds = |found: &HashMap<String, Bytes>| found.contains_key(name);
        let ahead = self.found.iter().map(holds).collect();
        self.sources.push(Source { name: name.to_owned(), shard, position: None, changed: 0, ahead });
        Some(self.sources.len() - 1)
    }

    /// Per shard that a source may touch: its number, and what it held of the source when it was leased.
    pub fn found(&self, source: usize) -> impl Iterator<Item = (usize, Option<&Bytes>)> {
        let source = &self.sources[source];
        let touched = self.found.iter().enumerate().filter(|(shard, _)| source.touches(*shard));
        touched.map(|(shard, found)| (shard, found.get(&source.name)))
    }

    /// Moves a source. `reached` tells of a shard that held something whether that is no more than this position.
    pub fn advance(&mut self, source: usize, position: &[u8], reached: impl Fn(usize) -> bool) {
        let source = &mut self.sources[source];
        for (shard, ahead) in source.ahead.iter_mut().enumerate().filter(|(_, ahead)| **ahead) {
            *ahead = !reached(shard);
        }
        self.changes += 1;
        source.changed = self.changes;
        source.position = Some(Bytes::copy_from_slice(position));
    }

    /// True if no source that may touch a shard has moved yet.
    pub fn is_unmoved(&self, shard: usize) -> bool {
        !self.sources.iter().any(|source| source.changed > 0 && source.touches(shard))
    }

    /// True if a shard has yet to be told of some move.
    pub fn is_due(&self, shard: usize) -> bool {
        self.sources.iter().any(|source| source.is_due(shard, self.sent[shard]))
    }

    /// What a shard is to be told, once. A shard that holds more of a source than has been read again keeps that.
    pub fn take(&mut self, shard: usize) -> HashMap<String, Bytes> {
        let since = std::mem::replace(&mut self.sent[shard], self.changes);
        let due = self.sources.iter().filter(|source| source.is_due(shard, since));
        due.filter_map(|source| Some((source.name.clone(), source.position.clone()?))).collect()
    }
}

impl Source {
    fn is_due(&self, shard: usize, since: u64) -> bool {
        self.changed > since && !self.ahead[shard] && self.touches(shard)
    }

    fn touches(&self, shard: usize) -> bool {
        self.shard.is_none_or(|only| only == shard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(of: &[(&str, u8)]) -> HashMap<String, Bytes> {
        of.iter().map(|(source, position)| ((*source).to_owned(), Bytes::from(vec![*position]))).collect()
    }

    #[test]
    fn each_shard_is_told_of_moves_once() {
        let mut positions = Positions::new(vec![HashMap::new(), HashMap::new()]);
        let (a, b) = (positions.source("a", None).unwrap(), positions.source("b", Some(1)).unwrap());
        assert!(positions.is_unmoved(0) && positions.is_unmoved(1) && !positions.is_due(0));
        positions.advance(b, &[6], |_| true);
        assert!(positions.is_unmoved(0) && !positions.is_unmoved(1), "the other one is for shard 1 alone");
        positions.advance(a, &[1], |_| true);
        positions.advance(b, &[7], |_| true);
        assert_eq!(positions.take(0), found(&[("a", 1)]));
        assert_eq!(positions.take(1), found(&[("a", 1), ("b", 7)]));
        positions.advance(b, &[8], |_| true);
        assert_eq!((positions.is_due(0), positions.is_due(1)), (false, true));
        assert_eq!((positions.take(0), positions.take(1)), (HashMap::new(), found(&[("b", 8)])));
    }

    #[test]
    fn a_shard_that_holds_more_than_was_read_again_keeps_its_position() {
        let mut positions = Positions::new(vec![found(&[("a", 9)]), found(&[("a", 4)]), HashMap::new()]);
        let a = positions.source("a", None).unwrap();
        let held = [9, 4, 0];
        let mut at = |position: u8, shard| {
            positions.advance(a, &[position], |shard| held[shard] <= position);
            positions.take(shard)
        };
        assert_eq!(at(3, 2), found(&[("a", 3)]), "it held nothing");
        assert_eq!(at(3, 1), HashMap::new());
        assert_eq!(at(5, 1), found(&[("a", 5)]));
        assert_eq!(at(8, 0), HashMap::new());
        assert_eq!(at(9, 0), found(&[("a", 9)]));
    }

    #[test]
    fn a_move_that_was_held_back_is_told_once_the_shard_has_been_reached() {
        let mut positions = Positions::new(vec![found(&[("a", 9)])]);
        let a = positions.source("a", None).unwrap();
        positions.advance(a, &[5], |_| false);
        assert!(!positions.is_due(0));
        assert_eq!(positions.take(0), HashMap::new());
        positions.advance(a, &[10], |_| true);
        assert_eq!(positions.take(0), found(&[("a", 10)]));
    }

    #[test]
    fn a_source_has_one_reach() {
        let mut positions = Positions::new(vec![found(&[("a", 1)]), HashMap::new()]);
        let a = positions.source("a", Some(0)).unwrap();
        assert_eq!(positions.source("a", Some(0)), Some(a));
        assert_eq!(positions.source("a", None), None);
        assert_eq!(positions.found(a).collect::<Vec<_>>(), [(0, Some(&Bytes::from(vec![1])))]);
    }
}
