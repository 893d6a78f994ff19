//! Segments: what changed since the last freeze, and what did not.
//!
//! The rows of a table are cut into runs of about [`BYTES_MAX`], at borders of key groups where there is
//! one near the middle. A segment has an identity that no other content ever has; the first change after a
//! freeze gives it a new one. So a snapshot's files that are there already are known without reading a row.
//!
//! Invariant: the first segment of a table starts before every key, and each ends where the next starts.

use std::{
    fmt,
    ops::Bound,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use imbl::OrdMap;
use uuid::Uuid;

use super::{Key, Row, blocks::Sum};

/// A segment with more is split.
const BYTES_MAX: u64 = 1 << 20;
/// A segment with less looks for a neighbour, unless both together had more than [`JOINED_BYTES_MAX`].
const BYTES_MIN: u64 = 32 << 10;
const JOINED_BYTES_MAX: u64 = BYTES_MAX / 4;
/// What a row takes in a file beside key and row.
const ROW_BYTES: u64 = 9;

/// An identity: of a backend's life in one process, and a number that it gives once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) origin: u128,
    pub(super) number: u64,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}-{}", self.origin, self.number)
    }
}

/// Gives identities, and one to the whole.
pub(super) struct Marks {
    origin: u128,
    next: u64,
    freezes: u64,
    whole: Identity,
    whole_since: u64,
}

impl Marks {
    /// For a backend that starts with the content of `whole`, or with one that has no identity yet.
    pub(super) fn new(whole: Option<Identity>) -> Self {
        let origin = Uuid::new_v4().as_u128();
        let first = Identity { origin, number: 0 };
        Self { origin, next: 1, freezes: 1, whole: whole.unwrap_or(first), whole_since: 0 }
    }

    /// The present content's identity; from here on every change gives a new one.
    pub(super) fn freeze(&mut self) -> Identity {
        self.freezes += 1;
        self.whole
    }

    /// Takes note that something has changed.
    pub(super) fn change(&mut self) {
        if self.whole_since != self.freezes {
            self.whole = self.fresh();
            self.whole_since = self.freezes;
        }
    }

    fn fresh(&mut self) -> Identity {
        self.next += 1;
        Identity { origin: self.origin, number: self.next }
    }
}

/// The file that a segment was written to.
#[derive(Debug, Clone)]
pub(super) struct Written {
    /// Where it was last; it may be gone.
    pub(super) path: PathBuf,
    pub(super) sum: Sum,
    /// Which rows were left out.
    pub(super) given_up_ms: i64,
}

/// Some rows of a table that follow each other.
#[derive(Clone)]
pub(super) struct Segment {
    pub(super) identity: Identity,
    pub(super) bytes: u64,
    since: u64,
    file: Arc<Mutex<Option<Written>>>,
}

impl Segment {
    fn new(marks: &mut Marks, bytes: u64) -> Self {
        marks.change();
        Self { identity: marks.fresh(), bytes, since: marks.freezes, file: Arc::default() }
    }

    /// A segment that was read from a file.
    pub(super) fn read(identity: Identity, bytes: u64, written: Written) -> Self {
        Self { identity, bytes, since: 0, file: Arc::new(Mutex::new(Some(written))) }
    }

    fn change(&mut self, marks: &mut Marks) {
        if self.since != marks.freezes {
            *self = Self::new(marks, self.bytes);
        }
    }

    /// The file that it was written to, if it was.
    pub(super) fn file(&self) -> MutexGuard<'_, Option<Written>> {
        // Set whole or not at all.
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The segments of a table, by their first key.
#[derive(Clone)]
pub(super) struct Segments(OrdMap<Key, Segment>);

impl Segments {
    /// Segments of a table that has none.
    pub(super) fn of(rows: &OrdMap<Key, Arc<Row>>, marks: &mut Marks) -> Self {
        let mut segments = OrdMap::new();
        let mut last = (Key::from(&b""[..]), 0);
        for (key, row) in rows {
            if last.1 >= BYTES_MAX / 2 {
                let (start, bytes) = std::mem::replace(&mut last, (key.clone(), 0));
                segments.insert(start, Segment::new(marks, bytes));
            }
            last.1 += row_bytes(key, row.len());
        }
        segments.insert(last.0, Segment::new(marks, last.1));
        Self(segments)
    }

