//! Ranges of map keys, as bytes. Pure.

/// From a map key to another, exclusive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct KeyRange {
    start: Vec<u8>,
    /// `None` is no end.
    end: Option<Vec<u8>>,
}

impl KeyRange {
    /// Leaves out what is below `start`.
    pub(crate) fn from(&mut self, start: Vec<u8>) {
        self.start = std::mem::take(&mut self.start).max(start);
    }

    /// Leaves out `end` and what is above it.
    pub(crate) fn until(&mut self, end: Vec<u8>) {
        self.end = Some(match self.end.take() {
            Some(before) => before.min(end),
            None => end,
        });
    }

    /// Leaves out what does not start with `prefix`.
    pub(crate) fn prefix(&mut self, prefix: Vec<u8>) {
        if let Some(end) = successor(&prefix) {
            self.until(end);
        }
        self.from(prefix);
    }

    /// Goes on behind a map key.
    pub(crate) fn behind(&mut self, map_key: &[u8]) {
        self.start = [map_key, &[0]].concat();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| self.start >= *end)
    }

    pub(crate) fn start(&self) -> &[u8] {
        &self.start
    }

    /// The end as operations say it: no bytes are no end, so ask [`KeyRange::is_empty`] first.
    pub(crate) fn end(&self) -> &[u8] {
        self.end.as_deref().unwrap_or_default()
    }
}

/// Returns the first bytes that are above everything with this prefix; `None` if there are none.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(prefix: &[u8]) -> KeyRange {
        let mut range = KeyRange::default();
        range.prefix(prefix.into());
        range
    }

    #[test]
    fn a_prefix_is_a_range() {
        assert_eq!((prefix(b"ab").start(), prefix(b"ab").end()), (&b"ab"[..], &b"ac"[..]));
        assert_eq!((prefix(b"a\xff").start(), prefix(b"a\xff").end()), (&b"a\xff"[..], &b"b"[..]));
        assert_eq!((prefix(b"\xff").start(), prefix(b"\xff").end()), (&b"\xff"[..], &b""[..]));
        assert_eq!(prefix(b""), KeyRange::default(), "everything starts with nothing");
    }

    #[test]
    fn bounds_narrow_each_other() {
        let mut range = prefix(b"b");
        range.from(b"a".into());
        range.until(b"x".into());
        assert_eq!(range, prefix(b"b"));
        range.from(b"bm".into());
        range.until(b"bq".into());
        assert_eq!((range.start(), range.end()), (&b"bm"[..], &b"bq"[..]));
        assert!(!range.is_empty());
        range.behind(b"bp\xff");
        assert!(!range.is_empty());
        range.behind(b"bq");
        assert!(range.is_empty());
    }

    #[test]
    fn an_end_of_no_bytes_leaves_nothing() {
        let mut range = KeyRange::default();
        range.until(Vec::new());
        assert!(range.is_empty());
        assert!(!KeyRange::default().is_empty());
    }
}
