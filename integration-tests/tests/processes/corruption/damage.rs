//! Seven kinds of damage, done to a part of a file.

use std::{fs, ops::Range, path::PathBuf};

/// Kinds of damage, and their names.
pub(super) const KINDS: [(Kind, &str); 7] = [
    (Kind::Flip, "bit flip"),
    (Kind::Truncate, "truncate"),
    (Kind::Zero, "zero page"),
    (Kind::Empty, "empty"),
    (Kind::Missing, "missing"),
    (Kind::Swap, "swapped with a sibling"),
    (Kind::Older, "older version"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Flip,
    Truncate,
    Zero,
    Empty,
    Missing,
    Swap,
    Older,
}

const PAGE: usize = 4096;

/// A part of a file: a file of a shard within an object, or all of one.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) path: PathBuf,
    /// None: all of it.
    pub(super) range: Option<Range<usize>>,
}

impl Part {
    pub(super) fn whole(path: PathBuf) -> Self {
        Self { path, range: None }
    }

    fn range(&self, bytes: &[u8]) -> Range<usize> {
        self.range.clone().unwrap_or(0..bytes.len())
    }

    pub(super) fn read(&self) -> Vec<u8> {
        let bytes = fs::read(&self.path).unwrap();
        bytes[self.range(&bytes)].to_vec()
    }

    fn replace(&self, with: &[u8]) {
        let mut bytes = fs::read(&self.path).unwrap();
        let range = self.range(&bytes);
        bytes.splice(range, with.iter().copied());
        fs::write(&self.path, bytes).unwrap();
    }
}

/// What is damaged.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) part: Part,
    /// Of the same kind, to change places with.
    pub(super) sibling: Part,
    /// What the same was once.
    pub(super) older: Vec<u8>,
    /// A field of a message, rather than an object or a file in one.
    pub(super) field: bool,
    /// Any of these must be in what is said of the damage.
    pub(super) names: Vec<String>,
}

impl Target {
    /// Damages it, and returns what puts it right again.
    pub(super) fn damage(&self, kind: Kind) -> Undo {
        let paths = [&self.part.path, &self.sibling.path];
        let undo = Undo(paths.map(|path| (path.clone(), fs::read(path).unwrap())).into());
        let part = &self.part;
        let mut bytes = part.read();
        let middle = bytes.len() / 2;
        match kind {
            Kind::Flip => {
                bytes[middle] ^= 0x10;
                part.replace(&bytes);
            }
            Kind::Truncate => {
                let whole = fs::read(&part.path).unwrap();
                let end = part.range(&whole).start + middle;
                fs::write(&part.path, &whole[..end]).unwrap();
            }
            Kind::Zero => {
                let start = if bytes.len() > PAGE { (middle / PAGE * PAGE).min(bytes.len() - PAGE) } else { 0 };
                let end = bytes.len().min(start + PAGE);
                bytes[start..end].fill(0);
                part.replace(&bytes);
            }
            Kind::Empty => part.replace(&[]),
            Kind::Missing => match &part.range {
                // Of a field its head goes, too: tag and length.
                Some(range) if self.field => {
                    Part { range: Some(range.start - 2..range.end), ..part.clone() }.replace(&[]);
                }
                _ => fs::remove_file(&part.path).unwrap(),
            },
            Kind::Swap => {
                let of_sibling = self.sibling.read();
                let start = |part: &Part| part.range.as_ref().map_or(0, |range| range.start);
                // In one object the later part first, or the other's place would move.
                if start(&self.sibling) > start(part) {
                    self.sibling.replace(&bytes);
                    part.replace(&of_sibling);
                } else {
                    part.replace(&of_sibling);
                    self.sibling.replace(&bytes);
                }
            }
            Kind::Older => part.replace(&self.older),
        }
        undo
    }
}

/// Files as they were.
#[derive(Debug)]
pub(super) struct Undo(Vec<(PathBuf, Vec<u8>)>);

impl Undo {
    pub(super) fn put_right(self) {
        for (path, bytes) in self.0 {
            fs::write(path, bytes).unwrap();
        }
    }
}