    /// Segments that were read, in their order.
    pub(super) fn read(segments: Vec<(Key, Segment)>, marks: &mut Marks) -> Self {
        let mut segments: OrdMap<Key, Segment> = segments.into_iter().collect();
        if !segments.contains_key(&b""[..]) {
            let first = Segment { identity: marks.fresh(), bytes: 0, since: 0, file: Arc::default() };
            segments.insert(Key::from(&b""[..]), first);
        }
        Self(segments)
    }

    /// Each with its first key and the first key of the next.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, Option<&Key>, &Segment)> {
        let ends = self.0.keys().skip(1).map(Some).chain([None]);
        self.0.iter().zip(ends).map(|((start, segment), end)| (start, end, segment))
    }

    /// Takes note that a row was written or, with `is` 0, removed.
    pub(super) fn change(&mut self, key: &[u8], was: u64, is: u64, rows: &OrdMap<Key, Arc<Row>>, marks: &mut Marks) {
        let (_, segment) = self.0.get_prev_mut(key).expect("the first segment starts before every key");
        marks.change();
        segment.change(marks);
        segment.bytes = segment.bytes + is - was;
        if segment.bytes > BYTES_MAX {
            self.split(key, rows, marks);
        } else if is == 0 && segment.bytes < BYTES_MIN {
            self.join(key, marks);
        }
    }

    /// Splits the segment of a key near its middle.
    fn split(&mut self, key: &[u8], rows: &OrdMap<Key, Arc<Row>>, marks: &mut Marks) {
        let Some((start, segment)) = self.0.get_prev(key) else { return };
        let (start, total) = (start.clone(), segment.bytes);
        let after = self.0.range::<_, [u8]>((Bound::Excluded(&start[..]), Bound::Unbounded)).next();
        let rows = rows_between(rows, &start, after.map(|(end, _)| end));
        let Some((middle, before)) = middle(rows, total) else { return };
        if let Some(segment) = self.0.get_mut(&start[..]) {
            segment.bytes = before;
        }
        self.0.insert(middle, Segment::new(marks, total - before));
    }

    /// Joins the segment of a key with the one before it, if both are small.
    fn join(&mut self, key: &[u8], marks: &mut Marks) {
        let Some((start, segment)) = self.0.get_prev(key) else { return };
        let (start, bytes) = (start.clone(), segment.bytes);
        let before = (Bound::Unbounded, Bound::Excluded(&start[..]));
        let Some((previous, other)) = self.0.range::<_, [u8]>(before).next_back() else { return };
        if bytes == 0 {
            self.0.remove(&start[..]);
        } else if bytes + other.bytes <= JOINED_BYTES_MAX {
            let previous = previous.clone();
            self.0.remove(&start[..]);
            if let Some(segment) = self.0.get_mut(&previous[..]) {
                segment.change(marks);
                segment.bytes += bytes;
            }
        }
    }
}

/// The rows from a key on, before another.
pub(super) fn rows_between<'a>(
    rows: &'a OrdMap<Key, Arc<Row>>,
    start: &'a Key,
    end: Option<&'a Key>,
) -> impl Iterator<Item = (&'a Key, &'a Arc<Row>)> {
    let end = end.map_or(Bound::Unbounded, |end| Bound::Excluded(&end[..]));
    rows.range::<_, [u8]>((Bound::Included(&start[..]), end))
}

/// Where to cut rows of `total` bytes, and the bytes before: at a border of key groups in the middle half, else
/// in the middle. `None` if there is but one row.
fn middle<'a>(rows: impl Iterator<Item = (&'a Key, &'a Arc<Row>)>, total: u64) -> Option<(Key, u64)> {
    let (mut before, mut group) = (0, None);
    let (mut border, mut center, mut last) = (None::<(&Key, u64)>, None, None);
    for (key, row) in rows {
        let this = key.get(..2);
        if before > 0 {
            last = Some((key, before));
            if group != Some(this) && before >= total / 4 && before <= total / 4 * 3 {
                let distance = |at: u64| at.abs_diff(total / 2);
                border = border.filter(|(_, at)| distance(*at) <= distance(before)).or(last);
            }
            if before >= total / 2 {
                center = center.or(last);
            }
            if before > total / 4 * 3 {
                break;
            }
        }
        group = Some(this);
        before += row_bytes(key, row.len());
    }
    border.or(center).or(last).map(|(key, before)| (key.clone(), before))
}

/// What a row takes in a file.
pub(super) fn row_bytes(key: &[u8], row: usize) -> u64 {
    (key.len() + row) as u64 + ROW_BYTES
}
